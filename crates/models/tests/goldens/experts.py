"""Makes the goldens of transformers' decoders with a gated delta rule, and of those with experts: small random checkpoints.

    pip install torch==2.15.0 transformers==5.24.0 safetensors accelerate
    python experts.py [NAME ...]

It writes next to itself, for each type, the folders TYPE-a and TYPE-b, whose options differ (gemma4_text has a third, all of
whose options are on; the composite types have only a): config.json, generation_config.json and model.safetensors as
`save_pretrained` writes them, and expected.safetensors with

    input_ids          i64 [2, 45]         random tokens
    logits             f32 [2, 45, vocab]  for those tokens
    last_hidden_state  f32 [2, 45, hidden] what the base model returns: the residual stream after the final norm
    padded_ids         i64 [2, 20]         the second row begins with seven tokens of padding
    attention_mask     i64 [2, 20]         zero there
    padded_logits      f32 [2, 20, vocab]  for those, at every position, padding too
    prompt             i64 [1, 12]
    greedy             i64 [64]            the tokens that follow it, each from a forward pass over all before it

    types    qwen3_next, gpt_oss, qwen3_5_text, qwen3_5, qwen3_5_moe_text, qwen3_5_moe, olmo_hybrid, gemma4_text, gemma4

qwen3_5, qwen3_5_moe and gemma4 are composite types with a vision tower, which is there and not used: all tokens are text.

Some folders have a second configuration, config_v4.json, with the fields and names that configurations on the Hub have. The
script checks that transformers makes the same model of it.

Some folders have a second file of weights, model_hub.safetensors, with the names and shapes that files on the Hub have, where
`save_pretrained` writes others: in qwen3_5_moe the experts of a layer are one tensor there, not a tensor each; in olmo_hybrid
the three convolutions are cut at the widths of queries, keys and values, not into thirds of their sum, and a norm of the
layers with attention has another name. The script checks that transformers loads the same model from it. That of qwen3_5_moe-a,
and model.safetensors of qwen3_next-a, qwen3_5-a and gemma4-a, have a few tensors more, as those on the Hub do, which are not
used, see `unused`.

gpt_oss-mxfp4 is as checkpoints on the Hub are: the matrices of experts are MXFP4, all other tensors are bfloat16, and
config.json has the fields of that on the Hub. transformers makes float32 numbers of them all before it computes.

The positions of padded_ids are given to the model: the number of tokens before each that are not padding, 0 at padding. What
is computed for a token does not depend on the padding before it; the script checks that, too. In layers with a state the input
is set to zero at padding. In layers of attention a token at padding sees no key, so all of its scores are the least float32,
and transformers gives the mean of all twenty values to it, those after it included; in gpt_oss, where each head has a score
more that has no value, it gives zero.

Everything is computed in float32 on one thread of a CPU, in evaluation mode, with the implementations of attention and of the
experts that are named "eager", and without kernels. Parameters are random around their usual values, norms, biases, `dt_bias`,
`A_log` and sinks too, and the script checks that each of them matters, of experts each one; that each option matters, see
`others`, and that some do not, see `quiet`; that the logits spread; that they hardly move if each weight moves by about a
rounding, or if tokens are read one by one; and that no greedy token and no choice of experts is a close call. Loading a folder
must give the model that was saved.

Made with torch 2.15.0 and transformers 5.24.0.
"""

import copy
import importlib.util
import json
import math
import shutil
import sys
import tempfile

import safetensors.torch
import torch
import transformers

from decoders import fresh, greedy, is_norm, save, watch_routers

MIN_GAP, MIN_ROUTER_GAP, MAX_SHIFT, MAX_ERROR = 2e-3, 5e-4, 5e-5, 2e-5

TOKENS_A = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
TOKENS_B = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
DELTA, FULL, SLIDING = "linear_attention", "full_attention", "sliding_attention"


def plain(theta, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


VISION = {
    "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "patch_size": 2, "spatial_merge_size": 1,
    "temporal_patch_size": 1, "out_hidden_size": 8, "num_position_embeddings": 4,
}  # fmt: skip

# NAME: (prefix of the classes, seed, fields)
MODELS = {
    "qwen3_next-a": ("Qwen3Next", 7, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 16, "max_position_embeddings": 128, "full_attention_interval": 3, "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 12, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 16,
        "rope_parameters": plain(100.0),
    }),
    "qwen3_next-b": ("Qwen3Next", 2, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 28, "intermediate_size": 36, "num_hidden_layers": 5, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "rms_norm_eps": 2e-2,
        "attention_bias": True, "layer_types": [FULL, DELTA, DELTA, FULL, DELTA], "linear_conv_kernel_dim": 3,
        "linear_key_head_dim": 8, "linear_value_head_dim": 6, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 10, "shared_expert_intermediate_size": 14,
        "norm_topk_prob": False, "decoder_sparse_step": 2, "mlp_only_layers": [3], "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 100.0, "partial_rotary_factor": 0.75, "factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    }),
    "gpt_oss-a": ("GptOss", 1, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 32, "intermediate_size": 20, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "sliding_window": 7, "num_local_experts": 4,
        "num_experts_per_tok": 2, "swiglu_limit": 2.0, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 100.0, "factor": 8.0, "beta_fast": 1.5, "beta_slow": 0.25, "truncate": False,
            "original_max_position_embeddings": 16,
        },
    }),
    "gpt_oss-b": ("GptOss", 1, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 24, "intermediate_size": 18, "num_hidden_layers": 3, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 256, "rms_norm_eps": 2e-2,
        "attention_bias": False, "sliding_window": 5, "layer_types": [FULL, SLIDING, SLIDING], "num_local_experts": 5,
        "num_experts_per_tok": 3, "swiglu_alpha": 1.1, "swiglu_limit": 1.2, "tie_word_embeddings": True,
        "rope_parameters": plain(500.0),
    }),
    "gpt_oss-mxfp4": ("GptOss", 1, TOKENS_B | {
        "vocab_size": 71, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 512, "sliding_window": 6, "num_local_experts": 4,
        "num_experts_per_tok": 2, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 150, "factor": 32.0, "beta_fast": 2.0, "beta_slow": 0.25, "truncate": False,
            "original_max_position_embeddings": 16,
        },
    }),
    "qwen3_5_text-a": ("Qwen3_5Text", 5, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "full_attention_interval": 3,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 12, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "rope_parameters": plain(100.0),
    }),
    "qwen3_5_text-b": ("Qwen3_5Text", 12, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 32, "intermediate_size": 28, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "rms_norm_eps": 2e-2,
        "attention_bias": True, "layer_types": [FULL, DELTA, FULL, DELTA], "linear_conv_kernel_dim": 3,
        "linear_key_head_dim": 8, "linear_value_head_dim": 6, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
        "tie_word_embeddings": True, "rope_parameters": plain(
            50.0, partial_rotary_factor=0.75, mrope_section=[1, 1, 1], mrope_interleaved=True
        ),
    }),
    "qwen3_5-a": ("Qwen3_5", 43, {
        "text_config": TOKENS_A | {
            "vocab_size": 71, "hidden_size": 28, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "full_attention_interval": 2,
            "linear_conv_kernel_dim": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 12, "linear_num_key_heads": 2,
            "linear_num_value_heads": 2, "tie_word_embeddings": True, "rope_parameters": plain(
                60.0, partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True
            ),
        },
        "tie_word_embeddings": True, "vision_config": VISION, "image_token_id": 1, "video_token_id": 2,
        "vision_start_token_id": 3, "vision_end_token_id": 4,
    }),
    "qwen3_5_moe_text-a": ("Qwen3_5MoeText", 10, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 16, "max_position_embeddings": 128, "full_attention_interval": 3, "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 12, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 16,
        "rope_parameters": plain(100.0),
    }),
    "qwen3_5_moe_text-b": ("Qwen3_5MoeText", 3, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 28, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "max_position_embeddings": 256, "rms_norm_eps": 2e-2, "attention_bias": True,
        "layer_types": [FULL, DELTA, FULL, DELTA], "linear_conv_kernel_dim": 3, "linear_key_head_dim": 8,
        "linear_value_head_dim": 6, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "num_experts": 5,
        "num_experts_per_tok": 3, "moe_intermediate_size": 10, "shared_expert_intermediate_size": 14,
        "tie_word_embeddings": True, "rope_parameters": plain(
            50.0, partial_rotary_factor=0.75, mrope_section=[1, 1, 1], mrope_interleaved=True
        ),
    }),
    "qwen3_5_moe-a": ("Qwen3_5Moe", 2, {
        "text_config": TOKENS_A | {
            "vocab_size": 71, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "full_attention_interval": 2,
            "linear_conv_kernel_dim": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 1,
            "linear_num_value_heads": 2, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 10,
            "shared_expert_intermediate_size": 14, "rope_parameters": plain(
                60.0, partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True
            ),
        },
        "vision_config": VISION, "image_token_id": 1, "video_token_id": 2, "vision_start_token_id": 3,
        "vision_end_token_id": 4,
    }),
    "olmo_hybrid-a": ("OlmoHybrid", 5, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 2,
        "max_position_embeddings": 128, "rope_parameters": {"rope_type": "default", "rope_theta": None},
    }),
    "olmo_hybrid-b": ("OlmoHybrid", 17, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 32, "intermediate_size": 28, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 2e-2, "attention_bias": True,
        "layer_types": [DELTA, FULL, DELTA], "linear_conv_kernel_dim": 3, "linear_key_head_dim": 12,
        "linear_value_head_dim": 14, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_allow_neg_eigval": False, "tie_word_embeddings": True, "rope_parameters": plain(100.0),
    }),
    "gemma4_text-a": ("Gemma4Text", 7, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 5, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "global_head_dim": 16, "max_position_embeddings": 128, "sliding_window": 7,
        "layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL], "hidden_size_per_layer_input": 6,
        "vocab_size_per_layer_input": 70, "num_kv_shared_layers": 2, "use_double_wide_mlp": True,
        "tie_word_embeddings": False, "rope_parameters": {
            FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 400.0}, SLIDING: plain(50.0),
        },
    }),
    "gemma4_text-b": ("Gemma4Text", 3, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 28, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "global_head_dim": 8, "num_global_key_value_heads": 1,
        "max_position_embeddings": 256, "rms_norm_eps": 2e-2, "attention_bias": True, "sliding_window": 5,
        "layer_types": [FULL, SLIDING, FULL], "hidden_size_per_layer_input": 0, "attention_k_eq_v": True,
        "enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 10,
        "final_logit_softcapping": 4.0, "rope_parameters": {
            FULL: {"rope_type": "proportional", "partial_rotary_factor": 1.0, "rope_theta": 400.0, "factor": 4.0},
            SLIDING: {"rope_type": "linear", "rope_theta": 50.0, "factor": 2.0},
        },
    }),
    "gemma4_text-c": ("Gemma4Text", 65, TOKENS_A | {
        "vocab_size": 69, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128, "sliding_window": 6,
        "layer_types": [SLIDING, FULL, SLIDING, FULL], "hidden_size_per_layer_input": 5, "vocab_size_per_layer_input": 69,
        "num_kv_shared_layers": 2, "attention_k_eq_v": True, "enable_moe_block": True, "num_experts": 4,
        "top_k_experts": 3, "moe_intermediate_size": 8, "final_logit_softcapping": 4.0, "tie_word_embeddings": False,
        "per_layer_config": {"0": {"head_dim": 6, "num_key_value_heads": 2}, "2": {"head_dim": 6, "num_key_value_heads": 2}},
        "rope_parameters": {
            FULL: plain(300.0), SLIDING: {"rope_type": "proportional", "partial_rotary_factor": 0.67, "rope_theta": 80.0},
        },
    }),
    "gemma4-a": ("Gemma4", 24, {
        "text_config": TOKENS_A | {
            "vocab_size": 71, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 8, "global_head_dim": 12, "max_position_embeddings": 128,
            "sliding_window": 7, "layer_types": [SLIDING, FULL, SLIDING, FULL], "hidden_size_per_layer_input": 6,
            "vocab_size_per_layer_input": 71, "num_kv_shared_layers": 2, "use_double_wide_mlp": True,
            "final_logit_softcapping": 4.0, "tie_word_embeddings": True, "rope_parameters": {
                FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.4, "rope_theta": 400.0}, SLIDING: plain(50.0),
            },
        },
        "tie_word_embeddings": True, "vision_config": {
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 4, "patch_size": 2, "position_embedding_size": 4, "pooling_kernel_size": 1,
        },
        "image_token_id": 1, "video_token_id": 2, "audio_token_id": 3,
    }),
}  # fmt: skip

MORE = ("qwen3_next-a", "qwen3_5-a", "gemma4-a")  # Their model.safetensors has tensors that are not used.
HUB = ("qwen3_5_moe-a", "olmo_hybrid-a", "olmo_hybrid-b")  # They have model_hub.safetensors.
V4 = (  # They have config_v4.json.
    "qwen3_next-a", "gpt_oss-a", "qwen3_5-a", "qwen3_5_moe-a", "olmo_hybrid-a", "gemma4_text-a", "gemma4_text-b", "gemma4-a",
)  # fmt: skip
UNUSED = ("model.visual.", "model.vision_tower.", "model.embed_vision.")


def classes(name):
    """The classes of a configuration and of a model."""
    prefix = MODELS[name][0]
    config, model = {
        "Qwen3_5Text": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM"),
        "Qwen3_5MoeText": ("Qwen3_5MoeTextConfig", "Qwen3_5MoeForCausalLM"),
        "Qwen3_5": ("Qwen3_5Config", "Qwen3_5ForConditionalGeneration"),
        "Qwen3_5Moe": ("Qwen3_5MoeConfig", "Qwen3_5MoeForConditionalGeneration"),
        "Gemma4Text": ("Gemma4TextConfig", "Gemma4ForCausalLM"),
        "Gemma4": ("Gemma4Config", "Gemma4ForConditionalGeneration"),
    }.get(prefix, (f"{prefix}Config", f"{prefix}ForCausalLM"))
    return getattr(transformers, config), getattr(transformers, model)


def construct(name, config):
    """A model of the configuration, on the plain path."""
    config._attn_implementation = config._experts_implementation = "eager"
    model = classes(name)[1](config).eval()
    assert model.config.get_text_config()._attn_implementation == "eager"
    assert model.config.get_text_config()._experts_implementation == "eager"
    return model


def load(name, path, **more):
    """A model from a folder, on the plain path. Each of its tensors is in the file, and each in the file is used or ignored."""
    plainly = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model, info = classes(name)[1].from_pretrained(path, **plainly, **more, output_loading_info=True)
    assert not any(info.values()), f"{name}: {info}"
    return model.eval()


def watch(model, gaps):
    """Collects the margins between the logits of the last expert that is chosen and of the first that is not."""

    def see(router, _, output):
        best = output[0].log().topk(router.config.top_k_experts + 1).values
        gaps.append((best[:, -2] - best[:, -1]).min().item())

    routers = [m for m in model.modules() if type(m).__name__ == "Gemma4TextRouter"]
    return watch_routers(model, gaps) + [m.register_forward_hook(see) for m in routers]


def parameters(model):
    """The parameters, and buffers that are in files."""
    return [*model.named_parameters(), *((k, x) for k, x in model.named_buffers() if k.endswith(".layer_scalar"))]


def is_mean_one(name, config):
    """Whether the norm multiplies by its weights: some multiply by 1 more."""
    return not config.model_type.startswith("qwen3") or ".linear_attn." in name


def neutral(name, config):
    """The value of a parameter that does nothing, or with which nothing is left of what it does."""
    if name.endswith((".layer_scalar", ".router.scale", ".per_expert_scale")):
        return 1.0
    return 1.0 if is_norm(name) and is_mean_one(name, config) else 0.0


def value(name, like, config, generator):
    """A random value of a parameter, close to its usual value in a trained model."""
    r, scale = torch.randn(like.shape, generator=generator), like.shape[-1] ** -0.5
    part = name.split(".")
    if name.startswith(UNUSED):
        return 0.3 * r
    if part[-1] == "A_log":
        return torch.log(torch.arange(1.0, like.shape[-1] + 1)) + 0.3 * r
    if part[-1] == "dt_bias":
        step = torch.exp(math.log(0.005) + math.log(300.0) * torch.rand(like.shape, generator=generator))
        return step + torch.log(-torch.expm1(-step))
    if part[-1] in ("layer_scalar", "scale", "per_expert_scale"):
        return 1.0 + 0.3 * r
    if config.model_type == "gemma4_text":
        tied = config.tie_word_embeddings  # Then a text repeats itself less if embeddings are small.
        if is_norm(name):
            usual = {"q_norm": 0.6, "k_norm": 0.6, "norm": 6.0 if tied else 1.0}.get(part[-2], 1.0)
            return ((1.2 if tied else 0.8) if part[-2].startswith("post") else usual) + 0.2 * r
        if part[-2] == "embed_tokens":  # It multiplies them by the square root of their size, and those of layers, too.
            return r * scale * (0.25 if tied else 1.0)
        if part[-2] == "embed_tokens_per_layer":
            return r * config.hidden_size_per_layer_input**-0.5
    if is_norm(name):
        return (1.0 if is_mean_one(name, config) else 0.0) + 0.3 * r
    if part[-1] == "sinks":
        return 0.5 + r
    if part[-1].endswith("bias"):
        return 0.3 * r
    if part[-2] == "conv1d":
        return r * scale
    if part[-2] == "embed_tokens":
        # Tied, they are lm_head, too.
        return r * (1.7 * scale if config.tie_word_embeddings else 1.0)
    gain = {
        "in_proj_qkvz": 1.4, "in_proj_ba": 1.4, "in_proj_qkv": 1.4, "in_proj_z": 1.4, "in_proj_a": 1.4, "in_proj_b": 1.4,
        "out_proj": 1.2, "q_proj": 1.4, "k_proj": 1.4, "v_proj": 1.4, "o_proj": 1.6, "gate_proj": 1.4, "up_proj": 1.4,
        "gate_up_proj": 1.4, "down_proj": 1.8, "gate": 1.5, "shared_expert_gate": 1.5, "router": 1.5, "lm_head": 1.6,
        "a_proj": 1.4, "b_proj": 1.4, "g_proj": 1.4, "proj": 1.5 / scale, "per_layer_model_projection": 1.0,
        "per_layer_input_gate": 1.4, "per_layer_projection": 1.8,
    }[part[-1] if part[-2] == "experts" else part[-2]]  # fmt: skip
    if config.model_type == "gpt_oss" and part[-2] == "experts":
        scale = like.shape[-2] ** -0.5  # They are transposed.
    return r * gain * scale


def build(name):
    """The model, with parameters drawn from its seed."""
    _, seed, fields = MODELS[name]
    model = construct(name, classes(name)[0](**copy.deepcopy(fields)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in parameters(model):
            parameter.copy_(value(key, parameter, model.config.get_text_config(), generator))
    return model


def shift(model, ids, mask=None):
    """By how much the logits of tokens move if each weight moves by about a rounding: the largest of three trials."""
    logits, moved = model(ids, attention_mask=mask, use_cache=False).logits, []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        other = copy.deepcopy(model)
        for _, parameter in parameters(other):
            parameter.mul_(1.0 + 1e-7 * torch.randn(parameter.shape, generator=generator))
        moved.append((other(ids, attention_mask=mask, use_cache=False).logits - logits).abs())
    there = torch.ones_like(ids) if mask is None else mask
    return max(x[there == 1].max().item() for x in moved)


def in_steps(model, ids):
    """The logits of tokens that are read one by one: a gated delta rule is computed in another way then."""
    cache, logits = None, []
    for i in range(ids.shape[1]):
        out = model(ids[:, i : i + 1], cache=cache, use_cache=True)
        cache = out.cache
        logits.append(out.logits)
    return torch.cat(logits, 1)


def expect(name, model, seed):
    """The tensors of expected.safetensors."""
    config = model.config.get_text_config()
    generator = torch.Generator().manual_seed(seed + 1000)

    def ids(*shape):
        return torch.randint(4, config.vocab_size, shape, generator=generator)

    gaps = []
    hooks = watch(model, gaps)
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
    assert (alone - e["padded_logits"][1:, 7:]).abs().max() < 1e-4, f"{name}: padding changes what follows it"
    counted = model(**padded).logits[e["attention_mask"] == 1]
    assert (counted - e["padded_logits"][e["attention_mask"] == 1]).abs().max() < 1e-4, f"{name}: positions of padding"
    error = (in_steps(model, e["input_ids"]) - e["logits"]).abs().max().item()
    assert error < MAX_ERROR, f"{name}: in steps the logits differ by {error}"
    moved = max(shift(model, e["input_ids"]), shift(model, e["padded_ids"], e["attention_mask"]))
    assert moved < MAX_SHIFT, f"{name}: it is ill-conditioned, {moved}"
    e["greedy"], gap = greedy(model, e["prompt"], False)
    cached, cached_gap = greedy(model, e["prompt"], True)
    assert min(gap, cached_gap) > MIN_GAP, f"{name}: a close call, {gap} {cached_gap}"
    assert e["greedy"].equal(cached), f"{name}: the cache"
    tokens = set(e["greedy"].tolist())
    assert len(tokens) > 20, f"{name}: it repeats itself, {len(tokens)}"
    ends = {config.eos_token_id} if name != "gemma4-a" else {0, 1, 2, 3}  # There the others are of images, videos and sounds.
    assert not ends & tokens, f"{name}: it ends"
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
    last = model.config.get_text_config().num_hidden_layers - 1
    for key, parameter in parameters(model):
        if key.startswith(UNUSED) or key.endswith(f"layers.{last}.layer_scalar"):  # A norm follows the last scalar.
            continue
        for part in parameter.data if key.split(".")[-2] == "experts" else [parameter.data]:
            kept = part.clone()
            part.fill_(neutral(key, model.config.get_text_config()))
            change = (model(e["input_ids"], use_cache=False).logits - e["logits"]).abs().max().item()
            part.copy_(kept)
            assert change > 0.05, f"{name}: {key} changes the logits by {change}"


def others(text):
    """Configurations that differ in one option: what it is, and fields to change. `text` is the one of text as a dict."""
    if text["rms_norm_eps"] > 1e-3:
        yield "rms_norm_eps", {"rms_norm_eps": text["rms_norm_eps"] / 10}
    if "hidden_act" in text and text["model_type"] != "gpt_oss":
        yield "hidden_act", {"hidden_act": "gelu"}
    if "hidden_activation" in text:
        yield "hidden_activation", {"hidden_activation": "silu"}
    if "norm_topk_prob" in text:
        yield "norm_topk_prob", {"norm_topk_prob": not text["norm_topk_prob"]}
    for field in "num_experts_per_tok", "top_k_experts":
        if text.get(field):
            yield field, {field: text[field] - 1}
    if text.get("final_logit_softcapping"):
        yield "final_logit_softcapping", {"final_logit_softcapping": None}
    if text.get("linear_num_key_heads", 1) > 1:
        # Half the heads of twice the width have the same shapes.
        heads, width = text["linear_num_key_heads"], text["linear_key_head_dim"]
        yield "linear_num_key_heads", {"linear_num_key_heads": heads // 2, "linear_key_head_dim": width * 2}
    for field in "sliding_window", "swiglu_alpha", "swiglu_limit":
        if text.get(field) not in (None, 7.0):
            yield field, {field: 1.2 * text[field] if field.startswith("swiglu") else text[field] + 1}
    if SLIDING in text["layer_types"] and text["model_type"] != "gemma4_text":
        for i, kind in enumerate(text["layer_types"]):
            changed = [*text["layer_types"]]
            changed[i] = FULL if kind == SLIDING else SLIDING
            yield f"layer_types[{i}]", {"layer_types": changed}
    if "linear_allow_neg_eigval" in text:
        yield "linear_allow_neg_eigval", {"linear_allow_neg_eigval": not text["linear_allow_neg_eigval"]}
    ropes = text["rope_parameters"]
    for kind, rope in ropes.items() if FULL in ropes else [("all", ropes)]:
        for key, x in rope.items():
            if x is None:
                changed = rope | {key: 100.0}
            elif key == "rope_type":
                changed = plain(rope["rope_theta"]) | {k: y for k, y in rope.items() if k == "partial_rotary_factor"}
                if x == "default":
                    continue
            elif key == "partial_rotary_factor":
                changed = rope | {key: 1.0 if x < 1.0 else 0.5}
            elif key.startswith("mrope_"):
                continue
            elif key == "truncate":
                changed = rope | {key: not x}
            else:
                changed = rope | {key: 4 * x if isinstance(x, int) else 1.5 * x}
            yield f"{key} of rope, {kind}", {"rope_parameters": changed if kind == "all" else ropes | {kind: changed}}


def quiet(text):
    """Configurations that differ in a field that is not read, or that has no influence on the values."""
    if text["model_type"] == "qwen3_next" and text["decoder_sparse_step"] == 1 and not text["mlp_only_layers"]:
        yield "intermediate_size", {"intermediate_size": text["intermediate_size"] + 1}
    if text["model_type"].startswith("qwen3"):
        yield "full_attention_interval", {"full_attention_interval": 1}
        yield "partial_rotary_factor", {"partial_rotary_factor": 1.0}
        yield "attn_output_gate", {"attn_output_gate": False}
        yield "use_sliding_window", {"use_sliding_window": True, "sliding_window": 3}
    if text["model_type"].startswith("qwen3_5"):
        yield "fields of experts", {"norm_topk_prob": False, "mlp_only_layers": [0], "decoder_sparse_step": 2}
        for section in [3, 2, 1], [0, 0, 0], None:
            rope = text["rope_parameters"] | {"mrope_section": section, "mrope_interleaved": False}
            if section is None:
                rope.pop("mrope_section")
            yield f"mrope_section {section}", {"rope_parameters": rope}
    if text["model_type"] == "gpt_oss":
        yield "hidden_act", {"hidden_act": "gelu"}
    if text["model_type"] == "gemma4_text":
        yield "use_bidirectional_attention", {"use_bidirectional_attention": "vision"}
        yield "global heads", {"global_head_dim": 4, "num_global_key_value_heads": 3}
        yield "fields of others", {"attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 3, "hidden_act": "relu"}
        if not text["enable_moe_block"]:
            yield "fields of experts", {"num_experts": 3, "top_k_experts": 1, "moe_intermediate_size": 5}
        if not text["hidden_size_per_layer_input"]:
            yield "vocab_size_per_layer_input", {"vocab_size_per_layer_input": 5}
        if not text["num_kv_shared_layers"]:
            yield "use_double_wide_mlp", {"use_double_wide_mlp": True}
        for kind, rope in text["rope_parameters"].items():
            if rope["rope_type"] == "default":
                ropes = text["rope_parameters"] | {kind: rope | {"partial_rotary_factor": 0.5}}
                yield f"partial_rotary_factor, {kind}", {"rope_parameters": ropes}
    if text["model_type"] == "olmo_hybrid":
        yield "initial values", {"linear_a_log_min": 1.0, "linear_a_log_max": 2.0, "linear_dt_min": 0.1, "linear_dt_max": 0.2}
        yield "sliding_window", {"sliding_window": 3}


def prove_options(name, model, e):
    """Checks that options matter: a model with the same parameters and another option gives other logits."""
    config_class, _ = classes(name)
    composite = "text_config" in MODELS[name][2]
    fields = model.config.to_dict()
    for options, matters in (others, True), (quiet, False):
        for what, changed in options(fields["text_config"] if composite else fields):
            new = copy.deepcopy(fields)
            (new["text_config"] if composite else new).update(copy.deepcopy(changed))
            other = construct(name, config_class.from_dict(new))
            other.load_state_dict(model.state_dict())
            change = (other(e["input_ids"], use_cache=False).logits - e["logits"]).abs().max().item()
            assert change > 0.02 if matters else change < 1e-4, f"{name}: {what} changes the logits by {change}"


def older(name, config):
    """The fields of config.json as configurations on the Hub have them."""
    config["transformers_version"] = "4.57.3"
    if name.startswith("gemma4"):
        config["transformers_version"] = "5.5.0"
        text = config.get("text_config", config)
        overrides = next(iter(text.pop("per_layer_config").values()))
        text["global_head_dim"] = overrides["head_dim"]
        text["num_global_key_value_heads"] = overrides.get("num_key_value_heads")
        text["use_bidirectional_attention"] = "vision" if text["enable_moe_block"] else None
        return config
    if "text_config" in config:
        text = config["text_config"] | {
            "dtype": config.pop("dtype"), "attn_output_gate": True, "full_attention_interval": 2, "mlp_only_layers": [],
            "mamba_ssm_dtype": "float32", "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False,
        }  # fmt: skip
        text["partial_rotary_factor"] = text["rope_parameters"]["partial_rotary_factor"]
        text.pop("pad_token_id")
        text.pop("bos_token_id")
        vision = config["vision_config"] | {"deepstack_visual_indexes": [], "model_type": config["model_type"]}
        vision.pop("rope_parameters")
        return config | {"text_config": text, "vision_config": vision}
    config["torch_dtype"] = config.pop("dtype")
    if name == "qwen3_next-a":
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = None
        config["partial_rotary_factor"] = rope["partial_rotary_factor"]
        config.pop("layer_types")
        config["full_attention_interval"] = 3
        config["use_sliding_window"] = False
    if name == "olmo_hybrid-a":
        # Without fields whose defaults these are, too.
        for field in "key_head_dim", "value_head_dim", "num_key_heads", "num_value_heads", "a_log_min", "a_log_max", "dt_min":
            config.pop(f"linear_{field}")
        for field in "linear_dt_max", "linear_dt_init_floor", "rope_parameters", "num_key_value_heads", "layer_types":
            config.pop(field)
        config["rope_theta"] = None
    if name.startswith("gpt_oss"):
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
        config["initial_context_length"] = rope["original_max_position_embeddings"]
        config["experts_per_token"] = config["num_experts_per_tok"]
        config.pop("swiglu_alpha")
    return config


def make_older(name, path, model, e):
    """Writes config_v4.json and checks that it is the same model."""
    old = older(name, json.loads((path / "config.json").read_text()))
    file = path / "config_v4.json"
    file.write_text(json.dumps(old, indent=2, sort_keys=True) + "\n")
    other = construct(name, classes(name)[0].from_json_file(file))
    other.load_state_dict(model.state_dict())
    assert (other(e["input_ids"], use_cache=False).logits == e["logits"]).all(), f"{name}: config_v4.json"


def unused(config, seed):
    """Tensors that files on the Hub have, too: some of a layer that predicts one token further, or keys and values of layers
    that use those of another."""
    generator = torch.Generator().manual_seed(seed + 2000)
    d = config.hidden_size
    if config.model_type == "gemma4_text":
        shapes = {}
        for i in range(config.num_hidden_layers - config.num_kv_shared_layers, config.num_hidden_layers):
            layer, h = f"model.language_model.layers.{i}.self_attn", config.per_layer_config[i].head_dim
            shapes |= {f"{layer}.k_proj.weight": (h, d), f"{layer}.v_proj.weight": (h, d), f"{layer}.k_norm.weight": (h,)}
    else:
        shapes = {
            "mtp.fc.weight": (d, 2 * d), "mtp.layers.0.input_layernorm.weight": (d,),
            "mtp.layers.0.self_attn.k_proj.weight": (config.num_key_value_heads * config.head_dim, d),
            "mtp.norm.weight": (d,), "mtp.pre_fc_norm_embedding.weight": (d,), "mtp.pre_fc_norm_hidden.weight": (d,),
        }  # fmt: skip
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def make_hub(name, path, model, seed):
    """Writes model_hub.safetensors and checks that it is the same model."""
    config, tensors = model.config.get_text_config(), {}
    for key, x in model.state_dict().items():
        layer, part = ".".join(key.split(".")[:3]), key.split(".")[3:]
        if key == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if config.model_type != "olmo_hybrid":
            tensors[key] = x
        elif part[-2:] == ["conv1d", "weight"]:
            keys = config.linear_num_key_heads * config.linear_key_head_dim
            for which, y in zip("qkv", x.split([keys, keys, len(x) - 2 * keys])):
                tensors[f"{layer}.linear_attn.{which}_conv1d.weight"] = y
        elif f"{layer}.linear_attn.A_log" in model.state_dict():
            names = {"input_layernorm": "attention_layer_norm", "post_attention_layernorm": "feedforward_layer_norm"}
            tensors[".".join([layer, *(names.get(y, y) for y in part)])] = x
        else:
            tensors[key] = x
    if config.model_type == "qwen3_5_moe_text":
        tensors |= unused(config, seed)
    save(path / "model_hub.safetensors", tensors, {"format": "pt"})
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path / "config.json", folder)
        shutil.copy(path / "model_hub.safetensors", f"{folder}/model.safetensors")
        got = load(name, folder, dtype=torch.float32).state_dict()
    wanted = model.state_dict()
    assert wanted.keys() == got.keys() and all(x.equal(wanted[k]) for k, x in got.items()), f"{name}: model_hub.safetensors"
    ours = safetensors.torch.load_file(path / "model.safetensors")
    assert any(k not in ours or x.shape != ours[k].shape for k, x in tensors.items() if not k.startswith("mtp.")), name


FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def to_mxfp4(x):
    """Codes of the nearest values, two in a byte, and exponents, one for 32 inputs, of matrices [experts, inputs, outputs]."""
    x = x.transpose(1, 2).unflatten(2, (-1, 32))
    exponents = x.abs().amax(-1).log2().floor() - 2.0
    y = x * torch.exp2(-exponents)[..., None]
    codes = (y.abs()[..., None] - torch.tensor(FP4)).abs().argmin(-1) + 8 * (y < 0)
    return (codes[..., ::2] + 16 * codes[..., 1::2]).to(torch.uint8), (exponents + 127).to(torch.uint8)


def from_mxfp4(blocks, scales):
    """The matrices [experts, inputs, outputs]."""
    codes = torch.stack([blocks % 16, blocks // 16], -1).flatten(-2).int()
    values = torch.tensor(FP4)[codes % 8] * (1 - codes // 8 * 2)
    return (values * torch.exp2(scales.float() - 127)[..., None]).flatten(2).transpose(1, 2)


def save_mxfp4(name, source, path):
    """Saves the model as those on the Hub are. Changes its weights to what they are then."""
    tensors = {}
    for key, x in source.state_dict().items():
        if key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            blocks, scales = tensors[f"{key}_blocks"], tensors[f"{key}_scales"] = to_mxfp4(x)
            assert blocks.shape == (*x.mT.shape[:2], x.shape[1] // 32, 16) and scales.shape == blocks.shape[:3]
            assert len({*(blocks % 16).flatten().tolist()}) == len({*(blocks // 16).flatten().tolist()}) == 16
            assert len(scales.unique()) > 1
            x.copy_(from_mxfp4(blocks, scales))
        else:
            tensors[key] = x.to(torch.bfloat16)
            x.copy_(tensors[key])
    save(path / "model.safetensors", tensors, {"format": "pt"})
    file = path / "config.json"
    config = older(name, json.loads(file.read_text()))
    config.pop("torch_dtype")
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config["quantization_config"] = {"modules_to_not_convert": kept, "quant_method": "mxfp4"}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make(name):
    """Saves the model, loads it again, and saves its outputs."""
    source, path, seed = build(name), fresh(name), MODELS[name][1]
    source.save_pretrained(path)
    if name.endswith("-mxfp4"):
        save_mxfp4(name, source, path)
    if name in MORE:
        file = path / "model.safetensors"
        more = unused(source.config.get_text_config(), seed)
        save(file, safetensors.torch.load_file(file) | more, {"format": "pt"})
    model = load(name, path, dtype=torch.float32)
    wanted, got = source.state_dict(), model.state_dict()
    assert wanted.keys() == got.keys() and all(x.dtype == torch.float32 and x.equal(wanted[k]) for k, x in got.items())
    e = expect(name, model, seed)
    assert (e["logits"] == source(e["input_ids"], use_cache=False).logits).all(), f"{name}: loaded, it is another"
    prove(name, model, e)
    prove_options(name, model, e)
    metadata = {"made_by": "experts.py", "torch": torch.__version__.split("+")[0], "seed": str(seed)}
    save(path / "expected.safetensors", e, metadata | {"transformers": transformers.__version__})
    if name in HUB:
        make_hub(name, path, model, seed)
    if name in V4:
        make_older(name, path, model, e)
    assert sum(file.stat().st_size for file in path.iterdir()) < 300_000, f"{name}: it is large"


@torch.no_grad()
def main(names):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    assert not any(map(importlib.util.find_spec, ("causal_conv1d", "kernels"))), "kernels"
    for name in names or MODELS:
        make(name)


if __name__ == "__main__":
    main(sys.argv[1:])
