"""Times the chunked forms of linear attention with decay and of the delta rule, and a loop over tokens, in PyTorch on the CPU.

    pip install torch==2.13.0
    python bench/peers/linear.py [TOKENS] [HEADS] [WIDTH]

The equations are those of GLA (Yang et al. 2024) and DeltaNet (Yang et al. 2024) with chunks of 64, all heads at once, and the state carried
from chunk to chunk. Gates are so mild that keys may be divided by what is left of them, which is the cheapest way. Prints milliseconds, the median
of three runs after one.
"""

import statistics
import sys
import time

import torch

CHUNK = 64
tokens, heads, width = (int(x) for x in (sys.argv[1:] + ["4096", "12", "64"][len(sys.argv) - 1 :]))
torch.set_num_threads(2)
torch.manual_seed(1)


def draw(*shape, low=-1.0, high=1.0):
    return torch.empty(shape).uniform_(low, high)


# [H, T, K]
q, v = draw(heads, tokens, width), draw(heads, tokens, width)
k = torch.nn.functional.normalize(draw(heads, tokens, width), dim=-1)
beta = draw(heads, tokens, 1, low=0.1)
scalar = draw(heads, tokens, 1, low=-0.05, high=-0.001)
vector = draw(heads, tokens, width, low=-0.05, high=-0.001)


def chunks(x):
    return x.view(heads, -1, CHUNK, x.shape[-1]).unbind(1)


def decayed(q, k, v, g):
    state, out = torch.zeros(heads, width, width), []
    for q, k, v, g in zip(*map(chunks, (q, k, v, g))):
        sums = g.cumsum(1)
        grown, last = q * sums.exp(), sums[:, -1:]
        scores = (grown @ (k * (-sums).exp()).mT).tril()
        out.append(grown @ state + scores @ v)
        state = last.exp().mT * state + (k * (last - sums).exp()).mT @ v
    return torch.cat(out, 1)


def delta(q, k, v, beta):
    state, out = torch.zeros(heads, width, width), []
    eye = torch.eye(CHUNK)
    for q, k, v, b in zip(*map(chunks, (q, k, v, beta))):
        lower = (b * (k @ k.mT)).tril(-1)
        new = torch.linalg.solve_triangular(lower + eye, b * (v - k @ state), upper=False, unitriangular=True)
        out.append(q @ state + (q @ k.mT).tril() @ new)
        state = state + k.mT @ new
    return torch.cat(out, 1)


def decayed_loop(q, k, v, g):
    state, out = torch.zeros(heads, width, width), []
    for t in range(tokens):
        state = g[:, t, :, None].exp() * state + k[:, t, :, None] * v[:, t, None]
        out.append((q[:, t, None] @ state)[:, 0])
    return torch.stack(out, 1)


def delta_loop(q, k, v, beta):
    state, out = torch.zeros(heads, width, width), []
    for t in range(tokens):
        new = beta[:, t] * (v[:, t] - (k[:, t, None] @ state)[:, 0])
        state = state + k[:, t, :, None] * new[:, None]
        out.append((q[:, t, None] @ state)[:, 0])
    return torch.stack(out, 1)


def milliseconds(f):
    times = []
    for _ in range(4):
        start = time.perf_counter()
        f()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def both(f, *inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    f(*leaves).sum().backward()


with torch.no_grad():
    assert (decayed(q, k, v, vector) - decayed_loop(q, k, v, vector)).abs().max() < 1e-3
    assert (delta(q, k, v, beta) - delta_loop(q, k, v, beta)).abs().max() < 1e-3
    for name, chunked, loop, gate in (
        ("one gate a token", decayed, decayed_loop, scalar),
        ("a gate a channel", decayed, decayed_loop, vector),
        ("delta rule", delta, delta_loop, beta),
    ):
        print(f"{name:18} chunked {milliseconds(lambda: chunked(q, k, v, gate)):9.1f} ms", end="", flush=True)
        print(f"   loop {milliseconds(lambda: loop(q, k, v, gate)):9.1f} ms", end="", flush=True)
        with torch.enable_grad():
            print(f"   chunked, forward and backward {milliseconds(lambda: both(chunked, q, k, v, gate)):9.1f} ms", flush=True)
