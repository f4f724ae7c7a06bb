"""Fixture of all tests of the core."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gpt_core.kernels import threads


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    """Restore the number of threads of the kernels, which a test or the settings of its run have set."""
    before = threads.get_threads()
    yield
    threads.set_threads(before)
