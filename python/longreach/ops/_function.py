"""Makes the function of a mechanism from its description."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections import namedtuple
from typing import Any, Callable

from longreach import _arrays, _core
from longreach._mechanism import Argument, Mechanism, mechanism
from longreach.ops._call import Call, bound, configured, spelled


def function(name: str) -> Callable[..., Any]:
    """The function of a mechanism, with ``backward``, and ``step_`` if it has a state."""
    m = mechanism(name)
    output = named(m.name, tuple(argument.name for argument in m.outputs))

    def call(*args: Any, form: str | None = None, layout: str = "bthd", **kwargs: Any) -> Any:
        return output(*forward(bound(m, args, configured(m, kwargs), form, layout)))

    def backward(*args: Any, layout: str = "bthd", **kwargs: Any) -> Any:
        starts = tuple(f"d{a.name}" for a in m.outputs if a.gradient)
        saved = tuple(a.name for a in m.outputs if a.name not in {i.name for i in m.inputs})
        given = bound(m, args, configured(m, kwargs), None, layout, (*starts, *saved))
        if "do" not in given.tensors:
            raise TypeError(f"{m.name}.backward: `do` is missing: the gradient of the output")
        return gradients(given)

    call.__name__, call.__qualname__, call.__module__ = name, name, "longreach.ops"
    call.__doc__ = documentation(m)
    call.__signature__ = signature(m)  # type: ignore[attr-defined]
    backward.__name__, backward.__qualname__ = "backward", f"{name}.backward"
    backward.__doc__ = (
        f"The gradients of ``{name}`` by name, ``g.{m.inputs[0].name}`` for example, for the inputs that were given.\n\n"
        "Takes the arguments of the function, ``do``, the gradient of its output, and if there are any those of its other outputs."
    )
    call.backward = backward  # type: ignore[attr-defined]
    if m.recurrent and "step" in m.forms:
        call.step_ = stepper(m)  # type: ignore[attr-defined]
    return call


@functools.lru_cache(maxsize=None)
def named(name: str, fields: tuple[str, ...]) -> Any:
    """A named tuple for results; names that Python reserves end in ``_``."""
    title = "".join(part.capitalize() for part in name.split("_"))
    return namedtuple(title, [spelled(field) for field in fields])


def forward(call: Call) -> list[Any]:
    """The outputs of a call, in order; None for one that the form does not have."""
    if call.of_torch:
        from longreach import _torch

        if _torch.wants_operator(call):
            return _torch.forward(call)
    like = call.like
    dtype = _arrays.dtype_of(like)
    found = dict(_core.forward(call.mechanism.name, lent(call), call.parameters, call.form, call.heads_first))
    outputs = [found.get(argument.name) for argument in call.mechanism.outputs]
    keep = {"lse", "state", "pending"}  # kept in 32 bits: later calls go on from them
    return [
        None if out is None else _arrays.returned(out, like, None if argument.name in keep else dtype)
        for argument, out in zip(call.mechanism.outputs, outputs)
    ]


def gradients(call: Call) -> Any:
    """The gradients of a call, by name."""
    like = call.like
    found = dict(_core.backward(call.mechanism.name, lent(call), call.parameters, call.heads_first))
    names = tuple(a.name for a in call.mechanism.inputs if f"d{a.name}" in found)
    out = [_arrays.returned(found[f"d{name}"], like, _arrays.dtype_of(like)) for name in names]
    return named(f"{call.mechanism.name}_gradients", names)(*out)


def lent(call: Call) -> list[tuple[str, Any]]:
    """The tensors of a call as the extension borrows them."""
    return [(name, _arrays.lent(name, x)) for name, x in call.tensors.items()]


def stepper(m: Mechanism) -> Callable[..., Any]:
    """The function that reads one token and changes the state in place."""
    timed = {argument.name for argument in m.inputs if argument.axes[:2] == ("B", "T")}

    def step_(*args: Any, state: Any, **kwargs: Any) -> Any:
        call = bound(m, args, kwargs, "step", "bthd")
        for name in timed & call.tensors.keys():
            x = call.tensors[name]
            call.tensors[name] = x[:, None]
        found = dict(_core.step_in_place(m.name, lent(call), _arrays.lent("state", state), call.parameters))
        return _arrays.returned(found["o"], call.like, _arrays.dtype_of(call.like))[:, 0]

    step_.__name__, step_.__qualname__ = "step_", f"{m.name}.step_"
    step_.__doc__ = (
        f"Reads one token of ``{m.name}``, whose tensors have no axis of tokens, and returns its output.\n\n"
        "Changes ``state`` in place to that after the token."
    )
    return step_


def signature(m: Mechanism) -> inspect.Signature:
    """The signature that ``help`` shows."""
    kinds = inspect.Parameter
    positional = [
        kinds(spelled(a.name), kinds.POSITIONAL_OR_KEYWORD, default=kinds.empty if not a.optional else None)
        for a in sorted(m.inputs, key=lambda a: a.optional)
    ]
    known = {p.name for p in positional}
    keywords = [
        kinds(spelled(p.name), kinds.KEYWORD_ONLY, default=kinds.empty if not p.default else json.loads(p.default))
        for p in m.parameters
        if spelled(p.name) not in known
    ]
    keywords += [kinds("form", kinds.KEYWORD_ONLY, default=None), kinds("layout", kinds.KEYWORD_ONLY, default="bthd")]
    return inspect.Signature(positional + keywords)


def documentation(m: Mechanism) -> str:
    """The docstring: arguments with their shapes, cost and paper."""

    def tensors(arguments: tuple[Argument, ...]) -> list[str]:
        lines = []
        for a in arguments:
            lines.append(f"{spelled(a.name)} : [{', '.join(a.axes)}]{', optional' if a.optional else ''}")
            about = a.about + (f"; together with {', '.join(a.together)}" if a.together else "")
            lines.append(f"    {about}{'' if a.gradient else '; no gradient'}")
        return lines

    lines = [f"{m.name}: {m.paper}", "", f"Time {m.cost}; state: {m.state} numbers per sequence." if m.cost else ""]
    lines += [m.note, "", "Parameters", "----------", *tensors(m.inputs)]
    for p in m.parameters:
        default = f"default {p.default}" if p.default else "required"
        lines += [f"{spelled(p.name)} : {default}", f"    {p.about}"]
    lines += [f"form : {', '.join(m.forms)}", "    the fastest if None", "layout : bthd, bhtd", "    the order of the axes"]
    lines += ["", "Returns", "-------", *tensors(m.outputs)]
    return re.sub("\n\n\n+", "\n\n", "\n".join(lines))
