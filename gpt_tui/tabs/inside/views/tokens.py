"""View Tokens: the surprise of each token, and what the model expected in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpt_tui.session.inside.predictions import TokenPredictions, token_predictions
from gpt_tui.shared.formatting import fixed, integer, percent
from gpt_tui.shared.ramp import LEGEND_BITS, MAX_BITS
from gpt_tui.shared.sanitize import printable
from gpt_tui.tabs.inside.views.passage import Passage, passage_rows, passage_text
from gpt_tui.tabs.inside.views.view import (
    Action,
    Continuation,
    Cursor,
    Extent,
    Frame,
    InsideView,
    Line,
    Move,
    Span,
    Task,
    fitted,
    moved,
    shortened,
    side_by_side,
)  # fmt: skip

ALTERNATIVES = 8
PANEL_WIDTH = 44  # of the panel beside the text
MIN_WIDTH = 100  # with the panel beside the text
MIN_PASSAGE_ROWS, MIN_PANEL_ROWS = 5, 3
END_MARK, SEPARATOR = " ▸ ", " · "
TOKEN_WIDTH = 14


class TokensView(InsideView[TokenPredictions]):
    """The text in colours of surprise, and the alternatives at the cursor."""

    name = "tokens"
    title = "Tokens"

    def compute(self, task: Task) -> Iterator[TokenPredictions]:
        """Yield the predictions."""
        yield token_predictions(task.subject, ALTERNATIVES)

    def extent(self, result: TokenPredictions, extent: Extent) -> Extent:
        """Return the extent with one more position: what follows the text."""
        return extent._replace(tokens=extent.tokens + 1)

    def lines(self, result: TokenPredictions, frame: Frame) -> Sequence[Line]:
        """Return the legend and the text, with the panel of the cursor beside or below them."""
        width, height = frame.size
        passage, text_width = passage_of(result), width_of_text(width)
        if text_width < width:
            text = [legend(result, text_width), *passage_rows(passage, frame.cursor, text_width, height - 1)]
            return side_by_side(text, panel_lines(result, frame, PANEL_WIDTH, height), width - PANEL_WIDTH)[:height]
        panel = panel_lines(result, frame, width, max(MIN_PANEL_ROWS, height - 2 - MIN_PASSAGE_ROWS))
        text = [legend(result, width), *passage_rows(passage, frame.cursor, width, max(1, height - 2 - len(panel)))]
        return [fitted(line, width) for line in [*text, (), *panel][:height]]

    def moved(self, result: TokenPredictions, frame: Frame, move: Move) -> Cursor:
        """Return the cursor: up and down are lines of the text, or rows of the list while the cursor is in it."""
        cursor = frame.cursor
        if cursor.choice is not None and move in ("up", "down"):
            count = len(result.alternatives(cursor.token))
            return cursor._replace(choice=(cursor.choice + (1 if move == "down" else -1)) % max(1, count))
        if move in ("up", "down"):
            return line_moved(result, cursor, width_of_text(frame.size.width), 1 if move == "down" else -1)
        return moved(cursor._replace(choice=None), frame.extent, move)

    def act(self, result: TokenPredictions, frame: Frame, action: Action) -> Cursor | Continuation | None:
        """Move into the list; in the list, generate from the chosen token, unless it ends the text."""
        cursor = frame.cursor
        if action != "enter" or not result.alternatives(cursor.token):
            return None
        if cursor.choice is None:
            return cursor._replace(choice=0)
        text = result.text_with(cursor.token, cursor.choice)
        return Continuation(text) if text else None


def passage_of(result: TokenPredictions) -> Passage:
    """Return the text in colours of surprise, and a mark for the position after it."""
    levels = [None, *(float(bits) / MAX_BITS for bits in result.bits), None]
    return Passage([*map(passage_text, result.names), END_MARK], levels)


def width_of_text(width: int) -> int:
    """Return the width of the text in an area, which the panel leaves where it is beside the text."""
    return width - PANEL_WIDTH - 2 if width >= MIN_WIDTH else width


def line_moved(result: TokenPredictions, cursor: Cursor, width: int, by: int) -> Cursor:
    """Return the cursor at the token above or below."""
    places = passage_of(result).places(width)
    row, column = places[min(cursor.token, len(places) - 1)]
    found = [(abs(start - column), token) for token, (other, start) in enumerate(places) if other == row + by]
    return cursor._replace(token=min(found)[1], choice=None) if found else cursor


def legend(result: TokenPredictions, width: int) -> Line:
    """Return the mean surprise and what the colours mean."""
    mean = f"{fixed(float(result.bits.mean()), 2)} bits per token" if len(result.bits) else "one token"
    colours = [Span(f" {bits}{'+' if bits == MAX_BITS else ''} ", bits / MAX_BITS) for bits in LEGEND_BITS]
    words = f"{mean}   surprise in bits:"
    if len(words) + 1 + sum(len(span.text) for span in colours) > width:
        words = mean + ":"
    return [Span(words + " ", style="muted"), *colours]


def panel_lines(result: TokenPredictions, frame: Frame, width: int, rows: int) -> list[Line]:
    """Return the numbers at the cursor and the most probable tokens there, in at most `rows` lines."""
    token, tokens = min(frame.cursor.token, len(result.ids)), len(result.ids)
    is_end = token == tokens
    name = "what follows the text" if is_end else printable(result.names[token])
    position = "" if is_end else f"token {integer(token + 1)} of {integer(tokens)}"
    lines: list[Line] = [
        [Span(shortened(name, max(4, width - len(position) - 2)), style="title"), Span(f"  {position}", style="muted")]
    ]
    if token == 0:
        return [*lines, [Span(shortened("the first token: no prediction", width), style="muted")]]
    lines += [[Span(line)] for line in joined(facts(result, token), width)]
    count = len(result.alternatives(token))
    room = max(1, min(count, rows - len(lines)))
    first = max(0, min((frame.cursor.choice or 0) - room + 1, count - room))
    return lines + [alternative_line(result, frame.cursor, token, row, width) for row in range(first, first + room)]


def facts(result: TokenPredictions, token: int) -> list[str]:
    """Return the numbers of a token after the first, or of the position after the text."""
    entropy = float(result.entropy[token - 1])
    found = [f"entropy {fixed(entropy, 2)} bits, as of {integer(round(2.0**entropy))} equal tokens"]
    if token == len(result.ids):
        return found
    bits = float(result.bits[token - 1])
    rank = f"rank {integer(int(result.ranks[token - 1]))} of {integer(result.vocab_size)}"
    return [f"surprise {fixed(bits, 2)} bits", f"p {percent(2.0**-bits)}", rank, *found]


def joined(parts: Sequence[str], width: int) -> list[str]:
    """Return parts in as few lines as they fit into."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(SEPARATOR) + len(part) <= width:
            lines[-1] += SEPARATOR + part
        else:
            lines.append(part)
    return [shortened(line, width) for line in lines]


def alternative_line(result: TokenPredictions, cursor: Cursor, token: int, row: int, width: int) -> Line:
    """Return one of the most probable tokens: its text, probability and a bar."""
    found = result.alternatives(token)[row]
    is_true = token < len(result.ids) and found.id == result.ids[token]
    name = shortened(printable(found.name), TOKEN_WIDTH)
    bar_width = max(4, width - TOKEN_WIDTH - 14)
    cells = max(1, round(found.probability * bar_width)) if found.probability > 0 else 0
    chosen = cursor.choice == row
    at = cursor._replace(choice=row)
    return [
        Span(f"{'▸' if chosen else ' '} {row + 1} ", style="mark" if chosen else "muted", at=at),
        Span(f"{name:<{TOKEN_WIDTH}}", style="cursor" if chosen else "bold" if is_true else "", at=at),
        Span(f"{percent(found.probability):>6} ", at=at),
        Span("█" * cells, style="good" if is_true else "mark", at=at),
        Span(" ✓" if is_true else "", style="good", at=at),
    ]
