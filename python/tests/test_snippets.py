"""Code that is written for other packages runs after a change of its imports, and models may be directories."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import warnings

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: its tests are skipped")

from conftest import GOLDENS, PIPELINES  # noqa: E402

from longreach import nn  # noqa: E402
from longreach.nn import functional as F  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def near(got, want, tolerance=1e-4):
    assert got.shape == want.shape
    assert (got - want).abs().max() <= tolerance * want.abs().max()


def run(code, **names):
    """The names after a piece of code."""
    exec(compile(code, "snippet", "exec"), names)
    return names


def directory(tmp_path, name, ends=()):
    """A small model with a tokenizer of words, which puts ``ends`` around a text."""
    where = shutil.copytree(GOLDENS / name, tmp_path / "model")
    words = ["<pad>", "<unk>", *ends, ".", *"Plants create energy through a process known as".split()]
    words += [f"word{i}" for i in range(len(words), json.loads((where / "config.json").read_text())["vocab_size"])]
    numbers = {word: i for i, word in enumerate(words)}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "decoder": None,
        "added_tokens": [{"id": numbers[word], "content": word, **special} for word in ("<pad>", "<unk>", *ends)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Isolated"}]},
        "post_processor": None,
        "model": {"type": "WordLevel", "vocab": numbers, "unk_token": "<unk>"},
    }  # fmt: skip
    if ends:
        first, last = ({"SpecialToken": {"id": word, "type_id": 0}} for word in ends)
        text = {"Sequence": {"id": "A", "type_id": 0}}
        known = {word: {"id": word, "ids": [numbers[word]], "tokens": [word]} for word in ends}
        tokenizer["post_processor"] = {
            "type": "TemplateProcessing", "single": [first, text, last], "pair": [first, text, last], "special_tokens": known
        }  # fmt: skip
    (where / "tokenizer.json").write_text(json.dumps(tokenizer))
    (where / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}')
    return str(where)


MAMBA = """
import torch
from longreach.transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(model_id)
model = AutoModelForCausalLM.from_pretrained(model_id, torch_dtype=torch.float16, device_map="auto")
prompt = "Plants create energy through a process known as"
input_ids = tokenizer(prompt, return_tensors="pt").to("cuda")
output = model.generate(**input_ids)
print(tokenizer.decode(output[0], skip_special_tokens=True))
"""


def test_a_language_model_continues_a_text(tmp_path, capsys):
    hf = pytest.importorskip("transformers", reason="transformers is not installed: texts are not compared")
    model_id = directory(tmp_path, "mamba-a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the device and the type, which have tests of their own
        names = run(MAMBA, model_id=model_id)
    ids = names["input_ids"]["input_ids"]
    assert ids.shape[1] > 5
    theirs = hf.AutoModelForCausalLM.from_pretrained(model_id, dtype=torch.float32).eval()
    want = theirs.generate(ids, do_sample=False)
    assert torch.equal(names["output"], want) and want.shape[1] > ids.shape[1]
    tokenizer = hf.AutoTokenizer.from_pretrained(model_id)
    words = lambda text: "".join(text.split())
    assert words(capsys.readouterr().out) == words(tokenizer.decode(want[0], skip_special_tokens=True)) != ""


PERFORMER = """
import torch
from longreach.nn import Performer

model = Performer(
    dim = 512,
    depth = 1,
    heads = 8,
    causal = True
)
x = torch.randn(1, 2048, 512)
output = model(x)
"""


def test_a_performer_reads_a_long_text():
    names = run(PERFORMER)
    output = names["output"]
    assert output.shape == (1, 2048, 512) and bool(output.isfinite().all())
    output.sum().backward()
    assert all(p.grad is not None for p in names["model"].parameters())


def test_a_performer_takes_less_than_250_mb():
    # The peak of a process with the model, over that of one without it.
    peak = "\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    without = PERFORMER.replace("output = model(x)", "")
    sizes = []
    for code in (without, PERFORMER):
        out = subprocess.run([sys.executable, "-c", code + peak], capture_output=True, text=True, check=True)
        sizes.append(int(out.stdout.split()[-1]))
    assert sizes[1] - sizes[0] < 250_000


def test_sparse_attention_is_the_function_of_its_mask():
    Q, K, V = torch.randn(3, 2, 4, 20, 16).unbind(0)
    sparsity_mask = torch.rand(20, 20) < 0.3
    sparsity_mask.fill_diagonal_(True)
    names = run("from longreach.nn.functional import sparse_attention\noutput = sparse_attention(Q, K, V, sparsity_mask)", **locals())
    attention_scores = torch.matmul(Q, K.transpose(-2, -1)) / math.sqrt(K.size(-1))
    attention_scores = attention_scores.masked_fill(~sparsity_mask, float("-inf"))
    near(names["output"], torch.matmul(attention_scores.softmax(-1), V))


def test_local_attention_sees_its_window():
    Q, K, V = torch.randn(3, 2, 4, 40, 16).unbind(0)
    window_size = 8
    names = run("from longreach.nn.functional import local_attention\noutput = local_attention(Q, K, V, window_size)", **locals())
    # Windows by unfolding, with keys that are not there left out rather than zero.
    pad = lambda x, value: torch.nn.functional.pad(x, (0, 0, window_size // 2, window_size // 2), value=value)
    keys, values = (pad(x, 0.0).unfold(2, window_size + 1, 1) for x in (K, V))
    there = pad(torch.ones(1, 1, 40, 1), 0.0).unfold(2, window_size + 1, 1) > 0
    scores = torch.matmul(Q.unsqueeze(3), keys) / math.sqrt(16)
    weights = scores.masked_fill(~there, float("-inf")).softmax(-1)
    near(names["output"], torch.matmul(weights, values.transpose(-2, -1)).squeeze(3))


def test_optimized_attention_is_attention():
    Q, K, V = torch.randn(3, 2, 4, 40, 16).unbind(0)
    names = run("from longreach.nn.functional import optimized_attention\noutput = optimized_attention(Q, K, V)", **locals())
    attention_scores = torch.matmul(Q, K.transpose(-2, -1)) / math.sqrt(K.size(-1))
    near(names["output"], torch.matmul(torch.softmax(attention_scores, dim=-1), V))


def test_linear_attention_is_the_layer_with_its_weights():
    class LinearAttention(torch.nn.Module):
        def __init__(self, d_model, n_features):
            super().__init__()
            self.projection = torch.nn.Linear(d_model, n_features)

        def forward(self, Q, K, V):
            Q = self.projection(Q).exp()
            K = self.projection(K).exp()
            V_new = torch.einsum("bnd,bne->bde", K, V)
            attention = torch.einsum("bnd,bde->bne", Q, V_new)
            return attention / torch.einsum("bnd,bd->bn", Q, K.sum(dim=1)).unsqueeze(-1)

    theirs, Q, K, V = LinearAttention(64, 32), *torch.randn(3, 2, 100, 64).unbind(0)
    code = "from longreach.nn import LinearAttention\nlayer = LinearAttention(64, 32)\nlayer.load_state_dict(weights, strict=True)"
    names = run(code + "\noutput = layer(Q, K, V)", weights=theirs.state_dict(), Q=Q, K=K, V=V)
    near(names["output"], theirs(Q, K, V))


QUANTISED = """
import torch.quantization

def quantized_attention(model):
    quantized_model = torch.quantization.quantize_dynamic(
        model, {torch.nn.Linear}, dtype=torch.qint8
    )
    return quantized_model

quantized_transformer = quantized_attention(transformer_model)
"""


@pytest.mark.parametrize("module", ["torch.quantization", "longreach.quantization"])
def test_modules_are_quantised(module):
    model = nn.Performer(dim=32, depth=1, heads=4).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that its function will go
        names = run(QUANTISED.replace("torch.quantization", module), transformer_model=model, torch=torch)
    x = torch.randn(1, 40, 32)
    quantised = names["quantized_transformer"]
    assert not any(type(one) is torch.nn.Linear for one in quantised.modules())
    near(quantised(x), model(x), 0.05)
    assert any(type(one) is torch.nn.Linear for one in model.modules())


# As it is printed: with comments of Python around it and one of C++ within it.
DS_CONFIG = """\
# Exemplo de configuração de esparsidade no DeepSpeed (ds_config.json)
{
  "sparse_attention": {
    "enabled": true,
    "block_size": 64,
    "sparsity_structure": "fixed", // "fixed", "bigbird", "bslongformer", ou "variable"
    "local_window_size": 256,
    "num_global_blocks": 1,
    "random_blocks": false
  }
}

# Execução do treinamento com o DeepSpeed launcher
# deepspeed --num_gpus=8 train.py --deepspeed --deepspeed_config ds_config.json
"""


@pytest.mark.parametrize("mode", ["fixed", "bigbird", "bslongformer", "variable"])
def test_a_file_of_deepspeed_configures_sparse_attention(tmp_path, mode):
    file = tmp_path / "ds_config.json"
    file.write_text(DS_CONFIG.replace('"fixed",', f'"{mode}",'), encoding="utf-8")
    code = "from longreach.nn import SparseAttention\nlayer = SparseAttention.from_config(file, dim=64, heads=4)"
    layer = run(code, file=file)["layer"]
    fields = {
        "fixed": {"num_local_blocks": 4, "num_global_blocks": 1},
        "bigbird": {"num_sliding_window_blocks": 5, "num_global_blocks": 1, "num_random_blocks": 0},
        "bslongformer": {"num_sliding_window_blocks": 5, "global_block_indices": [0]},
        "variable": {"local_window_blocks": [4], "global_block_indices": [0], "num_random_blocks": 0},
    }
    same = nn.SparseAttention(64, 4, {"mode": mode, "block": 64, **fields[mode]})
    same.load_state_dict(layer.state_dict())
    x = torch.randn(1, 700, 64)
    assert torch.equal(layer(x), same(x))
    everything = nn.SparseAttention(64, 4, {"mode": "dense", "block": 64})
    everything.load_state_dict(layer.state_dict())
    assert not torch.allclose(layer(x), everything(x), atol=1e-3)
    file.write_text(file.read_text(encoding="utf-8").replace("true", "false", 1), encoding="utf-8")
    disabled = nn.SparseAttention.from_config(file, dim=64, heads=4)
    disabled.load_state_dict(layer.state_dict())
    assert torch.equal(disabled(x), everything(x))


def test_a_file_that_is_no_json_is_named(tmp_path):
    file = tmp_path / "ds_config.json"
    for text, message in (('{"sparse_attention": }', "ds_config.json: Expecting value"), ("[1]", "ds_config.json: want an object")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            nn.SparseAttention.from_config(file, dim=64, heads=4)


LONGFORMER = """
from longreach.transformers import LongformerModel, LongformerTokenizer
import torch

tokenizer = LongformerTokenizer.from_pretrained(model_id)
model = LongformerModel.from_pretrained(model_id)

long_text = "..." * 1000

inputs = tokenizer(long_text, return_tensors='pt', max_length=max_length, truncation=True)
global_attention_mask = torch.zeros_like(inputs['input_ids'])
global_attention_mask[:, 0] = 1

outputs = model(**inputs, global_attention_mask=global_attention_mask)
"""


def test_longformer_reads_a_text_with_a_global_token(tmp_path):
    hf = pytest.importorskip("transformers", reason="transformers is not installed: outputs are not compared")
    model_id = directory(tmp_path, "encoders/longformer-base-a", ("<s>", "</s>"))
    theirs = hf.LongformerModel.from_pretrained(model_id).eval()
    longest = theirs.config.max_position_embeddings - 2
    names = run(LONGFORMER, model_id=model_id, max_length=longest)
    inputs = names["inputs"]
    # The text is cut, and the special token behind it stays.
    want = hf.AutoTokenizer.from_pretrained(model_id)("..." * 1000, max_length=longest, truncation=True)["input_ids"]
    assert inputs["input_ids"][0].tolist() == want and len(want) == longest
    with torch.no_grad():
        outputs = theirs(**inputs, global_attention_mask=names["global_attention_mask"])
    near(names["outputs"].last_hidden_state, outputs.last_hidden_state)
    other = names["model"](**inputs).last_hidden_state
    assert not torch.allclose(other, outputs.last_hidden_state, atol=1e-3)


MODERNBERT = """
from longreach.transformers import AutoTokenizer, AutoModel

tokenizer = AutoTokenizer.from_pretrained(model_id)
model = AutoModel.from_pretrained(model_id)

inputs = tokenizer("Exemplo de texto para ModernBERT.", return_tensors="pt")
outputs = model(**inputs)
"""


def test_modernbert_reads_a_text():
    hf = pytest.importorskip("transformers", reason="transformers is not installed: outputs are not compared")
    model_id = str(PIPELINES / "st-modernbert-max")
    names = run(MODERNBERT, model_id=model_id)
    theirs = hf.AutoModel.from_pretrained(model_id, attn_implementation="eager").eval()
    with torch.no_grad():
        want = theirs(input_ids=names["inputs"]["input_ids"]).last_hidden_state
    near(names["outputs"].last_hidden_state, want)
    assert names["outputs"][0] is names["outputs"].last_hidden_state


INFINI = """
from longreach.nn import InfiniAttention

infini_attn = InfiniAttention(dim=512, heads=8)

output = infini_attn(x)
"""


def test_infini_attention_reads_more_than_two_segments():
    x = torch.randn(1, 5000, 512)
    with torch.no_grad():
        names = run(INFINI, x=x)
        output, layer = names["output"], names["infini_attn"]
        assert output.shape == x.shape and bool(output.isfinite().all())
        # Read in calls, the state has one size.
        state, sizes = None, set()
        for part in x.split(1250, 1):
            y, state = layer(part, state, return_state=True)
            sizes.add(state.memory.numel())
        assert len(sizes) == 1 and state.tokens == 5000
        near(y, output[:, -1250:], 2e-4)


def test_functions_of_the_module_are_those_of_the_package():
    assert all(callable(getattr(F, name)) for name in ("sparse_attention", "local_attention", "optimized_attention"))
