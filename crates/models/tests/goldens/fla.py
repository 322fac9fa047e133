"""Makes the goldens of the models of flash-linear-attention (fla): small random checkpoints and their outputs.

    pip install torch==2.13.0 safetensors
    python fla.py [NAME ...]

It writes next to itself, for each model type, the folders TYPE-a and TYPE-b, whose configurations differ in as many fields
as possible, and more where a type has more feature maps, activations and norms: config.json, generation_config.json and
model.safetensors with the fields, names and shapes that fla's models have, and expected.safetensors with

    input_ids          i64 [2, 45]         random tokens
    logits             f32 [2, 45, vocab]  for those tokens
    last_hidden_state  f32 [2, 45, hidden] the residual stream after the final norm
    prompt             i64 [1, 12]
    greedy             i64 [64]            the tokens that follow it, each from a forward pass over all before it

fla needs a GPU, so the models are written here once more, from their equations, token by token, in float64 from the weights
in float32. For these checkpoints fla 0.5.2 itself (its models and kernels under triton's interpreter, in float32) has the same
fields, names and shapes and computes the same logits up to 4e-5; that check is not part of this script.

Parameters are random around their usual values, norms, biases, `A_log` and their like too. The first head of some keys is
nearly zero, or mapped to that, so that the ε of their normalisation matters; features of either sign have sums away from
zero where they are divided by them. The script checks that each parameter matters and each field that does not change
shapes, that the logits spread, and that no greedy token is a close call.

Made with torch 2.13.0.
"""

import json
import math
import pathlib
import shutil
import sys
import types

import safetensors.torch
import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).resolve().parent
MAX_GREEDY, MIN_GAP = 64, 2e-3

# The defaults of fla's configurations: of all, of those with a gated MLP, of each type.
ALL = {
    "hidden_size": 2048, "hidden_ratio": 4, "intermediate_size": None, "num_hidden_layers": 24, "attn": None,
    "attn_mode": "chunk", "max_position_embeddings": 2048, "use_cache": True, "initializer_range": 0.02, "fuse_norm": True,
    "fuse_cross_entropy": True, "fuse_linear_cross_entropy": False, "use_l2warp": False, "vocab_size": 32000,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "dtype": "float32",
}  # fmt: skip
MLP = ALL | {"hidden_act": "swish", "norm_eps": 1e-6, "fuse_swiglu": True, "attnres_block_size": None}
RWKV = ALL | {"hidden_act": "sqrelu", "norm_eps": 1e-5, "norm_first": True, "norm_bias": True}
LINEAR = MLP | {"num_kv_heads": None, "elementwise_affine": True, "expand_k": 1.0, "expand_v": 1.0, "num_heads": 4}
GATED = LINEAR | {"feature_map": None, "use_output_gate": True, "use_short_conv": False, "conv_size": 4}
DELTA = MLP | {"use_short_conv": True, "conv_size": 4, "allow_neg_eigval": False}
DEFAULTS = {
    "gla": GATED | {"expand_k": 0.5, "clamp_min": None, "use_gk": True, "use_gv": False},
    "retnet": GATED | {"expand_v": 2.0, "num_heads": 8, "hidden_ratio": 2},
    "delta_net": DELTA | {
        "expand_k": 1.0, "expand_v": 1.0, "num_heads": 16, "use_gate": False, "use_beta": True, "use_output_norm": True,
        "qk_norm": "l2", "qk_activation": "silu",
    },
    "gated_deltanet": DELTA | {
        "expand_v": 2.0, "head_dim": 256, "num_heads": 6, "num_v_heads": None, "use_gate": True, "num_hidden_layers": 21,
    },
    "kda": {key: x for key, x in DELTA.items() if key != "fuse_linear_cross_entropy"} | {
        "expand_v": 1.0, "head_dim": 128, "num_heads": 16, "num_v_heads": None, "safe_gate": False, "lower_bound": None,
    },
    "hgrn2": MLP | {
        "num_heads": None, "expand_ratio": 128, "use_short_conv": False, "conv_size": 4, "use_lower_bound": True,
        "elementwise_affine": True,
    },
    "linear_attn": LINEAR | {
        "attn_mode": "fused_chunk", "feature_map": "elementwise_product", "tie_feature_map_qk": False, "norm_q": False,
        "norm_k": False, "norm_feature_map": False,
    },
    "rwkv6": RWKV | {
        "expand_k": 0.5, "expand_v": 1.0, "hidden_ratio": 3.5, "num_heads": 4, "proj_low_rank_dim": 32,
        "gate_low_rank_dim": 64,
    },
    "rwkv7": RWKV | {
        "head_dim": 64, "num_heads": None, "decay_low_rank_dim": 64, "gate_low_rank_dim": 128, "a_low_rank_dim": 64,
        "v_low_rank_dim": 16, "value_dim": None, "use_l2warp": True,
    },
}  # fmt: skip
CLASSES = {
    "gla": "GLA", "retnet": "RetNet", "delta_net": "DeltaNet", "gated_deltanet": "GatedDeltaNet", "kda": "KDA",
    "hgrn2": "HGRN2", "linear_attn": "LinearAttention", "rwkv6": "RWKV6", "rwkv7": "RWKV7",
}  # fmt: skip

# The fields that the folders -b share. Only the last line affects outputs; `fuse_norm` affects names and an ε of rwkv7.
B = {
    "attn_mode": "fused_recurrent", "max_position_embeddings": 64, "use_cache": False, "initializer_range": 0.2,
    "fuse_norm": False, "fuse_cross_entropy": False, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3,
    "norm_eps": 2e-2, "tie_word_embeddings": True,
}  # fmt: skip
B_MLP = B | {"fuse_swiglu": False, "use_l2warp": True}

# NAME: (seed, fields)
MODELS = {
    "gla-a": (2, {"vocab_size": 97, "hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 2, "num_heads": 2}),
    "gla-b": (3, B_MLP | {
        "vocab_size": 113, "hidden_size": 40, "intermediate_size": 44, "hidden_ratio": 3, "num_hidden_layers": 3,
        "expand_k": 0.6, "expand_v": 0.75, "num_heads": 6, "num_kv_heads": 2, "feature_map": "relu", "use_short_conv": True,
        "conv_size": 3, "clamp_min": -0.15, "use_gk": False, "use_gv": True,
        "attn": {"layers": [1], "num_heads": 4, "num_kv_heads": 2, "qkv_bias": True, "window_size": 16, "rope_theta": 500.0},
    }),
    "delta_net-a": (2, {
        "vocab_size": 101, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_heads": 4,
        "expand_v": 1.5,
    }),
    "delta_net-b": (3, B_MLP | {
        "vocab_size": 107, "hidden_size": 36, "intermediate_size": 40, "hidden_ratio": None, "num_hidden_layers": 3,
        "expand_k": 0.75, "num_heads": 3, "use_gate": True, "use_beta": False, "use_output_norm": False, "conv_size": 3,
        "allow_neg_eigval": True, "qk_norm": "sum", "qk_activation": "elu",
    }),
    "delta_net-c": (1, {
        "vocab_size": 101, "hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 2, "num_heads": 3,
        "expand_k": 0.5, "expand_v": 0.75, "use_gate": True, "use_short_conv": False, "norm_eps": 1e-3,
    }),
    "delta_net-d": (5, {
        "vocab_size": 83, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 3,
        "use_short_conv": False, "qk_activation": "relu",
    }),
    "delta_net-e": (4, B_MLP | {
        "vocab_size": 79, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 2,
        "expand_v": 0.75, "use_gate": True, "conv_size": 3, "allow_neg_eigval": True, "qk_norm": "sum",
        "qk_activation": "relu", "tie_word_embeddings": False,
    }),
    "delta_net-f": (3, {
        "vocab_size": 83, "hidden_size": 20, "intermediate_size": 32, "num_hidden_layers": 2, "num_heads": 2,
        "expand_k": 0.5, "use_beta": False, "conv_size": 2, "qk_activation": "identity",
    }),
    "delta_net-g": (180, {
        "vocab_size": 83, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 4,
        "expand_v": 1.5, "use_short_conv": False, "qk_norm": "sum", "qk_activation": "identity", "norm_eps": 1e-3,
    }),
    "delta_net-h": (4, B_MLP | {
        "vocab_size": 79, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 3,
        "expand_v": 0.5, "allow_neg_eigval": True, "qk_activation": "elu", "tie_word_embeddings": False,
        "attn": {"layers": [1], "num_heads": 4, "num_kv_heads": 2, "qkv_bias": True, "window_size": 9, "rope_theta": 300.0},
    }),
    "delta_net-i": (3, {
        "vocab_size": 83, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 2,
        "use_gate": True, "use_beta": False, "qk_norm": "sum",
    }),
    "gated_deltanet-a": (1, {
        "vocab_size": 103, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 6, "num_heads": 3,
    }),
    "gated_deltanet-b": (8, B_MLP | {
        "vocab_size": 109, "hidden_size": 40, "intermediate_size": 44, "num_hidden_layers": 3, "head_dim": 8, "num_heads": 2,
        "num_v_heads": 6, "expand_v": 0.75, "use_gate": False, "use_short_conv": False, "allow_neg_eigval": True,
        "attn": [{"layers": [1], "num_heads": 5, "num_kv_heads": 5, "qkv_bias": False, "window_size": None,
                  "rope_theta": 10000.0}],
    }),
    "retnet-a": (6, {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4}),
    "retnet-b": (1, B_MLP | {
        "vocab_size": 113, "hidden_size": 40, "intermediate_size": 44, "num_hidden_layers": 3, "expand_k": 0.6,
        "expand_v": 0.75, "num_heads": 6, "num_kv_heads": 2, "feature_map": "relu", "use_output_gate": False,
        "use_short_conv": True,
    }),
    "rwkv7-a": (3, {
        "vocab_size": 97, "hidden_size": 36, "hidden_ratio": 2, "num_hidden_layers": 2, "head_dim": 12, "num_heads": 3,
        "decay_low_rank_dim": 6, "gate_low_rank_dim": 10, "a_low_rank_dim": 5, "v_low_rank_dim": 4, "value_dim": [36, 36],
    }),
    "rwkv7-b": (2, B | {
        "vocab_size": 107, "hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 8, "num_heads": 5,
        "decay_low_rank_dim": 4, "gate_low_rank_dim": 5, "a_low_rank_dim": 7, "v_low_rank_dim": 6, "value_dim": [40, 40, 40],
        "norm_eps": 5e-3, "norm_first": False, "norm_bias": False, "use_l2warp": False,
    }),
    "rwkv6-a": (1, {
        "vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "proj_low_rank_dim": 5,
        "gate_low_rank_dim": 7,
    }),
    "rwkv6-b": (1, B | {
        "vocab_size": 109, "hidden_size": 40, "intermediate_size": 44, "num_hidden_layers": 2, "num_heads": 5,
        "expand_k": 0.75, "expand_v": 1.5, "proj_low_rank_dim": 3, "gate_low_rank_dim": 4, "hidden_act": "relu",
        "norm_first": False, "norm_bias": False, "use_l2warp": True,
    }),
    "hgrn2-a": (3, {
        "vocab_size": 97, "hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 3, "num_heads": 3,
        "expand_ratio": 12,
    }),
    "hgrn2-b": (5, B_MLP | {
        "vocab_size": 109, "hidden_size": 36, "intermediate_size": 44, "num_hidden_layers": 2, "num_heads": 2,
        "expand_ratio": 16, "use_short_conv": True, "conv_size": 3, "use_lower_bound": False, "elementwise_affine": False,
    }),
    "linear_attn-a": (1, {
        "vocab_size": 101, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_heads": 4,
        "expand_v": 1.5,
    }),
    "linear_attn-b": (14, B_MLP | {
        "vocab_size": 107, "hidden_size": 40, "intermediate_size": 44, "num_hidden_layers": 3, "expand_k": 0.6,
        "expand_v": 0.75, "num_heads": 6, "num_kv_heads": 2, "feature_map": "elu", "norm_q": True, "norm_k": True,
        "elementwise_affine": False, "tie_word_embeddings": False,
    }),
    "linear_attn-c": (6, {
        "vocab_size": 97, "hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 2, "num_heads": 3,
        "expand_v": 0.5, "feature_map": "hedgehog", "norm_feature_map": True, "norm_eps": 1e-3,
    }),
    "linear_attn-d": (9, B_MLP | {
        "vocab_size": 83, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "expand_v": 1.5, "feature_map": "t2r", "norm_q": True, "tie_word_embeddings": False,
    }),
    "linear_attn-e": (30, {
        "vocab_size": 79, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_heads": 3,
        "feature_map": "t2r", "norm_feature_map": True,
    }),
    "linear_attn-f": (129, B_MLP | {
        "vocab_size": 83, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 4,
        "expand_k": 0.5, "feature_map": "dpfp", "norm_q": True, "norm_k": True, "tie_word_embeddings": False,
    }),
    "linear_attn-g": (202, {
        "vocab_size": 83, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 3,
        "num_kv_heads": 1, "expand_v": 0.5, "feature_map": "dpfp", "tie_feature_map_qk": True, "norm_feature_map": True,
    }),
    "linear_attn-h": (9, {
        "vocab_size": 79, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 4,
        "expand_k": 1.5, "feature_map": "relu",
        "attn": {"layers": [0], "num_heads": 4, "num_kv_heads": 4, "qkv_bias": False, "window_size": 7, "rope_theta": 10000.0},
    }),
    "linear_attn-i": (43, {
        "vocab_size": 83, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 3,
        "expand_k": 0.75, "feature_map": "relu", "tie_feature_map_qk": True, "norm_k": True, "norm_feature_map": True,
        "norm_eps": 1e-3,
    }),
    "linear_attn-j": (2, {
        "vocab_size": 79, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "expand_k": 1.5, "feature_map": "identity",
    }),
    "linear_attn-k": (950, B_MLP | {
        "vocab_size": 83, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 3,
        "feature_map": "identity", "norm_q": True, "norm_k": True, "tie_word_embeddings": False,
        "attn": {"layers": [1], "num_heads": 4, "num_kv_heads": 2, "qkv_bias": False, "window_size": 7, "rope_theta": 10000.0},
    }),
    "linear_attn-l": (3, {
        "vocab_size": 83, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 4,
        "num_kv_heads": 1, "feature_map": "elu", "norm_feature_map": True, "norm_eps": 1e-3,
        "attn": {"layers": [0], "num_heads": 4, "num_kv_heads": 2, "qkv_bias": False, "window_size": 7, "rope_theta": 10000.0},
    }),
    "linear_attn-m": (19, {
        "vocab_size": 83, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_heads": 3,
        "expand_v": 0.75, "norm_k": True, "norm_feature_map": True, "norm_eps": 1e-3,
        "attn": [{"layers": [0], "num_heads": 3, "num_kv_heads": 3, "qkv_bias": False, "window_size": 9,
                  "rope_theta": 10000.0}],
    }),
    "kda-a": (2, {
        "vocab_size": 103, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 6, "num_heads": 3,
        "expand_v": 1.5,
    }),
    "kda-b": (1, B_MLP | {
        "vocab_size": 109, "hidden_size": 40, "intermediate_size": 44, "num_hidden_layers": 3, "head_dim": 8, "num_heads": 2,
        "num_v_heads": 6, "expand_v": 0.75, "use_short_conv": False, "allow_neg_eigval": True, "safe_gate": True,
        "lower_bound": -3.0,
    }),
}  # fmt: skip

# Fields that do not affect shapes, with a value that must change the logits.
MATTER = {
    "clamp_min": None, "allow_neg_eigval": False, "qk_norm": "l2", "qk_activation": "silu", "norm_q": False, "norm_k": False,
    "norm_feature_map": False, "lower_bound": None,
}  # fmt: skip
ACT = {
    "relu": torch.relu, "sqrelu": lambda x: torch.relu(x) ** 2, "silu": F.silu, "swish": F.silu,
    "elu": lambda x: F.elu(x) + 1, "identity": lambda x: x,
}  # fmt: skip


class Weights:
    """The tensors with a prefix. A missing tensor is created on access, if this is allowed."""

    def __init__(self, tensors, make=None, prefix=""):
        self.tensors, self.make, self.prefix = tensors, make, prefix

    def at(self, name):
        return Weights(self.tensors, self.make, f"{self.prefix}{name}.")

    def __call__(self, name, *shape):
        name = self.prefix + name
        if name not in self.tensors and self.make:
            self.tensors[name] = self.make(name, shape)
        assert self.tensors[name].shape == shape, name
        return self.tensors[name].double()

    def linear(self, name, x, size, bias=False):
        y = x @ self(f"{name}.weight", size, x.shape[-1]).T
        return y + self(f"{name}.bias", size) if bias else y

    def lora(self, name, x, size, rank, act=None, bias=True):
        y = self.linear(f"{name}.lora.0", x, rank)
        return self.linear(f"{name}.lora.2", act(y) if act else y, size, bias)


def heads(x, size):
    return x.unflatten(-1, (-1, size))


def spread(x, count):
    """Repeats the heads of `x` to `count` heads; adjacent heads share one."""
    return x.repeat_interleave(count // x.shape[2], 2)


def rms(x, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def l2(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def group_norm(x, eps):
    return rms(x - x.mean(-1, keepdim=True), eps)


def shift(x):
    """The difference of the previous token and the current one."""
    return F.pad(x, (0, 0, 1, 0))[:, :-1] - x


def short_conv(w, name, x, size):
    taps = w(f"{name}_conv1d.weight", x.shape[-1], 1, size)[:, 0]
    return sum(F.pad(x, (0, 0, j, 0))[:, : x.shape[1]] * taps[:, size - 1 - j] for j in range(size))


def project(c, w, x, name, size, act=F.silu, bare=None):
    """A projection, followed by a short convolution and `act`, or by `bare` if there is no convolution."""
    y = w.linear(f"{name}_proj", x, size)
    if c.use_short_conv:
        y, bare = short_conv(w, name, y, c.conv_size), act
    return bare(y) if bare else y


def recur(q, k, v, g=None, beta=None, scale=None):
    """[B, T, H, .]: the state decays by e^g, k⊗v is added (with a beta, by the delta rule), and q reads it."""
    state, out = q.new_zeros(*k.shape[:1], *k.shape[2:], v.shape[-1]), []
    for t in range(q.shape[1]):
        if g is not None:
            state = state * g[:, t, ..., None].exp()
        new = v[:, t]
        if beta is not None:
            new = beta[:, t, :, None] * (new - torch.einsum("bhk,bhkv->bhv", k[:, t], state))
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], new)
        out.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(out, 1) * (k.shape[-1] ** -0.5 if scale is None else scale)


def sizes(c):
    """The widths of a key head and of a value head, and the numbers of heads."""
    k, v = (int(c.hidden_size * x) // c.num_heads for x in (c.expand_k, c.expand_v))
    return k, v, getattr(c, "num_kv_heads", None) or c.num_heads


def gated_norm(c, w, x, o):
    size = o.shape[-1]
    name = "g_norm_swish_gate" if c.fuse_norm and c.use_output_gate else "g_norm"
    o = rms(o, c.norm_eps)
    if c.elementwise_affine:
        o = o * w(f"{name}.weight", size)
    o = o.flatten(2)
    if c.use_output_gate:
        o = o * F.silu(w.linear("g_proj", x, o.shape[-1]))
    return w.linear("o_proj", o, c.hidden_size)


def gla(c, w, x, layer, shared):
    K, V, n = sizes(c)
    q, k = project(c, w, x, "q", c.num_heads * K), project(c, w, x, "k", n * K)
    v = project(c, w, x, "v", n * V)
    g = F.logsigmoid(w.linear("gk_proj.1", w.linear("gk_proj.0", x, 16), n * K, True)) / 16
    if c.clamp_min is not None:
        g = g.clamp_min(c.clamp_min)
    if c.feature_map:
        q, k = ACT[c.feature_map](q), ACT[c.feature_map](k)
    k, v, g = (spread(heads(y, size), c.num_heads) for y, size in ((k, K), (v, V), (g, K)))
    return gated_norm(c, w, x, recur(heads(q, K), k, v, g))


def rotate(x, theta):
    """Rotary embeddings of [B, T, H, D], which pair the first half of D with the second."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None, None] * theta ** -(torch.arange(half, dtype=x.dtype) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def retnet(c, w, x, layer, shared):
    K, V, n = sizes(c)
    q, k = heads(w.linear("q_proj", x, c.num_heads * K), K), heads(w.linear("k_proj", x, n * K), K)
    v = heads(w.linear("v_proj", x, n * V), V)
    if c.feature_map:
        q, k = ACT[c.feature_map](q), ACT[c.feature_map](k)
    q, k, v = rotate(q, 10000.0), spread(rotate(k, 10000.0), c.num_heads), spread(v, c.num_heads)
    gamma = 1 - 2.0 ** (-5 - torch.arange(c.num_heads, dtype=x.dtype))
    return gated_norm(c, w, x, recur(q, k, v, gamma.log()[:, None].expand(*q.shape[:3], 1)))


def o_norm(c, w, o, gate=None):
    o = rms(o, c.norm_eps) * w("o_norm.weight", o.shape[-1])
    o = o.flatten(2)
    return w.linear("o_proj", o * gate if gate is not None else o, c.hidden_size)


def delta_net(c, w, x, layer, shared):
    K, V, n = sizes(c)
    act = F.silu if c.qk_activation == "silu" else None
    q, k = (heads(project(c, w, x, name, n * K, act, act), K) for name in "qk")
    v = heads(project(c, w, x, "v", n * V, F.silu, F.silu), V)
    if act is None:
        q, k = ACT[c.qk_activation](q), ACT[c.qk_activation](k)
    norm = l2 if c.qk_norm == "l2" else lambda y: y / y.sum(-1, keepdim=True)
    beta = w.linear("b_proj", x, n).sigmoid() if c.use_beta else torch.ones_like(q[..., 0])
    o = recur(norm(q), norm(k), v, None, beta * 2 if c.allow_neg_eigval else beta)
    return o_norm(c, w, o, F.silu(w.linear("g_proj", x, n * V)) if c.use_gate else None)


def delta_inputs(c, w, x):
    """The common part of gated_deltanet and kda: q, k, v and beta for each value head, and the number of value heads."""
    K, V, n = c.head_dim, int(c.head_dim * c.expand_v), c.num_v_heads or c.num_heads
    q, k = (project(c, w, x, name, c.num_heads * K, F.silu, F.silu) for name in "qk")
    v = heads(project(c, w, x, "v", n * V, F.silu, F.silu), V)
    beta = w.linear("b_proj", x, n).sigmoid()
    return *(spread(l2(heads(y, K)), n) for y in (q, k)), v, beta * 2 if c.allow_neg_eigval else beta, n


def gated_deltanet(c, w, x, layer, shared):
    q, k, v, beta, n = delta_inputs(c, w, x)
    g = -w("A_log", n).exp() * F.softplus(w.linear("a_proj", x, n) + w("dt_bias", n))
    o = recur(q, k, v, g[..., None], beta)
    return o_norm(c, w, o, F.silu(w.linear("g_proj", x, o.shape[2] * o.shape[3])) if c.use_gate else None)


def kda(c, w, x, layer, shared):
    q, k, v, beta, n = delta_inputs(c, w, x)
    K, V = k.shape[-1], v.shape[-1]
    y = heads(w.linear("f_proj.1", w.linear("f_proj.0", x, V), n * K) + w("dt_bias", n * K), K)
    a = w("A_log", n).exp()[:, None]
    g = -a * F.softplus(y) if c.lower_bound is None else c.lower_bound * (a * y).sigmoid()
    gate = w.linear("g_proj.1", w.linear("g_proj.0", x, V), n * V, True).sigmoid()
    return o_norm(c, w, recur(q, k, v, g, beta), gate)


def hgrn2(c, w, x, layer, shared):
    n, K = c.num_heads, c.expand_ratio
    q, f = (project(c, w, x, name, n * K, None) for name in "qf")
    i = project(c, w, x, "i", c.hidden_size, None)
    f = f.sigmoid()
    if c.use_lower_bound and layer > 0:
        low = shared["w"]("model.lower_bounds", c.num_hidden_layers, c.hidden_size).softmax(0)[1 : layer + 1].sum(0)
        f = low + (1 - low) * f
    o = recur(heads(F.silu(q), K), heads(1 - f, K), heads(i, c.hidden_size // n), heads(f.log(), K))
    o = rms(o.flatten(2), 1e-5)
    return w.linear("o_proj", o * w("g_norm.weight", c.hidden_size) if c.elementwise_affine else o, c.hidden_size)


def linear_attn(c, w, x, layer, shared):
    K, V, n = sizes(c)
    q, k = heads(w.linear("q_proj", x, c.num_heads * K), K), spread(heads(w.linear("k_proj", x, n * K), K), c.num_heads)
    v = spread(heads(w.linear("v_proj", x, n * V), V), c.num_heads)

    def feature_map(name, y, sums_to_one):
        w_map = w.at(f"feature_map_{name}")
        if c.feature_map == "elementwise_product":
            y = w_map.linear("layer1", y, K, True) * w_map.linear("layer2", y, K, True)
        elif c.feature_map == "hedgehog":
            y = 2 * w_map.linear("layer", y, K, True)
            y = torch.cat([y, -y], -1).softmax(-1)
        elif c.feature_map == "t2r":
            y = torch.relu(w_map.linear("layer", y, K))
        elif c.feature_map == "dpfp":
            y = torch.relu(y)
            y = torch.cat([y, -y], -1)
            y = torch.cat([y * y.roll(j, -1) for j in range(1, 5)], -1)
        else:
            y = ACT[c.feature_map](y)
        return y / (y.sum(-1, keepdim=True) + 1e-4) if sums_to_one else y

    q, k = feature_map("q", q, c.norm_q), feature_map("k", k, c.norm_k)
    o, scale = recur(q, k, v), q.shape[-1] ** -0.5
    if c.norm_feature_map:
        o = o / ((q * scale * k.cumsum(1)).sum(-1, keepdim=True) + 1e-10)
    o = rms(o, c.norm_eps)
    o = (o * w("norm.weight", V) if c.elementwise_affine else o).flatten(2)
    return w.linear("o_proj", o, c.hidden_size)


def rwkv6(c, w, x, layer, shared):
    K, V, n = sizes(c)
    d, P = c.hidden_size, c.proj_low_rank_dim
    delta = shift(x)
    z = w.linear("x_proj.0.linear", x + delta * w("x_proj.0.mu", d), 5 * P).tanh()
    up, bias = w("x_proj.2.weight", d, 5 * P), w("x_bias", 5, d)
    mixed = [x + delta * (z[..., s] @ up[:, s].T + bias[i]) for i, s in ((i, slice(i * P, (i + 1) * P)) for i in range(5))]
    xr, xw, xk, xv, xg = mixed
    r, k = (heads(w.linear(f"{name}_proj.linear", y, n * K), K) for name, y in (("r", xr), ("k", xk)))
    v, g = heads(w.linear("v_proj.linear", xv, n * V), V), w.linear("g_proj.linear", xg, n * V)
    decay = heads((-w.lora("w_proj.linear", xw, n * K, c.gate_low_rank_dim, torch.tanh).exp()).exp(), K)
    bonus, state, out = w("bonus", n, K), x.new_zeros(len(x), n, K, V), []
    for t in range(x.shape[1]):
        kv = torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        out.append(torch.einsum("bhk,bhkv->bhv", r[:, t], state + bonus[..., None] * kv))
        state = decay[:, t, ..., None] * state + kv
    o = group_norm(torch.stack(out, 1), c.norm_eps).flatten(2)
    o = o * w("g_norm.weight", n * V) + w("g_norm.bias", n * V)
    return w.linear("o_proj", o * F.silu(g), d)


def rwkv6_ffn(c, w, x, size):
    delta, d = shift(x), c.hidden_size
    key = ACT[c.hidden_act](w.linear("key.linear", x + delta * w("key.mu", d), size))
    gate = w.linear("receptance.linear", x + delta * w("receptance.mu", d), d).sigmoid()
    return gate * w.linear("value", key, d)


def rwkv7(c, w, x, layer, shared):
    d, D, n = c.hidden_size, c.head_dim, c.num_heads
    delta = shift(x)
    xr, xw, xk, xv, xa, xg = (x + delta * w(f"x_{name}", 1, 1, d) for name in "rwkvag")
    r, k, v = (w.linear(f"{name}_proj", y, d) for name, y in (("r", xr), ("k", xk), ("v", xv)))
    decay = (-math.exp(-0.5) * w.lora("w_lora", xw, d, c.decay_low_rank_dim, torch.tanh).sigmoid()).exp()
    if layer == 0:
        shared["v"] = v
    else:
        v = v + (shared["v"] - v) * w.lora("v_lora", xv, d, c.v_low_rank_dim).sigmoid()
    a = w.lora("a_lora", xa, d, c.a_low_rank_dim).sigmoid()
    g = w.lora("g_lora", xg, d, c.gate_low_rank_dim, torch.sigmoid, bias=False)
    kk = heads(k * w("k_k", d), D)
    kk = l2(kk) if c.fuse_norm else F.normalize(kk, dim=-1)
    k = k * (1 + (a - 1) * w("k_a", d))
    r, k, v, a, decay = (heads(y, D) for y in (r, k, v, a, decay))
    state, out = x.new_zeros(len(x), n, D, D), []
    for t in range(x.shape[1]):
        read = torch.einsum("bhk,bhkv->bhv", kk[:, t], state)
        state = decay[:, t, ..., None] * state - torch.einsum("bhk,bhv->bhkv", kk[:, t] * a[:, t], read)
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        out.append(torch.einsum("bhk,bhkv->bhv", r[:, t], state))
    o = group_norm(torch.stack(out, 1), D * c.norm_eps).flatten(2) * w("g_norm.weight", d) + w("g_norm.bias", d)
    o = o + ((r * k * w("r_k", n, D)).sum(-1, keepdim=True) * v).flatten(2)
    return w.linear("o_proj", o * g, d)


def rwkv7_ffn(c, w, x, size):
    y = w.linear("key", x + shift(x) * w("x_k", c.hidden_size), size)
    return w.linear("value", ACT[c.hidden_act](y), c.hidden_size)


def attention(c, w, x, spec):
    """Softmax attention in the layers that `attn` names."""
    d, n, kv = c.hidden_size, spec["num_heads"], spec["num_kv_heads"]
    q, k, v = (heads(w.linear(f"{name}_proj", x, d // n * m, spec["qkv_bias"]), d // n) for name, m in zip("qkv", (n, kv, kv)))
    q, k, v = rotate(q, spec["rope_theta"]), spread(rotate(k, spec["rope_theta"]), n), spread(v, n)
    back = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
    seen = (back >= 0) & (back < (spec["window_size"] or math.inf))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * (d // n) ** -0.5
    o = torch.einsum("bhij,bjhd->bihd", scores.masked_fill(~seen, -math.inf).softmax(-1), v)
    return w.linear("o_proj", o.flatten(2), d)


def mlp(c, w, x, size):
    return w.linear("down_proj", F.silu(w.linear("gate_proj", x, size)) * w.linear("up_proj", x, size), c.hidden_size)


def model(c, tensors, ids, make=None):
    """The last hidden state and the logits."""
    w, d, shared = Weights(tensors, make), c.hidden_size, {"w": Weights(tensors, make)}
    kind, rwkv = c.model_type, c.model_type.startswith("rwkv")
    mixer, ffn, ffn_name = globals()[kind], globals()[f"{kind}_ffn"] if rwkv else mlp, "ffn" if rwkv else "mlp"
    specs = [c.attn] if isinstance(c.attn, dict) else c.attn or []
    size = c.intermediate_size
    if size is None:
        least, size = (32, d * c.hidden_ratio) if rwkv else (256, d * c.hidden_ratio * 2 / 3)
        size = least * math.ceil(int(size) / least)

    def norm(name, x):
        y = group_norm(x, c.norm_eps) if rwkv else rms(x, c.norm_eps)
        y = y * w(f"{name}.weight", d)
        return y + w(f"{name}.bias", d) if rwkv and c.norm_bias else y

    x = w("model.embeddings.weight", c.vocab_size, d)[ids]
    for layer in range(c.num_hidden_layers):
        at = f"model.layers.{layer}"
        if rwkv and c.norm_first and layer == 0:
            x = norm(f"{at}.pre_norm", x)
        h, spec = norm(f"{at}.attn_norm", x), next((spec for spec in specs if layer in spec["layers"]), None)
        w_attn = w.at(f"{at}.attn")
        x = x + (attention(c, w_attn, h, spec) if spec else mixer(c, w_attn, h, layer, shared))
        x = x + ffn(c, w.at(f"{at}.{ffn_name}"), norm(f"{at}.{ffn_name}_norm", x), size)
    x = norm("model.norm", x)
    return x, x @ w("model.embeddings.weight" if c.tie_word_embeddings else "lm_head.weight", c.vocab_size, d).T


def first_keys(c):
    """The factor of the keys of the first head, which makes an ε matter."""
    if c.model_type in ("gated_deltanet", "kda"):
        return 1e-3
    if c.model_type == "delta_net":
        return 1e-3 if c.qk_norm == "l2" and c.qk_activation != "elu" else 1.0
    if getattr(c, "norm_k", False):
        return {"elu": 6.0, "dpfp": 0.02, "elementwise_product": 1.0}.get(c.feature_map, 1e-3)
    return {"t2r": 1e-10, "dpfp": 1e-5}.get(c.feature_map, 1.0) if getattr(c, "norm_feature_map", False) else 1.0


def divided(c):
    """The features, if they may have both signs and are divided by their sums."""
    if c.model_type == "delta_net" and c.qk_norm == "sum" and c.qk_activation in ("silu", "identity"):
        return c.qk_activation
    if c.model_type == "linear_attn" and (c.norm_q or c.norm_k or c.norm_feature_map):
        return c.feature_map if c.feature_map in ("elementwise_product", "identity") else None
    return None


def value(c, name, shape, generator):
    """A random value of a parameter, close to its usual value in a trained model."""
    r, u = torch.randn(shape, generator=generator), torch.rand(shape, generator=generator)
    part = name.split(".")
    if part[-1] == "weight" and "norm" in part[-2]:
        return 1 + 0.3 * r
    if part[-1] == "mu" or part[-1] == "x_bias" or part[-1].startswith("x_"):
        return u
    if part[-1] == "A_log":
        return 0.3 * r if c.model_type == "kda" and c.safe_gate else torch.log(1 + 15 * u)
    if part[-1] == "dt_bias":
        step = torch.exp(math.log(0.001) + math.log(100.0) * u)
        return step + torch.log(-torch.expm1(-step)) + (1.0 if c.model_type == "kda" else 0.0)
    if part[-1] in ("k_k", "k_a"):
        x = (0.7 if part[-1] == "k_k" else 1.0) + 0.3 * r
        x[: c.head_dim] *= 4e-4 if part[-1] == "k_k" else 1.0
        return x
    if part[-1] in ("bonus", "r_k"):
        return 0.5 * r
    if part[-1] == "lower_bounds":
        return r
    if divided(c) == "elementwise_product" and "feature_map" in name and part[-1] == "bias":
        return 3 + 0.3 * r
    if part[-1] == "bias":
        middle = {"gk_proj": -2.0, "w_proj": -2.0, "w_lora": -1.0}
        return next((m + 2 * r for key, m in middle.items() if key in part), 0.3 * r)
    if part[-2] == "embeddings":
        x = r * (1.7 * shape[-1] ** -0.5 if c.tie_word_embeddings else 0.7)
        if divided(c) == "identity":
            x[:, 0] += 3
        return x
    gain = {"o_proj": 1.5, "lm_head": 2.0, "q_proj": 1.5, "k_proj": 1.5, "r_proj": 1.5, "b_proj": 1.5, "value": 1.5}
    x = r * gain.get(part[-2], 1.2) * shape[-1] ** -0.5
    if part[-2] in ("q_proj", "k_proj", "lm_head") and divided(c) == "identity":
        x[:, 0] = 0 if part[-2] == "lm_head" else 1
    if part[-2] in ("q_proj", "k_proj") and divided(c) == "silu":
        x *= 4
    if part[-2] == "k_proj":
        x[: shape[0] // (getattr(c, "num_kv_heads", None) or c.num_heads)] *= first_keys(c)
    return x


def fields(name):
    kind = name.split("-")[0]
    return DEFAULTS[kind] | {"model_type": kind, "architectures": [CLASSES[kind] + "ForCausalLM"]} | MODELS[name][1]


def expect(c, tensors, seed, steps=MAX_GREEDY):
    """The tensors of expected.safetensors, and the smallest margin between the two best logits."""
    generator = torch.Generator().manual_seed(seed + 1000)
    e = {"input_ids": torch.randint(4, c.vocab_size, (2, 45), generator=generator)}
    e["prompt"] = torch.randint(4, c.vocab_size, (1, 12), generator=generator)
    e["last_hidden_state"], e["logits"] = (x.float() for x in model(c, tensors, e["input_ids"]))
    ids, gap = e["prompt"], math.inf
    for _ in range(steps):
        best = model(c, tensors, ids)[1][0, -1].topk(2)
        ids, gap = torch.cat([ids, best.indices[None, :1]], 1), min(gap, (best.values[0] - best.values[1]).item())
        if gap < MIN_GAP:
            break
    e["greedy"] = ids[0, 12:]
    return e, gap


def prove(name, c, tensors, e, gap):
    """Checks that no choice is a close call and that all parameters and fields matter."""
    assert gap >= MIN_GAP, f"{name}: a close call, {gap}"
    assert len(set(e["greedy"].tolist())) > 20, f"{name}: it repeats itself"
    assert c.eos_token_id not in e["greedy"], f"{name}: it ends"
    assert 1.0 < e["logits"].std() < 3.0, f"{name}: the spread of the logits is {e['logits'].std()}"

    def change(c, tensors):
        return (model(c, tensors, e["input_ids"])[1] - e["logits"]).abs().max().item()

    for key, x in tensors.items():
        # For a norm, remove the noise; for any other parameter, the value.
        other = torch.ones_like(x) if key.endswith("norm.weight") or "norm_swish" in key else torch.zeros_like(x)
        # Division by sums that are zero gives NaN.
        assert not (d := change(c, tensors | {key: other})) <= 0.05, f"{name}: {key} changes the logits by {d}"
    matter = MATTER | {"norm_eps": 1e-6 if c.norm_eps > 1e-4 else 2e-2}
    matter |= {
        "gla": {"feature_map": None}, "retnet": {"feature_map": None}, "linear_attn": {"feature_map": "elu"},
        "rwkv6": {"hidden_act": "sqrelu"}, "rwkv7": {"fuse_norm": not c.fuse_norm},
    }.get(c.model_type, {})  # fmt: skip
    for key, other in matter.items():
        if getattr(c, key, other) != other:
            d = change(types.SimpleNamespace(**vars(c) | {key: other}), tensors)
            assert d > 0.01, f"{name}: {key} changes the logits by {d}"


def save(path, tensors, metadata):
    """Saves as safetensors does, but with ordered metadata, so that the bytes are reproducible."""
    data = safetensors.torch.save({name: x.contiguous() for name, x in tensors.items()})
    size = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def build(name, seed=None):
    """The configuration and the parameters from their seed."""
    c, generator, tensors = types.SimpleNamespace(**fields(name)), torch.Generator(), {}
    generator.manual_seed(MODELS[name][0] if seed is None else seed)
    model(c, tensors, torch.zeros(1, 1, dtype=torch.long), lambda key, shape: value(c, key, shape, generator))
    return c, tensors


def make(name):
    path, seed = HERE / name, MODELS[name][0]
    c, tensors = build(name)
    e, gap = expect(c, tensors, seed)
    prove(name, c, tensors, e, gap)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    tokens = {key: x for key, x in vars(c).items() if key.endswith("token_id") and x is not None}
    for file, data in (("config", vars(c)), ("generation_config", {"_from_model_config": True, **tokens})):
        (path / f"{file}.json").write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
    save(path / "model.safetensors", tensors, {"format": "pt"})
    metadata = {"made_by": "fla.py", "torch": torch.__version__.split("+")[0], "seed": str(seed)}
    save(path / "expected.safetensors", e, metadata)


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    for name in sys.argv[1:] or MODELS:
        make(name)


if __name__ == "__main__":
    main()
