"""Layout at usual and extreme terminal sizes: required text, nothing cut off, contrast."""

import re
from pathlib import Path

import pytest
from textual.app import App
from textual.color import Color

from gpt_tui.run_view.status_panel import StatusPanel
from gpt_tui.session.phase import Phase
from gpt_tui.shared.button_row import ButtonRow
from gpt_tui.shared.theme import own_variables
from tests.tui.app_bench import AppBench, running_app
from tests.tui.fake_trainer import FakeOpen

pytestmark = pytest.mark.slow

SIZES = [(80, 24), (120, 40), (160, 50)]


def take_picture(bench: AppBench, folder: Path) -> str:
    """Export a screenshot as SVG and return its text."""
    path = folder / "picture.svg"
    path.write_text(bench.app.export_screenshot(), encoding="utf-8")
    return path.read_text(encoding="utf-8").replace("&#160;", " ")


@pytest.mark.parametrize("size", SIZES)
async def test_the_welcome_view_shows_what_a_start_would_train(tmp_path: Path, size: tuple[int, int]):
    async with running_app(tmp_path, size=size) as bench:
        await bench.until_seen("Start training the nano preset on train.en")
        for words in ("1,194,752 parameters", "up to 20 epochs", "○ ready", "x Stop", "Help", "palette"):
            assert words in bench.text()
        assert "Train a GPT from scratch" in take_picture(bench, tmp_path)


@pytest.mark.parametrize("size", SIZES)
async def test_a_run_shows_curves_numbers_and_log(tmp_path: Path, size: tuple[int, int]):
    async with running_app(
        tmp_path, size=size, opener=FakeOpen(step_s=0.0002), max_steps=500_000, autostart=True
    ) as bench:
        await bench.until_step(800)
        await bench.pilot.press("p")
        await bench.until_phase(Phase.PAUSED)
        await bench.settled()
        if size == (80, 24):  # one chart, one line of figures
            for words in ("step", "train loss", "eval loss", "time left", "⠒⠒ train"):
                assert words in bench.text(), words
            assert "perplexity" not in bench.text()
            await bench.pilot.press("i")
            await bench.settled()
        shown = bench.text()
        legend = () if size == (80, 24) else ("⠒⠒ train", "⠐⠶⠂ eval", "★ best")  # no room for it beside the panel
        for words in (
            *legend, "perplexity", "step", "epoch", "time left", "throughput",
            "train loss", "eval loss", "bits/byte", "not improved", "saved", "‖ paused", "Continue", "Axis",
        ):  # fmt: skip
            assert words in shown, words
        assert any(0x2800 < ord(character) <= 0x28FF for character in shown)
        panel = bench.app.main.query_one(StatusPanel)
        assert all(len(line) <= panel.size.width for line in panel.render().plain.splitlines())
        picture = take_picture(bench, tmp_path)
        assert "paused" in picture
        assert "perplexity" in picture


@pytest.mark.parametrize("size", SIZES)
async def test_no_button_is_cut_off(tmp_path: Path, size: tuple[int, int]):
    async with running_app(tmp_path, size=size) as bench:
        controls = bench.app.main.query_one(ButtonRow)
        for button in controls.children:
            assert button.region.right <= size[0]
            assert button.region.width >= len(str(button.label))
            assert button.region.height >= 1


@pytest.mark.parametrize("size", SIZES)
async def test_the_chat_shows_all_its_settings(tmp_path: Path, size: tuple[int, int]):
    async with running_app(tmp_path, size=size) as bench:
        await bench.pilot.press("c")
        await bench.until_seen("There is no model to chat with yet.")
        for words in (
            "temperature",
            "top-k",
            "top-p",
            "repetition",
            "max tokens",
            "seed",
            "random",
            "empty = random",
        ):
            assert words in bench.text()


async def test_other_themes_show_the_same_text(tmp_path: Path):
    async with running_app(tmp_path, opener=FakeOpen(step_s=0.0002), autostart=True) as bench:
        await bench.until_step(300)
        await bench.pilot.press("p")
        await bench.until_phase(Phase.PAUSED)
        for theme in ("textual-light", "nord", "solarized-light", "monokai", "gpt-night"):
            bench.app.theme = theme
            await bench.pilot.pause()
            for words in ("It was", "⠒⠒ train", "Continue"):
                assert words in bench.text(), theme


@pytest.mark.parametrize("size", [(1, 1), (12, 24), (20, 5), (79, 10), (300, 100)])
async def test_extreme_terminal_sizes_work(tmp_path: Path, size: tuple[int, int]):
    async with running_app(tmp_path, size=(80, 24), autostart=True) as bench:
        await bench.until_step(30)
        await bench.resize(*size)
        for tab in ("f3", "f4", "f5", "f6", "f2"):
            await bench.pilot.press(tab)
            await bench.pilot.pause()
        await bench.pilot.resize_terminal(80, 24)
        await bench.until_seen("▶ training")


@pytest.mark.parametrize("keys", [["f3"], ["f3", "I", "t"], ["f4"], ["f6"], ["u"], ["ctrl+p", "a"]], ids="-".join)
async def test_a_terminal_may_become_narrow(tmp_path: Path, keys: list[str]):
    async with running_app(tmp_path, size=(80, 24)) as bench:
        await bench.pilot.press(*keys)
        await bench.pilot.pause()
        for columns in range(15, 0, -1):
            await bench.resize(columns, 24)


async def test_a_test_of_an_app_that_crashes_ends_at_once(tmp_path: Path):
    async def wait_in_vain() -> None:
        async with running_app(tmp_path) as bench:
            bench.app.call_later(lambda: 1 / 0)
            await bench.until_seen("what is never shown")

    with pytest.raises(ZeroDivisionError):
        await wait_in_vain()


def test_frames_differ_from_the_focused_frame_in_every_theme() -> None:
    for theme in App().available_themes.values():
        if "ansi" not in theme.name:
            assert own_variables(theme)["frame"].lower() != theme.primary.lower()


def luminance(color: Color) -> float:
    """Return the relative luminance of WCAG 2."""
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in color.normalized)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_evaluation_marks_have_contrast_in_every_theme() -> None:
    for theme in App().available_themes.values():
        if "ansi" not in theme.name:
            background = luminance(Color.parse(theme.to_color_system().generate()["background"]))
            for name in ("mark", "best"):
                mark = luminance(Color.parse(own_variables(theme)[name]))
                ratio = (max(mark, background) + 0.05) / (min(mark, background) + 0.05)
                assert ratio >= 3.0, (theme.name, name)  # what WCAG asks of what must be seen


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_title_has_a_space_on_each_side(tmp_path: Path, size: tuple[int, int]) -> None:
    async with running_app(tmp_path, size=size, autostart=True) as bench:
        await bench.until_step(5)
        for title in ("samples  v", "train loss", *(("run", "perplexity") if size[0] > 80 else ())):
            assert re.search(f"[─┌╭] {title}.* ─", bench.text()), title
        assert not re.search("─[a-z]|[a-z]─", bench.text())


async def test_the_chat_has_titles(tmp_path: Path) -> None:
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("f3")
        await bench.until_seen("─ conversation ─")
        assert "─ prompt ─" in bench.text()
