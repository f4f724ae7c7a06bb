"""Text around the views of the Inside tab: the bar of views, options, titles and messages. Does not import Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from gpt_core.interpret import Part
from gpt_tui.session.model_options import ModelOption
from gpt_tui.session.removed_parts import without
from gpt_tui.shared.formatting import counted, integer
from gpt_tui.shared.spans import Line, Span
from gpt_tui.shared.wrapping import wrapped
from gpt_tui.tabs.inside.views.view import Extent, InsideView

INITIAL = "initial"  # value of the option for the weights before the first step
TextKind = Literal["probe", "sample", "reply", "typed"]


class TextChoice(NamedTuple):
    """Text to look at: which one, and the text itself, "" for the probe."""

    kind: TextKind
    text: str = ""


TEXT_LABELS: dict[TextKind, str] = {
    "probe": "probe", "sample": "last sample", "reply": "last reply", "typed": "typed",
}  # fmt: skip
INITIAL_OPTION = ModelOption("before the first step", INITIAL)

PUT_BACK = " ({inside.remove}: put back)"
MISSING_TEXTS: dict[TextKind, str] = {
    "sample": "no sample yet: training writes one before the first step and after each evaluation ({go.train})",
    "reply": "no reply yet: chat with a model first ({go.chat})",
    "typed": "no text yet: type one in the line above ({inside.type})",
}


def view_bar(views: Sequence[InsideView[Any]], shown: str) -> Line:
    """Return the titles of the views with their keys, the shown one marked. A click selects the name of a view."""
    return [
        span
        for number, view in enumerate(views, 1)
        for span in (
            Span(f" {number}", style="title" if view.name == shown else "mark", at=view.name),
            Span(f" {view.title} ", style="title" if view.name == shown else "muted", at=view.name),
        )
    ]


def title(model: str, text: str, extent: Extent, total: int, progress: str) -> str:
    """Return the title of a view: `in training, step 250 · probe, 64 tokens`.

    A view may read more than a short text: `extent` may have more tokens than its `total`. `text` is "" for a view of
    what the log of the run says, which reads no text.
    """
    read = counted(total, "token")
    if total > extent.tokens:
        read = f"first {integer(extent.tokens)} of {integer(total)} tokens"
    return " · ".join(part for part in (model, text and f"{text}, {read}", progress) if part)


def message_lines(problem: str, progress: str, width: int) -> list[Line]:
    """Return a problem, or without one that a result is being computed."""
    if not problem:
        return [(), [Span(f"{progress or 'computing'}…", style="muted")]]
    return [(), *([Span(line, style="bad")] for line in wrapped(f"✗ {problem}", max(1, width)))]


def removed_note(removed: tuple[Part, ...], change: float | str | None, *, has_key: bool = True) -> str:
    """Return which parts Chat leaves out and the change of the eval loss, None while it is being measured.

    Args:
        removed: The parts.
        change: The change, or why it is not known.
        has_key: The key that puts them back works in the visible view.
    """
    if not removed:
        return ""
    effect = "eval loss is being measured" if change is None else change
    if isinstance(effect, float):
        effect = f"eval loss {effect:+.3f}"
    return f"Chat {without(removed)}: {effect}{PUT_BACK * has_key}"
