"""Fixtures of the reliability tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.program import write_texts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a training text and an evaluation text."""
    write_texts(tmp_path)
    return tmp_path
