"""Helpers of the tests of `gpt-tui serve`: the server, a page that speaks the protocol, and a stand-in for the app."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp

from gpt_core.errors import EXIT_INTERRUPTED
from gpt_tui.browser.server import PageServer
from gpt_tui.browser.session import AppSession
from tests.program import TIMEOUT_S, start_program, tiny, write_texts

HOST = "127.0.0.1"
FAKE_APP = """
import json, os, sys, time

def send(kind, payload):
    os.write(1, kind + len(payload).to_bytes(4, "big") + payload)

def meta(**values):
    send(b"M", json.dumps(values).encode())

os.write(1, b"__GANGLION__\\n")
send(b"D", " ".join(["started", *sys.argv[1:], "\\n"]).encode())
send(b"D", b"\\x1b[?1000h\\x1b[?1006h")  # reports of the mouse
send(b"D", f"drawn {os.environ['COLUMNS']}x{os.environ['ROWS']}\\n".encode())
typed = 0
chunks = ["<svg>", "</svg>", ""]
meta(type="title", title="step 0")
while header := sys.stdin.buffer.read(5):
    payload = sys.stdin.buffer.read(int.from_bytes(header[1:], "big"))
    if header[:1] == b"D":
        typed += 1
        if payload == b"q":
            print("saved at step 7", file=sys.stderr)
            sys.exit(0)
        if payload == b"d":
            meta(type="deliver_file_start", key="k1", path="/x/Mein Läufe.svg", open_method="browser",
                 mime_type="image/svg+xml", encoding="utf-8", name="chart")
            continue
        if payload == b"h":
            send(b"D", b"hangs\\n")
            time.sleep(10**6)
        if payload == b"k":
            print("short of memory", file=sys.stderr, flush=True)
            os.kill(os.getpid(), 9)
        if payload == b"!":
            sys.exit("it failed: " + "x" * 9)
        meta(type="title", title=f"step {typed}")
        send(b"D", b"typed " + payload + b"\\n")
        continue
    values = json.loads(payload)
    if values["type"] == "repaint":
        meta(type="repaint")
        send(b"D", f"drawn again {values['width']}x{values['height']}\\n".encode())
    elif values["type"] == "deliver_chunk_request":
        from textual._binary_encode import dump

        send(b"P", dump(("deliver_chunk", "k1", chunks.pop(0))))
    elif values["type"] == "stop":
        print("stopped", values["code"], file=sys.stderr)
        sys.exit(values["code"])
    else:
        send(b"D", f"{json.dumps(values)}\\n".encode())
"""


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class BrowserPage:
    """A page without a browser: what the app has drawn, and the messages of the server."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self.websocket = websocket
        self.output = ""
        self.titles: list[str] = []
        self.over: dict[str, str] = {}
        self.download = ""

    @classmethod
    async def open(cls, session: aiohttp.ClientSession, url: str, width: int = 100, height: int = 30) -> BrowserPage:
        """Connect as the page does that has the address `url`."""
        query = f"width={width}&height={height}&{urlsplit(url).query}"
        return cls(await session.ws_connect(urljoin(url, f"/ws?{query}"), origin=urljoin(url, "/").rstrip("/")))

    async def send(self, *message: object) -> None:
        """Send a message as the page's script does."""
        await self.websocket.send_str(json.dumps(message))

    async def type(self, text: str) -> None:
        """Type `text`; earlier output is discarded."""
        self.output = ""
        await self.send("stdin", text)

    async def read_until(self, text: str) -> None:
        """Receive until the app has drawn `text`."""
        await self.receive_until(lambda: text in self.output, text)

    async def receive_until(self, is_met: Callable[[], bool], expected: str) -> None:
        """Receive until a condition is met, which a failure calls `expected`."""
        async with asyncio.timeout(TIMEOUT_S):
            while not is_met():
                assert await self._receive(), (expected, self.output[-2000:], self.titles, self.over)

    async def read_to_the_end(self) -> dict[str, str]:
        """Receive until the server closes the connection, and return why."""
        async with asyncio.timeout(TIMEOUT_S):
            while await self._receive():
                pass
        return self.over

    async def _receive(self) -> bool:
        message = await self.websocket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            self.output += message.data.decode("utf-8", "replace")
        elif message.type is aiohttp.WSMsgType.TEXT:
            name, value = json.loads(message.data)
            if name == "title":
                self.titles.append(value)
            elif name == "deliver_file_start":
                self.download = value
            elif name == "over":
                self.over = value
        else:
            return False
        return True


async def wait_for(path: Path, content: bytes = b"") -> None:
    """Wait until a file exists and holds `content`."""
    async with asyncio.timeout(TIMEOUT_S):
        while not path.exists() or content not in path.read_bytes():
            await asyncio.sleep(0.02)


class Served(PageServer):
    """The server in this process, around a stand-in for the app."""

    def __init__(self, folder: Path) -> None:
        script = folder / "app.py"
        script.write_text(FAKE_APP)
        app = [sys.executable, str(script)]
        super().__init__([*app, "first"], [*app, "later"], HOST, free_port())
        self.listener = self.listen()

    def url(self, path: str) -> str:
        """Return the address of a path, with the access token."""
        return f"{self.public_url}{path}?token={self._token}"

    @property
    def session(self) -> AppSession:
        """The app and its page."""
        return self._session

    def _handle_signals(self) -> None:
        """Leave the signals of the test run alone."""


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Served, aiohttp.ClientSession]]:
    """Serve the stand-in while the context is open."""
    server = Served(folder)
    task = asyncio.create_task(server.serve_until_stopped(server.listener))
    try:
        async with aiohttp.ClientSession() as session:
            yield server, session
    finally:
        server._request_stop(EXIT_INTERRUPTED)
        async with asyncio.timeout(TIMEOUT_S):
            await task


@contextmanager
def served_program(folder: Path, *arguments: str, resume: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start `gpt-tui serve` with a tiny model; yield it and the address that it prints, and kill it at the end."""
    write_texts(folder)
    port = free_port()
    options = ["--resume", resume] if resume else []
    server = start_program("serve", "--port", str(port), *tiny(*arguments), *options, cwd=folder)
    try:
        assert server.stdout
        found = re.search(rf"http://{HOST}:{port}/\?token=[\w-]{{32}}(?= )", server.stdout.readline())
        assert found
        yield server, found[0]
    finally:
        server.kill()
        server.communicate(timeout=TIMEOUT_S)
