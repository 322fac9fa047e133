"""Jobs of Ray, on one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PIPELINES

ray = pytest.importorskip("ray", reason="Ray is not installed: its tests are skipped")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: the tests of Ray are skipped")

import pyarrow.parquet as pq  # noqa: E402

import longreach  # noqa: E402
from longreach.ray import Embedder, embed  # noqa: E402

#: A hundred thousand texts take minutes: LONGREACH_SLOW=1 runs them.
SLOW = pytest.mark.skipif(not os.environ.get("LONGREACH_SLOW"), reason="LONGREACH_SLOW is not set: long jobs are skipped")

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


DRIVER = """
import os, sys
import ray
from longreach.ray import embed

source, out, model, crash = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)

def progress(done, parts):
    # The job dies at a third of its work, without a chance to tidy up.
    if crash == "yes" and done > parts // 3:
        os.kill(os.getpid(), 9)

print(embed(source, out, model=model, column="text", actors=2, batch_tokens=65536, on_progress=progress))
"""


def killed_worker():
    """Ends one process of an actor that embeds; whether there was one."""
    for process in Path("/proc").iterdir():
        try:
            name = (process / "cmdline").read_bytes().split(b"\\0")[0]
            mine = process.stat().st_uid == os.getuid()
        except OSError:
            continue
        if mine and name.startswith(b"ray::_Worker"):
            os.kill(int(process.name), signal.SIGKILL)
            return True
    return False


@pytest.mark.parametrize("rows", [pytest.param(600, id="short"), pytest.param(100_000, id="long", marks=SLOW)])
def test_no_row_is_lost_or_twice_if_drivers_and_workers_are_killed(tmp_path, rows):
    folder, out = tmp_path / "docs", tmp_path / "vectors"
    folder.mkdir()
    numbers = np.array_split(np.arange(rows), 7)
    for i, ids in enumerate(numbers):
        table = pa.table({"id": ids, "text": [f"text {n} of alpha" for n in ids]})
        pq.write_table(table, folder / f"part{i}.parquet", row_group_size=max(rows // 40, 1))
    command = [sys.executable, "-c", DRIVER, str(folder), str(out), MODEL]
    crashed = subprocess.run([*command, "yes"], capture_output=True, text=True)
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr
    before = {file.name for file in out.iterdir() if file.suffix == ".parquet"}
    assert before
    again = subprocess.Popen([*command, "no"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed = False
    while again.poll() is None and not killed:
        killed = killed_worker()
        time.sleep(0.05)
    said, errors = again.communicate()
    assert again.returncode == 0 and killed, errors
    assert 0 < int(said.split()[-1]) < rows
    files = sorted(file for file in out.iterdir() if file.suffix == ".parquet")
    assert before <= {file.name for file in files}
    table = pa.concat_tables(pq.read_table(file) for file in files)
    assert sorted(table.column("id").to_pylist()) == list(range(rows))
    some = range(0, rows, max(rows // 50, 1))
    want = longreach.load(MODEL).encode([f"text {n} of alpha" for n in some])
    row_of = {n: row for row, n in enumerate(table.column("id").to_pylist())}
    for n, vector in zip(some, want):
        assert np.array_equal(np.float32(table.column("vector")[row_of[n]].as_py()), vector)
