"""Jobs of Ray, on one machine."""

from __future__ import annotations

import os

import numpy as np
import pytest
from conftest import PIPELINES

ray = pytest.importorskip("ray", reason="Ray is not installed: its tests are skipped")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: the tests of Ray are skipped")

import pyarrow.parquet as pq  # noqa: E402

import longreach  # noqa: E402
from longreach.ray import Embedder, embed  # noqa: E402

MODEL = str(PIPELINES / "st-bert-mean")
TEXTS = [f"text {i} of alpha " + "beta " * (i % 7) for i in range(36)]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(3):
        texts = TEXTS[12 * i : 12 * (i + 1)]
        table = pa.table({"id": list(range(12 * i, 12 * (i + 1))), "text": [*texts[:5], None, *texts[6:]]})
        pq.write_table(table, folder / f"part{i}.parquet", row_group_size=6)
    return folder


def test_a_job_embeds_every_row_once_and_goes_on_where_it_was_left(corpus, tmp_path):
    out, seen = tmp_path / "vectors", []
    assert embed(corpus, out, model=MODEL, column="text", actors=2, on_progress=lambda *n: seen.append(n)) == 36
    assert seen[-1] == (6, 6)
    files = sorted(out.iterdir())
    assert [file.name for file in files] == [f"part{i}-{g:05}.parquet" for i in range(3) for g in range(2)]
    table = pa.concat_tables(pq.read_table(file) for file in files)
    assert table.column("id").to_pylist() == list(range(36))
    vectors = table.column("vector").to_pylist()
    missing = [5, 17, 29]
    assert [i for i, one in enumerate(vectors) if one is None] == missing
    want = longreach.load(MODEL).encode(TEXTS)
    for i in set(range(36)) - set(missing):
        assert np.array_equal(np.float32(vectors[i]), want[i])

    # What an interrupted run leaves: a file that is missing, and one without its name.
    times = {file: file.stat().st_mtime_ns for file in files}
    files[3].rename(out / "part1-00001.parquet.1.part")
    assert embed(corpus / "*.parquet", out, model=MODEL, column="text") == 6
    assert pq.read_table(files[3]).column("id").to_pylist() == list(range(18, 24))
    assert all(file.stat().st_mtime_ns == time for file, time in times.items() if file != files[3])
    assert embed(corpus, out, model=MODEL, column="text") == 0
    with pytest.raises(ValueError, match="is there with prompt None, want 'query: '"):
        embed(corpus, out, model=MODEL, column="text", prompt="query: ")


def test_a_job_says_what_is_wrong_before_it_begins(corpus, tmp_path):
    with pytest.raises(ValueError, match="there is no column 'body'; there are id, text"):
        embed(corpus, tmp_path / "v", model=MODEL, column="body")
    with pytest.raises(ValueError, match="column 'id' has type int64, want string"):
        embed(corpus, tmp_path / "v", model=MODEL, column="id")
    with pytest.raises(FileNotFoundError):
        embed(tmp_path / "nowhere", tmp_path / "v", model=MODEL, column="text")
    assert not (tmp_path / "v").exists()


def test_a_data_set_is_mapped_by_actors():
    data = pytest.importorskip("ray.data", reason="ray[data] is not installed: its data sets are not tested")
    table = pa.table({"text": TEXTS[:10]})
    mapped = data.from_arrow(table).map_batches(
        Embedder,
        fn_constructor_kwargs={"model": MODEL, "column": "text"},
        compute=data.ActorPoolStrategy(size=1),
        num_cpus=1,
        batch_format="pyarrow",
    )
    rows = mapped.take_all()
    want = dict(zip(TEXTS, longreach.load(MODEL).encode(TEXTS)))
    assert len(rows) == 10 and all(np.array_equal(np.float32(row["vector"]), want[row["text"]]) for row in rows)
