"""Makes the goldens of transformers' hybrid decoders: small random checkpoints and their outputs.

    pip install torch==2.15.0 transformers==5.24.0 safetensors
    python hybrids.py [NAME ...]

It writes next to itself, for each type, the folders TYPE-a and TYPE-b, whose options differ: config.json,
generation_config.json and model.safetensors as `save_pretrained` writes them, and expected.safetensors with

    input_ids          i64 [2, 45]         random tokens
    logits             f32 [2, 45, vocab]  for those tokens
    last_hidden_state  f32 [2, 45, hidden] what the base model returns: the residual stream after the final norm
    padded_ids         i64 [2, 20]         the second row begins with seven tokens of padding
    attention_mask     i64 [2, 20]         zero there
    padded_logits      f32 [2, 20, vocab]  for those, at every position, padding too
    prompt             i64 [1, 12]
    greedy             i64 [64]            the tokens that follow it, each from a forward pass over all before it

    types    jamba, bamba, granitemoehybrid, nemotron_h, lfm2

Some folders have a second configuration, config_v4.json, with the fields and names that configurations on the Hub have. The
script checks that transformers makes the same model of it.

The positions of padded_ids are given to the model: the number of tokens before each that are not padding, 0 at padding. In
layers with a state the input of in_proj is set to zero at padding, and the output of the convolution, too. If in_proj has a
bias, the convolution of the first tokens after the padding reads that bias, where a sequence without padding has zeros: what
is computed for them depends on the padding. The script checks that it does in the folders with such a bias, `leaks`, and that
it does not in the others. In layers of attention a token at padding sees no key, so all of its scores are the least float32,
and transformers gives the mean of all twenty values to it, those after it included.

The limits of the step, `time_step_limit` in bamba and granitemoehybrid and from `time_step_min` up in nemotron_h, are for a
pass over many tokens. transformers does not limit the step of a single token with a cache, so there `generate` with a cache
computes something else; it is not used here.

Everything is computed in float32 on one thread of a CPU, in evaluation mode, with the implementations of attention and of the
experts that are named "eager", and without kernels. Parameters are random around their usual values, norms, biases, `D`,
`dt_bias` and `A_log` too, and the script checks that each of them matters; that each option matters, see `others`, and that
some do not, see `quiet`; that the logits spread; and that no greedy token and no choice of experts is a close call. Loading a
folder must give the model that was saved.

Made with torch 2.15.0 and transformers 5.24.0.
"""

import copy
import importlib.util
import json
import math
import sys

import safetensors.torch
import torch
import transformers

from decoders import fresh, greedy, is_norm, save, watch_routers

MIN_GAP, MIN_ROUTER_GAP = 2e-3, 5e-4

TOKENS_A = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
TOKENS_B = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
MAMBA, FULL, CONV, MLP = "linear_attention", "full_attention", "conv", "mlp"


def plain(theta):
    return {"rope_type": "default", "rope_theta": theta}


# NAME: (prefix of the classes, seed, fields)
MODELS = {
    "jamba-a": ("Jamba", 2, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "attn_layer_period": 4, "attn_layer_offset": 2,
        "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 4, "num_experts_per_tok": 2, "mamba_d_state": 8,
        "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False, "use_mamba_kernels": False,
    }),
    "jamba-b": ("Jamba", 2, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 28, "intermediate_size": 30, "num_hidden_layers": 5, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 256, "attn_layer_period": 3, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 0, "num_experts": 1, "num_experts_per_tok": 1, "mamba_d_state": 5,
        "mamba_d_conv": 3, "mamba_expand": 1, "mamba_dt_rank": 6, "mamba_conv_bias": False, "mamba_proj_bias": True,
        "rms_norm_eps": 2e-2, "tie_word_embeddings": True, "use_mamba_kernels": False,
    }),
    "bamba-a": ("Bamba", 1, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 128, "attn_layer_indices": [2], "mamba_n_heads": 6,
        "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 16,
    }),
    "bamba-b": ("Bamba", 7, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 32, "intermediate_size": 28, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "attn_layer_indices": [0, 2], "mamba_n_heads": 4,
        "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 6, "mamba_d_conv": 3, "mamba_expand": 2,
        "mamba_chunk_size": 10, "mamba_conv_bias": False, "mamba_proj_bias": True, "attention_bias": True, "mlp_bias": True,
        "time_step_limit": [0.02, 0.3], "rms_norm_eps": 2e-2, "tie_word_embeddings": True, "rope_parameters": plain(500.0),
    }),
    "granitemoehybrid-a": ("GraniteMoeHybrid", 2, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "num_key_value_heads": 1,
        "max_position_embeddings": 128, "num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 36,
        "position_embedding_type": "nope", "layer_types": [MAMBA, FULL, MAMBA, MAMBA], "embedding_multiplier": 2.5,
        "residual_multiplier": 0.6, "attention_multiplier": 0.5, "logits_scaling": 0.5, "mamba_n_heads": 4,
        "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 16,
        "tie_word_embeddings": True,
    }),
    "granitemoehybrid-b": ("GraniteMoeHybrid", 1, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 24, "intermediate_size": 14, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "num_local_experts": 4, "num_experts_per_tok": 2,
        "shared_intermediate_size": 20, "position_embedding_type": "rope", "layer_types": [MAMBA, FULL, MAMBA],
        "embedding_multiplier": 3.0, "residual_multiplier": 0.8, "attention_multiplier": 0.2, "logits_scaling": 1.4,
        "mamba_n_heads": 6, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 6, "mamba_d_conv": 3, "mamba_expand": 2,
        "mamba_chunk_size": 10, "mamba_proj_bias": True, "attention_bias": True, "time_step_limit": [0.02, 0.4],
        "rms_norm_eps": 2e-2, "tie_word_embeddings": False, "rope_parameters": plain(500.0),
    }),
    "nemotron_h-a": ("NemotronH", 7, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 40, "layers_block_type": [MAMBA, MLP, MAMBA, FULL, MLP],
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128,
        "mamba_num_heads": 4, "mamba_head_dim": 10, "n_groups": 1, "ssm_state_size": 8, "conv_kernel": 4, "chunk_size": 16,
        "use_conv_bias": False,
    }),
    "nemotron_h-b": ("NemotronH", 3, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 32, "intermediate_size": 36, "layers_block_type": [FULL, MLP, MAMBA, MAMBA],
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 256,
        "mamba_num_heads": 6, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 6, "conv_kernel": 3, "chunk_size": 10,
        "use_conv_bias": True, "use_bias": True, "mlp_bias": True, "time_step_min": 0.05, "time_step_max": 0.2,
        "time_step_limit": [0.0, 0.3], "layer_norm_epsilon": 2e-2,
    }),
    "lfm2-a": ("Lfm2", 1, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "layer_types": [CONV, CONV, FULL, CONV], "conv_L_cache": 3,
        "conv_bias": False, "block_ffn_dim_multiplier": 1.3, "block_multiple_of": 12, "block_auto_adjust_ff_dim": True,
    }),
    "lfm2-b": ("Lfm2", 7, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 24, "intermediate_size": 44, "num_hidden_layers": 5, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 256, "full_attn_idxs": [1, 3], "conv_L_cache": 4,
        "conv_bias": True, "block_auto_adjust_ff_dim": False, "norm_eps": 2e-2, "tie_word_embeddings": False,
        "rope_parameters": plain(500.0),
    }),
}  # fmt: skip


def classes(name):
    """The classes of a configuration and of a model."""
    prefix = MODELS[name][0]
    return getattr(transformers, f"{prefix}Config"), getattr(transformers, f"{prefix}ForCausalLM")


def construct(name, config):
    """A model of the configuration, on the plain path."""
    config._attn_implementation = config._experts_implementation = "eager"
    model = classes(name)[1](config).eval()
    assert model.config._attn_implementation == "eager" and model.config._experts_implementation == "eager"
    return model


def value(name, like, config, generator):
    """A random value of a parameter, close to its usual value in a trained model."""
    r, scale = torch.randn(like.shape, generator=generator), like.shape[-1] ** -0.5
    part = name.split(".")
    if part[-1] == "A_log":
        return torch.log(torch.arange(1.0, like.shape[-1] + 1)) + 0.3 * r
    if part[-1] == "dt_bias" or name.endswith("dt_proj.bias"):
        step = torch.exp(math.log(0.005) + math.log(300.0) * torch.rand(like.shape, generator=generator))
        return step + torch.log(-torch.expm1(-step))
    if part[-1] == "D" or is_norm(name):
        return 1.0 + 0.3 * r
    if part[-1] == "bias":
        return 0.3 * r
    if part[-2] in ("conv", "conv1d"):
        return r * scale
    scaling = getattr(config, "logits_scaling", 1.0)
    if part[-2] in ("embed_tokens", "embeddings"):
        # Tied, they are lm_head, too.
        return r * (1.7 * scale * scaling if config.tie_word_embeddings else 0.7 / getattr(config, "embedding_multiplier", 1.0))
    gain = {
        "in_proj": 1.2, "x_proj": 1.0, "dt_proj": 1.0, "out_proj": 1.5, "q_proj": 1.4, "k_proj": 1.4, "v_proj": 1.4,
        "o_proj": 1.2, "gate_proj": 1.4, "up_proj": 1.4, "gate_up_proj": 1.4, "down_proj": 1.8, "input_linear": 1.4,
        "output_linear": 1.8, "w1": 1.4, "w3": 1.4, "w2": 1.8, "router": 1.5, "lm_head": 2.0 * scaling,
    }[part[-1] if part[-2] == "experts" else part[-2]]  # fmt: skip
    return r * gain * scale


def build(name):
    """The model, with parameters drawn from its seed."""
    _, seed, fields = MODELS[name]
    model = construct(name, classes(name)[0](**copy.deepcopy(fields)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(value(key, parameter, model.config, generator))
    return model


def leaks(config):
    """Whether in_proj of the layers with a state has a bias: tokens after padding read it through the convolution."""
    field = {"nemotron_h": "use_bias", "lfm2": "conv_bias"}.get(config.model_type, "mamba_proj_bias")
    return getattr(config, field)


def limits(config):
    """Whether the step of a pass over many tokens is limited."""
    if config.model_type == "nemotron_h":
        return config.time_step_min > 1e-3
    return getattr(config, "time_step_limit", (0.0, math.inf))[1] < math.inf


def expect(name, model, seed):
    """The tensors of expected.safetensors."""
    config = model.config
    generator = torch.Generator().manual_seed(seed + 1000)

    def ids(*shape):
        return torch.randint(4, config.vocab_size, shape, generator=generator)

    gaps = []
    hooks = watch_routers(model, gaps)
    e = {"input_ids": ids(2, 45), "padded_ids": ids(2, 20), "prompt": ids(1, 12)}
    e["attention_mask"] = torch.ones_like(e["padded_ids"])
    e["attention_mask"][1, :7] = 0
    e["padded_ids"][1, :7] = config.pad_token_id
    positions = (e["attention_mask"].cumsum(1) - 1).clamp(min=0)
    e["logits"] = model(e["input_ids"], use_cache=False).logits
    e["last_hidden_state"] = model.base_model(e["input_ids"], use_cache=False).last_hidden_state
    padded = {"input_ids": e["padded_ids"], "attention_mask": e["attention_mask"], "use_cache": False}
    e["padded_logits"] = model(**padded, position_ids=positions).logits
    alone = model(e["padded_ids"][1:, 7:], use_cache=False).logits
    change = (alone - e["padded_logits"][1:, 7:]).abs().max().item()
    if leaks(config):
        assert change > 0.05, f"{name}: padding changes what follows it by {change}"
    else:
        assert change < 1e-4, f"{name}: padding changes what follows it by {change}"
    counted = model(**padded).logits[e["attention_mask"] == 1]
    assert (counted - e["padded_logits"][e["attention_mask"] == 1]).abs().max() < 1e-4, f"{name}: positions of padding"
    e["greedy"], gap = greedy(model, e["prompt"], False)
    assert gap > MIN_GAP, f"{name}: a close call, {gap}"
    if not limits(config):
        cached, cached_gap = greedy(model, e["prompt"], True)
        assert e["greedy"].equal(cached), f"{name}: the cache"
        assert cached_gap > MIN_GAP, f"{name}: a close call, {cached_gap}"
    tokens = set(e["greedy"].tolist())
    assert len(tokens) > 20, f"{name}: it repeats itself, {len(tokens)}"
    assert config.eos_token_id not in tokens, f"{name}: it ends"
    spread = e["logits"].std().item()
    assert 1.0 < spread < 3.0, f"{name}: the spread of the logits is {spread}"
    # Once more, all tokens at once: the copies that generate were not watched.
    at_once = model(torch.cat([e["prompt"], e["greedy"][None]], 1), use_cache=False).logits
    assert at_once[0, 11:-1].argmax(-1).equal(e["greedy"]), f"{name}: greedy"
    for hook in hooks:
        hook.remove()
    assert min(gaps, default=1.0) > MIN_ROUTER_GAP, f"{name}: a close call of experts, {min(gaps)}"
    return e


def prove(name, model, e):
    """Checks that each parameter matters: without it the logits differ. Of experts, each of them."""
    for key, parameter in model.named_parameters():
        for part in parameter.data if key.split(".")[-2] == "experts" else [parameter.data]:
            kept = part.clone()
            # For a norm or a D, remove the noise; for any other parameter, the value.
            part.fill_(1.0 if key.endswith(".D") or (is_norm(key) and key.endswith("weight")) else 0.0)
            change = (model(e["input_ids"], use_cache=False).logits - e["logits"]).abs().max().item()
            part.copy_(kept)
            assert change > 0.05, f"{name}: {key} changes the logits by {change}"


def others(text):
    """Configurations that differ in one option: what it is, and fields to change."""
    for field in "rms_norm_eps", "layer_norm_epsilon", "norm_eps":
        if text.get(field, 0.0) > 1e-3:
            yield field, {field: text[field] / 10}
    for field in "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling":
        if field in text:
            yield field, {field: 1.0}
    for field in "hidden_act", "mamba_hidden_act", "mlp_hidden_act":
        if field in text:
            yield field, {field: "gelu"}
    for field in "mamba_n_groups", "n_groups":
        if text.get(field, 1) > 1:
            # With half the groups of twice the state the shapes are the same, but not the norms.
            state = "mamba_d_state" if field == "mamba_n_groups" else "ssm_state_size"
            yield field, {field: text[field] // 2, state: text[state] * 2}
    if text.get("num_experts_per_tok", 0) > 1 and max(text.get("num_experts", 0), text.get("num_local_experts", 0)) > 1:
        yield "num_experts_per_tok", {"num_experts_per_tok": text["num_experts_per_tok"] - 1}
    if text["model_type"] == "nemotron_h":
        if text["time_step_min"] > 1e-3:
            yield "time_step_min", {"time_step_min": 1e-6}
    elif text.get("time_step_limit") and text["time_step_limit"][1] < math.inf:
        low, high = text["time_step_limit"]
        yield "time_step_limit[0]", {"time_step_limit": [0.0, high]}
        yield "time_step_limit[1]", {"time_step_limit": [low, math.inf]}
    if "position_embedding_type" in text:
        yield "position_embedding_type", {
            "position_embedding_type": "nope" if text["position_embedding_type"] == "rope" else "rope",
            "rope_parameters": text.get("rope_parameters") or plain(10000.0),
        }
    if text.get("rope_parameters") and text.get("position_embedding_type", "rope") == "rope":
        yield "rope_theta", {"rope_parameters": text["rope_parameters"] | {"rope_theta": 20.0}}


def quiet(text):
    """Configurations that differ in a field that is not read, or that has no influence on the values."""
    for field in "mamba_chunk_size", "chunk_size":
        if field in text:
            yield field, {field: text[field] + 3}
    if text["model_type"] == "nemotron_h":
        yield "time_step_limit", {"time_step_limit": [0.1, 0.2]}
        yield "time_step_max", {"time_step_max": 0.01}
        yield "time_step_floor", {"time_step_floor": 0.5}
        yield "biases", {"attention_bias": not text["attention_bias"], "mamba_proj_bias": not text["mamba_proj_bias"]}
        yield "expand", {"expand": text["expand"] + 1}
        yield "sliding_window", {"sliding_window": 3}
        yield "tie_word_embeddings", {"tie_word_embeddings": True}
    if text["model_type"] == "bamba":
        rope = text["rope_parameters"]
        yield "partial_rotary_factor", {"partial_rotary_factor": 1.0, "rope_parameters": plain(rope["rope_theta"])}
    if text["model_type"] == "granitemoehybrid" and text["num_local_experts"] == 0:
        yield "intermediate_size", {"intermediate_size": text["intermediate_size"] + 1}
        yield "num_experts_per_tok", {"num_experts_per_tok": 3}
    if text["model_type"] == "jamba":
        yield "use_mamba_kernels", {"use_mamba_kernels": not text["use_mamba_kernels"]}
        if text["num_experts"] == 1:
            yield "expert layers", {"expert_layer_period": 1, "expert_layer_offset": 0}


def prove_options(name, model, e):
    """Checks that options matter: a model with the same parameters and another option gives other logits."""
    config_class, _ = classes(name)
    fields = model.config.to_dict()
    for options, matters in (others, True), (quiet, False):
        for what, changed in options(fields):
            other = construct(name, config_class.from_dict(copy.deepcopy(fields) | copy.deepcopy(changed)))
            other.load_state_dict(model.state_dict())
            change = (other(e["input_ids"], use_cache=False).logits - e["logits"]).abs().max().item()
            assert change > 0.02 if matters else change < 1e-4, f"{name}: {what} changes the logits by {change}"


def older(name, config):
    """The fields of config.json as configurations on the Hub have them."""
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.57.3"
    if (rope := config.pop("rope_parameters", None)) is not None:
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = None
    if name == "granitemoehybrid-a":
        config["layer_types"] = [{MAMBA: "mamba", FULL: "attention"}[kind] for kind in config["layer_types"]]
        config.pop("time_step_limit")
    if name == "bamba-a":
        config["attn_rotary_emb"] = config["hidden_size"] // config["num_attention_heads"] // 2
        for field in "layers_block_type", "layer_types", "partial_rotary_factor", "time_step_limit":
            config.pop(field, None)
    if name == "nemotron_h-a":
        kinds = config.pop("layers_block_type")
        config.pop("layer_types", None)
        config["hybrid_override_pattern"] = "".join({MAMBA: "M", FULL: "*", MLP: "-"}[kind] for kind in kinds)
        config["num_hidden_layers"] = len(kinds)
        config["time_step_limit"] = [0.0, math.inf]  # A bare Infinity, as Python writes it.
        config["rms_norm_eps"] = 1e-5
    if name == "lfm2-b":
        config["full_attn_idxs"] = [i for i, kind in enumerate(config.pop("layer_types")) if kind == FULL]
        config["block_ff_dim"] = config.pop("intermediate_size")
        config["tie_embedding"] = config.pop("tie_word_embeddings")
        config["conv_dim"] = config["conv_dim_out"] = config["block_dim"] = config["hidden_size"]
    return config


def make_older(name, path, model, e):
    """Writes config_v4.json and checks that it is the same model."""
    old = older(name, json.loads((path / "config.json").read_text()))
    file = path / "config_v4.json"
    file.write_text(json.dumps(old, indent=2, sort_keys=True) + "\n")
    other = construct(name, classes(name)[0].from_json_file(file))
    other.load_state_dict(model.state_dict())
    assert (other(e["input_ids"], use_cache=False).logits == e["logits"]).all(), f"{name}: config_v4.json"


def make(name):
    """Saves the model, loads it again, and saves its outputs."""
    source, path, seed = build(name), fresh(name), MODELS[name][1]
    source.save_pretrained(path)
    model = classes(name)[1].from_pretrained(path, attn_implementation="eager", experts_implementation="eager").eval()
    wanted, got = source.state_dict(), model.state_dict()
    assert wanted.keys() == got.keys() and all(x.dtype == torch.float32 and x.equal(wanted[k]) for k, x in got.items())
    e = expect(name, model, seed)
    assert (e["logits"] == source(e["input_ids"], use_cache=False).logits).all(), f"{name}: loaded, it is another"
    prove(name, model, e)
    prove_options(name, model, e)
    metadata = {"made_by": "hybrids.py", "torch": torch.__version__.split("+")[0], "seed": str(seed)}
    save(path / "expected.safetensors", e, metadata | {"transformers": transformers.__version__})
    if name in ("bamba-a", "granitemoehybrid-a", "nemotron_h-a", "lfm2-b"):
        make_older(name, path, model, e)
    assert sum(file.stat().st_size for file in path.iterdir()) < 190_000, f"{name}: it is large"


@torch.no_grad()
def main(names):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    assert not any(map(importlib.util.find_spec, ("mamba_ssm", "causal_conv1d", "mambapy", "kernels"))), "kernels"
    for name in names or MODELS:
        make(name)


if __name__ == "__main__":
    main(sys.argv[1:])
