"""Layers within small models whose outputs the original packages computed, against those outputs."""

from __future__ import annotations

import json

import pytest
from conftest import GOLDENS

torch = pytest.importorskip("torch", reason="PyTorch is not installed: its tests are skipped")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed: layers are not compared")

from torch.nn.functional import layer_norm, pad, silu  # noqa: E402

from longreach import nn  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def near(got, want, tolerance=2e-4):
    assert got.shape == want.shape
    assert (got - want).abs().max() <= tolerance * want.abs().max()


class Golden:
    """The weights of a model, what it was asked, and what it answered."""

    def __init__(self, name):
        self.weights = safetensors.load_file(GOLDENS / name / "model.safetensors")
        self.expected = safetensors.load_file(GOLDENS / name / "expected.safetensors")
        self.config = json.loads((GOLDENS / name / "config.json").read_text())
        self.ids, self.want = self.expected["input_ids"].long(), self.expected["last_hidden_state"]

    def __getitem__(self, name):
        return self.weights[name]

    def __contains__(self, name):
        return name in self.weights

    def layer(self, module, prefix):
        """A module with the weights behind a prefix: all of them, and no other."""
        own = {name.removeprefix(prefix): w for name, w in self.weights.items() if name.startswith(prefix)}
        module.load_state_dict(own, strict=True)
        return module.eval()

    def norm(self, x, name, eps):
        """A layer norm, or a norm by the root of the mean square where there is no bias; none if it is not there."""
        if f"{name}.weight" not in self:
            return x
        weight, bias = self[f"{name}.weight"], self.weights.get(f"{name}.bias")
        if bias is None:
            return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight
        return layer_norm(x, weight.shape, weight, bias, eps)


def before(x):
    """The token before each, less the token."""
    return pad(x, (0, 0, 1, 0))[:, :-1] - x


def swiglu(model, x, at):
    gate, up, down = (model[f"{at}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    return (silu(x @ gate.T) * (x @ up.T)) @ down.T


def square_of_relu(x):
    return x.relu().square()


def channels_of_rwkv6(model, x, at):
    key, receptance = (x + before(x) * model[f"{at}.ffn.{name}.mu"] for name in ("key", "receptance"))
    key, receptance = key @ model[f"{at}.ffn.key.linear.weight"].T, receptance @ model[f"{at}.ffn.receptance.linear.weight"].T
    return receptance.sigmoid() * (square_of_relu(key) @ model[f"{at}.ffn.value.weight"].T)


def channels_of_rwkv7(model, x, at):
    key = (x + before(x) * model[f"{at}.ffn.x_k"]) @ model[f"{at}.ffn.key.weight"].T
    return square_of_relu(key) @ model[f"{at}.ffn.value.weight"].T


def replayed(model, make, channels, forward=lambda layer, x, i: layer(x), second="mlp_norm"):
    """The last hidden states of a model of flash-linear-attention with our layers in it."""
    eps = model.config["norm_eps"]
    x = model["model.embeddings.weight"][model.ids]
    for i in range(model.config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        layer = model.layer(make(i), f"{at}.attn.")
        x = model.norm(x, f"{at}.pre_norm", eps)
        x = x + forward(layer, model.norm(x, f"{at}.attn_norm", eps), i)
        x = x + channels(model, model.norm(x, f"{at}.{second}", eps), at)
    return model.norm(x, "model.norm", eps)


@torch.no_grad()
def test_kda_is_that_of_flash_linear_attention():
    model = Golden("kda-a")
    near(replayed(model, lambda i: nn.KDA(32, 3, 6, expand_v=1.5, norm_eps=1e-6), swiglu), model.want)


@torch.no_grad()
def test_hgrn2_is_that_of_flash_linear_attention():
    model = Golden("hgrn2-a")
    bounds = model["model.lower_bounds"].softmax(0)
    bounds = bounds.cumsum(0) - bounds[0]
    forward = lambda layer, x, i: layer(x, lower_bound=bounds[i])
    near(replayed(model, lambda i: nn.HGRN2(36, 3, 12, norm_eps=1e-6), swiglu, forward), model.want)


@torch.no_grad()
def test_rwkv6_is_that_of_flash_linear_attention():
    model = Golden("rwkv6-a")
    make = lambda i: nn.RWKV6(32, 4, proj_low_rank_dim=5, gate_low_rank_dim=7)
    near(replayed(model, make, channels_of_rwkv6, second="ffn_norm"), model.want)


@torch.no_grad()
def test_rwkv7_is_that_of_flash_linear_attention():
    model, values = Golden("rwkv7-a"), []
    ranks = {f"{name}_low_rank_dim": model.config[f"{name}_low_rank_dim"] for name in ("a", "decay", "gate", "v")}

    def forward(layer, x, i):
        if i == 0:
            values.append(layer.values(x))
        return layer(x, v_first=values[0] if i else None)

    make = lambda i: nn.RWKV7(36, head_dim=12, layer_idx=i, **ranks)
    near(replayed(model, make, channels_of_rwkv7, forward, "ffn_norm"), model.want)


@torch.no_grad()
def test_rwkv4_is_that_of_transformers():
    model = Golden("rwkv-a")
    x = model.norm(model["rwkv.embeddings.weight"][model.ids], "rwkv.blocks.0.pre_ln", 1e-5)
    for i in range(2):
        at = f"rwkv.blocks.{i}"
        x = x + model.layer(nn.RWKV4(32), f"{at}.attention.")(model.norm(x, f"{at}.ln1", 1e-5))
        y = model.norm(x, f"{at}.ln2", 1e-5)
        name = f"{at}.feed_forward"
        key, receptance = (y + before(y) * (1 - model[f"{name}.time_mix_{one}"]) for one in ("key", "receptance"))
        key = square_of_relu(key @ model[f"{name}.key.weight"].T) @ model[f"{name}.value.weight"].T
        x = x + (receptance @ model[f"{name}.receptance.weight"].T).sigmoid() * key
    near(model.norm(x, "rwkv.ln_out", 1e-5), model.want)


@torch.no_grad()
def test_mamba_is_that_of_transformers():
    model = Golden("mamba-a")
    x = model["backbone.embeddings.weight"][model.ids]
    for i in range(3):
        at = f"backbone.layers.{i}"
        x = x + model.layer(nn.Mamba(40), f"{at}.mixer.")(model.norm(x, f"{at}.norm", 1e-5))
    near(model.norm(x, "backbone.norm_f", 1e-5), model.want)


@torch.no_grad()
def test_rg_lru_is_that_of_transformers():
    theirs = pytest.importorskip(
        "transformers.models.recurrent_gemma.modeling_recurrent_gemma", reason="transformers is not installed: RG-LRU is not compared"
    )
    from transformers import RecurrentGemmaConfig

    model = Golden("recurrent_gemma-a")
    ours = model.layer(nn.RGLRU(24, num_heads=3), "model.layers.1.temporal_block.")
    config = RecurrentGemmaConfig(hidden_size=24, lru_width=24, num_attention_heads=3, num_hidden_layers=2, conv1d_width=4)
    block = theirs.RecurrentGemmaRecurrentBlock(config, 1)
    block.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 21, 24)
    want = block(x, torch.arange(21)[None].expand(2, -1), None, use_cache=False)[0]
    near(ours(x), want)


def test_transformer_xl_has_the_parameters_of_transformers():
    model = Golden("transfo-xl-a")
    module = nn.TransformerXLSelfAttention(28, 3, dim_head=8, norm=True)
    model.layer(module, "transformer.layers.1.dec_attn.")
    x = torch.randn(1, 9, 28)
    alone = nn.TransformerXLSelfAttention(28, 3, dim_head=8)
    alone.load_state_dict({name: w for name, w in module.state_dict().items() if "layer_norm" not in name})
    near(module(x), module.layer_norm(x + alone(x)))
