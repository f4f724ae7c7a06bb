"""Layout of a scored text and of the alternatives to its tokens. Does not import Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len

from gpt_tui.run_view.surprise.scoring import Alternative, ScoredText, ScoredToken
from gpt_tui.shared.formatting import fixed, integer, percent
from gpt_tui.shared.ramp import MAX_BITS
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.wrapping import line_spans

LINE_END = "↵"
NAME_CELLS = 14  # of an alternative
BAR_CELLS = 20
CHOSEN, OTHER, ACTUAL = "▸", " ", "•"


class Piece(NamedTuple):
    """Part of a token on one line."""

    token: int
    text: str


class Layout(NamedTuple):
    """Lines of a scored text.

    Attributes:
        lines: Pieces of each line.
        line_of: Line of the first piece of each token.
    """

    lines: tuple[tuple[Piece, ...], ...] = ()
    line_of: tuple[int, ...] = ()


def layout(tokens: Sequence[ScoredToken], width: int) -> Layout:
    """Wrap tokens into lines of at most `width` cells. Line feeds are visible; spaces at a break stay on their line."""
    texts = [token.text.replace("\n", f"{LINE_END}\n") for token in tokens]
    joined, owners = "".join(texts), [number for number, text in enumerate(texts) for _ in text]
    lines: list[tuple[Piece, ...]] = []
    line_of = [0] * len(texts)
    seen = -1
    for start, stop in line_spans(joined, max(2, width - 1)):
        stop += joined[stop : stop + 1] == " "
        line: list[Piece] = []
        for place in range(start, stop):
            if line and line[-1].token == owners[place]:
                line[-1] = Piece(owners[place], line[-1].text + joined[place])
            else:
                line.append(Piece(owners[place], joined[place]))
        for piece in line:
            if piece.token > seen:
                line_of[piece.token] = len(lines)
                seen = piece.token
        lines.append(tuple(line))
    return Layout(tuple(lines), tuple(line_of))


def column_of(line: Sequence[Piece], token: int) -> int:
    """Return the first column of a token on a line; 0 if it is not on it."""
    column = 0
    for piece in line:
        if piece.token == token:
            return column
        column += cell_len(piece.text)
    return 0


def token_at(line: Sequence[Piece], column: int) -> int | None:
    """Return the token at a column of a line, the last one for a column after its end; None for an empty line."""
    for piece in line:
        column -= cell_len(piece.text)
        if column < 0:
            return piece.token
    return line[-1].token if line else None


def moved_by_lines(found: Layout, token: int, lines: int) -> int:
    """Return the token that is `lines` below another one, at about its column."""
    start = found.line_of[token]
    column = column_of(found.lines[start], token)
    step = 1 if lines > 0 else -1
    line = min(max(0, start + lines), len(found.lines) - 1)
    while 0 <= line < len(found.lines):
        if (reached := token_at(found.lines[line], column)) is not None:
            return reached
        line += step
    return token


def level(token: ScoredToken) -> float:
    """Return the level of a token's colour, 0 to 1."""
    return 0.0 if token.bits is None else min(token.bits / MAX_BITS, 1.0)


def bits_text(token: ScoredToken) -> str:
    """Return the surprise of a token in bits; `–` for a token without one."""
    return "–" if token.bits is None else fixed(token.bits, 2)


def token_line(text: ScoredText, token: int) -> str:
    """Return the numbers of a token: `␣the  3.21 bits · 10.8% · rank 3 of 2,048`."""
    found = text.tokens[token]
    if found.probability is None:
        return f"{found.name}  first token: nothing precedes it"
    return (
        f"{found.name}  {bits_text(found)} bits · {percent(found.probability)} · "
        f"rank {integer(found.rank)} of {integer(text.vocabulary)}"
    )


class AlternativeLine(NamedTuple):
    """Line of an alternative: mark, name, probability, bar."""

    mark: str
    name: str
    probability: str
    bar: str

    @property
    def text(self) -> str:
        """The line as text."""
        return f"{self.mark} {self.name} {self.probability} {self.bar}"


def alternative_lines(token: ScoredToken, chosen: int, width: int) -> list[AlternativeLine]:
    """Return the lines of the alternatives to a token; a mark shows the chosen one, another one the token itself."""
    room = max(0, min(BAR_CELLS, width - NAME_CELLS - 12))
    return [
        AlternativeLine(
            (CHOSEN if number == chosen else OTHER) + (ACTUAL if number + 1 == token.rank else OTHER),
            fitted(alternative, NAME_CELLS),
            percent(alternative.probability).rjust(6),
            "█" * round(room * alternative.probability) if alternative.probability > 0 else "",
        )
        for number, alternative in enumerate(token.alternatives)
    ]


def fitted(alternative: Alternative, width: int) -> str:
    """Return the name of an alternative, cut or filled to `width` cells."""
    name = one_line(alternative.name)
    while cell_len(name) > width:
        name = f"{name[:-2]}…"
    return name + " " * (width - cell_len(name))


def source_note(written_by: str, scored_by: str, skipped: int) -> str:
    """Return which model scored a text, and how many tokens at its start are left out."""
    if not scored_by:
        return ""
    note = f"scored by {scored_by}" + (f" (written by {written_by})" if written_by not in ("", scored_by) else "")
    return note + (f"; the first {integer(skipped)} tokens are not shown" if skipped else "")
