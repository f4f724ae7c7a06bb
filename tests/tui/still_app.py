"""The app in a fixed state: given run state and phase; no thread, constant clock and memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from textual.pilot import Pilot

import gpt_tui.tabs.train.run_requests
import gpt_tui.tabs.train.welcome
from gpt_core.config.presets import preset
from gpt_core.progress import Progress
from gpt_core.training.request import RunRequest
from gpt_tui.app.app import GptApp
from gpt_tui.session.controller import TrainerLike, TrainingController
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.recent_runs import RecentRuns
from gpt_tui.session.run_preview import RunPreview
from gpt_tui.session.run_state import RunState
from tests.tui.app_bench import settled
from tests.tui.fake_probes import fake_probes

SETTINGS = msgspec.structs.replace(preset("nano"), models_dir="models")
SETUP = RunPreview(SETTINGS, "nano", "data/raw/train.en", 3_600_000, eval_file="data/test/eval.en")


@asynccontextmanager
async def still_app(
    monkeypatch: pytest.MonkeyPatch,
    history: RunState,
    phase: Phase,
    size: tuple[int, int],
    *,
    opening: tuple[str, float] = ("", 0.0),
    theme: str = "gpt-night",
) -> AsyncIterator[tuple[GptApp, Pilot[None]]]:
    """Run the app in this state; the last save was 12 seconds ago."""
    saved_at_s = history.saved.at_s if history.saved else 0.0
    monkeypatch.setattr(TrainingController, "phase", property(lambda controller: phase))
    monkeypatch.setattr(TrainingController, "pausing", property(lambda controller: phase is Phase.PAUSED))
    monkeypatch.setattr(
        TrainingController, "status", lambda controller: SessionStatus(phase, saved_at_s + 12.0, 72_000_000)
    )
    monkeypatch.setattr(gpt_tui.tabs.train.run_requests, "read_preview", lambda *_arguments: SETUP)
    monkeypatch.setattr(gpt_tui.tabs.train.welcome, "read_recent_runs", lambda *_arguments: RecentRuns())
    app = GptApp(SETTINGS, "nano", open_run=no_run, probes=fake_probes())
    app.controller.run = history
    app.controller.opening = opening
    app.theme = theme
    async with app.run_test(size=size) as pilot:
        await settled(app, pilot)
        app.main.show(at_once=True)
        await settled(app, pilot)
        yield app, pilot


def no_run(request: RunRequest, progress: Progress) -> TrainerLike:
    """Fail: no run is opened."""
    raise AssertionError(request)
