"""Makes the goldens of sentence embeddings: small random encoders with real tokenizers, as sentence-transformers and PyLate
write them, and the vectors that those compute.

    pip install torch==2.15.0 transformers==5.23.0 sentence-transformers==6.2.0 safetensors
    python sentences.py

    pip install pylate==1.6.0          in another environment: it wants sentence-transformers 5.3.0 and transformers 5.3.0
    python sentences.py colbert

The tokenizers are trained here on sentences of the words below: WordPiece without case and accents (BERT), and byte-level BPE
(RoBERTa, ModernBERT). The first command writes next to this file

    st-bert-mean          mean, Normalize; prompts "query" and "passage", no default; at most 48 tokens
    st-roberta-cls        cls, Dense 24 to 10 with bias and tanh; "passage" is the default prompt; at most 40 tokens
    st-modernbert-max     cls, max and mean_sqrt_len_tokens behind one another, without the prompt's tokens, Normalize; at most 56
    st-bert-lasttoken     weightedmean and lasttoken behind one another, Dense 48 to 24 with a residual; at most the model's 64
    vocab-only/bert       st-bert-mean as old versions wrote directories: vocab.txt and no tokenizer.json, pooling_mode_* keys,
                          no prompts, the limit of tokens in sentence_bert_config.json
    vocab-only/roberta    st-roberta-cls likewise, with vocab.json and merges.txt

each with texts.json:

    texts                 the texts; they hold accents, emoji, Chinese, line ends, spaces outside, special tokens, nothing at all
    max_seq_length        tokens, special ones included, that are left of a text
    prompt                the name of the default prompt, or null
    cases                 for each way to call `encode`: `prompt_name` (null if it gets none; the first case is `encode` with nothing
                          but texts), `prompt`, what goes before the texts, or null, `ids`, each text's tokens, `prompt_length`,
                          the tokens in front that are not pooled, or null, and `tensor`, the name in
expected.safetensors:

    vectors, vectors.PROMPT, vectors.none (where a default prompt is switched off)    f32 [texts, dimensions]

The second command writes

    colbert               BERT, Dense 24 to 12; 16 tokens a query, the added ones not attended to; 40 a document; punctuation is
                          skipped
    colbert-attend        ModernBERT, two Dense, the first with a residual; 20 tokens a query, the added ones attended to; 32 a
                          document; nothing is skipped; the prefixes were tokens of the vocabulary before

each with texts.json: `queries`, `documents`; `query_ids`, `document_ids`, the tokens that the encoder sees; `document_kept`,
the positions among them whose vectors are kept; `query_ids_plain` without expansion; and expected.safetensors:

    query.N, document.N   f32 [tokens, dimensions], of unit length
    query_plain.N         the same queries without expansion (`do_query_expansion` false)
    similarities, similarities_plain    f32 [queries, documents], sums over a query's tokens of the largest product

All in float32 on one thread of a CPU. Parameters are random, norms and biases too; the script checks that each of them matters,
that no two texts have about the same vector, and that texts in one batch are what they are alone.

Versions of sentence-transformers differ, and the goldens are of 6.2.0. 5.3.0 strips white space around prompt and text together,
which byte-level BPE sees, and around the prompt when it counts its tokens; and with `include_prompt` false its cls is the first
token, not the first behind the prompt. PyLate strips, too, so the texts of colbert have nothing to strip; MultiVectorEncoder of
6.2.0 computes the same vectors from these folders.

Made with torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3 and sentence-transformers 6.2.0; colbert and colbert-attend with
PyLate 1.6.0, transformers 5.3.0, tokenizers 0.22.2 and sentence-transformers 5.3.0.
"""

import json
import os
import pathlib
import random
import shutil
import string
import sys
import tempfile

import safetensors.torch
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
HIDDEN = 24

WORDS = """
a about across after all an and are around at autumn away bird birds black blue boat boats book books bread bridge bright bring
brings by café called carry carried children city clean clear cloud clouds coast cold colour come comes cook cooked cooking dark
day days deep déjà dinner door down dream dry earth east evening every far field fields find finds fire first fish fishing flow
flows fly flying for forest friend friends from garden gardener give given gives glass gone good great green grow grows growing
hand hands happy has hear heard heavy high hill hills his home hot house houses in into is island it its key kind known lake lamp
land large late leaf leaves left letter letters light like line lines little long look looked looking low made make many map
market meadow milk moon more morning mountain mountains naïve near never new night north not of often old on open opened or our
over paper passage path people place plant planted planting play played quick quickly quiet rain rained raining read reader
reading red rest river rivers road roads rocket room round sail sailed sailing salt sand school sea search second see sees sent
seven ship ships shore short sing singing sky slow slowly small snow some song songs south spring star stars stone stones story
street strong summer sun table tall tell tells that the their then there they third this through time to tower town tree trees
under up valley very village visit visited visitor wait waited walk walked walking wall warm was water wave waves way west when
where white wide wild wind window winter wish with wood word words work world write writing year yellow young
query document 北京 東京 城市 3 7 12 1984 2.5
""".split()

TEXTS = [
    "A quick river flows under the old stone bridge.",
    "words",
    "",
    "The café of our déjà vu, naïve résumé; cafe\u0301 again!",
    "🚀 The rocket flies to the moon 🌙 — 👩‍🚀 waves.",
    "北京 and 東京 are large cities, 城市, 서울 too. Ελλάδα, Москва.",
    "The first line\nof a letter,\r\n\n\tand the third   line.\n",
    "   spaces around the words   ",
    "3.14 is not 2,718; a_b@c.org (v1.0) [x] {y} ~50% #7",
    "non-breaking\u00a0space, zero\u200bwidth, ﬁne ½ Ⅳ, \u0001control, İstanbul, ẞ",
    "A [MASK] in the text, a (<mask>) and [SEP] or </s>.",
    " ".join(["The long story of the birds, the boats and the quiet lake never comes to its end;"] * 6),
    "The visitor planted yellow trees near the village school in spring.",
]
QUERIES = [
    "Where do the quick rivers flow?",
    "lake",
    "",
    "naïve café, 北京 🚀",
    "A very long query about the old town, the bridge, the boats, the birds, and the children who were reading letters there?",
    "What is [MASK]?",
]


def sentences():
    rng = random.Random(0)
    for _ in range(600):
        words = [rng.choice(WORDS) for _ in range(rng.randint(3, 14))]
        if rng.random() < 0.5:
            words[0] = words[0].capitalize()
        if rng.random() < 0.4:
            words[rng.randrange(len(words))] += rng.choice([",", ";", ":", "-"])
        yield " ".join(words) + rng.choice(".....!?")


def bert_tokenizer(limit):
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # The trainer numbers what continues a word in no fixed order, and breaks ties by number: number it here.
    text = tokenizer.normalizer.normalize_str(" ".join(sentences()))
    characters = sorted({*text, *string.punctuation} - {" "})
    first = special + characters + ["##" + c for c in characters if c.isalnum()]
    trainer = trainers.WordPieceTrainer(vocab_size=420, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(sentences(), trainer)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    vocab = {token: id for id, (token, _) in enumerate(vocab)}
    return transformers.BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=limit)


def bytes_vocab(special, size):
    """Byte-level BPE: the vocabulary with `special` in front, and the merges."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )  # fmt: skip
    tokenizer.train_from_iterator(sentences(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def roberta_tokenizer(limit):
    vocab, merges = bytes_vocab(["<s>", "<pad>", "</s>", "<unk>"], 360)
    vocab["<mask>"] = len(vocab)
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges, model_max_length=limit)


def modernbert_tokenizer(limit, extra=()):
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *extra]
    vocab, merges = bytes_vocab(special, 360)
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    # As ModernBERT has them: runs of spaces, and a mask that takes the space before it.
    tokenizer.add_tokens([tokenizers.AddedToken("   ", normalized=True), tokenizers.AddedToken("  ", normalized=True)])
    tokenizer.add_special_tokens([tokenizers.AddedToken("[MASK]", lstrip=True, normalized=False, special=True)])
    ids = [(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
    )  # fmt: skip
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token="[MASK]", model_max_length=limit, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def randomise(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.normal_(generator=generator)
            norm = "norm" in name.lower()
            if p.dim() == 1:
                p.mul_(0.3).add_(1.0 if norm and name.endswith("weight") else 0.0)
            elif "embeddings" in name:
                p.mul_(0.7)
            else:
                # Queries and keys larger, so that attention tells tokens apart.
                p.mul_((2.0 if any(part in name for part in ("query", "key", "Wqkv")) else 1.0) / p.shape[1] ** 0.5)
    return module.eval()


def encoder(kind, tokenizer, seed):
    common = {
        "vocab_size": len(tokenizer), "hidden_size": HIDDEN, "num_attention_heads": 2, "intermediate_size": 32,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    if kind == "modernbert":
        config = transformers.ModernBertConfig(
            **common | {"intermediate_size": 20}, num_hidden_layers=3, max_position_embeddings=64, local_attention=8,
            global_attn_every_n_layers=2, bos_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id,
            cls_token_id=tokenizer.cls_token_id, sep_token_id=tokenizer.sep_token_id, attention_bias=True, norm_bias=True,
            mlp_bias=True,
        )  # fmt: skip
        return randomise(transformers.ModernBertModel(config), seed)
    if kind == "roberta":
        # Positions begin behind that of padding, so 42 are 40 tokens.
        ids = {"bos_token_id": 0, "eos_token_id": 2}
        config = transformers.RobertaConfig(
            **common, **ids, num_hidden_layers=2, max_position_embeddings=42, type_vocab_size=1, layer_norm_eps=1e-5
        )
        return randomise(transformers.RobertaModel(config), seed)
    config = transformers.BertConfig(**common, num_hidden_layers=2, max_position_embeddings=64)
    return randomise(transformers.BertModel(config), seed)


def parameters_matter(model, compute):
    """Each parameter changes what is computed, but those that cannot: the pooler, and a bias of the keys."""
    before = compute()
    for name, p in model.named_parameters():
        if "pooler" in name or "key.bias" in name:
            continue
        kept = p.detach().clone()
        with torch.no_grad():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
            change = (compute() - before).abs().max().item()
            p.copy_(kept)
        assert change > 1e-4, (name, change)


def spread(vectors, name):
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    products = unit @ unit.T - 2 * torch.eye(len(unit))
    assert vectors.isfinite().all() and products.max() < 0.995, (name, products.max())
    assert vectors.std(0).min() > 2e-3, (name, vectors.std(0))


def write(folder, tensors, texts):
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in texts.items()]
    (folder / "texts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{folder.relative_to(HERE)}: {size / 1000:.0f} kB, {sorted((k, list(v.shape)) for k, v in tensors.items())[:4]}")
    assert size < 150_000


def empty(name):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def expect_sentences(folder):
    """Writes what the model in `folder` computes."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu").eval()
    calls = [(None, "vectors")] + [(name, f"vectors.{name}") for name, prompt in model.prompts.items() if prompt]
    if model.default_prompt_name:
        calls.append(("", "vectors.none"))
    tensors, cases = {}, []
    for name, tensor in calls:
        how = {"prompt": ""} if name == "" else {"prompt_name": name}
        encode = lambda texts, **more: model.encode(texts, convert_to_tensor=True, **how, **more)  # noqa: E731
        tensors[tensor] = encode(TEXTS)
        alone = torch.stack([encode(text) for text in TEXTS])
        assert (tensors[tensor] - alone).abs().max() < 1e-5, tensor
        spread(tensors[tensor], tensor)
        prompt = model._resolve_prompt(how.get("prompt"), how.get("prompt_name"))
        features = [model.preprocess([text], prompt=prompt) for text in TEXTS]
        pooling = next(m for m in model if hasattr(m, "pooling_mode"))
        length = None if pooling.include_prompt else features[0].get("prompt_length")
        ids = [f["input_ids"][0].tolist() for f in features]
        assert max(map(len, ids)) == model.max_seq_length
        case = {"tensor": tensor, "prompt_name": how.get("prompt_name"), "prompt": prompt, "prompt_length": length}
        cases.append(case | {"ids": ids})
    assert len({v.numpy().tobytes() for v in tensors.values()}) == len(tensors) - (model.default_prompt_name is not None)
    parameters_matter(model, lambda: model.encode(TEXTS[:4] + TEXTS[-2:], convert_to_tensor=True))
    texts = {"texts": TEXTS, "max_seq_length": model.max_seq_length, "prompt": model.default_prompt_name, "cases": cases}
    write(folder, tensors, texts)
    return tensors, cases


def write_sentences(name, kind, tokenizer, seed, modules, **how):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    folder = empty(name)
    with tempfile.TemporaryDirectory() as plain:
        encoder(kind, tokenizer, seed).save_pretrained(plain)
        tokenizer.save_pretrained(plain)
        transformer = Transformer(plain)
        model = SentenceTransformer(modules=[transformer] + [randomise(m, seed + 1) for m in modules], device="cpu", **how)
        model.save_pretrained(str(folder), create_model_card=False)
    return expect_sentences(folder)


def old_directory(name, source, sentence_bert, prompts, vocabulary, tokenizer_config, of):
    """`source` as old versions wrote it, before tokenizer.json and the keys of today."""
    folder, old = empty(name), "sentence_transformers.models."
    for file in ("config.json", "model.safetensors"):
        shutil.copy(HERE / source / file, folder)
    modules = json.loads((HERE / source / "modules.json").read_text())
    for module in modules:
        module["type"] = old + module["type"].split(".")[-1]
        path = folder / module["path"]
        path.mkdir(exist_ok=True)
        if module["type"].endswith("Dense"):
            shutil.copytree(HERE / source / module["path"], path, dirs_exist_ok=True)
            config = json.loads((path / "config.json").read_text())
            for key in ("module_input_name", "module_output_name"):
                del config[key]
            (path / "config.json").write_text(json.dumps(config))
        if module["type"].endswith("Pooling"):
            mode = json.loads((HERE / source / module["path"] / "config.json").read_text())["pooling_mode"]
            keys = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
            chosen = {k: k.removesuffix("_tokens").removesuffix("_token") == mode for k in keys}
            config = {"word_embedding_dimension": HIDDEN} | {f"pooling_mode_{k}": c for k, c in chosen.items()}
            (path / "config.json").write_text(json.dumps(config, indent=2))
    dump = lambda file, value: (folder / file).write_text(json.dumps(value, indent=2))  # noqa: E731
    dump("modules.json", modules)
    dump("sentence_bert_config.json", sentence_bert)
    versions = {"sentence_transformers": "2.0.0", "transformers": "4.7.0", "pytorch": "1.9.0+cu102"}
    dump("config_sentence_transformers.json", {"__version__": versions} | prompts)
    dump("tokenizer_config.json", tokenizer_config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(HERE / source)
    tokenizer.backend_tokenizer.model.save(str(folder))
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    dump("special_tokens_map.json", {n: t for n in names if (t := getattr(tokenizer, n)) is not None})
    assert sorted(f.name for f in folder.glob("vocab*")) == vocabulary and not (folder / "tokenizer.json").exists()
    tensors, cases = expect_sentences(folder)
    assert cases[0]["ids"] == of[1][0]["ids"] and torch.equal(tensors["vectors"], of[0]["vectors"])


def write_all_sentences():
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling

    prompts = {"query": "query: ", "passage": "passage: "}
    bert = write_sentences(
        "st-bert-mean", "bert", bert_tokenizer(48), 1, [Pooling(HIDDEN, "mean"), Normalize()], prompts=prompts
    )
    roberta = write_sentences(
        "st-roberta-cls", "roberta", roberta_tokenizer(40), 2, [Pooling(HIDDEN, "cls"), Dense(HIDDEN, 10)],
        prompts=prompts, default_prompt_name="passage",
    )  # fmt: skip
    write_sentences(
        "st-modernbert-max", "modernbert", modernbert_tokenizer(56), 3,
        [Pooling(HIDDEN, ("cls", "max", "mean_sqrt_len_tokens"), include_prompt=False), Normalize()],
        # The space that ends a prompt is a token when it stands alone, and it is counted as one.
        prompts={"query": "search query: ", "document": "A document:"},
    )  # fmt: skip
    write_sentences(
        "st-bert-lasttoken", "bert", bert_tokenizer(10**30), 4,
        [Pooling(HIDDEN, ("weightedmean", "lasttoken")), Dense(2 * HIDDEN, HIDDEN, use_residual=True)],
    )  # fmt: skip
    old_directory(
        "vocab-only/bert", "st-bert-mean", {"max_seq_length": 48, "do_lower_case": False}, {}, ["vocab.txt"],
        {"do_lower_case": True, "model_max_length": 64, "tokenizer_class": "BertTokenizer"}, bert,
    )  # fmt: skip
    old_directory(
        "vocab-only/roberta", "st-roberta-cls", {"max_seq_length": 40, "do_lower_case": False},
        {"prompts": prompts, "default_prompt_name": "passage"}, ["vocab.json"],
        {"model_max_length": 512, "tokenizer_class": "RobertaTokenizer"}, roberta,
    )  # fmt: skip


def expect_colbert(folder):
    from pylate import models as late
    from pylate import scores

    model = late.ColBERT(str(folder), device="cpu").eval()
    plain = late.ColBERT(str(folder), device="cpu", do_query_expansion=False).eval()
    documents = [text.strip() for text in TEXTS]
    tensors, texts, found = {}, {"queries": QUERIES, "documents": documents}, {}
    for name, of, inputs in (("query", model, QUERIES), ("query_plain", plain, QUERIES), ("document", model, documents)):
        query = name != "document"
        vectors = of.encode(inputs, is_query=query, convert_to_tensor=True)
        for n, (batched, text) in enumerate(zip(vectors, inputs)):
            assert (batched - of.encode(text, is_query=query, convert_to_tensor=True)).abs().max() < 1e-5, (name, n)
            tensors[f"{name}.{n}"] = batched.clone()
        found[name] = vectors
        raw = [of.encode(text, is_query=query, convert_to_tensor=True, output_value=None) for text in inputs]
        texts[{"query_plain": "query_ids_plain"}.get(name, f"{name}_ids")] = [r["input_ids"].tolist() for r in raw]
        if not query:
            texts["document_kept"] = [r["masks"].nonzero().flatten().tolist() for r in raw]
        every = torch.cat(vectors)
        assert (every.norm(dim=-1) - 1).abs().max() < 1e-5 and every.std(0).min() > 0.05
    for suffix in ("", "_plain"):
        rows = [[(q @ d.T).max(1).values.sum() for d in found["document"]] for q in found["query" + suffix]]
        tensors["similarities" + suffix] = torch.tensor(rows)
        for q, row in zip(found["query" + suffix], rows):
            for d, score in zip(found["document"], row):
                assert abs(scores.colbert_scores(q[None], d[None]).item() - score) < 1e-4
    assert tensors["similarities"].std() > 0.3
    parameters_matter(model, lambda: torch.cat(model.encode(TEXTS[:4], is_query=False, convert_to_tensor=True)))
    assert all(len(ids) == model.query_length for ids in texts["query_ids"])
    assert max(map(len, texts["document_ids"])) == model.document_length
    write(folder, tensors, texts)


def write_all_colbert():
    from pylate import models as late
    from sentence_transformers.models import Transformer

    for name, kind, tokenizer, seed, sizes, how in (
        ("colbert", "bert", bert_tokenizer(64), 5, [(HIDDEN, 12, False)],
         {"query_length": 16, "document_length": 40}),
        ("colbert-attend", "modernbert", modernbert_tokenizer(64, ["[unused0]", "[unused1]"]), 6,
         [(HIDDEN, 32, True), (32, 12, False)],
         {"query_length": 20, "document_length": 32, "attend_to_expansion_tokens": True, "skiplist_words": [],
          "query_prefix": "[unused0]", "document_prefix": "[unused1]"}),
    ):  # fmt: skip
        folder = empty(name)
        with tempfile.TemporaryDirectory() as base:
            encoder(kind, tokenizer, seed).save_pretrained(base)
            tokenizer.save_pretrained(base)
            dense = [late.Dense(i, o, bias=False, use_residual=residual) for i, o, residual in sizes]
            modules = [Transformer(base)] + [randomise(d, seed + 10 + n) for n, d in enumerate(dense)]
            model = late.ColBERT(modules=modules, device="cpu", **how)
            randomise(model[0], seed)
            model.save_pretrained(str(folder), create_model_card=False)
        expect_colbert(folder)


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with torch.no_grad():
        write_all_colbert() if sys.argv[1:] == ["colbert"] else write_all_sentences()
