"""Samples in the app: scrolling, following the newest, and the cursor of the charts."""

from pathlib import Path

import pytest
from textual.app import App, ComposeResult
from textual.widgets import ContentSwitcher

from gpt_core.training.events import RunPaused
from gpt_tui.charts.chart_keys import ChartKeys
from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.run_view.log_panel import LogPanel
from gpt_tui.run_view.samples_panel import SamplesPanel
from gpt_tui.session.controller import TrainingController
from gpt_tui.session.phase import Phase
from gpt_tui.session.run_events import advance, advance_all
from gpt_tui.session.run_state import RunState
from gpt_tui.tabs.train.pane import TrainTab
from tests.tui.app_bench import running_app, screen_lines, settled
from tests.tui.fake_trainer import FakeOpen, FakeTrainer
from tests.tui.samples import learned, sampled, scored, started, step
from tests.tui.still_app import still_app

pytestmark = pytest.mark.slow

PAUSED = advance(learned(), RunPaused(650))
LATER = advance_all(PAUSED, [step(800, 3.0), scored(800, 0.29), sampled(800, " the newest words of all")])


async def test_the_newest_sample_stays_in_view(monkeypatch: pytest.MonkeyPatch):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (80, 24)) as (app, pilot):
        assert "★ step 600" in screen_lines(app)
        app.controller.run = LATER
        app.main.show(at_once=True)
        await pilot.pause()
        assert "the newest words of all" in screen_lines(app)


async def test_a_scrolled_position_is_kept_until_the_end_key(monkeypatch: pytest.MonkeyPatch):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (80, 24)) as (app, pilot):
        await pilot.press("home")
        assert "untrained" in screen_lines(app)
        app.controller.run = LATER
        app.main.show(at_once=True)
        await pilot.pause()
        assert "untrained" in screen_lines(app)
        await pilot.press("end")
        assert "the newest words of all" in screen_lines(app)


async def test_keys_scroll_by_sample_and_by_page(monkeypatch: pytest.MonkeyPatch):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (80, 24)) as (app, pilot):
        pane = app.main.query_one(SamplesPanel)
        starts = pane._timeline.starts
        await pilot.press("home", "down")
        assert pane.scroll_y == starts[1]
        await pilot.press("down", "down", "up")
        assert pane.scroll_y == starts[2]
        before = pane.scroll_y
        await pilot.press("pageup")
        assert pane.scroll_y == before - (pane.scrollable_content_region.height - 1)
        await pilot.press("up", "up", "up", "up")
        assert pane.scroll_y == 0


async def test_the_mouse_wheel_scrolls_the_samples(monkeypatch: pytest.MonkeyPatch):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (120, 40)) as (app, pilot):
        pane = app.main.query_one(SamplesPanel)
        end = pane.scroll_y
        pane._on_mouse_scroll_up(_wheel(pane))
        await settled(app, pilot)
        assert pane.scroll_y < end


def _wheel(pane: SamplesPanel):  # type: ignore[no-untyped-def]
    from textual.events import MouseScrollUp

    return MouseScrollUp(pane, 1, 1, 0, -1, 0, False, False, False)


async def test_the_cursor_of_the_charts_shows_the_sample_of_that_time(monkeypatch: pytest.MonkeyPatch):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (80, 24)) as (app, pilot):
        charts = app.main.query_one(TrainTab).charts
        pane = app.main.query_one(SamplesPanel)
        await pilot.press("comma")
        assert charts.view.cursor == 650
        await pilot.press(*["comma"] * 50)
        assert 150 < charts.view.cursor < 300
        await pilot.pause()
        assert pane.scroll_y == pane._timeline.starts[1]
        assert "smoothed" in app.main.query_one("#charts .loss").border_title or "⠒⠒" in screen_lines(app)
        await pilot.press("full_stop")
        assert charts.view.cursor > 250 or charts.view.cursor > 150
        await pilot.press("escape")
        await pilot.pause()
        assert charts.view.cursor is None
        assert pane.scroll_y == pane.max_scroll_y


async def test_a_sample_higher_than_the_panel_shows_its_first_line(monkeypatch: pytest.MonkeyPatch):
    history = advance(PAUSED, sampled(650, " and on it went" * 40))
    async with still_app(monkeypatch, history, Phase.PAUSED, (80, 24)) as (app, pilot):
        assert "◇ step 650" in screen_lines(app)
        await pilot.press("pagedown")
        assert "◇ step 650" not in screen_lines(app)


async def test_a_new_sample_does_not_move_the_marked_one_and_escape_restores_the_position(
    monkeypatch: pytest.MonkeyPatch,
):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (80, 24)) as (app, pilot):
        pane = app.main.query_one(SamplesPanel)
        await pilot.press("home", "down", "down")
        left_at = pane.scroll_y
        await pilot.press(*["comma"] * 66)
        await pilot.pause()
        marked_at = pane.scroll_y
        assert marked_at != left_at
        app.controller.run = LATER
        app.main.show(at_once=True)
        await pilot.pause()
        assert pane.scroll_y == marked_at
        await pilot.press("escape")
        await pilot.pause()
        assert pane.scroll_y == left_at


async def test_the_cursor_works_while_the_log_is_shown(monkeypatch: pytest.MonkeyPatch):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (80, 24)) as (app, pilot):
        await pilot.press("v", "comma", "comma", "comma", "home", "v", "v")
        await pilot.pause()
        assert "step 600" in screen_lines(app)


async def test_the_panels_key_shows_log_then_samples_only_then_all(monkeypatch: pytest.MonkeyPatch):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (80, 24)) as (app, pilot):
        pane = app.main.query_one(TrainTab)
        samples, log, charts = (pane.query_one(kind) for kind in (SamplesPanel, LogPanel, RunCharts))
        assert (samples.display, log.display) == (True, False)
        await pilot.press("v")
        assert (samples.display, log.display) == (False, True)
        await settled(app, pilot)
        assert "paused at step 650" in screen_lines(app)
        await pilot.press("v")
        await pilot.pause()
        assert (samples.display, log.display, charts.size.height) == (True, False, 0)
        assert samples.size.height >= 19
        await pilot.press("v")
        await pilot.pause()
        assert charts.size.height > 8
        await pilot.resize_terminal(120, 40)
        await pilot.pause()
        assert (samples.display, log.display) == (True, True)


async def test_chart_keys_are_hidden_with_the_charts(monkeypatch: pytest.MonkeyPatch):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (120, 40)) as (app, pilot):
        view = app.main.train.charts.view
        assert "l Log" in screen_lines(app).splitlines()[-1]
        await pilot.press("v")
        assert "l Log" not in screen_lines(app).splitlines()[-1]
        await pilot.press("l", "a", "comma", "plus")
        assert app.main.train.charts.view == view
        await pilot.press("v")
        assert "l Log" in screen_lines(app).splitlines()[-1]


async def test_text_of_a_model_is_neither_markup_nor_an_escape_sequence(tmp_path: Path):
    async with running_app(tmp_path, size=(120, 40), opener=FakeOpen(step_s=0.0002), autostart=True) as bench:
        await bench.until_seen("␛[31mof training")
        assert "It was [b]the text[/b] after " in bench.text()


async def test_sample_and_chart_keys_need_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    async with running_app(tmp_path) as bench:
        assert bench.app.main.train.check_action("switch_notes", ()) is False
        assert bench.app.main.train.query_one(ChartKeys).check_action("log_scale", ()) is False
        assert bench.app.main.query_one("#train-switcher", ContentSwitcher).current == "welcome"


async def test_a_run_that_starts_with_little_disk_space_warns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(FakeTrainer, "warnings", ("models: 5 MB free, make room",))
    async with running_app(tmp_path, size=(120, 40), autostart=True) as bench:
        await bench.until_step(10)
        await bench.until_seen("• models: 5 MB free, make room")
        assert any(line.text == "models: 5 MB free, make room" for line in bench.app.controller.run.log)
        assert isinstance(bench.app.controller, TrainingController)


async def test_the_current_sample_of_another_run_is_its_newest_while_the_panel_is_hidden() -> None:
    class PanelApp(App[None]):
        def compose(self) -> ComposeResult:
            yield SamplesPanel(id="samples")

    def run_with(samples: int) -> RunState:
        return advance_all(RunState(), [started(), *(sampled(number, f" text {number}") for number in range(samples))])

    app = PanelApp()
    async with app.run_test(size=(80, 24)) as pilot:
        panel = app.query_one(SamplesPanel)
        await pilot.pause()
        panel.show(run_with(5))
        panel.display = False
        await pilot.pause()
        longer, other = run_with(6), run_with(2)
        panel.show(longer)
        assert panel.current == longer.samples[-1]
        panel.show(other)
        assert panel.current == other.samples[-1]
        panel.display = True
        await pilot.pause()
        await pilot.pause()
        assert panel.current == other.samples[-1]
