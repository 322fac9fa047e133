"""The examples of the page run, and so do those of the docstrings."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
from pathlib import Path

import pytest
from conftest import PIPELINES

PAGE = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python ?(\w*)\n(.*?)```", PAGE, re.DOTALL)
#: What the examples have defined: they run from top to bottom, as a reader runs them.
NAMES: dict[str, object] = {}


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A folder with what the examples read, in place of what they would download."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "documents").mkdir()
    for i, text in enumerate(("A passport is renewed at the town hall.", "The quick river flows under the bridge.")):
        (folder / "documents" / f"{i}.txt").write_text(text)
    return folder


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_page_runs_from_top_to_bottom(number, documents, monkeypatch, capsys):
    library, code = EXAMPLES[number]
    if library:
        pytest.importorskip(library, reason=f"{library} is not installed: its example is skipped")
    monkeypatch.chdir(documents)
    if code.startswith("# "):
        # What needs a download is a comment: it runs with a model that is there.
        code = "\n".join(line.removeprefix("# ") for line in code.splitlines())
        code = re.sub(r"\"(sentence-transformers|answerdotai)/[^\"]*\"", repr(str(PIPELINES / "st-bert-mean")), code)
        if "ray" in code:
            pytest.importorskip("ray", reason="Ray is not installed: its example is skipped")
        if "polars" in code or "ray" in code:
            polars = pytest.importorskip("polars", reason="polars is not installed: its example is skipped")
            polars.DataFrame({"text": ["a", "b"]}).write_parquet(documents / "documents.parquet")
            polars.DataFrame({"text": ["a", "b"]}).write_parquet(documents / "documents" / "texts.parquet")
            NAMES["polars"] = polars
        code = code.replace("actors=8, cpus=4", "actors=1, cpus=1")
    exec(compile(code, f"README.md, example {number}", "exec"), NAMES)


@pytest.mark.parametrize(
    ("module", "library"),
    [
        ("longreach", ""),
        ("longreach._mechanism", ""),
        ("longreach._model", ""),
        ("longreach.distributed._layout", ""),
        ("longreach.ops", ""),
        ("longreach.nn.delta", "torch"),
        ("longreach.nn.functional", "torch"),
        ("longreach.nn.hgrn", "torch"),
        ("longreach.nn.infini", "torch"),
        ("longreach.nn.linear", "torch"),
        ("longreach.nn.longformer", "torch"),
        ("longreach.nn.lowrank", "torch"),
        ("longreach.nn.lsh", "torch"),
        ("longreach.nn.mamba", "torch"),
        ("longreach.nn.mamba2", "torch"),
        ("longreach.nn.memory", "torch"),
        ("longreach.nn.performer", "torch"),
        ("longreach.nn.performer_lm", "torch"),
        ("longreach.nn.recurrent", "torch"),
        ("longreach.nn.rwkv", "torch"),
        ("longreach.nn.selected", "torch"),
        ("longreach.nn.sparse", "torch"),
        ("longreach.nn.window", "torch"),
        ("longreach.quantization", "torch"),
        ("longreach.deepspeed._attention", "torch"),
        ("longreach.deepspeed._padding", "torch"),
    ],
)
def test_examples_of_docstrings_run(module, library):
    if library:
        pytest.importorskip(library, reason=f"{library} is not installed: these examples are skipped")
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted and not found.failed


def test_what_needs_a_library_says_which():
    if importlib.util.find_spec("torch") is not None:
        pytest.skip("PyTorch is installed")
    import longreach

    for module in ("nn", "deepspeed", "quantization", "sentence_transformers", "transformers"):
        with pytest.raises(ModuleNotFoundError, match=f"longreach.{module} needs PyTorch: pip install longreach\\[torch\\]"):
            getattr(longreach, module)
