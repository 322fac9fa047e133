"""Models that were loaded: a tokenizer and a model of the same name share one."""

from __future__ import annotations

import os
import warnings
import weakref
from typing import Any

from longreach._encoder import Encoder
from longreach._model import Model, load

_LOADED: weakref.WeakValueDictionary[tuple[str, str], Model | Encoder] = weakref.WeakValueDictionary()
_WARNED: set[str] = set()


def loaded(model_id: str | os.PathLike[str], dtype: Any = None) -> Model | Encoder:
    """The model of this name, which is loaded if it is not there. ``dtype`` None takes one of any type."""
    name = os.fspath(model_id)
    found = None
    if dtype is None:
        found = next((model for (known, _), model in list(_LOADED.items()) if known == name), None)
    key = (name, str(dtype))
    found = found or _LOADED.get(key)
    if found is None:
        found = load(name, dtype=dtype)
        _LOADED[key] = found
    return found


def dtype_of(torch_dtype: Any, dtype: Any) -> Any:
    """The engine's dtype for the one that was asked for."""
    asked = torch_dtype if dtype is None else dtype
    name = str(asked).removeprefix("torch.")
    if asked is None or name == "auto":
        return None
    if name == "float16":
        _once("float16", "longreach: float16 matrices are kept as they are stored; products are computed in float32")
        return None
    return name


def warn_of(device: Any) -> None:
    """One warning that the engine stays on the CPU."""
    if device is not None and not str(device).startswith(("cpu", "auto")):
        _once("device", f"longreach: there are no kernels for {device}: the CPU is used")


def _once(kind: str, message: str) -> None:
    if kind not in _WARNED:
        _WARNED.add(kind)
        warnings.warn(message, UserWarning, stacklevel=4)
