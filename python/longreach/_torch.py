"""The mechanisms as operators of torch: ``torch.ops.longreach.<name>``, with gradients, for tracing and compiling.

They are registered together when one is first needed.
"""

from __future__ import annotations

import threading
from typing import Any, Callable

import torch
from torch.utils.dlpack import from_dlpack

from longreach import _arrays, _core
from longreach._mechanism import Mechanism, mechanism, mechanisms
from longreach.ops._call import Call

_LOCK = threading.Lock()
# Typed so because torch gives its library no types.
_LIBRARY: Any = None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def register() -> bool:
    """Registers all operators, once; while a call is traced, too."""
    global _LIBRARY
    with _LOCK:
        if _LIBRARY is not None:
            return True
        library: Any = getattr(torch.library, "Library")("longreach", "DEF")
        for m in mechanisms():
            _define(library, m)
        _LIBRARY = library
    return True


def wants_operator(call: Call) -> bool:
    """Whether a call needs an operator: a gradient is wanted, or the call is traced. The extension alone is faster."""
    tensors = [x for x in call.tensors.values() if isinstance(x, torch.Tensor)]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return True
    return torch.compiler.is_compiling() or any(type(x) not in (torch.Tensor, torch.nn.Parameter) for x in tensors)


def forward(call: Call) -> list[Any]:
    """The outputs of a call through its operator."""
    register()
    m = call.mechanism
    dtype = _arrays.dtype_of(call.like)
    tensors = [_widened(call.tensors.get(argument.name)) for argument in m.inputs]
    operator = getattr(torch.ops.longreach, m.name).default
    found = operator(*tensors, call.parameters, call.form, call.heads_first)
    found = (found,) if isinstance(found, torch.Tensor) else found
    keep = {"lse", "state", "pending"}
    return [x if dtype is None or a.name in keep else x.to(dtype) for a, x in zip(m.outputs, found)]


def _widened(x: Any) -> Any:
    if x is None:
        return None
    if not isinstance(x, torch.Tensor):
        x = torch.as_tensor(x)
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _define(library: Any, m: Mechanism) -> None:
    name, qualified = m.name, f"longreach::{m.name}"
    inputs = ", ".join(f"Tensor{'?' if a.optional else ''} {_word(a.name)}" for a in m.inputs)
    outputs = ", ".join("Tensor" for _ in m.outputs)
    outputs = outputs if len(m.outputs) == 1 else f"({outputs})"
    library.define(f"{name}({inputs}, str parameters, str form, bool heads_first) -> {outputs}")
    library.impl(name, _implementation(m), "CPU")
    torch.library.register_fake(qualified, _fake(m), lib=library)

    grads = [a for a in m.inputs if a.gradient]
    starts = ", ".join(f"Tensor? grad_{_word(a.name)}" for a in m.outputs)
    saved = ", ".join(f"Tensor? saved_{_word(a.name)}" for a in m.outputs)
    results = ", ".join("Tensor" for _ in grads)
    results = results if len(grads) == 1 else f"({results})"
    library.define(f"{name}_backward({inputs}, {starts}, {saved}, str parameters, bool heads_first) -> {results}")
    library.impl(f"{name}_backward", _backward_implementation(m), "CPU")
    torch.library.register_fake(f"{qualified}_backward", _backward_fake(m), lib=library)
    setup, backward = _formula(m)
    torch.library.register_autograd(qualified, backward, setup_context=setup, lib=library)
    torch.library.register_autograd(f"{qualified}_backward", _second(name), lib=library)


def _word(name: str) -> str:
    """A name that a schema takes."""
    return f"{name}_" if name in ("lambda", "global") else name


def _implementation(m: Mechanism) -> Callable[..., Any]:
    def implementation(*args: Any) -> Any:
        *tensors, parameters, form, heads_first = args
        given = [(a.name, _arrays.lent(a.name, x)) for a, x in zip(m.inputs, tensors) if x is not None]
        found = dict(_core.forward(m.name, given, parameters, form, heads_first))
        out = tuple(from_dlpack(found[a.name]) if a.name in found else torch.empty(0) for a in m.outputs)
        return out[0] if len(out) == 1 else out

    return implementation


def _fake(m: Mechanism) -> Callable[..., Any]:
    def fake(*args: Any) -> Any:
        *tensors, parameters, _form, heads_first = args
        shapes = output_shapes(m, tensors, parameters, heads_first)
        out = tuple(tensors[0].new_empty(shape, dtype=torch.float32) for shape in shapes)
        return out[0] if len(out) == 1 else out

    return fake


def output_shapes(m: Mechanism, tensors: list[Any], parameters: str, heads_first: bool) -> list[tuple[Any, ...]]:
    """The shapes of the outputs: from the letters of the axes where they say it, and otherwise from the engine."""
    sizes: dict[str, Any] = {}
    for argument, x in zip(m.inputs, tensors):
        if x is not None:
            for axis, size in zip(argument.axes, _turned(argument.per_head and heads_first, tuple(x.shape))):
                sizes.setdefault(axis, size)
    shapes = []
    for argument in m.outputs:
        if not all(axis in sizes or axis.isdigit() for axis in argument.axes):
            return _computed(m, tensors, parameters, heads_first)
        shape = tuple(sizes[axis] if axis in sizes else int(axis) for axis in argument.axes)
        shapes.append(_turned(argument.per_head and heads_first, shape))
    return shapes


def _turned(turn: bool, shape: tuple[Any, ...]) -> tuple[Any, ...]:
    return (shape[0], shape[2], shape[1], *shape[3:]) if turn else shape


def _computed(m: Mechanism, tensors: list[Any], parameters: str, heads_first: bool) -> list[tuple[Any, ...]]:
    given = [(a.name, [int(n) for n in x.shape]) for a, x in zip(m.inputs, tensors) if x is not None]
    found = dict(_core.shapes(m.name, given, parameters, heads_first))
    return [tuple(found.get(a.name, (0,))) for a in m.outputs]


def _backward_implementation(m: Mechanism) -> Callable[..., Any]:
    def implementation(*args: Any) -> Any:
        *tensors, parameters, heads_first = args
        n, outs = len(m.inputs), len(m.outputs)
        inputs, starts, saved = tensors[:n], tensors[n : n + outs], tensors[n + outs :]
        given = [(a.name, _arrays.lent(a.name, x)) for a, x in zip(m.inputs, inputs) if x is not None]
        for a, start in zip(m.outputs, starts):
            if start is not None and a.gradient:
                given.append((f"d{a.name}", _arrays.lent(f"d{a.name}", start)))
        given += _saved(m, saved)
        found = dict(_core.backward(m.name, given, parameters, heads_first))
        out = tuple(
            from_dlpack(found[f"d{a.name}"]) if x is not None and f"d{a.name}" in found else torch.zeros(0)
            for a, x in zip(m.inputs, inputs)
            if a.gradient
        )
        return out[0] if len(out) == 1 else out

    return implementation


def _saved(m: Mechanism, saved: list[Any]) -> list[tuple[str, Any]]:
    """The outputs that the gradient reads instead of computing them again."""
    by_name = {a.name: x for a, x in zip(m.outputs, saved) if x is not None}
    wanted = _core.saved(m.name)
    if not all(name in by_name for name in wanted):
        return []
    return [(name, _arrays.lent(name, by_name[name])) for name in wanted]


def _backward_fake(m: Mechanism) -> Callable[..., Any]:
    def fake(*args: Any) -> Any:
        inputs = args[: len(m.inputs)]
        out = tuple(
            args[0].new_empty((0,) if x is None else tuple(x.shape), dtype=torch.float32)
            for a, x in zip(m.inputs, inputs)
            if a.gradient
        )
        return out[0] if len(out) == 1 else out

    return fake


def _formula(m: Mechanism) -> tuple[Callable[..., None], Callable[..., Any]]:
    n = len(m.inputs)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        outputs = (output,) if isinstance(output, torch.Tensor) else output
        ctx.set_materialize_grads(False)
        ctx.given = [x is not None for x in inputs[:n]]
        ctx.save_for_backward(*[x for x in inputs[:n] if x is not None], *outputs)
        ctx.parameters, ctx.form, ctx.heads_first = inputs[n:]

    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        saved = list(ctx.saved_tensors)
        inputs = [saved.pop(0) if given else None for given in ctx.given]
        starts = list(grads)
        if starts[0] is None:
            starts[0] = torch.zeros_like(saved[0])
        operator = getattr(torch.ops.longreach, f"{m.name}_backward").default
        found = operator(*inputs, *starts, *saved, ctx.parameters, ctx.heads_first)
        rest = list((found,) if isinstance(found, torch.Tensor) else found)
        out = []
        for argument, x in zip(m.inputs, inputs):
            gradient = rest.pop(0) if argument.gradient else None
            out.append(None if x is None or not x.is_floating_point() else gradient)
        return (*out, None, None, None)

    return setup, backward


def _second(name: str) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"longreach: {name} has no second derivatives")

    return backward


def call(name: str, *tensors: Any, heads_first: bool = False, **parameters: Any) -> Any:
    """A mechanism on tensors of torch, with its outputs as a tuple; for modules, which know their arguments."""
    from longreach.ops._call import bound
    from longreach.ops._function import forward as run

    return run(bound(mechanism(name), tensors, parameters, None, "bhtd" if heads_first else "bthd"))
