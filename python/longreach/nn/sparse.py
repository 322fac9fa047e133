"""Block-sparse attention with the layouts of DeepSpeed."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from longreach import _torch
from longreach.ops._call import of_file


class SparseAttention(nn.Module):
    """Self-attention over the blocks of a layout of DeepSpeed, on ``[batch, seq, dim]``.

    ``config`` has the fields of the ``sparse_attention`` section of a DeepSpeed file: ``mode``, ``block``,
    ``num_local_blocks`` and so on; or, in their place, ``sparsity_structure``, ``block_size``, ``local_window_size`` in tokens
    and ``random_blocks``. ``help(longreach.ops.deepspeed)`` lists them.

    >>> import torch
    >>> SparseAttention(64, 4, {"mode": "fixed", "block": 16})(torch.randn(1, 40, 64)).shape
    torch.Size([1, 40, 64])
    """

    to_q: nn.Linear
    to_k: nn.Linear
    to_v: nn.Linear
    to_out: nn.Linear
    block: int

    def __init__(
        self, dim: int, heads: int, config: dict[str, Any] | None = None, *, causal: bool | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"SparseAttention: {heads} heads do not divide dim={dim}")
        self.heads = heads
        fields = dict(config or {})
        if causal is not None:
            fields.setdefault("attention", "unidirectional" if causal else "bidirectional")
        fields.setdefault("seed", seed)
        self.config = fields
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        # An error of the configuration is raised here rather than at the first call.
        self.block = int(fields.get("block") or fields.get("block_size") or 16)
        try:
            with torch.no_grad():
                self._attend(*[torch.zeros(1, _enough(fields, self.block) * self.block, heads, 1)] * 3)
        except TypeError as error:
            raise ValueError(str(error)) from None

    @classmethod
    def from_config(
        cls,
        config: str | os.PathLike[str] | dict[str, Any],
        *,
        dim: int,
        heads: int,
        causal: bool | None = None,
        seed: int = 0,
    ) -> SparseAttention:
        """The module of a DeepSpeed file, which may have comments (``//``, ``#``, ``/* */``), or of its fields."""
        whole = config if isinstance(config, dict) else of_file(config)
        return cls(dim, heads, whole.get("sparse_attention", whole), causal=causal, seed=seed)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
        out: Tensor = _torch.call("deepspeed", q, k, v, keep=keep, **self.config)[0]
        return out

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask``, ``[batch, seq]``, is True where a token is there. A last block that is not full is padded, and cut off."""
        if x.ndim != 3:
            raise ValueError(f"SparseAttention: `x` has shape {list(x.shape)}, want [batch, seq, dim]")
        length = x.shape[1]
        more = -length % self.block
        if more:
            if mask is None:
                mask = torch.ones(x.shape[:2], dtype=torch.bool)
            x = nn.functional.pad(x, (0, 0, 0, more))
            mask = nn.functional.pad(mask.bool(), (0, more))
        q, k, v = (p(x).unflatten(2, (self.heads, -1)) for p in (self.to_q, self.to_k, self.to_v))
        y: Tensor = self.to_out(self._attend(q, k, v, mask).flatten(2))
        return y[:, :length]


def _enough(fields: dict[str, Any], block: int) -> int:
    """A number of blocks in which a configuration has room: a window may not be wider than the sequence."""
    counts = [value for name, value in fields.items() if name.startswith(("num_", "random_")) and isinstance(value, int)]
    window = fields.get("local_window_size")
    if isinstance(window, int):
        counts.append(window // max(block, 1))
    return max(4, min(max(counts, default=0) + 2, 1024))
