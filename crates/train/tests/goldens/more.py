"""Losses that depend on no draw of ours, torch's Muon, and a moving average, on the models of make.py.

Run with transformers 5.24 and torch 2.15 after make.py: `python more.py`. It writes the model `bert-masked`, the tables `symmetric.jsonl` and `turned.jsonl`, and `more.json`.
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification

HERE = pathlib.Path(__file__).parent
NAMES = ["B-X", "I-X", "O"]
WEIGHTS = {"a": 0.5, "b": 2.0, "c": 1.5}


def rows(name):
    return [json.loads(line) for line in (HERE / name).read_text().splitlines()]


def batch_of(tokenizer, table):
    batch = tokenizer([r["text"] for r in table], padding=True, return_tensors="pt")
    return batch, torch.tensor(["abc".index(r["label"]) for r in table])


def muon(tokenizer, out):
    """Six steps of Muon for the matrices of layers, in f32 as ours, and of AdamW for the rest; then the averaged weights."""
    model = BertForSequenceClassification.from_pretrained(HERE / "bert")
    batch, labels = batch_of(tokenizer, rows("texts.jsonl"))
    held, held_labels = batch_of(tokenizer, rows("turned.jsonl"))
    outer = ("embed", "position", "classifier")
    named = list(model.named_parameters())
    hidden = [p for n, p in named if p.dim() == 2 and not any(o in n for o in outer)]
    words = [p for n, p in named if p.dim() == 2 and any(o in n for o in outer)]
    vectors = [p for n, p in named if p.dim() == 1]
    adam = torch.optim.AdamW(
        [{"params": words, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=0.01, betas=(0.9, 0.95), eps=1e-8
    )
    orthogonal = torch.optim.Muon(hidden, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    average = torch.optim.swa_utils.AveragedModel(
        model, avg_fn=lambda mean, now, n: mean + (1 - min(0.9, (2.0 + n) / (11.0 + n))) * (now - mean)
    )
    torch.Tensor.bfloat16 = lambda x: x  # torch rounds the matrices of the iteration
    out["muon"] = []
    for _ in range(6):
        model.zero_grad()
        loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        adam.step()
        orthogonal.step()
        average.update_parameters(model)
        out["muon"].append(loss.item())
    with torch.no_grad():
        out["last"] = model(**held, labels=held_labels).loss.item()
        out["average"] = average.module(**held, labels=held_labels).loss.item()


def weighed(tokenizer, out):
    """Weights of classes and smoothed labels, of texts and of words."""
    model = BertForSequenceClassification.from_pretrained(HERE / "bert")
    batch, labels = batch_of(tokenizer, rows("texts.jsonl"))
    weight = torch.tensor([WEIGHTS[name] for name in "abc"])
    words = BertForTokenClassification.from_pretrained(HERE / "bert-tokens")
    table = rows("tokens.jsonl")
    of_words = tokenizer([r["tokens"] for r in table], is_split_into_words=True, padding=True, return_tensors="pt")
    tags = torch.full(of_words["input_ids"].shape, -100)
    for i, row in enumerate(table):
        last = None
        for j, word in enumerate(of_words.word_ids(i)):
            if word is not None and word != last:
                tags[i, j] = NAMES.index(row["tags"][word])
            last = word
    with torch.no_grad():
        scores = model(**batch).logits
        out["weighed"] = F.cross_entropy(scores, labels, weight=weight).item()
        out["smoothed"] = F.cross_entropy(scores, labels, label_smoothing=0.2).item()
        out["both"] = F.cross_entropy(scores, labels, weight=weight, label_smoothing=0.2).item()
        scores = words(**of_words).logits.reshape(-1, 3)
        weight = torch.tensor([3.0, 1.0, 0.25])
        out["words"] = F.cross_entropy(scores, tags.reshape(-1), weight=weight, label_smoothing=0.1).item()


def masked(tokenizer, out):
    torch.manual_seed(6)
    model = BertForMaskedLM.from_pretrained(HERE / "bert")
    torch.nn.init.normal_(model.cls.predictions.transform.dense.weight, std=0.3)
    torch.nn.init.normal_(model.cls.predictions.bias, std=0.3)
    model.save_pretrained(HERE / "bert-masked")
    texts = [[2, 7, 9, 4, 12, 3], [2, 4, 8, 3], [2, 21, 4, 17, 30, 11, 5, 3]]
    targets = [[-100, -100, 9, 33, -100, -100], [-100, 14, -100, -100], [-100, -100, 25, 17, -100, -100, 6, -100]]
    total = count = 0
    with torch.no_grad():
        for ids, wanted in zip(texts, targets):
            n = sum(t >= 0 for t in wanted)
            total += model(input_ids=torch.tensor([ids]), labels=torch.tensor([wanted])).loss.item() * n
            count += n
    out["masked"] = {"ids": texts, "targets": targets, "loss": total / count}


def main():
    tokenizer = AutoTokenizer.from_pretrained(HERE / "bert")
    pairs = [{key: row[key] for key in ("anchor", "positive")} for row in rows("pairs.jsonl")]
    (HERE / "symmetric.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    # No text of texts.jsonl, which would be left out of the training.
    turned = [{**row, "text": " ".join(reversed(row["text"].split()))} for row in rows("texts.jsonl")[:4]]
    (HERE / "turned.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    out = {}
    weighed(tokenizer, out)
    masked(tokenizer, out)
    muon(tokenizer, out)
    (HERE / "more.json").write_text(json.dumps(out, indent=1) + "\n")


main()
