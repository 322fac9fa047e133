"""The types of ``longreach.ops``: ``python -m longreach._stubs`` writes ``ops/__init__.pyi`` from the signatures.

Functions of mechanisms are made when the package is imported, so type checkers and editors cannot see them without it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from longreach._mechanism import Mechanism, Parameter, mechanisms
from longreach.ops._call import LAYOUTS, spelled

PATH = Path(__file__).parent / "ops" / "__init__.pyi"

_HEAD = '''\
"""Written by ``python -m longreach._stubs``. Do not edit."""

from typing import Any, Generic, Literal, NamedTuple, Protocol, Sequence, TypeVar

class _DLPack(Protocol):
    """An array of numpy, torch, or another library that knows DLPack."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

A = TypeVar("A", bound=_DLPack)
'''
# The types of parameters whose default is null and whose values are not listed.
_NULLABLE = {
    **dict.fromkeys(("scale", "softcap", "dt_max", "theta"), "float"),
    **dict.fromkeys(("block_size", "left", "length", "local_window_size", "max_position_embeddings", "seed", "width"), "int"),
    **dict.fromkeys(("num_different_global_patterns", "num_global_blocks", "num_local_blocks"), "int"),
    **dict.fromkeys(("num_random_blocks", "num_sliding_window_blocks"), "int"),
    **dict.fromkeys(("global_block_end_indices", "global_block_indices", "local_window_blocks"), "Sequence[int]"),
    **dict.fromkeys(("cu_seqlens", "indices", "start"), "Sequence[int] | _DLPack"),
    **dict.fromkeys(("scaling", "sparse_attention"), "dict[str, Any]"),
    "random_blocks": "bool | int",
    "sparsity_structure": "str",
}


def text() -> str:
    """The whole file."""
    parts = [_HEAD, *map(_mechanism, mechanisms())]
    names = "".join(f'    "{m.name}",\n' for m in mechanisms())
    parts.append(f"__all__ = [\n{names}]\n")
    return "\n".join(parts)


def _mechanism(m: Mechanism) -> str:
    title = "".join(part.capitalize() for part in m.name.split("_"))
    lines = [_tuple(title, m), *_gradients(title, m), f"class _{title}Function(Protocol):"]
    lines += _method("__call__", _tensors(m) + ["*", *_keywords(m), _form(m), _layout()], f"{title}[A]")
    starts = [f"d{spelled(a.name)}: _DLPack{'' if a.name == 'o' else ' | None = None'}" for a in m.outputs if a.gradient]
    inputs = {a.name for a in m.inputs}
    saved = [f"{spelled(a.name)}: _DLPack | None = None" for a in m.outputs if a.name not in inputs]
    lines += _method("backward", _tensors(m) + ["*", *starts, *saved, *_keywords(m), _layout()], f"{title}Gradients[A]")
    if m.recurrent and "step" in m.forms:
        tensors = [one for one in _tensors(m) if not one.startswith("state:")]
        lines += _method("step_", [*tensors, "*", "state: _DLPack", *_keywords(m)], "A")
    return "\n".join([*lines, "", f"{m.name}: _{title}Function", ""])


def _tuple(title: str, m: Mechanism) -> str:
    """The class of the outputs. Those that only some forms have may be None."""
    fields = [f"    {spelled(a.name)}: {'A' if a.name in ('o', 'state') else 'A | None'}" for a in m.outputs]
    return "\n".join([f"class {title}(NamedTuple, Generic[A]):", f'    """The outputs of ``{m.name}``."""', "", *fields, ""])


def _gradients(title: str, m: Mechanism) -> list[str]:
    """The class of the gradients: it has those of the inputs that were given."""
    lines = [f"class {title}Gradients(tuple[A, ...]):", f'    """The gradients of the inputs of ``{m.name}`` that were given."""', ""]
    for a in m.inputs:
        if a.gradient:
            lines += ["    @property", f"    def {spelled(a.name)}(self) -> A: ..."]
    return [*lines, ""]


def _method(name: str, arguments: list[str], result: str) -> list[str]:
    return [f"    def {name}(", *[f"        {one}," for one in ["self", *arguments]], f"    ) -> {result}: ..."]


def _tensors(m: Mechanism) -> list[str]:
    ordered = sorted(m.inputs, key=lambda a: a.optional)
    out = []
    for i, a in enumerate(ordered):
        of = "A" if i == 0 else "_DLPack"
        # Some names are those of a tensor and of a parameter, which may be a number or a list.
        of = "Any" if any(p.name == a.name for p in m.parameters) else of
        out.append(f"{spelled(a.name)}: {of}{' | None = None' if a.optional and of != 'Any' else ''}")
        if a.optional and of == "Any":
            out[-1] += " = None"
    return out


def _keywords(m: Mechanism) -> list[str]:
    inputs = {a.name for a in m.inputs}
    example = json.loads(m.example)
    found = [f"{spelled(p.name)}: {_type(p, example)}{_default(p)}" for p in m.parameters if p.name not in inputs]
    if m.name == "deepspeed":
        found.append("config: str | dict[str, Any] | None = None")
    return found


def _default(p: Parameter) -> str:
    return f" = {json.loads(p.default)!r}" if p.default else ""


def _type(p: Parameter, example: dict[str, object]) -> str:
    value = json.loads(p.default) if p.default else example.get(p.name)
    if value is None:
        of = _choices(p) or _NULLABLE.get(p.name, "Any")
        return of if of == "Any" else f"{of} | None"
    return _choices(p) or _of(value)


def _of(value: object) -> str:
    return "Sequence[int]" if isinstance(value, list) else type(value).__name__


def _choices(p: Parameter) -> str:
    """The texts that are the only values, if there are such."""
    if p.choices and set(map(type, p.choices)) == {bool}:
        return "bool"
    texts = [choice for choice in p.choices if isinstance(choice, str)]
    return f"Literal[{', '.join(map(json.dumps, texts))}]" if p.closed and texts and len(texts) == len(p.choices) else ""


def _form(m: Mechanism) -> str:
    return f"form: Literal[{', '.join(map(json.dumps, m.forms))}] | None = None"


def _layout() -> str:
    return f'layout: Literal[{", ".join(map(json.dumps, LAYOUTS))}] = "bthd"'


if __name__ == "__main__":
    written = PATH.with_name(f"{PATH.name}.{os.getpid()}")
    written.write_text(text(), encoding="utf-8")
    written.replace(PATH)
