"""Block layouts of DeepSpeed and random blocks of transformers' BigBird, for tests/laws/layouts.rs.

pip install torch==2.13.0 transformers==5.23.0 numpy
python layouts.py PATH_TO/deepspeed/ops/sparse_attention/sparsity_config.py     (DeepSpeed 0.16.5)
"""
import importlib.util
import json
import random
import sys
from pathlib import Path

import numpy as np

spec = importlib.util.spec_from_file_location("sparsity_config", sys.argv[1])
ds = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ds)

CLASSES = {
    "dense": ds.DenseSparsityConfig,
    "fixed": ds.FixedSparsityConfig,
    "variable": ds.VariableSparsityConfig,
    "bigbird": ds.BigBirdSparsityConfig,
    "bslongformer": ds.BSLongformerSparsityConfig,
    "localslidingwindow": ds.LocalSlidingWindowSparsityConfig,
}
UNI, BI = "unidirectional", "bidirectional"
HEADS = 4
GRID = [
    ("dense", {}),
    ("fixed", {}),
    ("fixed", {"attention": UNI}),
    ("fixed", {"num_local_blocks": 6, "num_global_blocks": 2, "attention": UNI}),
    ("fixed", {"num_local_blocks": 6, "num_global_blocks": 3, "horizontal_global_attention": True}),
    ("fixed", {"num_local_blocks": 4, "num_global_blocks": 4}),
    ("fixed", {"num_local_blocks": 4, "different_layout_per_head": True, "num_different_global_patterns": 4, "attention": UNI}),
    ("fixed", {"num_local_blocks": 8, "num_global_blocks": 2, "different_layout_per_head": True,
               "num_different_global_patterns": 3, "horizontal_global_attention": True, "block": 64}),
    ("fixed", {"num_local_blocks": 1}),
    ("variable", {}),
    ("variable", {"local_window_blocks": [1, 3, 2], "global_block_indices": [0, 5], "attention": UNI}),
    ("variable", {"local_window_blocks": [2, 5], "global_block_indices": [3, 40], "horizontal_global_attention": True}),
    ("variable", {"global_block_indices": [0, 6], "global_block_end_indices": [2, 30], "horizontal_global_attention": True}),
    ("variable", {"global_block_indices": [2], "global_block_end_indices": [4], "attention": UNI}),
    ("variable", {"num_random_blocks": 2}),
    ("variable", {"num_random_blocks": 6, "different_layout_per_head": True, "local_window_blocks": [30]}),
    ("bigbird", {"num_random_blocks": 1}),
    ("bigbird", {"num_random_blocks": 3, "num_sliding_window_blocks": 5, "num_global_blocks": 2}),
    ("bigbird", {"num_random_blocks": 1, "attention": UNI}),
    ("bigbird", {"num_random_blocks": 1, "num_sliding_window_blocks": 4, "attention": UNI, "different_layout_per_head": True}),
    ("bigbird", {"num_random_blocks": 6, "different_layout_per_head": True, "block": 32}),
    ("bslongformer", {}),
    ("bslongformer", {"num_sliding_window_blocks": 6, "global_block_indices": [1, 7, 99]}),
    ("bslongformer", {"global_block_indices": [0, 8], "global_block_end_indices": [3, 50], "attention": UNI}),
    ("bslongformer", {"num_sliding_window_blocks": 1, "different_layout_per_head": True}),
    ("localslidingwindow", {}),
    ("localslidingwindow", {"num_sliding_window_blocks": 4, "attention": BI}),
]


def layouts():
    for mode, fields in GRID:
        for blocks in (7, 12, 23, 60):
            seed = len(fields) * 1000 + blocks
            config = CLASSES[mode](num_heads=HEADS, **fields)
            random.seed(seed)
            layout = config.make_layout(blocks * config.block).numpy()
            heads = HEADS if fields.get("different_layout_per_head") and mode != "dense" else 1
            assert heads > 1 or (layout == layout[0]).all()
            # Rows as whole numbers: bit c is column c.
            rows = [[str(sum(1 << c for c in range(blocks) if row[c])) for row in layout[h]] for h in range(heads)]
            yield {"config": {"mode": mode, **fields}, "blocks": blocks, "seed": seed, "heads": HEADS, "rows": rows}


def bigbird():
    from transformers import BigBirdConfig
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

    for tokens, block, r, longest in (
        (1024, 64, 3, 4096), (3072, 64, 3, 4096), (4096, 64, 3, 4096), (1024, 32, 2, 1024), (1024, 16, 3, 2048),
        (768, 64, 3, 4096), (896, 64, 4, 4096), (2048, 64, 3, 4096), (640, 32, 5, 4096),
    ):
        for seed in (0, 7):
            config = BigBirdConfig(
                hidden_size=8, num_attention_heads=2, block_size=block, num_random_blocks=r, max_position_embeddings=longest
            )
            layer = BigBirdBlockSparseAttention(config, seed=seed)
            layer.train()
            np.random.seed(seed)
            if tokens in (1024, 3072, 4096):
                drawn = [
                    layer._bigbird_block_rand_mask(longest, longest, block, block, r, last_idx=1024)[: tokens // block - 2]
                    for _ in range(2)
                ]
            else:
                lengths, counts = layer._get_rand_attn_plan(tokens, block, r)
                drawn = layer._bigbird_block_rand_mask_with_head(
                    from_seq_length=tokens, to_seq_length=tokens, from_block_size=block, to_block_size=block,
                    num_heads=2, plan_from_length=lengths, plan_num_rand_blocks=counts,
                )
            yield {
                "tokens": tokens, "block": block, "random_blocks": r, "max_length": longest, "seed": seed,
                "drawn": [d.tolist() for d in drawn],
            }


out = {"deepspeed": list(layouts()), "bigbird": list(bigbird())}
Path(__file__).with_name("layouts.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
