"""A training step of PyTorch with PEFT: a LoRA adapter on q and v, f32 weights under bf16 autocast, fused AdamW on the adapter."""
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from common import parse, report, seconds

a = parse(__doc__, rank=8, batch=4, length=512, steps=6)
torch.set_num_threads(a.threads)
torch.manual_seed(1)
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation="sdpa")
model = get_peft_model(model, LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules=["q_proj", "v_proj"])).train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
ids = torch.randint(0, model.config.vocab_size, (a.batch, a.length))


def step():
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


report("tokens/s", a.batch * a.length, seconds(step, a.steps))
