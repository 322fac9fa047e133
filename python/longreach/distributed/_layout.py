"""Which tokens a rank holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from longreach._arrays import is_torch
from longreach.distributed._ranks import Ranks, ranks

LAYOUTS = ("contiguous", "zigzag")
_ALIGNED = 64


def pieces(tokens: int, size: int, rank: int, layout: str = "contiguous") -> list[range]:
    """The tokens that rank ``rank`` of ``size`` holds of a text of ``tokens``, as ranges in order.

    ``contiguous`` gives each rank one part. ``zigzag`` gives rank r the parts r and 2 size − 1 − r of 2 size, so that causal attention costs all
    ranks the same. Bounds are multiples of 64 tokens where parts have at least 512.

    >>> pieces(8, 2, 0, "zigzag"), pieces(8, 2, 1)
    ([range(0, 2), range(6, 8)], [range(4, 8)])
    """
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` is {layout!r}, want one of {', '.join(LAYOUTS)}")
    parts = size if layout == "contiguous" else 2 * size
    unit = _ALIGNED if tokens // parts >= 8 * _ALIGNED else 1
    ends = [tokens * i // parts // unit * unit for i in range(parts)] + [tokens]
    own = [rank] if layout == "contiguous" else [rank, 2 * size - 1 - rank]
    return [range(ends[i], ends[i + 1]) for i in own]


def held(of: Ranks, own: int, layout: str, what: str) -> list[list[range]]:
    """The pieces of every rank, of a text of which this one holds ``own`` tokens; ``ValueError`` unless ranks hold what the layout says."""
    lengths = [int(n[0]) for n in of.gather(np.array([own], np.int64))]
    all_pieces = [pieces(sum(lengths), of.size, rank, layout) for rank in range(of.size)]
    for rank, length in enumerate(lengths):
        want = sum(map(len, all_pieces[rank]))
        if want != length:
            raise ValueError(f"{what}: rank {rank} holds {length} tokens of {sum(lengths)}, want {want} in the layout {layout!r}")
    return all_pieces


def split(x: Any, comm: Any, *, axis: int = 1, layout: str = "contiguous") -> Any:
    """This rank's tokens of ``x``, which every rank has whole: an array of numpy or torch, whose axis ``axis`` counts tokens.

    Gradients of torch go back to the rank's own tokens of ``x``.
    """
    of = ranks(comm)
    own = pieces(x.shape[axis], of.size, of.rank, layout)
    parts = [x[(slice(None),) * (axis % x.ndim) + (slice(piece.start, piece.stop),)] for piece in own]
    if is_torch(x):
        import torch

        return torch.cat(parts, dim=axis)
    return np.concatenate(parts, axis=axis)


def join(part: Any, comm: Any, *, axis: int = 1, layout: str = "contiguous") -> Any:
    """The whole text on every rank, of the parts that :func:`split` has made or that were computed of them.

    Gradients of torch go back to each rank's own part: the sum over ranks of what they give is not taken, so that a loss that every rank
    computes alike counts once.
    """
    of = ranks(comm)
    if is_torch(part) and part.requires_grad:
        return _joined_with_gradient(part, of, axis, layout)
    if is_torch(part):
        import torch

        return torch.from_numpy(_join(part.detach().float().numpy(), of, axis, layout)).to(part.dtype)
    x = np.asarray(part)
    return _join(x.astype(np.float32, copy=False), of, axis, layout).astype(x.dtype, copy=False)


def _join(part: np.ndarray[Any, Any], of: Ranks, axis: int, layout: str) -> np.ndarray[Any, Any]:
    axis %= part.ndim
    all_pieces = held(of, part.shape[axis], layout, "join")
    most = max(sum(map(len, own)) for own in all_pieces)
    rows = np.moveaxis(part, axis, 0)
    padded = np.zeros((most, *rows.shape[1:]), np.float32)
    padded[: rows.shape[0]] = rows
    whole = np.empty((sum(len(piece) for own in all_pieces for piece in own), *rows.shape[1:]), np.float32)
    for own, theirs in zip(all_pieces, of.gather(padded)):
        at = 0
        for piece in own:
            whole[piece.start : piece.stop] = theirs[at : at + len(piece)]
            at += len(piece)
    return np.ascontiguousarray(np.moveaxis(whole, 0, axis))


def _joined_with_gradient(part: Any, of: Ranks, axis: int, layout: str) -> Any:
    import torch

    class Joined(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return torch.from_numpy(_join(x.detach().float().numpy(), of, axis, layout)).to(x.dtype)

        @staticmethod
        def backward(ctx: Any, d: Any) -> Any:
            own = pieces(d.shape[axis], of.size, of.rank, layout)
            return torch.cat([d.narrow(axis, piece.start, len(piece)) for piece in own], dim=axis)

    return Joined.apply(part)
