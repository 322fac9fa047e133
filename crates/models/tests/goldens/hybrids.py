"""Makes the goldens of transformers' hybrid decoders: small random checkpoints and their outputs.

    pip install torch==2.15.0 transformers==5.24.0 safetensors
    python hybrids.py [NAME ...]

It writes next to itself, for each type, the folders TYPE-a, TYPE-b and so on, whose options differ: config.json,
generation_config.json and model.safetensors as `save_pretrained` writes them, and expected.safetensors with

    input_ids          i64 [2, 45]         random tokens
    logits             f32 [2, 45, vocab]  for those tokens
    last_hidden_state  f32 [2, 45, hidden] what the base model returns: the residual stream after the final norm
    padded_ids         i64 [2, 20]         the second row begins with seven tokens of padding
    attention_mask     i64 [2, 20]         zero there
    padded_logits      f32 [2, 20, vocab]  for those, at every position, padding too
    prompt             i64 [1, 12]
    greedy             i64 [64]            the tokens that follow it, each from a forward pass over all before it

    types    jamba, bamba, granitemoehybrid, nemotron_h, lfm2, falcon_h1, recurrent_gemma, lfm2_moe, zamba2, minimax,
             kimi_linear, bailing_hybrid, lfm3

Some folders have a second configuration, config_v4.json, with the fields and names that configurations on the Hub have. The
script checks that transformers makes the same model of it. Where tensors on the Hub have other names than `save_pretrained`
gives them, a folder has the folder hub, too: that configuration, and the tensors with those names. The script checks that
transformers loads the same model from it.

The positions of padded_ids are given to the model: the number of tokens before each that are not padding, 0 at padding. In
layers with a state the input of in_proj is set to zero at padding, and the output of the convolution, too. If in_proj has a
bias, the convolution of the first tokens after the padding reads that bias, where a sequence without padding has zeros: what
is computed for them depends on the padding. The script checks that it does in the folders with such a bias, `leaks`, and that
it does not in the others. In layers of attention a token at padding sees no key, so all of its scores are the least float32,
and transformers gives the mean of all twenty values to it, those after it included.

recurrent_gemma does not read the mask in its layers with a state. They begin anew at position 0, so that only the convolution
of the first tokens reads the padding before them; with positions that count the padding, too, the state reads all of it.

The limits of the step, `time_step_limit` in bamba, granitemoehybrid and falcon_h1 and from `time_step_min` up in nemotron_h
and zamba2, are for a pass over many tokens. transformers does not limit the step of a single token with a cache, so there
`generate` with a cache computes something else; it is not used here.

Everything is computed in float32 on one thread of a CPU, in evaluation mode, with the implementations of attention and of the
experts that are named "eager", and without kernels. Parameters are random around their usual values, norms, biases, `D`,
`dt_bias` and `A_log` too, and the script checks that each of them matters; that each option matters, see `others`, and that
some do not, see `quiet`; that the logits spread; that rounding matters little, see `condition`; and that no greedy token and
no choice of experts is a close call. Loading a folder must give the model that was saved.

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

from decoders import fresh, greedy, is_norm, save

MIN_GAP, MIN_ROUTER_GAP, MAX_NOISE = 2e-3, 5e-4, 1e-4

TOKENS_A = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
TOKENS_B = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
MAMBA, FULL, SLIDING = "linear_attention", "full_attention", "sliding_attention"
CONV, HYBRID, MLP, MOE = "conv", "hybrid", "mlp", "moe"

DECAYS = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")  # They are saved, but follow from the options.
MULTIPLIERS = (
    "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling", "lm_head_multiplier",
    "key_multiplier", "attention_in_multiplier", "attention_out_multiplier", "ssm_in_multiplier", "ssm_out_multiplier",
    "mlp_multipliers", "ssm_multipliers", "full_attn_alpha_factor", "full_attn_beta_factor", "linear_attn_alpha_factor",
    "linear_attn_beta_factor", "mlp_alpha_factor", "mlp_beta_factor",
)  # fmt: skip


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
    "granitemoehybrid-c": ("GraniteMoeHybrid", 22, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 10, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "num_local_experts": 6, "num_experts_per_tok": 3,
        "shared_intermediate_size": 18, "position_embedding_type": "nope", "layer_types": [MAMBA, MAMBA, FULL, MAMBA],
        "embedding_multiplier": 1.6, "residual_multiplier": 1.4, "attention_multiplier": 0.7, "logits_scaling": 0.6,
        "mamba_n_heads": 4, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2,
        "mamba_chunk_size": 16, "tie_word_embeddings": True,
    }),
    "granitemoehybrid-d": ("GraniteMoeHybrid", 5, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 32, "intermediate_size": 14, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 256, "num_local_experts": 4,
        "num_experts_per_tok": 1, "shared_intermediate_size": 12, "position_embedding_type": "rope",
        "layer_types": [FULL, MAMBA, MAMBA], "embedding_multiplier": 3.0, "residual_multiplier": 0.7,
        "attention_multiplier": 0.25, "logits_scaling": 1.4, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 2,
        "mamba_d_state": 6, "mamba_d_conv": 3, "mamba_expand": 1, "mamba_chunk_size": 10, "mamba_conv_bias": False,
        "mamba_proj_bias": True, "attention_bias": True, "time_step_limit": [0.02, 0.4], "rms_norm_eps": 2e-2,
        "tie_word_embeddings": False, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0,
            "original_max_position_embeddings": 16,
        },
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
    "nemotron_h-c": ("NemotronH", 12, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 20, "layers_block_type": [MAMBA, MOE, FULL, MLP, MAMBA, MOE],
        "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10, "max_position_embeddings": 128,
        "mamba_num_heads": 4, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 8, "conv_kernel": 4, "chunk_size": 16,
        "use_conv_bias": True, "mlp_bias": True, "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
        "moe_shared_expert_intermediate_size": 18, "moe_latent_size": 14, "routed_scaling_factor": 2.5,
    }),
    "nemotron_h-d": ("NemotronH", 45, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 28, "layers_block_type": [MOE, FULL, MAMBA, MOE, MAMBA], "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "mamba_num_heads": 6, "mamba_head_dim": 6,
        "n_groups": 3, "ssm_state_size": 6, "conv_kernel": 3, "chunk_size": 10, "use_conv_bias": False, "use_bias": True,
        "mlp_hidden_act": "gelu", "n_routed_experts": 9, "num_experts_per_tok": 3, "moe_intermediate_size": 10,
        "moe_shared_expert_intermediate_size": 16, "n_group": 3, "topk_group": 2, "norm_topk_prob": False,
        "routed_scaling_factor": 1.6, "layer_norm_epsilon": 2e-2,
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
    "falcon_h1-a": ("FalconH1", 3, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 3,
        "num_key_value_heads": 1, "max_position_embeddings": 128, "mamba_d_ssm": 40, "mamba_n_heads": 4, "mamba_n_groups": 1,
        "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_chunk_size": 16, "mamba_norm_before_gate": False,
        "embedding_multiplier": 2.5, "lm_head_multiplier": 0.4, "key_multiplier": 0.6, "attention_in_multiplier": 1.2,
        "attention_out_multiplier": 0.7, "ssm_in_multiplier": 1.3, "ssm_out_multiplier": 0.6, "mlp_multipliers": [0.8, 0.5],
        "ssm_multipliers": [0.6, 1.4, 0.7, 1.3, 0.5],
    }),
    "falcon_h1-b": ("FalconH1", 4, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 32, "intermediate_size": 28, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 256, "mamba_d_ssm": None, "mamba_expand": 1,
        "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 6, "mamba_d_conv": 3,
        "mamba_chunk_size": 10, "mamba_conv_bias": False, "mamba_proj_bias": True, "projectors_bias": True,
        "mamba_rms_norm": True, "mamba_norm_before_gate": True, "attention_bias": True, "mlp_bias": True,
        "time_step_limit": [0.02, 0.3], "rms_norm_eps": 2e-2, "tie_word_embeddings": True, "rope_parameters": plain(500.0),
        "key_multiplier": 1.5, "ssm_multipliers": [1.2, 0.8, 1.5, 0.7, 1.6], "mlp_multipliers": [1.4, 0.8],
    }),
    "falcon_h1-c": ("FalconH1", 1, TOKENS_B | {
        "vocab_size": 71, "hidden_size": 24, "intermediate_size": 30, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "mamba_d_ssm": 24, "mamba_n_heads": 6, "mamba_n_groups": 2,
        "mamba_d_state": 5, "mamba_d_conv": 4, "mamba_chunk_size": 10, "projectors_bias": True, "mamba_rms_norm": True,
        "mamba_norm_before_gate": False, "rms_norm_eps": 2e-2, "ssm_in_multiplier": 0.8, "ssm_out_multiplier": 1.2,
    }),
    "recurrent_gemma-a": ("RecurrentGemma", 8, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 3,
        "num_key_value_heads": 1, "attention_window_size": 7, "conv1d_width": 4,
    }),
    "recurrent_gemma-b": ("RecurrentGemma", 17, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 28, "intermediate_size": 61, "num_hidden_layers": 5, "num_attention_heads": 2,
        "lru_width": 36, "attention_window_size": 5, "conv1d_width": 3, "block_types": ["attention", "recurrent"],
        "hidden_activation": "gelu", "logits_soft_cap": 2.5, "attention_bias": True, "rms_norm_eps": 2e-2,
        "tie_word_embeddings": False, "rope_parameters": plain(500.0) | {"partial_rotary_factor": 1.0},
    }),
    "lfm2_moe-a": ("Lfm2Moe", 4, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 40, "moe_intermediate_size": 12, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "num_dense_layers": 1,
        "layer_types": [CONV, CONV, FULL, CONV], "num_experts": 5, "num_experts_per_tok": 2, "conv_L_cache": 3,
    }),
    "lfm2_moe-b": ("Lfm2Moe", 21, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 24, "moe_intermediate_size": 10, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 256, "num_dense_layers": 0,
        "layer_types": [FULL, CONV, CONV, FULL], "num_experts": 4, "num_experts_per_tok": 3, "conv_L_cache": 4,
        "conv_bias": True, "use_expert_bias": False, "norm_topk_prob": False, "routed_scaling_factor": 1.4, "norm_eps": 2e-2,
        "tie_word_embeddings": False, "rope_parameters": plain(500.0),
    }),
    "zamba2-a": ("Zamba2", 1, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 30, "num_hidden_layers": 4, "num_attention_heads": 4,
        "max_position_embeddings": 128, "layers_block_type": [MAMBA, HYBRID, HYBRID, HYBRID], "num_mem_blocks": 2,
        "use_shared_attention_adapter": True, "adapter_rank": 3, "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2,
        "n_mamba_heads": 4, "chunk_size": 16,
    }),
    "zamba2-b": ("Zamba2", 20, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 28, "intermediate_size": 26, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 256, "layers_block_type": [HYBRID, MAMBA, HYBRID],
        "adapter_rank": 4, "use_mem_rope": True, "hidden_act": "silu", "add_bias_linear": True, "mamba_d_state": 6,
        "mamba_d_conv": 3, "mamba_expand": 1, "n_mamba_heads": 4, "mamba_ngroups": 2, "chunk_size": 10, "time_step_min": 0.05,
        "rms_norm_eps": 2e-2, "rope_parameters": plain(500.0),
    }),
    "minimax-a": ("MiniMax", 12, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 12, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "num_local_experts": 4, "num_experts_per_tok": 2,
        "layer_types": [MAMBA, MAMBA, MAMBA, FULL], "block_size": 16, "full_attn_alpha_factor": 1.5,
        "linear_attn_alpha_factor": 1.5, "mlp_alpha_factor": 1.5,
    }),
    "minimax-b": ("MiniMax", 38, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 28, "intermediate_size": 10, "num_hidden_layers": 3, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 256, "num_local_experts": 5,
        "num_experts_per_tok": 3, "sliding_window": 7, "hidden_act": "gelu", "block_size": 10, "full_attn_alpha_factor": 1.2,
        "full_attn_beta_factor": 0.8, "linear_attn_alpha_factor": 0.7, "linear_attn_beta_factor": 1.4,
        "mlp_alpha_factor": 0.6, "mlp_beta_factor": 1.3, "rms_norm_eps": 2e-2, "tie_word_embeddings": True,
        "rope_parameters": plain(500.0),
    }),
    "kimi_linear-a": ("KimiLinear", 60, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 36, "moe_intermediate_size": 10, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128, "kv_lora_rank": 14,
        "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 8, "num_experts": 5, "num_experts_per_tok": 2,
        "layer_types": [MAMBA, FULL, MAMBA], "linear_head_dim": 8, "linear_num_heads": 3,
    }),
    "kimi_linear-b": ("KimiLinear", 36, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 28, "intermediate_size": 30, "moe_intermediate_size": 8, "num_hidden_layers": 3,
        "num_attention_heads": 3, "num_key_value_heads": 3, "max_position_embeddings": 256, "q_lora_rank": 10,
        "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 5, "num_experts": 6,
        "num_experts_per_tok": 3, "n_shared_experts": 2, "n_group": 3, "topk_group": 2, "norm_topk_prob": False,
        "routed_scaling_factor": 0.8, "layer_types": [FULL, MAMBA, FULL], "mlp_layer_types": ["sparse", "dense", "sparse"],
        "linear_head_dim": 10, "linear_num_heads": 2, "linear_conv_kernel_dim": 3, "attention_bias": True,
        "rms_norm_eps": 2e-2,
    }),
    "bailing_hybrid-a": ("BailingHybrid", 17, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 36, "moe_intermediate_size": 10, "num_hidden_layers": 3,
        "num_attention_heads": 3, "num_key_value_heads": 3, "max_position_embeddings": 128, "kv_lora_rank": 14,
        "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 8, "num_experts": 6, "num_experts_per_tok": 2,
        "n_group": 2, "topk_group": 1, "layer_group_size": 2, "first_k_dense_replace": 1, "head_dim": 8,
        "kda_lower_bound": -4.0, "rope_theta": 10000.0,
    }),
    "bailing_hybrid-b": ("BailingHybrid", 6, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 28, "intermediate_size": 30, "moe_intermediate_size": 8, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256, "q_lora_rank": 10,
        "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 5, "num_experts": 5,
        "num_experts_per_tok": 3, "n_shared_experts": 2, "n_group": 1, "topk_group": 1, "norm_topk_prob": False,
        "routed_scaling_factor": 0.8, "layer_types": [FULL, MAMBA, MAMBA, FULL],
        "mlp_layer_types": ["sparse", "dense", "sparse", "dense"], "head_dim": 9, "short_conv_kernel_size": 3,
        "kda_safe_gate": False, "attention_bias": True, "rms_norm_eps": 2e-2, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 100.0, "factor": 8.0, "original_max_position_embeddings": 16, "mscale": 1.0,
            "mscale_all_dim": 0.6,
        },
    }),
    "lfm3-a": ("Lfm3", 1, TOKENS_A | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 6, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 128, "sliding_window": 7,
    }),
    "lfm3-b": ("Lfm3", 1, TOKENS_B | {
        "vocab_size": 73, "hidden_size": 28, "intermediate_size": 30, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "sliding_window": 5,
        "layer_types": [FULL, CONV, SLIDING, CONV], "conv_L_cache": 4, "conv_bias": True, "attention_bias": True,
        "use_sandwich_norm": False, "use_attention_gate": False, "norm_eps": 2e-2, "tie_word_embeddings": False,
        "rope_parameters": {
            FULL: {"rope_type": "proportional", "rope_theta": 400.0, "partial_rotary_factor": 0.75, "factor": 2.0},
            SLIDING: plain(50.0),
        },
    }),
}  # fmt: skip

# Those with a configuration as on the Hub, too.
OLDER = (
    "bamba-a", "granitemoehybrid-a", "granitemoehybrid-c", "nemotron_h-a", "nemotron_h-c", "nemotron_h-d", "lfm2-b",
    "falcon_h1-a", "recurrent_gemma-a", "lfm2_moe-a", "zamba2-a", "minimax-a", "kimi_linear-a", "bailing_hybrid-a", "lfm3-a",
)  # fmt: skip
# Those with tensors named as on the Hub, too, where `save_pretrained` names them otherwise.
HUB = ("kimi_linear-a", "bailing_hybrid-a")


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
    if part[-1] in ("e_score_correction_bias", "expert_bias"):
        return 0.15 * r
    if part[-1] == "recurrent_param":
        # The root of a uniform decay, at a gate of 1/8.
        decay = 0.81 + 0.188 * torch.rand(like.shape, generator=generator)
        return torch.log(torch.expm1(-0.5 * torch.log(decay)))
    if part[-1] == "D" or is_norm(name):
        return (0.0 if config.model_type == "recurrent_gemma" else 1.0) + 0.3 * r  # Gemma adds 1 to them.
    if part[-1].endswith("bias"):
        return 0.3 * r
    if part[-2] in ("conv", "conv1d", "conv_1d") or part[-1].endswith("gate_weight"):
        return r * scale
    scaling = getattr(config, "logits_scaling", 1.0) / getattr(config, "lm_head_multiplier", 1.0)
    if part[-2] in ("embed_tokens", "embeddings"):
        if config.model_type == "recurrent_gemma":  # It multiplies them by the square root of their size.
            return r * (1.2 if config.tie_word_embeddings else 0.7) * scale
        # Tied, they are lm_head, too.
        return r * (1.7 * scale * scaling if config.tie_word_embeddings else 0.7 / getattr(config, "embedding_multiplier", 1.0))
    if config.model_type == "zamba2" and part[-2] in ("q_proj", "k_proj"):
        return 0.5 * r * scale  # Its heads are twice as wide, and its scores are divided by less.
    gain = {
        "in_proj": 1.2, "x_proj": 1.0, "dt_proj": 1.0, "out_proj": 1.5, "q_proj": 1.4, "k_proj": 1.4, "v_proj": 1.4,
        "o_proj": 1.2, "gate_proj": 1.4, "up_proj": 1.4, "gate_up_proj": 1.4, "down_proj": 1.8, "input_linear": 1.4,
        "output_linear": 1.8, "w1": 1.4, "w3": 1.4, "w2": 1.8, "router": 1.5, "gate": 1.5, "fc1_latent_proj": 1.2,
        "fc2_latent_proj": 1.4, "linear_x": 1.4, "linear_y": 1.4, "linear_out": 1.8, "linear": 0.25, "0": 1.0, "1": 0.7,
        "qkv_proj": 1.6, "output_gate": 1.4, "f_proj": 1.2, "f_a_proj": 1.2, "f_b_proj": 1.2, "b_proj": 1.4, "g_proj": 1.4,
        "g_a_proj": 1.2, "g_b_proj": 1.4, "q_a_proj": 1.2, "q_b_proj": 1.4, "kv_a_proj_with_mqa": 1.4, "kv_b_proj": 1.4,
        "lm_head": 2.0 * scaling,
    }[part[-1] if part[-2] == "experts" else part[-2]]  # fmt: skip
    return r * gain * scale


def random(model):
    """What a checkpoint holds, each once: the parameters, and the biases of routers, which are buffers."""
    return [*model.named_parameters(), *(item for item in model.named_buffers() if item[0].endswith("bias"))]


def build(name):
    """The model, with parameters drawn from its seed."""
    _, seed, fields = MODELS[name]
    model = construct(name, classes(name)[0](**copy.deepcopy(fields)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in random(model):
            parameter.copy_(value(key, parameter, model.config, generator))
    return model


def leaks(config):
    """Whether tokens after padding read it through a convolution: the bias of in_proj, or all of it in recurrent_gemma."""
    field = {
        "nemotron_h": "use_bias", "lfm2": "conv_bias", "lfm2_moe": "conv_bias", "lfm3": "conv_bias",
        "zamba2": "add_bias_linear",
    }.get(config.model_type, "mamba_proj_bias")  # fmt: skip
    return config.model_type == "recurrent_gemma" or getattr(config, field, False)


def limits(config):
    """Whether the step of a pass over many tokens is limited."""
    if config.model_type in ("nemotron_h", "zamba2"):
        return config.time_step_min > 1e-3
    return getattr(config, "time_step_limit", (0.0, math.inf))[1] < math.inf


def watch_routers(model, gaps):
    """Collects the margins between the last expert, or the last group of them, that is chosen and the first that is not."""

    def margin(scores, chosen):
        best = scores.topk(chosen + 1).values
        gaps.append((best[:, -2] - best[:, -1]).min().item())

    def see(router, inputs, output):
        scores = output[0]
        if hasattr(router, "use_expert_bias"):
            scores = scores.sigmoid() + (inputs[1] if router.use_expert_bias else 0.0)
        if hasattr(router, "e_score_correction_bias"):
            scores = scores.sigmoid() + router.e_score_correction_bias
            if router.num_group > 1:
                groups = scores.unflatten(-1, (router.num_group, -1))
                best = groups.topk(2).values.sum(-1)
                margin(best, router.topk_group)
                left_out = best < best.topk(router.topk_group).values[:, -1:]
                scores = groups.masked_fill(left_out[..., None], -math.inf).flatten(1)
        margin(scores, router.top_k)

    routers = [m for m in model.modules() if type(m).__name__.lower().endswith("topkrouter")]
    assert bool(routers) == (experts(model.config.to_dict()) > 1), type(model).__name__
    return [router.register_forward_hook(see) for router in routers]


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
    change = (counted - e["padded_logits"][e["attention_mask"] == 1]).abs().max().item()
    if config.model_type == "recurrent_gemma":
        assert change > 0.05, f"{name}: other positions of padding change the logits by {change}"
    else:
        assert change < 1e-4, f"{name}: other positions of padding change the logits by {change}"
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


def condition(name, model, e):
    """Checks that rounding matters little: with weights that are off by 1e-7 of themselves the logits are the same."""
    positions = (e["attention_mask"].cumsum(1) - 1).clamp(min=0)
    there = e["attention_mask"] == 1
    for seed in range(3):
        generator, other = torch.Generator().manual_seed(seed), copy.deepcopy(model)
        for _, x in random(other):
            x.mul_(1.0 + 1e-7 * torch.randn(x.shape, generator=generator))
        change = (other(e["input_ids"], use_cache=False).logits - e["logits"]).abs().max().item()
        padded = {"input_ids": e["padded_ids"], "attention_mask": e["attention_mask"], "position_ids": positions}
        change = max(change, (other(**padded, use_cache=False).logits - e["padded_logits"])[there].abs().max().item())
        assert change < MAX_NOISE, f"{name}: rounding changes the logits by {change}"


def prove(name, model, e):
    """Checks that each parameter matters: without it the logits differ. Of experts, each of them."""
    for key, parameter in random(model):
        for part in parameter.data if key.split(".")[-2] == "experts" else [parameter.data]:
            kept = part.clone()
            # For a norm or a D, remove the noise; for any other parameter, the value.
            usual = 0.0 if model.config.model_type == "recurrent_gemma" else 1.0
            part.fill_(usual if key.endswith(".D") or (is_norm(key) and key.endswith("weight")) else 0.0)
            change = (model(e["input_ids"], use_cache=False).logits - e["logits"]).abs().max().item()
            part.copy_(kept)
            assert change > 0.05, f"{name}: {key} changes the logits by {change}"
    if model.config.model_type == "recurrent_gemma":
        kept = model.model.normalizer
        model.model.normalizer = torch.tensor(model.config.hidden_size**0.5)
        change = (model(e["input_ids"], use_cache=False).logits - e["logits"]).abs().max().item()
        model.model.normalizer = kept
        assert change > 2e-3, f"{name}: rounding of the root of the size changes the logits by {change}"


def experts(text):
    """The number of routed experts, 0 if no layer has any."""
    if text["model_type"] == "nemotron_h" and MOE not in text["layers_block_type"]:
        return 0
    return max(text.get(field) or 0 for field in ("num_experts", "num_local_experts", "n_routed_experts"))


def one_of(text, *fields):
    """The field of several names that is there."""
    return next((field for field in fields if field in text), None)


def ropes(text):
    """Configurations that differ in an option of rotary positions."""
    rope = text.get("rope_parameters")
    if not rope or text.get("position_embedding_type", "rope") != "rope" or not text.get("use_mem_rope", True):
        return
    nested = "rope_type" not in rope
    for kind, old in rope.items() if nested else [("all", rope)]:
        for key, x in old.items():
            if key == "rope_type":
                new = plain(old["rope_theta"])
                if x == "default":
                    continue
            elif key == "partial_rotary_factor":
                new = old | {key: 1.0 if x < 1.0 else 0.5}
            else:
                by = {"mscale_all_dim": 0.2, "original_max_position_embeddings": 4}.get(key, 1.5)
                new = old | {key: 20.0 if key == "rope_theta" else type(x)(by * x)}
            yield f"{key} of rope, {kind}", {"rope_parameters": rope | {kind: new} if nested else new}


def others(text):
    """Configurations that differ in one option: what it is, and fields to change."""
    for field in "rms_norm_eps", "layer_norm_epsilon", "norm_eps":
        if text.get(field, 0.0) > 1e-3:
            yield field, {field: text[field] / 10}
    for field in MULTIPLIERS:
        if isinstance(text.get(field), list):
            for i, x in enumerate(text[field]):
                if x != 1.0:
                    yield f"{field}[{i}]", {field: [*text[field][:i], 1.0, *text[field][i + 1 :]]}
        elif text.get(field, 1.0) != 1.0:
            yield field, {field: 1.0}
    if text.get("mamba_rms_norm"):
        yield "mamba_norm_before_gate", {"mamba_norm_before_gate": not text["mamba_norm_before_gate"]}
    for field in "hidden_act", "hidden_activation", "mamba_hidden_act", "mlp_hidden_act":
        if field in text:
            yield field, {field: "relu" if text[field].startswith("gelu") else "gelu"}
    for field in "mamba_n_groups", "mamba_ngroups", "n_groups":
        if (groups := text.get(field, 1)) > 1:
            # With half the groups of twice the state the shapes are the same, but not the norms.
            state = "ssm_state_size" if field == "n_groups" else "mamba_d_state"
            fewer = groups // 2 if groups % 2 == 0 else 1
            yield field, {field: fewer, state: text[state] * groups // fewer}
    for field in "sliding_window", "attention_window_size":
        if text.get(field) is not None and text["model_type"] != "nemotron_h":
            yield field, {field: 1000}
            yield field, {field: text[field] + 1}
    if experts(text) > 1:
        field = one_of(text, "num_experts_per_tok", "num_experts_per_token")
        yield field, {field: text[field] - 1 if text[field] > 1 else 2}
        if (field := one_of(text, "norm_topk_prob", "moe_renormalize")) is not None:
            yield field, {field: not text[field]}
        if text.get("routed_scaling_factor", 1.0) != 1.0:
            yield "routed_scaling_factor", {"routed_scaling_factor": 1.0}
        if (field := one_of(text, "n_group", "num_expert_group")) is not None and text[field] > 1:
            yield field, {field: 1, "topk_group": 1}
            yield "topk_group", {"topk_group": text[field]}
    if "use_mem_rope" in text:
        yield "use_mem_rope", {"use_mem_rope": not text["use_mem_rope"]}
    if "logits_soft_cap" in text:
        yield "logits_soft_cap", {"logits_soft_cap": text["logits_soft_cap"] / 2}
    if "kda_safe_gate" in text:
        yield "kda_safe_gate", {"kda_safe_gate": not text["kda_safe_gate"]}
        if text["kda_safe_gate"]:
            yield "kda_lower_bound", {"kda_lower_bound": text["kda_lower_bound"] / 2}
    if text["model_type"] in ("nemotron_h", "zamba2"):
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
    yield from ropes(text)


def quiet(text):
    """Configurations that differ in a field that is not read, or that has no influence on the values."""
    for field in "mamba_chunk_size", "chunk_size":
        if field in text:
            yield field, {field: text[field] + 3}
    if text["model_type"] in ("falcon_h1", "lfm2_moe", "minimax"):
        yield "partial_rotary_factor", {"rope_parameters": text["rope_parameters"] | {"partial_rotary_factor": 0.5}}
    if text["model_type"] == "nemotron_h":
        yield "time_step_limit", {"time_step_limit": [0.1, 0.2]}
        yield "time_step_max", {"time_step_max": 0.01}
        yield "time_step_floor", {"time_step_floor": 0.5}
        yield "biases", {"attention_bias": not text["attention_bias"], "mamba_proj_bias": not text["mamba_proj_bias"]}
        yield "expand", {"expand": text["expand"] + 1}
        yield "sliding_window", {"sliding_window": 3}
        yield "tie_word_embeddings", {"tie_word_embeddings": True}
        yield "n_shared_experts", {"n_shared_experts": 3}
        yield "moe_shared_expert_overlap", {"moe_shared_expert_overlap": False}
        if MLP not in text["layers_block_type"]:
            yield "intermediate_size", {"intermediate_size": text["intermediate_size"] + 1}
    if text["model_type"] == "bamba":
        rope = text["rope_parameters"]
        yield "partial_rotary_factor", {"partial_rotary_factor": 1.0, "rope_parameters": plain(rope["rope_theta"])}
    if text["model_type"] == "granitemoehybrid" and text["num_local_experts"] == 0:
        yield "intermediate_size", {"intermediate_size": text["intermediate_size"] + 1}
        yield "num_experts_per_tok", {"num_experts_per_tok": 3}
    if text["model_type"] == "zamba2":
        for field in "use_conv_bias", "use_long_context", "use_mem_eff_path":
            yield field, {field: not text[field]}
        yield "time_step_max", {"time_step_max": 0.01}
        yield "time_step_floor", {"time_step_floor": 0.5}
    if text["model_type"] == "minimax":
        yield "block_size", {"block_size": text["block_size"] + 3}
        yield "postnorm", {"postnorm": False, "rotary_dim": 2, "shared_intermediate_size": 8}
    if text["model_type"] == "recurrent_gemma":
        yield "w_init_variance_scale", {"w_init_variance_scale": 0.5, "final_w_init_variance_scale": 0.5}
    if text["model_type"] == "kimi_linear":
        yield "rope_theta", {"rope_theta": 20.0, "head_dim": 72}
    if text["model_type"] == "bailing_hybrid":
        yield "num_nextn_predict_layers", {"num_nextn_predict_layers": 0}
        yield "layer_group_size", {"layer_group_size": 3, "first_k_dense_replace": 2}  # The lists are there.
    if text["model_type"] == "falcon_h1":
        if not text["mamba_rms_norm"]:
            yield "mamba_norm_before_gate", {"mamba_norm_before_gate": not text["mamba_norm_before_gate"]}
        if text["mamba_d_ssm"] is not None:
            yield "mamba_expand", {"mamba_expand": text["mamba_expand"] + 1}
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
            state = {key: x for key, x in model.state_dict().items() if not key.endswith(DECAYS)}
            keys = other.load_state_dict(state, strict=False)
            assert not keys.unexpected_keys and all(key.endswith(DECAYS) for key in keys.missing_keys), f"{name}: {keys}"
            change = (other(e["input_ids"], use_cache=False).logits - e["logits"]).abs().max().item()
            assert change > 0.02 if matters else change < 1e-4, f"{name}: {what} changes the logits by {change}"


def older(name, config):
    """The fields of config.json as configurations on the Hub have them."""
    if name == "lfm3-a":  # It is younger, and has these fields; here the defaults are meant.
        del config["layer_types"], config["rope_parameters"]
        return config
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.57.3"
    if (rope := config.pop("rope_parameters", None)) is not None:
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = None
        if "partial_rotary_factor" in rope:
            config["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if name in ("granitemoehybrid-a", "granitemoehybrid-c"):
        config["layer_types"] = [{MAMBA: "mamba", FULL: "attention"}[kind] for kind in config["layer_types"]]
        config.pop("time_step_limit")
    if name == "bamba-a":
        config["attn_rotary_emb"] = config["hidden_size"] // config["num_attention_heads"] // 2
        for field in "layers_block_type", "layer_types", "partial_rotary_factor", "time_step_limit":
            config.pop(field, None)
    if name == "falcon_h1-a":
        config["attn_layer_indices"], config["mamba_d_head"], config["mamba_use_mlp"] = None, "auto", True
        config.pop("time_step_limit")
    if name == "nemotron_h-d":
        # Files of Nemotron 3.5: the list, but with older names of kinds.
        kinds = {MAMBA: "mamba", FULL: "attention", MLP: "mlp", MOE: "moe"}
        config["layers_block_type"] = [kinds[kind] for kind in config["layers_block_type"]]
        config.pop("layer_types", None)
        config["mtp_layers_block_type"] = ["attention", "moe"]
    if name in ("nemotron_h-a", "nemotron_h-c"):
        kinds = config.pop("layers_block_type")
        config.pop("layer_types", None)
        config["hybrid_override_pattern"] = "".join({MAMBA: "M", FULL: "*", MLP: "-", MOE: "E"}[kind] for kind in kinds)
        config["num_hidden_layers"] = len(kinds)
        config["time_step_limit"] = [0.0, math.inf]  # A bare Infinity, as Python writes it.
        config["rms_norm_eps"] = 1e-5
    if name == "lfm2-b":
        config["full_attn_idxs"] = [i for i, kind in enumerate(config.pop("layer_types")) if kind == FULL]
        config["block_ff_dim"] = config.pop("intermediate_size")
        config["tie_embedding"] = config.pop("tie_word_embeddings")
        config["conv_dim"] = config["conv_dim_out"] = config["block_dim"] = config["hidden_size"]
    if name == "recurrent_gemma-a":
        config["embeddings_scale_by_sqrt_dim"] = True
    if name == "lfm2_moe-a":
        config["tie_embedding"] = config.pop("tie_word_embeddings")
    if name == "zamba2-a":
        config["layers_block_type"] = [{MAMBA: "mamba", HYBRID: HYBRID}[kind] for kind in config["layers_block_type"]]
        config["use_shared_mlp_adapter"], config["time_step_limit"] = True, None
    if name == "minimax-a":
        config["postnorm"], config["rotary_dim"], config["shared_intermediate_size"] = True, 3, 0
    if name == "kimi_linear-a":
        kinds, dense = config.pop("layer_types"), config.pop("mlp_layer_types").count("dense")
        config["linear_attn_config"] = {
            "full_attn_layers": [i + 1 for i, kind in enumerate(kinds) if kind == FULL],
            "kda_layers": [i + 1 for i, kind in enumerate(kinds) if kind == MAMBA],
            "head_dim": config.pop("linear_head_dim"), "num_heads": config.pop("linear_num_heads"),
            "short_conv_kernel_size": config.pop("linear_conv_kernel_dim"),
        }  # fmt: skip
        config |= {
            "head_dim": config["hidden_size"] // config["num_attention_heads"], "first_k_dense_replace": dense,
            "moe_layer_freq": 1, "mla_use_nope": True, "moe_router_activation_func": "sigmoid", "use_grouped_topk": True,
            "rope_scaling": None, "rope_theta": 10000.0, "num_nextn_predict_layers": 0,
        }  # fmt: skip
        del config["qk_head_dim"]
    if name == "bailing_hybrid-a":
        config["head_dim"] = config["linear_head_dim"]
        for field in "linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim", "layer_types", "mlp_layer_types":
            del config[field]
        config |= {
            "max_position_embeddings": config.pop("model_max_length"), "norm_topk_prob": config.pop("moe_renormalize"),
            "n_group": config.pop("num_expert_group"), "num_experts_per_tok": config.pop("num_experts_per_token"),
            "moe_shared_expert_intermediate_size": config["moe_intermediate_size"], "no_kda_lora": True,
            "gated_attention_proj_granularity_type": "head_wise", "rope_interleave": True, "score_function": "sigmoid",
            "rotary_dim": config["qk_rope_head_dim"], "partial_rotary_factor": 0.5, "use_qkv_bias": False,
            "moe_router_enable_expert_bias": True, "architectures": ["BailingMoeV3ForCausalLM"],
        }  # fmt: skip
    return config


def make_hub(name, path, model, e):
    """Writes the folder hub, a checkpoint as on the Hub, and checks that it is the same model."""
    config, tensors = model.config, {}
    for key, x in safetensors.torch.load_file(path / "model.safetensors").items():
        layer = int(key.split(".")[2]) if key.startswith("model.layers.") else -1
        if config.model_type == "kimi_linear" and layer >= 0 and config.mlp_layer_types[layer] == "dense":
            key = key.replace(".block_sparse_moe.", ".mlp.")
        if config.model_type == "bailing_hybrid" and layer >= 0 and config.layer_types[layer] == MAMBA:
            key = key.replace(".attention.dense.", ".attention.o_proj.")
        tensors[key] = x
    if config.model_type == "bailing_hybrid":
        # A layer that predicts the token after the next; it is not used.
        beyond = f"model.layers.{config.num_hidden_layers}"
        tensors[f"{beyond}.enorm.weight"] = torch.ones(config.hidden_size)
        tensors[f"{beyond}.eh_proj.weight"] = torch.ones(config.hidden_size, 2 * config.hidden_size)
    hub = path / "hub"
    hub.mkdir()
    (hub / "config.json").write_text((path / "config_v4.json").read_text())
    save(hub / "model.safetensors", tensors, {"format": "pt"})
    other = classes(name)[1].from_pretrained(hub, attn_implementation="eager", experts_implementation="eager").eval()
    wanted, got = model.state_dict(), other.state_dict()
    assert wanted.keys() == got.keys() and all(x.equal(wanted[key]) for key, x in got.items()), f"{name}: hub"
    assert (other(e["input_ids"], use_cache=False).logits == e["logits"]).all(), f"{name}: hub"


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
    condition(name, model, e)
    prove(name, model, e)
    prove_options(name, model, e)
    metadata = {"made_by": "hybrids.py", "torch": torch.__version__.split("+")[0], "seed": str(seed)}
    save(path / "expected.safetensors", e, metadata | {"transformers": transformers.__version__})
    if name in OLDER:
        make_older(name, path, model, e)
    if name in HUB:
        make_hub(name, path, model, e)
    assert sum(file.stat().st_size for file in path.iterdir()) < 250_000, f"{name}: it is large"


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
