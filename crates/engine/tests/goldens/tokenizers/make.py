"""Makes the goldens of tokenizers: directories with the files that tokenizers are published as, and what transformers and rwkv make of them.

    pip install transformers==5.24.0 sentencepiece protobuf rwkv==0.8.32
    python make.py

SentencePiece models are trained here, on the pages of help that come with Python and on the first article of the Universal Declaration of Human Rights in
some languages. `rwkv_vocab_v20230424.txt` is a part of the file in the package `rwkv`: all bytes, and the tokens that the texts have in the whole vocabulary.

Each folder has the tokenizer's files and a `config.json`. `expected.json` has the texts, and for each folder

    ids       what `AutoTokenizer` makes of each text
    alone     the same without the tokens put around it
    pairs     what it makes of each text with the next (none for RWKV's)
    decoded   each `alone` as text, without special tokens
"""

import json
import os
import random
import shutil

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import pydoc_data.topics
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
ARTICLES = [
    "All human beings are born free and equal in dignity and rights.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "人人生而自由,在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
]
TEXTS = [
    "", " ", "  ", "\n", "\t x", "Hello World", " Hello", "Hello ", "  two  spaces  ", "line\nnext\n\nthird\r\n", "don't, we're; he'll.",
    "Würde ÊTRE naïve Ångström", "e\u0301 and \u00e9", "ﬁne ﬂow Ｆｕｌｌ １２３ ½ Ⅷ", "漢字とかな", "人人生而自由", "свободными", "गौरव और", "🙂👩‍👩‍👧 flags 🇩🇪",
    "\u200b\u00a0\u2003x\ufeff", "a\u0000b", "\u2581x \u2581\u2581 y", "``quoted'' \"text\"", "1,000.50 1, 2,", "def f(x):\n    return x  # \\d+\n",
    "<s> in </s> text <unk> <pad> <mask> [CLS] [SEP] [MASK] [PAD]", "<mask>", "x <mask> y", "<ent>word<ent> x", "a<tool>b <tool>  c", "<0x41>", "�",
    "statement" * 12, "The value of the expression is the object that the name refers to.", "A" * 130, *ARTICLES,
]


def corpus():
    lines = [line.strip() for page in sorted(pydoc_data.topics.topics) for line in pydoc_data.topics.topics[page].split("\n")]
    return [line for line in lines if len(line) > 20][:4000] + ARTICLES * 40


def spm(path, **options):
    settings = dict(model_type="unigram", vocab_size=420, character_coverage=1.0, hard_vocab_limit=False, num_threads=1, train_extremely_large_corpus=False)
    settings.update(options)
    with open(path, "wb") as out:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus()), model_writer=out, minloglevel=2, **settings)


def folder(name, config, settings=None, **more):
    path = os.path.join(HERE, name)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    for file, value in [("config", config), ("tokenizer_config", settings), *more.items()]:
        if value is not None:
            with open(os.path.join(path, f"{file}.json"), "w", encoding="utf-8") as out:
                json.dump(value, out, ensure_ascii=False, indent=1)
    return path


def rules():
    """A small map of characters."""
    path = os.path.join(HERE, "rules.tsv")
    with open(path, "w") as out:
        for before, after in [("ﬁ", "fi"), ("ﬂ", "fl"), ("½", "1/2"), ("Ⅷ", "VIII"), ("\u00a0", " "), ("\t", " "), ("\n", " "), ("\r", " "), ("e\u0301", "é"), ("\u200b", "")]:
            out.write(" ".join(f"{ord(c):X}" for c in before) + "\t" + " ".join(f"{ord(c):X}" for c in after) + "\n")
    return path


def sentencepieces():
    tsv = rules()
    path = folder("xlm-roberta", {"model_type": "xlm-roberta"}, {"tokenizer_class": "XLMRobertaTokenizer"})
    spm(f"{path}/sentencepiece.bpe.model", normalization_rule_name="nmt_nfkc", vocab_size=520)
    path = folder("camembert", {"model_type": "camembert"}, {"tokenizer_class": "CamembertTokenizer"})
    spm(f"{path}/sentencepiece.bpe.model", normalization_rule_tsv=tsv)
    path = folder("t5", {"model_type": "t5"}, {"tokenizer_class": "T5Tokenizer", "extra_ids": 3})
    spm(f"{path}/spiece.model", normalization_rule_tsv=tsv, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    special = dict(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols="[CLS],[SEP],[MASK]")
    for name, lower in [("albert", True), ("albert-cased", False)]:
        path = folder(name, {"model_type": "albert"}, {"tokenizer_class": "AlbertTokenizer", "do_lower_case": lower, "keep_accents": not lower})
        spm(f"{path}/spiece.model", normalization_rule_tsv=tsv, **special)
    path = folder("big_bird", {"model_type": "big_bird"}, {"tokenizer_class": "BigBirdTokenizer"})
    spm(f"{path}/spiece.model", normalization_rule_name="identity", pad_id=0, eos_id=1, bos_id=2, unk_id=3, control_symbols="[CLS],[SEP],[MASK]")
    path = folder("reformer", {"model_type": "reformer"}, {"tokenizer_class": "ReformerTokenizer"})
    spm(f"{path}/spiece.model", model_type="bpe", normalization_rule_tsv=tsv, unk_id=0, eos_id=1, bos_id=-1, pad_id=-1)
    bytes_ = dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, vocab_size=620, character_coverage=0.98)
    for name, settings in [
        ("llama", {"add_bos_token": True}),
        ("llama-legacy", {"add_bos_token": True, "add_eos_token": True, "legacy": True, "additional_special_tokens": ["<tool>"]}),
        ("llama-bare", {"add_prefix_space": False}),
    ]:
        path = folder(name, {"model_type": "gla"}, {"tokenizer_class": "LlamaTokenizer", **settings})
        spm(f"{path}/tokenizer.model", **bytes_)
    added = {"0": "<unk>", "1": "<s>", "2": "</s>", "3": "<ent>"}
    added = {i: {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": t != "<ent>"} for i, t in added.items()}
    path = folder("own-bpe", {"model_type": "gla"}, {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, "added_tokens_decoder": added})
    spm(f"{path}/tokenizer.model", **{**bytes_, "user_defined_symbols": "<placeholder>,<tool>,a.b"})
    path = folder("own-unigram", {"model_type": "gla"})
    spm(f"{path}/tokenizer.model", normalization_rule_tsv=tsv, byte_fallback=True, vocab_size=640, character_coverage=0.98, user_defined_symbols="<tool>")


def trained(kind):
    """A tokenizer of the library, trained on the same."""
    if kind == "wordpiece":
        t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        t.normalizer = normalizers.BertNormalizer(lowercase=True)
        t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        t.decoder = decoders.WordPiece(prefix="##")
        trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False, limit_alphabet=140)
        t.train_from_iterator([*corpus(), "Cased Words And ÊTRE Würde"] * 2, trainer)
        t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        return t
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    t.train_from_iterator(corpus(), trainer)
    return t


def write_legacy(path, t):
    model = json.loads(t.to_str())["model"]
    if model["type"] == "WordPiece":
        words = sorted(model["vocab"], key=model["vocab"].get)
        with open(f"{path}/vocab.txt", "w", encoding="utf-8") as out:
            out.write("\n".join(words) + "\n")
    else:
        with open(f"{path}/vocab.json", "w", encoding="utf-8") as out:
            json.dump(model["vocab"], out, ensure_ascii=False)
        with open(f"{path}/merges.txt", "w", encoding="utf-8") as out:
            out.write("#version: 0.2\n" + "\n".join(" ".join(m) if isinstance(m, list) else m for m in model["merges"]) + "\n")


def beside():
    words, pairs = trained("wordpiece"), trained("bytes")
    n = words.get_vocab_size()
    token = lambda text, **flags: {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False, **flags}
    path = folder("bert-cased", {"model_type": "bert"}, {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": True})
    words.save(f"{path}/tokenizer.json")
    decoder = {str(i): token(t, special=True) for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    decoder["4"]["lstrip"] = True
    decoder |= {str(n): token("<ent>"), str(n + 1): token("<tool>", rstrip=True, special=True)}
    path = folder("bert-decoder", {"model_type": "bert"}, {"tokenizer_class": "BertTokenizer", "added_tokens_decoder": decoder})
    words.save(f"{path}/tokenizer.json")
    path = folder("bert-added", {"model_type": "bert"}, {"tokenizer_class": "BertTokenizer"}, added_tokens={"<ent>": n, "<tool>": n + 1},
                  special_tokens_map={"extra_special_tokens": ["<tool>"], "mask_token": token("[MASK]", lstrip=True), "unk_token": "[UNK]"})
    write_legacy(path, words)
    path = folder("bert-silent", {"model_type": "bert"})
    file = json.loads(words.to_str())
    file["normalizer"]["lowercase"] = False
    json.dump(file, open(f"{path}/tokenizer.json", "w", encoding="utf-8"), ensure_ascii=False)
    path = folder("roberta-prefix", {"model_type": "roberta"}, {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True})
    byte_roberta = trained("bytes")
    byte_roberta.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    byte_roberta.save(f"{path}/tokenizer.json")
    path = folder("gpt2-ends", {"model_type": "gpt2"}, {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": True}, added_tokens={"<ent>": pairs.get_vocab_size()})
    write_legacy(path, pairs)
    # With a tokenizer.json, add_bos_token and add_eos_token do not count.
    added = {str(i): token(t, special=True) for i, t in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"])}
    added[str(pairs.get_vocab_size())] = token("<tool>", special=True)
    path = folder("neox-json", {"model_type": "mamba"}, {"tokenizer_class": "GPTNeoXTokenizer", "add_bos_token": True, "added_tokens_decoder": added})
    pairs.normalizer = normalizers.NFC()
    pairs.save(f"{path}/tokenizer.json")
    # Llama's tokenizer makes its own of an old file's vocabulary.
    for name, settings in [("llama-json", {}), ("llama-json-legacy", {"legacy": True})]:
        path = folder(name, {"model_type": "gla"}, {"tokenizer_class": "LlamaTokenizer", **settings})
        old = AutoTokenizer.from_pretrained(os.path.join(HERE, "llama-legacy")).backend_tokenizer
        old.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        old.pre_tokenizer = None
        old.save(f"{path}/tokenizer.json")


def world():
    import importlib.util
    package = os.path.dirname(importlib.util.find_spec("rwkv").origin)
    spec = importlib.util.spec_from_file_location("rwkv_tokenizer", f"{package}/rwkv_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    whole = f"{package}/rwkv_vocab_v20230424.txt"
    full = module.TRIE_TOKENIZER(whole)
    used = {i for text in TEXTS + corpus()[:300] for i in full.encode(text)}
    path = folder("world", {"model_type": "rwkv7"})
    with open(whole, encoding="utf-8") as source, open(f"{path}/rwkv_vocab_v20230424.txt", "w", encoding="utf-8") as out:
        out.writelines(line for line in source if int(line.split(" ")[0]) <= 256 or int(line.split(" ")[0]) in used or int(line.split(" ")[0]) > 65480)
    return module.TRIE_TOKENIZER(f"{path}/rwkv_vocab_v20230424.txt")


def main():
    random.seed(0)
    sentencepieces()
    beside()
    os.remove(os.path.join(HERE, "rules.tsv"))
    rwkv = world()
    expected = {"texts": TEXTS, "folders": {}}
    for name in sorted(os.listdir(HERE)):
        path = os.path.join(HERE, name)
        if name == "world":
            ids = [rwkv.encode(text) for text in TEXTS]
            expected["folders"][name] = {"ids": ids, "alone": ids, "pairs": [], "decoded": [rwkv.decode(i) for i in ids]}
        elif os.path.isdir(path):
            t = AutoTokenizer.from_pretrained(path)
            ids = [t(text)["input_ids"] for text in TEXTS]
            alone = [t(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
            pairs = [t(a, b)["input_ids"] for a, b in zip(TEXTS, TEXTS[1:])]
            decoded = [t.decode(i, skip_special_tokens=True, clean_up_tokenization_spaces=False) for i in alone]
            expected["folders"][name] = {"ids": ids, "alone": alone, "pairs": pairs, "decoded": decoded}
            print(name, type(t).__name__, len(t))
    with open(os.path.join(HERE, "expected.json"), "w", encoding="utf-8") as out:
        # An object a line.
        rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in expected["folders"].items())
        out.write(f'{{"texts": {json.dumps(TEXTS)},\n"folders": {{\n{rows}\n}}}}\n')


main()
