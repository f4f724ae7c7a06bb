"""Fine-tuning in the app: from a checkpoint over the set-up screen to a run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from textual.widgets import Input

from gpt_core.config.resolve import Resolved
from gpt_core.config.settings import GROUP_RATES, Settings
from gpt_core.errors import CheckpointError, GptError
from gpt_core.training.fine_tuning import settings_to_fine_tune
from gpt_tui.new_run.form import SetupForm
from gpt_tui.new_run.screen import SetupScreen
from gpt_tui.tabs.checkpoints.pane import CheckpointsTab
from gpt_tui.tabs.train import run_requests
from tests.tui.app_bench import DEADLINE_S, AppBench, running_app
from tests.tui.conftest import Snapshot
from tests.tui.fake_probes import fake_probes
from tests.tui.stored_files import SMALL, fill, save

MODELS = Path("models")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def press_on_a_checkpoint(bench: AppBench, key: str) -> None:
    """Press a key on the first row of the Checkpoints tab, once its file is verified."""
    pane = bench.app.main.query_one(CheckpointsTab)
    await bench.pilot.press("f4")
    await bench.until(lambda: bool(pane._contents.files) and not pane._scanning and pane._thread is None)
    await bench.pilot.press(key)


@pytest.mark.slow
@pytest.mark.usefixtures("fixed_activation_memory")
async def test_f_on_a_checkpoint_sets_up_a_run_that_starts_from_it_in_a_folder_of_its_own(snapshot: Snapshot) -> None:
    path = save(MODELS / "best_model.safetensors", 65, step=600)
    Path("my.txt").write_text("A ship lay in the harbour.\n" * 100)
    async with running_app(MODELS, size=(80, 24)) as bench:
        await press_on_a_checkpoint(bench, "f")
        screen = await bench.until_set_up()
        assert bench.app.focused is not None
        assert bench.app.focused.id == "setting-train_file"
        await bench.settled()
        snapshot(bench.app, "fine_tuning_setup_80x24")
        assert screen.form.texts["init_from"] == str(path)
        await bench.pilot.press(*"my.txt", "ctrl+t")
        await bench.until_step(1)
        settings = bench.opener.requests[0].settings
    assert (settings.init_from, settings.models_dir, settings.train_file) == (str(path), "models-2", "my.txt")
    assert settings.shape == SMALL.shape
    assert [getattr(settings, group) for group in GROUP_RATES] == [9e-4] * 5
    assert bench.opener.requests[0].overwrite is False


class HeldReading:
    """A reading of the settings to fine-tune with that ends when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: GptError | None = None) -> None:
        self._may_end = threading.Event()
        self._error = error
        monkeypatch.setattr(run_requests, "settings_to_fine_tune", self._read)

    def _read(self, path: Path, here: Settings) -> Resolved:
        assert self._may_end.wait(DEADLINE_S)
        if self._error is not None:
            raise self._error
        return settings_to_fine_tune(path, here)

    def end(self) -> None:
        self._may_end.set()


@pytest.mark.slow
async def test_the_form_opens_before_its_checkpoint_is_read_and_what_is_typed_goes_to_its_first_field(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = HeldReading(monkeypatch)
    save(MODELS / "best_model.safetensors", 65, step=600)
    async with running_app(MODELS, size=(80, 24)) as bench:
        await press_on_a_checkpoint(bench, "f")
        await bench.until_seen("opening …")
        assert isinstance(bench.app.screen, SetupScreen)
        await bench.pilot.press(*"dcr.txt", "down", *"v")  # keys of the Checkpoints tab among them
        reading.end()
        screen = await bench.until_set_up()
        await bench.until(lambda: screen.form.texts["eval_file"] == "v")
        assert screen.form.texts["train_file"] == "dcr.txt"
        assert "opening" not in bench.text()
        await bench.pilot.press("escape")
        await bench.until(lambda: not isinstance(bench.app.screen, SetupScreen))
        assert bench.app.main.tab == "checkpoints"
        assert not bench.opener.requests


@pytest.mark.slow
async def test_with_several_ranks_each_has_a_micro_batch_of_a_run_that_starts_from_a_checkpoint() -> None:
    save(MODELS / "best_model.safetensors", 65, step=600)
    async with running_app(MODELS, size=(80, 24), probes=fake_probes(hosts=("a", "b", "c", "d"))) as bench:
        await press_on_a_checkpoint(bench, "f")
        await bench.until_set_up()
        assert bench.app.screen.query_one("#setting-micro_batch_size", Input).value == "4"
        await bench.pilot.press("f9")
        await bench.until_step(1)
        assert bench.opener.requests[0].settings.micro_batches == 4


@pytest.mark.slow
async def test_escape_leaves_a_form_whose_checkpoint_is_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = HeldReading(monkeypatch)
    save(MODELS / "best_model.safetensors", 65, step=600)
    async with running_app(MODELS, size=(80, 24)) as bench:
        before = bench.app.main.train.settings
        await press_on_a_checkpoint(bench, "f")
        await bench.until_seen("opening …")
        await bench.pilot.press("x", "escape")
        await bench.until(lambda: not isinstance(bench.app.screen, SetupScreen))
        reading.end()
        await bench.pilot.press("f")
        await bench.until_set_up()
        assert bench.app.main.train.settings == before


@pytest.mark.slow
async def test_a_checkpoint_that_cannot_be_read_closes_the_form_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = HeldReading(monkeypatch, CheckpointError("the file is gone"))
    save(MODELS / "best_model.safetensors", 65, step=600)
    async with running_app(MODELS, size=(80, 24)) as bench:
        await press_on_a_checkpoint(bench, "f")
        await bench.until_seen("opening …")
        reading.end()
        await bench.until(lambda: not isinstance(bench.app.screen, SetupScreen))
        await bench.until(lambda: any("file is gone" in notice.message for notice in bench.app._notifications))
        assert bench.app.main.tab == "checkpoints"


@pytest.mark.slow
@pytest.mark.parametrize("fields_are_mounted", [False, True])
async def test_an_app_that_ends_while_the_form_opens_raises_no_error(
    monkeypatch: pytest.MonkeyPatch, *, fields_are_mounted: bool
) -> None:
    opened = asyncio.Event()
    show_fields = SetupForm.show_fields

    async def end(form: SetupForm, preset_name: str, texts: Mapping[str, str]) -> None:
        boxes = form.query_one("#setup-fields")
        if fields_are_mounted:
            await show_fields(form, preset_name, texts)
            await boxes.remove_children()  # the innermost widgets go first
        else:
            await boxes.remove()
            await show_fields(form, preset_name, texts)
        opened.set()

    monkeypatch.setattr(SetupForm, "show_fields", end)
    async with running_app(MODELS, size=(80, 24)) as bench:
        await bench.until_seen("Change model, text or learning rate")
        await bench.pilot.press("u")
        await asyncio.wait_for(opened.wait(), DEADLINE_S)
        await bench.pilot.pause()


@pytest.mark.slow
async def test_leaving_the_set_up_of_fine_tuning_changes_nothing() -> None:
    save(MODELS / "best_model.safetensors", 65, step=600)
    async with running_app(MODELS, size=(80, 24)) as bench:
        before = bench.app.main.train.settings
        await press_on_a_checkpoint(bench, "f")
        await bench.until_set_up()
        await bench.pilot.press("escape")
        await bench.until(lambda: not isinstance(bench.app.screen, SetupScreen))
        assert bench.app.main.train.settings == before
        assert bench.app.main.tab == "checkpoints"


@pytest.mark.slow
async def test_a_damaged_file_or_a_run_in_progress_is_no_start_and_says_why() -> None:
    fill(MODELS)
    async with running_app(MODELS, size=(120, 40)) as bench:
        await press_on_a_checkpoint(bench, "end")
        await bench.pilot.press("f")
        await bench.until(lambda: any("cannot fine-tune" in notice.message for notice in bench.app._notifications))
        await bench.pilot.press("f2", "s")
        await bench.until_step(1)
        await press_on_a_checkpoint(bench, "home")
        await bench.pilot.press("f")
        await bench.until(
            lambda: any("then fine-tune from here" in notice.message for notice in bench.app._notifications)
        )
        assert not isinstance(bench.app.screen, SetupScreen)


@pytest.mark.slow
async def test_a_path_typed_into_the_form_fills_the_fields_of_its_model() -> None:
    path = save(MODELS / "best_model.safetensors", 65, step=600)
    async with running_app(Path("other"), size=(120, 40)) as bench:
        await bench.pilot.press("u")
        screen = await bench.until_set_up()
        screen.query_one("#setting-init_from", Input).value = str(path)
        await bench.until(lambda: screen.form.texts["d_model"] == "8")
        assert screen.form.texts["learning_rate"] == "0.0009"
        assert screen._validated.problems == {}
        screen.query_one("#setting-init_from", Input).value = ""
        await bench.until(lambda: screen.form.texts["d_model"] == "128")
        assert screen.form.texts["learning_rate"] == "0.003"


@pytest.mark.slow
async def test_a_self_test_of_trained_weights_has_the_full_rates_and_no_time_budget() -> None:
    path = save(Path("start.safetensors"), 65, step=600)
    rates = dict.fromkeys(GROUP_RATES, 3e-4)
    async with running_app(MODELS, init_from=str(path), **rates, overfit_steps=60, minutes=5.0) as bench:  # type: ignore[arg-type]
        await bench.pilot.press("o")
        await bench.until_step(1)
        settings = bench.opener.requests[0].settings
    assert settings.overfit_tiny
    assert settings.minutes == 0
    assert {getattr(settings, group) for group in GROUP_RATES} == {3e-3}
