"""Makes the goldens of transformers' encoders and of GPT-2: small random checkpoints and their outputs.

    pip install torch==2.13.0 transformers==5.23.0 safetensors
    python encoders.py [TYPE ...]

It writes next to itself, for each type and each head, the folders encoders/TYPE-HEAD-a and encoders/TYPE-HEAD-b: what
`save_pretrained` writes (config.json, model.safetensors, for a model that generates also generation_config.json) and
expected.safetensors.

    types    bert, roberta, xlm-roberta, distilbert, nomic_bert, modernbert, longformer, big_bird, nystromformer, reformer, gpt2
    heads    base (the model without a head, with its pooler if the type has one), masked-lm, sequence (a class of three for
             the row), token (a class of four for each token), question (start and end of an answer), and for reformer,
             which has none for tokens, causal (a language model); gpt2 has the last three

The configurations a and b differ in every field that is given here, so in each that changes what is computed, except where a
head has fields of its own, see `Type.heads`.

expected.safetensors has several cases, the tensors of case N under the prefix cN. What the model is given:

    cN.input_ids              i64 [B, T]
    cN.attention_mask         i64 [B, T]   if it is there, and so are the next two; zero at padding
    cN.token_type_ids         i64 [B, T]
    cN.global_attention_mask  i64 [B, T]

and what it computes:

    cN.last_hidden_state      f32 [B, T, d]      what the base model returns, in reformer [B, T, 2 d]
    cN.pooler_output          f32 [B, d]         only of the base, where the type has a pooler
    cN.logits                 f32 [B, T, vocab]  of masked-lm and causal; of sequence [B, 3], of token [B, T, 4]
    cN.start_logits           f32 [B, T]         of question, and so is cN.end_logits

Case 0 is one row without padding, case 1 are three rows of different lengths, padded on the right, case 2 is a longer row.
What follows depends on the type: see `further`. Rows at padding are there as transformers computes them; with another
implementation of attention than "eager", which is used here, some of them are others.

    bert-base-a-legacy         bert-base-a as old checkpoints are: names begin with `bert.`, LayerNorm has gamma and beta
    modernbert-base-a-legacy   modernbert-base-a with the fields of its configuration as transformers 4 wrote them
    nomic_bert-base-a-legacy   nomic_bert-base-a with the fields of nomic-ai/nomic-embed-text-v1.5; names are the same

And the folders gpt2-a and gpt2-b, next to those of make.py and in their format. The positions of padded_ids are given to the
model: the number of tokens before each that are not padding, 0 at padding.

Where transformers could not do it alone:

    longformer      The model replaces an attention_window that is one number by a list. In the folders -a the number is put
                    back into config.json.
    nystromformer   With fewer landmarks than tokens the model fails on a mask that has zeros: it becomes [B, 1, T, T], and the
                    scores are [B, H, landmarks, T]. There the mask is given as [B, 1, 1, T], 0 or the least float32, which is
                    what transformers 4 made of it.
    big_bird        A row that is too short for sparse attention switches the model object to full attention for good.
    reformer        The first long row sets num_buckets for good if it is null. For both, each case has a model of its own.

Everything is computed in float32 on one thread of a CPU, in evaluation mode; reformer in float64, rounded in the end: its float32
is off by up to 0.4 % where a token sees nothing but copies of itself. Parameters are random around their usual values,
norms and biases too. The script checks that each parameter matters, except those that it says do not (`Type.unused`) and the
biases of keys, which add the same to all scores of a query; that fields matter (`Type.probes`); that what is computed differs
from position to position; that float64 gives the same; that loading the folder gives the same; that no hash of reformer and no
greedy token is a close call.

Made with torch 2.15.0 and transformers 5.23.0.
"""

import copy
import dataclasses
import fnmatch
import json
import pathlib
import shutil
import sys
import unittest.mock

import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
MAX_GREEDY, MIN_GAP, MIN_HASH_GAP = 64, 2e-3, 2e-4
MAX_ROUNDING = 2e-5
FIRST = 6  # Smaller ids are special tokens.

HEADS = {
    "base": "Model", "masked-lm": "ForMaskedLM", "sequence": "ForSequenceClassification", "token": "ForTokenClassification",
    "question": "ForQuestionAnswering",
}  # fmt: skip
HEADS_GPT2 = {head: HEADS[head] for head in ("sequence", "token", "question")}
HEADS_REFORMER = {head: HEADS[head] for head in ("base", "masked-lm", "sequence", "question")} | {"causal": "ModelWithLMHead"}

LABELS = {
    "sequence": ["negative", "neutral", "positive"], "token": ["O", "B-PER", "I-PER", "B-LOC"],
}  # fmt: skip


@dataclasses.dataclass
class Type:
    """The goldens of one type. The first element of each pair is for the folders -a."""

    name: str  # of its classes
    a: dict
    b: dict
    lengths: tuple  # (of case 0, of the rows of case 1, of case 2)
    probes: list = dataclasses.field(default_factory=list)  # (field, another value, which must change the output of some head)
    probes_a: list = dataclasses.field(default_factory=list)  # probes for the folders -a only
    heads: dict = dataclasses.field(default_factory=dict)  # HEAD-a or HEAD-b: fields or lengths that override the type's
    unused: list = dataclasses.field(default_factory=list)  # HEAD-LETTER/parameter, as patterns: parameters without influence on the outputs
    classes: dict = dataclasses.field(default_factory=lambda: HEADS)  # HEAD: the suffix of its class's name
    seeds: dict = dataclasses.field(default_factory=dict)  # HEAD-a, HEAD-b, or a or b for all heads: a seed other than 1


BERT_A = {
    "vocab_size": 55, "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 36,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "type_vocab_size": 2, "max_position_embeddings": 48, "pad_token_id": 0,
    "tie_word_embeddings": True, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02,
}  # fmt: skip
BERT_B = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 28,
    "hidden_act": "gelu_new", "layer_norm_eps": 3e-2, "type_vocab_size": 3, "max_position_embeddings": 53, "pad_token_id": 3,
    "tie_word_embeddings": False, "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3, "initializer_range": 0.05,
}  # fmt: skip
# Positions of these types start after pad_token_id; a model without token types has one type.
ROBERTA_A = BERT_A | {
    "type_vocab_size": 1, "max_position_embeddings": 49, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
ROBERTA_B = BERT_B | {
    "type_vocab_size": 2, "max_position_embeddings": 58, "pad_token_id": 4, "bos_token_id": 3, "eos_token_id": 5,
}  # fmt: skip
BERT_PROBES = [("hidden_act", "tanh"), ("layer_norm_eps", 0.2), ("num_attention_heads", 2)]
LENGTHS = (13, (17, 11, 6), 47), (9, (14, 14, 5), 53)

TYPES = {
    "bert": Type("Bert", BERT_A, BERT_B, LENGTHS, BERT_PROBES, unused=["masked-lm-b/cls.predictions.bias"]),
    "roberta": Type(
        "Roberta", ROBERTA_A, ROBERTA_B | {"hidden_act": "relu"}, LENGTHS, BERT_PROBES + [("pad_token_id", 0)],
        unused=["masked-lm-b/lm_head.bias"],
    ),
    "xlm-roberta": Type(
        "XLMRoberta", ROBERTA_A | {"vocab_size": 58}, ROBERTA_B | {"hidden_act": "silu"}, LENGTHS,
        BERT_PROBES + [("pad_token_id", 0)], unused=["masked-lm-b/lm_head.bias"], seeds={"sequence-b": 3},
    ),
    "distilbert": Type(
        "DistilBert",
        {
            "vocab_size": 55, "dim": 20, "n_layers": 2, "n_heads": 5, "hidden_dim": 36, "activation": "gelu",
            "max_position_embeddings": 48, "pad_token_id": 0, "tie_word_embeddings": True, "sinusoidal_pos_embds": False,
            "dropout": 0.1, "attention_dropout": 0.1, "qa_dropout": 0.1, "seq_classif_dropout": 0.2, "initializer_range": 0.02,
        },
        {
            "vocab_size": 50, "dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 28, "activation": "relu",
            "max_position_embeddings": 53, "pad_token_id": 3, "tie_word_embeddings": False, "sinusoidal_pos_embds": True,
            "dropout": 0.2, "attention_dropout": 0.3, "qa_dropout": 0.2, "seq_classif_dropout": 0.1, "initializer_range": 0.05,
        },
        LENGTHS, [("activation", "tanh"), ("n_heads", 2)],
    ),
    "nomic_bert": Type(
        "NomicBert",
        BERT_A | {
            "hidden_act": "silu", "hidden_size": 30, "head_dim": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
        },
        BERT_B | {
            "hidden_act": "gelu", "head_dim": 6, "rope_parameters": {"rope_type": "default", "rope_theta": 20.0},
        },
        LENGTHS,
        [
            ("hidden_act", "tanh"), ("layer_norm_eps", 0.2),
            ("rope_parameters", {"rope_type": "default", "rope_theta": 3.0}),
        ],
        unused=["masked-lm-b/cls.predictions.bias"],
        seeds={"sequence-b": 2, "token-b": 2},
        classes={head: HEADS[head] for head in ("base", "masked-lm", "sequence", "token")},
    ),
    "modernbert": Type(
        "ModernBert",
        {
            "vocab_size": 55, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 20,
            "hidden_activation": "gelu", "classifier_activation": "gelu", "norm_eps": 1e-5, "norm_bias": False,
            "attention_bias": False, "mlp_bias": False, "decoder_bias": True, "classifier_bias": False,
            "classifier_pooling": "cls", "local_attention": 8, "layer_types": None,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
            "max_position_embeddings": 64, "tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 1,
            "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "initializer_range": 0.02, "embedding_dropout": 0.0,
            "attention_dropout": 0.0, "mlp_dropout": 0.0, "classifier_dropout": 0.0, "initializer_cutoff_factor": 2.0,
        },
        {
            "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 28,
            "hidden_activation": "silu", "classifier_activation": "relu", "norm_eps": 3e-2, "norm_bias": True,
            "attention_bias": True, "mlp_bias": True, "decoder_bias": False, "classifier_bias": True,
            "classifier_pooling": "mean", "local_attention": 5,
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 900.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
            },
            "max_position_embeddings": 53, "tie_word_embeddings": False, "pad_token_id": 3, "bos_token_id": 4,
            "cls_token_id": 4, "eos_token_id": 5, "sep_token_id": 5, "initializer_range": 0.05, "embedding_dropout": 0.1,
            "attention_dropout": 0.1, "mlp_dropout": 0.1, "classifier_dropout": 0.1, "initializer_cutoff_factor": 3.0,
        },
        LENGTHS,
        [
            ("hidden_activation", "tanh"), ("classifier_activation", "tanh"), ("norm_eps", 0.2), ("num_attention_heads", 4),
            ("classifier_pooling", "cls"), ("classifier_pooling", "mean"), ("local_attention", 6), ("local_attention", 10),
            ("rope_parameters", {
                "full_attention": {"rope_type": "default", "rope_theta": 5.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5.0},
            }),
        ],
    ),
    "longformer": Type(
        "Longformer", ROBERTA_A | {"attention_window": 8, "sep_token_id": 2},
        ROBERTA_B | {"attention_window": [4, 12, 6], "sep_token_id": 5},
        ((13, (21, 13, 17), 47), (9, (22, 22, 15), 53)),
        BERT_PROBES + [("pad_token_id", 3), ("attention_window", 2), ("attention_window", 16)],
        unused=["masked-lm-b/lm_head.bias"], seeds={"a": 3},
    ),
    "big_bird": Type(
        "BigBird",
        BERT_A | {
            "hidden_act": "gelu_new", "max_position_embeddings": 56, "sep_token_id": 2, "attention_type": "block_sparse",
            "block_size": 4, "num_random_blocks": 1, "use_bias": True, "rescale_embeddings": False,
        },
        BERT_B | {
            "hidden_act": "relu", "max_position_embeddings": 57, "sep_token_id": 5, "attention_type": "original_full",
            "block_size": 3, "num_random_blocks": 2, "use_bias": False, "rescale_embeddings": True,
        },
        ((13, (31, 26, 13), 53), (9, (29, 29, 19), 53)),
        BERT_PROBES + [
            ("attention_type", "original_full"), ("attention_type", "block_sparse"), ("block_size", 2), ("block_size", 5),
            ("num_random_blocks", 3), ("rescale_embeddings", True), ("rescale_embeddings", False), ("sep_token_id", 1),
        ],
        # A single kind of attention, with other blocks.
        heads={"base-b": {"attention_type": "block_sparse"}, "question-b": {"attention_type": "block_sparse"}},
        unused=[
            "masked-lm-b/cls.predictions.bias", "masked-lm-?/bert.pooler.*", "sequence-?/bert.pooler.*",
            "token-?/bert.pooler.*",
        ],
    ),
    # With as many landmarks as segment_means_seq_len the attention is exact and takes rows of any length; with fewer it takes
    # rows of that length only.
    "nystromformer": Type(
        "Nystromformer",
        BERT_A | {
            "hidden_act": "gelu_new", "max_position_embeddings": 47, "segment_means_seq_len": 27, "num_landmarks": 9,
            "conv_kernel_size": 5, "bos_token_id": 1, "eos_token_id": 2,
        },
        BERT_B | {
            "hidden_act": "silu", "segment_means_seq_len": 36, "num_landmarks": 36, "conv_kernel_size": 7,
            "bos_token_id": 4, "eos_token_id": 5,
        },
        ((27, (27, 19, 8), 27), (9, (14, 14, 5), 53)),
        BERT_PROBES[:2] + [("num_landmarks", 5), ("num_landmarks", 3)],
        heads={
            "sequence-b": {
                "segment_means_seq_len": 39, "num_landmarks": 13, "conv_kernel_size": 3, "lengths": (39, (39, 26, 11), 39),
            },
            "token-a": {"segment_means_seq_len": 28, "num_landmarks": 28, "conv_kernel_size": 3, "lengths": LENGTHS[0]},
            "question-b": {
                "segment_means_seq_len": 40, "num_landmarks": 5, "conv_kernel_size": 1, "lengths": (40, (40, 33, 9), 40),
            },
        },
        unused=["masked-lm-b/cls.predictions.bias"],
        seeds={"token-a": 2, "question-a": 2},
    ),
    "reformer": Type(
        "Reformer",
        {
            "vocab_size": 55, "hidden_size": 24, "attn_layers": ["lsh", "local"], "num_attention_heads": 3,
            "attention_head_size": 6, "feed_forward_size": 40, "hidden_act": "relu", "layer_norm_eps": 1e-12,
            "axial_pos_embds": True, "axial_pos_shape": [5, 12], "axial_pos_embds_dim": [8, 16], "axial_norm_std": 1.0,
            "max_position_embeddings": 400, "local_attn_chunk_length": 6, "lsh_attn_chunk_length": 4,
            "local_num_chunks_before": 1, "local_num_chunks_after": 1, "lsh_num_chunks_before": 1, "lsh_num_chunks_after": 0,
            "num_buckets": 6, "num_hashes": 1, "hash_seed": 0, "pad_token_id": 0, "eos_token_id": 2, "chunk_size_lm_head": 0,
            "chunk_size_feed_forward": 0, "use_cache": True, "hidden_dropout_prob": 0.1, "initializer_range": 0.02,
            "local_attention_probs_dropout_prob": 0.1, "lsh_attention_probs_dropout_prob": 0.1,
        },
        {
            "vocab_size": 50, "hidden_size": 16, "attn_layers": ["local", "lsh", "lsh"], "num_attention_heads": 2,
            "attention_head_size": 5, "feed_forward_size": 28, "hidden_act": "gelu_new", "layer_norm_eps": 3e-2,
            "axial_pos_embds": False, "axial_pos_shape": [6, 10], "axial_pos_embds_dim": [4, 12], "axial_norm_std": 0.5,
            "max_position_embeddings": 60, "local_attn_chunk_length": 5, "lsh_attn_chunk_length": 10,
            "local_num_chunks_before": 3, "local_num_chunks_after": 0, "lsh_num_chunks_before": 0, "lsh_num_chunks_after": 2,
            "num_buckets": [4, 2], "num_hashes": 3, "hash_seed": 1234, "pad_token_id": 3, "eos_token_id": 5,
            "chunk_size_lm_head": 1, "chunk_size_feed_forward": 1, "use_cache": False, "hidden_dropout_prob": 0.2,
            "initializer_range": 0.05, "local_attention_probs_dropout_prob": 0.2, "lsh_attention_probs_dropout_prob": 0.2,
        },
        ((23, (26, 20, 7), 49), (17, (23, 23, 12), 53)),
        [
            ("hidden_act", "tanh"), ("layer_norm_eps", 0.2), ("local_attn_chunk_length", 4), ("lsh_attn_chunk_length", 6),
            ("local_num_chunks_before", 2), ("local_num_chunks_after", 2), ("lsh_num_chunks_before", 2),
            ("lsh_num_chunks_after", 1), ("num_buckets", 12), ("num_buckets", [2, 6]), ("num_hashes", 2), ("hash_seed", 7),
            ("is_decoder", True),
        ],
        heads={
            "masked-lm-a": {"num_buckets": None}, "masked-lm-b": {"num_buckets": [2, 2, 4]},
            # torch generates fewer than 16 random numbers by another algorithm.
            "sequence-a": {"num_buckets": 2, "num_attention_heads": 4, "attention_head_size": 3},
            "sequence-b": {"num_buckets": [8]},
            "question-a": {"num_buckets": [4, 4]}, "question-b": {"num_buckets": None},
            "causal-a": {"num_buckets": None, "local_num_chunks_after": 0},
            "causal-b": {"num_buckets": 8, "local_num_chunks_after": 0, "lsh_num_chunks_before": 2, "lsh_num_chunks_after": 0},
        },
        # Only if the number of buckets is null and large
        probes_a=[("max_position_embeddings", 60)],
        unused=["masked-lm-?/lm_head.bias", "causal-?/lm_head.bias"],
        classes=HEADS_REFORMER,
        seeds={"base-b": 2, "masked-lm-b": 4, "sequence-b": 5, "question-b": 5, "causal-b": 4},
    ),
    "gpt2": Type(
        "GPT2",
        {
            "vocab_size": 97, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": None,
            "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False, "pad_token_id": 0, "bos_token_id": 0,
            "eos_token_id": 0, "initializer_range": 0.02, "use_cache": True, "tie_word_embeddings": True, "resid_pdrop": 0.1,
            "embd_pdrop": 0.1, "attn_pdrop": 0.1, "classifier_dropout": 0.1,
        },
        {
            "vocab_size": 109, "n_positions": 54, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_inner": 40,
            "activation_function": "relu", "layer_norm_epsilon": 2e-2, "scale_attn_weights": False,
            "scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True, "pad_token_id": 1, "bos_token_id": 2,
            "eos_token_id": 3, "initializer_range": 0.2, "use_cache": False, "tie_word_embeddings": False, "resid_pdrop": 0.0,
            "embd_pdrop": 0.2, "attn_pdrop": 0.2, "classifier_dropout": 0.2,
        },
        LENGTHS,
        [
            ("activation_function", "tanh"), ("layer_norm_epsilon", 0.2), ("n_head", 2), ("scale_attn_weights", True),
            ("scale_attn_weights", False), ("scale_attn_by_inverse_layer_idx", True), ("scale_attn_by_inverse_layer_idx", False),
        ],
        classes=HEADS_GPT2,
    ),
}  # fmt: skip

# NAME: (seed, fields)
GPT2 = {
    "gpt2-a": (39, {
        "vocab_size": 97, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": None,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False, "tie_word_embeddings": True,
        "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.02, "use_cache": True,
        "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
    }),
    "gpt2-b": (22, {
        "vocab_size": 109, "n_positions": 144, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_inner": 40,
        "activation_function": "relu", "layer_norm_epsilon": 2e-2, "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True, "tie_word_embeddings": False,
        "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "initializer_range": 0.2, "use_cache": False,
        "resid_pdrop": 0.0, "embd_pdrop": 0.2, "attn_pdrop": 0.2,
    }),
}  # fmt: skip

GAINS = {
    "query": 1.8, "key": 1.8, "q_lin": 1.8, "k_lin": 1.8, "query_global": 1.8, "key_global": 1.8, "query_key": 1.3,
    "Wqkv": 1.3, "c_attn": 1.2, "value": 0.8, "v_lin": 0.8, "value_global": 0.8, "pooler": 0.8, "decoder": 2.0,
    "vocab_projector": 2.0, "lm_head": 2.0, "qa_outputs": 1.5, "classifier": 1.5, "out_proj": 1.5,
}  # fmt: skip


def is_norm(name):
    part = name.split(".")[-2].lower()
    return "norm" in part or part in ("ln_1", "ln_2", "ln_f")


def value(name, like, tied, generator):
    """A random value of a parameter, close to its usual value in a trained model."""
    r = torch.randn(like.shape, generator=generator)
    part = name.split(".")
    if part[-1] == "bias":
        return 0.3 * r
    if is_norm(name):
        return 1.0 + 0.3 * r
    if part[-2] in ("word_embeddings", "tok_embeddings", "wte"):
        return r * (1.7 * like.shape[-1] ** -0.5 if tied else 0.6)
    if "position_embeddings" in part or part[-2] == "token_type_embeddings":
        return 0.4 * r
    if part[-2] == "wpe":
        return 0.8 * r
    if part[-2] == "conv":
        return r * like.shape[-2] ** -0.5
    fan_in = like.shape[0] if name.startswith("transformer.h.") else like.shape[-1]  # GPT-2 has its matrices transposed
    return r * GAINS.get(part[-2], 1.2) * fan_in**-0.5


def fill(model, seed):
    """Sets the parameters of a model from a seed."""
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in model.named_parameters():
        parameter.copy_(value(key, parameter, model.config.tie_word_embeddings, generator))
    return model.eval()


def own(head):
    """The fields that configure a head."""
    labels = LABELS.get(head)
    if labels:
        return {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    return {"is_decoder": True} if head == "causal" else {}


def fields_of(kind, head, letter):
    """The fields of a folder and its lengths."""
    fields = (kind.a if letter == "a" else kind.b) | kind.heads.get(f"{head}-{letter}", {})
    lengths = fields.pop("lengths", kind.lengths[letter == "b"])
    return fields, lengths


def classes(kind, head):
    return getattr(transformers, f"{kind.name}Config"), getattr(transformers, kind.name + kind.classes[head])


def build(kind, head, fields):
    """A model with transformers' own parameters."""
    config_class, model_class = classes(kind, head)
    return model_class._from_config(
        config_class(**copy.deepcopy(own(head) | fields)), attn_implementation="eager"
    ).eval()


class Inputs:
    """Random inputs for a configuration."""

    def __init__(self, config, seed):
        self.config, self.generator = config, torch.Generator().manual_seed(seed + 1000)

    def random(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.generator)

    def rows(self, *lengths, left=False):
        """Rows of these lengths, with a mask if there are several. None has a special token."""
        longest = max(lengths)
        case = {"input_ids": self.random(FIRST, self.config.vocab_size, len(lengths), longest)}
        if len(lengths) > 1:
            at = torch.arange(longest)[None, :]
            if left:
                at = at.flip(1)
            mask = at < torch.tensor(lengths)[:, None]
            case["attention_mask"] = mask.long()
            case["input_ids"][~mask] = self.config.pad_token_id
        return case

    def types(self, case):
        """Adds token types, if the model has several."""
        if getattr(self.config, "type_vocab_size", 1) > 1:
            case["token_type_ids"] = self.random(0, self.config.type_vocab_size, *case["input_ids"].shape)
        return case

    def separated(self, case, *places):
        """Puts a separator at these positions of each row."""
        for row, at in enumerate(places):
            case["input_ids"][row, at] = self.config.sep_token_id
        return case

    def globals(self, case, *places):
        """Makes these tokens of each row global."""
        case["global_attention_mask"] = torch.zeros_like(case["input_ids"])
        for row, at in enumerate(places):
            case["global_attention_mask"][row, at] = 1
        return case


def further(name, head, letter, make, cases):
    """Changes the first three cases where a type requires it, and returns its further cases."""
    short, batch, long = cases
    if name == "longformer" and head == "question":
        # All tokens before the first separator are global, and every row must have three separators.
        make.separated(short, [3, 4, 8])
        make.separated(batch, [5, 6, 20], [2, 3, 12], [7, 9, 14])
        make.separated(long, [9, 10, 46])
        return [make.globals(make.rows(19, 12), [0, 4], [11])]
    if name == "longformer" and head != "sequence":
        every = make.rows(19)
        every["global_attention_mask"] = torch.ones_like(every["input_ids"])
        some = make.globals(make.rows(27, 20, 9), [0, 5, 17, 26], [], [3])
        return [every, make.types(some)]
    if name == "big_bird" and head == "question":
        # The first separator ends the question. If no token types are given, the model uses 0 in the question and 1 after it.
        make.separated(short, [4, 7])
        make.separated(batch, [9, 20], [3], [0, 12])
        return [make.types(make.separated(make.rows(33, 30), [6], []))]
    if name == "reformer":
        # A row shorter than all chunks, rows of a multiple of the chunks' lengths, rows shorter than that.
        return [make.rows(3), *([make.rows(12, 9), make.rows(5)] if letter == "a" else [make.rows(10, 6), make.rows(7, 4)])]
    if head == "base" and name != "nystromformer":
        left = make.types(make.rows(12, 7, left=True))
        left["input_ids"][0, 5] = make.config.pad_token_id  # an ordinary token whose id is that of padding
        return [left]
    return []


def cases_of(name, head, letter, config, lengths, seed):
    make = Inputs(config, seed)
    short, batch, long = lengths
    cases = [make.rows(short), make.types(make.rows(*batch)), make.rows(long)]
    return cases + further(name, head, letter, make, cases)


def given(name, config, case):
    """The arguments of the model."""
    case = dict(case)
    if name == "nystromformer" and config.num_landmarks != config.segment_means_seq_len and "attention_mask" in case:
        hidden = case["attention_mask"][:, None, None, :] == 0
        case["attention_mask"] = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
    return case


def compute(name, head, model, case):
    """The outputs of a model in one case."""
    model = copy.deepcopy(model)
    seen = []
    base = model if head == "base" else getattr(model, model.base_model_prefix)
    hook = base.register_forward_hook(lambda module, args, out: seen.append(out))
    out = model(**given(name, model.config, case))
    hook.remove()
    e = {"last_hidden_state": seen[0].last_hidden_state}
    for key in ("pooler_output",) if head == "base" else ("logits", "start_logits", "end_logits"):
        if getattr(out, key, None) is not None:
            e[key] = out[key]
    return e


def changes(e, other):
    """The largest difference, without positions that may not be an answer, from which big_bird subtracts a million."""
    return max((torch.where(e[key].abs() < 1e5, e[key] - other[key], 0.0).abs().max().item() for key in e), default=0.0)


def exact(name, head, model, case):
    """The outputs of a model in float64; the rotations of reformer are still drawn in float32, since its hashes would differ otherwise."""
    default, randn = torch.get_default_dtype(), torch.randn

    def drawn(*shape, dtype=None, **more):
        return randn(*shape, dtype=torch.float32, **more).to(dtype or torch.float64)

    model = copy.deepcopy(model).double()
    for module in model.modules():
        if hasattr(module, "reorder_and_upcast_attn"):
            module.reorder_and_upcast_attn = False  # GPT-2's attention in float32 requires it.
    torch.set_default_dtype(torch.float64)  # for the masks that some models create
    with unittest.mock.patch.object(torch, "randn", drawn):
        e = compute(name, head, model, case)
    torch.set_default_dtype(default)
    return e


def rounding(name, head, model, case, e):
    """The difference from the outputs of a model in float64; for reformer without padding, which attends uniformly in float32."""
    found, e = exact(name, head, model, case), {key: x.double() for key, x in e.items()}
    mask = case.get("attention_mask")
    if name == "reformer" and mask is not None:
        there = mask.bool()
        found, e = ({key: x[there] if x.shape[:2] == there.shape else x for key, x in of.items()} for of in (found, e))
    return changes(found, e)


def prove(name, head, letter, model, cases, expected):
    """Checks that each parameter matters: without it the outputs differ, unless it is listed as unused."""
    for key, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        parameter.data.fill_(1.0 if is_norm(key) and key.endswith("weight") else 0.0)
        unused = any(fnmatch.fnmatch(f"{head}-{letter}/{key}", pattern) for pattern in TYPES[name].unused)
        cancels = key.endswith((".key.bias", ".key_global.bias", ".k_lin.bias"))
        change = 0.0
        for case, e in zip(cases, expected):
            change = max(change, changes(e, compute(name, head, model, case)))
            if change > 0.05 and not unused and not cancels:
                break
        parameter.data.copy_(kept)
        right = change == 0.0 if unused else change < 1e-4 if cancels else change > 0.05
        assert right, f"{name}-{head}-{letter}: {key} changes the outputs by {change}"


def probes(kind, letter):
    return kind.probes + (kind.probes_a if letter == "a" else [])


def probe(name, head, letter, state, fields, cases, expected):
    """The fields of the type's probes that affect the outputs."""
    kind, found = TYPES[name], set()
    fields = own(head) | fields
    for field, other in probes(kind, letter):
        if field in found or fields.get(field) == other:
            continue
        try:
            model = build(kind, head, fields | {field: other})
            model.load_state_dict(state)
            if any(changes(e, compute(name, head, model, case)) > 1e-3 for case, e in zip(cases, expected)):
                found.add(field)
        except (AssertionError, RuntimeError, ValueError, IndexError):
            continue  # a value that this head does not support
    return found


class HashGap:
    """Records the margin by which each hash of reformer was decided."""

    def __init__(self):
        self.least = float("inf")

    def __enter__(self):
        argmax = torch.argmax

        def watched(x, dim):
            best = x.topk(2, dim=dim).values
            self.least = min(self.least, (best[..., 0] - best[..., 1]).min().item())
            return argmax(x, dim=dim)

        self.patch = unittest.mock.patch.object(torch, "argmax", watched)
        self.patch.start()
        return self

    def __exit__(self, *_):
        self.patch.stop()


def save(path, tensors, metadata):
    """Saves as safetensors does, but with ordered metadata, so that the bytes are reproducible."""
    data = safetensors.torch.save({name: x.contiguous() for name, x in tensors.items()})
    size = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def metadata(seed):
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    return {"made_by": "encoders.py", "seed": str(seed)} | versions


def fresh(name):
    path = HERE / name
    shutil.rmtree(path, ignore_errors=True)
    return path


def edit(path, change):
    """Applies a function to the contents of config.json."""
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load(path, model_class):
    """The model of a folder as loaded by `from_pretrained`, without missing or unexpected weights."""
    model, info = model_class.from_pretrained(path, attn_implementation="eager", output_loading_info=True)
    assert not any(info.values()), f"{path.name}: {info}"
    return model.eval()


def make(name, head, letter):
    """Writes a folder. Returns the fields of the probes that affect its outputs."""
    kind = TYPES[name]
    where = f"{name}-{head}-{letter}"
    fields, lengths = fields_of(kind, head, letter)
    seed = kind.seeds.get(f"{head}-{letter}", kind.seeds.get(letter, 1))
    source = fill(build(kind, head, fields), seed)
    path = fresh(f"encoders/{where}")
    source.save_pretrained(path)
    if name == "longformer" and letter == "a":
        edit(path / "config.json", lambda config: config.update(attention_window=fields["attention_window"]))
    model = load(path, type(source))
    state = source.state_dict()
    assert all(x.equal(state[key]) for key, x in model.state_dict().items()), f"{where}: what was loaded"

    cases = cases_of(name, head, letter, model.config, lengths, seed)
    with HashGap() as gap:
        expected = [compute(name, head, model, case) for case in cases]
    assert gap.least > MIN_HASH_GAP or name != "reformer", f"{where}: a hash is a close call, {gap.least}"
    for case, e in zip(cases, expected):
        again = compute(name, head, model, case)
        off = rounding(name, head, model, case, e)
        # The scores of copies of a token that attends only to itself are 100,000 below the others, where float32 resolves 1/128.
        assert off < (5e-2 if name == "reformer" else MAX_ROUNDING), f"{where}: float64 gives something else by {off}"
        for key, x in e.items():
            real = x[x.abs() < 1e5]
            assert x.equal(again[key]) and x.isfinite().all(), f"{where}: {key} differs from itself"
            assert 0.1 < real.std() < 6.0 or real.numel() < 12, f"{where}: the spread of {key} is {real.std()}"
            if x.dim() == 3 and x.shape[1] > 1:
                assert x.std(dim=1).mean() > 0.15, f"{where}: {key} is the same everywhere, {x.std(dim=1).mean()}"
    prove(name, head, letter, model, cases, expected)
    found = probe(name, head, letter, state, fields, cases, expected)
    if name == "reformer":
        expected = [{key: x.float() for key, x in exact(name, head, model, case).items()} for case in cases]
    tensors = {f"c{n}.{key}": x for n, case in enumerate(cases) for key, x in (case | expected[n]).items()}
    save(path / "expected.safetensors", tensors, metadata(seed))
    return found


def differ(name, head):
    """The configurations a and b have the same fields with other values, except where the head has its own."""
    (a, _), (b, _) = fields_of(TYPES[name], head, "a"), fields_of(TYPES[name], head, "b")
    same = [field for field in a.keys() | b.keys() if a.get(field, "x") == b.get(field, "x")]
    same += sorted(a.keys() ^ b.keys())
    allowed = set().union(*(TYPES[name].heads.get(f"{head}-{letter}", {}) for letter in "ab"))
    assert set(same) <= allowed, f"{name}-{head}: a and b have the same {same}"


def make_type(name):
    for head in TYPES[name].classes:
        differ(name, head)
    for letter in "ab":
        found = set()
        for head in TYPES[name].classes:
            found |= make(name, head, letter)
        idle = {field for field, _ in probes(TYPES[name], letter)} - found
        assert not idle, f"{name}-?-{letter}: {idle} change nothing"


def same_as(path, model_class, name):
    """Checks that the outputs of a folder equal its expected.safetensors."""
    model = load(path, model_class)
    e = safetensors.torch.load_file(path / "expected.safetensors")
    for n in range(sum(key.endswith(".input_ids") for key in e)):
        case = {key[3:]: x for key, x in e.items() if key.startswith(f"c{n}.")}
        outputs = {key: case.pop(key) for key in ("last_hidden_state", "pooler_output") if key in case}
        assert changes(outputs, compute(name, "base", model, case)) == 0.0, f"{path.name}: case {n}"


def make_legacy_bert():
    path = fresh("encoders/bert-base-a-legacy")
    shutil.copytree(HERE / "encoders/bert-base-a", path)
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for key, x in tensors.items():
        for new in old:
            key = key.replace(new, old[new])
        renamed[f"bert.{key}"] = x
    assert len(renamed) == len(tensors) and not any(key.startswith("bert.") for key in tensors)
    save(path / "model.safetensors", renamed, {"format": "pt"})
    same_as(path, transformers.BertModel, "bert")


def make_legacy_modernbert():
    path = fresh("encoders/modernbert-base-a-legacy")
    shutil.copytree(HERE / "encoders/modernbert-base-a", path)

    def older(config):
        for new, old in ("full_attention", "global"), ("sliding_attention", "local"):
            config[f"{old}_rope_theta"] = config["rope_parameters"][new]["rope_theta"]
        for field in "rope_parameters", "layer_types":
            del config[field]
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = "4.57.3"
        config |= {"global_attn_every_n_layers": 3, "position_embedding_type": "absolute", "reference_compile": None}
        config |= {"repad_logits_with_grad": False, "layer_norm_eps": 1e-5, "gradient_checkpointing": False}

    edit(path / "config.json", older)
    same_as(path, transformers.ModernBertModel, "modernbert")


def make_legacy_nomic_bert():
    path = fresh("encoders/nomic_bert-base-a-legacy")
    shutil.copytree(HERE / "encoders/nomic_bert-base-a", path)
    def older(config):
        new = dict(config)
        config.clear()
        config |= {
            "model_type": "nomic_bert", "architectures": ["NomicBertModel"], "n_embd": new["hidden_size"],
            "n_head": new["num_attention_heads"], "n_inner": new["intermediate_size"], "n_layer": new["num_hidden_layers"],
            "n_positions": 8192, "max_trained_positions": 2048, "vocab_size": new["vocab_size"],
            "type_vocab_size": new["type_vocab_size"], "layer_norm_epsilon": new["layer_norm_eps"],
            "rotary_emb_base": new["rope_parameters"]["rope_theta"], "rotary_emb_fraction": 1.0,
            "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": None,
            "activation_function": "swiglu", "causal": False, "prenorm": False, "qkv_proj_bias": False, "mlp_fc1_bias": False,
            "mlp_fc2_bias": False, "use_rms_norm": False, "parallel_block": False, "pad_vocab_size_multiple": 64,
        }  # fmt: skip

    edit(path / "config.json", older)


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


def expect_gpt2(name, model, seed):
    """The tensors of expected.safetensors of GPT-2, those that make.py writes."""
    make = Inputs(model.config, seed)
    e = {key: make.random(4, model.config.vocab_size, *shape) for key, shape in
         {"input_ids": (2, 45), "padded_ids": (2, 20), "prompt": (1, 12)}.items()}  # fmt: skip
    e["attention_mask"] = torch.ones_like(e["padded_ids"])
    e["attention_mask"][1, :7] = 0
    e["padded_ids"][1, :7] = model.config.pad_token_id
    positions = (e["attention_mask"].cumsum(1) - 1).clamp(min=0)
    e["logits"] = model(e["input_ids"], use_cache=False).logits
    e["last_hidden_state"] = model.transformer(e["input_ids"], use_cache=False).last_hidden_state
    e["padded_logits"] = model(
        e["padded_ids"], attention_mask=e["attention_mask"], position_ids=positions, use_cache=False
    ).logits
    alone = model(e["padded_ids"][1:, 7:], use_cache=False).logits
    assert (alone - e["padded_logits"][1:, 7:]).abs().max() < 1e-4, f"{name}: padding changes what follows it"
    e["greedy"], gap = greedy(model, e["prompt"], False)
    cached, cached_gap = greedy(model, e["prompt"], True)
    assert e["greedy"].equal(cached), f"{name}: the cache"
    assert min(gap, cached_gap) > MIN_GAP, f"{name}: a close call, {gap} {cached_gap}"
    assert len(set(cached.tolist())) > 20, f"{name}: it repeats itself, {len(set(cached.tolist()))}"
    assert model.config.eos_token_id not in cached, f"{name}: it ends"
    assert 1.0 < e["logits"].std() < 3.0, f"{name}: the spread of the logits is {e['logits'].std()}"
    return e


def make_gpt2(name):
    seed, fields = GPT2[name]
    assert not [field for field in fields if GPT2["gpt2-a"][1][field] == GPT2["gpt2-b"][1][field]]
    source = fill(transformers.GPT2LMHeadModel(transformers.GPT2Config(**fields)), seed)
    path = fresh(name)
    source.save_pretrained(path)
    model = load(path, transformers.GPT2LMHeadModel)
    e = expect_gpt2(name, model, seed)
    for key, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        parameter.data.fill_(1.0 if is_norm(key) and key.endswith("weight") else 0.0)
        change = (model(e["input_ids"], use_cache=False).logits - e["logits"]).abs().max().item()
        parameter.data.copy_(kept)
        assert change > 0.05, f"{name}: {key} changes the logits by {change}"
    others = {"activation_function": "tanh", "layer_norm_epsilon": 0.2, "n_head": 2}
    others |= {field: not fields[field] for field in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx")}
    for field, other in others.items():
        changed = transformers.GPT2LMHeadModel(transformers.GPT2Config(**fields | {field: other})).eval()
        changed.load_state_dict(model.state_dict())
        change = (changed(e["input_ids"], use_cache=False).logits - e["logits"]).abs().max().item()
        assert change > 0.05, f"{name}: {field} changes the logits by {change}"
    save(path / "expected.safetensors", e, metadata(seed))


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    wanted = sys.argv[1:] or [*TYPES]
    for name in wanted:
        if name in TYPES:
            make_type(name)
    if "bert" in wanted:
        make_legacy_bert()
    if "modernbert" in wanted:
        make_legacy_modernbert()
    if "nomic_bert" in wanted:
        make_legacy_nomic_bert()
    if "gpt2" in wanted:
        for name in GPT2:
            make_gpt2(name)


if __name__ == "__main__":
    main()
