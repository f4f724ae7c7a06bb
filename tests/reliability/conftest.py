"""What the cases of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.program import write_texts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a training and an eval text."""
    write_texts(tmp_path)
    return tmp_path
