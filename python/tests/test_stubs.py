"""The types of functions that are made when the package is imported."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

from longreach import _stubs, ops

USER = """\
from typing import Any
from longreach import ops

class Array:
    def __dlpack__(self, *, stream: Any = None, copy: bool | None = None) -> Any: return self
    def __getitem__(self, at: Any) -> "Array": return self

q = Array()
out = ops.window(q, q, q, left=3, layout="bthd")
o = out.o
g = ops.window.backward(q, q, q, left=3, do=o)
state = ops.scan(q, q, q).state
y = ops.scan.step_(q[:, 0], q[:, 0], q[:, 0], state=state)
reveal_type(o)
reveal_type(g.q)
reveal_type(y)
"""


def test_the_stubs_are_current():
    assert _stubs.PATH.read_text(encoding="utf-8") == _stubs.text(), "run python -m longreach._stubs"


def test_the_stubs_have_the_arguments_of_the_functions():
    tree = ast.parse(_stubs.PATH.read_text(encoding="utf-8"))
    calls = {
        one.name: next(part.args for part in one.body if isinstance(part, ast.FunctionDef) and part.name == "__call__")
        for one in tree.body
        if isinstance(one, ast.ClassDef) and one.name.endswith("Function")
    }
    assert len(calls) == len(ops.__all__)
    for name in ops.__all__:
        arguments = calls[f"_{''.join(part.capitalize() for part in name.split('_'))}Function"]
        found = [a.arg for a in (*arguments.args[1:], *arguments.kwonlyargs) if a.arg != "config"]
        assert found == list(inspect.signature(getattr(ops, name)).parameters), name


def test_a_strict_checker_knows_what_functions_take_and_return(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed: types are not checked")
    file = tmp_path / "user.py"
    wrong = USER + "ops.window(q, q, q, lefft=3)\nops.window(q, q, q, left='three')\nops.window(q, q, q, left=3, form='quick')\n"
    file.write_text(wrong)
    settings = tmp_path / "mypy.ini"
    # The types of these libraries take long to read, and matter to no line of the file.
    settings.write_text("[mypy]\nstrict = true\n[mypy-torch.*,numpy.*,transformers.*,sentence_transformers.*]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(settings), "--cache-dir", str(tmp_path / "cache"), str(file)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    lines = found.stdout.splitlines()
    notes = [line for line in lines if "note: Revealed type" in line]
    assert len(notes) == 3 and all("Array" in line for line in notes), found.stdout + found.stderr
    errors = [line.split(":")[1] for line in lines if ": error:" in line]
    assert errors == ["17", "18", "19"], found.stdout + found.stderr


def test_the_stub_of_the_extension_is_that_of_its_module(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed: types are not checked")
    settings = tmp_path / "mypy.ini"
    skipped = "torch.*,numpy.*,transformers.*,sentence_transformers.*,pyarrow.*,ray.*"
    settings.write_text(f"[mypy]\nignore_missing_imports = true\n[mypy-{skipped}]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy.stubtest", "longreach._core", "--mypy-config-file", str(settings)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
