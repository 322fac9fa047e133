"""Embeddings of many documents with Ray: a class for its data sets, and a whole job that goes on where it was interrupted."""

from __future__ import annotations

import fnmatch
import json
import os
import posixpath
from typing import Any, Callable, Sequence

from longreach._needs import needs

needs("longreach.ray", "ray", "pyarrow")

import pyarrow as pa  # noqa: E402
import pyarrow.fs as pafs  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import ray  # noqa: E402

from longreach import set_num_threads  # noqa: E402
from longreach._encoder import Encoder  # noqa: E402
from longreach._model import load  # noqa: E402

#: Rows that are embedded at a time: enough to sort by length and pack into several batches.
ROWS = 4096
_KEY = b"longreach"


class Embedder:
    """Adds a column ``vector``, of float32 in lists of a fixed size, to tables of Arrow.

    An actor makes one of these and loads the model once; actors on one machine share the pages of its weights. Each uses as
    many threads as Ray gave it cores. A row without a text has no vector.

    Parameters
    ----------
    model : str
        A directory that all machines have, or an id of the Hugging Face Hub.
    column : str
        The column of texts.
    dtype, prompt : str, optional
        As of :func:`longreach.load` and :meth:`longreach.Encoder.encode`.
    batch_tokens : int
        The size of a packed batch.

    Examples
    --------
    ::

        dataset.map_batches(
            Embedder, fn_constructor_kwargs={"model": "answerdotai/ModernBERT-base", "column": "text"},
            compute=ray.data.ActorPoolStrategy(size=4), num_cpus=2, batch_format="pyarrow", batch_size=4096,
        )
    """

    encoder: Encoder
    column: str
    prompt: str | None
    batch_tokens: int

    def __init__(
        self, model: str, column: str, *, dtype: str | None = None, prompt: str | None = None, batch_tokens: int = 8192
    ) -> None:
        if ray.is_initialized():
            context: Any = ray.get_runtime_context()
            set_num_threads(max(1, int(context.get_assigned_resources().get("CPU", 1))))
        encoder = load(model, dtype=dtype)
        if not isinstance(encoder, Encoder):
            raise ValueError(f"{model} generates text, want an encoder")
        if encoder._core.late:
            raise ValueError(f"{model} has a vector for each token, want a model with one for a text")
        self.encoder, self.column, self.prompt, self.batch_tokens = encoder, column, prompt, batch_tokens

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The table with the column ``vector`` behind the others."""
        _checked(batch.schema, self.column)
        texts = batch.column(self.column)
        vectors = pa.table(self.encoder.embed(texts, prompt=self.prompt, batch_tokens=self.batch_tokens))
        return batch.append_column("vector", vectors.column("vector"))


def _checked(schema: pa.Schema, column: str) -> None:
    if column not in schema.names:
        raise ValueError(f"there is no column {column!r}; there are {', '.join(schema.names)}")
    kind = schema.field(column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"column {column!r} has type {kind}, want string")
    if "vector" in schema.names:
        raise ValueError("there is a column 'vector' already: rename it")


class _Worker:
    """Embeds parts of the input, each into a file of its own."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.embedder = Embedder(**options)

    def embed(self, source: str, group: int, target: str, about: bytes) -> int:
        """The rows of a row group; the file has its name only when it is whole."""
        files, path = pafs.FileSystem.from_uri(source)
        out, final = pafs.FileSystem.from_uri(target)
        written, rows = f"{final}.{os.getpid()}.part", 0
        with files.open_input_file(path) as opened:
            whole = pq.ParquetFile(opened)
            schema = whole.schema_arrow.append(pa.field("vector", pa.list_(pa.float32(), self.embedder.encoder.width)))
            schema = schema.with_metadata({**(schema.metadata or {}), _KEY: about})
            with pq.ParquetWriter(written, schema, filesystem=out) as writer:
                for batch in whole.iter_batches(ROWS, row_groups=[group]):
                    writer.write_table(self.embedder(pa.Table.from_batches([batch])).cast(schema))
                    rows += batch.num_rows
        out.move(written, final)
        return rows


def embed(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str,
    column: str,
    actors: int = 1,
    cpus: int = 1,
    dtype: str | None = None,
    prompt: str | None = None,
    batch_tokens: int = 8192,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Embeds a column of Parquet files into Parquet files that have a column ``vector`` besides.

    Each row group of the input becomes a file of the output, ``<name>-<group>.parquet``, with its rows in their order. A
    file has its name only when it is whole, so the same call goes on where another was interrupted, and does nothing twice.
    Files that another model or other options made are refused.

    Parameters
    ----------
    input : str or path
        A file, a folder, or a folder and a pattern such as ``docs/*.parquet``; also of a store that pyarrow knows (``s3://``).
    output : str or path
        A folder.
    model, column, dtype, prompt, batch_tokens
        As of :class:`Embedder`.
    actors, cpus : int
        How many copies of the model work at a time, and the cores of each.
    on_progress : callable, optional
        Called with the parts that are done and all parts.

    Returns
    -------
    int
        The rows that this call embedded.
    """
    if actors < 1 or cpus < 1:
        raise ValueError(f"embed: actors={actors} and cpus={cpus}, want at least 1")
    target = _uri(output)
    options = {"model": model, "column": column, "dtype": dtype, "prompt": prompt, "batch_tokens": batch_tokens}
    parts = _parts(_uri(input), target, column, options)
    out, folder = pafs.FileSystem.from_uri(target)
    out.create_dir(folder, recursive=True)
    waiting = [part for part in parts if not _done(*part[2:])]
    done, rows = len(parts) - len(waiting), 0
    if not waiting:
        return 0
    # A part can be done again: its file has its name only at the end.
    worker_class: Any = ray.remote(max_restarts=3, max_task_retries=3, num_cpus=cpus)(_Worker)
    workers = [worker_class.remote(options) for _ in range(min(actors, len(waiting)))]
    pool = ray.util.ActorPool(workers)
    try:
        for found in pool.map_unordered(lambda worker, part: worker.embed.remote(*part), waiting):
            rows, done = rows + found, done + 1
            if on_progress is not None:
                on_progress(done, len(parts))
    finally:
        for worker in workers:
            ray.kill(worker)
    return rows


def _uri(path: str | os.PathLike[str]) -> str:
    """A path that means the same in every process."""
    text = os.fspath(path)
    return text.rstrip("/") if "://" in text else os.path.abspath(text)


def _parts(source: str, target: str, column: str, options: dict[str, Any]) -> list[tuple[str, int, str, bytes]]:
    """Each row group: its file, its number, the file it becomes, and what that says of itself."""
    prefix = source[: source.index("://") + 3] if "://" in source else ""
    parts, names = [], set()
    files = _files(source)
    for filesystem, path in files:
        name = posixpath.basename(path).removesuffix(".parquet")
        if name in names:
            raise ValueError(f"embed: two files of the input are named {name}.parquet: their outputs would be one")
        names.add(name)
        with filesystem.open_input_file(path) as opened:
            whole = pq.ParquetFile(opened)
            _checked(whole.schema_arrow, column)
            for group in range(whole.num_row_groups):
                rows = whole.metadata.row_group(group).num_rows
                about = {**options, "file": posixpath.basename(path), "group": group, "rows": rows}
                told = json.dumps(about, sort_keys=True).encode()
                uri = path if not prefix or path.startswith("/") else prefix + path
                parts.append((uri, group, f"{target}/{name}-{group:05}.parquet", told))
    return parts


def _files(source: str) -> Sequence[tuple[pafs.FileSystem, str]]:
    folder, _, pattern = source.rpartition("/")
    if "*" not in pattern:
        folder, pattern = source, "*.parquet"
    filesystem, path = pafs.FileSystem.from_uri(folder)
    kind = filesystem.get_file_info(path)
    if kind.type == pafs.FileType.NotFound:
        raise FileNotFoundError(2, "no such file or folder", folder)
    if kind.type == pafs.FileType.File:
        return [(filesystem, path)]
    found = [one.path for one in filesystem.get_file_info(pafs.FileSelector(path)) if one.type == pafs.FileType.File]
    found = sorted(one for one in found if fnmatch.fnmatch(posixpath.basename(one), pattern))
    if not found:
        raise FileNotFoundError(2, f"no files {pattern}", folder)
    return [(filesystem, one) for one in found]


def _done(target: str, about: bytes) -> bool:
    """Whether an output is there. ``ValueError`` if it is that of another input or of other options."""
    filesystem, path = pafs.FileSystem.from_uri(target)
    if filesystem.get_file_info(path).type == pafs.FileType.NotFound:
        return False
    with filesystem.open_input_file(path) as opened:
        found = (pq.read_schema(opened).metadata or {}).get(_KEY, b"{}")
    if found != about:
        there, asked = json.loads(found), json.loads(about)
        name = next((key for key in asked if there.get(key) != asked[key]), "model")
        raise ValueError(
            f"embed: {target} is there with {name} {there.get(name)!r}, want {asked[name]!r}: choose another output, or remove it"
        )
    return True
