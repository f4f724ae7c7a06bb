"""The first start: a run that begins by itself after a countdown, unless the user does anything else."""

from __future__ import annotations

import time

from textual import events
from textual.screen import Screen
from textual.timer import Timer

from gpt_tui.run_view.status import Phase
from gpt_tui.session.controller import TrainingController
from gpt_tui.session.run_preview import Setup
from gpt_tui.shared.keymap import KEYS
from gpt_tui.tabs.train.countdown import Countdown, countdown_words, leads
from gpt_tui.tabs.train.welcome import Welcome

TICK_S = 0.25
NOW = next(key for key in KEYS if key.action == "start_now")


class FirstStart(Screen[None]):
    """For the screen that shows what a start would train. `lead_s`: the seconds of the countdown, 0 for none."""

    controller: TrainingController
    lead_s: float = 0.0
    _countdown: Countdown | None = None
    _lead_setup: Setup | None = None
    _lead_keys: dict[str, str]
    _lead_timer: Timer

    @property
    def is_leading(self) -> bool:
        """Whether the countdown runs."""
        return self._countdown is not None

    def action_start(self) -> None:
        """A new run."""
        raise NotImplementedError

    def leading_changed(self) -> None:
        """The countdown has begun or is over."""
        raise NotImplementedError

    def lead(self, setup: Setup, keys: dict[str, str]) -> None:
        """Begins the countdown, the first time that it is known what would be trained; never after that."""
        length_s, self.lead_s = self.lead_s, 0.0
        if length_s and leads(setup) and self.controller.phase is Phase.IDLE and self.is_current:
            self._countdown = Countdown(time.monotonic(), length_s)
            self._lead_setup, self._lead_keys = setup, keys
            self._lead_timer = self.set_interval(TICK_S, self._count)
            self._count()
            self.leading_changed()

    def wait_for_user(self) -> None:
        """The user is here, and what happens is up to him: no countdown any more."""
        self.lead_s = 0.0
        if self._countdown is not None:
            self._countdown = None
            self._lead_timer.stop()
            self.query_one(Welcome).show_countdown("", "")
            self.leading_changed()

    def action_start_now(self) -> None:
        """The end of the countdown."""
        self.wait_for_user()
        self.action_start()

    def _count(self) -> None:
        if self._countdown is None or self._lead_setup is None:
            return
        now_s = time.monotonic()
        if self._countdown.left_s(now_s) <= 0.0:
            self.action_start_now()
            return
        welcome = self.query_one(Welcome)
        welcome.show_countdown(
            *countdown_words(self._lead_setup, self._countdown, now_s, self._lead_keys, welcome.text_width)
        )

    def on_key(self, event: events.Key) -> None:
        """Any key but the one that ends the countdown is another choice."""
        now = dict(self.app._keymap).get(NOW.id) or NOW.keys
        if event.key not in now.split(","):
            self.wait_for_user()

    def on_mouse_down(self) -> None:
        """So is a click."""
        self.wait_for_user()

    def on_screen_suspend(self) -> None:
        """Something lies over the screen: the palette, a question."""
        self.wait_for_user()
