"""Linear attention, with learned features or given ones."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from longreach import _core, _torch
from longreach.nn._heads import sequence, width


class LinearAttention(nn.Module):
    r"""Linear attention whose features are the exponentials of a learned projection.

    .. math:: o_i = \frac{\phi(q_i)^\top \sum_j \phi(k_j) v_j^\top}{\phi(q_i)^\top \sum_j \phi(k_j)}, \quad \phi(x) = e^{W x + b}

    Parameters
    ----------
    d_model : int
        The width of queries and keys.
    n_features : int
        The number of features, of all heads together.
    heads : int
        Features and values are split among them.
    causal : bool
        Whether a token sees only those before it.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(2, 100, 64)
    >>> LinearAttention(64, 32)(x, x, x).shape
    torch.Size([2, 100, 64])
    """

    heads: int
    causal: bool
    projection: nn.Linear

    def __init__(self, d_model: int, n_features: int, *, heads: int = 1, causal: bool = False) -> None:
        super().__init__()
        if n_features % heads:
            raise ValueError(f"LinearAttention: {heads} heads do not divide {n_features} features")
        self.heads, self.causal = heads, causal
        self.projection = nn.Linear(d_model, n_features)

    def _split(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[2] % self.heads:
            raise ValueError(f"LinearAttention: found shape {list(x.shape)}, want [batch, seq, a multiple of {self.heads}]")
        return x.reshape(*x.shape[:2], self.heads, -1)

    def forward(self, Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
        """``[batch, seq, d_model]`` each; the output has the width of ``V``."""
        q, k, v = self._split(self.projection(Q)), self._split(self.projection(K)), self._split(V)
        out: Tensor = _torch.call("linear_attention", q, k, v, map="exp", causal=self.causal, epsilon=0.0)[0]
        return out.flatten(2)

    def state(self, batch: int = 1, d_value: int | None = None) -> Tensor:
        """The state before the first token; ``d_value`` is the width of values, by default that of queries."""
        value = (d_value or self.projection.in_features) // self.heads
        return torch.zeros(batch, self.heads, self.projection.out_features // self.heads, value + 1)

    def step(self, Q: Tensor, K: Tensor, V: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token, ``[batch, d_model]`` each, of a causal module: its output and the state after it."""
        if not self.causal:
            raise ValueError("LinearAttention: step needs causal=True")
        q, k, v = (self._split(x[:, None]) for x in (self.projection(Q), self.projection(K), V))
        out, state = _torch.call("linear_attention", q, k, v, map="exp", causal=True, epsilon=0.0, state=state)
        return out.flatten(1), state


class LinearSelfAttention(nn.Module):
    """Self-attention with a feature map in place of the exponential (Katharopoulos et al. 2020), on ``[batch, seq, dim]``.

    ``map`` is one of elu, relu, relu2, exp, identity, taylor and based. ``normalize`` divides by the sum of the weights. The
    state of a causal module has one matrix for each head, whatever the length.

    >>> import torch
    >>> LinearSelfAttention(64, 4, causal=True)(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    heads: int
    dim_head: int
    map: str
    causal: bool
    normalize: bool
    to_q: nn.Linear
    to_k: nn.Linear
    to_v: nn.Linear
    to_out: nn.Linear

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        dim_head: int | None = None,
        map: str = "elu",
        causal: bool = False,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.dim_head = heads, width("LinearSelfAttention", dim, heads, dim_head)
        self.map, self.causal, self.normalize = map, causal, normalize
        inner = heads * self.dim_head
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.state()  # an unknown map is refused here

    def _call(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        q, k, v = (p(x).unflatten(2, (self.heads, self.dim_head)) for p in (self.to_q, self.to_k, self.to_v))
        given: dict[str, Any] = {"map": self.map, "causal": self.causal, "normalize": self.normalize}
        out, after = _torch.call("linear_attention", q, k, v, state=state, **given)
        return self.to_out(out.flatten(2)), after

    def forward(self, x: Tensor) -> Tensor:
        """The output, ``[batch, seq, dim]``."""
        sequence("LinearSelfAttention", x)
        return self._call(x, None)[0]

    def state(self, batch: int = 1) -> Tensor:
        """The state before the first token."""
        shape = [batch, 1, self.heads, self.dim_head]
        given: dict[str, Any] = {"map": self.map, "normalize": self.normalize}
        shapes = _core.shapes("linear_attention", [(name, shape) for name in "qkv"], json.dumps(given), False)
        return torch.zeros(dict(shapes)["state"])

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token, ``[batch, dim]``, of a causal module: its output and the state after it."""
        if not self.causal:
            raise ValueError("LinearSelfAttention: step needs causal=True")
        y, state = self._call(x[:, None], state)
        return y[:, 0], state
