"""Views as one HTML page without scripts and without requests to a network."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from gpt_tui.session.inside.view import Cell, Heatmap, Table, View
from gpt_tui.shared.ramp import STEPS, shade

STYLE = """
body { background: #fff; color: #20262e; font: 16px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em;
  padding: 0 1em }
h1 { font-size: 1.4em; overflow-wrap: anywhere } h2 { font-size: 1.2em; margin-top: 2em }
.scroll { overflow-x: auto } table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .1em .6em; text-align: left; white-space: pre } .n { text-align: right }
th { border-bottom: 1px solid #b9b4a4; font-weight: 600 }
td, .text, .legend { font-family: ui-monospace, monospace; font-size: .9em }
.text span { unicode-bidi: isolate; border-right: 1px solid #b9b4a4; padding: .1em 0 }
.text { line-height: 1.8; overflow-wrap: anywhere }
figure { display: inline-block; margin: 0 .6em .6em 0; text-align: center; font-size: .8em }
img { border: 1px solid #b9b4a4; display: block; height: 9em; image-rendering: pixelated; width: 9em }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
WHITE = "#ffffff"
RIGHT_TO_LEFT = re.compile(
    r"[^\s@]*[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff][^\s@]*"
)
"""Token with a letter of a block of Hebrew, Arabic and other scripts from right to left; `@` precedes its position"""


def page(title: str, views: Iterable[View]) -> Iterator[str]:
    """Yield the parts of a page that shows these views."""
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
    )
    for view in views:
        yield f"<section>\n<h2>{escape(view.title)}</h2>\n"
        yield "".join(f"<p>{escape(line)}</p>\n" for line in view.lines)
        if view.legend:
            yield f'<p class="legend">colors: {"".join(map(_span, view.legend))}</p>\n'
        if view.passage:
            yield f'<p class="text">{"".join(map(_span, view.passage))}</p>\n'
        yield "".join(map(_figure, view.heatmaps))
        for table in view.tables:
            yield from _table(table)
        yield "</section>\n"
    yield "</body>\n</html>\n"


def _style(cell: Cell) -> str:
    """Return the attribute that gives an element the color of a level."""
    colors = None if cell.level is None else shade(cell.level, dark=False)
    return "" if colors is None else f' style="background:{colors.background};color:{colors.text}"'


def _text(text: str) -> str:
    """Return text as HTML in which tokens from right to left do not move the numbers beside them."""
    return RIGHT_TO_LEFT.sub(lambda found: f"<bdi>{found[0]}</bdi>", escape(text))


def _span(cell: Cell) -> str:
    return f"<span{_style(cell)}>{_text(cell.text)}</span>"


def _table(table: Table) -> Iterator[str]:
    """Yield the parts of a table."""
    classes = [' class="n"' if column.is_number else "" for column in table.columns]
    names = (f"<th{kind}>{_text(column.name)}</th>" for column, kind in zip(table.columns, classes, strict=True))
    yield f'<div class="scroll"><table>\n<thead><tr>{"".join(names)}</tr></thead>\n<tbody>\n'
    for row in table.rows:
        cells = (f"<td{kind}{_style(cell)}>{_text(cell.text)}</td>" for cell, kind in zip(row, classes, strict=True))
        yield f"<tr>{''.join(cells)}</tr>\n"
    yield "</tbody>\n</table></div>\n"


def _figure(heatmap: Heatmap) -> str:
    name = escape(heatmap.name)
    data = base64.b64encode(png(heatmap.levels)).decode()
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{name}</figcaption></figure>\n'


def png(levels: NDArray[np.float32]) -> bytes:
    """Return an image with a pixel of the ramp's color for each level (rows, columns), as PNG (ISO/IEC 15948)."""
    height, width = levels.shape
    colors = [shade(step / STEPS, dark=False) for step in range(STEPS + 1)]
    palette = b"".join(bytes.fromhex((color.background if color else WHITE)[1:]) for color in colors)
    indices = np.rint(np.nan_to_num(np.clip(levels, 0, 1)) * STEPS).astype(np.uint8)
    rows = np.hstack([np.zeros((height, 1), np.uint8), indices])  # each row begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits per pixel, of a palette
    chunks: Sequence[tuple[bytes, bytes]] = (
        (b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""),
    )  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
