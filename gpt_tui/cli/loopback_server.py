"""textual-serve's server, closed to everybody but its own page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from textual_serve.server import Server

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LoopbackServer(Server):
    """Serves a command's app on one loopback address.

    A browser names the site that a request comes from (Origin), and the name it was asked to go to (Host): requests of
    other sites, and those that reach this address under another name, are refused.
    """

    def __init__(self, command: str, host: str, port: int) -> None:
        super().__init__(command, host=host, port=port, title="gpt-tui")
        self._hosts = {f"{host}:{port}", f"localhost:{port}"}

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._guard)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if request.host not in self._hosts or (origin and origin.partition("://")[2] not in self._hosts):
            raise web.HTTPForbidden(text="gpt-tui answers its own page alone")
        return await handler(request)

    async def on_startup(self, app: web.Application) -> None:
        """Says where the app is."""
        print(f"gpt-tui is at {self.public_url} for browsers on this machine; Ctrl+C ends it", flush=True)
