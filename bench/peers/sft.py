"""TRL's SFTTrainer on conversations, packed: tokens read a second over the training loop, its first two steps left out.

TRL trains on all tokens of a conversation. --packing bfd keeps conversations apart, and pads nothing; wrapped cuts one stream into windows.
"""
import tempfile

import torch
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

from common import WARM_UP, laps_callback, parse, report

a = parse(__doc__, data="", packing="bfd", batch=8, length=256, steps=10)
torch.set_num_threads(a.threads)
timer = laps_callback()
with tempfile.TemporaryDirectory() as folder:
    config = SFTConfig(
        output_dir=folder, max_steps=a.steps, per_device_train_batch_size=a.batch, max_length=a.length, packing=True,
        packing_strategy=a.packing, bf16=True, use_cpu=True, gradient_checkpointing=False, learning_rate=1e-4, optim="adamw_torch_fused",
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"}, include_num_input_tokens_seen="all", logging_steps=a.steps,
        save_strategy="no", report_to=[], disable_tqdm=True, seed=1)
    rows = load_dataset("json", data_files=a.data, split="train", cache_dir=folder)
    trainer = SFTTrainer(model=a.model, args=config, train_dataset=rows, callbacks=[timer])
    trainer.train()
(begin, tokens_before), (end, tokens_after) = timer.laps[WARM_UP - 1], timer.laps[-1]
report("tokens/s", tokens_after - tokens_before, [end - begin])
