"""What hone writes, transformers and PEFT load with equal numbers; what PEFT writes, hone loads with equal numbers.

usage: roundtrip.py HONE MODELS        MODELS: what models.py wrote (whole set)

versions: Python 3.11, torch 2.15.0 (CPU), transformers 5.23.0, peft 0.21.2, safetensors 0.8.0

Prints the largest difference of log-probabilities for each model and each check, and ends with 1 if one exceeds 1e-4.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

hone, models = sys.argv[1], pathlib.Path(sys.argv[2])
texts = ["Once upon a time", "def f(x):\n    return x + 1\n", "a", "The quick brown fox jumps over the lazy dog. 0123456789 \u00e9\u4e2d"]
torch.set_num_threads(1)
worst = 0.0


def run(*arguments):
    return subprocess.run([hone, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def of_hone(arguments, folder):
    """ids and log-probabilities of `texts`, as hone computes them in f32"""
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    lines = run("logprobs", *arguments, "--input", path, "--precision", "f32", "--json").splitlines()
    return [json.loads(line) for line in lines]


def of_torch(model, rows):
    numbers = []
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["ids"]])).logits[0].double().log_softmax(-1)
        numbers += [logits[i, t].item() for i, t in enumerate(row["ids"][1:])]
    return numbers


def report(name, check, rows, model):
    global worst
    got = [x for row in rows for x in row["logprobs"][1:]]
    difference = max(abs(a - b) for a, b in zip(got, of_torch(model, rows), strict=True))
    worst = max(worst, difference)
    print(f"{name:24} {check:44} {difference:.2e}", flush=True)


for directory in sorted(p for p in models.iterdir() if (p / "config.json").is_file()):
    name = directory.name
    with tempfile.TemporaryDirectory() as temporary:
        temporary = pathlib.Path(temporary)
        original = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(directory)
        rows = of_hone(["--model", directory], temporary)
        assert [r["ids"] for r in rows] == [tokenizer(t)["input_ids"] for t in texts], name
        report(name, "hone on transformers' files", rows, original)

        out = temporary / "export"
        run("export", "--model", directory, "--out", out)
        loaded, info = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
        assert AutoTokenizer.from_pretrained(out)("a b")["input_ids"] == tokenizer("a b")["input_ids"]
        report(name, "transformers on hone's files", rows, loaded.eval())
        for (n, p), (m, q) in zip(sorted(original.named_parameters()), sorted(loaded.named_parameters()), strict=True):
            assert n == m and torch.equal(p, q), f"{name}: {n}"

        if name.startswith("gpt2"):
            continue
        torch.manual_seed(0)
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), LoraConfig(
            r=4, lora_alpha=12, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM")).eval()
        with torch.no_grad():
            for n, p in adapted.named_parameters():
                if "lora_B" in n:
                    p.copy_(torch.randn(p.shape) * 0.05)
        adapter = temporary / "adapter"
        adapted.save_pretrained(adapter)
        rows = of_hone(["--model", directory, "--adapter", adapter], temporary)
        report(name, "hone on PEFT's adapter", rows, adapted)
        report(name, "hone on PEFT's adapter directory alone", of_hone(["--model", adapter], temporary), adapted)
        written = temporary / "written"
        run("export", "--model", directory, "--adapter", adapter, "--unmerged", "--out", written)
        again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), written).eval()
        report(name, "PEFT on hone's adapter", rows, again)
        merged = temporary / "merged"
        run("export", "--model", directory, "--adapter", adapter, "--out", merged)
        report(name, "transformers on hone's merged export", rows, AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval())

# A reward model: one score a text, at its last token
with tempfile.TemporaryDirectory() as temporary:
    temporary = pathlib.Path(temporary)
    for family in ("llama", "qwen2", "qwen3", "gpt2"):
        directory, out = temporary / family, temporary / f"{family}-out"
        reward = AutoModelForSequenceClassification.from_pretrained(models / family, num_labels=1, dtype=torch.float32).eval()
        with torch.no_grad():
            reward.score.weight.normal_(0, 0.2)
        reward.save_pretrained(directory)
        tokenizer = AutoTokenizer.from_pretrained(models / family)
        tokenizer.chat_template = None  # without one a response ends with the eos token
        tokenizer.save_pretrained(directory)
        path = temporary / "pairs.jsonl"
        path.write_text("".join(json.dumps({"prompt": t, "completion": " yes"}) + "\n" for t in texts))
        got = [json.loads(line)["score"] for line in
               run("score", "--model", directory, "--input", path, "--precision", "f32", "--json").splitlines()]
        run("export", "--model", directory, "--out", out)
        again = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
        for check, model in (("hone on transformers' reward model", reward), ("transformers on hone's reward model", again)):
            with torch.no_grad():
                expected = [model(input_ids=torch.tensor([tokenizer(t + " yes")["input_ids"] + [tokenizer.eos_token_id]])).logits.item() for t in texts]
            difference = max(abs(a - b) for a, b in zip(got, expected, strict=True))
            worst = max(worst, difference)
            print(f"{family:24} {check:44} {difference:.2e}", flush=True)

print(f"largest difference {worst:.2e}")
sys.exit(worst > 1e-4)
