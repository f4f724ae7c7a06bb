"""Notifications do not cover dialogs."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.app import App
from textual.screen import Screen
from textual.widgets._toast import Toast

from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_tui.session.phase import Phase
from gpt_tui.shared.dialogs import delete_question
from gpt_tui.shared.file_name_dialog import FileNameScreen
from gpt_tui.shell.help import HelpScreen
from gpt_tui.tabs.train.resume_dialog import ResumeScreen
from tests.tui.samples import learned
from tests.tui.still_app import still_app
from tests.tui.stored_files import save

pytestmark = pytest.mark.slow

WARNING = "This is the newest checkpoint of the run: without it, the run cannot be resumed. This cannot be undone."
SCREENS = {
    "delete": lambda: delete_question("ckpt_latest", WARNING),
    "file name": lambda: FileNameScreen("Save as file", "The file is read with --config.", "gpt.toml"),
    "train longer": lambda: ResumeScreen(peek_checkpoint(save(Path("ckpt_latest.safetensors"), 0.0))),
    "help": lambda: HelpScreen("train", {}),
}


SIZES = [(80, 24), (120, 40), (40, 12)]


def visible_toasts(screen: Screen[object]) -> list[Toast]:
    """Return the notifications on a screen. Fails if one of them covers the dialog."""
    dialog = screen.query("#dialog, #help").first().region
    shown = screen._compositor.visible_widgets
    toasts = [toast for toast in screen.query(Toast) if toast in shown]
    for toast in toasts:
        region, clip = shown[toast]
        assert not region.intersection(clip).overlaps(dialog)
    return toasts


class PlainApp(App[None]):
    """An app with dialogs alone."""

    CSS = "ChoiceScreen { align: center middle; } #dialog { width: 60; height: auto; }"


@pytest.mark.essential
@pytest.mark.parametrize(("rows", "has_room"), [(40, True), (11, False)])
async def test_a_dialog_leaves_notifications_the_rows_below_it(rows: int, has_room: bool) -> None:
    async with PlainApp().run_test(size=(80, rows), notifications=True) as pilot:
        screen: Screen[object] = SCREENS["delete"]()  # type: ignore[no-untyped-call]
        pilot.app.push_screen(screen)
        await pilot.pause()
        for number in range(3):
            pilot.app.notify(f"notification {number}", timeout=60)
        await pilot.pause()
        await pilot.pause()
        assert bool(visible_toasts(screen)) is has_room


@pytest.mark.essential
async def test_a_notification_is_shown_once_while_a_dialog_is_open() -> None:
    async with PlainApp().run_test(size=(80, 40), notifications=True) as pilot:
        below, dialog = pilot.app.screen, SCREENS["delete"]()  # type: ignore[no-untyped-call]
        pilot.app.notify("notification", timeout=60)
        await pilot.pause()
        assert len(below.query(Toast)) == 1
        pilot.app.push_screen(dialog)
        for _ in range(3):
            await pilot.pause()
        assert [len(screen.query(Toast)) for screen in (below, dialog)] == [0, 1]
        dialog.dismiss("")
        for _ in range(3):
            await pilot.pause()
        assert len(below.query(Toast)) == 1


@pytest.mark.essential
async def test_a_dialog_that_is_answered_before_it_is_drawn_only_closes() -> None:
    async with PlainApp().run_test(size=(80, 40), notifications=True) as pilot:
        dialog = SCREENS["delete"]()  # type: ignore[no-untyped-call]
        answers: list[str | None] = []
        await pilot.app.push_screen(dialog, answers.append)
        dialog.dismiss("delete")
        for _ in range(3):
            await pilot.pause()
        assert answers == ["delete"]


@pytest.mark.parametrize("name", SCREENS)
@pytest.mark.parametrize("size", SIZES)
async def test_notifications_leave_a_dialog_readable(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    async with still_app(monkeypatch, learned(), Phase.PAUSED, size) as (app, pilot):
        app._disable_notifications = False  # as they are outside tests
        for number in range(4):
            app.notify(f"notification {number} with words enough for a second line of it", timeout=60)
        screen: Screen[object] = SCREENS[name]()  # type: ignore[no-untyped-call]
        app.push_screen(screen)
        await pilot.pause()
        app.notify("one more while the dialog is open", timeout=60)
        await pilot.pause()
        await pilot.pause()
        toasts = visible_toasts(screen)
        if (name, size) == ("delete", (120, 40)):
            assert toasts, "there is room for one"
