"""Encoders: embeddings and the tasks of their heads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Callable, Sequence

import numpy as np

from longreach import _arrays, _core
from longreach._loaded import Loaded

Vectors = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Scored:
    """A label and its probability or score."""

    label: str
    score: float


@dataclass(frozen=True)
class Entity:
    """A named entity, and where it stands in the text, in characters."""

    label: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Filled:
    """A word in place of a mask."""

    word: str
    token: int
    score: float


@dataclass(frozen=True)
class Answer:
    """A part of a text that answers a question, and where it stands, in characters."""

    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Embedded:
    """What a job over files has done."""

    documents: int
    #: Those of them that an earlier call had done.
    before: int
    rows: int
    tokens: int


@dataclass(frozen=True)
class Ranked:
    """A document and its score for a query."""

    index: int
    score: float


class Encoder(Loaded[_core.Encoder]):
    """An encoder with its tokenizer and its embedding pipeline. Threads may share it."""

    def __repr__(self) -> str:
        return f"<longreach.Encoder {self.name}: {self.width} dimensions, {self.dtype}>"

    @property
    def limit(self) -> int:
        """The longest input in tokens, special ones included; longer texts are cut."""
        return self._core.limit

    @property
    def width(self) -> int:
        """The number of dimensions of a vector."""
        return self._core.width

    def encode(
        self,
        texts: Any,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_tokens: int = 8192,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
    ) -> Any:
        """The vectors of texts.

        Parameters
        ----------
        texts : str, list of str, or array of strings
            An array is one of Arrow (pyarrow, polars, …), which is read where it is. Texts beyond :attr:`limit` are cut.
        prompt, prompt_name : str, optional
            What stands before each text, or the name of a prompt of the model; the model's default otherwise.
        batch_tokens : int
            The size of a packed batch.
        normalize : bool, optional
            Whether vectors are scaled to unit length; as the model says if None.
        truncate_dim : int, optional
            Keeps the first dimensions.

        Returns
        -------
        array
            ``[texts, width]``, or ``[width]`` of a text alone; of a model of late interaction a list of ``[tokens, width]``.
        """
        return self._encode(texts, prompt, prompt_name, None, batch_tokens, normalize, truncate_dim)

    def encode_query(self, texts: Any, **options: Any) -> Any:
        """As :meth:`encode`, for queries."""
        return self._kind(texts, "query", options)

    def encode_document(self, texts: Any, **options: Any) -> Any:
        """As :meth:`encode`, for documents."""
        return self._kind(texts, "document", options)

    def embed(
        self,
        input: Any,
        out: str | os.PathLike[str] | None = None,
        *,
        column: str | None = None,
        fields: Sequence[str] = (),
        prompt: str | None = None,
        prompt_name: str | None = None,
        long: str = "mean",
        overlap: int = 64,
        batch_tokens: int = 8192,
        with_text: bool = False,
        overwrite: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> Any:
        """The vectors of a table, or of files.

        Parameters
        ----------
        input : object of Arrow, or path
            A table, or an array of strings, of any library that has ``__arrow_c_stream__`` or ``__arrow_c_array__``
            (pyarrow, polars, DuckDB, pandas); or a file or folder, as of ``longreach embed``, if ``out`` is given.
        out : path, optional
            A file that ends in ``.parquet``, ``.arrow``, ``.npy`` or ``.jsonl``.
        column : str, optional
            The column of texts; ``text``, or the only one of strings, if None.
        prompt, prompt_name, batch_tokens
            As of :meth:`encode`.
        long : str
            What is done with a document of a file that is beyond :attr:`limit`: its vector is the ``mean`` of those of
            windows that ``overlap``, its ``parts`` are rows, or it is cut (``truncate``). Texts of tables are cut.
        fields, with_text
            What the file has besides: columns of the input, and the text.
        overwrite : bool
            Whether a file that is there is replaced.
        on_progress : callable, optional
            Called with the documents and the rows that are done.

        Returns
        -------
        Table or Embedded
            Of a table: one with the column ``vector`` behind the others, which any of these libraries reads, once, batch by
            batch: ``pyarrow.table(...)``, ``polars.DataFrame(...)``. Of a file: what was done. An interrupted job over files
            goes on when it is called again.
        """
        if out is not None:
            what = {
                "input": os.fspath(input),
                "out": os.fspath(out),
                "column": column,
                "fields": list(fields),
                "long": long,
                "overlap": overlap,
                "batch_tokens": batch_tokens,
                "with_text": with_text,
                "overwrite": overwrite,
                "prompt": prompt,
                "prompt_name": prompt_name,
                "on_progress": on_progress,
            }
            return Embedded(*_core.embed_files(self._core, what))
        if not _arrays.is_arrow(input):
            raise TypeError(
                f"embed: `input` is {type(input).__name__}, want a table of Arrow, or a file and `out`; `encode` takes texts"
            )
        return self._core.table(input, column, prompt, prompt_name, batch_tokens)

    def _kind(self, texts: Any, kind: str, options: dict[str, Any]) -> Any:
        known = {"prompt": None, "prompt_name": None, "batch_tokens": 8192, "normalize": None, "truncate_dim": None}
        unknown = [name for name in options if name not in known]
        if unknown:
            raise TypeError(f"encode: no argument {unknown[0]!r}; there are {', '.join(known)}")
        o = {**known, **options}
        return self._encode(
            texts, o["prompt"], o["prompt_name"], kind, o["batch_tokens"], o["normalize"], o["truncate_dim"]
        )

    def _encode(
        self,
        texts: Any,
        prompt: str | None,
        name: str | None,
        kind: str | None,
        batch: int,
        normalize: bool | None,
        width: int | None,
    ) -> Any:
        alone = isinstance(texts, str)
        all_texts = [texts] if alone else texts if _arrays.is_arrow(texts) else list(texts)
        if self._core.late:
            all_texts = self._core.texts(all_texts)
            late = [_arrays.numpy(self._core.token_vectors(text, kind == "query")) for text in all_texts]
            return late[0] if alone else late
        found = _arrays.numpy(self._core.vectors(all_texts, prompt, name, kind, batch))
        if width is not None:
            found = found[:, :width]
        if normalize or (normalize is None and width is not None and self._core.normalizes):
            lengths = np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
            found = (found / np.maximum(lengths, 1e-12)).astype(np.float32)
        return found[0] if alone else found

    def similarity(self, a: Vectors, b: Vectors) -> Vectors:
        """The similarity of each vector of ``a`` with each of ``b``, ``[n, m]``: the model's, or cosine."""
        a, b = np.atleast_2d(a), np.atleast_2d(b)
        kind = self._core.similarity or "cosine"
        if kind == "cosine":
            a = a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
            b = b / np.maximum(np.linalg.norm(b, axis=1, keepdims=True), 1e-12)
        if kind in ("cosine", "dot"):
            return np.asarray(a @ b.T)
        difference = a[:, None] - b[None]
        if kind == "euclidean":
            return np.asarray(-np.sqrt((difference**2).sum(-1)))
        return np.asarray(-np.abs(difference).sum(-1))

    def rerank(self, query: str, documents: Sequence[str], *, top: int | None = None) -> list[Ranked]:
        """Documents by their score for a query, best first: of a cross-encoder, or by the similarity of vectors."""
        if self._core.width and not self._classifies():
            vectors = self.encode_document(list(documents))
            question = self.encode_query(query)
            if self._core.late:
                scores = [float((question @ one.T).max(1).sum()) for one in vectors]
            else:
                scores = [float(x) for x in self.similarity(question, vectors)[0]]
        else:
            scores = [self._relevance(self._core.classify_pair(query, document)) for document in documents]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        return [Ranked(i, scores[i]) for i in order[:top]]

    def _classifies(self) -> bool:
        return any("ForSequenceClassification" in name for name in self.config.get("architectures") or [])

    @staticmethod
    def _relevance(scores: list[tuple[str, float]]) -> float:
        # With one label there is one score. With two, the second one is "relevant".
        by_label = dict(scores)
        return next(iter(by_label.values())) if len(by_label) == 1 else by_label[max(by_label)]

    def classify(self, text: str, pair: str | None = None) -> list[Scored]:
        """The labels of a text, or of a pair of texts, best first."""
        found = self._core.classify(text) if pair is None else self._core.classify_pair(text, pair)
        return [Scored(label, score) for label, score in found]

    def entities(self, text: str) -> list[Entity]:
        """The named entities of a text."""
        return [Entity(*one) for one in self._core.entities(text)]

    def fill_mask(self, text: str, n: int = 5) -> list[list[Filled]]:
        """For each mask of a text, the ``n`` most probable words."""
        return [[Filled(*one) for one in mask] for mask in self._core.fill_mask(text, n)]

    def answer(self, question: str, text: str, n: int = 1) -> list[Answer]:
        """The ``n`` best answers to a question that stand in a text."""
        found = self._core.answer(question, text, n)
        return [Answer(text[start:end], score, start, end) for score, start, end in found]

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text with the special ones around it, cut at :attr:`limit`."""
        return self._core.encode_ids(text)

    def hidden(
        self,
        ids: Any,
        attention_mask: Any = None,
        global_attention_mask: Any = None,
        token_type_ids: Any = None,
    ) -> Vectors:
        """The last hidden states of rows of tokens, ``[rows, tokens, d]``."""
        return _arrays.numpy(self._hidden(ids, attention_mask, global_attention_mask, token_type_ids)[0])

    def _hidden(self, ids: Any, mask: Any, seen: Any, types: Any) -> tuple[_core.Array, _core.Array | None]:
        rows = np.atleast_2d(np.asarray(ids))
        kinds = None if types is None else np.atleast_2d(np.asarray(types)).tolist()
        lent = [None if m is None else _arrays.lent("mask", np.atleast_2d(np.asarray(m))) for m in (mask, seen)]
        return self._core.hidden(rows.tolist(), kinds, lent[0], lent[1])
