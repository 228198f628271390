"""Writes the models and the data on which hone and its peers are measured. All weights are random: speed does not depend on them.

usage: models.py OUT [TEXT...]     TEXT: plain text (.gz is unpacked) for the tokenizer and the data; default: what this repository holds
       models.py OUT --missing     only what an earlier version of this script did not make; all else in OUT stays as it is

OUT/model-s, -m, -b     Llama architecture; 8.5, 31.6 and 88.1 M parameters; vocabulary 16,384, tied; context 1,024; f32
OUT/model-m.gguf, -b    the same weights for llama.cpp, in bf16
OUT/model-q             the shape of Qwen2.5-0.5B, in bf16, with the tokenizer of the others
OUT/model-q-reward      the same weights with a head of zeros that gives a score
OUT/model-m-NAME        m with other sizes (SHAPES), in bf16
OUT/windows.jsonl       texts of 255 tokens each
OUT/sft.jsonl           conversations of one question and one answer, 128 tokens each on average, none above 250
OUT/text.jsonl          the same as plain texts
OUT/prompts.jsonl       prompts of 64 tokens
OUT/pairs.jsonl         the conversations of sft.jsonl, each with its answer as the better and the next one's as the worse, none above 250 tokens
OUT/manifest.json       sizes, as they were made
"""
import argparse
import gzip
import json
import pathlib
import random

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

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
# m with other sizes. Those with -round behind are what the odd ones are compared with
SHAPES = {
    # The embedding of a padding token is zeros, and a norm of zeros multiplies gradients by a thousand in every block
    "start": {"pad_token_id": None},
    "long": {"max_position_embeddings": 4096},
    "heads-8": {"num_attention_heads": 64, "num_key_value_heads": 32},
    "heads-80": {"hidden_size": 640, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 80, "intermediate_size": 1728},
    "heads-80-round": {"hidden_size": 640, "num_attention_heads": 10, "num_key_value_heads": 5, "head_dim": 64, "intermediate_size": 1728},
    "vocabulary-50257": {"vocab_size": 50257},
    "vocabulary-50257-round": {"vocab_size": 50176},
}
CONVERSATIONS, PROMPTS, PROMPT_TOKENS, LONGEST = 2000, 512, 64, 250
WINDOWS, WINDOW_TOKENS = 480, 255


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


def llama(name, **sizes):
    """A model of random weights, of LLAMAS' sizes but for those that are given."""
    width, blocks, heads, kv_heads, intermediate = LLAMAS[name]
    torch.manual_seed(1)
    usual = dict(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=blocks, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=intermediate, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"), pad_token_id=SPECIAL.index("<|endoftext|>"))
    return LlamaForCausalLM(LlamaConfig(**usual | sizes))


def write_llama(out, name, tokenizer):
    model = llama(name)
    folder = out / f"model-{name}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if name in IN_GGUF:
        llama_gguf.write(folder, out / f"model-{name}.gguf")
    return model.num_parameters()


def write_shape(out, name):
    model = llama("m", **SHAPES[name])
    model.to(torch.bfloat16).save_pretrained(out / f"model-m-{name}")
    return model.num_parameters()


def write_qwen(out):
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=151936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864,
        max_position_embeddings=32768, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=True))
    model.to(torch.bfloat16).save_pretrained(out / "model-q")
    return model.num_parameters()


def write_reward(out):
    """model-q with a head of zeros: who scores is not asked, only how much work it is."""
    weights = load_file(out / "model-q/model.safetensors")
    configuration = json.loads((out / "model-q/config.json").read_text())
    configuration |= {"architectures": ["Qwen2ForSequenceClassification"], "num_labels": 1}
    weights["score.weight"] = torch.zeros(1, configuration["hidden_size"], dtype=torch.bfloat16)
    folder = out / "model-q-reward"
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(configuration, indent=1) + "\n")


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


def windows(texts, tokenizer):
    """Texts that follow each other, of WINDOW_TOKENS tokens each: with the end of a document before and behind, windows of 256 predictions."""
    ids = tokenizer("\n".join(texts), add_special_tokens=False).input_ids
    found, start = [], 0
    while len(found) < WINDOWS and start + WINDOW_TOKENS <= len(ids):
        text = tokenizer.decode(ids[start:start + WINDOW_TOKENS])
        # Tokens of a text that was cut may be others, and more or fewer; hone takes control tokens in a text for text
        if len(tokenizer(text, add_special_tokens=False).input_ids) == WINDOW_TOKENS and not any(token in text for token in SPECIAL):
            found.append(text)
        start += WINDOW_TOKENS
    if len(found) < WINDOWS:
        raise SystemExit(f"the texts gave {len(found)} windows, expected {WINDOWS}: give more text")
    return found


def pairs(conversations, tokenizer):
    """Each question with its own answer and the next one's, where both fit."""
    def fits(*messages):
        return len(tokenizer(tokenizer.apply_chat_template(list(messages), tokenize=False)).input_ids) <= LONGEST

    both = zip(conversations, conversations[1:] + conversations[:1])
    return [{"prompt": [question], "chosen": [own], "rejected": [other]} for (question, own), (_, other) in both if own != other and fits(question, other)]


def further(out):
    """What is measured besides speed against peers, as far as it is not there."""
    tokenizer = AutoTokenizer.from_pretrained(out / "model-m")
    if not (out / "model-q/tokenizer.json").exists():
        tokenizer.save_pretrained(out / "model-q")
    if not (out / "model-q-reward/tokenizer.json").exists():
        write_reward(out)
        tokenizer.save_pretrained(out / "model-q-reward")
    for name in SHAPES:
        if not (out / f"model-m-{name}/tokenizer.json").exists():
            write_shape(out, name)
            tokenizer.save_pretrained(out / f"model-m-{name}")
    if not (out / "windows.jsonl").exists():
        with open(out / "text.jsonl") as file:
            texts = [json.loads(line)["text"] for line in file]
        write_lines(out / "windows.jsonl", [{"text": text} for text in windows(texts, tokenizer)])
    if not (out / "pairs.jsonl").exists():
        with open(out / "sft.jsonl") as file:
            conversations = [json.loads(line)["messages"] for line in file]
        write_lines(out / "pairs.jsonl", pairs(conversations, tokenizer))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("text", type=pathlib.Path, nargs="*")
    arguments.add_argument("--missing", action="store_true")
    arguments = arguments.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if arguments.missing:
        return further(out)
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
    further(out)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(json.dumps(manifest))


if __name__ == "__main__":
    main()
