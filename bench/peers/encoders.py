"""Hugging Face transformers on this CPU: base-size encoders over long inputs, random weights, f32.

pip install torch transformers==5.23.0
python bench/peers/encoders.py --model MODEL --tokens N --repeats R    a text of N random tokens, R times after one for warmth
python bench/peers/encoders.py --model MODEL --mixed                   256 texts of mixed lengths, in batches
python bench/peers/encoders.py --model MODEL --mixed --every N         every Nth of these batches: all of them are an hour
python bench/peers/encoders.py --model MODEL --save DIR                writes the checkpoint instead, for another program
python bench/peers/encoders.py --model MODEL --load DIR ...            reads such a checkpoint instead of making one

MODEL is modernbert (ModernBERT-base), longformer (Longformer-base of 4,096 tokens and window 512; the first token is global),
bigbird (BigBird-base, block-sparse) or bert (BERT-base with 4,096 positions). It prints one line of JSON:

    {"model", "tokens", "threads", "seconds": [..]}
    {"model", "mixed": true, "texts", "tokens", "batch", "threads", "seconds": [..], "tokens_per_second"}

The mixed lengths are log-uniform between 32 and 8,192, or the most that the model takes, and the tokens random, both drawn with
seed 0; --lengths FILE writes them as {"model", "lengths", "ids"}. Batches are as a careful user makes them: sorted by length, 8
at a time, padded to the longest, with a mask; with --unsorted in the order in which texts come. `tokens` counts those of the
texts, not the padding. ModernBERT and BERT run on PyTorch's scaled_dot_product_attention, the others on the attention that they
come with: BigBird's is full up to 704 tokens.
"""

import argparse
import json
import math
import pathlib
import random
import statistics
import time

import torch
import transformers

BATCH, TEXTS, SHORTEST, LONGEST = 8, 256, 32, 8192

# NAME: (configuration, model, the longest text)
MODELS = {
    "modernbert": (lambda: transformers.ModernBertConfig(), transformers.ModernBertModel, 8192),
    "longformer": (
        lambda: transformers.LongformerConfig(attention_window=512, max_position_embeddings=4098),
        transformers.LongformerModel, 4096,
    ),
    "bigbird": (lambda: transformers.BigBirdConfig(attention_type="block_sparse"), transformers.BigBirdModel, 4096),
    "bert": (lambda: transformers.BertConfig(max_position_embeddings=4096), transformers.BertModel, 4096),
}  # fmt: skip

parser = argparse.ArgumentParser()
parser.add_argument("--model", choices=MODELS, required=True)
parser.add_argument("--tokens", type=int, default=4096)
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--save", metavar="DIR")
parser.add_argument("--load", metavar="DIR")
parser.add_argument("--mixed", action="store_true")
parser.add_argument("--texts", type=int, default=TEXTS, help="how many texts --mixed has")
parser.add_argument("--every", type=int, default=1, help="of the batches of --mixed only every Nth")
parser.add_argument("--unsorted", action="store_true", help="batches of --mixed in the order in which texts come")
parser.add_argument("--lengths", metavar="FILE", help="where --mixed writes its lengths and tokens")
args = parser.parse_args()

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(args.threads)
torch.manual_seed(0)
config, kind, most = MODELS[args.model]


def run(model, ids, mask):
    extra = {}
    if args.model == "bigbird":
        # A text of at most 704 tokens switches it to full attention, for good.
        model.set_attention_type("block_sparse")
    if args.model == "longformer":
        extra["global_attention_mask"] = torch.zeros_like(ids)
        extra["global_attention_mask"][:, 0] = 1
    return model(ids, attention_mask=mask, **extra).last_hidden_state


def timed(model, parts, warm):
    """Seconds of each pass over `parts`, after the parts `warm`, which are not counted."""
    seconds = []
    with torch.inference_mode():
        for part in warm:
            run(model, *part)
        for _ in range(args.repeats):
            start = time.perf_counter()
            for part in parts:
                run(model, *part)
            seconds.append(round(time.perf_counter() - start, 4))
    return seconds


def mixed(vocabulary):
    """Tokens of the texts, in batches; no token is special."""
    rng = random.Random(0)
    low, high = math.log(SHORTEST), math.log(min(LONGEST, most))
    lengths = [round(math.exp(rng.uniform(low, high))) for _ in range(args.texts)]
    texts = [[rng.randrange(1000, vocabulary) for _ in range(length)] for length in lengths]
    if not args.unsorted:
        texts.sort(key=len, reverse=True)
    # The middle one of so many: not the longest of them.
    return [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)][args.every // 2 :: args.every]


def padded(batches, padding):
    for part in batches:
        width = max(len(text) for text in part)
        ids = torch.tensor([text + [padding] * (width - len(text)) for text in part])
        yield ids, torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in part])


model = (kind.from_pretrained(args.load, dtype=torch.float32) if args.load else kind(config())).eval()
if args.save:
    model.save_pretrained(args.save)
elif args.mixed:
    batches = mixed(model.config.vocab_size)
    texts = [text for part in batches for text in part]
    lengths = [len(text) for text in texts]
    if args.lengths:
        pathlib.Path(args.lengths).write_text(json.dumps({"model": args.model, "lengths": lengths, "ids": texts}) + "\n")
    # Only the shortest batch for warmth: a whole pass is minutes.
    parts = list(padded(batches, model.config.pad_token_id))
    seconds = timed(model, parts, [min(parts, key=lambda part: part[0].numel())])
    line = {"model": args.model, "mixed": True, "texts": len(texts), "tokens": sum(lengths), "batch": BATCH}
    line |= {"threads": args.threads, "seconds": seconds}
    print(json.dumps(line | {"tokens_per_second": round(sum(lengths) / statistics.median(seconds), 1)}), flush=True)
else:
    assert args.tokens <= most, f"{args.model} takes {most} tokens at most"
    ids = torch.randint(1000, model.config.vocab_size, (1, args.tokens))
    parts = [(ids, torch.ones_like(ids))]
    seconds = timed(model, parts, parts)
    print(json.dumps({"model": args.model, "tokens": args.tokens, "threads": args.threads, "seconds": seconds}), flush=True)
