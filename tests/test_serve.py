"""`gpt-tui serve`: serves only this machine and its own page; closing the page saves the run."""

import asyncio
import json
import socket
from argparse import Namespace
from pathlib import Path

import pytest

from gpt_core.errors import InputError
from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_tui.cli import main as cli
from gpt_tui.cli import serve
from gpt_tui.cli.main import Parser, add_serve
from tests.program import TIMEOUT_S, start_program, tiny, write_texts

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")


def options(*words: str) -> Namespace:
    """Parse arguments of `gpt-tui serve`."""
    parser = Parser(prog="gpt-tui serve")
    add_serve(parser)
    return parser.parse_all(words)


def test_the_options_are_passed_to_the_app():
    words = ["--preset", "micro", "--set", "layers=2", "--models-dir", "my runs", "--overfit-tiny", "--resume"]
    expected = ["--set", "layers=2", "--preset=micro", "--models-dir=my runs", "--overfit-tiny", "--resume"]
    assert serve.app_arguments(options(*words)) == expected
    assert serve.app_arguments(options()) == []


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_an_invalid_port_is_an_error(port):
    with pytest.raises(InputError, match="--port: got"):
        serve.serve(options(f"--port={port}"))


def test_invalid_options_are_reported_before_the_server_starts(capsys):
    assert cli.main(["serve", "--set", "layers=none"]) == 2
    assert "layers: got 'none'" in capsys.readouterr().err


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def status_when_up(session, url: str) -> int:  # type: ignore[no-untyped-def]
    """Wait until the server listens, and return the HTTP status of the page."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                async with session.get(url) as page:
                    status: int = page.status
                    return status
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)


async def receive_until(websocket, text: str) -> None:  # type: ignore[no-untyped-def]
    """Receive output of the app until it contains `text`."""
    received = ""
    async with asyncio.timeout(TIMEOUT_S):
        while text not in received:
            message = await websocket.receive()
            assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), (message, received)
            if message.type is aiohttp.WSMsgType.BINARY:
                received += message.data.decode("utf-8", "replace")


async def test_closing_the_page_saves_the_run(tmp_path: Path):
    write_texts(tmp_path)
    port = free_port()
    server = start_program("serve", "--port", str(port), *tiny(), cwd=tmp_path)
    try:
        assert f"http://127.0.0.1:{port}" in server.stdout.readline()
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:
            assert await status_when_up(session, url) == 200
            async with session.get(url, headers={"Host": "evil.example"}) as page:
                assert page.status == 403
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(f"{url}/ws", origin="http://evil.example")
            async with session.ws_connect(f"{url}/ws?width=100&height=30", origin=url) as websocket:
                await receive_until(websocket, "Start training")
                await websocket.send_str(json.dumps(["stdin", "s"]))
                await receive_until(websocket, "perplexity")
                log = tmp_path / "models" / "metrics.jsonl"
                async with asyncio.timeout(TIMEOUT_S):
                    while b'"event":"step"' not in log.read_bytes():
                        await asyncio.sleep(0.05)
        latest = tmp_path / "models" / "ckpt_latest.safetensors"
        async with asyncio.timeout(TIMEOUT_S):
            while not latest.exists():
                await asyncio.sleep(0.05)
        assert verify_checkpoint(latest).step > 0
    finally:
        server.terminate()
        server.communicate(timeout=TIMEOUT_S)
