"""Losses of plain PyTorch, step by step, on given texts in their order: forward, mean cross-entropy, backward, clipping at norm 1, AdamW.

Each text with the end of a document before and behind it is a sequence. f32 weights; with --precision bf16 under autocast.
"""
import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import parse

a = parse(__doc__, data="", precision="bf16", batch=8, steps=60, rate=1e-4)
torch.set_num_threads(a.threads)
tokenizer = AutoTokenizer.from_pretrained(a.model)
end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
with open(a.data) as file:
    texts = [json.loads(line)["text"] for line in file][:a.steps * a.batch]
ids = torch.tensor([[end, *tokenizer(text, add_special_tokens=False).input_ids, end] for text in texts])
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation="sdpa").train()
optimizer = torch.optim.AdamW(model.parameters(), lr=a.rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True)
losses = []
for batch in ids.split(a.batch):
    with torch.autocast("cpu", torch.bfloat16, enabled=a.precision == "bf16"):
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    losses.append(loss.item())
print(json.dumps({"value": losses[-1], "unit": "nats", "runs": losses}))
