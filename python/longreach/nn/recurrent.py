"""What layers with a recurrent state share, and two of them: retention and gated linear attention.

Parameters have the names of flash-linear-attention, so that its checkpoints load.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from longreach import _torch
from longreach.nn._heads import sequence


class RecurrentState(NamedTuple):
    """What later tokens need of those before: of a size that does not grow with the text."""

    matrix: Tensor
    #: The last inputs of each short convolution.
    convolutions: tuple[Tensor, ...]
    tokens: int

    def detach(self) -> RecurrentState:
        """Without the gradient of what was read before."""
        return RecurrentState(self.matrix.detach(), tuple(x.detach() for x in self.convolutions), self.tokens)


class RMSNorm(nn.Module):
    """Divides by the root of the mean square, times a weight; times ``silu(gate)``, or its sigmoid, if there is a gate."""

    eps: float
    sigmoid: bool
    weight: nn.Parameter

    def __init__(self, width: int, eps: float, sigmoid: bool = False) -> None:
        super().__init__()
        self.eps, self.sigmoid = eps, sigmoid
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        y: Tensor = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight
        if gate is None:
            return y
        return y * (gate.sigmoid() if self.sigmoid else nn.functional.silu(gate))


class Recurrent(nn.Module):
    """A layer on ``[batch, seq, dim]`` whose state has one size."""

    #: The shape of the state: often heads, and channels of keys and of values.
    state_shape: tuple[int, ...]
    #: The channels and the taps of each short convolution.
    convolved: list[tuple[int, int]]

    def read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """The output for ``[batch, seq, dim]``, and the state after it."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, state: RecurrentState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, RecurrentState]:
        """The output, and the state after ``x`` if ``return_state``. A text that is cut anywhere gives the same."""
        sequence(type(self).__name__, x)
        y, after = self.read(x, self.state(x.shape[0]) if state is None else state)
        return (y, after) if return_state else y

    def state(self, batch: int = 1) -> RecurrentState:
        """The state before the first token."""
        convolutions = tuple(torch.zeros(batch, taps - 1, channels) for channels, taps in self.convolved)
        return RecurrentState(torch.zeros(batch, *self.state_shape), convolutions, 0)

    def step(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """One token, ``[batch, dim]``: its output and the state after it."""
        y, after = self.read(x[:, None], state)
        return y[:, 0], after


def short_convolution(layer: nn.Conv1d, x: Tensor, state: Tensor, activation: str = "silu") -> tuple[Tensor, Tensor]:
    """The causal convolution of each channel, with its activation, and its last inputs."""
    y, after = _torch.call("short_conv", x, layer.weight[:, 0].T, layer.bias, state, activation=activation)
    return y, after


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def depthwise(channels: int, taps: int, bias: bool) -> nn.Conv1d:
    """The parameters of a short convolution."""
    return nn.Conv1d(channels, channels, taps, groups=channels, padding=taps - 1, bias=bias)


def parts(module: str, dim: int, num_heads: int, **factors: float) -> list[int]:
    """Channels of a head: those of ``dim`` times each factor, divided among the heads."""
    if dim < 1 or num_heads < 1:
        raise ValueError(f"{module}: dim={dim} and num_heads={num_heads}, want at least 1")
    found = []
    for name, factor in factors.items():
        whole = round(dim * factor)
        if not math.isclose(whole, dim * factor) or whole < 1 or whole % num_heads:
            raise ValueError(f"{module}: {num_heads} heads do not divide dim={dim} times {name}={factor}")
        found.append(whole // num_heads)
    return found


class RetNet(Recurrent):
    """Multi-scale retention (Sun et al. 2023), on ``[batch, seq, dim]``: ``MultiScaleRetention`` of flash-linear-attention.

    Head ``h`` forgets by ``1 - 2^(-5 - h)`` each token. Queries and keys are rotated by their positions.

    >>> import torch
    >>> RetNet(64, num_heads=4)(torch.randn(1, 50, 64)).shape
    torch.Size([1, 50, 64])
    """

    num_heads: int
    state_shape: tuple[int, int, int]
    convolved: list[tuple[int, int]]
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    g_proj: nn.Linear
    o_proj: nn.Linear
    g_norm_swish_gate: RMSNorm

    def __init__(
        self, dim: int, num_heads: int = 8, *, expand_k: float = 1.0, expand_v: float = 2.0, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        k, v = parts("RetNet", dim, num_heads, expand_k=expand_k, expand_v=expand_v)
        if k % 2:
            raise ValueError(f"RetNet: keys of {k} channels, want an even number: their halves are rotated")
        self.num_heads, self.state_shape, self.convolved = num_heads, (num_heads, k, v), []
        self.q_proj = nn.Linear(dim, num_heads * k, bias=False)
        self.k_proj = nn.Linear(dim, num_heads * k, bias=False)
        self.v_proj = nn.Linear(dim, num_heads * v, bias=False)
        self.g_proj = nn.Linear(dim, num_heads * v, bias=False)
        self.o_proj = nn.Linear(num_heads * v, dim, bias=False)
        self.g_norm_swish_gate = RMSNorm(v, norm_eps)

    def read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        layers = (self.q_proj, self.k_proj, self.v_proj, self.g_proj)
        q, k, v, gate = (layer(x).unflatten(2, (self.num_heads, -1)) for layer in layers)
        tokens = state.tokens + x.shape[1]
        positions = torch.arange(state.tokens, tokens)[None]
        q, k = _torch.call("rotary", q, positions)[0], _torch.call("rotary", k, positions)[0]
        decay = torch.log1p(-torch.exp2(-5.0 - torch.arange(self.num_heads).float()))
        out, matrix = _torch.call("retention", q, k, v, decay, state.matrix)
        y: Tensor = self.o_proj(self.g_norm_swish_gate(out, gate).flatten(2))
        return y, RecurrentState(matrix, (), tokens)


class GLA(Recurrent):
    """Gated linear attention (Yang et al. 2024), on ``[batch, seq, dim]``: ``GatedLinearAttention`` of flash-linear-attention.

    The decay of each channel of keys is a sigmoid to the power ``1 / gate_logit_normalizer``.

    >>> import torch
    >>> GLA(64, num_heads=4)(torch.randn(1, 50, 64)).shape
    torch.Size([1, 50, 64])
    """

    num_heads: int
    state_shape: tuple[int, int, int]
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    g_proj: nn.Linear
    convolved: list[tuple[int, int]]
    q_conv1d: nn.Conv1d
    k_conv1d: nn.Conv1d
    v_conv1d: nn.Conv1d
    gk_proj: nn.Sequential
    o_proj: nn.Linear
    g_norm_swish_gate: RMSNorm

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        *,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        use_short_conv: bool = False,
        conv_size: int = 4,
        conv_bias: bool = False,
        gate_logit_normalizer: float = 16,
        gate_low_rank_dim: int = 16,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        k, v = parts("GLA", dim, num_heads, expand_k=expand_k, expand_v=expand_v)
        self.num_heads, self.state_shape, self.convolved = num_heads, (num_heads, k, v), []
        self.gate_logit_normalizer = gate_logit_normalizer
        widths = (num_heads * k, num_heads * k, num_heads * v)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, width, bias=False) for width in widths)
        self.g_proj = nn.Linear(dim, num_heads * v, bias=False)
        if use_short_conv:
            self.convolved = [(width, conv_size) for width in widths]
            self.q_conv1d, self.k_conv1d, self.v_conv1d = (depthwise(width, conv_size, conv_bias) for width in widths)
        self.gk_proj = nn.Sequential(
            nn.Linear(dim, gate_low_rank_dim, bias=False), nn.Linear(gate_low_rank_dim, num_heads * k)
        )
        self.o_proj = nn.Linear(num_heads * v, dim, bias=False)
        self.g_norm_swish_gate = RMSNorm(v, norm_eps)

    def read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        tensors = [layer(x) for layer in (self.q_proj, self.k_proj, self.v_proj)]
        after: tuple[Tensor, ...] = ()
        if self.convolved:
            layers = (self.q_conv1d, self.k_conv1d, self.v_conv1d)
            both = [short_convolution(*given) for given in zip(layers, tensors, state.convolutions)]
            tensors, after = [y for y, _ in both], tuple(last for _, last in both)
        decay = nn.functional.logsigmoid(self.gk_proj(x)) / self.gate_logit_normalizer
        given: list[Any] = [y.unflatten(2, (self.num_heads, -1)) for y in (*tensors, decay)]
        out, matrix = _torch.call("gla", *given, state.matrix)
        gate = self.g_proj(x).unflatten(2, (self.num_heads, -1))
        y: Tensor = self.o_proj(self.g_norm_swish_gate(out, gate).flatten(2))
        return y, RecurrentState(matrix, after, state.tokens + x.shape[1])
