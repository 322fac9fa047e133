"""Linear attention with learned features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longreach import _torch


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
