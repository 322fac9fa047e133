"""Ring attention: queries stay, keys and values go round."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from longreach import _arrays, _core
from longreach._arrays import is_torch
from longreach.distributed._layout import held
from longreach.distributed._ranks import Numbers, Ranks, ranks


class _Options(NamedTuple):
    causal: bool
    left: int | None
    scale: float | None
    softcap: float | None


def ring_attention(
    q: Any,
    k: Any,
    v: Any,
    comm: Any = None,
    *,
    causal: bool = True,
    left: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    layout: str = "zigzag",
) -> Any:
    """Softmax attention of a text over ranks: this rank's tokens in, their output out.

    In each of as many steps as there are ranks, a rank attends to the keys of another while they travel on to the next; outputs are merged exactly
    by their log-sum-exps. A rank sends ``4 (N − 1)/N · T · G · (D + E)`` bytes, and backward as many again and the gradients of keys and values.

    Parameters
    ----------
    q, k, v : array of numpy or tensor of torch
        This rank's tokens, as :func:`split` gives them: [B, T, H, D], [B, T, G, D] and [B, T, G, E]; head h reads group h / (H / G).
    comm
        A communicator of mpi4py, a process group of torch.distributed, or None.
    causal : bool
        Hide the future.
    left : int, optional
        Attend to this many keys before a query's own, and to no earlier ones; the future is hidden then.
    scale, softcap : float, optional
        The factor of the scores, 1/√D by default, and c of ``c tanh(score / c)``.
    layout : str
        How tokens are spread over ranks: see :func:`pieces`. "zigzag" balances causal attention.

    Returns
    -------
    array
        [B, T, H, E], of the library and type of ``q``.
    """
    of, options = ranks(comm), _Options(causal, left, scale, softcap)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if getattr(x, "ndim", None) != 4 or x.shape[1] != q.shape[1]:
            raise ValueError(f"ring_attention: `{name}` has shape {tuple(x.shape)}, want 4 axes with {q.shape[1]} tokens in the second")
    if left is not None and not causal:
        raise ValueError("ring_attention: `left` is given, but `causal` is False: a window of past keys hides the future")
    spread = held(of, int(q.shape[1]), layout, "ring_attention")
    if is_torch(q):
        return _with_gradient(q, k, v, of, spread, options)
    dtype = _arrays.dtype_of(q)
    o = _forward(*map(_numbers, (q, k, v)), of, spread, options)[0]
    return o if dtype is None else o.astype(dtype)


def _numbers(x: Any) -> Numbers:
    x = x.detach().float().numpy() if is_torch(x) else np.asarray(x)
    return np.ascontiguousarray(x, np.float32)


def _call(queries: range, keys: range, options: _Options) -> tuple[str, str] | None:
    """The mechanism and the parameters of attention of some consecutive queries to some consecutive keys; None if all pairs are hidden."""
    if not len(queries) or not len(keys):
        return None
    common = {"scale": options.scale, "softcap": options.softcap}
    if not options.causal:
        return "dense", json.dumps({**common, "causal": False})
    if keys.start >= queries.stop:
        return None
    offset = queries.start - keys.start
    if options.left is not None:
        if queries.start - (keys.stop - 1) > options.left:
            return None
        return "window", json.dumps({**common, "left": options.left, "offset": offset})
    return "dense", json.dumps({**common, "causal": offset == 0})


def _own(own: list[range]) -> list[tuple[range, slice]]:
    at, out = 0, []
    for piece in own:
        out.append((piece, slice(at, at + len(piece))))
        at += len(piece)
    return out


def _pack(*arrays: Numbers) -> Numbers:
    return np.concatenate([x.ravel() for x in arrays])


def _unpack(packed: Numbers, like: tuple[Numbers, Numbers], tokens: int) -> tuple[Numbers, Numbers]:
    shapes = [(x.shape[0], tokens, *x.shape[2:]) for x in like]
    n = int(np.prod(shapes[0]))
    return packed[:n].reshape(shapes[0]), packed[n:].reshape(shapes[1])


def _room(like: tuple[Numbers, Numbers], tokens: int) -> Numbers:
    return np.empty(sum(x.shape[0] * tokens * x.shape[2] * x.shape[3] for x in like), np.float32)


def _forward(q: Numbers, k: Numbers, v: Numbers, of: Ranks, spread: list[list[range]], options: _Options) -> tuple[Numbers, Numbers]:
    me, n = of.rank, of.size
    out = np.zeros((*q.shape[:3], v.shape[3]), np.float32)
    lse = np.full(q.shape[:3], -np.inf, np.float32)
    held_pair = _pack(k, v)
    for step in range(n):
        source = (me - step) % n
        tokens = sum(map(len, spread[source]))
        under_way = None
        if step + 1 < n:
            room = _room((k, v), sum(map(len, spread[(source - 1) % n])))
            under_way = of.shift(held_pair, (me + 1) % n, room, (me - 1) % n)
        keys, values = _unpack(held_pair, (k, v), tokens)
        for queries, rows in _own(spread[me]):
            for theirs, columns in _own(spread[source]):
                call = _call(queries, theirs, options)
                if call is None:
                    continue
                given = [("q", q[:, rows]), ("k", keys[:, columns]), ("v", values[:, columns])]
                found = dict(_core.forward(call[0], given, call[1], "chunk", False))
                _merge(out[:, rows], lse[:, rows], _arrays.numpy(found["o"]), _arrays.numpy(found["lse"]))
        if under_way is not None:
            of.wait(under_way)
            held_pair = room
    return out, lse


def _merge(out: Numbers, lse: Numbers, more: Numbers, other: Numbers) -> None:
    """Merges attention to more keys into ``out`` and ``lse``."""
    top = np.maximum(lse, other)
    shift = np.where(np.isneginf(top), np.float32(0), top)
    mine, theirs = np.exp(lse - shift), np.exp(other - shift)
    total = mine + theirs
    safe = np.where(total > 0, total, np.float32(1))
    out *= (mine / safe)[..., None]
    out += (theirs / safe)[..., None] * more
    with np.errstate(divide="ignore"):
        lse[...] = shift + np.log(total)


def _backward(
    q: Numbers, k: Numbers, v: Numbers, o: Numbers, lse: Numbers, d: Numbers, of: Ranks, spread: list[list[range]], options: _Options
) -> tuple[Numbers, Numbers, Numbers]:
    me, n = of.rank, of.size
    dq = np.zeros_like(q)
    held_pair, grown = _pack(k, v), np.zeros(k.size + v.size, np.float32)
    for step in range(n):
        source = (me - step) % n
        tokens, behind = sum(map(len, spread[source])), sum(map(len, spread[(source - 1) % n]))
        under_way = None
        if step + 1 < n:
            room = _room((k, v), behind)
            under_way = of.shift(held_pair, (me + 1) % n, room, (me - 1) % n)
        (keys, values), (dk, dv) = _unpack(held_pair, (k, v), tokens), _unpack(grown, (k, v), tokens)
        for queries, rows in _own(spread[me]):
            for theirs, columns in _own(spread[source]):
                call = _call(queries, theirs, options)
                if call is None:
                    continue
                given = [("q", q[:, rows]), ("k", keys[:, columns]), ("v", values[:, columns])]
                given += [("do", d[:, rows]), ("o", o[:, rows]), ("lse", lse[:, rows])]
                found = dict(_core.backward(call[0], given, call[1], False))
                dq[:, rows] += _arrays.numpy(found["dq"])
                dk[:, columns] += _arrays.numpy(found["dk"])
                dv[:, columns] += _arrays.numpy(found["dv"])
        if under_way is not None:
            of.wait(under_way)
            held_pair = room
        if n > 1:
            # Gradients move on with their keys and one step further: then they are where the keys were made.
            arrived = _room((k, v), behind)
            of.wait(of.shift(grown, (me + 1) % n, arrived, (me - 1) % n))
            grown = arrived
    return (dq, *_unpack(grown, (k, v), k.shape[1]))


def _with_gradient(q: Any, k: Any, v: Any, of: Ranks, spread: list[list[range]], options: _Options) -> Any:
    import torch

    class Ring(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:
            own = tuple(map(_numbers, (q, k, v)))
            out, lse = _forward(*own, of, spread, options)
            ctx.own, ctx.out, ctx.lse, ctx.types = own, out, lse, (q.dtype, k.dtype, v.dtype)
            return torch.from_numpy(out).to(q.dtype)

        @staticmethod
        def backward(ctx: Any, d: Any) -> Any:
            found = _backward(*ctx.own, ctx.out, ctx.lse, _numbers(d), of, spread, options)
            return tuple(torch.from_numpy(np.ascontiguousarray(g)).to(dtype) for g, dtype in zip(found, ctx.types))

    return Ring.apply(q, k, v)
