"""Mechanisms with a state over ranks: what each part does to a state is gathered by all."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from longreach import _arrays, _core
from longreach._arrays import is_torch
from longreach._mechanism import Mechanism, mechanism
from longreach.distributed._layout import held
from longreach.distributed._ranks import Numbers, Ranks, ranks
from longreach.ops._call import Call, bound

#: What the tokens of a part leave of the state before them, and the input that is written to it.
_KEPT = {
    "linear_attention": ("all", "v"),
    "performer": ("all", "v"),
    "cosformer": ("all", "v"),
    "scan": ("head", "v"),
    "retention": ("head", "v"),
    "lightning": ("head", "v"),
    "mamba2": ("head", "x"),
    "gla": ("channel", "v"),
    "hgrn2": ("channel", "v"),
    "rwkv5": ("channel", "v"),
    "rwkv6": ("channel", "v"),
    "mamba": ("element", "x"),
    "rg_lru": ("element", "x"),
    "delta_rule": ("matrix", "v"),
    "gated_delta": ("matrix", "v"),
    "kda": ("matrix", "v"),
    "dplr": ("matrix", "v"),
    "rwkv7": ("matrix", "v"),
}


class Recurrent(NamedTuple):
    """The result of :func:`recurrent`."""

    #: The output of the rank's own tokens.
    o: Any
    #: The state after the whole text, the same on every rank.
    state: Any


def scan(q: Any, k: Any, v: Any, comm: Any = None, *, g: Any = None, beta: Any = None, state: Any = None, scale: float | None = None) -> Recurrent:
    """Linear attention with a gate for each token and head, of a text over ranks: ``recurrent("scan", …)``.

    Parameters
    ----------
    q, k, v : array of numpy or tensor of torch
        This rank's tokens, contiguous parts in the order of ranks: [B, T, G, K], [B, T, G, K] and [B, T, H, V].
    comm
        A communicator of mpi4py, a process group of torch.distributed, or None.
    g, beta : array, optional
        [B, T, H]: the gate's logarithm, at most 0, and how strongly a token is written.
    state : array, optional
        [B, H, K, V]: the state before the text, the same on every rank.

    Returns
    -------
    Recurrent
        ``o`` [B, T, H, V] of this rank's tokens, and ``state`` after the whole text.
    """
    return recurrent("scan", q, k, v, comm=comm, g=g, beta=beta, state=state, scale=scale)


def recurrent(name: str, *args: Any, comm: Any = None, form: str | None = None, **kwargs: Any) -> Recurrent:
    """A mechanism with a state, of a text over ranks: the arguments of ``longreach.ops.<name>``, with this rank's own tokens.

    Tokens are contiguous parts in the order of ranks. Tensors without tokens, such as a bonus or the state before the text, are the same on every
    rank, and their gradients are those of the whole text. Each rank reads its part once from an empty state, gathers what all parts do to a state,
    and reads its part again from the state before it. A rank sends ``4 (N − 1) (state + what is kept of it)`` bytes, whatever the length of the text.
    """
    m = mechanism(name)
    if name not in _KEPT:
        raise ValueError(f"{name!r} is not gathered over ranks; there are {', '.join(sorted(_KEPT))}")
    of, call = ranks(comm), bound(m, args, kwargs, form, "bthd")
    if "cu_seqlens" in json.loads(call.parameters):
        raise ValueError(f"{name}: packed sequences are not cut: give each rank sequences of its own")
    tokens = next(int(call.tensors[a.name].shape[1]) for a in m.inputs if a.axes[1:2] == ("T",) and a.name in call.tensors)
    held(of, tokens, "contiguous", name)
    if any(map(is_torch, call.tensors.values())):
        return _with_gradient(call, of)
    given = {own: _numbers(x) for own, x in call.tensors.items()}
    dtype = _arrays.dtype_of(call.like)
    o, state = _Over(call, of).forward(given)[:2]
    return Recurrent(o if dtype is None else o.astype(dtype), state)


def _numbers(x: Any) -> Numbers:
    x = x.detach().float().numpy() if is_torch(x) else np.asarray(x)
    return np.ascontiguousarray(x, np.float32)


class _Over:
    """A mechanism over ranks, on arrays of numpy."""

    def __init__(self, call: Call, of: Ranks) -> None:
        self.m: Mechanism = call.mechanism
        self.parameters, self.form, self.of = call.parameters, call.form, of
        self.kept_as, self.written = _KEPT[self.m.name]

    def _run(self, given: dict[str, Numbers], state: Numbers) -> dict[str, Numbers]:
        inputs = [*((own, x) for own, x in given.items() if own != "state"), ("state", state)]
        found = _core.forward(self.m.name, inputs, self.parameters, self.form, False)
        return {own: _arrays.numpy(x) for own, x in found}

    def _shape(self, given: dict[str, Numbers]) -> list[int]:
        shapes = [(own, list(x.shape)) for own, x in given.items() if own != "state"]
        return list(dict(_core.shapes(self.m.name, shapes, self.parameters, False))["state"])

    def _kept(self, given: dict[str, Numbers], shape: list[int]) -> Numbers | None:
        """What the part leaves of a state: what becomes of ones, or of the identity, when nothing is written."""
        if self.kept_as == "all":
            return None
        x = given[self.written]
        width = {"matrix": shape[2] if len(shape) > 2 else 0, "element": x.shape[-1]}.get(self.kept_as, 1)
        nothing = {**given, self.written: np.zeros((*x.shape[:-1], width), np.float32)}
        if self.kept_as == "element":
            start = np.ones(shape, np.float32)
        elif self.kept_as == "matrix":
            start = np.broadcast_to(np.eye(shape[2], dtype=np.float32), (*shape[:2], shape[2], shape[2])).copy()
        else:
            start = np.ones((*shape[:3], 1), np.float32)
        kept = self._run(nothing, start)["state"]
        return np.ascontiguousarray(kept[:, :, :1]) if self.kept_as == "head" else kept

    def _leave(self, kept: Numbers | None, state: Numbers, transposed: bool = False) -> Numbers:
        if kept is None:
            return state
        if self.kept_as == "matrix":
            return np.asarray((kept.swapaxes(-1, -2) if transposed else kept) @ state, np.float32)
        return state * kept

    def _gathered(self, given: dict[str, Numbers]) -> tuple[list[Numbers], list[Numbers | None]]:
        """The state before each rank's part and that after the last, and what each part leaves of a state."""
        shape = self._shape(given)
        zero = np.zeros(shape, np.float32)
        before, all_kept = [given.get("state", zero)], []
        if self.of.size == 1:
            return before, [None]
        added, kept = self._run(given, zero)["state"], self._kept(given, shape)
        packed = added.ravel() if kept is None else np.concatenate([added.ravel(), kept.ravel()])
        for theirs in self.of.gather(packed):
            own = None if kept is None else theirs[added.size :].reshape(kept.shape)
            before.append(self._leave(own, before[-1]) + theirs[: added.size].reshape(added.shape))
            all_kept.append(own)
        return before, all_kept

    def forward(self, given: dict[str, Numbers]) -> tuple[Numbers, Numbers, list[Numbers], list[Numbers | None]]:
        """The output, the state after the text, and what :meth:`backward` needs."""
        before, kept = self._gathered(given)
        found = self._run(given, before[self.of.rank])
        return found["o"], before[-1] if self.of.size > 1 else found["state"], before, kept

    def backward(
        self, given: dict[str, Numbers], before: list[Numbers], kept: list[Numbers | None], d: Numbers, d_state: Numbers | None
    ) -> dict[str, Numbers]:
        """The gradients by name of input. ``d_state`` is that of the state after the text, of which the last rank's counts."""
        me, n = self.of.rank, self.of.size
        zero = np.zeros_like(before[me])
        last = zero if d_state is None else d_state
        if n > 1:
            last = self.of.gather(last)[-1]

        def own(after: Numbers) -> dict[str, Numbers]:
            inputs = [*((name, x) for name, x in given.items() if name != "state"), ("state", before[me]), ("do", d), ("dstate", after)]
            return {name[1:]: _arrays.numpy(x) for name, x in _core.backward(self.m.name, inputs, self.parameters, False)}

        gradients = own(last if me == n - 1 else zero)
        if n == 1:
            return gradients
        after = last
        of_outputs = self.of.gather(gradients["state"])
        for rank in reversed(range(n)):
            if rank == me and me < n - 1:
                gradients = own(after)
            after = of_outputs[rank] if rank == n - 1 else self._leave(kept[rank], after, transposed=True) + of_outputs[rank]
        gradients["state"] = after
        for a in self.m.inputs:
            if a.name != "state" and a.axes[1:2] != ("T",) and a.name in gradients:
                gradients[a.name] = np.sum(self.of.gather(gradients[a.name]), axis=0, dtype=np.float32)
        return gradients


def _with_gradient(call: Call, of: Ranks) -> Recurrent:
    import torch

    over, names = _Over(call, of), list(call.tensors)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Any) -> Any:
            given = {name: _numbers(x) for name, x in zip(names, tensors)}
            o, state, before, kept = over.forward(given)
            ctx.given, ctx.before, ctx.kept, ctx.types = given, before, kept, [x.dtype for x in tensors]
            return torch.from_numpy(o).to(tensors[0].dtype), torch.from_numpy(state)

        @staticmethod
        def backward(ctx: Any, d: Any, d_state: Any) -> Any:
            found = over.backward(ctx.given, ctx.before, ctx.kept, _numbers(d), None if d_state is None else _numbers(d_state))
            return tuple(
                torch.from_numpy(np.ascontiguousarray(found[name])).to(dtype) if name in found else None
                for name, dtype in zip(names, ctx.types)
            )

    tensors = [x if is_torch(x) else torch.as_tensor(x) for x in call.tensors.values()]
    return Recurrent(*Function.apply(*tensors))
