"""The app with fakes in it, in a terminal of a test's own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Button

from gpt_core.training.request import RunRequest
from gpt_tui.app.app import GptApp
from gpt_tui.app.preferences import NO_PREFERENCES, Preferences
from gpt_tui.new_run.probe import Probes
from gpt_tui.session.phase import Phase
from gpt_tui.tabs.chat.models import MakeGenerator
from tests.tui.fake_probes import fake_probes
from tests.tui.fake_trainer import FakeOpen, fake_generator, fake_settings

DEADLINE_S = 20.0  # after which something that was waited for counts as never coming, also on a busy machine


class AppBench:
    """What a test does with a running app."""

    def __init__(self, app: GptApp, pilot: Pilot[None], opener: FakeOpen) -> None:
        self.app = app
        self.pilot = pilot
        self.opener = opener

    async def until(self, reached: Callable[[], bool]) -> None:
        """Lets the app run until it is so."""
        end = time.monotonic() + DEADLINE_S
        while not reached():
            assert time.monotonic() < end, f"still {self.phase}:\n{self.text()}"
            await self.pilot.pause(0.01)
        await self.pilot.pause()

    async def until_step(self, step: int) -> None:
        """Lets the app run until it knows of that many steps."""
        await self.until(lambda: self.app.controller.run.step >= step)

    async def until_phase(self, phase: Phase) -> None:
        """Lets the app run until the controller is at that."""
        await self.until(lambda: self.phase is phase)

    async def until_seen(self, words: str) -> None:
        """Lets the app run until these words are on the screen."""
        await self.until(lambda: words in self.text())

    async def settled(self) -> None:
        """Lets the app run until its workers are done and what is on the screen stays as it is."""
        await settled(self.app, self.pilot)

    @property
    def phase(self) -> Phase:
        """What the controller is doing."""
        return self.app.controller.phase

    def button(self, action: str) -> Button:
        """A button of the Train tab."""
        return self.app.main.query_one(f"#button-{action}", Button)

    def text(self) -> str:
        """What is on the screen, as lines of text."""
        return screen_lines(self.app)


def screen_lines(app: App[None]) -> str:
    """What is on the screen, as lines of text."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


async def settled(app: App[None], pilot: Pilot[None]) -> None:
    """Lets an app without a run run until its workers are done and what is on the screen stays as it is."""
    await app.workers.wait_for_complete()
    seen, same, end = "", 0, time.monotonic() + DEADLINE_S
    while same < 3:
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
    owns_process: bool = False,
    **settings: object,
) -> AsyncIterator[AppBench]:
    """The app in a headless terminal; its run, if any, has ended when this ends."""
    opener = opener or FakeOpen()
    chosen = fake_settings(str(folder), **settings)
    request = RunRequest(chosen, "nano") if autostart else None
    app = GptApp(
        chosen, "nano", request=request, watched=watched, open_run=opener, make=make or fake_generator(),
        preferences=preferences, probes=probes or fake_probes(), countdown_s=countdown_s, owns_process=owns_process,
    )  # fmt: skip
    async with app.run_test(size=size) as pilot:
        bench = AppBench(app, pilot, opener)
        await pilot.pause()
        try:
            yield bench
        finally:
            opener.unpause.set()
            app.controller.stop()
    assert app.controller.join(DEADLINE_S)
