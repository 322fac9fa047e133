"""What the tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

import longreach

CRATES = Path(__file__).resolve().parents[2] / "crates"
GOLDENS = CRATES / "models" / "tests" / "goldens"
PIPELINES = CRATES / "engine" / "tests" / "goldens"


@pytest.fixture(scope="session")
def model() -> longreach.Model:
    """The model that is built in."""
    return longreach.load()
