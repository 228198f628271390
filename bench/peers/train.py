"""A training step in plain PyTorch: forward, cross-entropy of every next token, backward, fused AdamW.

f32 weights; with --precision bf16 under autocast. --compile runs the model through torch.compile.
"""
import torch
from transformers import AutoModelForCausalLM

from common import parse, report, seconds

a = parse(__doc__, precision="bf16", batch=8, length=256, steps=12, compile=False)
torch.set_num_threads(a.threads)
torch.manual_seed(1)
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation="sdpa").train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
forward = torch.compile(model) if a.compile else model
ids = torch.randint(0, model.config.vocab_size, (a.batch, a.length))


def step():
    with torch.autocast("cpu", torch.bfloat16, enabled=a.precision == "bf16"):
        loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


report("tokens/s", a.batch * a.length, seconds(step, a.steps))
