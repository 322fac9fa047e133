"""A small ModernBERT with weights that have learned something: for what `longreach accuracy` says of 8-bit weights.

    pip install torch transformers==5.23.0
    python bench/peers/train_encoder.py --text DIR --out DIR [--minutes 20] [--threads 2]

The text is every .md file under DIR. A WordPiece vocabulary of 8,000 is made of it, and masked tokens (30 %, as ModernBERT was trained)
are learned for so many minutes. The last fiftieth of the text is left out of both; its lines of at least 200 characters are written to
OUT/held-out.txt, and the loss there is printed.
"""

import argparse
import pathlib
import random
import time

import tokenizers
import torch
import transformers

parser = argparse.ArgumentParser()
parser.add_argument("--text", required=True, type=pathlib.Path)
parser.add_argument("--out", required=True, type=pathlib.Path)
parser.add_argument("--minutes", type=float, default=20)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
VOCABULARY, TOKENS, BATCH = 8000, 128, 32
files = sorted(args.text.rglob("*.md"))
random.Random(0).shuffle(files)
seen, texts = set(), []
for file in files:
    text = file.read_text(errors="replace")
    if hash(text) not in seen:
        seen.add(hash(text))
        texts.append(text)
held = max(1, len(texts) // 50)
args.out.mkdir(parents=True, exist_ok=True)
lines = [line for text in texts[-held:] for line in text.splitlines() if len(line) >= 200]
(args.out / "held-out.txt").write_text("\n".join(lines) + "\n")

special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
words = tokenizers.BertWordPieceTokenizer()
words.train_from_iterator(texts[:-held], vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
words.save(str(args.out / "tokenizer.json"))
train, rest = (torch.tensor([i for part in texts_ for i in words.encode(part).ids[1:-1]]) for texts_ in (texts[:-held], texts[-held:]))

config = transformers.ModernBertConfig(
    vocab_size=words.get_vocab_size(), hidden_size=256, intermediate_size=384, num_hidden_layers=6, num_attention_heads=4,
    pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3, max_position_embeddings=1024,
)  # fmt: skip
model = transformers.ModernBertForMaskedLM(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)


def batch(tokens):
    starts = torch.randint(0, len(tokens) - TOKENS, (BATCH,))
    ids = torch.stack([tokens[i : i + TOKENS] for i in starts])
    masked = torch.rand(ids.shape) < 0.3
    return ids.masked_fill(masked, 4), ids.masked_fill(~masked, -100)


def loss_of(tokens):
    ids, labels = batch(tokens)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss


begin, step = time.perf_counter(), 0
while (spent := (time.perf_counter() - begin) / 60 / args.minutes) < 1:
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * min(1, (step + 1) / 100) * max(0.02, 1 - spent)
    loss = loss_of(train)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    step += 1
    if step % 100 == 0:
        print(f"step {step}: {loss.item():.3f}", flush=True)
with torch.no_grad():
    model.eval()
    held_out = sum(loss_of(rest).item() for _ in range(20)) / 20
model.save_pretrained(args.out)
print(f"{step} steps, {len(train)} tokens of text; loss on text left out {held_out:.3f}, at the start {torch.log(torch.tensor(float(config.vocab_size))):.3f}")
