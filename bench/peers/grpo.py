"""TRL's GRPOTrainer: rollout, reference, reward function and an update; completion tokens a second, the first step left out.

A step is --prompts prompts with --completions completions each; every completion has all its tokens. KL to a reference (beta 0.05).
"""
import json
import tempfile

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from common import laps_callback, parse, report

a = parse(__doc__, data="", prompts=2, completions=8, new=64, steps=4)
torch.set_num_threads(a.threads)
batch = a.prompts * a.completions
with open(a.data) as lines:
    rows = Dataset.from_list([{"prompt": json.loads(line)["prompt"]} for line in lines])


def reward(completions, **_):
    return [text.count("e") / max(len(text), 1) for text in completions]


timer = laps_callback()
with tempfile.TemporaryDirectory() as folder:
    config = GRPOConfig(
        output_dir=folder, max_steps=a.steps, per_device_train_batch_size=batch, num_generations=a.completions, max_completion_length=a.new,
        generation_kwargs={"min_new_tokens": a.new}, temperature=1.0, beta=0.05, bf16=True, use_cpu=True, gradient_checkpointing=False,
        learning_rate=1e-5, optim="adamw_torch_fused", model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
        logging_steps=a.steps, save_strategy="no", report_to=[], disable_tqdm=True, seed=1)
    trainer = GRPOTrainer(model=a.model, reward_funcs=reward, args=config, train_dataset=rows, callbacks=[timer])
    trainer.train()
times = [at for at, _ in timer.laps]
report("tokens/s", batch * a.new, [end - begin for begin, end in zip(times, times[1:])])
