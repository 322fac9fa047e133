"""Chunked forms of linear attention with decay and of the delta rule, and a loop over tokens, in PyTorch on the CPU, beside longreach's kernels.

    pip install torch==2.15.0 transformers==5.23.0
    python bench/peers/linear.py [TOKENS] [HEADS] [WIDTH] [--rounds N] [--longreach PATH]

The equations are those of GLA (Yang et al. 2024) and DeltaNet (Yang et al. 2024) with chunks of 64, all heads at once, and the state carried
from chunk to chunk. Gates are so mild that keys may be divided by what is left of them, which is the cheapest way. They take and give `[T, H, K]`, as
projections leave it and longreach takes it; "heads first" is without the copies to `[H, T, K]` and back. "transformers" are that library's own chunked
forms, those which Mamba-2 and Qwen3-Next run on a CPU. Every round measures PyTorch and then longreach, each the median of three runs after one, and
takes their ratio. Printed are medians over the rounds, with the ratios' spread.
"""

import argparse
import csv
import pathlib
import statistics
import subprocess
import tempfile
import time

import torch
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

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


def heads_first(f):
    """`f`, of inputs `[T, H, K]`."""
    return lambda *inputs: f(*(x.transpose(0, 1).contiguous() for x in inputs)).transpose(0, 1).contiguous()


def transformers_scan(q, k, v, g):
    """Of `[T, H, K]`, one gate a token; values are multiplied by the step, the negative gate, in there."""
    values, steps, keys, queries = (x[None] for x in (v / -g, -g[..., 0], k, q))
    return mamba2_chunk_scan(values, steps, -torch.ones(heads), keys, queries, CHUNK)[0]


def transformers_delta(q, k, v, g, beta):
    """As [`transformers_scan`]; queries are scaled in there."""
    q, k, v, g, beta = (x[None] for x in (q * width**0.5, k, v, g[..., 0], beta[..., 0]))
    return torch_chunk_gated_delta_rule(q, k, v, g, beta, CHUNK)[0][0]


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
    print(f"{name:68} PyTorch {median(theirs):7.1f} ms, longreach {median(mine):6.1f} ms: {median(ratios):5.1f} x ({ratios[0]:.1f} to {ratios[-1]:.1f})", flush=True)


with torch.no_grad():
    assert (decayed(q, k, v, vector) - decayed_loop(q, k, v, vector)).abs().max() < 1e-3
    assert (delta(q, k, v, beta) - delta_loop(q, k, v, beta)).abs().max() < 1e-3
    by_token = [x.transpose(0, 1).contiguous() for x in (q, k, v, scalar, beta)]
    assert (transformers_scan(*by_token[:4]) - heads_first(decayed_loop)(*by_token[:4])).abs().max() < 1e-3
    ungated = (*by_token[:3], 0 * by_token[3], by_token[4])
    assert (transformers_delta(*ungated) - heads_first(delta_loop)(*by_token[:3], by_token[4])).abs().max() < 1e-3
    for name, mechanism, chunked, loop, inputs in (
        ("one gate a token (scan)", "scan", decayed, decayed_loop, (q, k, v, scalar)),
        ("a gate a channel (gla)", "gla", decayed, decayed_loop, (q, k, v, vector)),
        ("delta rule", "delta_rule", delta, delta_loop, (q, k, v, beta)),
        ("one gate a token (scan), transformers", "scan", transformers_scan, None, (q, k, v, scalar)),
        ("gated delta rule, transformers", "gated_delta", transformers_delta, None, (q, k, v, scalar, beta)),
    ):
        by_token = [x.transpose(0, 1).contiguous() for x in inputs]
        forms = {"chunked": lambda: chunked(*by_token)}
        if loop:
            both_ways = heads_first(chunked)
            forms = {"chunked, heads first": lambda: chunked(*inputs), "chunked": lambda: both_ways(*by_token), "loop": lambda: loop(*inputs)}
        else:
            both_ways = chunked
        theirs = {kind: [] for kind in [*forms, "chunked, forward and backward"]}
        mine = {kind: [] for kind in theirs}
        for _ in range(args.rounds):
            for kind, form in forms.items():
                theirs[kind].append(milliseconds(form))
                mine[kind].append(ours(mechanism, False))
            with torch.enable_grad():
                theirs[kind := "chunked, forward and backward"].append(milliseconds(lambda: both(both_ways, *by_token)))
            mine[kind].append(ours(mechanism, False) + ours(mechanism, True))
        for kind in theirs:
            line(f"{name}, {kind}", theirs[kind], mine[kind])
