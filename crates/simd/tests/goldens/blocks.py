"""Blocks of random bytes and their weights, and numbers and their blocks, by the `gguf` package (0.19).

`python blocks.py` writes blocks.bin: for each format of `FORMATS`, the bytes of `BLOCKS` blocks and their weights in
f32; then, for each of `ROUNDED`, `32 BLOCKS` numbers in f32 and the bytes of their blocks.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

FORMATS = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS".split()
ROUNDED = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 MXFP4".split()
BLOCKS = 8


def main():
    rng = np.random.default_rng(1)
    parts = []
    with np.errstate(all="ignore"):
        for name in FORMATS:
            kind = GGMLQuantizationType[name]
            blocks = rng.integers(0, 256, (BLOCKS, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
            parts += [blocks, dequantize(blocks, kind)]
        for name in ROUNDED:
            numbers = rng.standard_normal((BLOCKS, 32)).astype(np.float32)
            # Among the blocks are one of zeros, one of subnormal and one of large numbers, and one with ties.
            numbers[1] = 0.0
            numbers[2] *= 1e-6
            numbers[3] *= 1e4
            numbers[4] = np.round(numbers[4] * 2) / 2
            parts += [numbers, quantize(numbers, GGMLQuantizationType[name])]
    Path(__file__).with_suffix(".bin").write_bytes(b"".join(np.ascontiguousarray(p).tobytes() for p in parts))


if __name__ == "__main__":
    main()
