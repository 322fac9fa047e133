"""Messages for libraries that are not installed."""

from __future__ import annotations

import importlib.util

_EXTRAS = {
    "pyarrow": ("pyarrow", "ray"),
    "ray": ("Ray", "ray"),
    "sentence_transformers": ("sentence-transformers", "sentence-transformers"),
    "torch": ("PyTorch", "torch"),
    "transformers": ("transformers", "transformers"),
}


def needs(module: str, *libraries: str) -> None:
    """``ModuleNotFoundError`` that says which library ``module`` needs and how to install it."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            name, extra = _EXTRAS[library]
            raise ModuleNotFoundError(f"{module} needs {name}: pip install longreach[{extra}]", name=library)
