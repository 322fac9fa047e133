"""Self-attention to blocks of keys that each query selects: NSA and MoBA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from longreach import _torch
from longreach.nn._heads import sequence, width
from longreach.nn.window import KeyValueState, _SelfAttention


class MobaSelfAttention(_SelfAttention):
    """Mixture of block attention (Lu et al. 2025), on ``[batch, seq, dim]``; always causal.

    A query sees its own block of keys, and those of the blocks before whose means it fits best, ``top`` in all.

    >>> import torch
    >>> MobaSelfAttention(64, 4, block=16, top=2)(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    block: int
    top: int

    mechanism = "moba"

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        block: int = 512,
        top: int = 3,
        causal: bool = True,
        dim_head: int | None = None,
    ) -> None:
        super().__init__(dim, heads, dim_head, causal)
        if not causal:
            raise ValueError("MobaSelfAttention: causal=False: blocks behind a query cannot be selected")
        if block < 1 or top < 1:
            raise ValueError(f"MobaSelfAttention: block={block} and top={top}, want at least 1")
        self.block, self.top = block, top

    def _of_call(self) -> dict[str, Any]:
        return {"block": self.block, "top": self.top}


class NsaSelfAttention(nn.Module):
    """Native sparse attention (Yuan et al. 2025), on ``[batch, seq, dim]``; always causal.

    A query sees the means of blocks, ``top`` blocks that these select, and a window; gates weigh the three. It is
    ``NativeSparseAttention`` of flash-linear-attention: ``kv_heads`` of keys and values are shared by heads of queries, and
    queries and keys are rotated by their positions.

    >>> import torch
    >>> NsaSelfAttention(64, 4, kv_heads=2, block=8, top=2, window=16)(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    heads: int
    kv_heads: int
    dim_head: int
    block: int
    top: int
    window: int
    rope_theta: float
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    g_proj: nn.Linear
    o_proj: nn.Linear

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        kv_heads: int | None = None,
        dim_head: int | None = None,
        block: int = 64,
        top: int = 16,
        window: int = 512,
        rope_theta: float = 10000.0,
        qkv_bias: bool = False,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if not causal:
            raise ValueError("NsaSelfAttention: causal=False: blocks behind a query cannot be selected")
        self.heads, self.kv_heads = heads, kv_heads or heads
        self.dim_head = width("NsaSelfAttention", dim, heads, dim_head)
        if heads % self.kv_heads:
            raise ValueError(f"NsaSelfAttention: kv_heads={self.kv_heads} does not divide heads={heads}")
        if self.dim_head % 2:
            raise ValueError(f"NsaSelfAttention: heads of {self.dim_head} channels, want an even number: they are rotated")
        if min(block, top, window) < 1:
            raise ValueError(f"NsaSelfAttention: block={block}, top={top} and window={window}, want at least 1")
        self.block, self.top, self.window, self.rope_theta = block, top, window, rope_theta
        self.q_proj = nn.Linear(dim, heads * self.dim_head, bias=qkv_bias)
        self.k_proj, self.v_proj = (nn.Linear(dim, self.kv_heads * self.dim_head, bias=qkv_bias) for _ in range(2))
        self.g_proj = nn.Linear(dim, heads * 3, bias=False)
        self.o_proj = nn.Linear(heads * self.dim_head, dim, bias=False)

    def _read(self, x: Tensor, keys: Tensor | None, values: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q_proj(x).unflatten(2, (self.heads, -1))
        k, v = (layer(x).unflatten(2, (self.kv_heads, -1)) for layer in (self.k_proj, self.v_proj))
        before = 0 if keys is None else keys.shape[1]
        positions = torch.arange(before, before + x.shape[1])[None]
        q, k = (_torch.call("rotary", y, positions, theta=self.rope_theta)[0] for y in (q, k))
        if keys is not None and values is not None:
            k, v = torch.cat([keys, k], 1), torch.cat([values, v], 1)
        gates = self.g_proj(x).sigmoid().unflatten(2, (self.heads, 3))
        given: dict[str, Any] = {"block": self.block, "top": self.top, "window": self.window, "offset": before}
        out: Tensor = _torch.call("nsa", q, k, v, gates, **given)[0]
        return self.o_proj(out.flatten(2)), k, v

    def forward(self, x: Tensor) -> Tensor:
        """The output, ``[batch, seq, dim]``."""
        sequence("NsaSelfAttention", x)
        return self._read(x, None, None)[0]

    def state(self, batch: int = 1) -> KeyValueState:
        """The state before the first token."""
        empty = torch.zeros(batch, 0, self.kv_heads, self.dim_head)
        return KeyValueState(empty, empty.clone())

    def step(self, x: Tensor, state: KeyValueState) -> tuple[Tensor, KeyValueState]:
        """One token, ``[batch, dim]``: its output and the state after it."""
        y, keys, values = self._read(x[:, None], state.keys, state.values)
        return y[:, 0], KeyValueState(keys, values)
