"""A progress line on standard error, shown on terminals only."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from gpt_tui.shared.formatting import bar, percent
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.standard_streams import can_redraw

REDRAW_S = 0.1
TO_LINE_START, CLEAR_TO_LINE_END = "\r", "\x1b[K"


class ProgressLine:
    """Progress callback that draws one line; the line is cleared when the context ends."""

    def __init__(self) -> None:
        self._stream = sys.stderr if can_redraw(sys.stderr) else None
        self._drawn_s = 0.0

    @property
    def is_shown(self) -> bool:
        """True if standard error is a terminal that can redraw a line."""
        return self._stream is not None

    def __call__(self, stage: str, share: float) -> None:
        """Redraw the line, at most a few times per second."""
        now = time.monotonic()
        if self._stream is not None and now - self._drawn_s >= REDRAW_S:
            self._drawn_s = now
            self._draw(f"{one_line(stage, 40)} {bar(share, 20)} {percent(share)}")

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None and self._drawn_s:
            self._draw("")

    def _draw(self, text: str) -> None:
        print(TO_LINE_START + text + CLEAR_TO_LINE_END, end="", file=self._stream, flush=True)
