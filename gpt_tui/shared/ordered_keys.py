"""Apply keys and clicks in their order, also when many arrive together, as over a slow connection.

Textual sends a key to the focused widget, which inserts a letter at once. A bound key, such as Backspace, takes effect
only after it has bubbled up to the app, when the letters behind it are inserted already (Textual issue 6605). And what
is typed while a new screen mounts is lost, because none of its widgets has the focus yet.

Here a key, a paste or a click waits until a follower of the one before has bubbled up, too: then that has had its
effect. The follower goes several times, behind the messages that the effect sends: Enter in the command palette submits
its field, which selects an option, which closes the palette. For a screen whose widgets take long to mount
(`OpeningScreen`), everything waits until they are there.
"""

from __future__ import annotations

import time
from collections import deque

from textual import events
from textual.app import App
from textual.message import Message
from textual.screen import Screen, ScreenResultType
from textual.timer import Timer
from textual.widget import Widget

OrderedEvent = events.Key | events.Paste | events.MouseDown | events.MouseUp

ROUNDS = 3  # of the follower of a key
CHECK_S = 0.05
LOST_S = 2.0  # keys must work in an app whose focused widget is busy or stuck


class Follower(Message):
    """Bubble up from where keys go, at once.

    Args:
        start: Focused widget, or the screen without one.
        rounds: How often to go from there, this time included.
    """

    def __init__(self, start: Widget | Screen[object], rounds: int) -> None:
        super().__init__()
        self.start = start
        self.rounds = rounds
        self.sent_s = time.monotonic()
        self.is_on_its_way = start.post_message(self)

    @property
    def is_lost(self) -> bool:
        """True if it can no longer arrive, or is so late that keys must not wait for it."""
        return not self.is_on_its_way or not self.start.is_attached or time.monotonic() - self.sent_s > LOST_S


class OpeningScreen(Screen[ScreenResultType]):
    """A screen that is shown before the widgets that its input is for."""

    is_open = False
    """True once they have mounted: until then, input waits"""

    def acts_at_once(self, event: OrderedEvent) -> bool:
        """Return True for input that need not wait, as it leaves the screen. What was typed before it is dropped."""
        return False


class OrderedKeysApp(App[None]):
    """An app that sends a key, a paste or a click to its widgets only when the one before has had its effect."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[OrderedEvent] = deque()
        self._follower: Follower | None = None
        self._mounted_screen: Screen[object] | None = None  # which the last follower came from
        self._check_timer: Timer | None = None

    async def deliver(self, event: OrderedEvent) -> None:
        """Send a key or a paste to the widget with the focus, a click to that below it, or run a priority binding."""
        await super().on_event(event)

    async def on_event(self, event: events.Event) -> None:
        """Deliver a key, a paste or a click in its turn, and handle other events at once."""
        if not isinstance(event, OrderedEvent) or event.is_forwarded:
            await super().on_event(event)
            return
        self._waiting.append(event)
        await self._deliver_in_turn()

    async def _deliver_in_turn(self) -> None:
        """Deliver the next key, once the one before has had its effect and the screen has mounted."""
        if not self._waiting or self._follower is not None or not self.screen_stack:
            return
        if self.screen is not self._mounted_screen:
            self._follow(1)
        elif self._may_deliver():
            await self.deliver(self._waiting.popleft())
            self._follow(ROUNDS)
        else:
            self._check_regularly()

    def _may_deliver(self) -> bool:
        """Return True if the screen takes the next key; before one that leaves it, drop those that wait for it."""
        screen = self.screen
        if not isinstance(screen, OpeningScreen) or screen.is_open:
            return True
        leaving = next((number for number, event in enumerate(self._waiting) if screen.acts_at_once(event)), None)
        for _ in range(leaving or 0):
            self._waiting.popleft()
        return leaving is not None

    async def on_follower(self, message: Follower) -> None:
        """Begin the next round of the follower, or go on with the next key."""
        if message is self._follower:
            await self._end_round(message, message.rounds - 1)

    async def _check(self) -> None:
        """Go on if the screen has opened, or the follower is lost, as when a key closes the screen it was sent to."""
        if self._follower is None:
            await self._deliver_in_turn()
        elif self._follower.is_lost:
            await self._end_round(self._follower, 0)

    async def _end_round(self, follower: Follower, rounds: int) -> None:
        """Send the follower again if rounds are left or keys now go elsewhere, else deliver the next key."""
        if not self.screen_stack:
            return  # the app is ending
        if rounds or follower.start is not self._start:
            self._follow(max(rounds, 1))
            return
        self._follower, self._mounted_screen = None, self.screen
        await self._deliver_in_turn()
        if self._follower is None and not self._waiting and self._check_timer is not None:
            self._check_timer.stop()
            self._check_timer = None

    def _follow(self, rounds: int) -> None:
        self._follower = Follower(self._start, rounds)
        self._check_regularly()

    def _check_regularly(self) -> None:
        if self._check_timer is None:
            self._check_timer = self.set_interval(CHECK_S, self._check)

    @property
    def _start(self) -> Widget | Screen[object]:
        """Where keys go."""
        return self.focused or self.screen
