"""Notifications do not cover dialogs."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.screen import Screen
from textual.widgets._toast import Toast

from gpt_tui.session.phase import Phase
from gpt_tui.shared.dialogs import delete_question
from gpt_tui.shared.file_name_dialog import FileNameScreen
from gpt_tui.shell.help import HelpScreen
from tests.tui.samples import learnt
from tests.tui.still_app import still_app

pytestmark = pytest.mark.slow

WARNING = "This is the newest checkpoint of the run: without it, the run cannot be resumed. This cannot be undone."
SCREENS = {
    "delete": lambda: delete_question("ckpt_latest", WARNING),
    "file name": lambda: FileNameScreen("Save as file", "The file is read with --config.", "gpt.toml"),
    "help": lambda: HelpScreen("train", {}),
}


SIZES = [(80, 24), (120, 40), (40, 12)]
CASES = [  # one by default
    pytest.param(name, size, marks=() if (name, size) == ("delete", (120, 40)) else pytest.mark.slow)
    for name in SCREENS
    for size in SIZES
]


@pytest.mark.parametrize(("name", "size"), CASES)
async def test_notifications_leave_a_dialog_readable(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    async with still_app(monkeypatch, learnt(), Phase.PAUSED, size) as (app, pilot):
        app._disable_notifications = False  # as they are outside tests
        for number in range(4):
            app.notify(f"notification {number} with words enough for a second line of it", timeout=60)
        screen: Screen[object] = SCREENS[name]()  # type: ignore[no-untyped-call]
        app.push_screen(screen)
        await pilot.pause()
        app.notify("one more while the dialog is open", timeout=60)
        await pilot.pause()
        await pilot.pause()
        dialog = screen.query("#dialog, #help").first().region
        shown = screen._compositor.visible_widgets
        for toast in screen.query(Toast):
            if toast in shown:
                region, clip = shown[toast]
                assert not region.intersection(clip).overlaps(dialog)
        if (name, size) == ("delete", (120, 40)):
            assert any(toast in shown for toast in screen.query(Toast)), "there is room for one"
