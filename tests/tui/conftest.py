"""What the tests of the face share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.app import App

from tests.tui.snapshots import check_snapshot

Snapshot = Callable[[App[None], str], None]


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Snapshot:
    """`snapshot(app, name)` holds the screen to its snapshot."""
    update = bool(request.config.getoption("--update-snapshots"))
    return lambda app, name: check_snapshot(app, name, update=update)


@pytest.fixture
def same_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass takes as much memory on every machine: the kernels' scratch goes with the processor's vectors."""
    monkeypatch.setattr("gpt_core.bench.estimate.activation_bytes", lambda *_shape: 40_000_000)
