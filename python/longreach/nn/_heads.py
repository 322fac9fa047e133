"""What modules of self-attention check and reshape."""

from __future__ import annotations

from torch import Tensor


def width(module: str, dim: int, heads: int, dim_head: int | None = None) -> int:
    """The channels of a head: ``dim // heads`` unless given."""
    if dim < 1 or heads < 1 or (dim_head is not None and dim_head < 1):
        raise ValueError(f"{module}: dim={dim}, heads={heads}, dim_head={dim_head}, want at least 1")
    if dim_head is None and dim % heads:
        raise ValueError(f"{module}: {heads} heads do not divide dim={dim}: give dim_head")
    return dim_head or dim // heads


def sequence(module: str, x: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """Checks ``[batch, seq, dim]``, and a mask ``[batch, seq]``, which is returned with booleans."""
    if x.ndim != 3:
        raise ValueError(f"{module}: `x` has shape {list(x.shape)}, want [batch, seq, dim]")
    if mask is None:
        return None
    if mask.shape != x.shape[:2]:
        raise ValueError(f"{module}: `mask` has shape {list(mask.shape)}, want {list(x.shape[:2])}")
    return mask.bool()
