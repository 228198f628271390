"""Sampling by transformers' generate with its cache: random prompts in one batch, temperature 1; the prompts' computation is in the time.

--top-k 0 is the whole vocabulary. Every sequence gets all its new tokens: none may end before.
"""
import torch
from transformers import AutoModelForCausalLM

from common import parse, report, seconds

a = parse(__doc__, precision="bf16", batch=16, length=64, new=48, top_k=0, steps=3)
torch.set_num_threads(a.threads)
torch.manual_seed(1)
dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[a.precision]
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype, attn_implementation="sdpa").eval()
ids = torch.randint(3, model.config.vocab_size, (a.batch, a.length))
mask = torch.ones_like(ids)


@torch.inference_mode()
def complete(new):
    out = model.generate(ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=True, temperature=1.0, top_k=a.top_k)
    assert out.shape == (a.batch, a.length + new)


complete(min(8, a.new))
report("tokens/s", a.batch * a.new, seconds(lambda: complete(a.new), a.steps, warm_up=0))
