"""The Python package beside PyTorch, transformers and performer-pytorch, on this CPU; each pair alternates in one run.

pip install ./python torch transformers performer-pytorch
python bench/peers/python.py [calls] [registered] [step] [performer] [--tokens N] [--threads N] [--rounds N]

calls       what a call of a mechanism costs over its work: a tiny window, direct and differentiable, and PyTorch's attention
registered  a ModernBERT of base size and random weights in transformers, with this package's attention and with eager attention:
            time, and the peak of memory over that of the loaded model, each in a process of its own
step        a training step (forward and backward) of a layer of windowed attention, against eager attention with the mask of the
            window and against PyTorch's fused one
performer   Performer(dim=512, depth=1, heads=8, causal=True) on 2,048 tokens, against performer-pytorch if it is installed

Without names, all of them. `--tokens` shortens `registered` and `step`, which read 8,192. Ratios above 1 say that this package is
faster, or needs less.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings

import torch

import longreach
from longreach import nn, ops


def alternating(works, rounds):
    """The median time of each function in seconds, in turn, after one call of each."""
    times = {name: [] for name in works}
    for round in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if round:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def told(title, times, ours, unit=1e3, name="ms"):
    parts = [f"{other} {time * unit:.1f} {name}" for other, time in times.items()]
    ratios = [f"{times[other] / times[ours]:.2f}x {other}" for other in times if other != ours]
    print(f"{title}: {', '.join(parts)}{'; ' + ', '.join(ratios) if ratios else ''}", flush=True)


def calls(options):
    q = torch.randn(1, 4, 1, 8)
    leaf = q.clone().requires_grad_()
    turned = q.transpose(1, 2)

    def many(call, n=500):
        def work():
            for _ in range(n):
                call()

        return work

    works = {
        "direct": many(lambda: ops.window(q, q, q, left=2)),
        "differentiable": many(lambda: ops.window(leaf, leaf, leaf, left=2)),
        "PyTorch": many(lambda: torch.nn.functional.scaled_dot_product_attention(turned, turned, turned)),
    }
    times = {name: found / 500 for name, found in alternating(works, options.rounds).items()}
    told("a call on 4 tokens", times, "direct", 1e6, "us")


def peak():
    """The largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def modernbert(attention, tokens):
    import transformers

    longreach.transformers.register()
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(max_position_embeddings=max(tokens, 8192), pad_token_id=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoModel.from_config(config, attn_implementation=attention).eval()


def child(options):
    """A forward pass in a process of its own: its times, its peak over that before, and a sum that says what came out."""
    model, ids = modernbert(options.child, options.tokens), torch.arange(options.tokens)[None] % 1000 + 10
    with torch.no_grad():
        model(input_ids=ids[:, :64])
        before, times = peak(), []
        for _ in range(options.rounds):
            start = time.perf_counter()
            out = model(input_ids=ids).last_hidden_state
            times.append(time.perf_counter() - start)
    print(json.dumps({"time": statistics.median(times), "peak": peak() - before, "sum": out.double().abs().mean().item()}))


def registered(options):
    found = {}
    for attention in ("longreach", "eager", "sdpa"):
        command = [sys.executable, __file__, "--child", attention, "--tokens", str(options.tokens)]
        command += ["--threads", str(options.threads), "--rounds", str(options.rounds)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            print(f"ModernBERT, {attention}: {run.stderr.strip().splitlines()[-1:] or run.returncode}")
            continue
        found[attention] = json.loads(run.stdout.splitlines()[-1])
    if "longreach" not in found:
        return print("ModernBERT: nothing to compare")
    title = f"ModernBERT of base size, {options.tokens} tokens"
    told(f"{title}, time", {name: one["time"] for name, one in found.items()}, "longreach")
    told(f"{title}, memory", {name: one["peak"] for name, one in found.items()}, "longreach", 1, "MB")
    sums = [one["sum"] for one in found.values()]
    assert max(sums) - min(sums) < 1e-3 * max(sums), f"the outputs differ: {sums}"


def step(options):
    tokens, window = options.tokens, 256
    layer = nn.WindowSelfAttention(512, 8, left=window, causal=True)
    x = torch.randn(1, tokens, 512)
    place = torch.arange(tokens)
    seen = (place[:, None] >= place) & (place[:, None] - place <= window)

    def attended(attend):
        def work():
            q, k, v = (p(x).unflatten(2, (8, 64)).transpose(1, 2) for p in (layer.to_q, layer.to_k, layer.to_v))
            y = layer.to_out(attend(q, k, v).transpose(1, 2).flatten(2))
            layer.zero_grad()
            y.square().mean().backward()

        return work

    def eager(q, k, v):
        scores = (q @ k.transpose(-1, -2) * 64**-0.5).masked_fill(~seen, float("-inf"))
        return scores.softmax(-1) @ v

    def ours():
        layer.zero_grad()
        layer(x).square().mean().backward()

    fused = attended(lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen))
    works = {"longreach": ours, "eager": attended(eager), "sdpa": fused}
    told(f"a training step of a window of {window}, {tokens} tokens", alternating(works, options.rounds), "longreach")


def performer(options):
    ours, x = nn.Performer(dim=512, depth=1, heads=8, causal=True).eval(), torch.randn(1, 2048, 512)
    works = {"longreach": ours}
    try:
        import performer_pytorch

        works["performer-pytorch"] = performer_pytorch.Performer(dim=512, depth=1, heads=8, causal=True, dim_head=64).eval()
    except ImportError:
        print("performer-pytorch is not installed: it is not compared")
    with torch.no_grad():
        ours(x[:, :64])
        before = peak()
        ours(x)
        print(f"Performer on 2048 tokens: {peak() - before:.0f} MB over the model")
        times = alternating({name: lambda model=model: model(x) for name, model in works.items()}, options.rounds)
    told("Performer on 2048 tokens", times, "longreach")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benches = {bench.__name__: bench for bench in (calls, registered, step, performer)}
    parser.add_argument("benches", nargs="*", metavar="NAME", help=", ".join(benches))
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [name for name in options.benches if name not in benches]
    if unknown:
        parser.error(f"no bench {unknown[0]!r}; there are {', '.join(benches)}")
    torch.set_num_threads(options.threads)
    longreach.set_num_threads(options.threads)
    if options.child:
        return child(options)
    print(f"longreach {longreach.__version__}, PyTorch {torch.__version__}, {options.threads} threads", flush=True)
    for name in options.benches or benches:
        benches[name](options)


if __name__ == "__main__":
    main()
