"""Runs a training stage of hone as a user does, from a configuration file, and prints one JSON line.

usage: hone_stage.py sft|pretrain HONE --model DIR --data FILE [--batch N] [--length N] [--steps N] [--threads N] [--rank R] [--plan]

tokens a second are those of the run's timings.jsonl (all tokens read), its first two steps left out. --plan starts nothing: it prints how
many bytes `hone plan` counts for gradients and the optimiser's moments. --rank trains a LoRA adapter on q and v.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

WARM_UP = 2

CONFIGURATION = """[model]
path = {model}
[data]
train = [{data}]
held_out = 0.0
max_length = {length}
[train]
steps = {steps}
batch = {batch}
precision = "bf16"
learning_rate = 1e-4
checkpoint_every = {no_checkpoint}
[eval]
every = 0
"""


def configuration(a):
    text = CONFIGURATION.format(
        model=json.dumps(str(pathlib.Path(a.model).resolve())), data=json.dumps(str(pathlib.Path(a.data).resolve())), length=a.length,
        steps=a.steps, batch=a.batch, no_checkpoint=a.steps + 1)
    if a.stage == "sft":
        text += "samples = 0\n"
    if a.rank:
        text += f'[lora]\nrank = {a.rank}\nalpha = {2 * a.rank}\ntargets = ["q", "v"]\n'
    return text


def hone(a, arguments, folder):
    done = subprocess.run([a.hone, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"hone {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def planned(a, folder):
    plan = json.loads(hone(a, ["plan", "stage.toml", "--stage", a.stage, "--quick", "--json", "--threads", str(a.threads)], folder))
    parts = [part["bytes"] for part in plan["memory"] if part["what"].startswith(("moments", "gradients"))]
    if len(parts) != 2:
        raise SystemExit(f"expected moments and gradients in the plan, found {[part['what'] for part in plan['memory']]}")
    return {"value": sum(parts), "unit": "bytes"}


def trained(a, folder):
    hone(a, [a.stage, "stage.toml", "--name", "run", "--threads", str(a.threads)], folder)
    steps = [json.loads(line) for line in (folder / "runs/run/timings.jsonl").read_text().splitlines()][WARM_UP:]
    seconds = sum(step["seconds"] for step in steps)
    tokens = sum(step["seconds"] * step["tokens_per_second"] for step in steps)
    return {"value": tokens / seconds, "unit": "tokens/s", "runs": [step["tokens_per_second"] for step in steps]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["sft", "pretrain"])
    parser.add_argument("hone")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    for name, default in {"batch": 8, "length": 256, "steps": 10, "threads": 2, "rank": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--plan", action="store_true")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "stage.toml").write_text(configuration(a))
        print(json.dumps(planned(a, folder) if a.plan else trained(a, folder)))


if __name__ == "__main__":
    main()
