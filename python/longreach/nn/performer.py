"""Performer (FAVOR+): attention by random features, linear in the length (Choromanski et al. 2021).

Modules and parameters are named as in the package performer-pytorch.
"""

from __future__ import annotations

import json
import math
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor, nn

from longreach import _core, _torch
from longreach.nn._branches import PreLayerNorm, ReZero, ScaleNorm


class PerformerState(NamedTuple):
    """What a text has left in each layer: of a size that does not grow with it."""

    matrices: tuple[Tensor, ...]
    tokens: int


def orthogonal_projection(rows: int, width: int, uniform: bool = False) -> Tensor:
    """``[rows, width]``: rows that are orthogonal in blocks of ``width``, with the lengths of normal vectors."""
    blocks = [torch.linalg.qr(torch.randn(width, width))[0].T for _ in range(math.ceil(rows / width))]
    lengths = torch.full((rows,), math.sqrt(width)) if uniform else torch.randn(rows, width).norm(dim=1)
    return lengths[:, None] * torch.cat(blocks)[:rows]


class FastAttention(nn.Module):
    """Attention by random features on ``[batch, heads, seq, dim_heads]``.

    Causality is exact: no maximum over keys is subtracted before exponentials are taken, since it would depend on later keys.
    ``stabilizer="original"`` subtracts it, as performer-pytorch does, whose outputs it has.
    """

    nb_features: int
    causal: bool
    generalized_attention: bool
    uniform: bool

    projection_matrix: Tensor

    def __init__(
        self,
        dim_heads: int,
        nb_features: int | None = None,
        causal: bool = False,
        generalized_attention: bool = False,
        kernel_fn: Callable[[Tensor], Tensor] | None = None,
        qr_uniform_q: bool = False,
        *,
        stabilizer: str | None = None,
    ) -> None:
        super().__init__()
        if stabilizer not in (None, "original"):
            raise ValueError(f"FastAttention: `stabilizer` is {stabilizer!r}, want None or 'original'")
        if generalized_attention and kernel_fn is not None and not isinstance(kernel_fn, nn.ReLU):
            raise ValueError(f"FastAttention: `kernel_fn` is {kernel_fn}, want nn.ReLU()")
        self.dim_heads = dim_heads
        self.nb_features = nb_features or max(1, int(dim_heads * math.log(dim_heads)))
        self.causal, self.generalized_attention = causal, generalized_attention
        self.uniform, self.stabilizer = qr_uniform_q, stabilizer
        self.register_buffer("projection_matrix", orthogonal_projection(self.nb_features, dim_heads, qr_uniform_q))

    @torch.no_grad()
    def redraw_projection_matrix(self) -> None:
        """Draws other features."""
        self.projection_matrix.copy_(orthogonal_projection(self.nb_features, self.dim_heads, self.uniform))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The output, ``[batch, heads, seq, dim of v]``."""
        if self.stabilizer == "original" and not self.generalized_attention:
            q, k = self._features(q, queries=True), self._features(k, queries=False)
            given: dict[str, Any] = {"map": "identity", "causal": self.causal, "normalize": False}
            ones = torch.ones_like(v[..., :1])
            both: Tensor = _torch.call("linear_attention", q, k, torch.cat([v, ones], -1), heads_first=True, **given)[0]
            # A causal sum of keys has a small number added to each feature there.
            epsilon = 1e-6 * q.sum(-1, keepdim=True) if self.causal else 0.0
            return both[..., :-1] / (both[..., -1:] + epsilon)
        out: Tensor = _torch.call("performer", q, k, v, self.projection_matrix, heads_first=True, **self._of_call())[0]
        return out

    def _of_call(self) -> dict[str, Any]:
        kernel, epsilon = ("relu", 1e-3) if self.generalized_attention else ("softmax", 1e-4)
        return {"kernel": kernel, "epsilon": epsilon, "causal": self.causal}

    def state(self, batch: int, heads: int) -> Tensor:
        """The state before the first token, for values as wide as queries."""
        tokens = [batch, heads, 1, self.dim_heads]
        shapes = [*((name, tokens) for name in "qkv"), ("w", list(self.projection_matrix.shape))]
        return torch.zeros(dict(_core.shapes("performer", shapes, json.dumps(self._of_call()), True))["state"])

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`forward` of a causal module after the tokens that the state has read, and the state after these."""
        if not self.causal:
            raise ValueError("FastAttention: step needs causal=True")
        if self.stabilizer == "original" and not self.generalized_attention:
            raise ValueError("FastAttention: step needs stabilizer=None: the original one depends on later keys")
        given = self._of_call()
        out, after = _torch.call("performer", q, k, v, self.projection_matrix, state, heads_first=True, **given)
        return out, after

    def _features(self, x: Tensor, queries: bool) -> Tensor:
        projected = (x * self.dim_heads**-0.25) @ self.projection_matrix.T
        lengths = (x * x).sum(-1, keepdim=True) * (0.5 * self.dim_heads**-0.5)
        most = projected.amax(-1, keepdim=True) if queries else projected.amax((-1, -2), keepdim=True)
        features: Tensor = self.nb_features**-0.5 * ((projected - lengths - most.detach()).exp() + 1e-4)
        return features


class SelfAttention(nn.Module):
    """Self-attention by random features, on ``[batch, seq, dim]``.

    >>> import torch
    >>> SelfAttention(dim=32, heads=2, dim_head=16, causal=True)(torch.randn(1, 50, 32)).shape
    torch.Size([1, 50, 32])
    """

    heads: int
    fast_attention: FastAttention
    to_q: nn.Linear
    to_k: nn.Linear
    to_v: nn.Linear
    to_out: nn.Linear
    dropout: nn.Dropout

    def __init__(
        self,
        dim: int,
        causal: bool = False,
        heads: int = 8,
        dim_head: int | None = None,
        nb_features: int | None = None,
        generalized_attention: bool = False,
        kernel_fn: Callable[[Tensor], Tensor] | None = None,
        qr_uniform_q: bool = False,
        dropout: float = 0.0,
        *,
        stabilizer: str | None = None,
    ) -> None:
        super().__init__()
        if dim_head is None and dim % heads:
            raise ValueError(f"SelfAttention: {heads} heads do not divide dim={dim}: give dim_head")
        self.heads, width = heads, dim_head or dim // heads
        self.fast_attention = FastAttention(
            width, nb_features, causal, generalized_attention, kernel_fn, qr_uniform_q, stabilizer=stabilizer
        )
        self.to_q = nn.Linear(dim, heads * width)
        self.to_k = nn.Linear(dim, heads * width)
        self.to_v = nn.Linear(dim, heads * width)
        self.to_out = nn.Linear(heads * width, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor | None = None, context_mask: Tensor | None = None) -> Tensor:
        """``context`` is what keys and values are made of, by default ``x``; its mask is True where a token is there."""
        given = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(given), self.to_v(given)
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        if context_mask is not None:
            # A value of zero still counts in the denominator, as in the package that these modules are named after.
            v = v * context_mask[:, None, :, None]
        out: Tensor = self.dropout(self.to_out(self.fast_attention(q, k, v).transpose(1, 2).flatten(2)))
        return out

    def state(self, batch: int = 1) -> Tensor:
        """The state before the first token."""
        return self.fast_attention.state(batch, self.heads)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token, ``[batch, dim]``, of a causal module: its output and the state after it."""
        q, k, v = (p(x)[:, None].unflatten(2, (self.heads, -1)).transpose(1, 2) for p in (self.to_q, self.to_k, self.to_v))
        out, after = self.fast_attention.step(q, k, v, state)
        return self.dropout(self.to_out(out.flatten(1))), after


class FeedForward(nn.Module):
    """Two layers with GELU between them, gated if ``glu``."""

    w1: nn.Linear
    act: nn.GELU
    dropout: nn.Dropout
    w2: nn.Linear

    def __init__(self, dim: int, mult: int = 4, dropout: float = 0.0, glu: bool = False) -> None:
        super().__init__()
        self.glu = glu
        self.w1 = nn.Linear(dim, dim * mult * (2 if glu else 1))
        self.act = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.w2 = nn.Linear(dim * mult, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.w1(x)
        if self.glu:
            x, gate = x.chunk(2, dim=-1)
            x = self.act(x) * gate
        else:
            x = self.act(x)
        y: Tensor = self.w2(self.dropout(x))
        return y


class Chunk(nn.Module):
    """Runs a module on parts of the sequence, which needs less memory."""

    chunks: int
    fn: nn.Module

    def __init__(self, chunks: int, fn: nn.Module) -> None:
        super().__init__()
        self.chunks, self.fn = chunks, fn

    def forward(self, x: Tensor) -> Tensor:
        if self.chunks == 1:
            whole: Tensor = self.fn(x)
            return whole
        return torch.cat([self.fn(part) for part in x.chunk(self.chunks, dim=1)], dim=1)


class Layers(nn.Module):
    """Residual branches: attention, attention to a context if there is one, and feed-forward layers."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor, context: Tensor | None = None, context_mask: Tensor | None = None) -> Tensor:
        for branches in self.layers:
            each: list[nn.Module] = list(branches.children())
            for i, branch in enumerate(each):
                crosses = len(each) == 4 and i == 2
                x = x + (branch(x, context=context, context_mask=context_mask) if crosses else branch(x))
        return x


class Performer(nn.Module):
    """A stack of blocks with attention by random features, on ``[batch, seq, dim]``.

    The arguments are those of performer-pytorch. ``reversible`` saves memory in training there and changes no result, and is
    accepted; heads of local attention are not supported. The projections are drawn again every ``feature_redraw_interval``
    calls in training, and never in ``eval()``.

    >>> import torch
    >>> Performer(dim=64, depth=1, heads=4, causal=True)(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    net: Layers

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        local_attn_heads: int = 0,
        local_window_size: int = 256,
        causal: bool = False,
        ff_mult: int = 4,
        nb_features: int | None = None,
        reversible: bool = False,
        ff_chunks: int = 1,
        generalized_attention: bool = False,
        kernel_fn: Callable[[Tensor], Tensor] = nn.ReLU(),
        qr_uniform_q: bool = False,
        use_scalenorm: bool = False,
        use_rezero: bool = False,
        ff_glu: bool = False,
        ff_dropout: float = 0.0,
        attn_dropout: float = 0.0,
        cross_attend: bool = False,
        amp_enabled: bool = False,
        *,
        dim_head: int | None = None,
        feature_redraw_interval: int | None = 1000,
        stabilizer: str | None = None,
    ) -> None:
        super().__init__()
        if local_attn_heads:
            raise ValueError(f"Performer: `local_attn_heads` is {local_attn_heads}, want 0: they are not supported")

        def wrapped(fn: nn.Module) -> nn.Module:
            if use_scalenorm:
                return ScaleNorm(dim, fn)
            return ReZero(fn) if use_rezero else PreLayerNorm(dim, fn)

        def attention(causal: bool) -> nn.Module:
            kernel = kernel_fn if generalized_attention else None
            features = (nb_features, generalized_attention, kernel, qr_uniform_q, attn_dropout)
            return wrapped(SelfAttention(dim, causal, heads, dim_head, *features, stabilizer=stabilizer))

        def feed_forward() -> nn.Module:
            return wrapped(Chunk(ff_chunks, FeedForward(dim, ff_mult, ff_dropout, ff_glu)))

        layers = nn.ModuleList()
        for _ in range(depth):
            branches = [attention(causal), feed_forward()]
            if cross_attend:
                branches += [attention(False), feed_forward()]
            layers.append(nn.ModuleList(branches))
        self.net = Layers(layers)
        self.feature_redraw_interval = feature_redraw_interval
        self._calls = 0

    def fix_projection_matrices_(self) -> None:
        """Never draws the projections again."""
        self.feature_redraw_interval = None

    def forward(self, x: Tensor, context: Tensor | None = None, context_mask: Tensor | None = None) -> Tensor:
        """The output, ``[batch, seq, dim]``."""
        if x.ndim != 3:
            raise ValueError(f"Performer: `x` has shape {list(x.shape)}, want [batch, seq, dim]")
        if self.training and self.feature_redraw_interval is not None:
            if self._calls >= self.feature_redraw_interval:
                for module in self.modules():
                    if isinstance(module, FastAttention):
                        module.redraw_projection_matrix()
                self._calls = 0
            self._calls += 1
        y: Tensor = self.net(x, context, context_mask)
        return y

    def state(self, batch: int = 1) -> PerformerState:
        """The state before the first token."""
        attentions = (one for one in self.modules() if isinstance(one, SelfAttention))
        return PerformerState(tuple(one.state(batch) for one in attentions), 0)

    def step(self, x: Tensor, state: PerformerState) -> tuple[Tensor, PerformerState]:
        """One token, ``[batch, dim]``, of a causal module without a context: its output and the state after it."""
        after = []
        for branches, before in zip(self.net.layers, state.matrices):
            each: list[Any] = list(branches.children())
            if len(each) != 2:
                raise ValueError("Performer: step needs cross_attend=False")
            attention, feed_forward = each

            def read(y: Tensor, fn: SelfAttention = attention.fn, before: Tensor = before) -> Tensor:
                out, matrix = fn.step(y, before)
                after.append(matrix)
                return out

            x = x + attention.around(read, x)
            x = x + feed_forward(x[:, None])[:, 0]
        return x, PerformerState(tuple(after), state.tokens + 1)
