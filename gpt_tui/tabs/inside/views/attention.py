"""View Attention: all heads as thumbnails, one enlarged, and the text colored by its attention from the cursor."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core import interpret
from gpt_tui.shared.formatting import integer, percent
from gpt_tui.shared.passage import Passage, passage_rows
from gpt_tui.shared.sanitize import printable
from gpt_tui.shared.spans import Line, Span, SpanStyle, fitted, shortened, side_by_side, width_of
from gpt_tui.tabs.inside.views.pixels import pixel_rows, pooled
from gpt_tui.tabs.inside.views.view import Cursor, Frame, InsideView, Size, Task, at_layer

MIN_THUMBNAIL, LABEL_WIDTH, GAP = 4, 4, 2
TEXT_SHARE = 0.25  # of the height, at most
CELLS_PER_TOKEN = 6  # of the text, about
TARGETS, MIN_SHARE = 5, 0.001  # tokens with the most attention that are named
LEGEND = (0.01, 0.1, 0.5, 1.0)


@dataclass(frozen=True)
class AttentionResult:
    """Attention of all heads.

    Attributes:
        names: The tokens.
        texts: The tokens for reading.
        probabilities: Attention by layer, head, token from and token to (L, H, T, T).
        thumbnails: Pictures of all heads (L, H, n, n), levels from 0 to 1.
    """

    names: Sequence[str]
    texts: tuple[str, ...]
    probabilities: NDArray[np.float16]
    thumbnails: NDArray[np.float32]


class Layout(NamedTuple):
    """Sizes of the parts.

    Attributes:
        rows: Height of the pictures.
        text_rows: Height of the text.
        side: Pixels of a thumbnail, horizontally and vertically.
        layers: Rows of thumbnails that fit.
        heads: Columns of thumbnails that fit.
        has_gaps: Rows of thumbnails have an empty line between them.
    """

    rows: int
    text_rows: int
    side: int
    layers: int
    heads: int
    has_gaps: bool

    @property
    def width(self) -> int:
        """Width of all thumbnails."""
        return LABEL_WIDTH + self.heads * (self.side + 1)


class AttentionView(InsideView[AttentionResult]):
    """Thumbnails, an enlarged head, and the text."""

    name = "attention"
    title = "Attention"
    actions = frozenset({"remove"})

    def needs(self, cursor: Cursor, size: Size) -> Hashable:
        """Return the size, which the thumbnails are made for."""
        return size

    def compute(self, task: Task) -> Iterator[AttentionResult]:
        """Yield the attention of all heads."""
        subject, shape = task.subject, task.subject.gpt.shape
        side = layout_of(task.size, shape.layers, shape.num_heads, len(subject.ids)).side
        subject.gpt.forward(subject.batch)
        probabilities, thumbnails = [], []
        for layer in range(shape.layers):
            subject.progress("attention", layer / shape.layers)
            found = interpret.attention(subject.gpt, layers=[layer])[0, 0]  # (H, T, T)
            probabilities.append(found.astype(np.float16))
            thumbnails.append(np.stack([np.sqrt(pooled(head, side)) for head in found]))
        yield AttentionResult(subject.texts(), subject.shown_texts(), np.stack(probabilities), np.stack(thumbnails))

    def lines(self, result: AttentionResult, frame: Frame) -> Sequence[Line]:
        """Return the pictures above the numbers and the text."""
        cursor, (width, height) = frame.cursor, frame.size
        layers, heads, tokens, _ = result.probabilities.shape
        layout = layout_of(frame.size, layers, heads, tokens)
        layout = layout._replace(side=result.thumbnails.shape[-1])
        pictures = side_by_side(
            thumbnails(result, cursor, layout), enlarged(result, cursor, layout, width), layout.width + GAP
        )
        share = result.probabilities[cursor.layer, cursor.head, cursor.token].astype(np.float32)
        levels: list[float | None] = [
            float(level) if to <= cursor.token else None for to, level in enumerate(np.sqrt(share))
        ]
        text = passage_rows(
            Passage(result.texts, levels), cursor.token, width, layout.text_rows,
            lambda token: cursor._replace(token=token, choice=None),
        )  # fmt: skip
        lines: list[Line] = [*pictures, numbers(result, cursor, share, width), *text]
        return [fitted(line, width) for line in lines[:height]]


def layout_of(size: Size, layers: int, heads: int, tokens: int) -> Layout:
    """Return the layout of an area: thumbnails as large as possible in its left half, fewer where they do not fit."""
    text_rows = max(2, min(int(size.height * TEXT_SHARE), tokens * CELLS_PER_TOKEN // size.width + 1))
    rows = max(2, size.height - text_rows - 1)
    room = max(MIN_THUMBNAIL + LABEL_WIDTH + 1, size.width // 2)
    across = (room - LABEL_WIDTH) // heads - 1
    with_gaps, without = 2 * (rows // layers - 1), 2 * ((rows - 1) // layers)
    has_gaps = with_gaps > MIN_THUMBNAIL
    side = max(MIN_THUMBNAIL, min(across, with_gaps if has_gaps else without, tokens)) // 2 * 2
    return Layout(
        rows, text_rows, side, max(1, min(layers, (rows - 1) // (side // 2 + has_gaps))),
        max(1, min(heads, (room - LABEL_WIDTH) // (side + 1))), has_gaps,
    )  # fmt: skip


def window(at: int, shown: int, count: int) -> range:
    """Return `shown` of `count` indices around one."""
    first = max(0, min(at - shown // 2, count - shown))
    return range(first, first + shown)


def thumbnails(result: AttentionResult, cursor: Cursor, layout: Layout) -> list[Line]:
    """Return a row of pictures per layer, a column per head; a click selects a head."""
    layers, heads = result.thumbnails.shape[:2]
    columns = window(cursor.head, layout.heads, heads)
    lines: list[Line] = [[
        Span(" " * LABEL_WIDTH),
        *(Span(f"H{head:<{layout.side}}", style="title" if head == cursor.head else "muted") for head in columns),
    ]]  # fmt: skip
    for layer in window(cursor.layer, layout.layers, layers):
        pictures = []
        for head in columns:
            target = at_layer(cursor, layer)._replace(head=head)
            picture = result.thumbnails[layer, head]
            pictures.append(pixel_rows(picture, [target] * (len(picture) // 2 + 1)))
        for row in range(len(pictures[0])):
            label = f"L{layer}" if row == 0 else ""
            style: SpanStyle = "title" if layer == cursor.layer else "muted"
            spans = [Span(f"{label:<{LABEL_WIDTH - 1}}", style=style)]
            for head, picture_rows in zip(columns, pictures, strict=True):
                here = (layer, head) == (cursor.layer, cursor.head)
                spans += [Span("▌" if here else " ", style="mark"), *picture_rows[row]]
            lines.append(spans)
        if layout.has_gaps:
            lines.append(())
    return lines[: layout.rows]


def enlarged(result: AttentionResult, cursor: Cursor, layout: Layout, width: int) -> list[Line]:
    """Return the picture of the chosen head, with a mark at the row of the token; a click selects a token."""
    matrix = result.probabilities[cursor.layer, cursor.head]
    side = max(2, min(2 * (layout.rows - 1), width - layout.width - GAP - 2))
    picture = np.sqrt(pooled(matrix, side))
    count, tokens = len(picture), len(matrix)
    marked = ((cursor.token + 1) * count - 1) // tokens // 2  # `pooled` begins pixels at rounded down tokens
    targets = [cursor._replace(token=min(tokens - 1, 2 * row * tokens // count)) for row in range(count // 2 + 1)]
    title = f"L{cursor.layer} H{cursor.head}, row: from, column: to"
    rows = pixel_rows(picture, targets)
    return [
        [Span(shortened(title, width - layout.width - GAP), style="title")],
        *([Span("▸ " if row == marked else "  ", style="mark"), *spans] for row, spans in enumerate(rows)),
    ]


def numbers(result: AttentionResult, cursor: Cursor, share: NDArray[np.float32], width: int) -> Line:
    """Return where the attention of the token goes, as far as there is room for, and what the colors mean."""
    colors = [Span(f" {level:.0%} ", level**0.5) for level in LEGEND]
    room = max(1, width - sum(len(span.text) for span in colors) - 1)
    name = f"position {integer(cursor.token)} {printable(result.names[cursor.token])} →"
    spans = [Span(shortened(name, room // 2), style="title")]
    for to in np.argsort(-share[: cursor.token + 1], kind="stable")[:TARGETS]:
        target = Span(f" {printable(result.names[to])}@{integer(to)} {percent(float(share[to]))} ")
        if share[to] < MIN_SHARE or width_of([*spans, target]) > room:
            break
        spans.append(target)
    return [*fitted(spans, room), Span(" "), *colors]
