"""Mamba-2, with the names of parameters that mamba_ssm has."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from longreach import _torch
from longreach.nn.delta import initial_step
from longreach.nn.recurrent import Recurrent, RecurrentState, depthwise, short_convolution


class GroupNorm(nn.Module):
    """Divides each of ``groups`` parts by the root of its mean square, times a weight; the gate is applied before or after."""

    groups: int
    before: bool
    weight: nn.Parameter

    def __init__(self, width: int, groups: int, before: bool) -> None:
        super().__init__()
        self.groups, self.before = groups, before
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        gate = nn.functional.silu(gate)
        x = x if self.before else x * gate
        x = x.reshape(*x.shape[:-1], self.groups, -1)
        y: Tensor = (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)).flatten(-2) * self.weight
        return y * gate if self.before else y


class Mamba2(Recurrent):
    """Mamba-2 (Dao and Gu 2024), on ``[batch, seq, d_model]``: ``Mamba2`` of mamba_ssm, with its arguments.

    ``d_ssm`` other than all channels and ``D_has_hdim`` are not supported.

    >>> import torch
    >>> Mamba2(64, d_state=16, headdim=32)(torch.randn(1, 50, 64)).shape
    torch.Size([1, 50, 64])
    """

    inner: int
    groups: int
    headdim: int
    d_state: int
    state_shape: tuple[int, int, int]
    convolved: list[tuple[int, int]]
    in_proj: nn.Linear
    conv1d: nn.Conv1d
    dt_bias: nn.Parameter
    A_log: nn.Parameter
    norm: GroupNorm | None
    out_proj: nn.Linear

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: int = 2,
        headdim: int = 64,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        bias: bool = False,
        conv_bias: bool = True,
    ) -> None:
        super().__init__()
        inner = expand * d_model
        if headdim < 1 or inner % headdim:
            raise ValueError(f"Mamba2: headdim={headdim} does not divide {inner} channels, expand={expand} times d_model")
        heads = inner // headdim
        if ngroups < 1 or heads % ngroups:
            raise ValueError(f"Mamba2: ngroups={ngroups} does not divide {heads} heads")
        if d_conv < 2:
            raise ValueError(f"Mamba2: d_conv={d_conv}, want at least 2")
        self.inner, self.groups, self.headdim, self.d_state = inner, ngroups, headdim, d_state
        self.dt_limit = dt_limit
        self.state_shape = (heads, d_state, headdim)
        channels = inner + 2 * ngroups * d_state
        self.convolved = [(channels, d_conv)]
        self.in_proj = nn.Linear(d_model, inner + channels + heads, bias=bias)
        self.conv1d = depthwise(channels, d_conv, conv_bias)
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        self.dt_bias = nn.Parameter(initial_step(heads, dt_min, dt_max, dt_init_floor))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(*A_init_range).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GroupNorm(inner, ngroups, norm_before_gate) if rmsnorm else None
        self.out_proj = nn.Linear(inner, d_model, bias=bias)

    def read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        (channels, _), heads = self.convolved[0], self.state_shape[0]
        gate, joined, dt = torch.split(self.in_proj(x), [self.inner, channels, heads], -1)
        joined, last = short_convolution(self.conv1d, joined, state.convolutions[0])
        width = self.groups * self.d_state
        u, b, c = torch.split(joined, [self.inner, width, width], -1)
        u = u.reshape(*u.shape[:2], heads, self.headdim)
        b, c = (y.reshape(*y.shape[:2], self.groups, self.d_state) for y in (b, c))
        least, most = self.dt_limit
        limits: dict[str, Any] = {"dt_min": float(least), "dt_max": None if math.isinf(most) else float(most)}
        a = -self.A_log.float().exp()
        out, matrix = _torch.call("mamba2", u, dt, self.dt_bias, a, b, c, self.D, state.matrix, **limits)
        out = out.flatten(2)
        out = out * nn.functional.silu(gate) if self.norm is None else self.norm(out, gate)
        return self.out_proj(out), RecurrentState(matrix, (last,), state.tokens + x.shape[1])
