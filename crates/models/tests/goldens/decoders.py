"""Makes the goldens of transformers' decoders with attention: small random checkpoints and their outputs.

    pip install torch==2.15.0 transformers==5.24.0 safetensors
    python decoders.py [NAME ...]

It writes next to itself, for each type, the folders TYPE-a, a plain configuration, and TYPE-b, one whose options differ
(olmo2 and gemma3 have only a): config.json, generation_config.json and model.safetensors as `save_pretrained` writes them,
and expected.safetensors with

    input_ids          i64 [2, 45]         random tokens
    logits             f32 [2, 45, vocab]  for those tokens
    last_hidden_state  f32 [2, 45, hidden] what the base model returns: the residual stream after the final norm
    padded_ids         i64 [2, 20]         the second row begins with seven tokens of padding
    attention_mask     i64 [2, 20]         zero there
    padded_logits      f32 [2, 20, vocab]  for those, at every position, padding too
    prompt             i64 [1, 12]
    greedy             i64 [64]            the tokens that follow it, each from a forward pass over all before it

    types    llama, qwen3, qwen2, mistral, gemma3_text, gemma2, smollm3, olmo2, olmo3, mixtral, qwen3_moe, phi3, gpt_neox, gemma3

gemma3 is the composite type with a vision tower, which is there and not used: all tokens are text.

Some folders have a second configuration, config_v4.json: config.json as transformers 4 wrote it and as it is on the Hub. The
script checks that transformers makes the same model of it.

The positions of padded_ids are given to the model: the number of tokens before each that are not padding, 0 at padding. What
is computed for a token does not depend on the padding before it; the script checks that, too. A token at padding sees no key,
so all of its scores are the least float32, and transformers gives the mean of all twenty values to it, those after it included.

In phi3-b (longrope) transformers rotates all positions of a pass by the long factors if any position of any row in the pass is
at or above `original_max_position_embeddings`, and by the short ones otherwise. So all of logits and padded_logits are of the
long factors, the first five of greedy are of the short ones, and the others of the long ones, at all positions of their pass.

Everything is computed in float32 on one thread of a CPU, in evaluation mode, with the implementations of attention and of the
experts that are named "eager". Parameters are random around their usual values, norms and biases too, and the script checks
that each of them matters, except the biases of keys in layers without positions, which add the same to all scores of a query;
that each option matters, see `others`; that the logits spread; and that no greedy token and no choice of experts is a close
call. Loading a folder must give the model that was saved.

Made with torch 2.15.0 and transformers 5.24.0.
"""

import copy
import json
import pathlib
import shutil
import sys

import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
MAX_GREEDY, MIN_GAP, MIN_ROUTER_GAP = 64, 2e-3, 5e-4

TOKENS_A = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
TOKENS_B = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
FULL, SLIDING = "full_attention", "sliding_attention"


def plain(theta, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


# NAME: (prefix of the classes, seed, fields)
MODELS = {
    "llama-a": ("Llama", 1, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128,
    }),
    "llama-b": ("Llama", 3, TOKENS_B | {
        "vocab_size": 71, "hidden_size": 24, "intermediate_size": 44, "num_hidden_layers": 4, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "eos_token_id": [3, 0],
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0,
            "original_max_position_embeddings": 16,
        },
    }),
    "qwen3-a": ("Qwen3", 4, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    }),
    "qwen3-b": ("Qwen3", 6, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 4, "num_attention_heads": 3,
        "num_key_value_heads": 3, "head_dim": 12, "max_position_embeddings": 256, "rms_norm_eps": 2e-2,
        "attention_bias": True, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1,
        "tie_word_embeddings": True, "rope_parameters": plain(500.0),
    }),
    "qwen2-a": ("Qwen2", 2, TOKENS_A | {
        "vocab_size": 69, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 128, "tie_word_embeddings": True, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16,
        },
    }),
    "qwen2-b": ("Qwen2", 1, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 2e-2, "use_sliding_window": True,
        "sliding_window": 7, "max_window_layers": 2, "rope_parameters": plain(500.0),
    }),
    "mistral-a": ("Mistral", 3, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "sliding_window": 7,
    }),
    "mistral-b": ("Mistral", 1, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 4, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 256, "rms_norm_eps": 2e-2,
        "sliding_window": None, "tie_word_embeddings": True, "rope_parameters": plain(500.0),
    }),
    "gemma3_text-a": ("Gemma3Text", 2, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "query_pre_attn_scalar": 8,
        "sliding_window": 7, "sliding_window_pattern": 3, "rope_parameters": {
            FULL: {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0}, SLIDING: plain(100.0),
        },
    }),
    "gemma3_text-b": ("Gemma3Text", 56, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 36, "intermediate_size": 28, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 256, "rms_norm_eps": 2e-2,
        "query_pre_attn_scalar": 5, "sliding_window": 5, "layer_types": [FULL, SLIDING, FULL], "attention_bias": True,
        "final_logit_softcapping": 2.0, "tie_word_embeddings": False,
        "rope_parameters": {FULL: plain(400.0), SLIDING: plain(50.0)},
    }),
    "gemma2-a": ("Gemma2", 142, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "query_pre_attn_scalar": 3,
        "sliding_window": 7, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0,
    }),
    "gemma2-b": ("Gemma2", 1, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 36, "intermediate_size": 28, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 256, "rms_norm_eps": 2e-2,
        "query_pre_attn_scalar": 12, "sliding_window": 5, "layer_types": [FULL, SLIDING, SLIDING], "attention_bias": True,
        "attn_logit_softcapping": None, "final_logit_softcapping": None, "tie_word_embeddings": False,
        "rope_parameters": plain(500.0),
    }),
    "smollm3-a": ("SmolLM3", 5, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128,
    }),
    "smollm3-b": ("SmolLM3", 5, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 32, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 1, "max_position_embeddings": 256, "rms_norm_eps": 2e-2, "no_rope_layers": [0, 1, 0],
        "no_rope_layer_interval": 3, "attention_bias": True, "mlp_bias": True, "use_sliding_window": True,
        "sliding_window": 7, "tie_word_embeddings": False, "rope_parameters": plain(500.0),
    }),
    "olmo2-a": ("Olmo2", 10, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128,
    }),
    "olmo3-a": ("Olmo3", 3, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 32, "intermediate_size": 28, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 128, "sliding_window": 7, "rope_parameters": {
            FULL: {
                "rope_type": "yarn", "rope_theta": 100.0, "factor": 8.0, "original_max_position_embeddings": 16,
                "attention_factor": 1.3, "beta_fast": 1.0, "beta_slow": 0.25,
            },
            SLIDING: plain(100.0),
        },
    }),
    "olmo3-b": ("Olmo3", 1, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 4, "max_position_embeddings": 256, "rms_norm_eps": 2e-2, "sliding_window": 5,
        "layer_types": [FULL, SLIDING, SLIDING, FULL], "attention_bias": True, "tie_word_embeddings": True,
        "rope_parameters": {FULL: plain(400.0), SLIDING: plain(50.0)},
    }),
    "mixtral-a": ("Mixtral", 6, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "num_local_experts": 4, "num_experts_per_tok": 2,
    }),
    "mixtral-b": ("Mixtral", 2, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 24, "intermediate_size": 14, "num_hidden_layers": 3, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 256, "rms_norm_eps": 2e-2,
        "num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 7, "tie_word_embeddings": True,
        "rope_parameters": plain(500.0),
    }),
    "qwen3_moe-a": ("Qwen3Moe", 2, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "num_experts": 6, "num_experts_per_tok": 2,
        "moe_intermediate_size": 16, "norm_topk_prob": True, "mlp_only_layers": [1],
    }),
    "qwen3_moe-b": ("Qwen3Moe", 4, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 256, "rms_norm_eps": 2e-2, "num_experts": 5,
        "num_experts_per_tok": 3, "moe_intermediate_size": 14, "norm_topk_prob": False, "decoder_sparse_step": 2,
        "attention_bias": True, "use_sliding_window": True, "sliding_window": 7, "tie_word_embeddings": True,
        "rope_parameters": plain(500.0),
    }),
    "phi3-a": ("Phi3", 2, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 36, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 3,
        "num_key_value_heads": 1, "max_position_embeddings": 128, "original_max_position_embeddings": 128,
        "sliding_window": 7, "rope_parameters": plain(10000.0, partial_rotary_factor=0.5),
    }),
    "phi3-b": ("Phi3", 1, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 32, "intermediate_size": 28, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "original_max_position_embeddings": 16,
        "rms_norm_eps": 2e-2, "tie_word_embeddings": True, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 500.0, "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.1, 1.25, 1.4, 1.7, 2.0], "long_factor": [1.5, 2.0, 3.0, 4.5, 6.0, 8.0],
        },
    }),
    "gpt_neox-a": ("GPTNeoX", 5, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 32, "intermediate_size": 36, "num_hidden_layers": 4, "num_attention_heads": 2,
        "max_position_embeddings": 128, "attention_bias": False, "rope_parameters": plain(10000.0, partial_rotary_factor=0.25),
    }),
    "gpt_neox-b": ("GPTNeoX", 7, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 3,
        "max_position_embeddings": 256, "layer_norm_eps": 2e-2, "attention_bias": True, "use_parallel_residual": False,
        "hidden_act": "gelu_new", "tie_word_embeddings": True, "rope_parameters": plain(500.0, partial_rotary_factor=1.0),
    }),
    "gemma3-a": ("Gemma3", 98, TOKENS_A | {
        "text_config": TOKENS_A | {
            "vocab_size": 71, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "query_pre_attn_scalar": 6,
            "sliding_window": 7, "layer_types": [SLIDING, FULL, SLIDING, FULL], "rope_parameters": {
                FULL: {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0}, SLIDING: plain(100.0),
            },
        },
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 8, "patch_size": 4, "vision_use_head": False,
        },
        "mm_tokens_per_image": 4, "boi_token_index": 1, "eoi_token_index": 2, "image_token_index": 3,
    }),
}  # fmt: skip

UNUSED = ("model.vision_tower.", "model.multi_modal_projector.")  # of gemma3


def classes(name):
    """The classes of a configuration and of a model."""
    prefix = MODELS[name][0]
    model = {"Gemma3Text": "Gemma3ForCausalLM", "Gemma3": "Gemma3ForConditionalGeneration"}.get(prefix, f"{prefix}ForCausalLM")
    return getattr(transformers, f"{prefix}Config"), getattr(transformers, model)


def construct(name, config):
    """A model of the configuration, on the plain path."""
    config._attn_implementation = config._experts_implementation = "eager"
    model = classes(name)[1](config).eval()
    assert model.config.get_text_config()._attn_implementation == "eager"
    assert model.config.get_text_config()._experts_implementation == "eager"
    return model


def is_norm(key):
    return "norm" in key.split(".")[-2]


def value(name, like, config, generator):
    """A random value of a parameter, close to its usual value in a trained model."""
    r = torch.randn(like.shape, generator=generator)
    gemma, scale = "gemma" in config.model_type, like.shape[-1] ** -0.5
    part = name.split(".")
    if name.startswith(UNUSED):
        return 0.3 * r
    if part[-1] == "bias":
        return (0.1 if config.model_type in ("olmo3", "gpt_neox") else 0.3) * r
    if is_norm(name):
        # Sharper attention: else the text of olmo3-b repeats itself.
        usual = 1.5 if config.model_type == "olmo3" and config.tie_word_embeddings and part[-2] in ("q_norm", "k_norm") else 1.0
        if gemma:  # It adds 1 to them.
            usual = 0.5 if part[-2].startswith("post") else 2.0 if part[-2] == "norm" and config.tie_word_embeddings else 0.0
        return usual + 0.3 * r
    if part[-2] in ("embed_tokens", "embed_in"):
        if gemma:  # It multiplies them by the square root of their size.
            return r * 0.7 * scale
        return r * (1.7 * scale if config.tie_word_embeddings else 0.7)
    gain = {
        "q_proj": 1.4, "k_proj": 1.4, "v_proj": 1.4, "qkv_proj": 1.4, "query_key_value": 2.5, "o_proj": 1.2, "dense": 2.0,
        "gate_proj": 1.4, "up_proj": 1.4, "gate_up_proj": 1.4, "down_proj": 1.8, "dense_h_to_4h": 1.4, "dense_4h_to_h": 1.8,
        "gate": 1.5, "lm_head": 2.0,
    }[part[-1] if part[-2] == "experts" else part[-2]]  # fmt: skip
    return r * gain * scale


def build(name):
    """The model, with parameters drawn from its seed."""
    _, seed, fields = MODELS[name]
    model = construct(name, classes(name)[0](**copy.deepcopy(fields)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(value(key, parameter, model.config.get_text_config(), generator))
    return model


def greedy(model, prompt, use_cache):
    """The tokens that `generate` appends to the prompt, and the smallest margin between the two best logits."""
    model = copy.deepcopy(model)
    model.generation_config.eos_token_id = None
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=MAX_GREEDY, use_cache=use_cache,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    tokens = out.sequences[0, prompt.shape[1] :]
    best = torch.stack(out.logits)[:, 0].topk(2).values
    assert tokens.shape == (MAX_GREEDY,)
    return tokens, (best[:, 0] - best[:, 1]).min().item()


def watch_routers(model, gaps):
    """Collects the margins between the last expert that is chosen and the first that is not."""

    def see(router, _, output):
        best = output[0].topk(router.top_k + 1).values
        gaps.append((best[:, -2] - best[:, -1]).min().item())

    return [m.register_forward_hook(see) for m in model.modules() if type(m).__name__.endswith("TopKRouter")]


def expect(name, model, seed):
    """The tensors of expected.safetensors."""
    config = model.config.get_text_config()
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
    if name != "phi3-b":
        alone = model(e["padded_ids"][1:, 7:], use_cache=False).logits
        assert (alone - e["padded_logits"][1:, 7:]).abs().max() < 1e-4, f"{name}: padding changes what follows it"
    counted = model(**padded).logits[e["attention_mask"] == 1]
    assert (counted - e["padded_logits"][e["attention_mask"] == 1]).abs().max() < 1e-4, f"{name}: positions of padding"
    e["greedy"], gap = greedy(model, e["prompt"], False)
    cached, cached_gap = greedy(model, e["prompt"], True)
    assert e["greedy"].equal(cached), f"{name}: the cache"
    assert min(gap, cached_gap) > MIN_GAP, f"{name}: a close call, {gap} {cached_gap}"
    assert len(set(cached.tolist())) > 20, f"{name}: it repeats itself, {len(set(cached.tolist()))}"
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    ends = ends if name != "gemma3-a" else [0, 1, 2, 3]  # There the others are of images.
    assert not set(ends) & set(cached.tolist()), f"{name}: it ends"
    spread = e["logits"].std().item()
    assert 1.0 < spread < 3.0, f"{name}: the spread of the logits is {spread}"
    # Once more, all tokens at once: the copies that generate were not watched.
    model(torch.cat([e["prompt"], e["greedy"][None]], 1), use_cache=False)
    for hook in hooks:
        hook.remove()
    assert min(gaps, default=1.0) > MIN_ROUTER_GAP, f"{name}: a close call of experts, {min(gaps)}"
    return e


def difference(model, e, other):
    """By how much the logits of another model differ, at the random tokens or at the prompt, which is short."""
    change = 0.0
    for key in ("input_ids", "prompt"):
        logits = e["logits"] if key == "input_ids" else model(e[key], use_cache=False).logits
        change = max(change, (other(e[key], use_cache=False).logits - logits).abs().max().item())
    return change


def prove(name, model, e):
    """Checks that each parameter matters: without it the logits differ. Of experts, each of them."""
    config = model.config.get_text_config()
    nope = [i for i, rope in enumerate(getattr(config, "no_rope_layers", [])) if not rope]
    for key, parameter in model.named_parameters():
        if key.startswith(UNUSED):
            continue
        for part in parameter.data if parameter.dim() == 3 else [parameter.data]:
            kept = part.clone()
            # For a norm, remove the noise; for any other parameter, the value.
            part.fill_(1.0 if is_norm(key) and key.endswith("weight") and "gemma" not in config.model_type else 0.0)
            change = (model(e["input_ids"], use_cache=False).logits - e["logits"]).abs().max().item()
            part.copy_(kept)
            if key in [f"model.layers.{i}.self_attn.k_proj.bias" for i in nope]:
                assert change < 1e-4, f"{name}: {key} changes the logits by {change}"
            else:
                assert change > 0.05, f"{name}: {key} changes the logits by {change}"


def others(text):
    """Configurations that differ in one option: what it is, and fields to change. `text` is the one of text as a dict."""
    for field in "attn_logit_softcapping", "final_logit_softcapping", "sliding_window":
        # Gemma 3 does not read the first.
        if text.get(field) is not None:
            yield field, {field: 1000 if field == "sliding_window" else None}
            yield field, {field: text[field] + 1}
    for field in "norm_topk_prob", "use_parallel_residual":
        if field in text:
            yield field, {field: not text[field]}
    for field, change in {"query_pre_attn_scalar": 1, "num_experts_per_tok": -1}.items():
        if field in text:
            yield field, {field: text[field] + change}
    for field in "rms_norm_eps", "layer_norm_eps":
        if text.get(field, 0.0) > 1e-3:
            yield field, {field: text[field] / 10}
    if "sliding_attention" in (text.get("layer_types") or []):
        for i, kind in enumerate(text["layer_types"]):
            changed = [*text["layer_types"]]
            changed[i] = FULL if kind == SLIDING else SLIDING
            yield f"layer_types[{i}]", {"layer_types": changed}
    for i, rope in enumerate(text.get("no_rope_layers") or []):
        changed = [*text["no_rope_layers"]]
        changed[i] = 1 - rope
        yield f"no_rope_layers[{i}]", {"no_rope_layers": changed}
    if text.get("hidden_act") == "gelu_new":
        yield "hidden_act", {"hidden_act": "relu"}
    ropes = text["rope_parameters"]
    nested = "rope_type" not in ropes
    for kind, rope in ropes.items() if nested else [("all", ropes)]:
        for key, x in rope.items():
            if key == "rope_type":
                changed = plain(rope["rope_theta"]) | {k: v for k, v in rope.items() if k == "partial_rotary_factor"}
                if x == "default":
                    continue
            elif key == "partial_rotary_factor":
                if text.get("model_type") == "phi3" and rope["rope_type"] == "longrope":
                    continue  # The lists of factors have its length.
                changed = rope | {key: 1.0 if x < 1.0 else 0.5}
            else:
                changed = rope | {key: [1.2 * y for y in x] if isinstance(x, list) else type(x)(1.5 * x)}
            fields = {"rope_parameters": ropes | {kind: changed} if nested else changed}
            if key == "original_max_position_embeddings" and key in text:
                fields[key] = changed[key]
            yield f"{key} of rope, {kind}", fields


def prove_options(name, model, e):
    """Checks that options matter: a model with the same parameters and another option gives other logits."""
    config_class, _ = classes(name)
    composite = "text_config" in MODELS[name][2]
    fields = model.config.to_dict()
    for what, changed in others(fields["text_config"] if composite else fields):
        new = copy.deepcopy(fields)
        (new["text_config"] if composite else new).update(copy.deepcopy(changed))
        other = construct(name, config_class.from_dict(new))
        other.load_state_dict(model.state_dict())
        change = difference(model, e, other)
        assert change > 0.02, f"{name}: {what} changes the logits by {change}"


def older(name, config):
    """The fields of config.json as transformers 4 named them."""
    ropes = config.pop("rope_parameters")
    if name == "gemma3_text-a":
        config["rope_local_base_freq"] = ropes[SLIDING]["rope_theta"]
        config["sliding_window_pattern"] = MODELS[name][2]["sliding_window_pattern"]
        config.pop("layer_types")
        config.pop("_sliding_window_pattern", None)
        ropes = ropes[FULL]
    if name == "qwen2-a":
        config.pop("layer_types")
        config["sliding_window"] = 4096  # It is not used then.
    if name == "phi3-b":
        config["partial_rotary_factor"] = ropes.pop("partial_rotary_factor")
        ropes.pop("original_max_position_embeddings")  # It stays in the configuration itself.
        ropes["type"] = ropes.pop("rope_type")
    config["rope_theta"] = ropes.pop("rope_theta")
    config["rope_scaling"] = ropes
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.57.3"
    return config


def make_older(name, path, model, e):
    """Writes config_v4.json and checks that it is the same model."""
    old = older(name, json.loads((path / "config.json").read_text()))
    file = path / "config_v4.json"
    file.write_text(json.dumps(old, indent=2, sort_keys=True) + "\n")
    config = classes(name)[0].from_json_file(file)
    quiet = {"_name_or_path", "architectures", "dtype", "sliding_window_pattern", "torch_dtype", "transformers_version"}
    one, two = ({k: v for k, v in c.to_dict().items() if k not in quiet} for c in (model.config, config))
    for rope in one["rope_parameters"], two["rope_parameters"]:
        rope.pop("type", None)
    two.pop("partial_rotary_factor", None)
    assert one == two, f"{name}: {[(k, one.get(k), two.get(k)) for k in one | two if one.get(k) != two.get(k)]}"
    other = construct(name, config)
    other.load_state_dict(model.state_dict())
    assert difference(model, e, other) == 0.0, f"{name}: config_v4.json"


def save(path, tensors, metadata):
    """Saves as safetensors does, but with ordered metadata, so that the bytes are reproducible."""
    data = safetensors.torch.save({name: x.contiguous() for name, x in tensors.items()})
    size = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def fresh(name):
    path = HERE / name
    shutil.rmtree(path, ignore_errors=True)
    return path


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
    metadata = {"made_by": "decoders.py", "torch": torch.__version__.split("+")[0], "seed": str(seed)}
    save(path / "expected.safetensors", e, metadata | {"transformers": transformers.__version__})
    if name in ("llama-b", "qwen2-a", "gemma3_text-a", "phi3-b"):
        make_older(name, path, model, e)
    assert sum(file.stat().st_size for file in path.iterdir()) < 190_000, f"{name}: it is large"


@torch.no_grad()
def main(names):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in names or MODELS:
        make(name)


if __name__ == "__main__":
    main(sys.argv[1:])
