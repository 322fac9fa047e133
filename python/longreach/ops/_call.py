"""The arguments of a call: which tensors and parameters a mechanism is given."""

from __future__ import annotations

import json
import keyword
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from longreach import _core
from longreach._arrays import is_torch
from longreach._mechanism import Mechanism

LAYOUTS = ("bthd", "bhtd")


@dataclass
class Call:
    """A call of a mechanism: tensors by name, and parameters as JSON."""

    mechanism: Mechanism
    tensors: dict[str, Any]
    parameters: str
    form: str
    heads_first: bool

    @property
    def like(self) -> Any:
        """The tensor whose library and type the results have."""
        first = next((a.name for a in self.mechanism.inputs if a.name in self.tensors), None)
        return self.tensors[first] if first is not None else None

    @property
    def of_torch(self) -> bool:
        return any(map(is_torch, self.tensors.values()))


def spelled(name: str) -> str:
    """A name as an argument of Python."""
    return name + "_" if keyword.iskeyword(name) else name


def is_array(x: object) -> bool:
    """Whether ``x`` is an array rather than a parameter."""
    return is_torch(x) or isinstance(x, np.ndarray) or hasattr(x, "__dlpack__")


def bound(
    mechanism: Mechanism, args: tuple[Any, ...], kwargs: dict[str, Any], form: str | None, layout: str, more: tuple[str, ...] = ()
) -> Call:
    """Sorts arguments into tensors and parameters. ``more`` names tensors besides the inputs that are taken by keyword."""
    name = mechanism.name
    inputs = [argument.name for argument in mechanism.inputs]
    parameters = {parameter.name for parameter in mechanism.parameters}
    if layout not in LAYOUTS:
        raise ValueError(f"{name}: `layout` is {layout!r}, want one of {', '.join(LAYOUTS)}")
    if form is not None and form not in mechanism.forms:
        raise ValueError(f"{name}: `form` is {form!r}, want one of {', '.join(mechanism.forms)}")
    if len(args) > len(inputs):
        raise TypeError(f"{name}: {len(args)} positional arguments, want at most {len(inputs)}: {', '.join(inputs)}")
    tensors: dict[str, Any] = dict(zip(inputs, args))
    given: dict[str, Any] = {}
    for spelling, value in kwargs.items():
        own = spelling[:-1] if spelling.endswith("_") and keyword.iskeyword(spelling[:-1]) else spelling
        tensor = own in inputs or own in more
        if not tensor and own not in parameters:
            known = [spelled(known) for known in [*inputs, *sorted(parameters), *more]]
            raise TypeError(f"{name}: no argument {spelling!r}; there are {', '.join(known)}, form and layout")
        # Some names are those of a tensor and of a parameter.
        if tensor and not (own in parameters and value is not None and not is_array(value)):
            if own in tensors:
                raise TypeError(f"{name}: `{own}` is given twice")
            tensors[own] = value
        else:
            given[own] = value
    tensors = {own: value for own, value in tensors.items() if value is not None}
    for argument in mechanism.inputs:
        if not argument.optional and argument.name not in tensors:
            raise TypeError(f"{name}: `{argument.name}` is missing: a tensor [{', '.join(argument.axes)}]")
    return Call(mechanism, tensors, _json(_values(given)), form or mechanism.fastest, layout == "bhtd")


def _values(given: dict[str, Any]) -> dict[str, Any]:
    """Parameters as JSON has them; arrays of whole numbers are lists, and a configuration may be a file."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if is_torch(value) or isinstance(value, (np.ndarray, np.generic)):
            value = value.tolist()
        values[name] = value
    return values


def _json(value: Any) -> str:
    """``value`` as JSON. The standard library's encoder cannot be traced by torch.compile."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(_json(str(key)) + ": " + _json(one) for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_json(one) for one in value) + "]"
    raise TypeError(f"a parameter is {value!r}, want a number, a text, a list or an object")


def configured(mechanism: Mechanism, kwargs: dict[str, Any]) -> dict[str, Any]:
    """``kwargs`` with the fields of a file of DeepSpeed in place of its name, ``config``."""
    config = kwargs.get("config")
    if mechanism.name != "deepspeed" or config is None:
        return kwargs
    rest = {name: value for name, value in kwargs.items() if name != "config"}
    if isinstance(config, (str, os.PathLike)):
        config = of_file(config)
    rest["sparse_attention"] = config.get("sparse_attention", config)
    return rest


def of_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a file of JSON, which may have comments as files of DeepSpeed do: ``//``, ``#`` and ``/* */``."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        found = json.loads(_core.without_comments(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{os.fspath(path)}: want an object of fields")
    return found
