"""The line of keys: what fits, what a click means, and that it follows the tab."""

import itertools
from pathlib import Path

import pytest

from gpt_tui.session.phase import Phase
from gpt_tui.shared.footer import FooterBar
from gpt_tui.shared.footer_layout import FooterKey, key_at, placed
from tests.tui.app_bench import running_app

KEYS = [FooterKey("l", "l", "Log scale"), FooterKey("a", "a", "Axis"), FooterKey("f1", "F1", "Help")]
PALETTE = FooterKey("ctrl+p", "^p", "palette")


def test_keys_stand_side_by_side_and_the_palette_at_the_right_edge():
    line = placed(KEYS, PALETTE, 60)
    assert [(start, key.label) for start, key in line] == [
        (0, "Log scale"),
        (13, "Axis"),
        (21, "Help"),
        (48, "palette"),
    ]
    assert line[-1].column + PALETTE.width == 60


def test_no_key_is_ever_cut():
    for width in range(80):
        line = placed(KEYS, PALETTE, width)
        assert all(start + key.width <= width for start, key in line)
        for (start, key), (next_start, _) in itertools.pairwise(line):
            assert start + key.width <= next_start
    assert [key.label for _, key in placed(KEYS, PALETTE, 30)] == ["Log scale", "palette"]
    assert placed(KEYS, PALETTE, 5) == []


def test_help_and_quit_are_shown_where_other_keys_do_not_fit():
    kept = [key._replace(kept=key.label == "Help") for key in KEYS]
    assert [key.label for _, key in placed(kept, PALETTE, 34)] == ["Log scale", "Help", "palette"]
    assert [key.label for _, key in placed(kept, PALETTE, 22)] == ["Help", "palette"]
    for width in range(80):
        shown = [key.label for _, key in placed(kept, PALETTE, width)]
        assert shown == [label for label in ("Log scale", "Axis", "Help", "palette") if label in shown]


def test_a_column_belongs_to_the_key_that_covers_it():
    line = placed(KEYS, PALETTE, 60)
    assert [key and key.label for key in (key_at(line, column) for column in (0, 12, 13, 30, 48, 59))] == [
        "Log scale", "Log scale", "Axis", None, "palette", "palette",
    ]  # fmt: skip


@pytest.mark.slow
async def test_it_names_the_keys_of_the_tab_that_is_shown(tmp_path: Path):
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_seen("l Log")
        await bench.pilot.press("f3")
        await bench.until_seen("^r Retry")
        assert "l Log" not in bench.text().splitlines()[-1]
        assert bench.text().splitlines()[-1].rstrip().endswith("^p palette")


@pytest.mark.slow
async def test_a_click_presses_the_key(tmp_path: Path):
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await bench.until_seen("F1 Help")
        bar = bench.app.main.query_one(FooterBar)
        column = next(start for start, key in bar.line if key.label == "Help")
        await bench.pilot.click(FooterBar, offset=(column + 1, 0))
        await bench.until_seen("esc close")
        assert bench.phase is Phase.IDLE
