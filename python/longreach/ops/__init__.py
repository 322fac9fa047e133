"""A function for each mechanism, on arrays ``[batch, seq, heads, dim]``.

Arrays of numpy and torch, and of any library that knows DLPack, come in without a copy and go out as they came in. Inputs
of torch that require gradients have them. ``longreach.mechanisms()`` lists what there is.

>>> import numpy as np, longreach
>>> q, k, v = np.random.default_rng(0).normal(size=(3, 1, 64, 2, 8)).astype(np.float32)
>>> longreach.ops.window(q, k, v, left=16).o.shape
(1, 64, 2, 8)
"""

from __future__ import annotations

import sys
from typing import Any

from longreach import _core
from longreach.ops._function import function

for _name in _core.names():
    setattr(sys.modules[__name__], _name, function(_name))

__all__ = list(_core.names())


def __getattr__(name: str) -> Any:
    known = ", ".join(__all__)
    raise AttributeError(f"longreach.ops has no mechanism {name!r}; there are {known}")
