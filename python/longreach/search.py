"""Exact search over the passages of documents."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Sequence

from longreach import _core
from longreach._encoder import Encoder


@dataclass(frozen=True)
class Hit:
    """A passage that was found."""

    score: float
    text: str
    #: The number of its document, from 0.
    row: int
    #: The file of its document; None for standard input.
    file: str | None
    #: Where it stands in the file, in bytes.
    start: int
    end: int
    #: The copied fields of its document.
    fields: dict[str, str | None]


class Index:
    """A memory-mapped index of passages and their vectors."""

    def __init__(self, core: _core.Index, path: str) -> None:
        self._core = core
        self.path = path

    @staticmethod
    def build(
        encoder: Encoder,
        input: str | os.PathLike[str],
        path: str | os.PathLike[str],
        *,
        column: str | None = None,
        fields: Sequence[str] = (),
        passage: int = 256,
        overlap: int = 32,
        batch_tokens: int = 8192,
        similarity: str | None = None,
        overwrite: bool = False,
    ) -> Index:
        """Builds an index of the documents of a file or a folder and opens it.

        The formats are those of ``longreach search build``. Ctrl-C leaves what was done; the same call then goes on.
        """
        model = encoder._source[0]
        what = {
            "model": model,
            "input": os.fspath(input),
            "path": os.fspath(path),
            "column": column,
            "fields": list(fields),
            "passage": passage,
            "overlap": overlap,
            "batch_tokens": batch_tokens,
            "similarity": similarity,
            "overwrite": overwrite,
        }
        _core.build_index(what)
        return Index.open(path)

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Index:
        """Opens an index and verifies its checksums."""
        return Index(_core.Index.open(os.fspath(path)), os.fspath(path))

    def __len__(self) -> int:
        return self._core.passages

    def query(self, encoder: Encoder, text: str, k: int = 10) -> list[Hit]:
        """The ``k`` passages that match a text best, best first. ``encoder`` must be the one that built the index."""
        names = self._core.fields
        return [
            Hit(score, passage, row, file, start, end, dict(zip(names, fields)))
            for score, row, file, start, end, passage, fields in self._core.query(encoder._core, text, k)
        ]
