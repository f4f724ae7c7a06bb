"""Layout of the samples of a run as lines of text, oldest first. Does not import Textual.

◇ step 0   untrained: random weights
│ It wasosed2seaaretpounritysit rty feat
★ step 800   1:23   eval loss 4.035   2.005 bits per byte   best so far
│ It was not to the ladies was able for herself
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from rich.cells import cell_len

from gpt_tui.session.learning_text import copied_text
from gpt_tui.session.run_events import MAX_SAMPLES
from gpt_tui.session.run_state import Sample
from gpt_tui.shared.formatting import clock, fixed, integer, nats, shown_continuation
from gpt_tui.shared.sanitize import printable
from gpt_tui.shared.spans import shortened
from gpt_tui.shared.wrapping import line_spans

Part = Literal["rail", "eval", "best", "head", "prompt", "reply", "note"]
RAIL, UNTRAINED, EVAL_MARK, BEST_MARK = "│ ", "◇ ", "◆ ", "★ "
GAP = "   "


class Span(NamedTuple):
    """Part of a line, for its style, with its text."""

    part: Part
    text: str


Line = tuple[Span, ...]


class Timeline(NamedTuple):
    """Laid-out samples.

    Attributes:
        lines: All lines.
        starts: Index of the first line of each sample.
    """

    lines: tuple[Line, ...] = ()
    starts: tuple[int, ...] = ()


def timeline(
    samples: Sequence[Sample], best_step: int, width: int, *, spaced: bool = False, fine_tunes: bool = False
) -> Timeline:
    """Lay out samples.

    Args:
        samples: Samples, oldest first.
        best_step: Step of the best evaluation, whose sample is marked.
        width: Maximum width of a line, in cells.
        spaced: Insert an empty line between samples.
        fine_tunes: The run started from trained weights.
    """
    lines: list[Line] = []
    starts = []
    for sample in samples:
        if spaced and lines:
            lines.append((Span("rail", RAIL),))
        starts.append(len(lines))
        is_best = sample.step == best_step and sample.evaluation is not None
        lines.append(head(sample, is_best, width, before=fine_tunes and sample.step == 0))
        lines += body(sample.prompt, sample.text, width)
        if copied := copied_text(sample.copied, sample.searched, sample=sample.prompt + sample.text):
            lines.append((Span("rail", RAIL), Span("note", shortened(copied, max(1, width - len(RAIL))))))
    return Timeline(tuple(lines), tuple(starts))


def head(sample: Sample, best: bool, width: int, *, before: bool = False) -> Line:
    """Return the heading of a sample: step, and as many of time and scores as fit.

    Args:
        sample: The sample.
        best: It is of the best evaluation.
        width: Maximum width of the line, in cells.
        before: It is of the trained weights that a run started with.
    """
    point = sample.evaluation
    step = f"step {integer(sample.step)}"
    if point is not None:
        loss, bits = nats(point.loss), fixed(point.bits_per_byte)
        time = "before fine-tuning" if before else clock(sample.elapsed_s)
        full = [step, time, f"eval loss {loss}", f"{bits} bits per byte"]
        choices = [
            [*full, *["best so far"] * best],
            [*full, *["best"] * best],
            full,
            [step, time, f"loss {loss}", f"{bits} bits/byte", *["best"] * best],
            [step, time, f"loss {loss}", f"{bits} bits/byte"],
            [step, f"loss {loss}", f"{bits} bits/byte"],
            [step, f"loss {loss}"],
        ]
    elif before:
        choices = [[step, "before fine-tuning"]]
    elif sample.step == 0:
        choices = [[step, "untrained: random weights"], [step, "untrained"]]
    else:
        choices = [[step, clock(sample.elapsed_s)]]
    gaps = [(parts, GAP) for parts in choices] + [(parts, "  ") for parts in choices] + [([step], "")]
    room = width - len(RAIL)
    text = next((line for parts, gap in gaps if cell_len(line := gap.join(parts)) <= room), step[: max(0, room)])
    mark: Span = Span("best", BEST_MARK) if best else Span("eval", EVAL_MARK if point else UNTRAINED)
    return mark, Span("best" if best else "head", text)


@lru_cache(maxsize=2 * MAX_SAMPLES)
def body(prompt: str, text: str, width: int) -> tuple[Line, ...]:
    """Return the lines of prompt and continuation, which differ in style."""
    prompt = reflowed(prompt)
    full_text = prompt + reflowed(shown_continuation(text)).rstrip()
    lines: list[Line] = []
    for start, stop in line_spans(full_text, width - len(RAIL)):
        middle = min(max(start, len(prompt)), stop)
        parts = (Span("rail", RAIL), Span("prompt", full_text[start:middle]), Span("reply", full_text[middle:stop]))
        lines.append(tuple(span for span in parts if span.text))
    return tuple(lines)


def reflowed(text: str) -> str:
    """Return sanitized text with single line feeds replaced by spaces, and blank lines by line feeds."""
    return re.sub(r"[ \n]*\n[ \n]*", lambda gap: "\n" if gap[0].count("\n") > 1 else " ", printable(text))


def sample_at(samples: Sequence[Sample], step: float) -> int | None:
    """Return the index of the newest sample generated at `step` or before, None if there is none."""
    return next((number for number in range(len(samples) - 1, -1, -1) if samples[number].step <= step), None)
