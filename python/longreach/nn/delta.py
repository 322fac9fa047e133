"""Layers of the delta rule, with the names of parameters that flash-linear-attention has."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from longreach import _torch
from longreach.nn.recurrent import Recurrent, RecurrentState, RMSNorm, depthwise, parts, short_convolution, unit


class _Delta(Recurrent):
    """Projections, short convolutions and the output, which the layers share."""

    key_heads: int
    use_gate: bool
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    b_proj: nn.Linear
    convolved: list[tuple[int, int]]
    q_conv1d: nn.Conv1d
    k_conv1d: nn.Conv1d
    v_conv1d: nn.Conv1d
    o_norm: RMSNorm
    o_proj: nn.Linear

    def __init__(
        self,
        dim: int,
        key_heads: int,
        state_shape: tuple[int, int, int],
        use_gate: bool,
        conv: tuple[int, bool] | None,
        norm_eps: float,
        gate: str = "silu",
    ) -> None:
        super().__init__()
        heads, k, v = state_shape
        self.state_shape: tuple[int, int, int] = state_shape
        self.key_heads, self.use_gate = key_heads, use_gate
        widths = (key_heads * k, key_heads * k, heads * v)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, width, bias=False) for width in widths)
        self.b_proj = nn.Linear(dim, heads, bias=False)
        self.convolved = []
        if conv is not None:
            taps, bias = conv
            if taps < 2:
                raise ValueError(f"{type(self).__name__}: conv_size={taps}, want at least 2")
            self.convolved = [(width, taps) for width in widths]
            self.q_conv1d, self.k_conv1d, self.v_conv1d = (depthwise(width, taps, bias) for width in widths)
        if use_gate:
            self.g_proj: nn.Module = nn.Linear(dim, heads * v, bias=False)
        self.o_norm = RMSNorm(v, norm_eps, gate == "sigmoid")
        self.o_proj = nn.Linear(heads * v, dim, bias=False)

    def _inputs(self, x: Tensor, state: RecurrentState) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Queries and keys of length 1, and values, with heads; and the inputs of convolutions that later tokens need."""
        tensors = [layer(x) for layer in (self.q_proj, self.k_proj, self.v_proj)]
        after: tuple[Tensor, ...] = ()
        if self.convolved:
            layers = (self.q_conv1d, self.k_conv1d, self.v_conv1d)
            both = [short_convolution(*given) for given in zip(layers, tensors, state.convolutions)]
            tensors, after = [y for y, _ in both], tuple(last for _, last in both)
        else:
            tensors = [nn.functional.silu(y) for y in tensors]
        q, k = (unit(y.unflatten(2, (self.key_heads, -1))) for y in tensors[:2])
        return [q, k, tensors[2].unflatten(2, (self.state_shape[0], -1))], after

    def _output(self, x: Tensor, out: Tensor) -> Tensor:
        gate = self.g_proj(x).unflatten(2, (self.state_shape[0], -1)) if self.use_gate else None
        y: Tensor = self.o_proj(self.o_norm(out, gate).flatten(2))
        return y


class DeltaNet(_Delta):
    """The delta rule (Yang et al. 2024), on ``[batch, seq, dim]``: ``DeltaNet`` of flash-linear-attention.

    What the state holds for a key is replaced, by a part ``beta`` of 0 to 1, or to 2 if ``allow_neg_eigval``.

    >>> import torch
    >>> DeltaNet(64, num_heads=4)(torch.randn(1, 50, 64)).shape
    torch.Size([1, 50, 64])
    """

    most: float

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        *,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        use_gate: bool = False,
        use_short_conv: bool = True,
        conv_size: int = 4,
        conv_bias: bool = False,
        allow_neg_eigval: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        k, v = parts("DeltaNet", dim, num_heads, expand_k=expand_k, expand_v=expand_v)
        conv = (conv_size, conv_bias) if use_short_conv else None
        super().__init__(dim, num_heads, (num_heads, k, v), use_gate, conv, norm_eps)
        self.most = 2.0 if allow_neg_eigval else 1.0

    def read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        inputs, after = self._inputs(x, state)
        out, matrix = _torch.call("delta_rule", *inputs, self.most * self.b_proj(x).sigmoid(), state.matrix)
        return self._output(x, out), RecurrentState(matrix, after, state.tokens + x.shape[1])


class GatedDeltaNet(_Delta):
    """The delta rule with a decay for each token (Yang et al. 2025), on ``[batch, seq, dim]``.

    It is ``GatedDeltaNet`` of flash-linear-attention. Keys have ``head_dim`` channels, by default ``dim // num_heads``, and
    values ``expand_v`` times as many. ``num_v_heads`` of values may share ``num_heads`` of keys.

    >>> import torch
    >>> GatedDeltaNet(64, num_heads=2, num_v_heads=4)(torch.randn(1, 50, 64)).shape
    torch.Size([1, 50, 64])
    """

    most: float
    a_proj: nn.Linear
    A_log: nn.Parameter
    dt_bias: nn.Parameter

    def __init__(
        self,
        dim: int,
        num_heads: int = 6,
        head_dim: int | None = None,
        *,
        expand_v: float = 2.0,
        num_v_heads: int | None = None,
        use_gate: bool = True,
        use_short_conv: bool = True,
        allow_neg_eigval: bool = False,
        conv_size: int = 4,
        conv_bias: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        heads = num_v_heads or num_heads
        if heads % num_heads:
            raise ValueError(f"GatedDeltaNet: num_heads={num_heads} does not divide num_v_heads={heads}")
        k = head_dim or parts("GatedDeltaNet", dim, num_heads, head_dim=1.0)[0]
        v = parts("GatedDeltaNet", k, 1, expand_v=expand_v)[0]
        conv = (conv_size, conv_bias) if use_short_conv else None
        super().__init__(dim, num_heads, (heads, k, v), use_gate, conv, norm_eps)
        self.most = 2.0 if allow_neg_eigval else 1.0
        self.a_proj = nn.Linear(dim, heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1e-3, 16).log())
        self.dt_bias = nn.Parameter(initial_step(heads, 0.001, 0.1, 1e-4))

    def read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        inputs, after = self._inputs(x, state)
        decay = -self.A_log.exp() * nn.functional.softplus(self.a_proj(x) + self.dt_bias)
        beta = self.most * self.b_proj(x).sigmoid()
        out, matrix = _torch.call("gated_delta", *inputs, decay, beta, state.matrix)
        return self._output(x, out), RecurrentState(matrix, after, state.tokens + x.shape[1])


class KDA(_Delta):
    """Kimi delta attention (Kimi Team 2025): the delta rule with a decay for each channel of keys, on ``[batch, seq, dim]``.

    It is ``KimiDeltaAttention`` of flash-linear-attention. Keys have ``head_dim`` channels, by default ``dim // num_heads``,
    and values ``expand_v`` times as many. ``num_v_heads`` of values may share ``num_heads`` of keys.

    >>> import torch
    >>> KDA(64, num_heads=4)(torch.randn(1, 50, 64)).shape
    torch.Size([1, 50, 64])
    """

    most: float
    f_proj: nn.Sequential
    g_proj: nn.Sequential
    A_log: nn.Parameter
    dt_bias: nn.Parameter

    def __init__(
        self,
        dim: int,
        num_heads: int = 16,
        head_dim: int | None = None,
        *,
        expand_v: float = 1.0,
        num_v_heads: int | None = None,
        use_short_conv: bool = True,
        allow_neg_eigval: bool = False,
        conv_size: int = 4,
        conv_bias: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        heads = num_v_heads or num_heads
        if heads % num_heads:
            raise ValueError(f"KDA: num_heads={num_heads} does not divide num_v_heads={heads}")
        k = head_dim or parts("KDA", dim, num_heads, head_dim=1.0)[0]
        v = parts("KDA", k, 1, expand_v=expand_v)[0]
        conv = (conv_size, conv_bias) if use_short_conv else None
        super().__init__(dim, num_heads, (heads, k, v), True, conv, norm_eps, "sigmoid")
        self.most = 2.0 if allow_neg_eigval else 1.0
        self.f_proj = nn.Sequential(nn.Linear(dim, v, bias=False), nn.Linear(v, heads * k, bias=False))
        self.g_proj = nn.Sequential(nn.Linear(dim, v, bias=False), nn.Linear(v, heads * v))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.dt_bias = nn.Parameter(initial_step(heads * k, 0.001, 0.1, 1e-4))

    def read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        inputs, after = self._inputs(x, state)
        step: Tensor = nn.functional.softplus(self.f_proj(x) + self.dt_bias)
        decay = -self.A_log.exp()[:, None] * step.reshape(*x.shape[:2], self.state_shape[0], -1)
        beta = self.most * self.b_proj(x).sigmoid()
        out, matrix = _torch.call("kda", *inputs, decay, beta, state.matrix)
        return self._output(x, out), RecurrentState(matrix, after, state.tokens + x.shape[1])


def initial_step(heads: int, least: float, most: float, floor: float) -> Tensor:
    """Biases whose softplus is spread evenly, in the logarithm, between two steps."""
    low, high = math.log(least), math.log(most)
    step = (torch.rand(heads) * (high - low) + low).exp().clamp(min=floor)
    return step + torch.log(-torch.expm1(-step))
