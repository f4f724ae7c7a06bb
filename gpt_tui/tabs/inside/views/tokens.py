"""View Tokens: the surprise of each token, and what the model expected in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpt_tui.run_view.surprise.presenter import legend, line_moved, panel_lines, passage_of
from gpt_tui.session.inside.predictions import TokenPredictions, token_predictions
from gpt_tui.shared.passage import passage_rows
from gpt_tui.shared.spans import Line, fitted, side_by_side
from gpt_tui.tabs.inside.views.view import Action, Continuation, Cursor, Extent, Frame, InsideView, Move, Task, moved

PANEL_WIDTH = 44  # of the panel beside the text
MIN_WIDTH = 100  # with the panel beside the text
MIN_PASSAGE_ROWS, MIN_PANEL_ROWS = 5, 3


class TokensView(InsideView[TokenPredictions]):
    """The text in colors of surprise, and the alternatives at the cursor."""

    name = "tokens"
    title = "Tokens"
    actions = frozenset({"enter"})

    def compute(self, task: Task) -> Iterator[TokenPredictions]:
        """Yield the predictions."""
        yield token_predictions(task.subject)

    def extent(self, result: TokenPredictions, extent: Extent) -> Extent:
        """Return the extent with one more position: what follows the text."""
        return extent._replace(tokens=extent.tokens + 1)

    def lines(self, result: TokenPredictions, frame: Frame) -> Sequence[Line]:
        """Return the legend and the text, with the panel of the cursor beside or below them."""
        width, height = frame.size
        cursor, text_width = frame.cursor, width_of_text(width)
        if text_width < width:
            text = text_lines(result, cursor, text_width, height)
            return side_by_side(text, panel(result, cursor, PANEL_WIDTH, height), width - PANEL_WIDTH)[:height]
        below = panel(result, cursor, width, max(MIN_PANEL_ROWS, height - 2 - MIN_PASSAGE_ROWS))
        text = text_lines(result, cursor, width, max(2, height - 1 - len(below)))
        return [fitted(line, width) for line in [*text, (), *below][:height]]

    def moved(self, result: TokenPredictions, frame: Frame, move: Move) -> Cursor:
        """Return the cursor: up and down are lines of the text, or rows of the list while the cursor is in it."""
        cursor = frame.cursor
        if cursor.choice is not None and move in ("up", "down"):
            count = len(result.alternatives(cursor.token))
            return cursor._replace(choice=(cursor.choice + (1 if move == "down" else -1)) % max(1, count))
        if move in ("up", "down"):
            by = 1 if move == "down" else -1
            token = line_moved(result, cursor.token, width_of_text(frame.size.width), by)
            return cursor._replace(token=token, choice=None)
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


def width_of_text(width: int) -> int:
    """Return the width of the text in an area, which the panel leaves where it is beside the text."""
    return width - PANEL_WIDTH - 2 if width >= MIN_WIDTH else width


def text_lines(result: TokenPredictions, cursor: Cursor, width: int, rows: int) -> list[Line]:
    """Return the legend and the text around the cursor; a click on a token moves the cursor to it."""
    text = passage_rows(
        passage_of(result), cursor.token, width, rows - 1, lambda token: cursor._replace(token=token, choice=None)
    )
    return [legend(result, width), *text]


def panel(result: TokenPredictions, cursor: Cursor, width: int, rows: int) -> list[Line]:
    """Return the alternatives at the cursor; a click chooses one."""
    return panel_lines(result, cursor.token, cursor.choice, width, rows, lambda row: cursor._replace(choice=row))
