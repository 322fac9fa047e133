"""Peak memory of one training step of eager dense attention in PyTorch, 12 heads of 64, f32: softmax(q k^T) v with autograd.

pip install torch==2.13.0
python bench/peers/longest.py TOKENS

`cargo run --release -p longreach-bench --bin longest -- TOKENS` is the same with a window.
"""
import resource
import sys

import torch

torch.set_num_threads(2)
length = int(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
q, k, v = (torch.randn(1, 12, length, 64, requires_grad=True) for _ in range(3))
out = ((q @ k.transpose(2, 3)) * 64**-0.5).softmax(-1) @ v
(out * out).sum().backward()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{length} tokens: peak {peak / 2**20:.2f} GiB, {before / 2**20:.2f} of it before the first tensor")
