"""TRL's DPOTrainer on pairs: pairs a second over the training loop, its first two steps left out.

The reference's log-probabilities are computed before the first step (precompute_ref_log_probs), as hone does, and are not in the time.
"""
import tempfile

import torch
from datasets import load_dataset
from trl import DPOConfig, DPOTrainer

from common import WARM_UP, laps_callback, parse, report

a = parse(__doc__, data="", batch=8, length=256, steps=6)
torch.set_num_threads(a.threads)
timer = laps_callback()
with tempfile.TemporaryDirectory() as folder:
    config = DPOConfig(
        output_dir=folder, max_steps=a.steps, per_device_train_batch_size=a.batch, precompute_ref_batch_size=a.batch, max_length=a.length, beta=0.1,
        loss_type="sigmoid", precompute_ref_log_probs=True, bf16=True, use_cpu=True, gradient_checkpointing=False, learning_rate=1e-5,
        optim="adamw_torch_fused", model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"}, logging_steps=a.steps, save_strategy="no",
        report_to=[], disable_tqdm=True, seed=1)
    rows = load_dataset("json", data_files=a.data, split="train", cache_dir=folder)
    # No more pairs than the steps take: the reference reads all of them
    trainer = DPOTrainer(model=a.model, args=config, train_dataset=rows.select(range(a.steps * a.batch)), callbacks=[timer])
    trainer.train()
times = [at for at, _ in timer.laps][WARM_UP - 1:]
report("pairs/s", a.batch, [end - begin for begin, end in zip(times, times[1:])])
