"""Driver for the app in a browser page: its process runs without a page, too, and saves its run if the server ends.

Besides the packets of Textual's web driver it understands "repaint" and "stop", and sends "repaint", "title"
and "ending".
"""

from __future__ import annotations

import os
import time
from threading import Lock, Thread
from typing import TYPE_CHECKING, cast

from textual import events
from textual.app import App
from textual.drivers.web_driver import WebDriver

from gpt_tui.headless.signals import leave_now

if TYPE_CHECKING:
    from gpt_tui.app.app import GptApp


BUSY_S = 3.0  # for the event loop to end the app


class PageDriver(WebDriver):
    """Textual's web driver with repaints for a new page, an orderly stop, and a check for a lost server."""

    def __init__(
        self, app: App[object], *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self._write = self._write_packet  # type: ignore[assignment]
        self._lock = Lock()  # the input thread writes, too, when a file is downloaded
        self._is_lost = False

    def is_lost(self) -> bool:
        """Return True if the server has exited, which ends input."""
        return self._is_lost

    def show_title(self, title: str) -> None:
        """Set the title of the page."""
        self.write_meta({"type": "title", "title": title})

    def on_meta(self, packet_type: str, payload: dict[str, object]) -> None:
        """Handle a control packet of the server. Called in the input thread."""
        if packet_type == "repaint":
            super().on_meta("resize", payload)
            self._app.call_later(self._repaint)
        elif packet_type == "focus":  # a page takes the focus before the app starts, and Textual starts with a blur
            self._app.call_later(self._app.call_later, self._app.post_message, events.AppFocus())
        elif packet_type == "stop":
            code = cast(int, payload["code"])
            if payload["again"]:
                self.write_meta({"type": "ending"})
                Thread(target=self._end_at_once, args=(code,), name="forced exit", daemon=True).start()
            self._app.call_later(cast("GptApp", self._app).quit, code)
        else:
            super().on_meta(packet_type, payload)

    def run_input_thread(self) -> None:
        """Dispatch input until the app ends or the server closes the pipe."""
        super().run_input_thread()
        if not self.exit_event.is_set():
            self._is_lost = True

    def _end_at_once(self, code: int) -> None:
        """End the process after any save in progress, if the event loop is too busy to do so."""
        time.sleep(BUSY_S)
        controller = cast("GptApp", self._app).controller
        controller.stop(save=False)
        controller.wait_for_save()
        leave_now(code)

    def _repaint(self) -> None:
        """Draw everything for a page that shows nothing yet."""
        self.write_meta({"type": "repaint"})
        self.write("\x1b[?2026l\x1b[?1049h\x1b[?25l")  # no frame in progress, alternate screen, no cursor
        self._enable_mouse_support()
        self._enable_bracketed_paste()
        self._app.refresh(layout=True)

    def _write_packet(self, packet: bytes) -> int:
        """Write all of a packet, or discard it if the server has exited."""
        rest = memoryview(packet)
        with self._lock:
            while rest and not self._is_lost:
                try:
                    rest = rest[os.write(self.fileno, rest) :]
                except OSError:
                    self._is_lost = True
        return len(packet)
