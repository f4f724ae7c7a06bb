"""Fixtures of the tests of the app."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from textual.app import App

from gpt_tui.session.controller import TrainingController
from gpt_tui.session.phase import SessionStatus
from tests.tui.idle import wait_for_idle
from tests.tui.snapshots import check_snapshot

Snapshot = Callable[[App[None], str], None]
PassHours = Callable[[float], None]


@pytest.fixture(autouse=True)
def _wait_only_for_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the messages of the app instead of an idle processor."""
    monkeypatch.setattr("textual.app.wait_for_idle", wait_for_idle)
    monkeypatch.setattr("textual.pilot.wait_for_idle", wait_for_idle)


@pytest.fixture(autouse=True)
def _default_thread_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the priority of threads unchanged.

    While other processes use every core, a thread of low priority may hold the GIL for seconds.
    """
    for module in ("session.controller", "tabs.checkpoints.file_thread", "tabs.inside.worker"):
        monkeypatch.setattr(f"gpt_tui.{module}.lower_priority", lambda _by: None)


@pytest.fixture
def hours_pass(monkeypatch: pytest.MonkeyPatch) -> PassHours:
    """Return a function that sets the clocks of the time of day and of the training session forward."""
    clocks = {name: getattr(time, name) for name in ("time", "monotonic")}

    def pass_hours(hours: float) -> None:
        monkeypatch.setattr(time, "time", lambda: clocks["time"]() + 3600 * hours)
        monkeypatch.setattr(TrainingController, "status", lambda controller: SessionStatus(
            controller.phase, clocks["monotonic"]() + 3600 * hours,
        ))  # fmt: skip

    return pass_hours


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Snapshot:
    """Return a function that compares the screen of an app with the named snapshot, or updates it."""
    update = bool(request.config.getoption("--update-snapshots"))
    return lambda app, name: check_snapshot(app, name, update=update)


@pytest.fixture
def fixed_activation_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the activation memory the same on every machine; the size of kernel buffers depends on the vector width."""
    monkeypatch.setattr("gpt_core.bench.estimate.activation_bytes", lambda *_shape: 40_000_000)
