"""Chunked forms of linear attention with decay and of the delta rule, and a loop over tokens, in PyTorch on the CPU, beside longreach's kernels.

    pip install torch==2.13.0
    python bench/peers/linear.py [TOKENS] [HEADS] [WIDTH] [--rounds N] [--longreach PATH]

The equations are those of GLA (Yang et al. 2024) and DeltaNet (Yang et al. 2024) with chunks of 64, all heads at once, and the state carried
from chunk to chunk. Gates are so mild that keys may be divided by what is left of them, which is the cheapest way. Every round measures PyTorch and
then longreach, each the median of three runs after one, and takes their ratio. Printed are medians over the rounds, with the ratios' spread.
"""

import argparse
import csv
import pathlib
import statistics
import subprocess
import tempfile
import time

import torch

CHUNK = 64
parser = argparse.ArgumentParser()
parser.add_argument("tokens", nargs="?", type=int, default=4096)
parser.add_argument("heads", nargs="?", type=int, default=12)
parser.add_argument("width", nargs="?", type=int, default=64)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--longreach", default=pathlib.Path(__file__).resolve().parents[2] / "target/release/longreach")
args = parser.parse_args()
tokens, heads, width = args.tokens, args.heads, args.width
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


def ours(mechanism, grad):
    """Milliseconds of the forward pass, or of the gradient and what it computes again of the forward pass."""
    with tempfile.NamedTemporaryFile() as out:
        shape = ["--lengths", str(tokens), "--heads", str(heads), "--width", str(width)]
        command = [args.longreach, "bench", "attention", "--mechanisms", mechanism, *shape, "--csv", out.name]
        subprocess.run(command + ["--grad"] * grad, check=True, capture_output=True)
        (row,) = csv.DictReader(open(out.name))
        return 1e3 * float(row["seconds"])


def line(name, theirs, mine):
    ratios = sorted(t / m for t, m in zip(theirs, mine))
    median = statistics.median
    print(f"{name:44} PyTorch {median(theirs):7.1f} ms, longreach {median(mine):6.1f} ms: {median(ratios):5.1f} x ({ratios[0]:.1f} to {ratios[-1]:.1f})", flush=True)


with torch.no_grad():
    assert (decayed(q, k, v, vector) - decayed_loop(q, k, v, vector)).abs().max() < 1e-3
    assert (delta(q, k, v, beta) - delta_loop(q, k, v, beta)).abs().max() < 1e-3
    for name, chunked, loop, gate, mechanism in (
        ("one gate a token (scan)", decayed, decayed_loop, scalar, "scan"),
        ("a gate a channel (gla)", decayed, decayed_loop, vector, "gla"),
        ("delta rule", delta, delta_loop, beta, "delta_rule"),
    ):
        seen = {"chunked": [], "loop": [], "chunked, forward and backward": []}
        mine = {kind: [] for kind in seen}
        for _ in range(args.rounds):
            seen["chunked"].append(milliseconds(lambda: chunked(q, k, v, gate)))
            mine["chunked"].append(ours(mechanism, False))
            seen["loop"].append(milliseconds(lambda: loop(q, k, v, gate)))
            mine["loop"].append(ours(mechanism, False))
            with torch.enable_grad():
                seen["chunked, forward and backward"].append(milliseconds(lambda: both(chunked, q, k, v, gate)))
            mine["chunked, forward and backward"].append(ours(mechanism, False) + ours(mechanism, True))
        for kind in seen:
            line(f"{name}, {kind}", seen[kind], mine[kind])
