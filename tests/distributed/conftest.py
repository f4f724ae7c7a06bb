"""Fixture of the tests that start several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.processes import STARTED_BY, end_all


@pytest.fixture(autouse=True)
def test_id(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of the test in the environment of the processes that it starts; those that a failure leaves are killed."""
    name = f"{os.getpid()} {request.node.nodeid}"
    monkeypatch.setenv(STARTED_BY, name)
    yield name
    if Path("/proc/self/environ").exists():
        end_all(name)
