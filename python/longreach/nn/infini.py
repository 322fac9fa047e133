"""Infini-attention: softmax attention within segments, and a memory of all segments before."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from longreach import _torch


class InfiniState(NamedTuple):
    """What a text has left: of a size that does not grow with it."""

    memory: Tensor
    pending: Tensor
    keys: Tensor
    values: Tensor
    tokens: int

    def detach(self) -> InfiniState:
        """Without the gradient of what was read before."""
        memory, pending, keys, values = (x.detach() for x in self[:4])
        return InfiniState(memory, pending, keys, values, self.tokens)


class InfiniAttention(nn.Module):
    """Infini-attention (Munkhdalai et al. 2024), on ``[batch, seq, dim]``.

    Parameters
    ----------
    dim, heads, dim_head : int
        The width of tokens, the number of heads, and the width of a head, by default ``dim // heads``.
    segment : int
        Tokens of a segment.
    delta : bool
        Whether what the memory holds for a key is subtracted before writing (the delta rule).
    rotary : bool
        Whether positions rotate the queries and keys within segments. The memory has no positions.
    gate : float
        The initial gate of each head: the weight of the memory is its sigmoid.

    Examples
    --------
    >>> import torch
    >>> InfiniAttention(dim=64, heads=4, segment=128)(torch.randn(1, 300, 64)).shape
    torch.Size([1, 300, 64])
    """

    heads: int
    dim_head: int
    segment: int
    delta: bool
    rotary: bool
    to_q: nn.Linear
    to_k: nn.Linear
    to_v: nn.Linear
    to_out: nn.Linear
    gate: nn.Parameter

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        dim_head: int | None = None,
        segment: int = 2048,
        delta: bool = False,
        causal: bool = True,
        rotary: bool = True,
        gate: float = 0.0,
    ) -> None:
        super().__init__()
        if not causal:
            raise ValueError("InfiniAttention: causal=False: a memory of what was read before has no tokens behind")
        if dim_head is None and dim % heads:
            raise ValueError(f"InfiniAttention: {heads} heads do not divide dim={dim}: give dim_head")
        self.heads, self.dim_head = heads, dim_head or dim // heads
        self.segment, self.delta, self.rotary = segment, delta, rotary
        inner = heads * self.dim_head
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.gate = nn.Parameter(torch.full((heads,), gate))

    def forward(
        self, x: Tensor, state: InfiniState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, InfiniState]:
        """The output, and the state after ``x`` if ``return_state``. A text that is cut anywhere gives the same."""
        if x.ndim != 3:
            raise ValueError(f"InfiniAttention: `x` has shape {list(x.shape)}, want [batch, seq, dim]")
        q, k, v = (p(x).unflatten(2, (self.heads, self.dim_head)) for p in (self.to_q, self.to_k, self.to_v))
        given: dict[str, Any] = {}
        before = 0
        if state is not None:
            before = state.tokens
            given = {"state": state.memory, "pending": state.pending, "keys": state.keys, "values": state.values}
        if self.rotary:
            positions = torch.arange(before, before + x.shape[1])[None]
            given["ql"] = _torch.call("rotary", q, positions)[0]
            given["kl"] = _torch.call("rotary", k, positions)[0]
        out = _torch.call("infini", q, k, v, self.gate, segment=self.segment, delta=self.delta, **given)
        y: Tensor = self.to_out(out[0].flatten(2))
        if not return_state:
            return y
        memory, pending, keys, values = out[1:]
        return y, InfiniState(memory, pending, keys, values, before + x.shape[1])

    def state(self, batch: int = 1) -> InfiniState:
        """The state before the first token."""
        memory = torch.zeros(batch, self.heads, self.dim_head, self.dim_head + 1)
        keys = torch.zeros(batch, 0, self.heads, self.dim_head)
        return InfiniState(memory, memory.clone(), keys, keys.clone(), 0)

    def step(self, x: Tensor, state: InfiniState) -> tuple[Tensor, InfiniState]:
        """One token, ``[batch, dim]``: its output and the state after it."""
        y, state = self.forward(x[:, None], state, return_state=True)
        return y[:, 0], state
