"""The self-attention of Reformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from longreach import _torch
from longreach.nn._heads import sequence, width


class LshSelfAttention(nn.Module):
    """Attention among tokens whose vectors fall into the same bucket (Kitaev et al. 2020), on ``[batch, seq, dim]``.

    Queries are keys. Tokens are sorted by bucket and cut into chunks of ``chunk``; a chunk sees itself, ``before`` chunks
    before and ``after`` behind it, in each of ``rounds`` of hashing. ``buckets`` is an even number. Rotations are drawn from
    ``seed`` in each call, as those of transformers from ``hash_seed``. ``causal`` hides later tokens, but they take part in
    the sorting, so there is no step. There is no projection of the output: parameters are those of ``LSHSelfAttention``.

    >>> import torch
    >>> LshSelfAttention(64, 4, chunk=16, buckets=8)(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    heads: int
    dim_head: int
    chunk: int
    buckets: int
    rounds: int
    seed: int
    before: int
    after: int
    causal: bool
    query_key: nn.Linear
    value: nn.Linear

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        chunk: int = 64,
        buckets: int = 32,
        rounds: int = 1,
        before: int = 1,
        after: int = 0,
        causal: bool = False,
        seed: int = 0,
        dim_head: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.dim_head = heads, width("LshSelfAttention", dim, heads, dim_head)
        if buckets < 2 or buckets % 2 or rounds < 1 or chunk < 1:
            given = f"buckets={buckets}, rounds={rounds} and chunk={chunk}"
            raise ValueError(f"LshSelfAttention: {given}, want an even number, 1 and 1 at least")
        self.chunk, self.buckets, self.rounds, self.seed = chunk, buckets, rounds, seed
        self.before, self.after, self.causal = before, after, causal
        self.query_key = nn.Linear(dim, heads * self.dim_head, bias=False)
        self.value = nn.Linear(dim, heads * self.dim_head, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask``, ``[batch, seq]``, is True where a token is there. A last chunk that is not full is padded."""
        keep = sequence("LshSelfAttention", x, mask)
        length = x.shape[1]
        more = -length % self.chunk if length > self.chunk else 0
        if more:
            keep = x.new_ones(x.shape[:2]).bool() if keep is None else keep
            x, keep = nn.functional.pad(x, (0, 0, 0, more)), nn.functional.pad(keep, (0, more))
        both = [layer(x).unflatten(2, (self.heads, self.dim_head)) for layer in (self.query_key, self.value)]
        draw = torch.Generator().manual_seed(self.seed)
        rotations = torch.randn(self.heads, self.dim_head, self.rounds, self.buckets // 2, generator=draw)
        given: dict[str, Any] = {"chunk": self.chunk, "before": self.before, "after": self.after, "causal": self.causal, "padding": "last"}
        out: Tensor = _torch.call("lsh", *both, rotations=rotations, keep=keep, **given)[0]
        return out.flatten(2)[:, :length]
