"""What stands before or behind a residual branch of a Performer."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor, nn


class ScaleNorm(nn.Module):
    """Scales tokens to one learned length before a module."""

    fn: nn.Module
    eps: float
    g: nn.Parameter

    def __init__(self, dim: int, fn: nn.Module, eps: float = 1e-5) -> None:
        super().__init__()
        self.fn, self.eps = fn, eps
        self.g = nn.Parameter(torch.ones(1))

    def around(self, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The output with ``call`` in place of the module."""
        return call(x / x.norm(dim=-1, keepdim=True).clamp(min=self.eps) * self.g)

    def forward(self, x: Tensor, **given: Any) -> Tensor:
        return self.around(lambda y: self.fn(y, **given), x)


class ReZero(nn.Module):
    """Scales the output of a module by a learned number that is small at first."""

    g: nn.Parameter

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.tensor(1e-3))
        self.fn = fn

    def around(self, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The output with ``call`` in place of the module."""
        return call(x) * self.g

    def forward(self, x: Tensor, **given: Any) -> Tensor:
        return self.around(lambda y: self.fn(y, **given), x)


class PreLayerNorm(nn.Module):
    """A layer norm before a module."""

    norm: nn.LayerNorm

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def around(self, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The output with ``call`` in place of the module."""
        return call(self.norm(x))

    def forward(self, x: Tensor, **given: Any) -> Tensor:
        return self.around(lambda y: self.fn(y, **given), x)
