"""Runs a training stage of hone as a user does, from a configuration file, and prints one JSON line.

usage: hone_stage.py sft|pretrain|preference|ppo HONE --model DIR --data FILE [options]

Without options that say otherwise: tokens a second of the run's timings.jsonl (all tokens read; in PPO those of responses), its first two
steps left out; of preference, which is DPO, the median step's pairs a second.
--batch, --length, --steps, --threads, --precision, --shards   as in the configuration (PPO: episodes, most tokens of a response, updates)
--rank R        trains a LoRA adapter on q and v
--reward DIR    PPO's reward model, which is asked of responses without an end, too: random models seldom end one
--join N        joins so many conversations into one; those that become longer than --length are left out by the stage
--memory        runs without measuring speed: the most memory that the process held
--plan PART     starts nothing: the bytes that `hone plan` counts, PART `trained` for gradients and moments, `peak` for the whole
--losses        the loss of every step on the texts in their order, the batch's first texts first; constant learning rate
"""
import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import tempfile

WARM_UP = 2

TRAIN = """[model]
path = {model}
[train]
precision = "{precision}"
shards = {shards}
learning_rate = {rate}
checkpoint_every = {no_checkpoint}
{more}[eval]
every = 0
"""
DATA = """[data]
train = {data}
held_out = 0.0
max_length = {length}
"""
PREFERENCE = """[preference]
method = "dpo"
beta = 0.1
"""
PPO = """[reward]
path = {reward}
[data]
prompts = {data}
held_out = 0.0
max_prompt_length = 128
[ppo]
updates = {steps}
rollout_batch = {batch}
minibatch = {batch}
ppo_epochs = 1
max_new_tokens = {length}
missing_eos = "keep"
"""


def quoted(path):
    return json.dumps(str(pathlib.Path(path).resolve()))


def configuration(a, folder):
    more = "" if a.stage == "ppo" else f"steps = {a.steps}\nbatch = {a.batch}\n"
    data = f"[{quoted(a.data)}]"
    if a.losses:
        more += 'schedule = "constant"\nwarmup_steps = 0\n'
        data = json.dumps(one_by_one(a, folder))
    elif a.join > 1:
        data = f"[{quoted(joined(a, folder))}]"
    elif a.stage == "preference":
        data = f"[{quoted(first(a, folder))}]"
    text = TRAIN.format(model=quoted(a.model), precision=a.precision, shards=a.shards, rate=a.rate, no_checkpoint=a.steps + 1, more=more)
    if a.stage != "pretrain":
        text += "samples = 0\n"
    if a.stage == "ppo":
        text += PPO.format(reward=quoted(a.reward), data=data, steps=a.steps, batch=a.batch, length=a.length)
    else:
        text += DATA.format(data=data, length=a.length)
    if a.stage == "preference":
        text += PREFERENCE
    if a.losses:
        text += "cross_document = true\n"
    if a.rank:
        text += f'[lora]\nrank = {a.rank}\nalpha = {2 * a.rank}\ntargets = ["q", "v"]\n'
    return text


def lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def one_by_one(a, folder):
    """A source a text. Sources of one window each and of equal weight are drawn in their order, each once before any comes again."""
    paths = []
    for number, row in enumerate(lines(a.data)[:a.steps * a.batch]):
        path = folder / f"text-{number:04}.jsonl"
        path.write_text(json.dumps(row) + "\n")
        paths.append(str(path))
    if len(paths) < a.steps * a.batch:
        raise SystemExit(f"{a.data} has {len(paths)} texts; {a.steps} steps of {a.batch} take {a.steps * a.batch}")
    return paths


def first(a, folder):
    """As many rows as the steps take, and no more: TRL's side reads the same."""
    path, rows = folder / "first.jsonl", lines(a.data)[:a.steps * a.batch]
    if len(rows) < a.steps * a.batch:
        raise SystemExit(f"{a.data} has {len(rows)} rows; {a.steps} steps of {a.batch} take {a.steps * a.batch}")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def joined(a, folder):
    path, rows = folder / "joined.jsonl", lines(a.data)
    groups = [rows[i:i + a.join] for i in range(0, len(rows) - a.join + 1, a.join)]
    together = [{"messages": [message for row in group for message in row["messages"]]} for group in groups]
    path.write_text("".join(json.dumps(row) + "\n" for row in together))
    return path


def hone(a, arguments, folder):
    done = subprocess.run([a.hone, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"hone {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def planned(a, folder):
    plan = json.loads(hone(a, ["plan", "stage.toml", "--stage", a.stage, "--quick", "--json", "--threads", str(a.threads)], folder))
    if a.plan == "peak":
        return {"value": plan["peak_bytes"], "unit": "bytes", "parts": plan["memory"]}
    parts = [part["bytes"] for part in plan["memory"] if part["what"].startswith(("moments", "gradients"))]
    if len(parts) != 2:
        raise SystemExit(f"expected moments and gradients in the plan, found {[part['what'] for part in plan['memory']]}")
    return {"value": sum(parts), "unit": "bytes"}


def trained(a, folder):
    hone(a, [a.stage, "stage.toml", "--name", "run", "--threads", str(a.threads)], folder)
    if a.memory:
        return {"value": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, "unit": "bytes"}
    if a.losses:
        losses = [row["train/loss"] for row in lines(folder / "runs/run/metrics.jsonl") if "train/loss" in row]
        return {"value": losses[-1], "unit": "nats", "runs": losses}
    steps = lines(folder / "runs/run/timings.jsonl")[WARM_UP:]
    seconds = sum(step["seconds"] for step in steps)
    if a.stage == "preference":
        rates = [a.batch / step["seconds"] for step in steps]
        return {"value": statistics.median(rates), "unit": "pairs/s", "runs": rates}
    tokens = sum(step["seconds"] * step["tokens_per_second"] for step in steps)
    return {"value": tokens / seconds, "unit": "tokens/s", "runs": [step["tokens_per_second"] for step in steps]}


def parsed(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["sft", "pretrain", "preference", "ppo"])
    parser.add_argument("hone")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--reward")
    for name, default in {"batch": 8, "length": 256, "steps": 10, "threads": 2, "rank": 0, "shards": 1, "join": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--plan", choices=["trained", "peak"])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--losses", action="store_true")
    return parser.parse_args(words)


def main():
    a = parsed()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "stage.toml").write_text(configuration(a, folder))
        print(json.dumps(planned(a, folder) if a.plan else trained(a, folder)))


if __name__ == "__main__":
    main()
