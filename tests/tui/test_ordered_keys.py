"""Keys that arrive together: each has its effect before the next, wherever it leads."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

import pytest
from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Input

from gpt_tui.new_run.screen import SetupScreen
from gpt_tui.shared import ordered_keys
from gpt_tui.shared.ordered_keys import OpeningScreen, OrderedEvent, OrderedKeysApp
from gpt_tui.tabs.chat.prompt_area import PromptArea
from gpt_tui.tabs.chat.transcript import Transcript
from tests.tui.app_bench import running_app
from tests.tui.fake_trainer import fake_generator
from tests.tui.test_chat_model import saved_model


def press_at_once(app: OrderedKeysApp, *keys: str) -> None:
    """Send keys as a terminal does that writes them in one piece."""
    for key in keys:
        app.post_message(events.Key(key, key if len(key) == 1 else {"space": " "}.get(key)))


class Field(OrderedKeysApp):
    """An app with one field."""

    def compose(self) -> ComposeResult:
        yield Input()


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (("b", "a", "backspace", "c"), "bc"),
        (("b", "left", "a", "end", "c"), "abc"),
        (("a", "b", "ctrl+u", "c", "d"), "cd"),
        (("a", "space", "b", "ctrl+w", "c"), "a c"),
    ],
    ids=" ".join,
)
async def test_editing_keys_and_letters_keep_their_order(keys: tuple[str, ...], text: str):
    async with Field().run_test() as pilot:
        field = pilot.app.query_one(Input)
        for _ in range(5):
            field.value = ""
            press_at_once(pilot.app, *keys)
            await pilot.pause()
            assert field.value == text


async def test_a_paste_keeps_its_place_among_keys():
    async with Field().run_test() as pilot:
        press_at_once(pilot.app, "a", "b", "left")
        pilot.app.post_message(events.Paste("pasted"))
        press_at_once(pilot.app, "end", "c")
        await pilot.pause()
        assert pilot.app.query_one(Input).value == "apastedbc"


class Vanishing(Input):
    """A field that removes itself on `x`, without sending the key on."""

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "x":
            event.stop()
            event.prevent_default()
            self.remove()


async def test_keys_go_on_when_the_widget_of_the_last_one_is_gone():
    async with OrderedKeysApp().run_test() as pilot:
        first, second = Vanishing(), Input()
        await pilot.app.mount_all([first, second])
        first.focus()
        await pilot.pause()
        press_at_once(pilot.app, "x", "a", "b", "backspace")
        while second.value != "a":
            await pilot.pause(0.01)
        assert not first.is_attached


class Stuck(Input):
    """A field whose key handler blocks until `may_end` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def _on_key(self, event: events.Key) -> None:
        event.prevent_default()
        await self.may_end.wait()


class Leaving(Field):
    """An app that Ctrl+Q ends, whatever has the focus."""

    BINDINGS: ClassVar = [Binding("ctrl+q", "quit", priority=True)]


async def test_a_widget_that_is_stuck_does_not_block_later_keys(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ordered_keys, "LOST_S", 0.1)
    async with Leaving().run_test() as pilot:
        field = Stuck()
        await pilot.app.mount(field)
        field.focus()
        await pilot.pause()
        press_at_once(pilot.app, "a", "ctrl+q")
        while pilot.app.is_running and not pilot.app._exit:
            await asyncio.sleep(0.01)
        field.may_end.set()


async def test_the_letters_behind_enter_in_chat_begin_the_next_prompt(tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    async with running_app(tmp_path, make=fake_generator(0.02)) as bench:
        await bench.pilot.press("c")
        press_at_once(bench.app, "h", "i", "enter", "y", "o", "backspace", "e", "s")
        prompt = bench.app.main.query_one("#prompt", PromptArea)
        await bench.until(lambda: prompt.text == "yes")
        last = bench.app.main.query_one(Transcript).last
        assert last is not None
        assert last.answers[0].prompt == "hi"


async def test_the_keys_behind_a_command_of_the_palette_reach_the_tab_that_it_opens(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        press_at_once(bench.app, "ctrl+p", *"chat", "enter", "s", "o")
        prompt = bench.app.main.query_one("#prompt", PromptArea)
        await bench.until(lambda: prompt.text == "so")


async def test_a_click_does_not_overtake_keys(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("c")
        prompt = bench.app.main.query_one("#prompt", PromptArea)
        await bench.until(lambda: prompt.has_focus)
        press_at_once(bench.app, "h", "e", "l", "backspace", "l", "d")
        column = bench.text().splitlines()[0].index("Runs")
        place = (None, column, 0, 0, 0, 1, False, False, False, column, 0)
        bench.app.post_message(events.MouseDown(*place))
        bench.app.post_message(events.MouseUp(*place))
        await bench.until(lambda: bench.app.main.tab == "runs")
        assert prompt.text == "held"
        assert not isinstance(bench.app.screen, SetupScreen)


async def test_keys_wait_for_the_screen_that_one_of_them_opens(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        press_at_once(bench.app, "u", "tab", "1", "2", "backspace", "3")
        form = await bench.until_set_up()
        await bench.until(lambda: isinstance(form.focused, Input) and form.focused.value == "13")


class Opening(OpeningScreen[None]):
    """A screen whose field follows when `may_open` is set. Escape leaves it."""

    BINDINGS: ClassVar = [Binding("escape", "dismiss")]

    def __init__(self) -> None:
        super().__init__()
        self.may_open = asyncio.Event()

    @work
    async def on_mount(self) -> None:
        await self.may_open.wait()
        await self.mount(Input())
        self.set_focus(self.query_one(Input))
        self.is_open = True

    def acts_at_once(self, event: OrderedEvent) -> bool:
        return isinstance(event, events.Key) and event.key == "escape"


async def test_keys_wait_for_the_fields_of_a_screen_that_is_shown_before_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ordered_keys, "LOST_S", 0.1)
    async with Field().run_test() as pilot:
        screen = Opening()
        await pilot.app.push_screen(screen)
        press_at_once(pilot.app, "a", "b", "backspace", "c")
        await pilot.pause(0.3)
        assert pilot.app.query_one(Input).value == ""
        screen.may_open.set()
        while not screen.query(Input) or screen.query_one(Input).value != "ac":
            await pilot.pause(0.01)


async def test_a_key_that_leaves_a_screen_need_not_wait_and_drops_what_was_typed_for_it():
    async with Field().run_test() as pilot:
        await pilot.app.push_screen(Opening())
        press_at_once(pilot.app, "a", "b", "escape", "c")
        field = pilot.app.screen_stack[0].query_one(Input)
        while field.value != "c":
            await pilot.pause(0.01)
