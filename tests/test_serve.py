"""`gpt-tui serve`: one app that runs without a page, serves only this machine and its own page, and saves its run."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from gpt_core.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, InputError
from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_tui.cli import main as cli
from gpt_tui.cli import serve
from gpt_tui.cli.main import Parser, add_serve
from tests.program import TIMEOUT_S, run_program, tiny, write_texts

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")

from gpt_tui.browser.access import FILE_NAME, TOKEN, access_token  # noqa: E402
from gpt_tui.browser.connection import MAX_PENDING_BYTES, PageConnection  # noqa: E402
from gpt_tui.browser.server import PAGE, page_headers  # noqa: E402
from gpt_tui.browser.session import MAX_TYPED, Size, bounded_input  # noqa: E402
from tests.served import HOST, BrowserPage, served_program, serving, wait_for  # noqa: E402

# -- command line


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


def test_an_app_after_the_first_does_not_resume_the_same_file_again():
    given = options("--resume", "runs/best_model.safetensors", "--preset=micro")
    assert serve.app_arguments(serve.without_resume(given, "runs")) == ["--preset=micro", "--models-dir=runs"]
    for words in ([], ["--models-dir=runs", "--overfit-tiny"]):
        assert serve.app_arguments(serve.without_resume(options(*words), "models")) == words


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_an_invalid_port_is_an_error(port):
    with pytest.raises(InputError, match="--port: got"):
        serve.serve(options(f"--port={port}"))


def test_invalid_options_are_reported_before_the_server_starts(capsys):
    assert cli.main(["serve", "--set", "layers=none"]) == 2
    assert "layers: got 'none'" in capsys.readouterr().err


def test_without_its_package_the_line_names_the_extra(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "gpt_tui.browser.server")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert cli.main(["serve"]) == 1
    assert capsys.readouterr().err == (
        "gpt-tui: aiohttp is not installed; run `pip install '.[serve]'` in the clone of gpt-tui\n"
    )


def test_a_port_in_use_is_reported_in_one_line(capsys):
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["serve", "--port", str(port)]) == 2
    shown = capsys.readouterr()
    assert (
        shown.err == f"gpt-tui: --port: port {port} is in use by another program; choose another port with --port N\n"
    )
    assert shown.out == ""


# -- page


def test_the_page_names_no_other_host_and_has_a_title():
    sources = "\n".join(path.read_text() for path in PAGE.iterdir())
    assert not re.search(r"https?://", sources)
    assert "<title>gpt-tui</title>" in sources
    policy = page_headers("127.0.0.1:8000")["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self' ws://127.0.0.1:8000;" in policy
    assert "*" not in policy


@pytest.mark.parametrize("asked", [("80", None), ("wide", 24), ({}, [])])
def test_an_invalid_size_is_ignored(asked):
    assert Size.of(*asked) is None


def test_a_size_is_bounded():
    assert Size.of("0", 10**9) == Size(2, 2000)


PASTE = "\x1b[200~" + "x" * 10 * MAX_TYPED + "\x1b[201~"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("abc\x1b[A", "abc\x1b[A"),
        ("a" * 3_000_000, "a" * MAX_TYPED),
        (PASTE, PASTE),
        (f"{'a' * 600}{PASTE}{'b' * 600}{PASTE}c", f"{'a' * 600}{PASTE}{'b' * 400}{PASTE}"),
        ("\x1b[200~" * 500_000, ("\x1b[200~" * MAX_TYPED)[:MAX_TYPED]),
        ("\x1b[201~", "\x1b[201~"),
        ("", ""),
    ],
    ids=["keys", "many keys", "paste", "pastes among keys", "unfinished pastes", "end only", "nothing"],
)
def test_keys_of_a_message_are_bounded_and_pastes_are_not(text, kept):
    assert bounded_input(text) == kept


class SlowSocket:
    """WebSocket that sends when it is allowed to."""

    def __init__(self) -> None:
        self.allowed = asyncio.Event()
        self.sent: list[object] = []
        self.is_closed = False

    async def send_bytes(self, data: bytes) -> None:
        await self.allowed.wait()
        self.sent.append(data)

    async def send_str(self, text: str) -> None:
        await self.allowed.wait()
        self.sent.append(text)

    async def close(self) -> None:
        self.is_closed = True


async def test_output_is_dropped_for_a_slow_page_and_repainted_later():
    websocket, repaints = SlowSocket(), []

    async def repaint() -> None:
        repaints.append(len(websocket.sent))

    page = PageConnection(websocket, repaint)  # type: ignore[arg-type]
    writer = asyncio.create_task(page.write())
    page.begin_painting()
    chunk = b"x" * (MAX_PENDING_BYTES // 4)
    for number in range(12):
        page.send_output(chunk)
        if number == 0:
            await asyncio.sleep(0)  # the writer waits with the first chunk
    page.send_message("title", "step 3")
    assert page._pending_bytes <= MAX_PENDING_BYTES
    websocket.allowed.set()
    while not repaints:
        await asyncio.sleep(0)
    assert [data for data in websocket.sent if data != chunk] == ['["title", "step 3"]']
    assert websocket.sent.count(chunk) < 12
    count = len(websocket.sent)
    page.send_output(b"lines of a frame that the page lacks")
    page.begin_painting()
    page.send_output(b"all lines")
    page.end("stopped", "saved")
    await writer
    assert websocket.sent[count:] == ['["over", {"reason": "stopped", "text": "saved"}]']
    assert websocket.is_closed


async def test_a_packet_above_the_limit_is_sent_if_nothing_is_pending():
    websocket, repaints = SlowSocket(), []

    async def repaint() -> None:
        repaints.append(True)

    websocket.allowed.set()
    page = PageConnection(websocket, repaint)  # type: ignore[arg-type]
    page.begin_painting()
    frame = b"x" * (MAX_PENDING_BYTES + 1)
    page.send_output(frame)
    writer = asyncio.create_task(page.write())
    await asyncio.sleep(0)
    page.end("ended")
    await writer
    assert websocket.sent == [frame, '["over", {"reason": "ended", "text": ""}]']
    assert not repaints


# -- server, with a stand-in for the app


async def test_requests_of_other_sites_are_rejected(tmp_path):
    async with serving(tmp_path) as (server, session):
        url = server.public_url
        async with session.get(server.address) as page:
            assert page.status == 200
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        for path in ("/page/page.js", "/page/page.css", "/static/js/textual.js"):
            async with session.get(url + path) as file:
                assert (file.status, file.headers["Cache-Control"]) == (200, "no-cache")
        async with session.get(server.address, headers={"Host": "evil.example"}) as page:
            assert page.status == 403
        async with session.post(server.url("/start"), headers={"Origin": "http://evil.example"}) as page:
            assert page.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(server.url("/ws"), origin="http://evil.example")
        assert not server.session.running


@pytest.mark.parametrize("query", ["", "?token=", "?token=x", "?token=%ff%C3%A9", "?width=100&height=30"])
async def test_requests_without_the_access_token_are_rejected(tmp_path, query):
    async with serving(tmp_path) as (server, session):
        url = server.public_url
        for path in ("/", "/ws", "/download/k1"):
            async with session.get(url + path + query) as answer:
                assert answer.status == 403
                assert await answer.text() == "open the complete address that gpt-tui serve printed, with its token"
        async with session.post(f"{url}/start{query}") as answer:
            assert answer.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await BrowserPage.open(session, f"{url}/{query}")
        assert not server.session.running


def test_the_access_token_is_saved_for_this_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    token = access_token()
    file = tmp_path / "gpt-tui" / FILE_NAME
    assert (file.read_text(), file.stat().st_mode & 0o777, access_token()) == (token, 0o600, token)
    file.chmod(0o644)  # another user may have read it
    again = access_token()
    assert again != token
    assert (file.read_text(), file.stat().st_mode & 0o777) == (again, 0o600)
    for damaged in ("", "x", again + "\n", "\xe9" * 32):
        file.write_bytes(damaged.encode("latin-1"))
        assert TOKEN.fullmatch(access_token())
        assert access_token() == file.read_text() != damaged
    assert list(file.parent.iterdir()) == [file]


def test_without_a_cache_folder_each_server_has_its_own_token(tmp_path, monkeypatch):
    occupied = tmp_path / "cache"
    occupied.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(occupied))
    assert access_token() != access_token()
    monkeypatch.setattr("gpt_tui.browser.access.cache_folder", lambda: None)
    assert access_token() != access_token()


async def test_a_reload_joins_the_app_in_progress(tmp_path):
    async with serving(tmp_path) as (server, session):
        first = await BrowserPage.open(session, server.address)
        await first.read_until("drawn 100x30")
        await first.type("a")
        await first.read_until("typed a")
        await first.websocket.close()
        again = await BrowserPage.open(session, server.address, 120, 40)
        await again.read_until("drawn again 120x40")
        assert again.titles == ["step 1"]
        await again.type("b")
        await again.read_until("typed b")
        assert again.titles == ["step 1", "step 2"]


async def test_a_second_tab_takes_over_and_the_first_shows_a_notice(tmp_path):
    async with serving(tmp_path) as (server, session):
        first = await BrowserPage.open(session, server.address)
        await first.read_until("drawn")
        second = await BrowserPage.open(session, server.address)
        assert (await first.read_to_the_end())["reason"] == "elsewhere"
        await second.read_until("drawn again")
        await second.type("a")
        await second.read_until("typed a")


async def test_an_app_that_was_quit_starts_again_on_request_only(tmp_path, capfd):
    async with serving(tmp_path) as (server, session):
        page = await BrowserPage.open(session, server.address)
        await page.read_until("started first")
        await page.type("q")
        assert await page.read_to_the_end() == {"reason": "ended", "text": "saved at step 7"}
        assert "saved at step 7" in capfd.readouterr().err
        reloaded = await BrowserPage.open(session, server.address)
        assert await reloaded.read_to_the_end() == {"reason": "ended", "text": "saved at step 7"}
        async with session.post(server.url("/start")) as answer:
            assert answer.status == 204
        page = await BrowserPage.open(session, server.address)
        await page.read_until("started later")
        await page.read_until("drawn 100x30")


async def test_the_page_shows_why_the_app_failed(tmp_path):
    async with serving(tmp_path) as (server, session):
        page = await BrowserPage.open(session, server.address)
        await page.type("!")
        assert (await page.read_to_the_end())["text"] == "it failed: xxxxxxxxx"
        assert server.session.exit_code == EXIT_FAILED


async def test_the_page_and_the_terminal_say_that_the_app_was_killed(tmp_path, capfd):
    async with serving(tmp_path) as (server, session):
        page = await BrowserPage.open(session, server.address)
        await page.type("k")
        killed = "gpt-tui was killed (signal 9); the steps since the last save are lost"
        assert await page.read_to_the_end() == {"reason": "ended", "text": f"short of memory\n{killed}"}
        assert killed in capfd.readouterr().err
        assert server.session.exit_code == EXIT_FAILED


async def test_the_largest_paste_of_the_page_reaches_the_app(tmp_path):
    found = re.search(r"MAX_PASTE = ([0-9_]+);", (PAGE / "page.js").read_text())
    assert found
    paste = "\u3042" * int(found[1])  # `BrowserPage` sends 6 bytes for each
    async with serving(tmp_path) as (server, session):
        page = await BrowserPage.open(session, server.address)
        await page.read_until("drawn")
        await page.send("hidden")  # where the app writes what it was sent
        await page.type(f"\x1b[200~{paste}\x1b[201~")
        await page.receive_until(lambda: page.titles[-1:] == ["step 1"], "the title after the paste")


async def test_stopping_the_server_stops_the_app_and_the_page_shows_a_notice(tmp_path, capfd):
    async with serving(tmp_path) as (server, session):
        page = await BrowserPage.open(session, server.address)
        await page.read_until("drawn")
        server._request_stop(EXIT_INTERRUPTED)
        assert await page.read_to_the_end() == {"reason": "stopped", "text": f"stopped {EXIT_INTERRUPTED}"}
        assert server.session.exit_code == EXIT_OK


async def test_an_app_that_does_not_respond_ends_with_the_second_signal(tmp_path, monkeypatch):
    monkeypatch.setattr("gpt_tui.browser.server.SAME_PRESS_S", 0.0)
    monkeypatch.setattr("gpt_tui.browser.app_process.CONFIRM_S", 0.01)
    async with serving(tmp_path) as (server, session):
        page = await BrowserPage.open(session, server.address)
        await page.read_until("drawn")
        await page.type("h")
        await page.read_until("hangs")
        server._request_stop(EXIT_INTERRUPTED)
        server._request_stop(EXIT_INTERRUPTED)
        over = await page.read_to_the_end()
        assert over == {"reason": "stopped", "text": "gpt-tui did not respond and was ended without a save"}
        assert server.session.exit_code == EXIT_FAILED


async def test_more_keys_than_a_person_types_are_dropped(tmp_path):
    async with serving(tmp_path) as (server, session):
        page = await BrowserPage.open(session, server.address)
        await page.type("z" * 100_000)
        await page.read_until("typed z")
        await page.receive_until(lambda: page.output.endswith("z\n"), "the end of the keys")
        assert page.output.count("z") == MAX_TYPED


async def test_folders_of_the_page_are_not_listed(tmp_path):
    async with serving(tmp_path) as (server, session):
        for path in ("/static/", "/static/js", "/page/"):
            async with session.get(server.public_url + path) as answer:
                assert answer.status == 403


async def test_a_hidden_page_receives_no_output_until_it_is_visible(tmp_path):
    async with serving(tmp_path) as (server, session):
        page = await BrowserPage.open(session, server.address)
        await page.read_until("drawn")
        await page.send("hidden")
        await page.type("a")
        await page.send("visible")
        await page.read_until("drawn again")
        assert "typed a" not in page.output
        assert page.titles == ["step 0", "step 1"]


async def test_a_file_is_downloaded_once_under_its_name(tmp_path):
    async with serving(tmp_path) as (server, session):
        page = await BrowserPage.open(session, server.address)
        await page.type("d")
        await page.receive_until(lambda: bool(page.download), "a download")
        url = server.url(f"/download/{page.download}")
        async with session.get(url) as file:
            assert await file.text() == "<svg></svg>"
            assert file.content_disposition
            assert (file.content_disposition.type, file.content_disposition.filename) == (
                "attachment",
                "Mein Läufe.svg",
            )
        async with session.get(url) as file:
            assert file.status == 404


async def test_messages_that_are_not_well_formed_are_ignored(tmp_path):
    async with serving(tmp_path) as (server, session):
        page = await BrowserPage.open(session, server.address)
        for text in (
            "",
            "{",
            "[]",
            "[[]]",
            "[" * 200_000,
            "7",
            '["stdin"]',
            '["stdin", 7]',
            '["resize", {"width": "x"}]',
            '{"a": 1}',
        ):
            await page.websocket.send_str(text)
        await page.send("stdin", "\ud800")
        await page.type("a")
        await page.read_until("typed a")


# -- the program


async def train_in(page: BrowserPage, folder: Path) -> None:
    """Start a run in the page, and wait for its first steps."""
    await page.read_until("Start training")
    await page.type("s")
    await wait_for(folder / "models" / "metrics.jsonl", b'"event":"step"')


@pytest.mark.slow
async def test_the_run_survives_a_reload(tmp_path):
    async with aiohttp.ClientSession() as session:
        with served_program(tmp_path, "max_epochs=100000", "patience=0", "save_epoch_number=0") as (server, url):
            page = await BrowserPage.open(session, url)
            await train_in(page, tmp_path)
            await page.websocket.close()
            page = await BrowserPage.open(session, url)
            await page.read_until("perplexity")
            for shown in ("gpt-tui", "Pause", "learning rate", "Help", "\x1b[?1049h", "\x1b[?1006h", "\x1b[?2004h"):
                await page.read_until(shown)
            title = re.compile(r"training, step [\d,]+ · gpt-tui")
            await page.receive_until(lambda: any(map(title.fullmatch, page.titles)), "the step in the title")
            server.send_signal(signal.SIGINT)
            over = await page.read_to_the_end()
            assert over["reason"] == "stopped"
            assert "saved models/ckpt_latest.safetensors at step" in over["text"]
            assert server.wait(TIMEOUT_S) == EXIT_OK
    assert verify_checkpoint(tmp_path / "models" / "ckpt_latest.safetensors").step > 0


@pytest.mark.slow
async def test_a_run_starts_from_the_set_up_screen_with_a_key_that_browsers_pass_on(tmp_path):
    async with aiohttp.ClientSession() as session:
        with served_program(tmp_path) as (_server, url):
            page = await BrowserPage.open(session, url)
            await page.read_until("Start training")
            await page.type("u")
            await page.read_until("F9")
            await page.type("\x1b[20~")
            await wait_for(tmp_path / "models" / "metrics.jsonl", b'"event":"step"')


@pytest.mark.slow
async def test_an_app_after_a_resumed_one_offers_the_newest_checkpoint(tmp_path):
    write_texts(tmp_path)
    assert run_program("train", *tiny("max_steps=4"), "--models-dir=runs", cwd=tmp_path).returncode == EXIT_OK
    first = tmp_path / "runs" / "ckpt_latest.safetensors"
    shutil.copy(first, tmp_path / "runs" / "first.safetensors")
    async with aiohttp.ClientSession() as session:
        with served_program(tmp_path, "max_epochs=100000", resume="runs/first.safetensors") as (_server, url):
            page = await BrowserPage.open(session, url)
            await wait_for(tmp_path / "runs" / "metrics.jsonl", b'"step":5')
            await page.type("q")
            await page.read_until("Save and quit")
            await page.type("s")
            assert "saved" in (await page.read_to_the_end())["text"]
            step = verify_checkpoint(first).step
            async with session.post(url.replace("/?", "/start?")):
                page = await BrowserPage.open(session, url)
            await page.read_until(f"Resume (step {step:,}")
    assert verify_checkpoint(first).step == step > 4


@pytest.mark.slow
async def test_a_server_whose_output_pipe_was_closed_saves_and_stops(tmp_path):
    async with aiohttp.ClientSession() as session:
        with served_program(tmp_path, "max_epochs=100000", "patience=0", "save_epoch_number=0") as (server, url):
            page = await BrowserPage.open(session, url)
            await train_in(page, tmp_path)
            assert server.stdout is not None
            server.stdout.close()  # as Ctrl+C does to `gpt-tui serve | tee log`
            server.send_signal(signal.SIGINT)
            assert (await page.read_to_the_end())["reason"] == "stopped"
            assert server.wait(TIMEOUT_S) == EXIT_OK
    assert verify_checkpoint(tmp_path / "models" / "ckpt_latest.safetensors").step > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
async def test_the_run_is_saved_without_a_page_however_the_server_ends(tmp_path, name):
    async with aiohttp.ClientSession() as session:
        with served_program(tmp_path, "max_epochs=100000", "patience=0", "save_epoch_number=0") as (server, url):
            page = await BrowserPage.open(session, url)
            await train_in(page, tmp_path)
            await page.websocket.close()
            server.send_signal(signal.Signals[name])
            assert server.wait(TIMEOUT_S) == (-signal.SIGKILL if name == "SIGKILL" else EXIT_OK)
            latest = tmp_path / "models" / "ckpt_latest.safetensors"
            await wait_for(latest)
    assert verify_checkpoint(latest).step > 0
    await wait_for(tmp_path / "models" / "metrics.jsonl", b'"event":"finished"')
