"""What a language model and an encoder have in common: where they came from, and how they are pickled."""

from __future__ import annotations

import json
from typing import Any, Generic, TypeVar

from longreach import _core

Core = TypeVar("Core", _core.Model, _core.Encoder)
#: The path or id, None for the model that is built in, and the dtype.
Source = tuple["str | None", "str | None"]


class Loaded(Generic[Core]):
    """A model that was loaded from ``source``. Threads may share it."""

    def __init__(self, core: Core, source: Source) -> None:
        self._core: Core = core
        self._source = source

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._source, self.fingerprint)

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    @property
    def name(self) -> str:
        """The name it was loaded by."""
        return self._core.name

    @property
    def config(self) -> dict[str, Any]:
        """Its ``config.json``."""
        found: dict[str, Any] = json.loads(self._core.config)
        return found

    @property
    def dtype(self) -> str:
        """The type of its matrices in memory."""
        return self._core.dtype

    @property
    def fingerprint(self) -> str:
        """A hash of weights, configuration, dtype and tokenizer, and of an encoder's pipeline. Reads all weights once."""
        return self._core.fingerprint()


def _again(source: Source, fingerprint: str) -> Any:
    from longreach._model import load

    model = load(source[0], dtype=source[1])
    if model.fingerprint != fingerprint:
        raise ValueError(
            f"{source[0]} is another model than the one that was pickled: want {fingerprint}, found {model.fingerprint}"
        )
    return model
