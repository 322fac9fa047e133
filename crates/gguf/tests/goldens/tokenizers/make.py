"""Makes the goldens of the tokenizers inside GGUF files: a small vocabulary of each kind, and the ids of some texts.

    pip install gguf==0.19.0 tokenizers==0.23.3
    python make.py

It writes next to itself `gpt2.gguf`, `llama.gguf`, `bert.gguf`, `t5.gguf`, `rwkv.gguf`, and `expected.json` with the
ids of each text, with special tokens around it. The vocabularies are trained on the texts below. The ids come from
elsewhere than what the converter of this crate makes: `gpt2` and `bert` from the tokenizer that was trained; `llama`,
`t5` and `rwkv` from the definitions of these algorithms in this file.
"""

import json
import pathlib
import re

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
TEXTS = [
    "",
    " ",
    "the cat sat on the mat",
    "  The cat's  hat, and   that's 1234567 cats!\n\n\tWe'LL see...",
    "naïve café, Ünïcödé, žluťoučký",
    "日本語 и русский язык 🙂",
    "<s>the cat</s> the <mask> [MASK] [CLS]cat[SEP] <|end|>x <|end|> y",
    "aaaaaaaaaaaa          b",
    "e\u0301 \u00a0\u3000 \ufb01 ①",
    "\x01\x7f\ufffd",
    "a       a   a     a             a                    a þðæ qwerty qwerty's",
]
CORPUS = [text for text in TEXTS[2:6] for _ in range(4)] + ["the then that than thing sat mat hat cats"] * 8
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)


def write(kind, tokens, types, scores=None, merges=None, pre=None, charsmap=None, **entries):
    writer = gguf.GGUFWriter(HERE / f"{kind}.gguf", "llama")
    writer.add_tokenizer_model(kind)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if scores:
        writer.add_token_scores(scores)
    if merges:
        writer.add_token_merges(merges)
    for name, value in entries.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def by_id(vocabulary):
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    return sorted(vocabulary, key=vocabulary.get)


def gpt2():
    words = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=339, initial_alphabet=alphabet))
    pairs = json.loads(tokenizer.to_str())["model"]["merges"]
    # No merges lead to the last token: it is only found because words that are tokens are not merged.
    tokens = by_id(tokenizer.get_vocab()) + ["Ġqwerty"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(pair) for pair in pairs], ignore_merges=True))
    tokenizer.pre_tokenizer = words
    merges = [" ".join(pair) for pair in pairs]
    specials = {"<s>": CONTROL, "</s>": CONTROL, "<|end|>": USER}
    types = [NORMAL] * len(tokens) + list(specials.values())
    bos, eos = len(tokens), len(tokens) + 1
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<s>", "</s>")])
    tokenizer.add_tokens([AddedToken("<|end|>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    tokenizer.decoder = decoders.ByteLevel()
    write(
        "gpt2", tokens + list(specials), types, merges=merges, pre="llama-bpe", bos_token_id=bos, eos_token_id=eos,
        chat_template=[{"name": "default", "template": "{{ a }}"}, {"name": "tool_use", "template": "{{ b }}"}],
    )  # fmt: skip
    return lambda text: tokenizer.encode(text).ids


def around(text, specials, encode):
    """Encodes the pieces between special tokens."""
    ids = []
    for piece in re.split("(" + "|".join(map(re.escape, specials)) + ")", text):
        if piece in specials:
            ids.append(specials[piece])
        elif piece:
            ids += encode(piece)
    return ids


def llama():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=160, show_progress=False))
    trained = [token for token in by_id(tokenizer.get_vocab()) if len(token) > 1 and "\n" not in token]
    letters = sorted({c for text in TEXTS[:5] for c in text if c.isalpha() or c in ".,!'"})
    runs = ["▁" * n for n in (2, 3, 4, 5, 8)]
    trained = [token for token in trained if token.strip("▁") and set(token) <= set(letters) | {"▁"}]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + runs + trained + ["▁"] + letters
    # Two tokens share each score, and all runs of spaces one.
    scores = [0.0] * 259 + [-1e9] * len(runs) + [-float(i // 2) for i in range(len(trained))] + [-1e9]
    scores += [-1000.0 - i for i in range(len(letters))]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259) + [USER]
    tokens.append("<|end|>")
    scores.append(0.0)
    ids = {token: i for i, token in enumerate(tokens)}
    write("llama", tokens, types, scores=scores, pre="default", add_eos_token=True)

    def encode(text):
        symbols = list(("▁" + text).replace(" ", "▁"))
        while True:
            pairs = [(-scores[ids[a + b]], i) for i, (a, b) in enumerate(zip(symbols, symbols[1:])) if a + b in ids]
            if not pairs:
                break
            _, i = min(pairs)
            symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        return [
            i for s in symbols for i in ([ids[s]] if s in ids else [ids[f"<0x{byte:02X}>"] for byte in s.encode()])
        ]

    specials = {token: ids[token] for token in ("<unk>", "<s>", "</s>", "<|end|>")}
    return lambda text: [1] + around(text, specials, encode) + [2]


def bert():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=[*specials, "[unused0]"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    trained = by_id(tokenizer.get_vocab())
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(trained)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in specials])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    respelled = [t if t in specials or t == "[unused0]" else t[2:] if t.startswith("##") else "▁" + t for t in trained]
    write(
        "bert", respelled, [CONTROL] * 5 + [NORMAL] * (len(trained) - 5), pre="default", pad_token_id=0, unk_token_id=1,
        bos_token_id=2, sep_token_id=3, mask_token_id=4,
    )  # fmt: skip
    return lambda text: tokenizer.encode(text).ids


def t5():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"]
    # In the last text, `þ` is unknown and `ðæ` is better than `þð` and `æ`, unless the score of the placeholder makes
    # unknown characters worse.
    tokens = [piece for piece, _ in pieces] + ["þð", "ðæ", "æ", "[PAD0]", "<|end|>"]
    scores = [score for _, score in pieces] + [-20.0, -1.0, -20.0, -10000.0, 0.0]
    types = [CONTROL, CONTROL, UNKNOWN] + [NORMAL] * len(pieces) + [UNUSED, USER]
    write("t5", tokens, types, scores=scores, add_space_prefix=True, remove_extra_whitespaces=True, eos_token_id=1)
    score = {t: s for t, s, kind in zip(tokens, scores, types) if kind == NORMAL}
    unknown = min(score.values()) - 10

    def encode(text):
        text = re.sub(" {2,}", " ", text.strip())
        text = ("▁" + text).replace(" ", "▁") if text else ""
        best = [(0.0, [])] + [(-1e30, [])] * len(text)
        for i in range(len(text)):
            if text[i] not in score and best[i][0] + unknown > best[i + 1][0]:
                best[i + 1] = (best[i][0] + unknown, best[i][1] + [2])
            for j in range(i + 1, len(text) + 1):
                piece = text[i:j]
                if piece in score and best[i][0] + score[piece] > best[j][0]:
                    best[j] = (best[i][0] + score[piece], best[i][1] + [tokens.index(piece)])
        ids = best[-1][1]
        return [token for i, token in enumerate(ids) if not (token == 2 and i and ids[i - 1] == 2)]

    specials = {token: tokens.index(token) for token in ("<pad>", "</s>", "<unk>", "<|end|>")}
    return lambda text: around(text, specials, encode) + [1]


def rwkv():
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [token.encode() for token in ["the", " the", " cat", "cats", "aa", "aaaa", "\n\n", "'ll", "日本", "é", '"\'']]
    tokens += ["日".encode()[:2], b"\xf0\x9f"]
    texts = ["<s>"] + [repr(token)[2:-1] for token in tokens] + ["[PAD270]", "[PAD271]"]
    types = [CONTROL] + [NORMAL] * len(tokens) + [UNUSED] * 2
    write("rwkv", texts, types, eos_token_id=0)

    def encode(text):
        text, ids = text.encode(), []
        while text:
            token = max((token for token in tokens if text.startswith(token)), key=len)
            ids.append(1 + tokens.index(token))
            text = text[len(token) :]
        return ids

    return lambda text: around(text, {"<s>": 0}, encode)


if __name__ == "__main__":
    expected = {"texts": TEXTS}
    for kind in (gpt2, llama, bert, t5, rwkv):
        encode = kind()
        expected[kind.__name__] = [encode(text) for text in TEXTS]
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in expected.items()]
    (HERE / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
