"""A text in colors of surprise, and the alternatives to its tokens: for the screen of surprise and the view Tokens.

Does not import Textual.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import log2

from rich.cells import cell_len

from gpt_tui.session.inside.predictions import Alternative, TokenPredictions
from gpt_tui.shared.formatting import counted, fixed, integer, probability
from gpt_tui.shared.passage import Passage, layout, moved_by_lines
from gpt_tui.shared.ramp import LEGEND_BITS, MAX_BITS
from gpt_tui.shared.sanitize import printable
from gpt_tui.shared.spans import Line, Span, joined, shortened
from gpt_tui.shared.wrapping import wrapped

END_MARK = " ▸ "
TOKEN_WIDTH = 14
PROMPT_NOTE = "  bold: the prompt"

Target = Callable[[int], Hashable]
"""Value that a click selects, of a token or of an alternative"""


# ---- the text


def passage_of(result: TokenPredictions) -> Passage:
    """Return the text in colors of surprise, and a mark for the position after it."""
    levels = [None, *(float(bits) / MAX_BITS for bits in result.bits), None]
    return Passage((*result.texts, END_MARK), levels, result.prompt)


def line_moved(result: TokenPredictions, token: int, width: int, by: int) -> int:
    """Return the token `by` lines below another one."""
    return moved_by_lines(layout(passage_of(result).texts, width), token, by)


def legend(result: TokenPredictions, width: int) -> Line:
    """Return the mean surprise and the legend of the colors."""
    mean = f"{fixed(float(result.bits.mean()), 2)} bits per token" if len(result.bits) else "one token"
    colors = [Span(f" {bits}{'+' if bits == MAX_BITS else ''} ", bits / MAX_BITS) for bits in LEGEND_BITS]
    words = f"{mean}   surprise in bits:"
    taken = 1 + sum(len(span.text) for span in colors)
    if len(words) + taken > width:
        words = mean + ":"
    line = [Span(words + " ", style="muted"), *colors]
    has_note = result.prompt and len(words) + taken + len(PROMPT_NOTE) <= width
    return [*line, Span(PROMPT_NOTE, style="muted")] if has_note else line


def source_note(written_by: str, scored_by: str, skipped: int) -> str:
    """Return which model scored a text, and how many tokens at its start are left out."""
    if not scored_by:
        return ""
    names = (scored_by, written_by)
    scorer, writer = (f"the model {name}" if name.startswith("in training") else name for name in names)
    note = f"scored by {scorer}" + (f" (written by {writer})" if written_by not in ("", scored_by) else "")
    verb = "is" if skipped == 1 else "are"
    return note + (f"; the first {counted(skipped, 'token')} {verb} not shown" if skipped else "")


# ---- the panel


def panel_lines(
    result: TokenPredictions, token: int, choice: int | None, width: int, rows: int, target: Target
) -> list[Line]:  # fmt: skip
    """Return the numbers of a token and the most probable tokens in its place, in at most `rows` lines.

    Args:
        result: The predictions.
        token: The token; the number of tokens for the position after the text.
        choice: The chosen alternative.
        width: Cells per line.
        rows: Lines.
        target: Returns the value that a click on an alternative selects.
    """
    tokens = len(result.ids)
    token = min(token, tokens)
    is_end = token == tokens
    name = "what follows the text" if is_end else printable(result.names[token])
    position = "" if is_end else f"position {integer(token)} of {counted(tokens, 'token')}"
    lines: list[Line] = [
        [Span(shortened(name, max(4, width - len(position) - 2)), style="title"), Span(f"  {position}", style="muted")]
    ]
    if token == 0:
        return [*lines, [Span(shortened("the first token: no prediction", width), style="muted")]]
    lines += [[Span(line)] for line in joined(facts(result, token), width)]
    if is_end and result.end_note:
        lines += [[Span(line, style="muted")] for line in wrapped(result.end_note, width)]
    found = result.alternatives(token)
    room = max(1, min(len(found), rows - len(lines)))
    first = max(0, min((choice or 0) - room + 1, len(found) - room))
    actual = None if is_end else result.ids[token]
    return lines + [
        alternative_line(
            found[row], row, width, target(row), is_chosen=row == choice, is_actual=found[row].id == actual
        )
        for row in range(first, first + room)
    ]  # fmt: skip


def facts(result: TokenPredictions, token: int) -> list[str]:
    """Return the numbers of a token after the first, or of the position after the text."""
    entropy = float(result.entropy[token - 1])
    found = [f"entropy {fixed(entropy, 2)} bits"]
    if entropy <= log2(result.vocab_size) + 1:  # not with logits so large that they are not finite numbers
        found = [f"{found[0]}, as of {counted(round(2.0**entropy), 'equal token')}"]
    if token == len(result.ids):
        return found
    bits = float(result.bits[token - 1])
    rank = f"rank {integer(int(result.ranks[token - 1]))} of {integer(result.vocab_size)}"
    return [f"surprise {fixed(bits, 2)} bits", f"p {probability(2.0**-bits)}", rank, *found]


def alternative_line(
    found: Alternative, row: int, width: int, target: Hashable, *, is_chosen: bool, is_actual: bool
) -> Line:  # fmt: skip
    """Return one of the most probable tokens: its text, probability and a bar; ✓ marks the one in the text."""
    name = shortened(printable(found.name), TOKEN_WIDTH)
    bar_width = max(4, width - TOKEN_WIDTH - 14)
    cells = max(1, round(found.probability * bar_width)) if found.probability > 0 else 0
    return [
        Span(f"{'▸' if is_chosen else ' '} {row + 1} ", style="mark" if is_chosen else "muted", at=target),
        Span(name + " " * (TOKEN_WIDTH - cell_len(name)), at=target,
             style="cursor" if is_chosen else "bold" if is_actual else ""),
        Span(f"{probability(found.probability):>6} ", at=target),
        Span("█" * cells, style="good" if is_actual else "mark", at=target),
        Span(" ✓" if is_actual else "", style="good", at=target),
    ]  # fmt: skip
