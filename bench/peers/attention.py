"""PyTorch's scaled_dot_product_attention on this CPU, causal, f32: arithmetic rate forward and backward.

pip install torch==2.13.0
python bench/peers/attention.py [LONGEST] [WIDTH]

Prints what `cargo run --release -p longreach-bench --bin attention` prints: run the two in turn.
"""
import statistics
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(2)
longest = int(sys.argv[1]) if len(sys.argv) > 1 else 16384
width = int(sys.argv[2]) if len(sys.argv) > 2 else 64
heads = 768 // width


def report(what, work, runs, f):
    f()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    rates = [work / t / 1e9 for t in (statistics.median(times), max(times), min(times))]
    print(f"{what}, {heads} x {width}, {length} tokens: {rates[0]:.1f} GFLOP/s ({rates[1]:.1f} to {rates[2]:.1f})", flush=True)


length = 1024
while length <= longest:
    q, k, v = (torch.randn(1, heads, length, width, requires_grad=True) for _ in range(3))
    runs = (1 << 28) // (length * length) + 3
    flops = 2 * length * length * heads * width
    with torch.no_grad():
        report("dense causal forward", flops, runs, lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    d = torch.randn_like(out)
    report("dense causal backward", 2.5 * flops, runs, lambda: torch.autograd.grad(out, (q, k, v), d, retain_graph=True))
    length *= 4
