"""Texts and vectors of other libraries, by the capsules of Arrow."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import PIPELINES

import longreach

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: its tests are skipped")

TEXTS = [f"text {i} of alpha " + "beta " * (i % 7) for i in range(20)]


@pytest.fixture(scope="module")
def encoder():
    return longreach.load(PIPELINES / "st-bert-mean")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_texts_of_arrow_have_the_vectors_of_lists(encoder, kind):
    want = encoder.encode(TEXTS)
    assert np.array_equal(encoder.encode(pa.array(TEXTS, kind)), want)
    chunks = pa.chunked_array([pa.array(TEXTS[:3], kind), pa.array(TEXTS[3:], kind)])
    assert np.array_equal(encoder.encode(chunks), want)
    assert np.array_equal(encoder.encode(pa.array(TEXTS, kind)[4:9]), want[4:9])
    assert encoder.encode(pa.array([], kind)).shape == (0, encoder.width)


def test_a_table_gets_a_column_of_vectors(encoder):
    texts = [*TEXTS[:5], None, *TEXTS[6:]]
    table = pa.table({"id": pa.array(range(20)), "text": pa.chunked_array([texts[:8], [], texts[8:]])}, metadata={"a": "b"})
    out = encoder.embed(table)
    assert out.columns == ["id", "text", "vector"]
    found = pa.table(out)
    assert found.schema.metadata == {b"a": b"b"} and found.select(["id", "text"]).equals(table)
    assert found.schema.field("vector").type == pa.list_(pa.float32(), encoder.width)
    vectors, want = found.column("vector").to_pylist(), encoder.encode(TEXTS)
    assert vectors[5] is None
    assert all(np.array_equal(np.float32(vectors[i]), want[i]) for i in range(20) if i != 5)
    with pytest.raises(ValueError, match="was read already"):
        pa.table(out)


def test_a_stream_is_read_batch_by_batch(encoder):
    """A reader takes no batch of the source before it is asked for one, and long batches are cut."""
    taken = []

    def batches():
        for n in (3, 5000, 2):
            taken.append(n)
            yield pa.record_batch({"text": ["a"] * n})

    source = pa.RecordBatchReader.from_batches(pa.schema({"text": pa.string()}), batches())
    reader = pa.RecordBatchReader.from_stream(encoder.embed(source))
    assert taken == []
    rows = []
    for batch in reader:
        rows.append(batch.num_rows)
        if len(rows) == 1:
            assert taken == [3]
    assert rows == [3, 4096, 904, 2]


def test_vectors_of_texts_alone_are_a_table_of_one_column(encoder):
    found = pa.table(encoder.embed(pa.array(TEXTS[:3])))
    assert found.column_names == ["vector"]
    numbers = found.column("vector").combine_chunks().flatten().to_numpy().reshape(3, -1)
    assert np.array_equal(numbers, encoder.encode(TEXTS[:3]))


def test_polars_has_its_texts_and_vectors_read(encoder):
    pl = pytest.importorskip("polars", reason="polars is not installed: its tables are not read")
    frame = pl.DataFrame({"n": list(range(20)), "text": TEXTS})
    want = encoder.encode(TEXTS)
    assert np.array_equal(encoder.encode(frame["text"]), want)
    found = pl.DataFrame(encoder.embed(frame))
    assert found.columns == ["n", "text", "vector"] and found["n"].to_list() == list(range(20))
    assert np.array_equal(found["vector"].to_numpy(), want)


def test_errors_of_a_source_reach_the_reader(encoder):
    def batches():
        yield pa.record_batch({"text": ["a"]})
        raise RuntimeError("the source has failed")

    source = pa.RecordBatchReader.from_batches(pa.schema({"text": pa.string()}), batches())
    with pytest.raises(Exception, match="the source has failed"):
        pa.table(encoder.embed(source))


@pytest.mark.parametrize(
    ("input", "column", "error", "message"),
    [
        (pa.table({"text": ["a"]}), "body", ValueError, "there is no column \"body\"; there are text"),
        (pa.table({"n": [1]}), "n", ValueError, "column \"n\" has type Int64, want strings"),
        (pa.table({"a": ["x"], "b": ["y"]}), None, ValueError, "give `column`: it is not clear which holds the texts of a, b"),
        (pa.table({"text": ["a"], "vector": [1]}), None, ValueError, "has a column \"vector\" already"),
        (pa.array([1]), None, ValueError, "is of the type Int64, want strings or a table"),
        (["a"], None, TypeError, "`input` is list, want a table of Arrow"),
    ],
)
def test_what_cannot_be_embedded_is_named(encoder, input, column, error, message):
    with pytest.raises(error, match=message):
        encoder.embed(input, column=column)


def test_texts_that_are_missing_or_no_strings_are_refused(encoder):
    with pytest.raises(ValueError, match="text 4 is null"):
        encoder.encode(pa.chunked_array([["a", "b", "c"], ["d", None]]))
    with pytest.raises(TypeError, match="want strings"):
        encoder.encode(pa.array([1, 2]))


def test_files_are_embedded_into_a_file(encoder, tmp_path):
    import pyarrow.parquet as pq

    source, out, seen = tmp_path / "texts.parquet", tmp_path / "vectors.parquet", []
    pq.write_table(pa.table({"id": [str(i) for i in range(20)], "text": TEXTS}), source)
    done = encoder.embed(source, out, fields=["id"], column="text", on_progress=lambda *n: seen.append(n))
    assert (done.documents, done.before, done.rows) == (20, 0, 20) and seen[-1] == (20, 20)
    table = pq.read_table(out)
    assert table.column("id").to_pylist() == [str(i) for i in range(20)]
    want = encoder.encode(TEXTS)
    assert all(np.array_equal(np.float32(row), want[i]) for i, row in enumerate(table.column("vector").to_pylist()))
    with pytest.raises(ValueError, match="already exists"):
        encoder.embed(source, out, column="text")

    def stop(documents, rows):
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        encoder.embed(source, tmp_path / "other.parquet", column="text", on_progress=stop)
    with pytest.raises(FileNotFoundError):
        encoder.embed(tmp_path / "nothing.parquet", out)
    with pytest.raises(ValueError, match="`long` is \"half\", want mean, parts or truncate"):
        encoder.embed(source, tmp_path / "other.parquet", column="text", long="half")
