"""The examples of the page run, and so do those of the docstrings."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python ?(\w*)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("library", "code"), EXAMPLES)
def test_an_example_of_the_page_runs(library, code, capsys):
    if library:
        pytest.importorskip(library, reason=f"{library} is not installed: its example is skipped")
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize(
    ("module", "library"),
    [
        ("longreach", ""),
        ("longreach._mechanism", ""),
        ("longreach._model", ""),
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
