"""Figures of a run on one line, shown where there is no status panel. Does not import Textual."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gpt_tui.run_view.status import LABEL_WIDTH, first_evaluation_row, verdict_row
from gpt_tui.session.outcome_text import verdict_tone
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.formatting import age, duration, estimated_duration, fixed, integer, nats, percent, short
from gpt_tui.shared.rows import Tone

GAP = "  "


class Figure(NamedTuple):
    """One figure of a line.

    Attributes:
        label: Name of the value, "" where the value names itself.
        value: Formatted value.
        rank: Importance; figures of the highest ranks are left out where there is no room. 0 is never left out.
        tone: Emphasis of the value.
    """

    label: str
    value: str
    rank: int
    tone: Tone = "plain"

    @property
    def text(self) -> str:
        """Label and value."""
        return f"{self.label} {self.value}".strip()


def fitted_figures(run: RunState, status: SessionStatus, width: int) -> list[Figure]:
    """Return the most important figures that fit on a line of `width` cells, in a fixed order."""
    figures = list(all_figures(run, status))
    shown: set[Figure] = set()
    room = width + len(GAP)
    for figure in sorted(figures, key=lambda figure: figure.rank):
        needed = len(figure.text) + len(GAP)
        if figure.rank and needed > room:
            break
        shown.add(figure)
        room -= needed
    return [figure for figure in figures if figure in shown]


def all_figures(run: RunState, status: SessionStatus) -> Iterator[Figure]:
    """Yield the figures of a run in the order of the line."""
    if run.save_error:
        yield Figure("", "✗ not saved, see the log", 0, "bad")
    if found := run.diverging:
        ratio = fixed(run.curve.smoothed / max(found.guessing_loss, 1e-9), 1)
        yield Figure("", f"✗ diverging: {ratio} × uniform guessing", 0, "bad")
    is_self_test = run.started is not None and run.started.kind != "train"
    step = integer(run.step) + (f" of {integer(run.last_step)}" if run.last_step else "")
    yield Figure("self-test step" if is_self_test else "step", step, 1)
    if run.last is not None:
        yield Figure("train loss", nats(run.curve.smoothed), 2)
    yield from verdict_figures(run) if is_self_test else evaluation_figures(run, status)
    if (remaining := run.remaining_s) is not None:
        yield Figure("time left", estimated_duration(remaining), 3)
    else:
        yield Figure("time", duration(run.elapsed_s), 3)
    if run.last is not None and status.phase is Phase.TRAINING:
        yield Figure("", f"{short(run.last.tokens_per_s)} tokens/s", 6)
    if run.saved is not None and not run.save_error:
        yield Figure("saved", f"{age(status.now_s - run.saved.at_s)} ago", 7)


def verdict_figures(run: RunState) -> Iterator[Figure]:
    """Yield how many lines a self-test reproduces, or when that is checked."""
    found = run.lines_reproduced
    if found is None:
        yield Figure("", verdict_row(run, -LABEL_WIDTH).label, 4, "dim")
    else:
        count = f"{integer(found.reproduced)} of {integer(found.lines)}"
        yield Figure("lines reproduced", count, 2, verdict_tone(found))


def evaluation_figures(run: RunState, status: SessionStatus) -> Iterator[Figure]:
    """Yield the progress of an evaluation, or the result of the last one, or the step of the first."""
    if status.phase is Phase.EVALUATING and run.evaluating is not None:
        yield Figure("final evaluation" if run.has_used_its_time else "evaluating", percent(run.evaluating), 2)
    elif (scores := run.evaluation or run.full_evaluation) is not None:
        before = run.start_scores if scores.step else None
        note = f" (before {nats(before.loss)})" if before is not None else ""
        yield Figure("eval loss", f"{nats(scores.loss)}{note}", 2)
        yield Figure("accuracy", percent(scores.accuracy), 5)
    else:
        yield Figure("", first_evaluation_row(run, -LABEL_WIDTH).label, 4, "dim")
