"""The time mixing of RWKV-4 to RWKV-7.

Parameters of RWKV-4 and RWKV-5 have the names of the authors' checkpoints, those of RWKV-6 and RWKV-7 the names of
flash-linear-attention.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from longreach import _torch
from longreach.nn.recurrent import Recurrent, RecurrentState, parts, unit

#: The logarithm of the strongest decay of RWKV-7: that of a gate of 1.
STRONGEST = -math.exp(-0.5)


class _TimeMix(Recurrent):
    """A layer that mixes each token with the one before it."""

    convolved: list[tuple[int, int]]

    def __init__(self, dim: int) -> None:
        super().__init__()
        # The state has the last token, as that of a convolution with two taps would.
        self.convolved = [(dim, 2)]

    def _shifted(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, Tensor]:
        """What the token before each has more than the token, and the last token."""
        before = torch.cat([state.convolutions[0], x], 1)
        return before[:, :-1] - x, before[:, -1:]


def _heads(module: str, dim: int, num_heads: int | None, head_dim: int) -> int:
    """The number of heads, of which one of the two sizes says how many."""
    heads = num_heads or (dim // head_dim if head_dim > 0 else 0)
    if dim < 1 or heads < 1 or dim % heads:
        raise ValueError(f"{module}: dim={dim} with num_heads={num_heads} and head_dim={head_dim}: heads do not divide dim")
    return heads


def _ramp(first: float, last: float, *shape: int) -> nn.Parameter:
    """Numbers that rise evenly from the first to the last."""
    return nn.Parameter(torch.linspace(first, last, math.prod(shape)).reshape(shape))


class RWKV4(_TimeMix):
    """The time mixing of RWKV-4 (Peng et al. 2023), on ``[batch, seq, dim]``.

    >>> import torch
    >>> RWKV4(64)(torch.randn(1, 50, 64)).shape
    torch.Size([1, 50, 64])
    """

    state_shape: tuple[int, int]
    time_mix_key: nn.Parameter
    time_mix_value: nn.Parameter
    time_mix_receptance: nn.Parameter
    time_decay: nn.Parameter
    time_first: nn.Parameter
    key: nn.Linear
    value: nn.Linear
    receptance: nn.Linear
    output: nn.Linear

    def __init__(self, dim: int, *, dim_attn: int | None = None) -> None:
        super().__init__(dim)
        inner = dim_attn or dim
        self.state_shape = (3, inner)
        self.time_mix_key, self.time_mix_value = _ramp(0, 1, 1, 1, dim), _ramp(0, 1, 1, 1, dim)
        self.time_mix_receptance = _ramp(0, 0.5, 1, 1, dim)
        self.time_decay = _ramp(-5, 3, inner)
        self.time_first = nn.Parameter(torch.full((inner,), math.log(0.3)))
        self.key, self.value, self.receptance = (nn.Linear(dim, inner, bias=False) for _ in range(3))
        self.output = nn.Linear(inner, dim, bias=False)

    def state(self, batch: int = 1) -> RecurrentState:
        """The state before the first token."""
        empty = super().state(batch)
        # The largest exponent so far is below any other.
        empty.matrix[:, 2] = -1e38
        return empty

    def read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        delta, last = self._shifted(x, state)
        k, v = self.key(x + delta * (1 - self.time_mix_key)), self.value(x + delta * (1 - self.time_mix_value))
        r = self.receptance(x + delta * (1 - self.time_mix_receptance)).sigmoid()
        out, sums = _torch.call("rwkv4", k, v, -self.time_decay.exp(), self.time_first, state.matrix)
        return self.output(r * out), RecurrentState(sums, (last,), state.tokens + x.shape[1])


class RWKV5(_TimeMix):
    """The time mixing of RWKV-5, Eagle (Peng et al. 2024), on ``[batch, seq, dim]``.

    >>> import torch
    >>> RWKV5(64, num_heads=4)(torch.randn(1, 50, 64)).shape
    torch.Size([1, 50, 64])
    """

    num_heads: int
    state_shape: tuple[int, int, int]
    time_mix_k: nn.Parameter
    time_mix_v: nn.Parameter
    time_mix_r: nn.Parameter
    time_mix_g: nn.Parameter
    time_decay: nn.Parameter
    time_faaaa: nn.Parameter
    receptance: nn.Linear
    key: nn.Linear
    value: nn.Linear
    gate: nn.Linear
    output: nn.Linear
    ln_x: nn.GroupNorm

    def __init__(self, dim: int, num_heads: int | None = None, head_dim: int = 64, *, norm_eps: float = 64e-5) -> None:
        super().__init__(dim)
        heads = _heads("RWKV5", dim, num_heads, head_dim)
        self.num_heads, self.state_shape = heads, (heads, dim // heads, dim // heads)
        self.time_mix_k, self.time_mix_v = _ramp(0, 1, 1, 1, dim), _ramp(0, 1, 1, 1, dim)
        self.time_mix_r, self.time_mix_g = _ramp(0, 1, 1, 1, dim), _ramp(0, 1, 1, 1, dim)
        self.time_decay, self.time_faaaa = _ramp(-6, -1, heads, dim // heads), _ramp(0, 0.5, heads, dim // heads)
        self.receptance, self.key, self.value, self.gate = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.output = nn.Linear(dim, dim, bias=False)
        self.ln_x = nn.GroupNorm(heads, dim, eps=norm_eps)

    def read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        delta, last = self._shifted(x, state)
        given = ((self.receptance, self.time_mix_r), (self.key, self.time_mix_k), (self.value, self.time_mix_v))
        q, k, v = (layer(x + delta * (1 - mix)).unflatten(2, (self.num_heads, -1)) for layer, mix in given)
        gate = nn.functional.silu(self.gate(x + delta * (1 - self.time_mix_g)))
        out, matrix = _torch.call("rwkv5", q, k, v, -self.time_decay.exp(), self.time_faaaa, state.matrix, scale=1.0)
        y: Tensor = self.output(_normed(self.ln_x, out) * gate)
        return y, RecurrentState(matrix, (last,), state.tokens + x.shape[1])


def _normed(norm: nn.GroupNorm, out: Tensor) -> Tensor:
    """The norm of each head of each token, ``[batch, seq, heads, width]``, joined."""
    y: Tensor = norm(out.flatten(0, 1).flatten(1))
    return y.reshape(*out.shape[:2], -1)


class LoRA(nn.Module):
    """A map of low rank, with a function in between and a bias."""

    lora: nn.Sequential

    def __init__(self, dim: int, rank: int, width: int, between: nn.Module, bias: Tensor | None = None) -> None:
        super().__init__()
        self.lora = nn.Sequential(nn.Linear(dim, rank, bias=False), between, nn.Linear(rank, width, bias=bias is not None))
        if bias is not None:
            with torch.no_grad():
                getattr(self.lora[2], "bias").copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lora(x)
        return y


class _Mixed(nn.Module):
    """A projection under the name ``linear``, and how much of the token before it sees, if it says so itself."""

    def __init__(self, linear: nn.Module, mu: nn.Parameter | None = None) -> None:
        super().__init__()
        self.linear = linear
        if mu is not None:
            self.mu = mu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y


class RWKV6(_TimeMix):
    """The time mixing of RWKV-6, Finch (Peng et al. 2024), on ``[batch, seq, dim]``: ``RWKV6Attention`` of flash-linear-attention.

    >>> import torch
    >>> RWKV6(64, num_heads=4)(torch.randn(1, 50, 64)).shape
    torch.Size([1, 50, 64])
    """

    num_heads: int
    state_shape: tuple[int, int, int]
    rank: int
    x_proj: nn.Sequential
    x_bias: nn.Parameter
    r_proj: _Mixed
    k_proj: _Mixed
    v_proj: _Mixed
    g_proj: _Mixed
    w_proj: _Mixed
    bonus: nn.Parameter
    g_norm: nn.GroupNorm
    o_proj: nn.Linear

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        *,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        proj_low_rank_dim: int = 32,
        gate_low_rank_dim: int = 64,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(dim)
        k, v = parts("RWKV6", dim, num_heads, expand_k=expand_k, expand_v=expand_v)
        self.num_heads, self.state_shape, self.rank = num_heads, (num_heads, k, v), proj_low_rank_dim
        mixed = _Mixed(nn.Linear(dim, 5 * proj_low_rank_dim, bias=False), _ramp(0, 1, dim))
        self.x_proj = nn.Sequential(mixed, nn.Tanh(), nn.Linear(5 * proj_low_rank_dim, dim, bias=False))
        self.x_bias = nn.Parameter(torch.rand(5, dim))
        self.r_proj, self.k_proj = (_Mixed(nn.Linear(dim, num_heads * k, bias=False)) for _ in range(2))
        self.v_proj, self.g_proj = (_Mixed(nn.Linear(dim, num_heads * v, bias=False)) for _ in range(2))
        decays = torch.linspace(-6, -1, num_heads * k)
        self.w_proj = _Mixed(LoRA(dim, gate_low_rank_dim, num_heads * k, nn.Tanh(), decays))
        self.bonus = _ramp(0, 0.5, num_heads, k)
        self.g_norm = nn.GroupNorm(num_heads, num_heads * v, eps=norm_eps)
        self.o_proj = nn.Linear(num_heads * v, dim, bias=False)

    def read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        delta, last = self._shifted(x, state)
        mixer: Any = self.x_proj[0]
        weight: Any = self.x_proj[2].weight
        low = mixer(x + delta * mixer.mu).tanh().unflatten(2, (5, self.rank))
        shares = torch.einsum("btsr,dsr->sbtd", low, weight.unflatten(1, (5, self.rank)))
        r, w, k, v, g = (x + delta * (share + bias) for share, bias in zip(shares, self.x_bias))
        heads = [y.unflatten(2, (self.num_heads, -1)) for y in (self.r_proj(r), self.k_proj(k), self.v_proj(v))]
        decay = -self.w_proj(w).exp().unflatten(2, (self.num_heads, -1))
        out, matrix = _torch.call("rwkv6", *heads, decay, self.bonus, state.matrix, scale=1.0)
        y: Tensor = self.o_proj(_normed(self.g_norm, out) * nn.functional.silu(self.g_proj(g)))
        return y, RecurrentState(matrix, (last,), state.tokens + x.shape[1])


class RWKV7(_TimeMix):
    """The time mixing of RWKV-7, Goose (Peng et al. 2025), on ``[batch, seq, dim]``: ``RWKV7Attention`` of flash-linear-attention.

    Layers but the first, of ``layer_idx`` 0, mix their values with those of the first, which :meth:`values` returns and
    which they are given as ``v_first``.

    >>> import torch
    >>> x = torch.randn(1, 50, 64)
    >>> first, second = RWKV7(64, head_dim=16), RWKV7(64, head_dim=16, layer_idx=1)
    >>> second(first(x), v_first=first.values(x)).shape
    torch.Size([1, 50, 64])
    """

    num_heads: int
    state_shape: tuple[int, int, int]
    layer_idx: int
    k_k: nn.Parameter
    k_a: nn.Parameter
    r_k: nn.Parameter
    r_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear
    w_lora: LoRA
    v_lora: LoRA
    a_lora: LoRA
    g_lora: LoRA
    g_norm: nn.GroupNorm

    MIXES = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        head_dim: int = 64,
        *,
        decay_low_rank_dim: int | None = None,
        gate_low_rank_dim: int | None = None,
        a_low_rank_dim: int | None = None,
        v_low_rank_dim: int | None = None,
        layer_idx: int = 0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(dim)
        heads = _heads("RWKV7", dim, num_heads, head_dim)
        width = dim // heads
        self.num_heads, self.state_shape, self.layer_idx = heads, (heads, width, width), layer_idx
        for name in self.MIXES:
            self.register_parameter(name, _ramp(1, 0, 1, 1, dim))
        self.k_k, self.k_a = _ramp(0.76, 0.66, dim), nn.Parameter(torch.full((dim,), 1.02))
        self.r_k = nn.Parameter(torch.full((heads, width), -0.04))
        self.r_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(dim, dim, bias=False) for _ in range(4))

        def low(rank: int | None, factor: float, power: float, between: nn.Module, bias: tuple[float, float] | None) -> LoRA:
            rank = rank or max(32, round(factor * dim**power / 32) * 32)
            return LoRA(dim, rank, dim, between, None if bias is None else torch.linspace(*bias, dim))

        self.w_lora = low(decay_low_rank_dim, 1.8, 0.5, nn.Tanh(), (-5.5, 0.5))
        if layer_idx:
            self.v_lora = low(v_low_rank_dim, 1.3, 0.5, nn.Identity(), (0.93, 0.53))
        self.a_lora = low(a_low_rank_dim, 1.8, 0.5, nn.Identity(), (-0.39, 0.01))
        self.g_lora = low(gate_low_rank_dim, 0.6, 0.8, nn.Sigmoid(), None)
        self.g_norm = nn.GroupNorm(heads, dim, eps=width * norm_eps)

    def values(self, x: Tensor, state: RecurrentState | None = None) -> Tensor:
        """The values of this layer for tokens that come after a state, ``[batch, seq, dim]``."""
        delta, _ = self._shifted(x, self.state(x.shape[0]) if state is None else state)
        share: Tensor = getattr(self, "x_v")
        v: Tensor = self.v_proj(x + delta * share)
        return v

    def forward(
        self, x: Tensor, state: RecurrentState | None = None, return_state: bool = False, v_first: Tensor | None = None
    ) -> Tensor | tuple[Tensor, RecurrentState]:
        """The output, and the state after ``x`` if ``return_state``. A text that is cut anywhere gives the same."""
        if x.ndim != 3:
            raise ValueError(f"RWKV7: `x` has shape {list(x.shape)}, want [batch, seq, dim]")
        y, after = self.read(x, self.state(x.shape[0]) if state is None else state, v_first)
        return (y, after) if return_state else y

    def step(self, x: Tensor, state: RecurrentState, v_first: Tensor | None = None) -> tuple[Tensor, RecurrentState]:
        """One token, ``[batch, dim]``: its output and the state after it."""
        y, after = self.read(x[:, None], state, None if v_first is None else v_first[:, None])
        return y[:, 0], after

    def read(self, x: Tensor, state: RecurrentState, v_first: Tensor | None = None) -> tuple[Tensor, RecurrentState]:
        if bool(self.layer_idx) != (v_first is not None):
            want = "want the values of the first layer" if self.layer_idx else "want None"
            raise ValueError(f"RWKV7: `v_first` of a layer with layer_idx={self.layer_idx}: {want}")
        delta, last = self._shifted(x, state)
        r, w, k, v, a, g = (x + delta * getattr(self, name) for name in self.MIXES)
        decay = STRONGEST * self.w_lora(w).sigmoid()
        values, rate, keys = self.v_proj(v), self.a_lora(a).sigmoid(), self.k_proj(k)
        if v_first is not None:
            values = values + (v_first - values) * self.v_lora(v).sigmoid()
        tensors = (self.r_proj(r), keys + keys * (rate - 1) * self.k_a, values, decay, keys * self.k_k, rate)
        q, k, v, decay, kappa, rate = (y.unflatten(2, (self.num_heads, -1)) for y in tensors)
        given: dict[str, Any] = {"scale": 1.0}
        out, matrix = _torch.call("rwkv7", q, k, v, decay, unit(kappa), rate, state.matrix, **given)
        bonus = (q * k * self.r_k).sum(-1, keepdim=True) * v
        y: Tensor = self.o_proj((_normed(self.g_norm, out) + bonus.flatten(2)) * self.g_lora(g))
        return y, RecurrentState(matrix, (last,), state.tokens + x.shape[1])
