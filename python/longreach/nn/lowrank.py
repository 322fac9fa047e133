"""The self-attention of Nyströmformer and Linformer, whose matrices of weights have a low rank."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from longreach import _torch
from longreach.nn._heads import sequence, width
from longreach.nn._branches import PreLayerNorm
from longreach.nn.performer import FeedForward, Layers


class NystromformerSelfAttention(nn.Module):
    """Attention that is approximated from that of a few landmarks (Xiong et al. 2021), on ``[batch, seq, dim]``.

    ``conv`` is the number of taps of the convolution of values that is added to the output; None for none. ``init`` says
    which sum the inverse begins with: ``"own"``, that of each head, or ``"original"``, the largest of all heads of the batch, as
    transformers has by default. There is no projection of the output: parameters are those of its
    ``NystromformerSelfAttention``.

    >>> import torch
    >>> NystromformerSelfAttention(64, 4, landmarks=16)(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    heads: int
    landmarks: int
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    conv: nn.Conv2d | None

    def __init__(
        self, dim: int, heads: int = 8, *, landmarks: int = 64, conv: int | None = None, init: str = "original"
    ) -> None:
        super().__init__()
        width("NystromformerSelfAttention", dim, heads)
        if landmarks < 1:
            raise ValueError(f"NystromformerSelfAttention: landmarks={landmarks}, want at least 1")
        if init not in ("own", "original"):
            raise ValueError(f"NystromformerSelfAttention: init={init!r}, want 'own' or 'original'")
        if conv is not None and conv % 2 == 0:
            raise ValueError(f"NystromformerSelfAttention: conv={conv}, want an odd number of taps")
        self.heads, self.landmarks, self.init = heads, landmarks, init
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.conv = None
        if conv is not None:
            self.conv = nn.Conv2d(heads, heads, (conv, 1), padding=(conv // 2, 0), bias=False, groups=heads)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask``, ``[batch, seq]``, is True where a token is there."""
        keep = sequence("NystromformerSelfAttention", x, mask)
        tensors = [layer(x).unflatten(2, (self.heads, -1)) for layer in (self.query, self.key, self.value)]
        taps = None if self.conv is None else self.conv.weight[:, 0, :, 0]
        given: dict[str, Any] = {"landmarks": self.landmarks, "init": self.init}
        out: Tensor = _torch.call("nystrom", *tensors, taps, keep=keep, **given)[0]
        return out.flatten(2)


class LinformerSelfAttention(nn.Module):
    """Attention to ``k`` learned combinations of ``seq_len`` tokens (Wang et al. 2020), on ``[batch, seq, dim]``.

    Parameters are those of the package linformer. Its dropout of weights is not supported.

    >>> import torch
    >>> LinformerSelfAttention(64, 100, k=16, heads=4)(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    heads: int
    seq_len: int
    k: int
    dim_head: int
    to_q: nn.Linear
    to_k: nn.Linear
    proj_k: nn.Parameter
    to_v: nn.Linear
    proj_v: nn.Parameter
    to_out: nn.Linear

    def __init__(
        self,
        dim: int,
        seq_len: int,
        k: int = 256,
        heads: int = 8,
        dim_head: int | None = None,
        one_kv_head: bool = False,
        share_kv: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if dropout:
            raise ValueError(f"LinformerSelfAttention: dropout={dropout}, want 0: weights are not kept")
        self.heads, self.seq_len, self.k = heads, seq_len, k
        self.dim_head = width("LinformerSelfAttention", dim, heads, dim_head)
        if seq_len < 1 or k < 1:
            raise ValueError(f"LinformerSelfAttention: seq_len={seq_len} and k={k}, want at least 1")
        self.share_kv = share_kv
        inner = self.dim_head if one_kv_head else heads * self.dim_head
        self.to_q = nn.Linear(dim, heads * self.dim_head, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.proj_k = nn.Parameter(_uniform(seq_len, k))
        if not share_kv:
            self.to_v = nn.Linear(dim, inner, bias=False)
            self.proj_v = nn.Parameter(_uniform(seq_len, k))
        self.to_out = nn.Linear(heads * self.dim_head, dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``context``, ``[batch, seq_len, dim]``, is what keys and values are made of, by default ``x``."""
        sequence("LinformerSelfAttention", x)
        given = x if context is None else context
        if given.shape[1] != self.seq_len:
            raise ValueError(f"LinformerSelfAttention: found {given.shape[1]} tokens for keys, want seq_len={self.seq_len}")
        q = self.to_q(x).unflatten(2, (self.heads, self.dim_head))
        k = self.to_k(given).unflatten(2, (-1, self.dim_head))
        v = k if self.share_kv else self.to_v(given).unflatten(2, (-1, self.dim_head))
        f = None if self.share_kv else self.proj_v
        y: Tensor = self.to_out(_torch.call("linformer", q, k, v, self.proj_k, f)[0].flatten(2))
        return y


class Linformer(nn.Module):
    """A stack of blocks with :class:`LinformerSelfAttention`, on ``[batch, seq_len, dim]``.

    The arguments are those of the package linformer. ``reversible`` saves memory in training there and has other layers; it is
    not supported.

    >>> import torch
    >>> Linformer(64, 100, depth=2, k=16, heads=4)(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    net: Layers

    def __init__(
        self,
        dim: int,
        seq_len: int,
        depth: int,
        k: int = 256,
        heads: int = 8,
        dim_head: int | None = None,
        one_kv_head: bool = False,
        share_kv: bool = False,
        reversible: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if reversible:
            raise ValueError("Linformer: reversible=True, want False: reversible layers are not supported")
        blocks = nn.ModuleList()
        for _ in range(depth):
            attention = LinformerSelfAttention(dim, seq_len, k, heads, dim_head, one_kv_head, share_kv, dropout)
            branches: list[nn.Module] = [attention, FeedForward(dim, dropout=dropout)]
            blocks.append(nn.ModuleList(PreLayerNorm(dim, branch) for branch in branches))
        self.net = Layers(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """The output, ``[batch, seq_len, dim]``."""
        sequence("Linformer", x)
        y: Tensor = self.net(x)
        return y


def _uniform(rows: int, columns: int) -> Tensor:
    bound = 1 / math.sqrt(columns)
    return torch.empty(rows, columns).uniform_(-bound, bound)
