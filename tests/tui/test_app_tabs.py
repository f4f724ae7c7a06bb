"""Tabs of the main screen: keys that follow the key of a tab without a pause, as in a busy app."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_tui.app.preferences import Preferences
from gpt_tui.new_run.screen import SetupScreen
from gpt_tui.run_view.model_select import ModelSelect
from gpt_tui.tabs.runs.runs_table import RunsTable
from tests.tui.app_bench import AppBench, running_app
from tests.tui.inside_samples import save_model
from tests.tui.log_samples import run_events, write_log

pytestmark = pytest.mark.slow


def focused(bench: AppBench, kind: type) -> bool:
    return isinstance(bench.app.main.focused, kind)


CASES: dict[str, tuple[str, str, Callable[[AppBench], bool]]] = {
    "Train opens the set-up screen": ("f2", "u", lambda bench: isinstance(bench.app.screen, SetupScreen)),
    "Chat moves to its settings": ("f3", "f7", lambda bench: focused(bench, ModelSelect)),
    "Checkpoints asks about a deletion": ("f4", "d", lambda bench: bench.app.screen.is_modal),
    "Runs marks a run": ("f5", "space", lambda bench: len(bench.app.main.runs._marks) == 1),
    "Inside chooses a view": ("f6", "4", lambda bench: bench.app.main.inside._view.name == "heads"),
}


@pytest.mark.parametrize(("tab", "key", "is_done"), CASES.values(), ids=CASES)
async def test_a_key_that_follows_that_of_its_tab_at_once_reaches_the_tab(
    tmp_path: Path, tab: str, key: str, is_done: Callable[[AppBench], bool]
) -> None:
    save_model(tmp_path)
    write_log(tmp_path, run_events(100))
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("f4")
        await bench.until_seen("✓ OK")
        await bench.pilot.press("f5")
        await bench.until(lambda: focused(bench, RunsTable) and bool(bench.app.main.runs._runs))
        await bench.pilot.press("f4" if tab == "f5" else "f5")
        await bench.settled()
        bench.app.simulate_key(tab)
        bench.app.simulate_key(key)
        await bench.until(lambda: is_done(bench))


LEAVING: dict[str, tuple[str, list[str], str]] = {
    "Chat leaves its prompt": ("f3", [], "escape"),
    "Chat leaves its settings": ("f3", ["f7"], "f7"),
    "Chat moves to its settings": ("f3", [], "f7"),
    "Inside leaves its text": ("f6", ["e"], "escape"),
    "Inside submits its text": ("f6", ["e"], "enter"),
    "Inside moves to its text": ("f6", [], "e"),
    "Inside leaves a list": ("f6", ["m"], "escape"),
    "Inside opens a list": ("f6", [], "m"),
}


@pytest.mark.parametrize("tab", ["f2", "f5"])
@pytest.mark.parametrize(("left", "before", "key"), LEAVING.values(), ids=LEAVING)
async def test_the_focus_does_not_stay_in_a_tab_that_is_left_while_it_moves(
    tmp_path: Path, left: str, before: list[str], key: str, tab: str
) -> None:
    save_model(tmp_path)
    write_log(tmp_path, run_events(100))
    async with running_app(tmp_path) as bench:
        await bench.pilot.press(left, *before)
        await bench.settled()
        bench.app.simulate_key(key)
        bench.app.simulate_key(tab)
        await bench.settled()
        main = bench.app.main
        assert main.tab == {"f2": "train", "f5": "runs"}[tab]
        assert main.focused is None or main.pane in main.focused.ancestors_with_self
        assert not any(select.expanded for select in main.query(ModelSelect))


async def test_empty_tabs_name_the_keys_that_the_preferences_choose(tmp_path: Path) -> None:
    keys = {"go.train": "f11", "train.start": "f12"}
    async with running_app(tmp_path, preferences=Preferences(keys=keys)) as bench:
        for tab, words in (
            ("f3", "Train tab (F11) and"),
            ("f4", "F11, then F12."),
            ("f5", "F11, then F12, starts a run here."),
        ):
            await bench.pilot.press(tab)
            await bench.until(lambda words=words: words in " ".join(bench.text().replace("│", "").split()))
