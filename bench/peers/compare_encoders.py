"""longreach beside Hugging Face transformers: the same weights, the same tokens, one after the other in one run.

    python bench/peers/compare_encoders.py --models DIR [--rounds N] [--longreach PATH] CASE ...

DIR holds what `encoders.py --save DIR/MODEL` wrote. A CASE is

    MODEL:TOKENS                    a text of so many tokens
    MODEL:TOKENS:bf16 or :int8      longreach in that precision beside longreach in f32
    MODEL:mixed                     256 texts of mixed length, written to DIR/mixed.json, there in batches by length
    MODEL:unsorted                  the same, in batches as the texts come

All batches of the last two are an hour: --every N takes every Nth. Every round measures both sides of every case once, each after a pass
for warmth. Printed is a table of medians of tokens a second, the ratio of the medians, and the ratios' spread over the rounds.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser()
parser.add_argument("cases", nargs="+")
parser.add_argument("--models", required=True, type=pathlib.Path)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--every", type=int, default=1)
parser.add_argument("--longreach", default=str(HERE.parent.parent / "target/release/longreach"))
args = parser.parse_args()


def run(command):
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def ours(model, what, dtype):
    command = [args.longreach, "bench", "encode", "-m", str(args.models / model), "--repeats", "1", "--json", "--dtype", dtype]
    command += ["--texts", str(args.models / "mixed.json")] if what in ("mixed", "unsorted") else ["--tokens", what]
    line = run(command + (["--first-global"] if model == "longformer" else []))
    return line["tokens_per_second"], line["peak_bytes"]


def theirs(model, what):
    command = [sys.executable, str(HERE / "encoders.py"), "--model", model, "--load", str(args.models / model), "--repeats", "1"]
    mixed = ["--mixed", "--every", str(args.every), "--lengths", str(args.models / "mixed.json")]
    kinds = {"mixed": mixed, "unsorted": mixed + ["--unsorted"]}
    line = run(command + kinds.get(what, ["--tokens", what]))
    return line["tokens"] / statistics.median(line["seconds"])


results = {}
for _ in range(args.rounds):
    for case in args.cases:
        model, what, *dtype = case.split(":")
        other = ours(model, what, "f32")[0] if dtype else theirs(model, what)
        speed, peak = ours(model, what, dtype[0] if dtype else "f32")
        results.setdefault(case, []).append((speed, other, peak))
        print(case, round(speed), round(other), file=sys.stderr, flush=True)
print("| case | longreach, tok/s | beside, tok/s | ratio | spread | peak, MB |\n| --- | --- | --- | --- | --- | --- |")
for case, rounds in results.items():
    speed, other = (statistics.median(r[i] for r in rounds) for i in (0, 1))
    ratios = sorted(a / b for a, b, _ in rounds)
    peak = max(p for *_, p in rounds) / 1e6
    print(f"| {case} | {speed:.0f} | {other:.0f} | {speed / other:.2f} | {ratios[0]:.2f}–{ratios[-1]:.2f} | {peak:.0f} |")
