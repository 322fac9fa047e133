"""PyTorch's scaled_dot_product_attention on this CPU as the attention of one BERT-base layer: both ways, f32, forward and backward.

pip install torch==2.13.0
python bench/peers/layer.py [LONGEST]

Prints what `cargo run --release -p longreach-bench --bin layer` prints: run the two in turn.
"""
import statistics
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(2)
longest = int(sys.argv[1]) if len(sys.argv) > 1 else 16384
length = 4096
while length <= longest:
    q, k, v = (torch.randn(1, 12, length, 64, requires_grad=True) for _ in range(3))
    d = torch.randn(1, 12, length, 64)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        out = F.scaled_dot_product_attention(q, k, v)
        torch.autograd.grad(out, (q, k, v), d)
        times.append(1e3 * (time.perf_counter() - start))
    times.sort()
    print(f"{length} tokens, PyTorch dense: {statistics.median(times):.0f} ms ({times[0]:.0f} to {times[-1]:.0f})", flush=True)
    length *= 2
