"""The sparsity configurations of DeepSpeed, with its arguments and defaults."""

from __future__ import annotations

from typing import Any, Sequence

import torch
from torch import Tensor

from longreach import _torch


class SparsityConfig:
    """What all configurations have: heads, block, and whether each head has a layout of its own."""

    mode = "dense"

    def __init__(self, num_heads: int, block: int = 16, different_layout_per_head: bool = False) -> None:
        self.num_heads = num_heads
        self.block = block
        self.different_layout_per_head = different_layout_per_head

    def fields(self) -> dict[str, Any]:
        """The fields of a ``sparse_attention`` section."""
        return {"mode": self.mode, "block": self.block, "different_layout_per_head": self.different_layout_per_head}

    def make_layout(self, seq_len: int) -> Tensor:
        """The blocks that are seen, ``[heads, blocks, blocks]``: 1 or 0."""
        if seq_len % self.block:
            raise ValueError(f"Sequence Length, {seq_len}, needs to be dividable by Block size {self.block}!")
        n = seq_len // self.block
        still = torch.zeros(1, seq_len, self.num_heads, 1)
        # With equal scores, a query has the mean of what it sees: each key says which block it is of.
        blocks = torch.eye(n).repeat_interleave(self.block, 0)[None, :, None].expand(1, seq_len, self.num_heads, n)
        seen = _torch.call("deepspeed", still, still, blocks, **self.fields())[0]
        layout: Tensor = (seen[0, :: self.block] > 0).permute(1, 0, 2).long()
        return layout


class DenseSparsityConfig(SparsityConfig):
    """All blocks."""


class FixedSparsityConfig(SparsityConfig):
    """Stretches of blocks, and the last blocks of each as global ones (Child et al. 2019)."""

    mode = "fixed"

    def __init__(
        self,
        num_heads: int,
        block: int = 16,
        different_layout_per_head: bool = False,
        num_local_blocks: int = 4,
        num_global_blocks: int = 1,
        attention: str = "bidirectional",
        horizontal_global_attention: bool = False,
        num_different_global_patterns: int = 1,
    ) -> None:
        super().__init__(num_heads, block, different_layout_per_head)
        self.num_local_blocks = num_local_blocks
        self.num_global_blocks = num_global_blocks
        self.attention = attention
        self.horizontal_global_attention = horizontal_global_attention
        self.num_different_global_patterns = num_different_global_patterns
        self.make_layout(block * num_local_blocks)  # an error of the configuration is raised here

    def fields(self) -> dict[str, Any]:
        found = {
            **super().fields(),
            "num_local_blocks": self.num_local_blocks,
            "num_global_blocks": self.num_global_blocks,
            "attention": self.attention,
            "horizontal_global_attention": self.horizontal_global_attention,
            "num_different_global_patterns": self.num_different_global_patterns,
        }
        return _blocks(found)


class VariableSparsityConfig(SparsityConfig):
    """Stretches of several lengths, global blocks at given places, and random ones."""

    local_window_blocks: list[int]
    global_block_indices: list[int]
    global_block_end_indices: list[int] | None

    mode = "variable"

    def __init__(
        self,
        num_heads: int,
        block: int = 16,
        different_layout_per_head: bool = False,
        num_random_blocks: int = 0,
        local_window_blocks: Sequence[int] = (4,),
        global_block_indices: Sequence[int] = (0,),
        global_block_end_indices: Sequence[int] | None = None,
        attention: str = "bidirectional",
        horizontal_global_attention: bool = False,
    ) -> None:
        super().__init__(num_heads, block, different_layout_per_head)
        self.num_random_blocks = num_random_blocks
        self.local_window_blocks = list(local_window_blocks)
        self.global_block_indices = list(global_block_indices)
        self.global_block_end_indices = None if global_block_end_indices is None else list(global_block_end_indices)
        self.attention = attention
        self.horizontal_global_attention = horizontal_global_attention

    def fields(self) -> dict[str, Any]:
        found = {
            **super().fields(),
            "num_random_blocks": self.num_random_blocks,
            "local_window_blocks": self.local_window_blocks,
            "global_block_indices": self.global_block_indices,
            "global_block_end_indices": self.global_block_end_indices,
            "attention": self.attention,
            "horizontal_global_attention": self.horizontal_global_attention,
        }
        return _blocks(found)


class BigBirdSparsityConfig(SparsityConfig):
    """A window, the first blocks as global ones, and random blocks (Zaheer et al. 2020)."""

    mode = "bigbird"

    def __init__(
        self,
        num_heads: int,
        block: int = 16,
        different_layout_per_head: bool = False,
        num_random_blocks: int = 1,
        num_sliding_window_blocks: int = 3,
        num_global_blocks: int = 1,
        attention: str = "bidirectional",
    ) -> None:
        super().__init__(num_heads, block, different_layout_per_head)
        self.num_random_blocks = num_random_blocks
        self.num_sliding_window_blocks = num_sliding_window_blocks
        self.num_global_blocks = num_global_blocks
        self.attention = attention

    def fields(self) -> dict[str, Any]:
        found = {
            **super().fields(),
            "num_random_blocks": self.num_random_blocks,
            "num_sliding_window_blocks": self.num_sliding_window_blocks,
            "num_global_blocks": self.num_global_blocks,
            "attention": self.attention,
        }
        return _blocks(found)


class BSLongformerSparsityConfig(SparsityConfig):
    """A window, and global blocks at given places (Beltagy et al. 2020)."""

    global_block_indices: list[int]
    global_block_end_indices: list[int] | None

    mode = "bslongformer"

    def __init__(
        self,
        num_heads: int,
        block: int = 16,
        different_layout_per_head: bool = False,
        num_sliding_window_blocks: int = 3,
        global_block_indices: Sequence[int] = (0,),
        global_block_end_indices: Sequence[int] | None = None,
        attention: str = "bidirectional",
    ) -> None:
        super().__init__(num_heads, block, different_layout_per_head)
        self.num_sliding_window_blocks = num_sliding_window_blocks
        self.global_block_indices = list(global_block_indices)
        self.global_block_end_indices = None if global_block_end_indices is None else list(global_block_end_indices)
        self.attention = attention

    def fields(self) -> dict[str, Any]:
        found = {
            **super().fields(),
            "num_sliding_window_blocks": self.num_sliding_window_blocks,
            "global_block_indices": self.global_block_indices,
            "global_block_end_indices": self.global_block_end_indices,
            "attention": self.attention,
        }
        return _blocks(found)


class LocalSlidingWindowSparsityConfig(SparsityConfig):
    """A window alone."""

    mode = "localslidingwindow"

    def __init__(
        self, num_heads: int, block: int = 16, num_sliding_window_blocks: int = 3, attention: str = "unidirectional"
    ) -> None:
        super().__init__(num_heads, block)
        self.num_sliding_window_blocks = num_sliding_window_blocks
        self.attention = attention

    def fields(self) -> dict[str, Any]:
        found = {
            "mode": self.mode,
            "block": self.block,
            "num_sliding_window_blocks": self.num_sliding_window_blocks,
            "attention": self.attention,
        }
        return _blocks(found)


def _blocks(found: dict[str, Any]) -> dict[str, Any]:
    """With whole blocks hidden, as layouts say; tokens behind a query in its own block are hidden by a mask alone."""
    return {**found, "hidden": "blocks"} if found["attention"] == "unidirectional" else found
