"""Steps of masked pre-training in transformers on PyTorch, beside `longreach bench train`.

    pip install torch transformers==5.24.0
    python bench/peers/train_steps.py [--model bert-base] [--lengths 512,1024,2048,4096] [--repeat 5] [--threads 2] [--longreach PROGRAM] [--csv FILE]

BERT with dense attention (torch's scaled_dot_product_attention), Longformer with a window of 512 tokens and a global first token, and BigBird with
blocks of 64 and three random ones: random weights, one text, 15 % of the tokens predicted, AdamW, in f32, with activations stored and with
`gradient_checkpointing`. Each point runs in a process of its own, whose peak memory is reported. With --longreach, the points of
`longreach bench train` are measured in turn with them, length by length, so that other load slows both alike.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import time

SIZES = {"tiny": (2, 2, 32, 1000), "bert-base": (12, 12, 64, 30522), "bert-large": (24, 16, 64, 30522)}
KINDS = ("bert", "longformer", "big_bird")

parser = argparse.ArgumentParser()
parser.add_argument("--model", choices=SIZES, default="bert-base")
parser.add_argument("--lengths", default="512,1024,2048,4096")
parser.add_argument("--kinds", default=",".join(KINDS))
parser.add_argument("--repeat", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--longreach", help="the program to measure in turn")
parser.add_argument("--csv", help="a file for the results")
parser.add_argument("--point", help=argparse.SUPPRESS)
args = parser.parse_args()


def model_of(kind, tokens):
    import transformers as t

    layers, heads, width, vocabulary = SIZES[args.model]
    sizes = dict(
        num_hidden_layers=layers, num_attention_heads=heads, hidden_size=heads * width, intermediate_size=4 * heads * width,
        vocab_size=vocabulary, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    if kind == "longformer":
        return t.LongformerForMaskedLM(t.LongformerConfig(attention_window=512, max_position_embeddings=tokens + 514, **sizes))
    if kind == "big_bird":
        return t.BigBirdForMaskedLM(t.BigBirdConfig(block_size=64, num_random_blocks=3, max_position_embeddings=max(tokens, 1024), **sizes))
    return t.BertForMaskedLM(t.BertConfig(max_position_embeddings=tokens, attn_implementation="sdpa", **sizes))


def measure(kind, tokens, recompute):
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = model_of(kind, tokens).train()
    if recompute:
        model.gradient_checkpointing_enable()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    vocabulary, seconds = SIZES[args.model][3], []
    for _ in range(args.repeat + 1):
        ids = torch.randint(5, vocabulary, (1, tokens))
        labels = ids.masked_fill(torch.rand(ids.shape) >= 0.15, -100)
        more = {}
        if kind == "longformer":
            more["global_attention_mask"] = torch.zeros_like(ids).index_fill(1, torch.tensor([0]), 1)
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=labels, **more).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    # The first step is not counted.
    return {"seconds": sorted(seconds[1:]), "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def child(point):
    command = [sys.executable, __file__, "--model", args.model, "--repeat", str(args.repeat), "--threads", str(args.threads)]
    out = subprocess.run([*command, "--point", json.dumps(point)], capture_output=True, text=True)
    if out.returncode != 0:
        return None, out.stderr.strip().splitlines()[-1:] or [f"status {out.returncode}"]
    return json.loads(out.stdout.splitlines()[-1]), None


def ours(tokens):
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        command = [args.longreach, "bench", "train", "--model", args.model, "--lengths", str(tokens), "--repeat", str(args.repeat)]
        subprocess.run([*command, "--threads", str(args.threads), "--limit", "1e9", "--csv", file.name], check=True, stdout=subprocess.DEVNULL)
        with open(file.name) as table:
            yield from csv.DictReader(table)


def main():
    if args.point:
        print(json.dumps(measure(**json.loads(args.point))))
        return
    rows = []
    for tokens in map(int, args.lengths.split(",")):
        if args.longreach:
            rows += [{"library": "longreach", **row} for row in ours(tokens)]
        for kind in args.kinds.split(","):
            for recompute in (False, True):
                measured, failed = child({"kind": kind, "tokens": tokens, "recompute": recompute})
                if failed:
                    print(f"{kind} at {tokens} tokens: {failed[0]}", file=sys.stderr)
                    continue
                seconds = measured["seconds"]
                rows.append({
                    "library": "transformers", "attention": kind, "recompute": "on" if recompute else "off", "tokens": tokens,
                    "seconds": seconds[len(seconds) // 2], "fastest": seconds[0], "slowest": seconds[-1], "bytes": measured["bytes"],
                })  # fmt: skip
        for row in rows:
            if int(row["tokens"]) == tokens:
                megabytes = float(row["bytes"] or 0) / 1e6
                what = f"{row['library']} {row['attention']}, recompute {row['recompute']}"
                print(f"{tokens:>7} {what:<44} {float(row['seconds']):9.3f} s {megabytes:9.0f} MB", flush=True)
    if args.csv:
        names = ["library", "attention", "recompute", "tokens", "seconds", "fastest", "slowest", "bytes"]
        with open(args.csv, "w", newline="") as file:
            table = csv.DictWriter(file, names)
            table.writeheader()
            table.writerows(rows)


main()
