"""Driver of the app in a browser page: focus at the start, repaints, and the end of its server."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.program import TIMEOUT_S, environment

pytest.importorskip("textual_serve")

from textual_serve.download_manager import DownloadManager

from gpt_tui.browser.app_process import AppProcess

pytestmark = pytest.mark.slow
SMALL_APP = """
import sys
from textual.app import App
from textual.widgets import Input, Label

class SmallApp(App):
    def compose(self):
        yield Label("a label that never changes")
        yield Input()

    def on_mount(self):
        self.set_interval(0.05, self.show)

    def show(self):
        driver = self._driver
        if driver.is_lost():
            open("lost", "w").write("yes")
            self.exit()
        driver.show_title(f"{self.app_focus} {self.size.width} {type(self.screen.focused).__name__}")

SmallApp().run()
"""


BUSY_APP = """
import time
from types import SimpleNamespace

from textual.app import App

import gpt_tui.app.page_driver

gpt_tui.app.page_driver.BUSY_S = 0.0

class BusyApp(App):
    controller = SimpleNamespace(stop=lambda save: None, wait_for_save=lambda: open("waited", "w").close())

    def quit(self, code):
        self.exit(return_code=code)

    def on_key(self):
        self._driver.show_title("busy")
        while True:
            time.sleep(0.01)

BusyApp().run()
"""


class Shown:
    """Output and titles of an app."""

    def __init__(self) -> None:
        self.output = b""
        self.title = ""

    async def write(self, data: bytes) -> None:
        self.output += data

    async def ignore(self, _message: str) -> None:
        pass

    def set_title(self, title: str) -> None:
        self.title = title

    def clear(self) -> None:
        self.output = b""

    async def until_title(self, title: str) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while self.title != title:
                await asyncio.sleep(0.02)

    async def until_output(self, text: bytes) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while text not in self.output:
                await asyncio.sleep(0.02)


def small_app(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[AppProcess, Shown]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    Path("app.py").write_text(program)
    shown = Shown()
    app = AppProcess(
        [sys.executable, "app.py"], DownloadManager(), write_output=shown.write, write_message=shown.ignore,
        set_title=shown.set_title, repaint_begins=shown.clear,
    )  # fmt: skip
    return app, shown


async def test_an_app_has_the_focus_repaints_for_a_new_page_and_notices_that_its_server_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    app, shown = small_app(SMALL_APP, tmp_path, monkeypatch)
    await app.start(60, 20)
    await app.focus()  # as a page does at once, before the app has started
    running = asyncio.create_task(app.run())
    await shown.until_title("True 60 Input")
    await shown.until_output(b"a label that never changes")
    await app.repaint(70, 20)
    await shown.until_title("True 70 Input")
    await shown.until_output(b"a label that never changes")
    for mode in (b"\x1b[?1049h", b"\x1b[?25l", b"\x1b[?1006h", b"\x1b[?2004h"):
        assert mode in shown.output
    shown.clear()
    await app.repaint(70, 20)  # at the same size
    await shown.until_output(b"a label that never changes")
    app.stdin.close()  # as when the server is killed
    async with asyncio.timeout(TIMEOUT_S):
        await running
    assert app.exit_code == 0
    assert Path("lost").exists()


async def test_a_second_stop_ends_an_app_whose_event_loop_is_busy_after_any_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    app, shown = small_app(BUSY_APP, tmp_path, monkeypatch)
    await app.start(60, 20)
    running = asyncio.create_task(app.run())
    await shown.until_output(b"\x1b[?2004h")
    await app.send_bytes(b"a")
    await shown.until_title("busy")
    await app.request_stop(130)
    await app.request_stop(130, again=True)
    async with asyncio.timeout(TIMEOUT_S):
        await running
    assert app.exit_code == 130
    assert Path("waited").exists()
