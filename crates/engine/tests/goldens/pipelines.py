"""Makes the goldens of what stands behind an encoder: modules of sentence-transformers in an order of their own, and the pipelines of transformers for
classification. All start from the encoder and the tokenizer in st-bert-mean.

    pip install torch==2.15.0 transformers==5.24.0 sentence-transformers==6.2.0 safetensors
    python pipelines.py

Writes next to this file

    modules/      what is put over a copy of st-bert-mean: Normalize, then LayerNorm, then Dense 24 to 10 without an activation; 7 numbers are kept
                  (`truncate_dim`), compared by dot product; the prompt "query" is null. expected.json has `texts` and `vectors`.
    labels/       BertForSequenceClassification of 3 labels whose names are numbers. expected.json has `texts` and, under `single` (softmax), `multi`
                  (`problem_type` multi_label_classification) and `regression`, a text's scores in the order of the labels; `pairs` with their `single` scores,
                  the last pair longer than the model reads.
    entities/     BertForTokenClassification; its labels are B-, I-, one without a prefix and one with a prefix that is neither. expected.json has `texts`
                  and `entities`, by `aggregation_strategy="simple"`, with places in characters.

Made with torch 2.15.0, transformers 5.24.0 and sentence-transformers 6.2.0, in float32.
"""

import json
import pathlib
import shutil
import tempfile

import safetensors.torch
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm

HERE = pathlib.Path(__file__).resolve().parent
BASE = HERE / "st-bert-mean"
TEXTS = [
    "A quick river flows under the old stone bridge.",
    "words",
    "The café of our déjà vu, naïve résumé; cafe\u0301 again!",
    "🚀 The rocket flies to the moon 🌙 — 👩‍🚀 waves.",
    "The visitor planted yellow trees near the village school in spring.",
]


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def modules():
    out = HERE / "modules"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with tempfile.TemporaryDirectory() as whole:
        whole = pathlib.Path(whole) / "m"
        shutil.copytree(BASE, whole)
        torch.manual_seed(7)
        dense = Dense(24, 10, activation_function=torch.nn.Identity())
        norm = LayerNorm(24)
        with torch.no_grad():
            for p in [*norm.parameters(), *dense.parameters()]:
                p.copy_(torch.randn_like(p) * 0.5 + 0.3)
        listed = json.loads((whole / "modules.json").read_text())
        assert [m["type"].rsplit(".", 1)[-1] for m in listed] == ["Transformer", "Pooling", "Normalize"]
        for name, module in [("3_LayerNorm", norm), ("4_Dense", dense)]:
            (out / name).mkdir()
            module.save(str(out / name))
            listed.append({"idx": len(listed), "name": str(len(listed)), "path": name, "type": f"{type(module).__module__}.{type(module).__name__}"})
        write(out / "modules.json", listed)
        settings = {"prompts": {"query": None, "document": "passage: "}, "default_prompt_name": "query", "similarity_fn_name": "dot", "truncate_dim": 7}
        write(out / "config_sentence_transformers.json", settings)
        shutil.copytree(out, whole, dirs_exist_ok=True)
        model = SentenceTransformer(str(whole), device="cpu", truncate_dim=settings["truncate_dim"], similarity_fn_name="dot")
        model.default_prompt_name = None
        vectors = model.encode(TEXTS)
        assert vectors.shape == (len(TEXTS), 7)
    write(out / "expected.json", {"texts": TEXTS, "vectors": vectors.tolist()})


def classifier(name, kind, labels):
    out = HERE / name
    shutil.rmtree(out, ignore_errors=True)
    config = transformers.AutoConfig.from_pretrained(BASE)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    torch.manual_seed(5)
    model = kind.from_pretrained(BASE, config=config)
    with torch.no_grad():
        for p in model.classifier.parameters():
            p.copy_(torch.randn_like(p))
    model.eval().save_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE)
    tokenizer.save_pretrained(out)
    return out, model, tokenizer


def labels():
    out, model, tokenizer = classifier("labels", transformers.BertForSequenceClassification, ["one", "two", "three"])
    # The names are numbers, as some exporters write them.
    config = json.loads((out / "config.json").read_text())
    config["id2label"] = {"0": 0, "1": 1, "2": 2}
    config.pop("label2id", None)
    write(out / "config.json", config)
    pairs = [[TEXTS[0], TEXTS[4]], ["words", "The rocket flies."], [" ".join(TEXTS[:2] * 4), " ".join(TEXTS[2:] * 3)]]
    expected = {"texts": TEXTS, "pairs": pairs}
    order = ["one", "two", "three"]

    def scores(inputs, **more):
        pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
        rows = pipe(inputs, top_k=None, **more)
        return [[{r["label"]: r["score"] for r in row}[label] for label in order] for row in rows]

    for name, problem in [("single", None), ("multi", "multi_label_classification"), ("regression", "regression")]:
        model.config.problem_type = problem
        expected[name] = scores(TEXTS)
    model.config.problem_type = None
    dicts = [{"text": a, "text_pair": b} for a, b in pairs]
    limit = tokenizer.model_max_length
    assert limit < model.config.max_position_embeddings
    expected["of_pairs"] = scores(dicts, truncation="longest_first", max_length=limit)
    expected["limit"] = limit
    write(out / "expected.json", expected)


def entities():
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "ORG", "E-MISC"]
    out, model, tokenizer = classifier("entities", transformers.BertForTokenClassification, names)
    # All labels are about equally frequent: their mean score over the texts is 0.
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt")).logits[0, 1:-1] for text in TEXTS]
        model.classifier.bias -= torch.cat(rows).mean(0)
    model.save_pretrained(out)
    pipe = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer, device="cpu", aggregation_strategy="simple")
    found = [[[e["entity_group"], float(e["score"]), e["start"], e["end"]] for e in pipe(text)] for text in TEXTS]
    kinds = {e[0] for row in found for e in row}
    covered = sum(e[3] - e[2] for row in found for e in row)
    assert len(kinds) == 4 and any(e[3] - e[2] > 8 for row in found for e in row), kinds
    assert covered < sum(len(text) - text.count(" ") for text in TEXTS) - 10, "some tokens have no label"
    write(out / "expected.json", {"texts": TEXTS, "entities": found})


modules()
labels()
entities()
