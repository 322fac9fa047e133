"""Self-attention over windows, dilated windows and a hierarchy of blocks, with a cache of keys for decoding."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from longreach import _torch
from longreach.nn._heads import sequence, width


class KeyValueState(NamedTuple):
    """The keys and values that later tokens see, ``[batch, keys, heads, dim_head]``."""

    keys: Tensor
    values: Tensor


class _SelfAttention(nn.Module):
    """Projections around a mechanism, and its step."""

    heads: int
    dim_head: int
    to_q: nn.Linear
    to_k: nn.Linear
    to_v: nn.Linear
    to_out: nn.Linear

    mechanism: str

    def __init__(self, dim: int, heads: int, dim_head: int | None, causal: bool) -> None:
        super().__init__()
        self.heads, self.dim_head = heads, width(type(self).__name__, dim, heads, dim_head)
        self.causal = causal
        inner = heads * self.dim_head
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def _of_call(self) -> dict[str, Any]:
        """The parameters of the mechanism."""
        raise NotImplementedError

    def _keys_kept(self) -> int | None:
        """How many of the latest keys later tokens see; all if None."""
        return None

    def _heads(self, x: Tensor) -> list[Tensor]:
        return [p(x).unflatten(2, (self.heads, self.dim_head)) for p in (self.to_q, self.to_k, self.to_v)]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[batch, seq, dim]``; ``mask``, ``[batch, seq]``, is True where a token is there."""
        keep = sequence(type(self).__name__, x, mask)
        out: Tensor = _torch.call(self.mechanism, *self._heads(x), keep=keep, **self._of_call())[0]
        y: Tensor = self.to_out(out.flatten(2))
        return y

    def state(self, batch: int = 1) -> KeyValueState:
        """The state before the first token."""
        empty = torch.zeros(batch, 0, self.heads, self.dim_head)
        return KeyValueState(empty, empty.clone())

    def step(self, x: Tensor, state: KeyValueState) -> tuple[Tensor, KeyValueState]:
        """One token, ``[batch, dim]``, of a causal module: its output and the state after it."""
        if not self.causal:
            raise ValueError(f"{type(self).__name__}: step needs causal=True")
        q, k, v = self._heads(x[:, None])
        keys, values = torch.cat([state.keys, k], 1), torch.cat([state.values, v], 1)
        # The position of the only query is that of the last key.
        out: Tensor = _torch.call(self.mechanism, q, keys, values, offset=keys.shape[1] - 1, **self._of_call())[0]
        most = self._keys_kept()
        if most is not None and keys.shape[1] > most:
            keys, values = keys[:, keys.shape[1] - most :], values[:, values.shape[1] - most :]
        return self.to_out(out.flatten(2))[:, 0], KeyValueState(keys, values)


class WindowSelfAttention(_SelfAttention):
    """Self-attention over ``left`` tokens before each and ``right`` behind it, on ``[batch, seq, dim]``.

    ``right`` is ``left`` by default, or 0 if ``causal``. The state of a causal module has ``left`` keys.

    >>> import torch
    >>> WindowSelfAttention(64, 4, left=16, causal=True)(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    left: int
    right: int

    mechanism = "window"

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        left: int = 128,
        right: int | None = None,
        causal: bool = False,
        dim_head: int | None = None,
    ) -> None:
        super().__init__(dim, heads, dim_head, causal)
        self.left, self.right = left, (0 if causal else left) if right is None else right
        if causal and self.right:
            raise ValueError(f"{type(self).__name__}: right={self.right} and causal=True, want right=0")
        if self.left < 0 or self.right < 0:
            raise ValueError(f"{type(self).__name__}: left={self.left} and right={self.right}, want at least 0")

    def _of_call(self) -> dict[str, Any]:
        return {"left": self.left, "right": self.right}

    def _keys_kept(self) -> int:
        return self.left


class DilatedSelfAttention(WindowSelfAttention):
    """As :class:`WindowSelfAttention`, over every ``dilation``-th token: one number, or one for each head.

    ``left`` and ``right`` count the tokens that are seen.

    >>> import torch
    >>> DilatedSelfAttention(64, 4, left=8, dilation=[1, 1, 4, 4])(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    dilation: list[int]

    mechanism = "dilated"

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        left: int = 16,
        right: int | None = None,
        dilation: int | Sequence[int] = 2,
        causal: bool = False,
        dim_head: int | None = None,
    ) -> None:
        super().__init__(dim, heads, left=left, right=right, causal=causal, dim_head=dim_head)
        self.dilation = [dilation] if isinstance(dilation, int) else list(dilation)
        if len(self.dilation) not in (1, heads) or min(self.dilation) < 1:
            raise ValueError(f"DilatedSelfAttention: dilation={dilation}, want a number, or {heads}, of at least 1")

    def _of_call(self) -> dict[str, Any]:
        return {**super()._of_call(), "dilation": self.dilation}

    def _keys_kept(self) -> int:
        return self.left * max(self.dilation)


class HierarchicalSelfAttention(_SelfAttention):
    """Self-attention in which queries see near blocks token by token and far ones by their means, on ``[batch, seq, dim]``.

    ``block`` is a multiple of 16. The state of a causal module has all keys: far ones are seen, too.

    >>> import torch
    >>> HierarchicalSelfAttention(64, 4, block=16, causal=True)(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    mechanism = "hierarchical"

    def __init__(
        self, dim: int, heads: int = 8, *, block: int = 64, causal: bool = False, dim_head: int | None = None
    ) -> None:
        super().__init__(dim, heads, dim_head, causal)
        if block < 16 or block % 16:
            raise ValueError(f"HierarchicalSelfAttention: block={block}, want a multiple of 16")
        self.block = block

    def _of_call(self) -> dict[str, Any]:
        return {"block": self.block, "causal": self.causal}
