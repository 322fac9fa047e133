"""Rotary frequencies and rotated vectors of transformers, for tests/laws/rotary.rs.

pip install torch==2.13.0 transformers==5.23.0
python rotary.py
"""
import json
from pathlib import Path

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

CASES = [
    ({"rope_type": "default"}, 100),
    ({"rope_type": "linear", "factor": 8.0}, 100),
    ({"rope_type": "dynamic", "factor": 2.0}, 100),
    ({"rope_type": "dynamic", "factor": 4.0}, 9000),
    ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 100),
    ({"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.7, "mscale_all_dim": 1.0,
      "beta_fast": 16, "beta_slow": 2}, 100),
    ({"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 512, "truncate": False, "attention_factor": 0.9}, 100),
    ({"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 2048,
      "short_factor": [1.0 + 0.1 * i for i in range(16)], "long_factor": [2.0 + 0.5 * i for i in range(16)]}, 100),
    ({"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 2048,
      "short_factor": [1.0 + 0.1 * i for i in range(16)], "long_factor": [2.0 + 0.5 * i for i in range(16)]}, 3000),
    ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}, 100),
    ({"rope_type": "proportional", "partial_rotary_factor": 0.3}, 100),
]
out = []
for parameters, length in CASES:
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, head_dim=32, max_position_embeddings=2048)
    config.rope_parameters = {"rope_theta": 10000.0, **parameters}
    if parameters["rope_type"] == "default":
        inverse, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        inverse, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, seq_len=length)
    out.append({"parameters": parameters, "length": length, "inverse": inverse.tolist(), "factor": factor})

torch.manual_seed(0)
x = torch.randn(1, 2, 9, 32)
config = LlamaConfig(hidden_size=64, num_attention_heads=2, head_dim=32, max_position_embeddings=2048)
config.rope_parameters = {"rope_theta": 10000.0, "rope_type": "default"}
positions = torch.tensor([[0, 1, 2, 3, 5, 8, 13, 21, 1000]])
cos, sin = LlamaRotaryEmbedding(config)(x, positions)
y, _ = apply_rotary_pos_emb(x, x, cos, sin)
turned = {"positions": positions[0].tolist(), "x": x.transpose(1, 2).flatten().tolist(), "y": y.transpose(1, 2).flatten().tolist()}
text = json.dumps({"frequencies": out, "turned": turned}, separators=(",", ":"))
Path(__file__).with_name("rotary.json").write_text(text + "\n")
