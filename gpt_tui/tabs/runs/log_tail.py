"""A file of lines that grows, may be cut and may be replaced, read a piece at a time, whatever the lines say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from gpt_core import files
from gpt_core.training.metrics_log import MAX_LINE_BYTES

PIECE_BYTES = 1 << 17
_LAST_BYTES = 64  # of what was read, by which a file that was replaced is known again


class Piece(NamedTuple):
    """What a read brought: whole lines only. `anew`: these are the file's first ones, forget what was read before.

    `at_end`: nothing is left but, at most, a line that is still being written.
    """

    lines: bytes
    anew: bool
    at_end: bool


class LogTail:
    """Remembers how far it has read. A torn last line waits for its end; a line beyond every bound is passed over.

    `size` (bytes) and `written_at` (seconds since 1970) are the file's at the last read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.written_at = 0.0
        self._identity = (0, 0)
        self._offset = 0
        self._last = b""

    def read(self, most_bytes: int = PIECE_BYTES) -> Piece:
        """The next piece, of about `most_bytes` at most. Raises OSError where the file cannot be read."""
        with files.open_regular(self.path) as file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino)
            self.size, self.written_at = status.st_size, status.st_mtime
            file.seek(max(0, self._offset - len(self._last)))
            same = identity == self._identity and file.read(len(self._last)) == self._last
            anew = not same or self.size < self._offset
            if anew:
                self._identity, self._offset, self._last = identity, 0, b""
            file.seek(self._offset)
            block = file.read(most_bytes)
            if b"\n" not in block and len(block) == most_bytes:
                block += file.read(MAX_LINE_BYTES)
        lines = block[: block.rfind(b"\n") + 1]
        passed = len(lines) if lines or len(block) < MAX_LINE_BYTES else len(block)
        self._offset += passed
        self._last = (self._last + block[:passed])[-_LAST_BYTES:]
        return Piece(lines, anew, self._offset + len(block) - passed >= self.size)

    def last_lines(self, most_bytes: int) -> bytes:
        """The whole lines in the last `most_bytes` of the file, which are not counted as read. Raises OSError."""
        with files.open_regular(self.path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
            block = file.read(most_bytes)
        return block[block.find(b"\n") + 1 : block.rfind(b"\n") + 1]
