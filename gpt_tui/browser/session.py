"""The app and the page that shows it: one app at a time, one page at a time.

The app keeps running without a page. A reloaded page, or another tab, connects to the running app, and the page that
showed it before displays a notice. Once the app has ended, another one starts on request only.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

from textual_serve.download_manager import DownloadManager

from gpt_core.errors import EXIT_FAILED, EXIT_HANGUP, EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED
from gpt_tui.browser.app_process import AppProcess
from gpt_tui.browser.connection import PageConnection
from gpt_tui.shared.sanitize import printable

TITLE = "gpt-tui"
MIN_CELLS, MAX_CELLS = 2, 2000
MAX_SHOWN = 4000  # characters of an error on the page
MAX_TYPED = 1000  # characters of one message outside a paste
PASTE_START, PASTE_END = "\x1b[200~", "\x1b[201~"
REQUESTED_EXITS = (EXIT_OK, EXIT_HANGUP, EXIT_INTERRUPTED, EXIT_TERMINATED)


class Size(NamedTuple):
    """Columns and rows of the page."""

    columns: int = 80
    rows: int = 24

    @classmethod
    def of(cls, columns: object, rows: object) -> Size | None:
        """Return the size that a page asks for, None if it is not one."""
        try:
            numbers = [min(max(int(str(number)), MIN_CELLS), MAX_CELLS) for number in (columns, rows)]
        except ValueError:
            return None
        return cls(*numbers)


class AppSession:
    """Starts the app for the first page and connects later pages to it.

    Args:
        arguments: Command line of the first app.
        later_arguments: Command line of each app after it.
        downloads: Files that the app offers for download.
    """

    def __init__(self, arguments: Sequence[str], later_arguments: Sequence[str], downloads: DownloadManager) -> None:
        self._arguments = arguments
        self._later_arguments = later_arguments
        self._downloads = downloads
        self._page: PageConnection | None = None
        self._size = Size()
        self._title = TITLE
        self._app: AppProcess | None = None
        self._app_task: asyncio.Task[None] | None = None
        self._end_text: str | None = None  # of the app that ended
        self._stopping = False
        self._join_lock = asyncio.Lock()
        self.exit_code = EXIT_OK
        """EXIT_FAILED if the last app failed."""

    @property
    def running(self) -> bool:
        """True while there is an app process."""
        return self._app is not None

    async def join(self, page: PageConnection, size: Size) -> None:
        """Show the app on this page; start it if there has been none."""
        async with self._join_lock:
            if self._page is not None:
                self._page.end("elsewhere")
            self._page, self._size = page, size
            if self._end_text is not None:
                page.end("ended", self._end_text)
            elif self._app is None:
                await self._start()
                page.begin_painting()
            else:
                page.send_message("title", self._title)
                await self._app.repaint(*size)

    def leave(self, page: PageConnection) -> None:
        """Keep the app running without this page."""
        if self._page is page:
            self._page = None

    def allow_restart(self) -> None:
        """Let the next page start another app, if the last one has ended."""
        self._end_text = None

    async def receive(self, page: PageConnection, message: str) -> None:
        """Handle a message of a page. What is not well formed, or comes from an earlier page, is ignored."""
        app = self._app
        try:
            content = json.loads(message)
        except (ValueError, RecursionError):
            return
        if app is None or page is not self._page:
            return
        match content:
            case ["stdin", str(text)]:
                await app.send_bytes(bounded_input(text).encode("utf-8", "replace"))
            case ["resize", {"width": columns, "height": rows}]:
                self._size = Size.of(columns, rows) or self._size
                await app.set_terminal_size(*self._size)
            case ["focus"]:
                await app.focus()
            case ["blur"]:
                await app.blur()
            case ["hidden"]:
                page.pause_painting()
            case ["visible"]:
                await self.repaint()

    async def repaint(self) -> None:
        """Let the app draw everything on the page."""
        if self._app is not None:
            await self._app.repaint(*self._size)

    async def stop(self, code: int, *, again: bool = False) -> None:
        """Let the app save its run and end, or `again` end it at once, after any save in progress.

        After SIGINT the app may ask what to do with a run that cannot be saved, if there is a page to ask on.
        """
        self._stopping = True
        if self._app is not None:
            await self._app.request_stop(code if self._page is not None else EXIT_TERMINATED, again=again)

    async def wait(self) -> None:
        """Wait until the app has ended."""
        if self._app_task is not None:
            await self._app_task

    def close(self) -> None:
        """Send the page the notice that the server has stopped."""
        if self._page is not None:
            self._page.end("stopped", self._end_text or "")

    async def _start(self) -> None:
        app = AppProcess(
            self._arguments, self._downloads, write_output=self._write_output, write_message=self._write_message,
            set_title=self._set_title, repaint_begins=self._repaint_begins,
        )  # fmt: skip
        await app.start(*self._size)
        self._app, self._arguments = app, self._later_arguments
        self._app_task = asyncio.create_task(self._run(app))

    async def _run(self, app: AppProcess) -> None:
        """Relay the output of the app until it ends, then show its last message."""
        await app.run()
        self.exit_code = EXIT_OK if app.exit_code in REQUESTED_EXITS else EXIT_FAILED
        self._app, self._title = None, TITLE
        self._end_text = printable(app.exit_message)[-MAX_SHOWN:]
        if app.exit_message:
            print(printable(app.exit_message), file=sys.stderr, flush=True)
        if self._page is not None:
            self._page.end("stopped" if self._stopping else "ended", self._end_text)

    async def _write_output(self, data: bytes) -> None:
        if self._page is not None:
            self._page.send_output(data)

    async def _write_message(self, message: str) -> None:
        if self._page is not None:
            self._page.send_json(message)

    def _set_title(self, title: str) -> None:
        self._title = title
        if self._page is not None:
            self._page.send_message("title", title)

    def _repaint_begins(self) -> None:
        if self._page is not None:
            self._page.begin_painting()


def bounded_input(text: str) -> str:
    """Return the input of a page, with at most MAX_TYPED characters outside pastes.

    The app draws after each key, so the keys of a large message would keep it busy for minutes.
    """
    kept, typed, position = [], 0, 0
    while position < len(text):
        start = text.find(PASTE_START, position)
        end = text.find(PASTE_END, start) + len(PASTE_END) if start >= 0 else -1
        if end < len(PASTE_END):  # no further paste
            start = end = len(text)
        kept += [text[position:start][: MAX_TYPED - typed], text[start:end]]
        typed += len(kept[-2])
        position = end
    return "".join(kept)
