"""Server of the app on the loopback address.

Requests are accepted from the server's own page only, so that a page of another site in the same browser cannot control
the app, and with its access token, so that another user of the machine cannot. The page is not allowed to load anything
from other hosts.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from aiohttp import WSMsgType, web
from textual_serve.server import Server

from gpt_core.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, InputError
from gpt_tui.browser.access import access_token
from gpt_tui.browser.connection import PageConnection
from gpt_tui.browser.session import TITLE, AppSession, Size
from gpt_tui.headless.signals import SAME_PRESS_S

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAGE = Path(__file__).parent / "page"
HEARTBEAT_S = 15.0
MAX_MESSAGE_BYTES = 32 << 20  # 6 bytes per character of the largest paste that the page sends
LAST_MESSAGE_S = 2.0  # for the page to receive why the server ends
HTTP_PORT = 80  # browsers leave it out of the Host header
OPEN_FOLDERS = ("/static/", "/page/")  # need no access token: the same files for every user
STOP_CODES = {"SIGINT": EXIT_INTERRUPTED, "SIGTERM": EXIT_TERMINATED, "SIGHUP": EXIT_TERMINATED}


class PageServer(Server):
    """Serves the app on a loopback address until a signal stops it.

    Args:
        arguments: Command line of the first app.
        later_arguments: Command line of each app that the page starts after it.
        host: Loopback address.
        port: TCP port.
    """

    def __init__(self, arguments: Sequence[str], later_arguments: Sequence[str], host: str, port: int) -> None:
        super().__init__(arguments[0], host=host, port=port, title=TITLE)
        self._hosts = {f"{name}:{port}" for name in (host, "localhost")}
        if port == HTTP_PORT:
            self._hosts |= {host, "localhost"}
        self._token = access_token()
        self._session = AppSession(arguments, later_arguments, self.download_manager)
        self._stop_requested = asyncio.Event()
        self._stop_requested_s = 0.0
        self._stop_tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """Address of the page, with the access token."""
        return f"{self.public_url}/?token={self._token}"

    def listen(self) -> socket.socket:
        """Return a socket that is bound to the address. Raises InputError if it cannot be."""
        listener = socket.socket()
        if sys.platform != "win32":  # where it would allow two servers on one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.host, self.port))
            listener.listen()
        except OSError as error:
            listener.close()
            raise InputError(f"--port: {port_problem(self.port, error)}; choose another port with --port N") from None
        return listener

    async def serve_until_stopped(self, listener: socket.socket) -> int:
        """Serve on a bound socket until a signal, let the app save its run, and return the exit code."""
        self._handle_signals()
        runner = web.AppRunner(await self._make_app(), access_log=None, shutdown_timeout=LAST_MESSAGE_S)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        print(f"gpt-tui is served at {self.address} on this machine; press Ctrl+C to stop", flush=True)
        try:
            await self._stop_requested.wait()
        except asyncio.CancelledError:  # Ctrl+C on Windows, whose event loop has no signal handlers
            await self._session.stop(EXIT_INTERRUPTED)
        await self._session.wait()
        self._session.close()
        await runner.cleanup()
        return self._session.exit_code

    def _handle_signals(self) -> None:
        """Stop on SIGINT, SIGTERM and SIGHUP. Ignored signals stay ignored."""
        loop = asyncio.get_running_loop()
        for name, code in STOP_CODES.items():
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) != signal.SIG_IGN:
                with suppress(NotImplementedError):
                    loop.add_signal_handler(number, self._request_stop, code)

    def _request_stop(self, code: int) -> None:
        """Let the app save its run and end, then the server. A second request ends the app at once."""
        now_s = time.monotonic()
        is_first = not self._stop_requested.is_set()
        is_again = not is_first and now_s - self._stop_requested_s > SAME_PRESS_S
        if is_first:
            self._stop_requested_s = now_s
        self._stop_requested.set()
        task = asyncio.create_task(self._session.stop(code, again=is_again))
        self._stop_tasks.add(task)
        task.add_done_callback(self._stop_tasks.discard)
        if is_first and self._session.running:  # to standard error: Ctrl+C also ends what reads a pipe
            print("stopping; Ctrl+C again exits at once, after any save in progress", file=sys.stderr, flush=True)

    # -- requests

    async def _make_app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.add_routes([
            web.get("/", self.handle_index),
            web.get("/ws", self.handle_websocket),
            web.get("/download/{key}", self.handle_download),
            web.post("/start", self.handle_start),
            web.static("/static", self.statics_path),
            web.static("/page", PAGE),
        ])  # fmt: skip
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Reject requests whose Origin or Host header names another site, and those without the access token."""
        origin = request.headers.get("Origin")
        if request.host not in self._hosts or (origin and origin.partition("://")[2] not in self._hosts):
            raise web.HTTPForbidden(text="gpt-tui accepts requests from its own page only")
        given = request.query.get("token", "").encode("utf-8", "replace")
        if not (request.path.startswith(OPEN_FOLDERS) or hmac.compare_digest(given, self._token.encode())):
            raise web.HTTPForbidden(text="open the complete address that gpt-tui serve printed, with its token")
        response = await handler(request)
        response.headers.setdefault("Cache-Control", "no-cache")  # another version may be served here next
        return response

    async def handle_index(self, request: web.Request) -> web.StreamResponse:
        """Return the page."""
        return web.FileResponse(PAGE / "index.html", headers=page_headers(request.host))

    async def handle_start(self, _request: web.Request) -> web.StreamResponse:
        """Let the next page start the app again, after it has ended."""
        self._session.allow_restart()
        return web.Response(status=204)

    async def handle_download(self, request: web.Request) -> web.StreamResponse:
        """Return a file that the app offers, under the name that the app gave it."""
        key = request.match_info["key"]
        try:
            file = await self.download_manager.get_download_metadata(key)
        except KeyError:
            raise web.HTTPNotFound(text="this file has been downloaded already; let gpt-tui offer it again") from None
        response = web.StreamResponse(headers=page_headers(request.host))
        response.headers["Content-Type"] = file.mime_type or "application/octet-stream"
        response.headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(file.file_name, safe='')}"
        await response.prepare(request)
        async for chunk in self.download_manager.download(key):
            await response.write(chunk)
        await response.write_eof()
        return response

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Connect a page to the app."""
        websocket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_BYTES)
        await websocket.prepare(request)
        page = PageConnection(websocket, self._session.repaint)
        writer = asyncio.create_task(page.write())
        size = Size.of(request.query.get("width"), request.query.get("height")) or Size()
        try:
            await self._session.join(page, size)
            async for message in websocket:
                if message.type is WSMsgType.TEXT:
                    await self._session.receive(page, message.data)
        finally:
            self._session.leave(page)
            writer.cancel()
        return websocket


def page_headers(host: str) -> dict[str, str]:
    """Return headers that confine the content to this server. `host` is the server's, as the browser names it."""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self' 'unsafe-inline'",  # the terminal widget sets styles
        "font-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": f"'self' ws://{host}",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in policy.items()),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def port_problem(port: int, error: OSError) -> str:
    """Return why a port cannot be used."""
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use by another program"
    return f"port {port} cannot be used ({error.strerror})"
