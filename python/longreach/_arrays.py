"""Arrays in and out: of numpy, torch, and any library that knows DLPack."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from longreach import _core


def is_torch(x: object) -> bool:
    """Whether ``x`` is a tensor of torch, which is not imported for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_arrow(x: object) -> bool:
    """Whether ``x`` is an array or a table of Arrow, of any library."""
    return hasattr(x, "__arrow_c_stream__") or hasattr(x, "__arrow_c_array__")


def lent(name: str, x: Any) -> Any:
    """``x`` as an object whose memory the extension can borrow; a copy where its layout or type is not one of DLPack's."""
    if is_torch(x):
        torch = sys.modules["torch"]
        if x.device.type != "cpu":
            raise ValueError(f"`{name}` is on {x.device}: move it to the CPU first")
        x = x.detach()
        return x.view(torch.uint8) if x.dtype == torch.bool else x.resolve_conj().resolve_neg()
    if isinstance(x, np.ndarray) or not hasattr(x, "__dlpack__"):
        return _numpy(name, x)
    return x


def _numpy(name: str, x: Any) -> Any:
    if not isinstance(x, np.ndarray):
        x = np.asarray(x)
        if x.dtype == np.float64:
            x = x.astype(np.float32)
    if x.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` has dtype {x.dtype}, want numbers or booleans")
    if x.dtype == np.bool_:
        x = x.view(np.uint8)
    elif x.dtype.kind in "iu" and x.dtype not in (np.uint8, np.int32, np.int64):
        x = x.astype(np.int64)
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    if any(stride < 0 or stride % x.itemsize for stride in x.strides):
        x = np.ascontiguousarray(x)
    if not x.flags.writeable and tuple(map(int, np.__version__.split(".")[:2])) < (2, 1):
        x = x.copy()  # these versions export no arrays that cannot be written to
    return x


def dtype_of(x: Any) -> Any:
    """The type that results have: that of ``x`` if it is a half-precision type, and None otherwise."""
    name = str(getattr(x, "dtype", ""))
    return x.dtype if name.endswith("float16") else None


def returned(array: _core.Array, like: Any, dtype: Any = None) -> Any:
    """A result as an array of the library that ``like`` is of, without a copy unless it is of another type."""
    if is_torch(like):
        out = sys.modules["torch"].from_dlpack(array)
        return out if dtype is None else out.to(dtype)
    namespace = None if isinstance(like, np.ndarray) else getattr(like, "__array_namespace__", None)
    if namespace is not None:
        out = namespace().from_dlpack(array)
    else:
        out = numpy(array)
    return out if dtype is None else out.astype(dtype)


def numpy(array: _core.Array) -> np.ndarray[Any, Any]:
    """A result as a writable array of numpy."""
    out: np.ndarray[Any, Any] = np.from_dlpack(array)
    return out if out.flags.writeable else out.copy()
