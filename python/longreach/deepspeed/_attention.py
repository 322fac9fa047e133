"""DeepSpeed's module of sparse self-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longreach import _torch
from longreach.deepspeed._configs import FixedSparsityConfig, SparsityConfig


class SparseSelfAttention(nn.Module):
    """Softmax attention over the blocks of a layout, on ``[batch, heads, seq, dim]``.

    Masks are added to the scores (``"add"``), or say with 0 what is hidden (``"mul"``).

    >>> import torch
    >>> q = torch.randn(1, 4, 64, 16)
    >>> SparseSelfAttention(FixedSparsityConfig(num_heads=4))(q, q, q).shape
    torch.Size([1, 4, 64, 16])
    """

    sparsity_config: SparsityConfig
    key_padding_mask_mode: str
    attn_mask_mode: str

    def __init__(
        self,
        sparsity_config: SparsityConfig | None = None,
        key_padding_mask_mode: str = "add",
        attn_mask_mode: str = "mul",
        max_seq_length: int = 2048,
    ) -> None:
        super().__init__()
        for name, mode in (("key_padding_mask_mode", key_padding_mask_mode), ("attn_mask_mode", attn_mask_mode)):
            if mode not in ("add", "mul"):
                raise ValueError(f"SparseSelfAttention: `{name}` is {mode!r}, want 'add' or 'mul'")
        self.sparsity_config = sparsity_config or FixedSparsityConfig(num_heads=4)
        self.key_padding_mask_mode, self.attn_mask_mode = key_padding_mask_mode, attn_mask_mode
        self.max_seq_length = max_seq_length

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rpe: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """The output, ``[batch, heads, seq, dim]``."""
        config = self.sparsity_config
        if query.shape[1] != config.num_heads:
            raise ValueError(f"SparseSelfAttention: `query` has {query.shape[1]} heads, want {config.num_heads}")
        if query.shape[2] % config.block:
            raise ValueError(f"SparseSelfAttention: {query.shape[2]} tokens are no multiple of the block {config.block}")
        biases, keep = [], None
        if rpe is not None:
            biases.append(_square(rpe))
        if key_padding_mask is not None:
            if self.key_padding_mask_mode == "mul":
                keep = key_padding_mask != 0
            else:
                biases.append(key_padding_mask[:, None, None, :])
        if attn_mask is not None:
            mask = _square(attn_mask)
            if self.attn_mask_mode == "mul":
                mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask == 0, float("-inf"))
            biases.append(mask)
        bias = None
        if biases:
            whole = sum(x.float() for x in biases[1:]) + biases[0].float()
            bias = whole.expand(*whole.shape[:2], query.shape[2], key.shape[2])
        out: Tensor = _torch.call(
            "deepspeed", query, key, value, heads_first=True, bias=bias, keep=keep, **config.fields()
        )[0]
        return out


def _square(x: Tensor) -> Tensor:
    while x.ndim < 4:
        x = x[None]
    return x
