"""What is measured: the rows, the commands of hone and its peers, and the lines of the table that follow from them.

In commands HONE, PYTHON, DATA and THREADS stand for what run.py is given; STEPS for one of a measure's two numbers of steps.
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A command that prints a figure."""

    key: str
    who: str
    command: str
    steps: tuple = (0, 0)  # in a measurement, and in a trial of the script
    unit: str = "tokens/s"
    reads: str = "speed"  # which figure is taken from what the command prints: run.READERS


@dataclass(frozen=True)
class Line:
    """A line of the table: a figure made of hone's measure and the best of the others.

    speed: hone's figure over the peer's. memory: the peer's peak memory over hone's. share: hone's figure, times what a token
    takes of the unit of the other, over the other. part: hone's figure over the other's.
    level: how much the largest of all figures is above the smallest. straight: how far they are from a straight line over `at`.
    near: how far hone's figure is from the other's. cost: how much the other's is above hone's. most: hone's figure itself.
    noise: how far hone's curve is from `base`, over how far the other's is. From `part` on all are to be small.
    """

    work: str
    against: str
    ours: str
    theirs: tuple
    kind: str
    least: float = None  # the target; where the figure is to be small, the most
    aim: float = None
    model: str = None
    a_weight: float = 0.0  # share: how much of the other's unit a weight takes for each token
    at: tuple = ()  # straight: where each figure belongs
    base: str = None  # noise: the measure whose curve is the true one
    unit: str = None  # most: the unit of the figure


@dataclass(frozen=True)
class Row:
    name: str
    measures: tuple
    lines: tuple
    note: str = ""
    rounds: int = None  # where fewer than asked for say it all


def train(model, precision="bf16", batch=8, length=256, options=""):
    steps = {"s": (22, 3), "m": (12, 3), "b": (8, 3), "q": (6, 3)}[model]
    command = f"HONE bench train --model DATA/model-{model} --precision {precision} --batch {batch} --length {length} --steps STEPS"
    return Measure("hone", "hone", f"{command} --threads THREADS --json{options}", steps)


def torch_train(key, who, model, options):
    steps = {"s": (22, 3), "m": (12, 3), "b": (8, 3)}[model]
    return Measure(key, who, f"PYTHON peers/train.py --model DATA/model-{model} --batch 8 --length 256 --steps STEPS --threads THREADS{options}", steps)


GEMM = Measure("gemm", "hone's matrix product", "HONE bench gemm --size 2048 --precision bf16 --steps STEPS --threads THREADS --json", (20, 2), "GFLOP/s")

TRAIN_NOTE = (
    "f32 weights, bf16 products (PyTorch: autocast), scaled dot-product attention, fused AdamW; the median step, two steps of warm-up left "
    "out (what torch.compile takes to compile is among them). hone also clips the gradient's norm; PyTorch is spared that.")
MEMORY_NOTE = (
    " Memory is the most that the process held, as the kernel counts it when it has ended. PyTorch's figure contains its libraries.")


def train_rows():
    for model, size in (("s", "8.5 M"), ("m", "31.6 M"), ("b", "88.1 M")):
        measures = [train(model), torch_train("eager", "PyTorch eager", model, " --precision bf16"),
                    torch_train("compile", "torch.compile", model, " --precision bf16 --compile")]
        work = f"training step, 8 x 256, bf16, {model} ({size} parameters)"
        lines = [Line(work, "the faster of PyTorch eager and torch.compile, bf16", "hone", ("eager", "compile"), "speed", 1.3, 1.75)]
        note = TRAIN_NOTE
        if model != "s":
            lines.append(Line(f"peak memory of the training step, {model}", "PyTorch eager, bf16", "hone", ("eager",), "memory", 2.0))
            note += MEMORY_NOTE
        if model == "b":
            measures.append(GEMM)
            lines.append(Line("training, b, as a share of hone's own matrix product", "`hone bench gemm` of the same rounds", "hone", ("gemm",),
                              "share", 0.55, 0.70, "b", 6 / 1e9))
            note += " Arithmetic of training: 6 operations a weight and token (the tied embedding counts once), attention not counted."
        yield Row(f"train-{model}", tuple(measures), tuple(lines), note)
    for model in "smb":
        measures = (train(model, "f32"), torch_train("eager", "PyTorch eager", model, " --precision f32"))
        yield Row(f"train-{model}-f32", measures, (Line(
            f"training step, 8 x 256, f32, {model}", "PyTorch eager, f32", "hone", ("eager",), "speed", 1.0, 1.3),), "As above, all in f32.")


def sft_row():
    steps = (12, 4)
    stage = "PYTHON hone_stage.py {} HONE --model DATA/model-m --data DATA/{} --batch {} --length 256 --steps STEPS --threads THREADS"
    trl = "PYTHON peers/sft.py --model DATA/model-m --data DATA/sft.jsonl --packing {} --batch 8 --length 256 --steps STEPS --threads THREADS"
    measures = (
        Measure("hone", "hone sft", stage.format("sft", "sft.jsonl", 16), steps),
        Measure("pretrain", "hone pretrain", stage.format("pretrain", "text.jsonl", 8), steps),
        Measure("bfd", "TRL, packing bfd", trl.format("bfd"), steps),
        Measure("wrapped", "TRL, packing wrapped", trl.format("wrapped"), steps),
    )
    return Row("sft-m", measures, (
        Line("`hone sft`, packed, 2,048 tokens a step, m", "TRL SFTTrainer, bf16, packed whole (`bfd`, its default)", "hone", ("bfd",), "speed", 5, 8),
        Line("the same texts in windows of 256, every token trained on: `hone pretrain`, m", "TRL SFTTrainer, bf16, packed by cutting (`wrapped`)", "pretrain",
             ("wrapped",), "speed"),
    ), "All tokens read count, prompts included, in the loop of steps; the first two steps are left out, and so are loading, tokenizing and saving. "
       "Each line has like against like. `hone sft` cuts no conversation, nor does TRL's default packing: TRL takes 8 windows of up to 256 tokens a step, hone 16 conversations, which have "
       "127 tokens on average. TRL's other way cuts conversations into windows of 256, which is what `hone pretrain` does with texts. "
       "**In the first line they do not train on the same tokens**: TRL on all of a conversation, as it does unless told otherwise, `hone sft` on the answers only, which "
       "spares it the output matrix for the questions; in the second both train on every token.")


def generate_rows():
    for model, least, aim in (("m", 6, 9), ("b", 3.5, 4.5)):
        for batch in (16, 64):
            shape = f"--model DATA/model-{model} --batch {batch} --length 64 --new 48 --steps STEPS --threads THREADS"
            measures = (
                Measure("hone", "hone", f"HONE bench generate {shape} --precision bf16 --json", (5, 1)),
                Measure("generate", "transformers, whole vocabulary", f"PYTHON peers/generate.py {shape} --precision bf16 --top-k 0", (3, 1)),
                Measure("top", "transformers, its usual top-k of 50", f"PYTHON peers/generate.py {shape} --precision bf16 --top-k 50", (3, 1)),
            )
            yield Row(f"generate-{model}-{batch}", measures, (Line(
                f"sampling, 64 + 48 tokens, batch {batch}, {model}", "transformers generate, bf16", "hone", ("generate", "top"), "speed", least, aim),),
                "New tokens a second, the prompts' computation in the time. Temperature 1; hone draws from the whole vocabulary and computes each "
                "token's log-probability too; transformers is measured with the whole vocabulary and with its usual 50 likeliest tokens, and the faster counts.")


def llama_rows():
    for model in "mb":
        new = 192
        llama = f"PYTHON peers/llama.py --model DATA/model-{model}.gguf --length {{}} --new {{}} --steps STEPS --threads THREADS"
        measures = [
            Measure("hone", "hone", f"HONE bench generate --model DATA/model-{model} --precision bf16 --batch 1 --length 1 --new {new} --steps STEPS --threads THREADS --json", (5, 1)),
            Measure("llama", "llama.cpp", llama.format(1, new), (5, 1)),
        ]
        lines = [Line(f"one stream, {model}", "llama.cpp, bf16, batch 1", "hone", ("llama",), "speed", 1.0, 1.2)]
        note = f"{new} new tokens after a prompt of one, so that both sides do {new} passes of one token. hone samples and keeps log-probabilities; llama.cpp takes the likeliest token."
        if model == "b":
            measures.append(Measure("memory", "hone's reading of memory", "HONE bench memory --bytes WEIGHTS --steps STEPS --threads THREADS --json", (5, 1), "GB/s"))
            lines.append(Line("one stream, b, as a share of memory speed", "`hone bench memory` of as many bytes as b's weights have in bf16, in the same rounds",
                              "hone", ("memory",), "share", 0.70, 0.85, "b", 2 / 1e9))
            note += " A token reads every weight once, 2 bytes each (the tied embedding counts once)."
        yield Row(f"stream-{model}", tuple(measures), tuple(lines), note)
    for model in "mb":
        measures = (
            Measure("hone", "hone", f"HONE bench prefill --model DATA/model-{model} --precision bf16 --batch 1 --length 400 --steps STEPS --threads THREADS --json", (9, 1)),
            Measure("llama", "llama.cpp", f"PYTHON peers/llama.py --model DATA/model-{model}.gguf --length 400 --steps STEPS --threads THREADS", (9, 1)),
        )
        yield Row(f"prefill-{model}", measures, (Line(
            f"reading a prompt of 400 tokens, {model}", "llama.cpp, bf16", "hone", ("llama",), "speed", 4, 6),),
            "Up to the first new token; logits of the last position only.")


def serving_rows():
    for model, least in ("m", {1: 0.9, 32: 3}), ("b", {1: 0.9, 32: 2}):
        work = "--length 64 --new 96 --steps STEPS --threads THREADS"
        hone = f"PYTHON serving.py hone HONE --model DATA/model-{model} {work}"
        batch = f"PYTHON peers/llama_batch.py --model DATA/model-{model}.gguf {work}"
        server = f"PYTHON serving.py llama PYTHON --model DATA/model-{model}.gguf {work}"
        measures, lines = [], []
        for streams in 1, 8, 32:
            measures += [Measure(f"hone-{streams}", f"hone serve, {streams} at once", f"{hone} --streams {streams}", (5, 1)),
                         Measure(f"llama-{streams}", f"llama.cpp, batch {streams}, no HTTP", f"{batch} --batch {streams}", (3, 1))]
            if streams > 1:
                measures.append(Measure(f"unified-{streams}", f"llama.cpp, batch {streams}, one cache", f"{batch} --batch {streams} --unified", (3, 1)))
            served = f"`hone serve`, {streams} stream{'s' * (streams > 1)} of 64 + 96 tokens, {model}"
            if streams == 1:
                lines.append(Line(served, "llama.cpp, bf16, without HTTP", "hone-1", ("llama-1",), "speed", least[1]))
                continue
            lines += [Line(served, "llama.cpp, bf16, one batch, one cache for all, without HTTP", f"hone-{streams}", (f"unified-{streams}",), "speed", least.get(streams)),
                      Line(f"the same, {streams} streams", "the same with a cache for each sequence", f"hone-{streams}", (f"llama-{streams}",), "speed")]
        for streams, steps in (1, 9), (8, 3):
            first = f"--data DATA/text.jsonl --streams {streams} --first"
            measures += [Measure(f"first-{streams}", f"hone serve, {streams} at once: first text", f"{hone} {first}", (9, 1), "ms"),
                         Measure(f"llama-first-{streams}", f"llama.cpp's server, {streams} at once: first text", f"{server} {first}", (steps, 1), "ms")]
            lines.append(Line(f"`hone serve`, {streams} stream{'s' * (streams > 1)}, {model}: time to the first text", "the server of llama-cpp-python, the same client", f"first-{streams}",
                              (f"llama-first-{streams}",), "part", 1.0))
        yield Row(f"serve-{model}", tuple(measures), tuple(lines),
                  "All requests are sent at once, and answers are streamed by the token; the client reads on the same two cores. Random tokens, greedy, every answer of its full length; reading the prompts "
                  "is in the time of both. llama.cpp is driven by a loop in Python, once with one cache for all sequences and once with one for each, which is faster here. The targets were set against one cache. Times to the first text are with prompts of text, of "
                  "about 64 tokens; the server that comes with llama-cpp-python answers one request after another, so with several streams most of them wait.", rounds=3)


def ppo_row():
    rl = "HONE bench rl --model DATA/model-m --batch 16 --length 64 --new 64 --epochs 1 --steps STEPS --threads THREADS --json"
    measures = (
        Measure("hone", "hone bench rl, 2 prompts x 8 responses", f"{rl} --samples 8", (6, 2)),
        Measure("apart", "hone bench rl, 16 prompts", rl, (6, 2)),
        Measure("grpo", "TRL GRPO", "PYTHON peers/grpo.py --model DATA/model-m --data DATA/prompts.jsonl --prompts 2 --completions 8 --new 64 --steps STEPS --threads THREADS", (5, 2)),
    )
    against = "TRL GRPO: 2 prompts x 8 completions of 64 tokens, KL to a reference"
    return Row("ppo-m", measures, (
        Line("PPO update, 2 prompts x 8 responses of 64 tokens, m: policy, value network, reference, reward model", against, "hone", ("grpo",), "speed", 5, 8),
        Line("the same of 16 prompts x 1 response, which share nothing", against, "apart", ("grpo",), "speed"),
    ), "hone computes a prompt once for its 8 responses in every pass. Tokens of responses a second, end to end, the first update left out. Prompts of 64 tokens. A response of hone's may end before its 64th token; what was not made does not count. **hone does more**: TRL has no PPO any more, and its GRPO "
        "trains no value network and asks no reward model (its reward is a function of the text).")


def grpo_row():
    """The same prompts, completions, reward and divergence on both sides."""
    measures = (
        Measure("hone", "hone bench rl, GRPO", "HONE bench rl --method grpo --model DATA/model-m --batch 16 --samples 8 --length 64 --new 64 --epochs 1 --steps STEPS --threads THREADS --json", (8, 2)),
        Measure("grpo", "TRL GRPO", ppo_row().measures[-1].command, (5, 2)),
    )
    return Row("grpo-m", measures, (
        Line("GRPO update, 2 prompts x 8 responses of 64 tokens, m: policy and reference", "TRL GRPO, the same", "hone", ("grpo",), "speed", 6, 10),
    ), "Tokens of responses a second, end to end, the first update left out. Prompts of 64 tokens; the reward is the share of the letter e, the divergence from the reference is a term of the "
        "loss, one pass over the rollout. A response of hone's may end before its 64th token; what was not made does not count.")


def dpo_row():
    """The same pairs, batch, beta and reference on both sides."""
    shape = "--model DATA/model-m --data DATA/pairs.jsonl --batch 8 --length 256 --steps STEPS --threads THREADS"
    measures = (
        Measure("hone", "hone preference, DPO", f"PYTHON hone_stage.py preference HONE {shape}", (8, 4), "pairs/s"),
        Measure("dpo", "TRL DPO", f"PYTHON peers/dpo.py {shape}", (8, 4), "pairs/s"),
    )
    return Row("dpo-m", measures, (
        Line("DPO step, 8 pairs of up to 256 tokens, m", "TRL DPOTrainer, bf16", "hone", ("dpo",), "speed"),
    ), "Pairs a second of the median step; the first two steps are left out, and so are loading, tokenizing and saving. Beta 0.1. Both sides compute the reference's log-probabilities once, "
       "before the first step and outside of the time. TRL pads the responses of a step to the longest and computes a prompt for each of its two responses; hone pads nothing and computes a prompt once "
       "for both. hone also clips the gradient's norm, as TRL's trainer does unless told otherwise. Both take the same 64 pairs, each in its own order, so steps differ somewhat in their lengths.")


def lora_rows():
    stage = "PYTHON hone_stage.py sft HONE --model DATA/model-m --data DATA/sft.jsonl --batch 16 --length 256 --threads THREADS --plan trained"
    yield Row("lora-m", (
        Measure("hone", "hone, LoRA", train("m", options=" --lora 8").command, (12, 3)),
        Measure("full", "hone, all weights", train("m").command, (12, 3)),
        Measure("part", "hone plan, LoRA", f"{stage} --rank 8", unit="bytes"),
        Measure("whole", "hone plan, all weights", stage, unit="bytes"),
    ), (
        Line("LoRA step, r = 8 on q and v, 8 x 256, bf16, m", "hone's step on all weights", "hone", ("full",), "speed", 1.25),
        Line("gradients and moments with LoRA, m", "those with all weights", "part", ("whole",), "part", 0.05),
    ), "Gradients and moments are what `hone plan` counts for the same tuning with and without an adapter; it counts by a rehearsal of the run's own steps.")
    yield Row("lora-q", (
        train("q", batch=4, length=512, options=" --lora 8"),
        Measure("peft", "PEFT", "PYTHON peers/lora.py --model DATA/model-q --rank 8 --batch 4 --length 512 --steps STEPS --threads THREADS", (6, 3)),
    ), (Line("LoRA step, r = 8 on q and v, 4 x 512, bf16, shape of Qwen2.5-0.5B", "PyTorch and PEFT, bf16", "hone", ("peft",), "speed", 1.3),),
        "Random weights; PyTorch keeps them in f32 and multiplies under autocast.")


def gemm_row():
    torch = "PYTHON peers/gemm.py --size 2048 --precision bf16 --steps STEPS --threads THREADS"
    work = "matrix product, 2,048 cubed, bf16"
    return Row("gemm", (
        Measure("hone", "hone", GEMM.command, GEMM.steps, GEMM.unit),
        Measure("torch", "torch.matmul", torch, GEMM.steps, GEMM.unit),
        Measure("ordered", "oneDNN, operand re-ordered", f"{torch} --ordered", GEMM.steps, GEMM.unit),
    ), (
        Line(work, "torch.matmul", "hone", ("torch",), "speed", 1.2, 1.5),
        Line(work, "PyTorch's product with a right operand that oneDNN re-ordered beforehand", "hone", ("ordered",), "speed"),
    ), "Operands in bf16, the best of each 0.2 seconds on both sides. `hone bench gemm` packs its operands for the kernel before the time is taken, as "
       "hone keeps a model's weights; torch.matmul (as it is or with a transposed right operand, whichever is faster) does it each time. The second line "
       "spares PyTorch that, too, for its right operand.")


LENGTHS = (256, 512, 1024, 2048, 4096)


def growth_rows():
    long = "HONE bench {} --model DATA/model-m-long --precision bf16 --threads THREADS --json"
    shape = f"{long.format('train')} --batch {{}} --length {{}} --microbatch-tokens 4096 --steps STEPS"
    times = [Measure(f"time-{n}", f"{4096 // n} x {n}", f"{shape.format(4096 // n, n)} --profile", (5, 3), reads="without attention") for n in LENGTHS]
    bytes_ = [Measure(f"bytes-{n}", f"1 x {n}", shape.format(1, n), (3, 3), "bytes", reads="memory") for n in LENGTHS[1:]]
    keys = [[m.key for m in measures] for measures in (times, bytes_)]
    yield Row("growth-training", (*times, *bytes_), (
        Line("training by length, 256 to 4,096, m: tokens a second of the time without attention", "one another", keys[0][0], tuple(keys[0][1:]), "level", 0.10),
        Line("peak memory of a step on one sequence of 512, 1,024, 2,048 and 4,096, m", "a straight line", keys[1][0], tuple(keys[1][1:]), "straight", 0.05,
             at=LENGTHS[1:]),
    ), "m with a context of 4,096. The first line has 4,096 tokens a step, all in one micro-batch, and takes attention's time, which grows with the length, "
       "out of the profile. The second line's figure is the largest deviation from the line of least squares.", rounds=3)
    news = (64, 256, 1024, 4000)
    shape = f"{long.format('generate')} --batch 16 --length 1 --new {{}} --steps STEPS --profile"
    times = tuple(Measure(f"new-{n}", f"16 x {n} new tokens", shape.format(n), (2 if n < 1000 else 1, 1), reads="without attention") for n in news)
    yield Row("growth-sampling", times, (Line(
        "sampling by position, 16 sequences of up to 64, 256, 1,024 and 4,000 tokens, m: tokens a second of the time without attention", "one another",
        "new-64", tuple(f"new-{n}" for n in news[1:]), "level", 0.10),),
        "After prompts of one token. Each pass gives every sequence of a batch its next token, so that the place in the batch cannot matter; the position "
        "in the sequence could. A figure is the mean over all positions up to the last.", rounds=3)


def shape_row():
    def step(key, who, model="m", options="--batch 8 --length 256"):
        return Measure(key, who, f"HONE bench train --model DATA/model-{model} --precision bf16 {options} --steps STEPS --threads THREADS --json", (8, 3),
                       "GFLOP/s", reads="arithmetic")

    measures = (
        step("round", "8 x 256"), step("length", "8 x 251", options="--batch 8 --length 251"),
        step("ragged", "2,048 tokens in sequences of 1 to 256", options="--batch 8 --length 256 --ragged"),
        step("heads-8", "64 heads of 8", "m-heads-8"),
        step("heads-80", "width 640, 8 heads of 80", "m-heads-80"), step("heads-80-round", "width 640, 10 heads of 64", "m-heads-80-round"),
        step("vocabulary", "vocabulary 50,257", "m-vocabulary-50257"), step("vocabulary-round", "vocabulary 50,176", "m-vocabulary-50257-round"),
    )

    def line(work, against, ours, theirs):
        return Line(f"training step, bf16, {work}: operations a second", against, ours, (theirs,), "share", 0.75)

    return Row("shapes", measures, (
        line("m, length 251", "length 256", "length", "round"),
        line("m, ragged: lengths of 1 to 256", "length 256", "ragged", "round"),
        line("m, 64 heads of 8 and 32 of keys", "8 heads of 64 and 4 of keys", "heads-8", "round"),
        line("width 640, 8 heads of 80 and 4 of keys", "10 heads of 64 and 5 of keys", "heads-80", "heads-80-round"),
        line("m, vocabulary 50,257", "vocabulary 50,176", "vocabulary", "vocabulary-round"),
    ), "Operations are those of the matrix products and of attention, where each query counts the keys that it sees.", rounds=3)


def losses_row():
    hone = "PYTHON hone_stage.py pretrain HONE --losses"
    torch = "PYTHON peers/losses.py"
    rest = "--model DATA/model-m-start --data DATA/windows.jsonl --batch 8 --rate 3e-4 --steps STEPS --threads THREADS"

    def curve(key, who, script, precision):
        return Measure(key, who, f"{script} --precision {precision} {rest}", (60, 3), "nats")

    measures = (curve("hone-bf16", "hone, bf16", hone, "bf16"), curve("hone-f32", "hone, f32", hone, "f32"),
                curve("torch-bf16", "PyTorch, bf16", torch, "bf16"), curve("torch-f32", "PyTorch, f32", torch, "f32"))
    work, against = "losses of 60 steps of 8 x 256, m, {}: distance from those of PyTorch in f32", "the distance of PyTorch in bf16"
    return Row("losses", measures, (
        Line(work.format("bf16"), against, "hone-bf16", ("torch-bf16",), "noise", base="torch-f32"),
        Line(work.format("f32"), against, "hone-f32", ("torch-bf16",), "noise", 0.1, base="torch-f32"),
        Line("losses of 60 steps of 8 x 256, m, bf16: distance from those of PyTorch in bf16", "the distance of PyTorch in f32", "hone-bf16", ("torch-f32",), "noise",
             1.0, base="torch-bf16"),
    ), "The same weights, the same texts in the same order, all of them new, AdamW with the same constants, clipping at norm 1, a constant learning rate, no dropout. "
       "Distance: the mean over the steps of the absolute difference of losses. The table below has the losses of the last step; results do not depend on speed, so one "
       "round says it all. The first line has no target: programs that round the same products to bf16 are about as far from f32 as one another. Whether hone's losses are "
       "PyTorch's within the noise of bf16, the other two say.", rounds=1)


def plan_row(name, stages, notes, limit=None):
    """`hone plan` beside the measured peak, which is at most `limit` bytes. Of each stage: what it is called, the work in words, hone_stage.py's arguments, steps."""
    measures, lines = [], []
    for stage, work, arguments, steps in stages:
        command = f"PYTHON hone_stage.py {arguments} --steps STEPS --threads THREADS"
        for part, who, option in (("plan", "hone plan", "--plan peak"), ("peak", "measured", "--memory")):
            measures.append(Measure(f"{stage}-{part}", f"{who}, {work}", f"{command} {option}", (steps, 1), "bytes"))
        lines.append(Line(f"{work}: `hone plan`'s peak", "the peak that is measured", f"{stage}-plan", (f"{stage}-peak",), "near", 0.10))
        if limit:
            lines.append(Line(f"{work}: peak memory", f"{limit / 1e9:.0f} GB", f"{stage}-peak", (), "most", limit, unit="bytes"))
    return Row(name, tuple(measures), tuple(lines), f"{notes} Memory does not depend on speed, so one round says it all.", rounds=1)


def plan_rows():
    q = "--model DATA/model-q --batch {} --length {} --rank 8"
    whole = "--model DATA/model-{} --data DATA/{} --batch {} --length 256"
    yield plan_row("plan-m", (
        ("pretrain", "pre-training, 8 x 256, m", f"pretrain HONE {whole.format('m', 'text.jsonl', 8)}", 3),
        ("pretrain-b", "pre-training, 8 x 256, b", f"pretrain HONE {whole.format('b', 'text.jsonl', 8)}", 3),
        ("shards", "pre-training, 16 x 256 in 4 shards, m", f"pretrain HONE {whole.format('m', 'text.jsonl', 16)} --shards 4", 3),
        ("sft", "tuning, 16 conversations, m", f"sft HONE {whole.format('m', 'sft.jsonl', 16)}", 3),
        ("lora", "LoRA tuning, 16 conversations, m", f"sft HONE {whole.format('m', 'sft.jsonl', 16)} --rank 8", 3),
        ("dpo", "DPO, 8 pairs, m", f"preference HONE {whole.format('m', 'pairs.jsonl', 8)}", 3),
    ), "bf16; rank 8 on q and v. Conversations and responses are ragged, up to 256 tokens.")
    yield plan_row("plan-q", (
        ("sft", "LoRA tuning, conversations of up to 512 tokens, shape of Qwen2.5-0.5B", f"sft HONE --data DATA/sft.jsonl --join 4 {q.format(2, 512)}", 3),
        ("ppo", "PPO with LoRA, 4 responses of 64 tokens, shape of Qwen2.5-0.5B",
         f"ppo HONE --data DATA/prompts.jsonl --reward DATA/model-q-reward {q.format(4, 64)}", 1),
    ), "bf16, rank 8 on q and v. PPO holds four networks of this shape: policy, reference, value network and reward model. Policy and value network are "
       "adapters, whose frozen weights are those of the reference and of the reward model.", limit=8e9)


def exactness_row():
    train = "LOOSE/{} bench train --model DATA/model-{} --precision bf16 --batch {} --length {} --steps STEPS --threads THREADS --json"
    sample = "LOOSE/{} bench generate --model DATA/model-m --precision bf16 --batch 16 --length 64 --new 48 --steps STEPS --threads THREADS --json"
    rl = "LOOSE/{} bench rl --model DATA/model-m --batch 16 --minibatch 4 --length 64 --new 64 --epochs 1 --steps STEPS --threads THREADS --json"
    tree = "PYTHON hone_stage.py pretrain HONE --model DATA/model-m --data DATA/text.jsonl --batch 16 --length 256 --steps STEPS --threads THREADS --shards {}"
    long = train.format("{}", "m-long", 2, 2048)
    measures, lines = [], []

    def pair(key, work, without, programs, command, steps):
        both = [f"{key}-{program}" for program in programs]
        measures.extend(Measure(k, f"{key}: {program}", command.format(program), steps) for k, program in zip(both, programs)
                        if k not in [m.key for m in measures])
        lines.append(Line(f"cost of exactness, {work}", without, both[0], (both[1],), "cost", 0.05 if programs[1] == "all" else None))

    step = train.format("{}", "m", 8, 256)
    pair("step", "training step, 8 x 256, m", "without all that can be taken out, but for the size of chunks", ("exact", "all"), step, (10, 3))
    pair("step", "exp of seven digits and divisions", "exp of five digits, approximate reciprocals", ("exact", "functions"), step, (10, 3))
    pair("step", "sums of a row in one order at every width", "four chains, larger chunks of rows", ("exact", "sums"), step, (10, 3))
    pair("step", "log-probabilities by chunks of 2,048", "chunks of 8,192", ("exact", "vocabulary"), step, (10, 3))
    pair("long", "training step, 2 x 2,048, m: segments that are merged", "one running pass over all keys", ("exact", "segments"), long, (6, 3))
    pair("sampling", "sampling, 64 + 48 tokens, batch 16, m", "without all that can be taken out, but for the size of chunks", ("exact", "all"), sample, (5, 1))
    pair("ppo", "PPO update, 4 minibatches, one epoch, m: the check before the first step", "no check", ("exact", "check"), rl, (4, 2))
    pair("shards", "gradients in a tree of 4 shards, 16 x 256, m", "1 shard, as it is unless asked for more", ("4", "1"), tree, (8, 4))
    measures.append(Measure("cache", "the share of keys and values", f"{train.format('exact', 'm', 8, 256)} --profile", (10, 3), "of the time", reads="cache"))
    lines.append(Line("keys and values by way of pages in training, 8 x 256, m: share of a step", "-", "cache", (), "most", unit="of the time"))
    return Row("exactness", tuple(measures), tuple(lines),
               "`bench/loose.py` builds hone as it is and without a constraint; the figure is how much more the loosened program does in the same time. "
               "**Not taken out**, because another kernel would be needed: products whose sums run over the whole length in one order, whatever the number of rows (how much "
               "faster other kernels are, the rows against PyTorch and llama.cpp say); attention of one sequence and head on one thread when decoding; randomness as a function of "
               "place, which costs some operations a token. Keys and values that are rounded once and read from pages in training as in decoding cost less than the time of putting them there.")


ROWS = (*train_rows(), sft_row(), *generate_rows(), *llama_rows(), *serving_rows(), ppo_row(), grpo_row(), dpo_row(), *lora_rows(), gemm_row(), *growth_rows(), shape_row(), losses_row(), *plan_rows(),
        exactness_row())


def chosen(names):
    """The rows of these names; a name that no row has stands for all that go on from it with a dash. No names: all rows."""
    if not names:
        return list(ROWS)
    known, found = {row.name for row in ROWS}, set()
    for name in names:
        some = {name} if name in known else {n for n in known if n.startswith(name + "-")}
        if not some:
            raise SystemExit(f"no row is called `{name}`; there are {', '.join(row.name for row in ROWS)}")
        found |= some
    return [row for row in ROWS if row.name in found]
