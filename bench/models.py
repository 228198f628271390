"""Writes the models and the data on which hone and its peers are measured. All weights are random: speed does not depend on them.

usage: models.py OUT [TEXT...]     TEXT: plain text (.gz is unpacked) for the tokenizer and the data; default: what this repository holds

OUT/model-s, -m, -b     Llama architecture; 8.5, 31.6 and 88.1 M parameters; vocabulary 16,384, tied; context 1,024; f32
OUT/model-m.gguf, -b    the same weights for llama.cpp, in bf16
OUT/model-q             the shape of Qwen2.5-0.5B, in bf16, without a tokenizer
OUT/sft.jsonl           conversations of one question and one answer, 128 tokens each on average, none above 250
OUT/text.jsonl          the same as plain texts
OUT/prompts.jsonl       prompts of 64 tokens
OUT/manifest.json       sizes, as they were made
"""
import argparse
import gzip
import json
import pathlib
import random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import llama_gguf

VOCABULARY = 16384
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
#        width, blocks, heads, key and value heads, width of the feed-forward layer
LLAMAS = {"s": (256, 6, 8, 4, 688), "m": (512, 8, 8, 4, 1376), "b": (768, 12, 12, 4, 2048)}
IN_GGUF = ("m", "b")
CONVERSATIONS, PROMPTS, PROMPT_TOKENS, LONGEST = 2000, 512, 64, 250


def read(path):
    opened = gzip.open(path, "rt", errors="ignore") if path.suffix == ".gz" else open(path, errors="ignore")
    with opened as file:
        return file.read()


def own_texts():
    repository = pathlib.Path(__file__).resolve().parent.parent
    found = [p for ending in ("md", "rs") for p in repository.rglob(f"*.{ending}")]
    skipped = {"target", "runs", ".peers", "shared"}
    return sorted(p for p in found if not skipped & set(p.relative_to(repository).parts))


def train_tokenizer(texts):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"the texts gave a vocabulary of {bpe.get_vocab_size()}, expected {VOCABULARY}: give more text (a few MB)")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def write_llama(out, name, tokenizer):
    width, blocks, heads, kv_heads, intermediate = LLAMAS[name]
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=blocks, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=intermediate, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"), pad_token_id=SPECIAL.index("<|endoftext|>")))
    folder = out / f"model-{name}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if name in IN_GGUF:
        llama_gguf.write(folder, out / f"model-{name}.gguf")
    return model.num_parameters()


def write_qwen(out):
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=151936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864,
        max_position_embeddings=32768, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=True))
    model.to(torch.bfloat16).save_pretrained(out / "model-q")
    return model.num_parameters()


def write_lines(path, rows):
    with open(path, "w") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def data(texts, tokenizer):
    """Conversations, and prompts, of words that follow each other in the texts."""
    words = " ".join(texts).split()
    draw = random.Random(1)

    def stretch(count):
        start = draw.randrange(len(words) - count)
        return " ".join(words[start:start + count])

    def conversation():
        # The number of words that makes about so many tokens is not known before they are cut: some are drawn again
        want = draw.randrange(34, 199)
        asked = draw.randrange(want // 4, want // 2)
        question = tokenizer.decode(tokenizer(stretch(200)).input_ids[:asked])
        answer = tokenizer.decode(tokenizer(stretch(300)).input_ids[:want - asked])
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        length = len(tokenizer(tokenizer.apply_chat_template(messages, tokenize=False)).input_ids)
        return (messages, length) if length <= LONGEST else conversation()

    def prompt():
        text = tokenizer.decode(tokenizer(stretch(200)).input_ids[:PROMPT_TOKENS])
        return text if len(tokenizer(text).input_ids) == PROMPT_TOKENS else prompt()

    return [conversation() for _ in range(CONVERSATIONS)], [prompt() for _ in range(PROMPTS)]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("text", type=pathlib.Path, nargs="*")
    arguments = arguments.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    texts = [read(path) for path in arguments.text or own_texts()]
    tokenizer = train_tokenizer(texts)
    parameters = {name: write_llama(out, name, tokenizer) for name in LLAMAS}
    parameters["q"] = write_qwen(out)
    conversations, prompts = data(texts, tokenizer)
    write_lines(out / "sft.jsonl", [{"messages": messages} for messages, _ in conversations])
    write_lines(out / "text.jsonl", [{"text": "\n".join(m["content"] for m in messages)} for messages, _ in conversations])
    write_lines(out / "prompts.jsonl", [{"prompt": text} for text in prompts])
    lengths = [length for _, length in conversations]
    manifest = {"parameters": parameters, "vocabulary": VOCABULARY, "conversations": len(lengths),
                "mean_tokens": round(sum(lengths) / len(lengths), 1), "most_tokens": max(lengths)}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(json.dumps(manifest))


if __name__ == "__main__":
    main()
