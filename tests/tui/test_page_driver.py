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


async def test_an_app_has_the_focus_repaints_for_a_new_page_and_notices_that_its_server_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    Path("app.py").write_text(SMALL_APP)
    shown = Shown()
    app = AppProcess(
        [sys.executable, "app.py"], DownloadManager(), write_output=shown.write, write_message=shown.ignore,
        set_title=shown.set_title, repaint_begins=shown.clear,
    )  # fmt: skip
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
