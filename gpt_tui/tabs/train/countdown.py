"""Countdown of a first start."""

from __future__ import annotations

import time

from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static

from gpt_tui.session.run_preview import RunPreview
from gpt_tui.shared.bindings import keymap_of
from gpt_tui.shared.keymap import shown_keys
from gpt_tui.tabs.train.presenter import Countdown, countdown_line

TICK_S = 0.25


class CountdownLine(Static):
    """One line that counts down to the first run; hidden while no countdown runs.

    Attributes:
        room: Cells of the line.
    """

    class Finished(Message):
        """The countdown has reached zero."""

    room = 0
    _countdown: Countdown | None = None
    _preview: RunPreview
    _timer: Timer

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False)

    @property
    def running(self) -> bool:
        """True while the countdown is running."""
        return self._countdown is not None

    def start(self, preview: RunPreview, length_s: float) -> None:
        """Count down from `length_s` seconds to the run of the preview."""
        self._preview, self._countdown = preview, Countdown(time.monotonic(), length_s)
        self._timer = self.set_interval(TICK_S, self._tick)
        self.display = True
        self._tick()

    def cancel(self) -> None:
        """End the countdown without a run."""
        if self._countdown is not None:
            self._countdown = None
            self._timer.stop()
            self.display = False

    def _tick(self) -> None:
        if self._countdown is None:
            return
        now_s = time.monotonic()
        if self._countdown.remaining_s(now_s) <= 0.0:
            self.cancel()
            self.post_message(self.Finished())
            return
        keys = shown_keys(keymap_of(self.app))
        self.update(Content.styled(countdown_line(self._preview, self._countdown, now_s, keys, self.room), "$primary"))
