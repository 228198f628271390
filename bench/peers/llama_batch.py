"""llama.cpp, several sequences decoded in one batch through its C interface, greedily; no server. Reading the prompts is in the time.

--unified: one cache for all sequences, which llama.cpp advises where they share a beginning; else each has its own part.
"""
import ctypes
import random

import llama_cpp as llama
import numpy as np

from common import parse, report, seconds

a = parse(__doc__, batch=1, length=64, new=64, steps=3, unified=False)
llama.llama_backend_init()
silent = llama.llama_log_callback(lambda *_: None)  # referred to as long as the library may call it
llama.llama_log_set(silent, None)
model = llama.llama_model_load_from_file(a.model.encode(), llama.llama_model_default_params())
assert model, f"{a.model}: llama.cpp cannot load it"
settings = llama.llama_context_default_params()
settings.n_ctx = a.batch * (a.length + a.new + 8)
settings.n_batch = max(2048, a.batch * a.length)
settings.n_ubatch = 512
settings.n_seq_max = a.batch
settings.kv_unified = a.unified
settings.n_threads = settings.n_threads_batch = a.threads
context = llama.llama_init_from_model(model, settings)
assert context, "llama.cpp cannot make a context"
vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
batch = llama.llama_batch_init(settings.n_batch, 0, 1)
draw = random.Random(1)
prompts = [[draw.randrange(3, vocabulary) for _ in range(a.length)] for _ in range(a.batch)]


def decode(rows):
    """Computes (token, position, sequence, whether its logits are wanted) together; the likeliest next token of the wanted ones."""
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, wanted) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
        batch.seq_id[i][0] = sequence
    assert llama.llama_decode(context, batch) == 0
    best = []
    for i in (i for i, row in enumerate(rows) if row[3]):
        logits = ctypes.cast(llama.llama_get_logits_ith(context, i), ctypes.POINTER(ctypes.c_float))
        best.append(int(np.ctypeslib.as_array(logits, shape=(vocabulary,)).argmax()))
    return best


def run():
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    last = a.length - 1
    tokens = decode([(token, at, s, at == last) for s, prompt in enumerate(prompts) for at, token in enumerate(prompt)])
    for at in range(a.length, a.length + a.new - 1):
        tokens = decode([(token, at, s, True) for s, token in enumerate(tokens)])


report("tokens/s", a.batch * a.new, seconds(run, a.steps + 1, warm_up=1))
