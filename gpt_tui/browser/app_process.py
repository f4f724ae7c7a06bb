"""The app in a process of its own, which draws for a page through pipes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence

from textual_serve.app_service import AppService
from textual_serve.download_manager import DownloadManager

DRIVER = "gpt_tui.app.page_driver:PageDriver"
CONFIRM_S = 5.0  # for the app to confirm that it ends at once
READY = b"__GANGLION__\n"  # printed by the driver before its first packet


class AppProcess(AppService):
    """Runs the app and passes on its output; the protocol is that of textual-serve.

    The process has its own session, so a Ctrl+C in the server's terminal reaches the server only.

    Args:
        arguments: Command line of the app.
        downloads: Files that the app offers for download.
        write_output: Receives what the app draws.
        write_message: Receives messages for the page, as JSON.
        set_title: Receives the title of the page.
        repaint_begins: Called before the app draws everything again.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        downloads: DownloadManager,
        *,
        write_output: Callable[[bytes], Awaitable[None]],
        write_message: Callable[[str], Awaitable[None]],
        set_title: Callable[[str], None],
        repaint_begins: Callable[[], None],
    ) -> None:
        super().__init__(
            arguments[0], write_bytes=write_output, write_str=write_message, close=ignore, download_manager=downloads
        )
        self._arguments = arguments
        self._set_title = set_title
        self._repaint_begins = repaint_begins
        self._ending = asyncio.Event()
        self._is_killed = False
        self.exit_code: int | None = None
        self.exit_message = ""
        """Output of the app on standard error, and how it was killed if it was"""

    async def start(self, width: int, height: int) -> None:
        """Start the process. `run` relays its output."""
        environment = self._build_environment(width, height) | {"TEXTUAL_DRIVER": DRIVER}
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
        )
        self._stdin = self._process.stdin

    async def run(self) -> None:
        """Relay the output of the app until it ends."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.create_task(process.stderr.read())
        try:
            await process.stdout.readuntil(READY)
            while True:
                await self._relay_packet(process.stdout)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):  # ended, or is not the app
            pass
        await self._download_manager.cancel_app_downloads(self.app_service_id)
        self.exit_message = (await errors).decode("utf-8", "replace").strip()
        self.exit_code = await process.wait()
        if self._is_killed:
            self.exit_message = "gpt-tui did not respond and was ended without a save"
        elif self.exit_code < 0:
            killed = f"gpt-tui was killed (signal {-self.exit_code}); the steps since the last save are lost"
            self.exit_message = "\n".join(filter(None, [self.exit_message, killed]))

    async def repaint(self, width: int, height: int) -> None:
        """Let the app draw everything, at this size."""
        await self.send_meta({"type": "repaint", "width": width, "height": height})

    async def request_stop(self, code: int, *, again: bool = False) -> None:
        """Let the app save its run and end with an exit code, or `again` end it at once, after any save in progress.

        An app that does not confirm the second request within CONFIRM_S is killed.
        """
        try:
            async with asyncio.timeout(CONFIRM_S if again else None):
                await self.send_meta({"type": "stop", "code": code, "again": again})
                if again:
                    await self._ending.wait()
        except TimeoutError:
            if self._process is not None and self._process.returncode is None:
                self._is_killed = True
                self._process.kill()

    async def on_meta(self, data: bytes) -> None:
        """Handle a control packet of the app."""
        meta = json.loads(data)
        if meta["type"] == "title":
            self._set_title(meta["title"])
        elif meta["type"] == "repaint":
            self._repaint_begins()
        elif meta["type"] == "ending":
            self._ending.set()
        elif meta["type"] != "exit":  # the process may still save; its end closes the pipe
            await super().on_meta(data)

    async def _relay_packet(self, stream: asyncio.StreamReader) -> None:
        """Read one packet: its type, the size of the payload, the payload."""
        header = await stream.readexactly(5)
        payload = await stream.readexactly(int.from_bytes(header[1:], "big"))
        handlers = {b"D": self.on_data, b"M": self.on_meta, b"P": self.on_packed}
        await handlers[header[:1]](payload)


async def ignore() -> None:
    """Do nothing."""
