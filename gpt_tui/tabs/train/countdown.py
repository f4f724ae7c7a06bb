"""The first start leads to the first falling curve by itself: when it does, and what the countdown says. Pure."""

from __future__ import annotations

from pathlib import PurePath
from typing import NamedTuple

from gpt_tui.session.checkpoints import StoredCheckpoints
from gpt_tui.session.run_preview import Setup
from gpt_tui.shared.formatting import bar


class Countdown(NamedTuple):
    """From `began_s`, on the reader's clock, it counts `length_s` seconds."""

    began_s: float
    length_s: float

    def left_s(self, now_s: float) -> float:
        """What is left of it."""
        return max(0.0, self.began_s + self.length_s - now_s)

    def share(self, now_s: float) -> float:
        """How much of it is over, 0 to 1."""
        return 1.0 - self.left_s(now_s) / self.length_s


def leads(setup: Setup) -> bool:
    """Whether a run may begin unasked: there is a text to read, and nothing yet that the run could be in the way of."""
    return bool(setup.train_file) and not setup.problem and setup.stored == StoredCheckpoints()


def countdown_words(
    setup: Setup, countdown: Countdown, now_s: float, keys: dict[str, str], width: int
) -> tuple[str, str]:
    """A bar with what will begin and when, and what can be done about it; `keys` maps an action to its key as shown."""
    what = setup.preset_name or "this model"
    seconds = int(countdown.left_s(now_s)) + 1
    begins = f" training {what} on {PurePath(setup.train_file).name} begins by itself in {seconds} s"
    room = min(30, width - len(begins))
    line = bar(countdown.share(now_s), room) + begins if room >= 8 else begins.strip()
    return line, f"{keys['start_now']} begins at once, {keys['cursor_off']} or any other key stays here"
