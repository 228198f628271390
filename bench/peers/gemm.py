"""A square matrix product of PyTorch: plain or with the right operand transposed, as nn.Linear has it, whichever is faster. --ordered: with
the right operand re-ordered for oneDNN's kernels beforehand, as compiled models have it. Each figure is the best of about --seconds.
"""
import statistics
import time

import torch

from common import parse, report

a = parse(__doc__, needs_model=False, precision="bf16", size=2048, steps=5, seconds=0.2, ordered=False)
torch.set_num_threads(a.threads)
torch.manual_seed(1)
dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[a.precision]
left = torch.randn(a.size, a.size).to(dtype)
right = torch.randn(a.size, a.size).to(dtype)
if a.ordered:
    ordered = torch.ops.mkldnn._reorder_linear_weight(right, a.size)
    ways = [lambda: torch.ops.mkldnn._linear_pointwise(left, ordered, None, "none", [], "")]
else:
    ways = [lambda: torch.matmul(left, right), lambda: torch.matmul(left, right.T)]


def best(way):
    least, end = float("inf"), time.perf_counter() + a.seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        way()
        least = min(least, time.perf_counter() - start)
    return least


with torch.inference_mode():
    figures = [[best(way) for _ in range(a.steps + 1)][1:] for way in ways]
report("GFLOP/s", 2 * a.size**3 / 1e9, min(figures, key=statistics.median))
