"""llama.cpp, one sequence, through its C interface: --new 0 reads a prompt; otherwise tokens are decoded one by one, greedily.

The time of decoding leaves the prompt out; --length 1 --new N is N passes of the model, each of one token.
"""
import ctypes
import random

import llama_cpp as llama
import numpy as np

from common import parse, report, seconds

a = parse(__doc__, length=1, new=0, steps=3)
llama.llama_backend_init()
silent = llama.llama_log_callback(lambda *_: None)  # referred to as long as the library may call it
llama.llama_log_set(silent, None)
model = llama.llama_model_load_from_file(a.model.encode(), llama.llama_model_default_params())
assert model, f"{a.model}: llama.cpp cannot load it"
settings = llama.llama_context_default_params()
settings.n_ctx = a.length + a.new + 8
settings.n_batch = settings.n_ubatch = max(512, a.length)
settings.n_threads = settings.n_threads_batch = a.threads
context = llama.llama_init_from_model(model, settings)
assert context, "llama.cpp cannot make a context"
vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
draw = random.Random(1)
prompt = [draw.randrange(3, vocabulary) for _ in range(a.length)]


def feed(tokens):
    """Reads the tokens; the most likely next one."""
    array = (llama.llama_token * len(tokens))(*tokens)
    assert llama.llama_decode(context, llama.llama_batch_get_one(array, len(tokens))) == 0
    logits = ctypes.cast(llama.llama_get_logits_ith(context, -1), ctypes.POINTER(ctypes.c_float))
    return int(np.ctypeslib.as_array(logits, shape=(vocabulary,)).argmax())


def forget():
    llama.llama_memory_clear(llama.llama_get_memory(context), True)


def read():
    forget()
    feed(prompt)


def decode():
    token = 5
    for _ in range(a.new):
        token = feed([token])


if a.new == 0:
    read()
    report("tokens/s", a.length, seconds(read, a.steps, warm_up=0))
else:
    times = []
    for _ in range(a.steps + 1):
        forget()
        if a.length > 1:
            feed(prompt[1:])
        times += seconds(decode, 1, warm_up=0)
    report("tokens/s", a.new, times[1:])
