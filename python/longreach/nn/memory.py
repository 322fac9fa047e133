"""Memories of past inputs: Transformer-XL, and the hierarchical memory transformer around any decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from longreach import _torch
from longreach.nn._heads import sequence, width


class MemoryState(NamedTuple):
    """The last inputs of a layer, ``[batch, tokens, dim]``."""

    inputs: Tensor

    def detach(self) -> MemoryState:
        """Without the gradient of what was read before."""
        return MemoryState(self.inputs.detach())


class TransformerXLSelfAttention(nn.Module):
    """The attention of Transformer-XL (Dai et al. 2019) with relative positions, on ``[batch, seq, dim]``; always causal.

    A token sees itself and the ``memory`` tokens before it, in this call or in those before. Its parameters are those of
    ``RelPartialLearnableMultiHeadAttn`` of the authors and of transformers; ``norm`` adds the input and the layer norm behind
    it, as they have it. Distances from ``clamp_len`` on are as that one.

    >>> import torch
    >>> TransformerXLSelfAttention(64, 4, memory=32)(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    heads: int
    dim_head: int
    dim: int
    memory: int
    clamp_len: int | None
    qkv_net: nn.Linear
    r_net: nn.Linear
    o_net: nn.Linear
    r_w_bias: nn.Parameter
    r_r_bias: nn.Parameter
    layer_norm: nn.LayerNorm | None

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        memory: int = 512,
        dim_head: int | None = None,
        clamp_len: int | None = None,
        norm: bool = False,
        norm_eps: float = 1e-5,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if not causal:
            raise ValueError("TransformerXLSelfAttention: causal=False: a memory has no tokens behind")
        if memory < 1 or dim % 2:
            raise ValueError(f"TransformerXLSelfAttention: memory={memory} and dim={dim}, want at least 1 and an even number")
        self.heads, self.dim_head = heads, width("TransformerXLSelfAttention", dim, heads, dim_head)
        self.dim, self.memory, self.clamp_len = dim, memory, clamp_len
        inner = heads * self.dim_head
        self.qkv_net = nn.Linear(dim, 3 * inner, bias=False)
        self.r_net = nn.Linear(dim, inner, bias=False)
        self.o_net = nn.Linear(inner, dim, bias=False)
        self.r_w_bias, self.r_r_bias = (nn.Parameter(torch.zeros(heads, self.dim_head)) for _ in range(2))
        self.layer_norm = nn.LayerNorm(dim, eps=norm_eps) if norm else None

    def _distances(self, n: int) -> Tensor:
        """The embedding of each distance from 0 on, ``[n, dim]``: sines, then cosines."""
        distances = torch.arange(n, dtype=torch.float32)
        if self.clamp_len is not None:
            distances = distances.clamp(max=self.clamp_len)
        turns = distances[:, None] * 10000.0 ** (-torch.arange(0, self.dim, 2).float() / self.dim)
        return torch.cat([turns.sin(), turns.cos()], -1)

    def forward(
        self, x: Tensor, state: MemoryState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, MemoryState]:
        """The output, and the state after ``x`` if ``return_state``. A text that is cut anywhere gives the same."""
        sequence("TransformerXLSelfAttention", x)
        rows = x if state is None else torch.cat([state.inputs, x], 1)
        q, k, v = self.qkv_net(rows).unflatten(2, (3, self.heads, self.dim_head)).unbind(2)
        r = self.r_net(self._distances(rows.shape[1])).unflatten(1, (self.heads, -1))
        given = (q[:, rows.shape[1] - x.shape[1] :], k, v, r, self.r_w_bias, self.r_r_bias)
        out = self.o_net(_torch.call("transformer_xl", *given, left=self.memory)[0].flatten(2))
        y: Tensor = out if self.layer_norm is None else self.layer_norm(x + out)
        return (y, MemoryState(rows[:, -self.memory :])) if return_state else y

    def state(self, batch: int = 1) -> MemoryState:
        """The state before the first token."""
        return MemoryState(torch.zeros(batch, 0, self.dim))

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """One token, ``[batch, dim]``: its output and the state after it."""
        y, after = self.forward(x[:, None], state, return_state=True)
        return y[:, 0], after


class HMTState(NamedTuple):
    """What a text has left: embeddings of segments, the oldest first, and the last tokens. Neither grows beyond its bound."""

    #: ``[batch, memories, dim]``
    memories: Tensor
    #: The tokens since the last segment, and those before that are read again, ``[batch, tokens, dim]``.
    tail: Tensor
    #: How many of the tail belong to the segment that has not ended.
    pending: int

    def detach(self) -> HMTState:
        """Without the gradient of what was read before."""
        return HMTState(self.memories.detach(), self.tail.detach(), self.pending)


class HMT(nn.Module):
    """The hierarchical memory transformer (He et al. 2025) around a decoder, on ``[batch, seq, dim]``.

    The decoder takes and gives ``[batch, seq, dim]`` and is causal. It reads each segment between two copies of what is
    recalled for it, behind the last ``sensory`` tokens before it. Its output at the last copy is the memory of the segment.
    What is recalled is a mean of memories, weighted by how they fit a summary of the ``summary`` tokens before the segment:
    the authors summarise the segment's own first half, which would make predictions depend on later tokens.

    Parameters
    ----------
    decoder : torch.nn.Module
        Any module from ``[batch, seq, dim]`` to the same shape.
    dim : int
        The width of tokens.
    segment, sensory, summary : int
        Tokens of a segment, and those before it that are read again and that are summarised.
    memory : int
        How many memories are kept; the oldest go first.
    recall : int, optional
        The width in which memories are compared, by default ``dim``.

    Examples
    --------
    >>> import torch
    >>> from longreach.nn import Performer
    >>> HMT(Performer(dim=32, depth=1, heads=2, causal=True), 32, segment=16)(torch.randn(1, 50, 32)).shape
    torch.Size([1, 50, 32])
    """

    segment: int
    sensory: int
    summary_length: int
    most: int
    memory: nn.Parameter
    summary: nn.Parameter
    wq: nn.Parameter
    wk: nn.Parameter

    def __init__(
        self,
        decoder: nn.Module,
        dim: int,
        *,
        segment: int = 1024,
        sensory: int = 32,
        summary: int | None = None,
        memory: int = 300,
        recall: int | None = None,
    ) -> None:
        super().__init__()
        summary = segment // 2 if summary is None else summary
        if min(segment, memory, dim) < 1 or min(sensory, summary) < 0 or (recall is not None and recall < 1):
            raise ValueError(f"HMT: segment={segment}, sensory={sensory}, summary={summary}, memory={memory}: out of range")
        self.decoder = decoder
        self.segment, self.sensory, self.summary_length, self.most = segment, sensory, summary, memory
        self.memory, self.summary = (nn.Parameter(torch.randn(1, dim) * 0.02) for _ in range(2))
        self.wq, self.wk = (nn.Parameter(torch.randn(dim, recall or dim) * dim**-0.5) for _ in range(2))

    def state(self, batch: int = 1) -> HMTState:
        """The state before the first token."""
        empty = self.memory.new_zeros(batch, 0, self.memory.shape[1])
        return HMTState(empty, empty.clone(), 0)

    def _recalled(self, memories: Tensor, before: Tensor) -> Tensor | None:
        """The vector for a segment that comes after these tokens, ``[batch, 1, dim]``; None without memories."""
        if memories.shape[1] == 0:
            return None
        token = self.summary.expand(memories.shape[0], 1, -1)
        last = before[:, before.shape[1] - min(self.summary_length, before.shape[1]) :]
        summary = self.decoder(torch.cat([token, last, token], 1))[:, -1:]
        out: Tensor = _torch.call("hmt", summary, memories, self.wq, self.wk)[0]
        return out

    def forward(
        self, x: Tensor, state: HMTState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, HMTState]:
        """The output, and the state after ``x`` if ``return_state``. A text that is cut anywhere gives the same.

        The tokens of a segment that has begun are read again by a call that goes on with it.
        """
        sequence("HMT", x)
        memories, tail, pending = self.state(x.shape[0]) if state is None else state
        outputs, at = [], 0
        while at < x.shape[1]:
            n = min(x.shape[1] - at, self.segment - pending)
            before = tail[:, : tail.shape[1] - pending]
            tail, at = torch.cat([tail, x[:, at : at + n]], 1), at + n
            pending += n
            prompt = self._recalled(memories, before)
            sensory = before[:, before.shape[1] - min(self.sensory, before.shape[1]) :]
            opening = sensory if prompt is None else torch.cat([prompt, sensory], 1)
            rows, start = torch.cat([opening, tail[:, tail.shape[1] - pending :]], 1), opening.shape[1]
            if pending == self.segment:
                closing = self.memory.expand(x.shape[0], 1, -1) if prompt is None else prompt
                rows = torch.cat([rows, closing], 1)
            read = self.decoder(rows)
            outputs.append(read[:, start + pending - n : start + pending])
            if pending == self.segment:
                memories = torch.cat([memories, read[:, -1:]], 1)[:, -self.most :]
                keep, pending = min(max(self.sensory, self.summary_length), tail.shape[1]), 0
                tail = tail[:, tail.shape[1] - keep :]
        y = torch.cat(outputs, 1) if outputs else x
        return (y, HMTState(memories, tail, pending)) if return_state else y

    def step(self, x: Tensor, state: HMTState) -> tuple[Tensor, HMTState]:
        """One token, ``[batch, dim]``: its output and the state after it. It reads the segment that has begun again."""
        y, after = self.forward(x[:, None], state, return_state=True)
        return y[:, 0], after
