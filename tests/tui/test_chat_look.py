"""Chat tab: snapshots at the two common terminal sizes."""

from pathlib import Path

import pytest
from textual.widgets import Input

from gpt_tui.tabs.chat.prompt_area import PromptArea
from tests.tui.app_bench import AppBench, running_app
from tests.tui.conftest import Snapshot
from tests.tui.test_app_chat import ask, chat
from tests.tui.test_app_chat_models import LATEST, choose, two_models

pytestmark = pytest.mark.slow

SIZES = [(80, 24), (120, 40)]
sizes = pytest.mark.parametrize("size", SIZES, ids=["80x24", "120x40"])


async def enter(bench: AppBench, first: str) -> None:
    """Open the Chat tab with a steady cursor and a fixed seed."""
    bench.app.main.query_one("#prompt", PromptArea).cursor_blink = False
    await bench.pilot.press("c")
    bench.app.main.query_one("#field-seed", Input).value = "7"
    await bench.until_seen(first)


async def talk(bench: AppBench, *prompts: str) -> None:
    for prompt in prompts:
        await ask(bench, prompt)
        await bench.until(lambda: not chat(bench).replying)


@sizes
async def test_without_a_model_looks_as_in_the_snapshot(tmp_path: Path, size: tuple[int, int], snapshot: Snapshot):
    async with running_app(tmp_path, size=size) as bench:
        await enter(bench, "There is no model")
        await bench.settled()
        snapshot(bench.app, f"chat-no-model-{size[0]}")


@sizes
async def test_empty_looks_as_in_the_snapshot(tmp_path: Path, size: tuple[int, int], snapshot: Snapshot):
    two_models(tmp_path)
    async with running_app(tmp_path, size=size) as bench:
        await enter(bench, "Type the beginning")
        await bench.settled()
        snapshot(bench.app, f"chat-empty-{size[0]}")


@sizes
async def test_a_conversation_looks_as_in_the_snapshot(tmp_path: Path, size: tuple[int, int], snapshot: Snapshot):
    two_models(tmp_path)
    async with running_app(tmp_path, size=size, max_tokens=30) as bench:
        await enter(bench, "Type the beginning")
        await talk(bench, "Once upon a time", "")
        await bench.until_seen("(continued)")
        await bench.settled()
        snapshot(bench.app, f"chat-conversation-{size[0]}")


@sizes
async def test_two_models_look_as_in_the_snapshot(tmp_path: Path, size: tuple[int, int], snapshot: Snapshot):
    two_models(tmp_path)
    async with running_app(tmp_path, size=size, max_tokens=30) as bench:
        await enter(bench, "Type the beginning")
        await choose(bench, tmp_path / LATEST, compare=True)
        await talk(bench, "Once upon a time")
        await bench.settled()
        snapshot(bench.app, f"chat-two-{size[0]}")


@sizes
async def test_a_failed_reply_looks_as_in_the_snapshot(
    tmp_path: Path, size: tuple[int, int], snapshot: Snapshot, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    async with running_app(Path("models"), size=size) as bench:
        await enter(bench, "There is no model")
        await talk(bench, "Once upon a time")
        await bench.settled()
        snapshot(bench.app, f"chat-failed-{size[0]}")


async def test_the_light_theme_looks_as_in_the_snapshot(tmp_path: Path, snapshot: Snapshot):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), max_tokens=30) as bench:
        bench.app.theme = "gpt-day"
        await enter(bench, "Type the beginning")
        await choose(bench, tmp_path / LATEST, compare=True)
        await talk(bench, "Once upon a time")
        await bench.settled()
        snapshot(bench.app, "chat-two-day-120")
