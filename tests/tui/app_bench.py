"""Bench that runs the app with fakes in a headless terminal."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Button, Input

from gpt_core.training.request import RunRequest
from gpt_tui.app.app import GptApp
from gpt_tui.app.preferences import NO_PREFERENCES, Preferences
from gpt_tui.new_run.probe import Probes
from gpt_tui.new_run.screen import SetupScreen
from gpt_tui.session.models import MakeGenerator
from gpt_tui.session.phase import Phase
from tests.tui.fake_probes import fake_probes
from tests.tui.fake_trainer import FakeOpen, fake_generator, fake_settings
from tests.tui.snapshots import screen_strips

DEADLINE_S = 120.0  # maximum wait, generous enough for a busy machine


class AppBench:
    """Actions of a test on a running app."""

    def __init__(self, app: GptApp, pilot: Pilot[None], opener: FakeOpen) -> None:
        self.app = app
        self.pilot = pilot
        self.opener = opener

    async def until(self, reached: Callable[[], bool]) -> None:
        """Run the app until a condition holds. Raises the error of an app that crashes."""
        end = time.monotonic() + DEADLINE_S
        while not reached():
            require_running(self.app)
            assert time.monotonic() < end, f"still {self.phase}:\n{self.text()}"
            await self.pilot.pause(0.01)
        await self.pilot.pause()

    async def until_step(self, step: int) -> None:
        """Run the app until a step is reached."""
        await self.until(lambda: self.app.controller.run.step >= step)

    async def until_phase(self, phase: Phase) -> None:
        """Run the app until a phase is reached."""
        await self.until(lambda: self.phase is phase)

    async def until_seen(self, words: str) -> None:
        """Run the app until a text is on the screen."""
        await self.until(lambda: words in self.text())

    async def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size. Raises the error of an app that crashes."""
        await self.pilot.resize_terminal(columns, rows)
        await self.pilot.pause()
        require_running(self.app)

    async def until_set_up(self) -> SetupScreen:
        """Run the app until the set-up screen has its fields; return it."""
        await self.until(lambda: isinstance(self.app.screen, SetupScreen) and self.app.screen.focused is not None)
        assert isinstance(self.app.screen, SetupScreen)
        return self.app.screen

    async def settled(self) -> None:
        """Run the app until its workers have ended and the screen is stable."""
        await settled(self.app, self.pilot)

    @property
    def phase(self) -> Phase:
        """Phase of the controller."""
        return self.app.controller.phase

    def button(self, action: str) -> Button:
        """Return a button of the Train tab."""
        return self.app.main.query_one(f"#button-{action}", Button)

    def text(self) -> str:
        """Return the screen as lines of text."""
        return screen_lines(self.app)


def screen_lines(app: App[None]) -> str:
    """Return the screen as lines of text."""
    return "\n".join(strip.text for strip in screen_strips(app))


def require_running(app: App[None]) -> None:
    """Raise the error of an app that has crashed, which would never show what a test waits for."""
    if app._exception is not None:
        raise app._exception


async def settled(app: App[None], pilot: Pilot[None]) -> None:
    """Run an app without a run until its screen is stable and its workers, but those awaiting a dialog, have ended.

    Cursors stop blinking, and are visible.
    """
    for box in app.screen.query(Input):
        box.cursor_blink = False
    if ending := [worker for worker in app.workers if worker.group != "request"]:
        await app.workers.wait_for_complete(ending)
    seen, same, end = "", 0, time.monotonic() + DEADLINE_S
    while same < 3:
        require_running(app)
        await pilot.pause(0.02)
        await pilot.pause()
        shown = screen_lines(app)
        same = same + 1 if shown == seen else 0
        seen = shown
        assert time.monotonic() < end, seen


@asynccontextmanager
async def running_app(
    folder: Path,
    *,
    size: tuple[int, int] = (80, 24),
    opener: FakeOpen | None = None,
    make: MakeGenerator | None = None,
    autostart: bool = False,
    watched: Path | None = None,
    preferences: Preferences = NO_PREFERENCES,
    probes: Probes | None = None,
    countdown_s: float = 0.0,
    first_minutes: float = 0.0,
    remember_theme: Callable[[str], None] | None = None,
    remember_guide: Callable[[str], None] | None = None,
    owns_process: bool = False,
    end_run: Callable[[], int] | None = None,
    check_ranks: Callable[[], None] | None = None,
    **settings: object,
) -> AsyncIterator[AppBench]:
    """Run the app in a headless terminal; at the end, stop its run and wait for it."""
    opener = opener or FakeOpen()
    chosen = fake_settings(str(folder), **settings)
    request = RunRequest(chosen, "nano") if autostart else None
    app = GptApp(
        chosen, "nano", request=request, watched=watched, open_run=opener, make=make or fake_generator(),
        preferences=preferences, probes=probes or fake_probes(), countdown_s=countdown_s,
        first_minutes=first_minutes, remember_theme=remember_theme, remember_guide=remember_guide,
        owns_process=owns_process, end_run=end_run, check_ranks=check_ranks,
    )  # fmt: skip
    async with app.run_test(size=size) as pilot:
        bench = AppBench(app, pilot, opener)
        await pilot.pause()
        try:
            yield bench
        finally:
            if isinstance(opener, FakeOpen):
                opener.unpause.set()
            app.controller.stop()
    assert app.controller.join(DEADLINE_S)
