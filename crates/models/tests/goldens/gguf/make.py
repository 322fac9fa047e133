"""Makes the goldens of models in GGUF files, with the converter of llama.cpp.

    pip install torch==2.15.0 transformers==5.24.0 safetensors sentencepiece protobuf numpy pyyaml tqdm requests
    python make.py LLAMA_CPP [NAME ...]

LLAMA_CPP is a checkout of https://github.com/ggml-org/llama.cpp. Its packages `conversion` and `gguf` (in gguf-py) are
imported. The script writes next to itself:

    NAME.gguf                            a checkpoint, as the converter writes it with `--outtype f32`. If there is a folder
                                         ../NAME or ../encoders/NAME, it is the checkpoint there, and expected.safetensors
                                         there has what it computes
    NAME-split-0000?-of-00003.gguf       the same in three parts, as `--split-max-tensors 10` writes them
    NAME.safetensors                     for a checkpoint without a folder (NEW, RWKV6, QUANTISED below) what it computes:

        input_ids  i64 [1, 45]         random tokens
        logits     f32 [1, 45, vocab]  for those tokens

The files have no tokenizer: `tokenizer.ggml.model` is "none". Those of TEXTS have one, and NAME.safetensors has for sentence N:

        cN.input_ids  i64 [1, T]  its tokens
        cN.vector     f32 [d]     its vector, of length 1

Why some checkpoints have no folder. The metadata of a GGUF file cannot say everything that a config.json can: there is no key
for it, or the converter does not write it, since llama.cpp takes one value for granted. Only those folders are converted of
which nothing is lost, so that the file must give their logits. For types without such a folder there is a checkpoint in NEW,
whose parameters are drawn as the scripts in the folder above draw them, or in RWKV6, of which there is none in transformers.

What is changed in the converter, from outside. It changes no tensor, no shape, no name and no other key:

    set_vocab             The folders have no tokenizer. It is replaced by `_set_vocab_none`, the converter's own for models
                          without one; for BERT it also writes the number of token types, as the replaced one does.
    load_hparams          It reads config.json through AutoConfig of transformers 4.57, which llama.cpp asks for. That of
                          transformers 5 names kinds of layers in another way, and then the converter takes layers of
                          attention for layers of Mamba. So config.json is read as it is, which is what the converter falls
                          back to, or config_v4.json where the folder has one. FIELDS has what AutoConfig adds, or what
                          files on the Hub have in addition. With AutoConfig of transformers 4.57.6 the files of folders are
                          the same, but for one key: qwen3_next-a would have `attention.recurrent_layers`, too. It is left
                          out, as it is from files made before that key was introduced.
    _get_suppress_tokens  (MiniMax) It needs a tokenizer. It is skipped.
    no_mtp                The option `--no-nextn`, for a checkpoint of the Qwen 3.5 family without tensors `mtp.*`.
    get_vocab_base_pre    (TEXTS) It knows tokenizers by what they make of a text. The vocabulary here is none of those.
    tokenizer.json        Gemma 3 cuts the embeddings to the size of the vocabulary, which it counts in this file. There is
                          one with as many entries as rows beside the checkpoint.

Quantised files. Matrices are quantised by the Python quantiser of gguf-py row by row, as the converter does with `--outtype
q8_0`. It has none for the k-quants, iq4_nl and iq4_xs: their blocks are random bits, whose scales give the weights their
usual spread. What is computed is computed in float32 with the dequantised weights. The converter converts those, and in its
file the rows of these matrices are replaced by the blocks that they were dequantised from.

Everything is computed in float32 on one thread of a CPU, RWKV-6 in float64. The script checks that each parameter of NEW and
RWKV6 matters and that logits spread.

llama.cpp itself (ggml 0.25.3, on a CPU, keys and values in float32; that check is not part of this script) computes the same
logits from these files up to 1e-4, and up to 2e-2 where there is a GELU, which it looks up in a table of float16. It departs
from transformers, which the goldens are from, as follows; with transformers changed to do the same, the logits agree:

    phi3-a                    It ignores the window.
    olmo3-a, gpt_oss-*        It ignores `yarn_beta_fast`, `yarn_beta_slow` and `yarn_attn_factor`; in gpt-oss, whose
                              config.json has `truncate: false`, it rounds the bounds of YaRN.
    bamba-a                   Half of a head's channels are rotated. The converter permutes its rows as if all were, so that
                              llama.cpp rotates other pairs of channels.
    falcon_mamba-a            The norms of B, C and the step have an ε of their own, 1e-6. It takes that of the other norms.
    minimax-g, kimi_linear-g  So have the norm of lightning attention and the lengths of queries and keys of Kimi: 1e-6.
    nemotron_h-g              transformers limits the step to `time_step_min`, which is 1e-3.
    rwkv7-a                   The ε of `time_mix_ln` is the head size times that of the other norms, and a key k is divided
                              by √(|k|² + 1e-6). It has 64e-5 and max(|k|, 1e-12): the same where heads have 64 channels
                              and keys are not close to zero.
    gpt_oss-mxfp4, QUANTISED  It rounds the other factor of a product to 8 bits, too: up to 0.6.

It cannot load olmo3-b (tied embeddings), falcon_h1-c (a bias), nemotron_h-a (no bias of the convolution), qwen3_next-a,
qwen3_5_text-a and qwen3_5-a (values and keys of different widths), qwen3_5_moe-a (a part of the tensors `mtp.*`). Variants of
the Qwen files that it can load agree up to 3e-5.

Made with torch 2.15.0, transformers 5.24.0, and llama.cpp with ggml 0.25.3 and gguf-py 0.19.0.
"""

import argparse
import contextlib
import copy
import importlib.util
import json
import logging
import multiprocessing
import os
import pathlib
import re
import shutil
import sys
import tempfile

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers

HERE = pathlib.Path(__file__).resolve().parent
GOLDENS = HERE.parent
MAMBA, FULL, SLIDING, CONV, MOE = "linear_attention", "full_attention", "sliding_attention", "conv", "moe"
TOKENS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}


def script(name):
    """A script in the folder above, as a module."""
    if name not in sys.modules:
        sys.path.insert(0, str(GOLDENS))
        spec = importlib.util.spec_from_file_location(name, GOLDENS / f"{name.removeprefix('goldens_')}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
        sys.path.remove(str(GOLDENS))
    return sys.modules[name]


# Folders that are converted.
FOLDERS = (
    "llama-a", "llama-b", "minicpm-c", "mistral-b", "mixtral-a", "qwen2-a", "qwen3-a", "smollm3-a", "phi3-a", "phi3-b", "olmo2-a",
    "olmo3-a", "olmo3-b", "gemma4_text-a", "gpt_oss-mxfp4", "gpt2-a", "mamba-a", "falcon_mamba-a", "jamba-a", "bamba-a", "falcon_h1-a",
    "falcon_h1-c", "granitemoehybrid-a", "granitemoehybrid-c", "nemotron_h-a", "lfm2-a", "qwen3_next-a", "qwen3_5_text-a",
    "qwen3_5-a", "qwen3_5_moe-a", "rwkv7-a", "bert-base-a", "distilbert-base-a", "roberta-base-a",
    "modernbert-base-a-legacy", "nomic_bert-base-a-legacy",
)  # fmt: skip

# NAME: fields that config.json has on the Hub, or that AutoConfig of transformers 4.57 adds to it. None removes one.
FIELDS = {
    "falcon_h1-a": {"mamba_d_head": 10, "head_dim": 8},
    "falcon_h1-c": {"head_dim": 6},
    "gpt2-a": {"n_ctx": 128},
    "rwkv7-a": {"intermediate_size": 96},
    "granitemoehybrid-a": {"intermediate_size": 36},  # It is not used, but on the Hub it has the size of the shared MLP.
    # On the Hub a model without experts has no fields of them. `d_head` is only for an assertion: its default is 64.
    "nemotron_h-a": {"d_head": 10} | dict.fromkeys((
        "moe_intermediate_size", "moe_latent_size", "moe_shared_expert_intermediate_size", "moe_shared_expert_overlap",
        "n_group", "n_routed_experts", "n_shared_experts", "norm_topk_prob", "num_experts_per_tok", "routed_scaling_factor",
        "topk_group", "mtp_layers_block_type", "num_nextn_predict_layers",
    )),
}  # fmt: skip
# NAME: (folder, pooling). What it has is converted with a tokenizer, whose vocabulary is WORDS, and a pooling.
TEXTS = {"bert-text": ("bert-base-a", "cls"), "nomic_bert-text": ("nomic_bert-base-a-legacy", "mean")}
WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "adeghilmnorsty"),
    "the", "of", "sea", "##ing", "##er", "##th", "long", "read", ".", "##u",
]  # fmt: skip
# The tests have the same.
SENTENCES = ["The longest of the seas.", "a", "reading long seas, readers read the READING of Élan ☂"]
PARTS = ("llama-a",)  # They are written in three parts, too.
NO_MTP = ("qwen3_5_text-a",)


def plain(theta, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


# NAME: (script in the folder above that has the class and the usual values of its parameters, class, seed, fields)
NEW = {
    "gemma2-g": ("decoders", "Gemma2", 1, TOKENS | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "max_position_embeddings": 128,
        "sliding_window": 7, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0,
    }),
    "gemma3_text-g": ("decoders", "Gemma3Text", 4, TOKENS | {
        "vocab_size": 67, "hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 7, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "max_position_embeddings": 128,
        "sliding_window": 7, "rope_parameters": {
            FULL: {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0}, SLIDING: plain(100.0),
        },
    }),
    "gemma4_text-g": ("experts", "Gemma4Text", 4, TOKENS | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 2, "num_global_key_value_heads": 1, "head_dim": 8, "global_head_dim": 16,
        "attention_k_eq_v": True, "max_position_embeddings": 128, "layer_types": [FULL, SLIDING, FULL], "sliding_window": 7,
        "hidden_size_per_layer_input": 0, "enable_moe_block": True, "num_experts": 5, "top_k_experts": 2,
        "moe_intermediate_size": 10, "final_logit_softcapping": 6.0, "tie_word_embeddings": True, "rope_parameters": {
            FULL: {"rope_type": "proportional", "rope_theta": 400.0, "partial_rotary_factor": 0.25}, SLIDING: plain(50.0),
        },
    }),
    "qwen3_moe-g": ("decoders", "Qwen3Moe", 1, TOKENS | {
        "vocab_size": 67, "hidden_size": 32, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 128, "num_experts": 3, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "norm_topk_prob": True, "rope_parameters": plain(10000.0),
    }),
    "gpt_oss-g": ("experts", "GptOss", 1, TOKENS | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 128, "sliding_window": 7, "num_local_experts": 4,
        "num_experts_per_tok": 2, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 100.0, "factor": 8.0, "beta_fast": 1.5, "beta_slow": 0.25, "truncate": False,
            "original_max_position_embeddings": 16,
        },
    }),
    "mamba2-g": ("goldens_make", "Mamba2", 1, TOKENS | {
        "vocab_size": 71, "hidden_size": 32, "num_hidden_layers": 2, "expand": 2, "num_heads": 8, "head_dim": 8,
        "n_groups": 2, "state_size": 12, "conv_kernel": 4, "chunk_size": 16, "layer_norm_epsilon": 1e-5, "use_bias": False,
        "use_conv_bias": True, "tie_word_embeddings": False,
    }),
    "nemotron_h-g": ("hybrids", "NemotronH", 2, TOKENS | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 20, "layers_block_type": [MAMBA, MOE, FULL, MOE, MAMBA],
        "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10, "max_position_embeddings": 128,
        "mamba_num_heads": 4, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 8, "conv_kernel": 4, "chunk_size": 16,
        "use_conv_bias": True, "n_routed_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
        "moe_shared_expert_intermediate_size": 18, "moe_latent_size": 14, "routed_scaling_factor": 2.5,
    }),
    "lfm2_moe-g": ("hybrids", "Lfm2Moe", 1, TOKENS | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 40, "moe_intermediate_size": 12, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "num_dense_layers": 1,
        "layer_types": [CONV, FULL, CONV], "num_experts": 4, "num_experts_per_tok": 2, "conv_L_cache": 3,
    }),
    # With a smaller share of the residual stream the logits of eight layers would hang on the rounding of float32.
    "minimax-g": ("hybrids", "MiniMax", 5, TOKENS | {
        "vocab_size": 67, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 8, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128, "num_local_experts": 3,
        "num_experts_per_tok": 2, "layer_types": [MAMBA] * 7 + [FULL], "block_size": 16, "full_attn_alpha_factor": 3.5,
        "linear_attn_alpha_factor": 3.5, "mlp_alpha_factor": 3.5,
    }),
    "kimi_linear-g": ("hybrids", "KimiLinear", 1, TOKENS | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 36, "moe_intermediate_size": 10, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128, "kv_lora_rank": 14,
        "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
        "layer_types": [MAMBA, MAMBA, FULL], "linear_head_dim": 8, "linear_num_heads": 2,
    }),
    "granite-g": ("decoders", "Granite", 1, TOKENS | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "attention_multiplier": 0.7, "embedding_multiplier": 2.5,
        "residual_multiplier": 0.6, "logits_scaling": 1.2, "rope_parameters": plain(10000.0),
    }),
    "granitemoe-g": ("hybrids", "GraniteMoe", 1, TOKENS | {
        "vocab_size": 67, "hidden_size": 24, "intermediate_size": 10, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "num_local_experts": 5, "num_experts_per_tok": 2,
        "attention_multiplier": 0.7, "embedding_multiplier": 1.6, "residual_multiplier": 1.4, "logits_scaling": 0.6,
        "rope_parameters": plain(10000.0),
    }),
    "gpt_neox-g": ("decoders", "GPTNeoX", 1, TOKENS | {
        "vocab_size": 67, "hidden_size": 32, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 2,
        "max_position_embeddings": 128, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "use_parallel_residual": True,
        "attention_bias": True, "rope_parameters": plain(10000.0, partial_rotary_factor=0.25),
    }),
    "llama-q": ("decoders", "Llama", 1, TOKENS | {
        "vocab_size": 67, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128,
    }),
    "llama-k": ("decoders", "Llama", 1, TOKENS | {
        "vocab_size": 48, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 128,
    }),
}  # fmt: skip

# With a choice of experts, how a matrix is multiplied could decide which are chosen.
NEW["qwen3_moe-q"] = (*NEW["qwen3_moe-g"][:3], NEW["qwen3_moe-g"][3] | {"num_experts_per_tok": 3})

# NAME: fields of config.json that transformers 5 spells in another way than the files on the Hub.
HUB_FIELDS = {
    "gpt_neox-g": {"rotary_pct": 0.25},
    "nemotron_h-g": {"layers_block_type": ["mamba", "moe", "attention", "moe", "mamba"], "d_head": 8},
    "minimax-g": {
        "architectures": ["MiniMaxText01ForCausalLM"], "model_type": "minimax_text_01", "rotary_dim": 8,
        "layernorm_full_attention_alpha": 3.5, "layernorm_full_attention_beta": 1.0,
        "layernorm_linear_attention_alpha": 3.5, "layernorm_linear_attention_beta": 1.0,
        "layernorm_mlp_alpha": 3.5, "layernorm_mlp_beta": 1.0, "layer_types": None,
    },
    "kimi_linear-g": {
        "linear_attn_config": {
            "full_attn_layers": [3], "kda_layers": [1, 2], "head_dim": 8, "num_heads": 2, "short_conv_kernel_size": 4,
        },
        "first_k_dense_replace": 1, "moe_router_activation_func": "sigmoid",
    },
}  # fmt: skip

# NAME: (checkpoint, pattern of names of its tensors: type). A tensor has the type of the first pattern that is found in it.
QUANTISED = {
    "llama-q8_0": ("llama-q", {"_proj|embed|lm_head": "Q8_0"}),
    "llama-mixed": ("llama-q", {
        "q_proj": "Q4_0", "k_proj": "Q4_1", "v_proj": "Q5_1", "o_proj": "Q5_0", "gate_proj": "Q8_0", "up_proj": "BF16",
        "down_proj": "F16", "embed": "Q4_0", "lm_head": "Q5_0",
    }),
    "llama-k": ("llama-k", {
        "q_proj": "Q4_K", "k_proj": "Q5_K", "v_proj": "Q6_K", "o_proj": "IQ4_NL", "gate_proj": "Q3_K", "up_proj": "IQ4_XS",
        "down_proj": "Q2_K", "embed": "Q4_K", "lm_head": "Q6_K",
    }),
    "qwen3_moe-q4_0": ("qwen3_moe-q", {"experts|_proj": "Q4_0", "embed": "Q8_0", "lm_head": "Q8_0"}),
    "mamba2-q5_0": ("mamba2-g", {"in_proj|out_proj": "Q5_0", "embed|head": "Q8_0"}),
}  # fmt: skip
FILE_TYPES = {"llama-q8_0": 7, "llama-mixed": 2, "llama-k": 15, "qwen3_moe-q4_0": 2, "mamba2-q5_0": 8}
# Bytes of a block, the places of its scale and of the scale of its minima if it has them, and the latter for a scale of 1.
RANDOM_BLOCKS = {
    "Q2_K": (84, 80, 82, 1.5), "Q3_K": (110, 108, None, 0.0), "Q4_K": (144, 0, 2, 7.5), "Q5_K": (176, 0, 2, 15.5),
    "Q6_K": (210, 208, None, 0.0), "IQ4_NL": (18, 0, None, 0.0), "IQ4_XS": (136, 0, None, 0.0),
}  # fmt: skip

RWKV6 = {
    "rwkv6-g": (1, {
        "architectures": ["Rwkv6ForCausalLM"], "model_type": "rwkv6", "vocab_size": 67, "hidden_size": 16,
        "num_hidden_layers": 3, "head_size": 8, "attention_hidden_size": 16, "intermediate_size": None,
        "layer_norm_epsilon": 1e-5, "rescale_every": 2, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0,
    }),
}  # fmt: skip


def build(name):
    """A model of NEW, and the checks of its script."""
    file, prefix, seed, fields = NEW[name]
    module = script(file)
    if file == "goldens_make":
        classes = getattr(transformers, f"{prefix}Config"), getattr(transformers, f"{prefix}ForCausalLM")
        module.MODELS[name] = (*classes, seed, fields)
    else:
        module.MODELS[name] = (prefix, seed, fields)
    return module.build(name), module.prove, seed


def expect(name, model, seed, prove=None):
    """The expected outputs, with the checks."""
    generator = torch.Generator().manual_seed(seed + 1000)
    e = {"input_ids": torch.randint(4, model.config.vocab_size, (1, 45), generator=generator)}
    e["logits"] = model(e["input_ids"], use_cache=False).logits
    spread = e["logits"].std().item()
    assert 1.0 < spread < 3.0, f"{name}: the spread of the logits is {spread}"
    if prove:
        prove(name, model, e)
    metadata = {"made_by": "gguf/make.py", "torch": torch.__version__.split("+")[0], "seed": str(seed)}
    script("decoders").save(HERE / f"{name}.safetensors", e, metadata | {"transformers": transformers.__version__})


def group_norm(x, eps):
    x = x - x.mean(-1, keepdim=True)
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


class Finch:
    """RWKV-6 with the names and shapes of RWKV/v6-Finch-1B6-HF, from its equations, token by token."""

    def __init__(self, seed, fields):
        self.c, self.weights = fields, {}
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, name, *shape):
        if name not in self.weights:
            self.weights[name] = self.value(name, shape).float()
        return self.weights[name].double()

    def value(self, name, shape):
        r, u = torch.randn(shape, generator=self.generator), torch.rand(shape, generator=self.generator)
        part = name.split(".")
        if re.search(r"ln\d?_?\w*\.weight", name):
            return 1.0 + 0.3 * r
        if part[-1] == "bias":
            return 0.3 * r
        if part[-1] == "time_decay":
            return -4.0 + 5.0 * u
        if part[-1] == "time_faaaa":
            return 0.5 + 0.5 * r
        if part[-1].startswith("time_maa") and len(shape) == 3 and shape[0] == 1:
            return u
        if part[-1] == "time_maa_w2":
            return 0.5 * r * shape[1] ** -0.5
        if part[-1] in ("time_maa_w1", "time_decay_w1", "time_decay_w2"):
            return r * shape[0] ** -0.5
        if name == "rwkv.embeddings.weight":
            return 0.7 * r
        return {"output": 1.5, "value": 1.4, "head": 2.0}.get(part[-2], 1.2) * r * shape[-1] ** -0.5

    def linear(self, name, x, size):
        return x @ self(f"{name}.weight", size, x.shape[-1]).T

    def norm(self, name, x, eps):
        return group_norm(x, eps) * self(f"{name}.weight", x.shape[-1]) + self(f"{name}.bias", x.shape[-1])

    def attention(self, name, x):
        d, s = x.shape[-1], self.c["head_size"]
        delta = F.pad(x, (0, 0, 1, 0))[:, :-1] - x
        z = ((x + delta * self(f"{name}.time_maa_x", 1, 1, d)) @ self(f"{name}.time_maa_w1", d, 5 * 32)).tanh()
        z = torch.einsum("btir,ird->ibtd", z.unflatten(-1, (5, 32)), self(f"{name}.time_maa_w2", 5, 32, d))
        xw, xk, xv, xr, xg = (x + delta * (self(f"{name}.time_maa_{i}", 1, 1, d) + m) for i, m in zip("wkvrg", z))
        r, k, v = (self.linear(f"{name}.{i}", y, d) for i, y in (("receptance", xr), ("key", xk), ("value", xv)))
        gate = F.silu(self.linear(f"{name}.gate", xg, d))
        w = (xw @ self(f"{name}.time_decay_w1", d, 64)).tanh() @ self(f"{name}.time_decay_w2", 64, d)
        w = (-(w + self(f"{name}.time_decay", 1, 1, d)).exp()).exp()
        r, k, v, w = (y.unflatten(-1, (-1, s)) for y in (r, k, v, w))
        first, state, out = self(f"{name}.time_faaaa", d // s, s), x.new_zeros(len(x), d // s, s, s), []
        for t in range(x.shape[1]):
            kv = torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
            out.append(torch.einsum("bhk,bhkv->bhv", r[:, t], state + first[..., None] * kv))
            state = w[:, t, ..., None] * state + kv
        o = group_norm(torch.stack(out, 1), 64e-5).flatten(2)
        o = o * self(f"{name}.ln_x.weight", d) + self(f"{name}.ln_x.bias", d)
        return self.linear(f"{name}.output", o * gate, d)

    def feed_forward(self, name, x):
        d = x.shape[-1]
        delta = F.pad(x, (0, 0, 1, 0))[:, :-1] - x
        k = self.linear(f"{name}.key", x + delta * self(f"{name}.time_maa_k", 1, 1, d), int(d * 3.5) // 32 * 32)
        r = self.linear(f"{name}.receptance", x + delta * self(f"{name}.time_maa_r", 1, 1, d), d)
        return r.sigmoid() * self.linear(f"{name}.value", k.relu().square(), d)

    def logits(self, ids):
        c, d = self.c, self.c["hidden_size"]
        x = self("rwkv.embeddings.weight", c["vocab_size"], d)[ids]
        for i in range(c["num_hidden_layers"]):
            block, half = f"rwkv.blocks.{i}", 2.0 ** -(i // c["rescale_every"])
            if i == 0:
                x = self.norm(f"{block}.pre_ln", x, c["layer_norm_epsilon"])
            # The stream is halved after each `rescale_every` blocks in inference, and so are the two last matrices.
            x = x + half * self.attention(f"{block}.attention", self.norm(f"{block}.ln1", x, c["layer_norm_epsilon"]))
            x = x + half * self.feed_forward(f"{block}.feed_forward", self.norm(f"{block}.ln2", x, c["layer_norm_epsilon"]))
            if (i + 1) % c["rescale_every"] == 0:
                x = x / 2
        return self.linear("head", self.norm("rwkv.ln_out", x, c["layer_norm_epsilon"]), c["vocab_size"])


def rwkv6(name, path):
    """Saves a checkpoint of RWKV6 and its outputs."""
    seed, fields = RWKV6[name]
    model, generator = Finch(seed, fields), torch.Generator().manual_seed(seed + 1000)
    e = {"input_ids": torch.randint(4, fields["vocab_size"], (1, 45), generator=generator)}
    e["logits"] = model.logits(e["input_ids"]).float()
    spread = e["logits"].std().item()
    assert 1.0 < spread < 3.0, f"{name}: the spread of the logits is {spread}"
    for key, x in model.weights.items():
        model.weights[key] = torch.ones_like(x) if re.search(r"ln\d?_?\w*\.weight", key) else torch.zeros_like(x)
        change = (model.logits(e["input_ids"]) - e["logits"]).abs().max().item()
        model.weights[key] = x
        assert change > 0.05, f"{name}: {key} changes the logits by {change}"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(fields))
    safetensors.torch.save_file(model.weights, path / "model.safetensors")
    metadata = {"made_by": "gguf/make.py", "torch": torch.__version__.split("+")[0], "seed": str(seed)}
    script("decoders").save(HERE / f"{name}.safetensors", e, metadata)


def folder(name, path):
    """Copies a folder's checkpoint, in the Hub's spelling where there is one."""
    source = GOLDENS / name if (GOLDENS / name).exists() else GOLDENS / "encoders" / name
    config = source / "config_v4.json"
    path.mkdir()
    shutil.copy(config if config.exists() else source / "config.json", path / "config.json")
    hub = source / "model_hub.safetensors"
    shutil.copy(hub if hub.exists() else source / "model.safetensors", path / "model.safetensors")


def texts(name, path):
    """Adds a tokenizer and a pooling to a folder, and saves the tokens and the vectors of the sentences."""
    source, pooling = TEXTS[name]
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = transformers.BertTokenizerFast.from_pretrained(path, do_lower_case=True)
    tokenizer.save_pretrained(path)
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    modules = [{"idx": i, "name": i, "path": at, "type": f"sentence_transformers.models.{kind}"} for i, at, kind in modules]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir()
    mode = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}[pooling]
    (path / "1_Pooling/config.json").write_text(json.dumps({mode: True}))
    model = transformers.AutoModel.from_pretrained(GOLDENS / "encoders" / source.removesuffix("-legacy")).eval()
    e = {}
    for n, sentence in enumerate(SENTENCES):
        ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
        hidden = model(input_ids=ids).last_hidden_state[0]
        e[f"c{n}.input_ids"] = ids
        e[f"c{n}.vector"] = F.normalize(hidden[0] if pooling == "cls" else hidden.mean(0), dim=0)
    metadata = {"made_by": "gguf/make.py", "torch": torch.__version__.split("+")[0], "seed": "1"}
    script("decoders").save(HERE / f"{name}.safetensors", e, metadata | {"transformers": transformers.__version__})


def hub_names(path):
    """Changes the names of tensors where transformers 5 saves others than files on the Hub have."""
    file, tensors = path / "model.safetensors", {}
    for key, x in safetensors.torch.load_file(file).items():
        if key.endswith(script("hybrids").DECAYS):
            continue  # (MiniMax) They follow from the options.
        # (Kimi) A dense layer is no mixture.
        key = re.sub(r"block_sparse_moe\.(gate|up|down)_proj", r"mlp.\1_proj", key)
        tensors[key] = x
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def change_config(path, fields):
    file = path / "config.json"
    config = json.loads(file.read_text())
    config = {key: x for key, x in (config | fields).items() if key not in fields or x is not None}
    file.write_text(json.dumps(config))
    # Gemma 3 counts the vocabulary in a file of a tokenizer.
    size = config.get("text_config", config)["vocab_size"]
    vocabulary = {"model": {"type": "WordPiece", "vocab": {str(i): i for i in range(size)}}, "added_tokens": []}
    if not (path / "tokenizer.json").exists():
        (path / "tokenizer.json").write_text(json.dumps(vocabulary))


def converter(llama):
    """The packages of the converter, with what is replaced in them."""
    if str(llama) not in sys.path:
        sys.path[:0] = [str(llama), str(llama / "gguf-py")]
    import conversion
    import gguf

    def load_hparams(dir_model, is_mistral_format=False):
        return json.loads((dir_model / "config.json").read_text())

    conversion.ModelBase.load_hparams = staticmethod(load_hparams)
    logging.disable(logging.WARNING)
    return conversion, gguf


def convert(llama, path, out, parts=False, no_mtp=False, tokenized=False):
    """Converts the checkpoint in a folder."""
    conversion, gguf = converter(llama)
    hparams = conversion.ModelBase.load_hparams(path)
    architecture = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
    model_class = conversion.get_model_class(architecture)

    def set_vocab(self):
        if architecture in ("BertModel", "RobertaModel", "NomicBertModel"):
            self.gguf_writer.add_token_type_count(self.hparams.get("type_vocab_size", 1))
        self._set_vocab_none()

    if tokenized:
        model_class.get_vocab_base_pre = lambda self, tokenizer: "bert-bge"
    else:
        model_class.set_vocab = set_vocab
    if hasattr(model_class, "_get_suppress_tokens"):
        model_class._get_suppress_tokens = lambda self: None
    if no_mtp:
        model_class.no_mtp = True
    with torch.inference_mode(), open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        model_class(path, gguf.LlamaFileType.ALL_F32, out, split_max_tensors=10 if parts else 0).write()


def quantise(llama, x, kind, generator):
    """The blocks of a matrix, [rows, bytes], and what they stand for. Where there is no quantiser, others of that spread."""
    _, gguf = converter(llama)
    kind_ = gguf.GGMLQuantizationType[kind]
    rows = x.flatten(0, -2).numpy()
    if kind not in RANDOM_BLOCKS:
        blocks = gguf.quants.quantize(rows, kind_)
    else:
        size, at, minus_at, minus = RANDOM_BLOCKS[kind]
        length = gguf.GGML_QUANT_SIZES[kind_][0]
        blocks = torch.randint(0, 256, (rows.size // length, size), generator=generator, dtype=torch.uint8).numpy()

        def scales(scale):
            blocks[:, at : at + 2] = np.array([scale], np.float16).view(np.uint8)
            if minus_at is not None:
                blocks[:, minus_at : minus_at + 2] = np.array([scale * minus], np.float16).view(np.uint8)

        scales(1.0)
        scales(rows.std() / gguf.quants.dequantize(blocks, kind_).std())
        blocks = blocks.reshape(len(rows), -1)
    values = gguf.quants.dequantize(blocks, kind_).astype(np.float32)
    return blocks.view(np.uint8).reshape(len(rows), -1), torch.from_numpy(values).reshape(x.shape)


def quantised(llama, name, path):
    """Saves a checkpoint of dequantised weights and its outputs; returns the blocks of each row."""
    base, patterns = QUANTISED[name]
    model, _, seed = build(base)
    model.save_pretrained(path)
    generator, found = torch.Generator().manual_seed(seed + 2000), {}
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    for key, x in tensors.items():
        kind = next((kind for pattern, kind in patterns.items() if re.search(pattern, key)), None)
        if kind is None or x.dim() < 2:
            continue
        blocks, tensors[key] = quantise(llama, x, kind, generator)
        for row, block in zip(tensors[key].flatten(0, -2), blocks):
            assert found.setdefault(row.numpy().tobytes(), (kind, block.tobytes())) == (kind, block.tobytes())
    safetensors.torch.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"} if base != "mamba2-g" else {}
    expect(name, type(model).from_pretrained(path, **eager).eval(), seed)
    return found


def replace_rows(llama, file, found, out, file_type):
    """Writes a file of floats again, with rows replaced by the blocks they were dequantised from."""
    _, gguf = converter(llama)
    reader = gguf.GGUFReader(file)
    fields = {key: x for key, x in reader.fields.items() if not key.startswith("GGUF.")}
    writer = gguf.GGUFWriter(out, fields.pop("general.architecture").contents())
    for key, x in fields.items():
        kind, more = x.types[0], x.types[-1] if len(x.types) > 1 else None
        writer.add_key_value(key, file_type if key == "general.file_type" else x.contents(), kind, more)
    for tensor in reader.tensors:
        rows = [found.get(row.tobytes()) for row in tensor.data.reshape(-1, tensor.data.shape[-1])]
        if tensor.data.ndim == 1 or None in rows:
            assert not any(rows) or tensor.data.ndim == 1, tensor.name
            writer.add_tensor(tensor.name, tensor.data)
            continue
        kinds = {kind for kind, _ in rows}
        assert len(kinds) == 1, tensor.name
        data = np.frombuffer(b"".join(block for _, block in rows), np.uint8)
        data = data.reshape(*tensor.data.shape[:-1], -1)
        writer.add_tensor(tensor.name, data, raw_dtype=gguf.GGMLQuantizationType[kinds.pop()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def make(llama, name):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        path, found = pathlib.Path(temporary) / name, None
        if name in RWKV6:
            rwkv6(name, path)
        elif name in TEXTS:
            folder(TEXTS[name][0], path)
            texts(name, path)
        elif name in QUANTISED:
            found = quantised(llama, name, path)
        elif name in NEW:
            model, prove, seed = build(name)
            expect(name, model, seed, prove)
            model.save_pretrained(path)
            hub_names(path)
        else:
            folder(name, path)
        change_config(path, FIELDS.get(name, {}) | HUB_FIELDS.get(name, {}))
        if found is None:
            convert(llama, path, HERE / f"{name}.gguf", no_mtp=name in NO_MTP, tokenized=name in TEXTS)
        else:
            floats = pathlib.Path(temporary) / "floats.gguf"
            convert(llama, path, floats)
            replace_rows(llama, floats, found, HERE / f"{name}.gguf", FILE_TYPES[name])
        if name in PARTS:
            convert(llama, path, HERE / f"{name}-split.gguf", parts=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("llama", type=pathlib.Path, metavar="LLAMA_CPP")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    bases = ("llama-q", "llama-k", "qwen3_moe-q")  # They are only quantised.
    names = [*FOLDERS, *(name for name in NEW if name not in bases), *RWKV6, *TEXTS, *QUANTISED]
    failed = []
    for name in arguments.names or names:
        # The converter keeps tensors in its classes: each file has a process of its own.
        process = multiprocessing.get_context("fork").Process(target=make, args=(arguments.llama.resolve(), name))
        process.start()
        process.join()
        failed += [name] if process.exitcode else []
    if failed:
        sys.exit(f"failed: {' '.join(failed)}")


if __name__ == "__main__":
    main()
