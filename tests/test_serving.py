"""The app in a browser: on this machine alone, for its own page alone, and nothing is lost when the page is closed."""

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
    parser = Parser(prog="gpt-tui serve")
    add_serve(parser)
    return parser.parse_all(words)


def test_the_app_is_given_the_options_of_the_command():
    words = ["--preset", "micro", "--set", "layers=2", "--models-dir", "my runs", "--overfit-tiny", "--resume"]
    expected = ["--set", "layers=2", "--preset=micro", "--models-dir=my runs", "--overfit-tiny", "--resume"]
    assert serve.app_arguments(options(*words)) == expected
    assert serve.app_arguments(options()) == []


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(InputError, match="--port: got"):
        serve.serve(options(f"--port={port}"))


def test_a_mistake_in_the_options_is_told_before_anything_is_served(capsys):
    assert cli.main(["serve", "--set", "layers=none"]) == 2
    assert "layers: got 'none'" in capsys.readouterr().err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def status_when_up(session, url: str) -> int:  # type: ignore[no-untyped-def]
    """The page's status, as soon as the server listens."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                async with session.get(url) as page:
                    status: int = page.status
                    return status
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)


async def until(websocket, words: str) -> None:  # type: ignore[no-untyped-def]
    """Reads what the app draws until the words are in it."""
    seen = ""
    async with asyncio.timeout(TIMEOUT_S):
        while words not in seen:
            message = await websocket.receive()
            assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), (message, seen)
            if message.type is aiohttp.WSMsgType.BINARY:
                seen += message.data.decode("utf-8", "replace")


async def test_a_page_trains_and_closing_it_saves_the_run(tmp_path: Path):
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
                await until(websocket, "Press")
                await websocket.send_str(json.dumps(["stdin", "s"]))
                await until(websocket, "perplexity")
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
