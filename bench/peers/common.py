"""What the scripts of all peers share: their arguments, how steps are timed, and the JSON line they print."""
import argparse
import json
import resource
import statistics
import time

WARM_UP = 2


def parse(description, **options):
    """Arguments by name, with their defaults; whole numbers are read as such. `model` is always there."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=options.pop("needs_model", True))
    parser.add_argument("--threads", type=int, default=2)
    for name, default in options.items():
        name = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=type(default), default=default)
    return parser.parse_args()


def seconds(step, count, warm_up=WARM_UP):
    """Runs `step` count times; the seconds of each after the warm-up."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times[warm_up:]


def report(unit, amount, times):
    """Prints what was done a second in each step, and the median."""
    runs = [amount / t for t in times]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"value": statistics.median(runs), "unit": unit, "runs": runs, "peak_bytes": peak}), flush=True)


def laps_callback():
    """A callback for Hugging Face's trainers, whose `laps` are the time and the tokens read so far at the end of each step."""
    from transformers import TrainerCallback

    class Laps(TrainerCallback):
        def __init__(self):
            self.laps = []

        def on_step_end(self, args, state, control, **_):
            self.laps.append((time.perf_counter(), state.num_input_tokens_seen))

    return Laps()
