"""Makes the goldens of MiniCPM: small random checkpoints of `minicpm` and `minicpm_sala`, and their outputs.

    pip install torch==2.15.0 transformers==5.24.0 safetensors
    python minicpm.py [NAME ...]

transformers 5.24 has no class of these types, and the authors' code needs CUDA where attention is sparse. So the models are
defined here anew, in float64, token by token where that is simpler, as an equation of each query. They were read from the
authors' code: `modeling_minicpm_sala.py` of MiniCPM-SALA, the kernels of OpenBMB/infllmv2_cuda_impl (`max_pooling_1d.cuh`,
`tests/test_stage1.py`), and ports of the dense model; the file of MiniCPM4 itself was not at hand. Where a definition has to
choose:

    dense_len    A query attends to all keys if it sees fewer than dense_len, its own included. The authors' code decides for
                 a whole call: the same where tokens are read one by one, but in a text that is read at once and is as
                 long, earlier queries are sparse, too.
    softmax      The sum of the exponentials over the compressed keys is exact. The kernels estimate it from means of four
                 times as many keys.
    longrope     The long factors are those of every text if max_position_embeddings is more than the original number, as in
                 the authors' code, whose table of cosines is made for max_position_embeddings.
    ties         Of two blocks with the same score, the earlier is taken.
    padding      A sequence is computed without its padding; logits at padding are zeros.

It writes next to itself, for each type, the folders TYPE-a and TYPE-b, whose options differ, and minicpm-c, whose
positions are as in MiniCPM 4: config.json,
generation_config.json, model.safetensors, and expected.safetensors with

    input_ids          i64 [2, 45]         random tokens
    logits             f32 [2, 45, vocab]  for those tokens
    last_hidden_state  f32 [2, 45, hidden] after the final norm
    padded_ids         i64 [2, 20]         the second row begins with seven tokens of padding
    attention_mask     i64 [2, 20]         zero there
    padded_logits      f32 [2, 20, vocab]
    prompt             i64 [1, 12]
    greedy             i64 [64]            the tokens that follow it, each from a forward pass over all before it

The script checks that each parameter and each option matters, that no greedy token and no choice of blocks is a close call,
that blocks are left out, and, against transformers' LlamaForCausalLM with the multipliers folded into its weights, that dense
models and texts shorter than dense_len are right.

Made with torch 2.15.0 and transformers 5.24.0.
"""

import copy
import json
import math
import pathlib
import shutil
import sys

import safetensors.torch
import torch
import transformers

from decoders import save

HERE = pathlib.Path(__file__).resolve().parent
MAX_GREEDY, MIN_GAP, MIN_BLOCK_GAP = 64, 2e-3, 1e-4
LIGHTNING = ("lightning", "lightning_attn", "lightning-attn")

# NAME: (seed, fields). The fields are spelled as in the files of the Hub.
MODELS = {
    "minicpm-a": (2, {
        "model_type": "minicpm", "architectures": ["MiniCPMForCausalLM"], "vocab_size": 67, "hidden_size": 32,
        "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "longrope", "original_max_position_embeddings": 16,
            "short_factor": [1.0, 1.1, 1.3, 1.4], "long_factor": [1.0, 1.5, 2.5, 4.0],
        },
        "scale_emb": 12, "dim_model_base": 256, "scale_depth": 1.4, "attention_bias": False, "tie_word_embeddings": True,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }),
    "minicpm-b": (2, {
        "model_type": "minicpm", "architectures": ["MiniCPMForCausalLM"], "vocab_size": 73, "hidden_size": 36,
        "intermediate_size": 44, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "rms_norm_eps": 2e-2, "hidden_act": "gelu", "rope_theta": 500.0,
        "rope_scaling": {"type": "linear", "factor": 2.0}, "scale_emb": 3.5, "dim_model_base": 20, "scale_depth": 2.2,
        "attention_bias": True, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": [2, 71],
        "sparse_config": {
            "kernel_size": 4, "kernel_stride": 2, "init_blocks": 1, "block_size": 4, "window_size": 4, "topk": 3,
            "use_nope": True, "dense_len": 14,
        },
    }),
    "minicpm-c": (1, {
        "model_type": "minicpm", "architectures": ["MiniCPMForCausalLM"], "vocab_size": 61, "hidden_size": 24,
        "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "longrope", "original_max_position_embeddings": 128,
            "short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [1.0, 1.5, 2.5, 4.0],
        },
        "scale_emb": 12, "dim_model_base": 16, "scale_depth": 1.4, "attention_bias": False, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }),
    "minicpm_sala-a": (1, {
        "model_type": "minicpm_sala", "architectures": ["MiniCPMSALAForCausalLM"], "vocab_size": 69, "hidden_size": 32,
        "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 10000.0,
        "scale_emb": 12, "dim_model_base": 16, "scale_depth": 1.4, "attention_bias": False, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": [2, 68], "pad_token_id": 2, "head_dim": 8,
        "mixer_types": ["minicpm4", "lightning-attn", "lightning-attn", "minicpm4"], "qk_norm": True, "use_output_gate": True,
        "use_output_norm": True, "attn_use_output_gate": True, "attn_use_rope": False, "lightning_use_rope": True,
        "lightning_nh": 4, "lightning_nkv": 4, "lightning_head_dim": 8, "lightning_scale": "1/sqrt(d)",
        "sparse_config": {
            "kernel_size": 8, "kernel_stride": 4, "init_blocks": 1, "block_size": 4, "window_size": 4, "topk": 3,
            "use_nope": False, "dense_len": 20,
        },
    }),
    "minicpm_sala-b": (1, {
        "model_type": "minicpm_sala", "architectures": ["MiniCPMSALAForCausalLM"], "vocab_size": 71, "hidden_size": 36,
        "intermediate_size": 44, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 3,
        "max_position_embeddings": 256, "rms_norm_eps": 2e-2, "hidden_act": "gelu", "rope_theta": 300.0,
        "scale_emb": 2.0, "dim_model_base": 60, "scale_depth": 2.0, "attention_bias": True, "tie_word_embeddings": True,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "mixer_types": ["lightning_attn", "minicpm4", "lightning"], "qk_norm": False, "use_output_gate": False,
        "use_output_norm": False, "attn_use_output_gate": False, "attn_use_rope": True, "lightning_use_rope": False,
        "lightning_nh": 6, "lightning_nkv": 2, "lightning_scale": "1/d",
        "sparse_config": {
            "kernel_size": 6, "kernel_stride": 3, "init_blocks": 2, "block_size": 6, "window_size": 0, "topk": 4,
            "dense_len": -1,
        },
    }),
}  # fmt: skip


def sizes(c):
    return c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["hidden_size"] // c["num_attention_heads"]


def shapes(c):
    """The names and shapes of all parameters."""
    d, heads, groups, h = sizes(c)
    inner, bias = c["intermediate_size"], c["attention_bias"]
    all_ = {"model.embed_tokens.weight": (c["vocab_size"], d), "model.norm.weight": (d,)}
    for i in range(c["num_hidden_layers"]):
        mixer = c.get("mixer_types", ["minicpm4"] * 99)[i]
        lightning = mixer in LIGHTNING
        kv = c["lightning_nkv"] if lightning else groups
        linear = {"q_proj": (heads * h, d), "k_proj": (kv * h, d), "v_proj": (kv * h, d), "o_proj": (d, heads * h)}
        norms = {}
        if lightning:
            if c["use_output_gate"]:
                linear["z_proj"] = (heads * h, d)
            if c["use_output_norm"]:
                norms["o_norm"] = (heads * h,)
            if c["qk_norm"]:
                norms |= {"q_norm": (h,), "k_norm": (h,)}
        elif c.get("attn_use_output_gate"):
            linear["o_gate"] = (heads * h, d)
        at = f"model.layers.{i}"
        for name, shape in linear.items():
            all_[f"{at}.self_attn.{name}.weight"] = shape
            if bias:
                all_[f"{at}.self_attn.{name}.bias"] = shape[:1]
        for name, shape in norms.items():
            all_[f"{at}.self_attn.{name}.weight"] = shape
        for name, shape in {"gate_proj": (inner, d), "up_proj": (inner, d), "down_proj": (d, inner)}.items():
            all_[f"{at}.mlp.{name}.weight"] = shape
        for name in "input_layernorm", "post_attention_layernorm":
            all_[f"{at}.{name}.weight"] = (d,)
    if not c["tie_word_embeddings"]:
        all_["lm_head.weight"] = (c["vocab_size"], d)
    return all_


def is_norm(name):
    return "norm" in name.split(".")[-2]


def value(name, shape, c, generator):
    """A random value of a parameter, close to its usual value in a trained model."""
    r = torch.randn(shape, generator=generator)
    if is_norm(name):
        return 1.0 + 0.3 * r
    if name.endswith("bias"):
        return 0.3 * r
    if "embed_tokens" in name:
        # Where the table is the head, too, a large one would repeat each token.
        return r * (0.4 / c["scale_emb"] if c["tie_word_embeddings"] else 0.3)
    by = math.sqrt(shape[1])
    part = name.split(".")[-2]
    gain = {"q_proj": 1.6, "k_proj": 1.6, "o_proj": 1.6, "down_proj": 1.6, "lm_head": 2.5}.get(part, 1.2)
    if part == "lm_head":
        gain *= c["hidden_size"] / c["dim_model_base"] / 1.5
    return gain * r / by


class Model:
    """The definition. Parameters are those of the file, widened to float64."""

    def __init__(self, c, parameters):
        self.c, self.p = c, {name: x.double() for name, x in parameters.items()}
        self.gaps = []
        self.left_out = 0

    def linear(self, x, name):
        y = x @ self.p[f"{name}.weight"].T
        bias = self.p.get(f"{name}.bias")
        return y if bias is None else y + bias

    def rms(self, x, name):
        return self.p[f"{name}.weight"] * x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.c["rms_norm_eps"])

    def rotated(self, x):
        """x: [T, heads, h], turned by positions 0 .. T."""
        c, (t, _, h) = self.c, x.shape
        w = torch.tensor([c["rope_theta"] ** (-2 * j / h) for j in range(h // 2)], dtype=torch.float64)
        scaling, by = c.get("rope_scaling"), 1.0
        if scaling:
            kind = scaling.get("rope_type", scaling.get("type"))
            if kind == "linear":
                w = w / scaling["factor"]
            else:
                assert kind == "longrope"
                longest, original = c["max_position_embeddings"], scaling["original_max_position_embeddings"]
                assert t <= longest
                w = w / torch.tensor(factors(c), dtype=torch.float64)
                by = math.sqrt(1 + math.log(longest / original) / math.log(original))
        angle = torch.arange(t, dtype=torch.float64)[:, None] * w
        cos, sin = by * angle.cos()[:, None], by * angle.sin()[:, None]
        a, b = x[..., : h // 2], x[..., h // 2 :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def blocks(self, i, q, k, sparse):
        """The blocks of the query at position i: q: [heads of a group, h], k: [T, h]."""
        kernel, stride, block = sparse["kernel_size"], sparse["kernel_stride"], sparse["block_size"]
        own, per = i // block, block // stride
        compressed = [k[from_ : from_ + kernel].mean(0) for from_ in range(0, i + 2 - kernel, stride)]
        scores = torch.zeros(per * (own + 2), dtype=torch.float64)
        if compressed:
            products = q @ torch.stack(compressed).T / math.sqrt(q.shape[-1])
            scores[: len(compressed)] = products.softmax(-1).sum(0)
        local = sparse["window_size"] // block

        def score(b):
            if b < sparse["init_blocks"] or b + local >= own:
                return math.inf
            return scores[max(b * per - 1, 0) : (b + 1) * per].max().item()

        ranked = sorted(range(own + 1), key=lambda b: (-score(b), b))
        count = sparse["topk"] + local
        if count < len(ranked):
            self.left_out += 1
            gap = score(ranked[count - 1]) - score(ranked[count])
            if gap != 0.0:
                self.gaps.append(gap)
        return sorted(ranked[:count])

    def attention(self, x, at):
        c = self.c
        _, heads, groups, h = sizes(c)
        t = x.shape[0]
        q = self.linear(x, f"{at}.q_proj").view(t, heads, h)
        k = self.linear(x, f"{at}.k_proj").view(t, groups, h)
        v = self.linear(x, f"{at}.v_proj").view(t, groups, h)
        own_q, own_k = q, k
        if c.get("attn_use_rope", True):
            q, k = self.rotated(q), self.rotated(k)
        sparse = c.get("sparse_config")
        if not (sparse and sparse.get("use_nope", False)):
            own_q, own_k = q, k
        out = torch.zeros(t, heads, h, dtype=torch.float64)
        per = heads // groups
        for i in range(t):
            for g in range(groups):
                of = slice(g * per, (g + 1) * per)
                keys = torch.arange(i + 1)
                if sparse and i + 1 >= sparse["dense_len"]:
                    chosen = torch.tensor(self.blocks(i, own_q[i, of], own_k[:, g], sparse))
                    keys = keys[torch.isin(keys // sparse["block_size"], chosen)]
                weights = (q[i, of] @ k[keys, g].T / math.sqrt(h)).softmax(-1)
                out[i, of] = weights @ v[keys, g]
        out = out.reshape(t, heads * h)
        if c.get("attn_use_output_gate"):
            out = out * self.linear(x, f"{at}.o_gate").sigmoid()
        return self.linear(out, f"{at}.o_proj")

    def lightning(self, x, at):
        c = self.c
        _, heads, _, h = sizes(c)
        assert heads == c["lightning_nh"] and h == c.get("lightning_head_dim", h)
        groups, t = c["lightning_nkv"], x.shape[0]
        q = self.linear(x, f"{at}.q_proj").view(t, heads, h)
        k = self.linear(x, f"{at}.k_proj").view(t, groups, h)
        v = self.linear(x, f"{at}.v_proj").view(t, groups, h)
        if c["qk_norm"]:
            q, k = self.rms(q, f"{at}.q_norm"), self.rms(k, f"{at}.k_norm")
        if c["lightning_use_rope"]:
            q, k = self.rotated(q), self.rotated(k)
        scale = {"1/sqrt(d)": h**-0.5, "1/d": 1 / h}.get(c["lightning_scale"], 1.0)
        out = torch.zeros(t, heads, h, dtype=torch.float64)
        for head, slope in enumerate(slopes(heads)):
            g = head * groups // heads
            distance = torch.arange(t)[:, None] - torch.arange(t)
            decay = torch.where(distance >= 0, torch.exp(-slope * distance.double()), 0.0)
            out[:, head] = scale * ((q[:, head] @ k[:, g].T) * decay) @ v[:, g]
        out = out.reshape(t, heads * h)
        if c["use_output_norm"]:
            out = self.rms(out, f"{at}.o_norm")
        if c["use_output_gate"]:
            out = out * self.linear(x, f"{at}.z_proj").sigmoid()
        return self.linear(out, f"{at}.o_proj")

    def one(self, ids):
        """The hidden states [T, hidden] and the logits [T, vocab] of one sequence."""
        c, act = self.c, {"silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu}[self.c["hidden_act"]]
        table = self.p["model.embed_tokens.weight"]
        x = table[ids] * c["scale_emb"]
        branch = c["scale_depth"] / math.sqrt(c["num_hidden_layers"])
        for i in range(c["num_hidden_layers"]):
            at = f"model.layers.{i}"
            lightning = c.get("mixer_types", ["minicpm4"] * 99)[i] in LIGHTNING
            normed = self.rms(x, f"{at}.input_layernorm")
            x = x + branch * (self.lightning if lightning else self.attention)(normed, f"{at}.self_attn")
            normed = self.rms(x, f"{at}.post_attention_layernorm")
            inner = act(self.linear(normed, f"{at}.mlp.gate_proj")) * self.linear(normed, f"{at}.mlp.up_proj")
            x = x + branch * self.linear(inner, f"{at}.mlp.down_proj")
        x = self.rms(x, "model.norm")
        head = table if c["tie_word_embeddings"] else self.p["lm_head.weight"]
        return x, x / (c["hidden_size"] / c["dim_model_base"]) @ head.T

    def all(self, ids):
        hidden, logits = zip(*(self.one(row) for row in ids))
        return torch.stack(hidden), torch.stack(logits)


def factors(c):
    """The factors of longrope."""
    scaling = c["rope_scaling"]
    return scaling["long_factor" if c["max_position_embeddings"] > scaling["original_max_position_embeddings"] else "short_factor"]


def slopes(n):
    """The decay of each head: the slopes of ALiBi. Where n is no power of two, further ones from twice as many."""
    if n & (n - 1) == 0:
        return [2 ** (-8 * (i + 1) / n) for i in range(n)]
    below = 1 << (n.bit_length() - 1)
    return slopes(below) + slopes(2 * below)[0::2][: n - below]


def folded(c, p, ids):
    """The logits of LlamaForCausalLM in float64, with all multipliers folded into its weights."""
    rope = {"rope_type": "default", "rope_theta": c["rope_theta"]}
    if c.get("rope_scaling"):
        rope |= c["rope_scaling"]
        rope["rope_type"] = rope.pop("type", rope["rope_type"])
        if rope["rope_type"] == "longrope":
            rope["short_factor"] = rope["long_factor"] = factors(c)
    plain = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act", "attention_bias")  # fmt: skip
    config = transformers.LlamaConfig(**{k: c[k] for k in plain}, rope_parameters=rope, tie_word_embeddings=False)
    config._attn_implementation = "eager"
    model = transformers.LlamaForCausalLM(config).double().eval()
    p = {name: x.double() for name, x in p.items()}
    branch = c["scale_depth"] / math.sqrt(c["num_hidden_layers"])
    p["lm_head.weight"] = p.get("lm_head.weight", p["model.embed_tokens.weight"]) * c["dim_model_base"] / c["hidden_size"]
    p["model.embed_tokens.weight"] = p["model.embed_tokens.weight"] * c["scale_emb"]
    for name in p:
        if ".o_proj." in name or ".down_proj." in name:
            p[name] = p[name] * branch
    model.load_state_dict(p)
    return model(ids, use_cache=False).logits


def is_llama(name, c, p, e, model):
    """Checks against transformers what is dense: all of minicpm-a, the beginning of minicpm-b, minicpm-b without blocks."""
    if c["model_type"] != "minicpm":
        return
    short = c["sparse_config"]["dense_len"] - 1 if "sparse_config" in c else 45
    want = folded(c, p, e["input_ids"])
    error = (want[:, :short] - model.all(e["input_ids"])[1][:, :short]).abs().max().item()
    assert error < 1e-4, f"{name}: llama is {error} away"
    if "sparse_config" in c:
        assert (want[:, short:] - e["logits"][:, short:]).abs().max() > 0.05, f"{name}: as dense"
        dense = {k: v for k, v in c.items() if k != "sparse_config"}
        error = (want - Model(dense, p).all(e["input_ids"])[1]).abs().max().item()
        assert error < 1e-4, f"{name}: without blocks llama is {error} away"
    print(f"{name}: llama is {error:.1e} away")


def expect(name, model, seed):
    generator = torch.Generator().manual_seed(1000 + seed)
    c = model.c
    special = {x for k in ("bos_token_id", "eos_token_id", "pad_token_id") for x in [c.get(k)] if isinstance(x, int)}
    usual = [i for i in range(c["vocab_size"]) if i not in special | {71, 68}]

    def random(*shape):
        return torch.tensor(usual)[torch.randint(len(usual), shape, generator=generator)]

    e = {"input_ids": random(2, 45)}
    hidden, logits = model.all(e["input_ids"])
    e["logits"], e["last_hidden_state"] = logits.float(), hidden.float()
    e["padded_ids"], e["attention_mask"] = random(2, 20), torch.ones(2, 20, dtype=torch.int64)
    e["padded_ids"][1, :7], e["attention_mask"][1, :7] = c.get("pad_token_id", 0), 0
    padded = torch.zeros(2, 20, c["vocab_size"], dtype=torch.float64)
    padded[0] = model.one(e["padded_ids"][0])[1]
    padded[1, 7:] = model.one(e["padded_ids"][1, 7:])[1]
    e["padded_logits"] = padded.float()
    e["prompt"] = random(1, 12)
    ids, gaps = e["prompt"][0].tolist(), []
    while len(ids) < 12 + MAX_GREEDY:
        best = model.one(torch.tensor(ids))[1][-1].topk(2)
        gaps.append((best.values[0] - best.values[1]).item())
        ids.append(best.indices[0].item())
    e["greedy"] = torch.tensor(ids[12:])
    spread, different = e["logits"].std().item(), len(set(ids[12:]))
    closest = min(model.gaps, default=1.0)
    print(f"{name}: spread {spread:.2f}, {different} different, gap {min(gaps):.1e}, of blocks {closest:.1e}, {model.left_out}")
    assert 1.0 < spread < 3.0 and different > 15 and min(gaps) > MIN_GAP and closest > MIN_BLOCK_GAP, name
    if c.get("sparse_config"):
        assert model.left_out > 1000, f"{name}: no blocks are left out"
    return e


def prove(name, c, p, e):
    """Checks that each parameter matters: without it the logits differ. Also for options."""
    def change(c, p):
        return (Model(c, p).all(e["input_ids"])[1] - e["logits"]).abs().max().item()

    for key, parameter in p.items():
        plain = torch.ones_like(parameter) if is_norm(key) else torch.zeros_like(parameter)
        by = change(c, p | {key: plain})
        # Without positions, a bias of keys adds the same to all scores of a query.
        nope = key.endswith("k_proj.bias") and c["model_type"] == "minicpm_sala" and by < 1e-9
        assert by > 0.02 or nope, f"{name}: {key} changes the logits by {by}"
    for field, changed in others(c):
        new = copy.deepcopy(c) | changed
        if shapes(new) != shapes(c):
            continue
        by = change(new, p)
        assert by > 0.02, f"{name}: {field} changes the logits by {by}"


def others(c):
    for field in "scale_emb", "dim_model_base", "scale_depth", "rope_theta":
        yield field, {field: c[field] * 1.5}
    if c["rms_norm_eps"] > 1e-3:
        yield "rms_norm_eps", {"rms_norm_eps": c["rms_norm_eps"] / 10}
    yield "hidden_act", {"hidden_act": "gelu" if c["hidden_act"] == "silu" else "silu"}
    if "mixer_types" in c:
        for field in "attn_use_rope", "lightning_use_rope":
            yield field, {field: not c[field]}
        if not c["use_output_norm"]:  # The norm divides by it again.
            yield "lightning_scale", {"lightning_scale": "1"}
    sparse = c.get("sparse_config") or {}
    for key, x in sparse.items():
        x = not x if isinstance(x, bool) else {"dense_len": 30, "kernel_size": x + 1}.get(key, 2 * x if x else c["sparse_config"]["block_size"])
        if key == "use_nope" and not c.get("attn_use_rope", True):
            continue  # Then nothing is rotated.
        yield key, {"sparse_config": sparse | {key: x} | ({"block_size": 2 * sparse["block_size"]} if key == "kernel_stride" else {})}
    if c.get("rope_scaling"):
        yield "rope_scaling", {"rope_scaling": None}


def make(name):
    seed, c = MODELS[name]
    generator = torch.Generator().manual_seed(seed)
    p = {key: value(key, shape, c, generator) for key, shape in shapes(c).items()}
    path = HERE / name
    model = Model(c, p)
    e = expect(name, model, seed)
    is_llama(name, c, p, e, model)
    prove(name, c, p, e)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    (path / "config.json").write_text(json.dumps(c | {"torch_dtype": "float32"}, indent=2, sort_keys=True) + "\n")
    ends = {k: c[k] for k in ("bos_token_id", "eos_token_id") if k in c}
    (path / "generation_config.json").write_text(json.dumps(ends, indent=2, sort_keys=True) + "\n")
    save(path / "model.safetensors", p, {"format": "pt"})
    save(path / "expected.safetensors", e, {"made_by": "minicpm.py", "torch": torch.__version__.split("+")[0], "seed": str(seed)})
    assert sum(file.stat().st_size for file in path.iterdir()) < 220_000, f"{name}: it is large"


@torch.no_grad()
def main(names):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for name in names or MODELS:
        make(name)


if __name__ == "__main__":
    main(sys.argv[1:])
