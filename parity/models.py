"""Writes tiny random models of every family with what transformers computes on them: log-probabilities, greedy tokens and
the gradient of every weight for one batch.

usage: models.py OUT            small models of all families and variants (a few MB)
       models.py OUT --golden   only those that are committed (width 32, two layers, f16-sized weights): see PROVENANCE.md

versions: Python 3.11, torch 2.15.0 (CPU), transformers 5.23.0, safetensors 0.8.0, tokenizers 0.23.3

OUT/NAME/            the model as transformers saves it, with a byte-level tokenizer
OUT/NAME/golden.json {"ids": [[..], ..], "logprobs": [[..], ..], "greedy": {"prompt": [..], "ids": [..]},
                      "gradient_norms": {name: norm}, "loss": ..}; gradients are those of the mean cross-entropy of all next
                      tokens of all sequences, names those of transformers
OUT/NAME/gradients.safetensors    the gradients themselves (not with --golden)
"""
import copy
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast,
    Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM,
)

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def tokenizer():
    """All 256 bytes, no merges, and a separator: 257 ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {c: i + 1 for i, c in enumerate(alphabet)}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


# No pad_token_id: transformers' embeddings give that row no gradient.
def llama(vocab=257, width=32, layers=2, heads=4, kv=2, **more):
    more = {"intermediate_size": 48, "max_position_embeddings": 128, "tie_word_embeddings": True} | more
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                                        num_key_value_heads=kv, bos_token_id=0, eos_token_id=0, **more))


LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
SMALL = dict(vocab_size=257, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
             max_position_embeddings=128, bos_token_id=0, eos_token_id=0)

GOLDEN = {
    "llama": lambda: llama(),
    "llama-untied-llama3": lambda: llama(tie_word_embeddings=False, attention_bias=True, rope_parameters=LLAMA3),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=16, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=128, n_inner=64, resid_pdrop=0.0,
                                               embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)),
}
MORE = {
    "llama-untied": lambda: llama(tie_word_embeddings=False),
    "llama-bias": lambda: llama(attention_bias=True, mlp_bias=True),
    "llama-linear": lambda: llama(rope_parameters=LINEAR),
    "llama-yarn": lambda: llama(rope_parameters=YARN),
    "llama-head80": lambda: llama(width=320, heads=4, kv=4, intermediate_size=400),
    "llama-head-free": lambda: llama(width=48, heads=6, kv=3, head_dim=24),
    "llama-mqa-long": lambda: llama(width=64, heads=8, kv=1, max_position_embeddings=1024),
    "llama-vocab50257": lambda: llama(vocab=50257, width=48),
    "qwen2-untied": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, tie_word_embeddings=False)),
    "qwen3-untied": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=32, tie_word_embeddings=False)),
    "gpt2-relu": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0.0,
                                                    embd_pdrop=0.0, attn_pdrop=0.0, activation_function="relu", bos_token_id=0, eos_token_id=0)),
    "gpt2-gelu": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0.0,
                                                    embd_pdrop=0.0, attn_pdrop=0.0, activation_function="gelu", bos_token_id=0, eos_token_id=0)),
}


def randomise(model, generator):
    """Weights large enough that nothing is nearly uniform, biases and norms that are not neutral."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            norm = "norm" in name or "ln_" in name
            spread = 0.15 if p.dim() == 1 else 0.5 / p.shape[-1] ** 0.25 / 2
            p.copy_(torch.randn(p.shape, generator=generator) * spread + (1.0 if norm and name.endswith("weight") else 0.0))
            p.copy_(p.half().float())  # exact in f16, so that small files hold the same numbers
    model.tie_weights()


def sequences(model, lengths, generator):
    return [torch.randint(0, model.config.vocab_size, (n,), generator=generator).tolist() for n in lengths]


def logprobs(model, ids):
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [out[i, t].item() for i, t in enumerate(ids[1:])]


def main():
    out, golden = pathlib.Path(sys.argv[1]), "--golden" in sys.argv
    for index, (name, make) in enumerate((GOLDEN if golden else GOLDEN | MORE).items()):
        torch.manual_seed(index)
        generator = torch.Generator().manual_seed(1000 + index)
        model = make().eval()
        randomise(model, generator)
        long = model.config.max_position_embeddings if hasattr(model.config, "max_position_embeddings") else model.config.n_positions
        ids = sequences(model, [24, 7, 2] if golden else [min(long, 700), 33, 2, 100], generator)
        folder = out / name
        if name == "llama-vocab50257":
            model.save_pretrained(folder, max_shard_size="1MB")
        elif golden:
            copy.deepcopy(model).half().save_pretrained(folder)  # a copy: half() would round the rotary frequencies too
        else:
            model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        tokens = sum(len(s) - 1 for s in ids)
        loss = 0
        for s in ids:
            logits = model(input_ids=torch.tensor([s])).logits[0, :-1]
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(s[1:]), reduction="sum") / tokens
        loss.backward()
        gradients = {n: p.grad.detach().clone() for n, p in model.named_parameters()}
        prompt = ids[1][:6]
        with torch.no_grad():
            greedy = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
                                    max_new_tokens=12, eos_token_id=None, pad_token_id=0)[0, len(prompt):].tolist()
        digits = 7 if golden else 9
        record = {
            "ids": ids,
            "logprobs": [[round(x, digits) for x in logprobs(model, s)] for s in ids],
            "greedy": {"prompt": prompt, "ids": greedy},
            "loss": loss.item(),
            "gradient_norms": {n: float(f"{g.double().norm().item():.9g}") for n, g in gradients.items()},
        }
        (folder / "golden.json").write_text(json.dumps(record) + "\n")
        if golden:
            for extra in ("generation_config.json", "special_tokens_map.json"):
                (folder / extra).unlink(missing_ok=True)
        else:
            save_file(gradients, folder / "gradients.safetensors")
        print(name, sum(p.numel() for p in model.parameters()), "parameters")


main()
