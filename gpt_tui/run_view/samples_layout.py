"""The samples of a run as lines of text, oldest first: how a model learns to write, one evaluation after another. Pure.

◇ step 0   the weights are random
│ It wasosed2seaaretpounritysit rty feat
★ step 800   1:23   eval loss 4.035   2.005 bits a byte   best
│ It was not to the ladies was able for herself
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from rich.cells import cell_len

from gpt_tui.session.run_state import MAX_SAMPLES, Sample
from gpt_tui.shared.formatting import clock, fixed, nats, whole
from gpt_tui.shared.sanitize import printable
from gpt_tui.shared.wrapping import line_spans

Part = Literal["rail", "eval", "best", "head", "prompt", "reply"]
RAIL, UNTRAINED, EVAL_MARK, BEST_MARK = "│ ", "◇ ", "◆ ", "★ "
GAP = "   "


class Span(NamedTuple):
    """A stretch of a line, and what it is, for its look."""

    part: Part
    text: str


Line = tuple[Span, ...]


class Timeline(NamedTuple):
    """All lines, and the number of the line that each sample begins at."""

    lines: tuple[Line, ...] = ()
    starts: tuple[int, ...] = ()


def timeline(samples: Sequence[Sample], best_step: int, width: int, *, airy: bool = False) -> Timeline:
    """The samples in lines of at most `width` cells; the one of `best_step` is marked. `airy`: a gap between two."""
    lines: list[Line] = []
    starts = []
    for sample in samples:
        if airy and lines:
            lines.append((Span("rail", RAIL),))
        starts.append(len(lines))
        lines.append(head(sample, sample.step == best_step and sample.evaluation is not None, width))
        lines += body(sample.prompt, sample.text, width)
    return Timeline(tuple(lines), tuple(starts))


def head(sample: Sample, best: bool, width: int) -> Line:
    """Its step, time and scores, as many of them as there is room for."""
    point = sample.evaluation
    step = f"step {whole(sample.step)}"
    if point is not None:
        loss, bits = nats(point.loss), fixed(point.bits_per_byte)
        time = clock(sample.elapsed_s)
        choices = [
            [step, time, f"eval loss {loss}", f"{bits} bits a byte", *["best so far"] * best],
            [step, time, f"loss {loss}", f"{bits} bits/byte", *["best"] * best],
            [step, time, f"loss {loss}", f"{bits} bits/byte"],
            [step, f"loss {loss}", f"{bits} bits/byte"],
            [step, f"loss {loss}"],
        ]
    elif sample.step == 0:
        choices = [[step, "untrained: the weights are random"], [step, "untrained"]]
    else:
        choices = [[step, clock(sample.elapsed_s)]]
    gaps = [(words, GAP) for words in choices] + [(words, "  ") for words in choices] + [([step], "")]
    room = width - len(RAIL)
    text = next((line for words, gap in gaps if cell_len(line := gap.join(words)) <= room), step[: max(0, room)])
    mark: Span = Span("best", BEST_MARK) if best else Span("eval", EVAL_MARK if point else UNTRAINED)
    return mark, Span("best" if best else "head", text)


@lru_cache(maxsize=2 * MAX_SAMPLES)
def body(prompt: str, text: str, width: int) -> tuple[Line, ...]:
    """The prompt and what the model went on with, told apart, beside the rail.

    Line feeds of the text are spaces here, as the pane breaks the lines where it ends; a blank line begins a new one.
    """
    begun = flowing(prompt)
    whole_text = begun + flowing(text).rstrip()
    lines: list[Line] = []
    for start, stop in line_spans(whole_text, width - len(RAIL)):
        middle = min(max(start, len(begun)), stop)
        parts = (Span("rail", RAIL), Span("prompt", whole_text[start:middle]), Span("reply", whole_text[middle:stop]))
        lines.append(tuple(span for span in parts if span.text))
    return tuple(lines)


def flowing(text: str) -> str:
    """Harmless text in which single line feeds are spaces, and blank lines are line feeds."""
    return re.sub(r"[ \n]*\n[ \n]*", lambda gap: "\n" if gap[0].count("\n") > 1 else " ", printable(text))


def sample_at(samples: Sequence[Sample], step: float) -> int | None:
    """The number of the newest sample that was written at `step` or before it; None if there is none."""
    return next((number for number in range(len(samples) - 1, -1, -1) if samples[number].step <= step), None)
