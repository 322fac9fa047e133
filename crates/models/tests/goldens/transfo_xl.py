"""Makes the goldens of Transformer-XL: small random checkpoints of transformers' `transfo-xl` and their outputs.

    pip install torch==2.13.0 transformers==4.46.3 sacremoses==0.2.0 safetensors
    python transfo_xl.py

It writes next to itself the folders transfo-xl-a and transfo-xl-b, whose configurations differ in every field that changes
what is computed: config.json, generation_config.json, model.safetensors and expected.safetensors with

    input_ids          i64 [2, 40]         random tokens
    segments           i64 [5]             they are read in pieces of these lengths, each with the memories of those before it
    logits             f32 [2, 40, vocab]  logarithms of probabilities: a log-softmax has been taken, and it is adaptive
    last_hidden_state  f32 [2, 40, d]      what the base model returns
    mems.0 ... mems.4  f32 [layers, 2, mem_len, d]  the memories after each segment: the inputs of each layer
    prompt             i64 [1, 12]
    greedy             i64 [32]            the tokens that follow it: the prompt is one segment, then each token is one

The first memories are transformers': zeros, as many as fit, which are attended to like any other row.

    transfo-xl-b-pickle    transfo-xl-b as checkpoints were before safetensors: pytorch_model.bin as torch.save wrote it before
                           1.6, every tensor under each of its names, those that are tied sharing their storage. And a
                           vocabulary of that model's size as that of transfo-xl-wt103 is: a pickled dict, plain (vocab.pkl)
                           and by the old torch.save (vocab.bin). tokens.json is what transformers' tokenizer reads in it.

Everything is computed in float64 from the weights in float32, on one thread of a CPU, in evaluation mode. transformers 4.46.3
cannot run the model without help, see `mended`. Nor can `save_pretrained` write it where untie_r is false, so this script does:
the file lacks what `crit` shares with the embeddings, as it would, but it has the biases that the layers share under all their
names, because `from_pretrained` reads them right only so.

Parameters are random around their usual values, norms and biases too, and the script checks that each of them matters, as do
the fields and the zeros in the first memories, that the logits spread, and that no greedy token is a close call.

Made with torch 2.13.0, transformers 4.46.3 and sacremoses 0.2.0.
"""

import collections
import contextlib
import json
import math
import os
import pathlib
import pickle
import shutil
import unittest.mock
import warnings

import sacremoses
import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
MAX_GREEDY, MIN_GAP = 32, 2e-3

# NAME: (seed, lengths of the segments, fields)
MODELS = {
    "transfo-xl-a": (89, [5, 17, 1, 9, 8], {
        "vocab_size": 97, "cutoffs": [24, 60], "d_model": 28, "d_embed": 20, "n_head": 3, "d_head": 8, "d_inner": 44,
        "div_val": 1, "pre_lnorm": True, "n_layer": 3, "mem_len": 12, "clamp_len": 7, "same_length": False,
        "proj_share_all_but_first": False, "untie_r": False, "tie_word_embeddings": False, "adaptive": True,
        "layer_norm_epsilon": 2e-2, "eos_token_id": 2, "dropout": 0.0, "dropatt": 0.0, "sample_softmax": -1, "attn_type": 0,
    }),
    "transfo-xl-b": (60, [7, 1, 22, 4, 6], {
        "vocab_size": 112, "cutoffs": [14, 40, 90], "d_model": 32, "d_embed": 36, "n_head": 2, "d_head": 20, "d_inner": 48,
        "div_val": 2, "pre_lnorm": False, "n_layer": 2, "mem_len": 18, "clamp_len": 64, "same_length": True,
        "proj_share_all_but_first": True, "untie_r": True, "tie_word_embeddings": True, "adaptive": True,
        "layer_norm_epsilon": 1e-5, "eos_token_id": 0, "dropout": 0.1, "dropatt": 0.0, "sample_softmax": -1, "attn_type": 0,
    }),
}  # fmt: skip

# Counted, it is the vocabulary of the -pickle folder. As in that of transfo-xl-wt103, letters beyond ASCII are UTF-8 that was
# taken for Latin-1.
CORPUS = """
= Long roads =
The road is 1 @,@ 250 km ( 780 mi ) long , and half of it is well @-@ worn gravel . The other half is <unk> .
It was built in 1904 , the year of the <unk> , for 5 @,@ 000 @.@ 75 dollars ; it is 3 @.@ 5 m wide at best .
" It 's too far , " she said . " Don 't go , " he said , " and do not ask why . "
= = The south = =
The south of the road runs by a river , two lakes and the old mill @-@ town of <unk> .
Caf\u00e9 du Nord , the only house there , has a sign : " No , we do not know the way : $ 1 for a map . "
Mr. Hill says that 20 % of those who ask the way walk on & that <formula> of them come back ...
The U.S. army drew it in 1904 \u2013 or so they say . Why ?
"""

SENTENCES = [
    "The road is 1,250 km (780 mi) long, and half of it is well-worn gravel.",
    '"It\'s too far," she said. "Don\'t go!"',
    "It was 3.5 m wide in 1904; the map was $5,000.75.",
    "THE the The",
    "Zebras walk the road - why?",
    "<unk> is not <formula> and not <eos>",
    "the road <eos> It runs on",
    "Caf\u00e9 du Nord",
    "Caf\u00c3\u00a9 du Nord",
    "= = The south = =",
    "  the\tlong \n road  ",
    "Mr. Hill says the U.S. army walks ... back.",
    "\u201cNo\u201d \u2013 he said \u2014 and 20% of the mill-town\u2019s dogs come & go",
    "1,000,000 @-@ 3.5.5 and 1,a",
    "The road<eos>It is<unk>, so they say",
    "Is it 'far'? (It's-not.) [1] a|b a/b",
    "No. 5 and No. one; 3% - e.g. $1.",
    "",
]


@contextlib.contextmanager
def mended():
    """What transformers 4.46.3 lacks: it makes the positions by `type_as(dtype=...)`, which no tensor has; and it takes masked
    scores to float32, which is nothing in float32 and fails in float64, where the mask's value is beyond that."""

    def type_as(x, other=None, dtype=None):
        return x.to(dtype or other.dtype)

    patch = unittest.mock.patch.object
    with patch(torch.Tensor, "type_as", type_as), patch(torch.Tensor, "float", lambda x: x):
        yield


def value(name, like, config, generator):
    """A random value of a parameter, close to its usual value in a trained model."""
    r = torch.randn(like.shape, generator=generator)
    part = name.split(".")
    if part[-1] in ("r_w_bias", "r_r_bias"):
        return 0.7 * r
    if "layer_norm" in part:
        return 1 + 0.3 * r if part[-1] == "weight" else 0.1 * r
    if part[-1] in ("bias", "cluster_bias"):
        return 0.2 * r
    if "qkv_net" in part:
        r[-r.shape[0] // 3 :] *= 2
    # Without a final norm the residual stream would grow.
    calm = 0.25 if config.pre_lnorm else 1.0
    gain = {
        "emb_layers": 2.0, "emb_projs": calm, "qkv_net": 1.5, "r_net": 1.5, "o_net": 2 * calm, "CoreNet.0": 1.0,
        "CoreNet.3": calm, "out_projs": 0.3 if config.pre_lnorm else 0.5, "out_layers": 2.0, "cluster_weight": 3.0,
    }  # fmt: skip
    width = config.d_model if "emb_projs" in part or "out_projs" in part else like.shape[-1]
    return r * next(g for key, g in gain.items() if key in name) * width**-0.5


def model_of(config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return transformers.TransfoXLLMHeadModel(config).eval()


def build(name, seed=None):
    """The model, with parameters drawn from its seed."""
    model = model_of(transformers.TransfoXLConfig(**MODELS[name][2]))
    generator = torch.Generator().manual_seed(MODELS[name][0] if seed is None else seed)
    for key, parameter in model.named_parameters():
        parameter.copy_(value(key, parameter, model.config, generator))
    return model


def untied(model):
    """The tensors of the model without those of `crit` that are shared with the embeddings."""
    tensors, seen = {}, set()
    for key, x in model.state_dict().items():
        if not key.startswith("crit.") or x.data_ptr() not in seen:
            tensors[key] = x.clone()
        seen.add(x.data_ptr())
    return tensors


def load(config, tensors):
    """A model of float64 with the weights of a file."""
    model = model_of(config)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and all(key not in untied(model) for key in missing), f"{missing} {unexpected}"
    return model.double()


def read(model, ids, lengths, mems=None):
    """Logits, the last hidden state, and the memories after each segment."""
    logits, hidden, memories = [], [], []
    with mended():
        for piece in ids.split(lengths, 1):
            out = model(piece, mems=mems, output_hidden_states=True)
            mems = out.mems
            logits.append(out.logits)
            hidden.append(out.hidden_states[-1])
            memories.append(torch.stack(mems).transpose(1, 2))
    return torch.cat(logits, 1), torch.cat(hidden, 1), memories


def greedy(model, prompt):
    """The tokens that follow the prompt, and the smallest margin between the two best logits."""
    tokens, gap, mems, ids = [], math.inf, None, prompt
    for _ in range(MAX_GREEDY):
        with mended():
            out = model(ids, mems=mems)
        mems, best = out.mems, out.logits[0, -1].topk(2)
        ids, gap = best.indices[None, :1], min(gap, (best.values[0] - best.values[1]).item())
        tokens.append(ids[0, 0])
    return torch.stack(tokens), gap


def expect(model, seed, lengths):
    """The tensors of expected.safetensors, and the smallest margin between the two best logits."""
    generator = torch.Generator().manual_seed(seed + 1000)
    vocab = model.config.vocab_size
    e = {"input_ids": torch.randint(4, vocab, (2, sum(lengths)), generator=generator), "segments": torch.tensor(lengths)}
    # The first and the last token of each cluster.
    ends = sorted({0, vocab - 1, *model.config.cutoffs, *(c - 1 for c in model.config.cutoffs)})
    e["input_ids"][1, : len(ends)] = torch.tensor(ends)
    logits, hidden, memories = read(model, e["input_ids"], lengths)
    e |= {"logits": logits, "last_hidden_state": hidden} | {f"mems.{i}": x for i, x in enumerate(memories)}
    e["prompt"] = torch.randint(4, vocab, (1, 12), generator=generator)
    e["greedy"], gap = greedy(model, e["prompt"])
    return {key: x.to(torch.float32) if x.is_floating_point() else x for key, x in e.items()}, gap


def prove(name, model, e, gap):
    """Checks that no choice is a close call and that all parameters and fields matter."""
    config, ids, lengths = model.config, e["input_ids"], e["segments"].tolist()
    assert gap > MIN_GAP, f"{name}: a close call, {gap}"
    assert len(set(e["greedy"].tolist())) > 10, f"{name}: it repeats itself, {e['greedy'].tolist()}"
    assert config.eos_token_id not in e["greedy"], f"{name}: it ends"
    assert 1.0 < e["logits"].std() < 4.0, f"{name}: the spread of the logits is {e['logits'].std()}"
    assert torch.allclose(e["logits"].exp().sum(-1), torch.ones(ids.shape), atol=1e-5), f"{name}: not probabilities"

    def change(model, lengths=lengths, mems=None):
        return (read(model, ids, lengths, mems)[0] - e["logits"]).abs().max().item()

    d = change(transformers.TransfoXLLMHeadModel.from_pretrained(HERE / name))
    assert d < 3e-5, f"{name}: in float32 the logits change by {d}"
    for key, parameter in model.named_parameters():
        kept = parameter.clone()
        # For a norm, remove the noise; for any other parameter, the value.
        parameter.fill_(float("layer_norm.weight" in key))
        d = change(model)
        parameter.copy_(kept)
        assert d > 0.05, f"{name}: {key} changes the logits by {d}"

    fields = {
        "clamp_len": -1 if config.clamp_len == 7 else 7, "same_length": not config.same_length,
        "pre_lnorm": not config.pre_lnorm, "mem_len": config.mem_len + 1,
    }  # fmt: skip
    if config.layer_norm_epsilon > 1e-4:
        fields["layer_norm_epsilon"] = 1e-5
    for key, other in fields.items():
        d = change(load(transformers.TransfoXLConfig(**MODELS[name][2] | {key: other}), untied(model)))
        assert d > 0.01, f"{name}: {key} changes the logits by {d}"
    empty = [torch.zeros(0, len(ids), config.d_model, dtype=torch.float64)] * config.n_layer
    assert (d := change(model, mems=empty)) > 0.05, f"{name}: without the zeros in memory the logits change by {d}"
    # Only with same_length do all queries attend to the same number of keys; only then does the split of the text not matter.
    d = change(model, lengths=[3] * (ids.shape[1] // 3) + [ids.shape[1] % 3])
    assert (d < 1e-5) == config.same_length, f"{name}: cut elsewhere the logits change by {d}"
    again = [x.transpose(0, 1).contiguous().double() for x in e["mems.1"]]
    part = read(model, ids[:, sum(lengths[:2]) :], lengths[2:], again)[0]
    assert torch.allclose(part.to(torch.float32), e["logits"][:, sum(lengths[:2]) :], atol=1e-5), f"{name}: the memories"
    with mended():
        whole = model.generate(e["prompt"], do_sample=False, max_new_tokens=MAX_GREEDY, eos_token_id=None)
    assert whole[0, e["prompt"].shape[1] :].equal(e["greedy"]), f"{name}: `generate` says otherwise"


def save(path, tensors, metadata):
    """Saves as safetensors does, but with ordered metadata, so that the bytes are reproducible."""
    data = safetensors.torch.save({name: x.contiguous() for name, x in tensors.items()})
    size = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def save_pickle(path, data):
    """As torch.save did before 1.6, but the keys of the storages only look like addresses, so that the bytes are the same each
    time. Like addresses they do not rise from one tensor to the next, and the storages lie in the file in their order."""
    keys, storages = {}, {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, x):
            if not isinstance(x, torch.storage.TypedStorage):
                return None
            number = keys.setdefault(x.data_ptr(), len(keys))
            key = str(94_000_000_000_000 + 64 * (37 * number % 101))
            storages[key] = torch.tensor([], dtype=x.dtype).set_(x)
            return ("storage", torch.FloatStorage, key, "cpu", len(storages[key]), None)

    with open(path, "wb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        for head in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(head, file, 2)
        Pickler(file, 2).dump(data)
        pickle.dump(sorted(storages), file, 2)
        for key in sorted(storages):
            file.write(len(storages[key]).to_bytes(8, "little") + storages[key].numpy().tobytes())


def make(name):
    path, (seed, lengths, _) = HERE / name, MODELS[name]
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    source = build(name)
    source.config.architectures, source.config.torch_dtype = [type(source).__name__], "float32"
    source.config.save_pretrained(path)
    source.generation_config.save_pretrained(path)
    save(path / "model.safetensors", untied(source), {"format": "pt"})
    model = load(transformers.TransfoXLConfig.from_pretrained(path), safetensors.torch.load_file(path / "model.safetensors"))
    e, gap = expect(model, seed, lengths)
    prove(name, model, e, gap)
    metadata = {"made_by": "transfo_xl.py", "torch": torch.__version__.split("+")[0], "seed": str(seed)}
    save(path / "expected.safetensors", e, metadata | {"transformers": transformers.__version__})


def make_pickle(name):
    """Writes the weights as pytorch_model.bin, a vocabulary of the model's size, and the tokens that the tokenizer reads."""
    path = HERE / f"{name}-pickle"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for file in ("config.json", "generation_config.json"):
        shutil.copy(HERE / name / file, path)
    model = build(name)
    save_pickle(path / "pytorch_model.bin", model.state_dict())
    again = torch.load(path / "pytorch_model.bin", weights_only=True)
    assert all(again[key].equal(x) for key, x in model.state_dict().items()) and again.keys() == model.state_dict().keys()
    assert len({x.data_ptr() for x in again.values()}) == len(untied(model)) < len(again)
    e = safetensors.torch.load_file(HERE / name / "expected.safetensors")
    logits, _, _ = read(transformers.TransfoXLLMHeadModel.from_pretrained(path), e["input_ids"], e["segments"].tolist())
    assert (d := (logits - e["logits"]).abs().max().item()) < 3e-5, f"{name}-pickle: in float32 the logits change by {d}"

    counter = collections.Counter(symbol.encode().decode("latin1") for symbol in CORPUS.split())
    symbols = ["<eos>", *(symbol for symbol, _ in counter.most_common())]
    assert len(symbols) == len(set(symbols)) == model.config.vocab_size, f"{len(symbols)} symbols"
    vocabulary = {
        "counter": counter, "special": ["<eos>"], "min_freq": 0, "max_size": None, "lower_case": False, "delimiter": None,
        "vocab_file": None, "idx2sym": symbols, "sym2idx": collections.OrderedDict((x, i) for i, x in enumerate(symbols)),
        "eos_idx": 0,
    }  # fmt: skip
    save_pickle(path / "vocab.bin", vocabulary)
    (path / "vocab.pkl").write_bytes(pickle.dumps(vocabulary, 4))
    assert torch.load(path / "vocab.bin", weights_only=False) == vocabulary

    os.environ["TRUST_REMOTE_CODE"] = "True"
    tokenizer = transformers.TransfoXLTokenizer.from_pretrained(path)
    assert tokenizer.get_vocab() == vocabulary["sym2idx"]
    sentences = []
    for text in SENTENCES:
        ids = tokenizer.encode(text)
        assert ids == tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
        # The detokenizer already does what `clean_up_tokenization_spaces` would do.
        decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert decoded == tokenizer.decode(ids, clean_up_tokenization_spaces=True)
        sentences.append({"text": text, "tokens": tokenizer.tokenize(text), "ids": ids, "decoded": decoded})
    about = {"made_by": "transfo_xl.py", "transformers": transformers.__version__, "sacremoses": sacremoses.__version__}
    lines = [f" {json.dumps(key)}: {json.dumps(x)}" for key, x in (about | {"symbols": symbols}).items()]
    lines.append(' "sentences": [\n  ' + ",\n  ".join(json.dumps(x) for x in sentences) + "\n ]")
    (path / "tokens.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    for name in MODELS:
        make(name)
    make_pickle("transfo-xl-b")


if __name__ == "__main__":
    main()
