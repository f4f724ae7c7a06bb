"""What the tests of the face share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.app import App

from tests.tui.quiet import until_quiet
from tests.tui.snapshots import check_snapshot

Snapshot = Callable[[App[None], str], None]


@pytest.fixture(autouse=True)
def _waits_for_messages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textual.app.wait_for_idle", until_quiet)
    monkeypatch.setattr("textual.pilot.wait_for_idle", until_quiet)


@pytest.fixture(autouse=True)
def _all_threads_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside processes that compute on every core, a thread of low priority may hold Python's lock for seconds."""
    for module in ("session.controller", "tabs.checkpoints.files"):
        monkeypatch.setattr(f"gpt_tui.{module}.lower_priority", lambda _niceness: None)


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Snapshot:
    """`snapshot(app, name)` holds the screen to its snapshot."""
    update = bool(request.config.getoption("--update-snapshots"))
    return lambda app, name: check_snapshot(app, name, update=update)


@pytest.fixture
def same_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass takes as much memory on every machine: the kernels' scratch goes with the processor's vectors."""
    monkeypatch.setattr("gpt_core.bench.estimate.activation_bytes", lambda *_shape: 40_000_000)
