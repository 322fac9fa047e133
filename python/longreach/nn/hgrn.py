"""HGRN2, with the names of parameters that flash-linear-attention has."""

from __future__ import annotations

from torch import Tensor, nn

from longreach import _torch
from longreach.nn._heads import sequence
from longreach.nn.recurrent import Recurrent, RecurrentState, RMSNorm, depthwise, short_convolution


class HGRN2(Recurrent):
    """HGRN2 (Qin et al. 2024), on ``[batch, seq, dim]``: ``HGRN2Attention`` of flash-linear-attention.

    Keys are what the gates of the decay forget. Each head has ``expand_ratio`` of them. ``lower_bound``, a number or one for
    each key of all heads, is the least that a gate keeps; deeper layers are usually given larger ones.

    >>> import torch
    >>> HGRN2(64, num_heads=4, expand_ratio=16)(torch.randn(1, 50, 64)).shape
    torch.Size([1, 50, 64])
    """

    num_heads: int
    state_shape: tuple[int, int, int]
    convolved: list[tuple[int, int]]
    q_proj: nn.Linear
    f_proj: nn.Linear
    i_proj: nn.Linear
    q_conv1d: nn.Conv1d
    f_conv1d: nn.Conv1d
    i_conv1d: nn.Conv1d
    g_norm: RMSNorm
    o_proj: nn.Linear

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        expand_ratio: int = 128,
        *,
        use_short_conv: bool = False,
        conv_size: int = 4,
        conv_bias: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        heads = num_heads or max(dim // max(expand_ratio, 1), 1)
        if dim < 1 or heads < 1 or dim % heads or expand_ratio < 1:
            raise ValueError(f"HGRN2: {heads} heads do not divide dim={dim}, or expand_ratio={expand_ratio} is less than 1")
        self.num_heads, self.state_shape = heads, (heads, expand_ratio, dim // heads)
        widths = (heads * expand_ratio, heads * expand_ratio, dim)
        self.convolved = [(width, conv_size) for width in widths] if use_short_conv else []
        self.q_proj, self.f_proj, self.i_proj = (nn.Linear(dim, width, bias=False) for width in widths)
        if use_short_conv:
            self.q_conv1d, self.f_conv1d, self.i_conv1d = (depthwise(width, conv_size, conv_bias) for width in widths)
        self.g_norm = RMSNorm(dim, norm_eps)
        self.o_proj = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        x: Tensor,
        state: RecurrentState | None = None,
        return_state: bool = False,
        lower_bound: Tensor | float | None = None,
    ) -> Tensor | tuple[Tensor, RecurrentState]:
        """The output, and the state after ``x`` if ``return_state``. A text that is cut anywhere gives the same."""
        sequence("HGRN2", x)
        y, after = self.read(x, self.state(x.shape[0]) if state is None else state, lower_bound)
        return (y, after) if return_state else y

    def step(
        self, x: Tensor, state: RecurrentState, lower_bound: Tensor | float | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """One token, ``[batch, dim]``: its output and the state after it."""
        y, after = self.read(x[:, None], state, lower_bound)
        return y[:, 0], after

    def read(
        self, x: Tensor, state: RecurrentState, lower_bound: Tensor | float | None = None
    ) -> tuple[Tensor, RecurrentState]:
        tensors = [layer(x) for layer in (self.q_proj, self.f_proj, self.i_proj)]
        after: tuple[Tensor, ...] = ()
        if self.convolved:
            layers = (self.q_conv1d, self.f_conv1d, self.i_conv1d)
            both = [short_convolution(*given, "none") for given in zip(layers, tensors, state.convolutions)]
            tensors, after = [y for y, _ in both], tuple(last for _, last in both)
        q, forget, v = tensors
        if lower_bound is None:
            decay = nn.functional.logsigmoid(forget)
        else:
            decay = (lower_bound + (1 - lower_bound) * forget.sigmoid()).log().clamp(max=0)
        given = [y.unflatten(2, (self.num_heads, -1)) for y in (nn.functional.silu(q), decay, v)]
        out, matrix = _torch.call("hgrn2", *given, state.matrix)
        return self.o_proj(self.g_norm(out.flatten(2))), RecurrentState(matrix, after, state.tokens + x.shape[1])
