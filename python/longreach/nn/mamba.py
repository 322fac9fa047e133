"""Mamba and RG-LRU: recurrences with a decay for each channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from longreach import _torch
from longreach.nn.delta import initial_step
from longreach.nn.recurrent import Recurrent, RecurrentState, depthwise, short_convolution


class Mamba(Recurrent):
    """Mamba (Gu and Dao 2023), on ``[batch, seq, d_model]``: ``Mamba`` of mamba_ssm, with its arguments.

    >>> import torch
    >>> Mamba(64)(torch.randn(1, 50, 64)).shape
    torch.Size([1, 50, 64])
    """

    inner: int
    d_state: int
    dt_rank: int
    state_shape: tuple[int, int]
    convolved: list[tuple[int, int]]
    in_proj: nn.Linear
    conv1d: nn.Conv1d
    x_proj: nn.Linear
    dt_proj: nn.Linear
    A_log: nn.Parameter
    out_proj: nn.Linear

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if d_model < 1 or d_state < 1 or expand < 1 or d_conv < 2:
            raise ValueError(f"Mamba: d_model={d_model}, d_state={d_state}, expand={expand}, d_conv={d_conv}, want 1, 1, 1 and 2")
        if dt_init not in ("random", "constant"):
            raise ValueError(f"Mamba: dt_init={dt_init!r}, want 'random' or 'constant'")
        inner = expand * d_model
        rank = math.ceil(d_model / 16) if isinstance(dt_rank, str) else dt_rank
        self.inner, self.d_state, self.dt_rank = inner, d_state, rank
        self.state_shape, self.convolved = (d_state, inner), [(inner, d_conv)]
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=bias)
        self.conv1d = depthwise(inner, d_conv, conv_bias)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        bound = dt_scale * rank**-0.5
        with torch.no_grad():
            self.dt_proj.weight.uniform_(-bound, bound) if dt_init == "random" else self.dt_proj.weight.fill_(bound)
            self.dt_proj.bias.copy_(initial_step(inner, dt_min, dt_max, dt_init_floor))
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=bias)

    def read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        u, gate = self.in_proj(x).chunk(2, -1)
        u, last = short_convolution(self.conv1d, u, state.convolutions[0])
        dt, b, c = torch.split(self.x_proj(u), [self.dt_rank, self.d_state, self.d_state], -1)
        # The bias of the step is added by the kernel.
        dt, a = dt @ self.dt_proj.weight.T, -self.A_log.float().exp().T
        out, matrix = _torch.call("mamba", u, dt, self.dt_proj.bias, a, b, c, self.D, gate, state.matrix)
        return self.out_proj(out), RecurrentState(matrix, (last,), state.tokens + x.shape[1])


class _Gates(nn.Module):
    """The parameters of the recurrence: its decay, and the gates with a matrix for each block of channels."""

    recurrent_param: nn.Parameter

    def __init__(self, inner: int, blocks: int) -> None:
        super().__init__()
        width = inner // blocks
        self.recurrent_param = nn.Parameter(torch.linspace(-8.5, -4.3, inner))
        for gate in ("input", "recurrent"):
            weight = torch.empty(blocks, width, width).uniform_(-(width**-0.5), width**-0.5)
            self.register_parameter(f"{gate}_gate_weight", nn.Parameter(weight))
            self.register_parameter(f"{gate}_gate_bias", nn.Parameter(torch.zeros(blocks, width)))

    def gate(self, name: str, x: Tensor) -> Tensor:
        """The gate before its sigmoid."""
        weight, bias = getattr(self, f"{name}_gate_weight"), getattr(self, f"{name}_gate_bias")
        blocks = x.reshape(*x.shape[:2], weight.shape[0], -1)
        both: Tensor = torch.einsum("btgi,gij->btgj", blocks, weight) + bias
        return both.flatten(2)


class RGLRU(Recurrent):
    """The recurrent block of Griffin (De et al. 2024), on ``[batch, seq, dim]``.

    Its parameters are those of ``RecurrentGemmaRecurrentBlock`` of transformers. ``num_heads`` is the number of blocks of the
    gates' matrices, and ``width`` that of the channels of the recurrence, by default ``dim``.

    >>> import torch
    >>> RGLRU(64, num_heads=4)(torch.randn(1, 50, 64)).shape
    torch.Size([1, 50, 64])
    """

    state_shape: tuple[int]
    convolved: list[tuple[int, int]]
    linear_y: nn.Linear
    linear_x: nn.Linear
    linear_out: nn.Linear
    conv_1d: nn.Conv1d
    rg_lru: _Gates

    def __init__(self, dim: int, num_heads: int = 8, *, width: int | None = None, conv_size: int = 4) -> None:
        super().__init__()
        inner = width or dim
        if dim < 1 or num_heads < 1 or inner % num_heads or conv_size < 2:
            raise ValueError(f"RGLRU: {num_heads} heads do not divide {inner} channels, or conv_size={conv_size} is less than 2")
        self.state_shape, self.convolved = (inner,), [(inner, conv_size)]
        self.linear_y, self.linear_x = nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.linear_out = nn.Linear(inner, dim)
        self.conv_1d = depthwise(inner, conv_size, True)
        self.rg_lru = _Gates(inner, num_heads)

    def read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        y = nn.functional.gelu(self.linear_y(x), approximate="tanh")
        u, last = short_convolution(self.conv_1d, self.linear_x(x), state.convolutions[0], "none")
        gates = self.rg_lru
        reset = None
        if state.tokens == 0:
            # The first token of a text enters the state whole.
            reset = torch.zeros(x.shape[:2])
            reset[:, :1] = 1
        r, i = gates.gate("recurrent", u), gates.gate("input", u)
        out, hidden = _torch.call("rg_lru", u, r, i, gates.recurrent_param, reset, state.matrix)
        return self.linear_out(out * y), RecurrentState(hidden, (last,), state.tokens + x.shape[1])
