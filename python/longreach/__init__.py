"""An engine for long sequences: efficient attention and state-space mechanisms, models and search, on any CPU.

>>> import longreach
>>> model = longreach.load()
>>> len(model.generate("Ownership is", max_tokens=8)) > 0
True
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from longreach import _core
from longreach._core import Error, InternalError, get_num_threads, set_num_threads

__version__: str = _core.__version__

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_core._after_fork)

_MODULES = ("deepspeed", "distributed", "nn", "ops", "quantization", "ray", "search", "sentence_transformers", "transformers")
_NAMES = {
    "Encoder": "longreach._encoder",
    "Mechanism": "longreach._mechanism",
    "Model": "longreach._model",
    "Score": "longreach._model",
    "Session": "longreach._model",
    "load": "longreach._model",
    "mechanisms": "longreach._mechanism",
}

__all__ = ["Error", "InternalError", "__version__", "get_num_threads", "set_num_threads", *_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    # Modules and classes are imported when they are first used, so that the command starts without numpy.
    if name in _MODULES:
        return importlib.import_module(f"longreach.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'longreach' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
