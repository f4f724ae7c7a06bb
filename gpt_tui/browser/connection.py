"""Connection to a page: output is queued, and dropped where the page cannot show it in time."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable

from aiohttp import web

MAX_PENDING_BYTES = 1 << 20  # more output is dropped, unless it is one packet


class PageConnection:
    """Sends output of the app and messages to one page.

    The page shows the app from a repaint on. Where it is hidden, or too slow for the output, the output is dropped, and
    another repaint is requested once the page can show it.

    Args:
        websocket: Connection to the page.
        request_repaint: Lets the app draw everything.
    """

    def __init__(self, websocket: web.WebSocketResponse, request_repaint: Callable[[], Awaitable[None]]) -> None:
        self._websocket = websocket
        self._request_repaint = request_repaint
        self._queue: deque[bytes | str] = deque()
        self._pending_bytes = 0
        self._wake = asyncio.Event()
        self._is_painting = False
        self._is_behind = False
        self._is_over = False

    def begin_painting(self) -> None:
        """Send output from here on: the app is about to draw everything."""
        self._is_painting = not self._is_over

    def pause_painting(self) -> None:
        """Drop output until the next repaint."""
        self._is_painting = False

    def send_output(self, data: bytes) -> None:
        """Send output of the app, or drop it while nothing is painted."""
        if not self._is_painting:
            return
        if self._pending_bytes and self._pending_bytes + len(data) > MAX_PENDING_BYTES:
            self._drop_output()
            self._is_behind = True
            return
        self._pending_bytes += len(data)
        self._queue.append(data)
        self._wake.set()

    def send_message(self, *message: object) -> None:
        """Send a message to the page's script: a name, and a value."""
        self.send_json(json.dumps(message))

    def send_json(self, message: str) -> None:
        """Send a message that is JSON already."""
        if not self._is_over:
            self._queue.append(message)
            self._wake.set()

    def end(self, reason: str, text: str = "") -> None:
        """Send the page the reason why it no longer shows the app, and close the connection."""
        self._drop_output()
        self.send_message("over", {"reason": reason, "text": text})
        self._is_over = True

    async def write(self) -> None:
        """Write what is queued, until the connection ends."""
        try:
            while not (self._is_over and not self._queue):
                await self._wake.wait()
                self._wake.clear()
                await self._write_queue()
        except (ConnectionError, RuntimeError):
            return  # closed by the page
        await self._websocket.close()

    async def _write_queue(self) -> None:
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, str):
                await self._websocket.send_str(item)
            else:
                self._pending_bytes -= len(item)
                await self._websocket.send_bytes(item)
        if self._is_behind:
            self._is_behind = False
            await self._request_repaint()

    def _drop_output(self) -> None:
        self._is_painting = False
        self._queue = deque(item for item in self._queue if isinstance(item, str))
        self._pending_bytes = 0
