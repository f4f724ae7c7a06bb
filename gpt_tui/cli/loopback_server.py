"""The textual-serve server, restricted to requests from its own page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from textual_serve.server import Server

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LoopbackServer(Server):
    """Serves the app of a command on a loopback address.

    Requests whose Origin or Host header names another site are rejected.
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
            raise web.HTTPForbidden(text="gpt-tui accepts requests from its own page only")
        return await handler(request)

    async def on_startup(self, app: web.Application) -> None:
        """Print the address of the app."""
        print(f"gpt-tui is served at {self.public_url} on this machine; press Ctrl+C to stop", flush=True)
