"""Models of the chat: the one in training or a checkpoint; caching, changed and damaged files, options."""

import gc
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from textual.app import App, ComposeResult

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import Settings
from gpt_core.errors import CheckpointError, GptError
from gpt_core.formats.checkpoint import Checkpoint, TrainingState
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.model.parameters import initial_parameters
from gpt_core.model.scores import EvalScores
from gpt_core.model.stored_weights import StoredWeights
from gpt_core.run_files import METRICS
from gpt_core.tokenizers.pieces import PieceTokenizer
from gpt_core.training.request import RunRequest
from gpt_tui.run_view.model_select import ModelSelect
from gpt_tui.session.controller import TrainingController
from gpt_tui.session.model_options import (
    AUTOMATIC,
    NO_COMPARISON,
    AvailableModels,
    OtherModel,
    model_options,
    option_label,
)
from gpt_tui.session.models import ModelLoader
from gpt_tui.shared.keymap import with_keys
from gpt_tui.tabs.chat.presenter import EMPTY, NO_MODEL, hint
from tests.tui.app_bench import DEADLINE_S, screen_lines
from tests.tui.conftest import PassHours
from tests.tui.fake_trainer import SMALL, FakeOpen, fake_settings


def saved_model(folder: Path, kind: str, step: int, seed: int, **changes: object) -> None:
    shape = {name: getattr(SMALL, name) for name in SMALL.__struct_fields__}
    settings = msgspec.structs.replace(Settings(), **shape, models_dir=str(folder), **changes)
    tokenizer = PieceTokenizer.train([b"abc"], SMALL.vocab_size).to_bytes()
    parameters = initial_parameters(SMALL, seed)
    state = TrainingState(run_id="a", step=step, best_accuracy=0.1)
    with CheckpointStore(folder) as store:
        store.prepare("a", new_run=False)
        state_tensors = {"adam_m": parameters, "adam_v": parameters}
        store.save(kind, Checkpoint(settings, "", state, tokenizer, "0" * 64, parameters, state_tensors))


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[TrainingController]:
    controller = TrainingController(FakeOpen(), lambda _message: None, tmp_path / "log")
    yield controller
    controller.stop()
    controller.join(DEADLINE_S)


def test_the_model_in_training_is_preferred_to_a_checkpoint(controller: TrainingController, tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    models = ModelLoader(controller, str(tmp_path))
    assert models.load().name == "best_model, step 50"
    controller.start(RunRequest(fake_settings(str(tmp_path))))
    while controller.live_model() is None:
        controller.drain()
    assert models.load().name.startswith("in training, step ")
    controller.stop()
    while controller.alive:
        controller.drain()
    assert models.load().name == "best_model, step 50"


def test_a_checkpoint_is_loaded_again_only_after_a_change(controller: TrainingController, tmp_path: Path):
    models = ModelLoader(controller, str(tmp_path))
    with pytest.raises(GptError, match="no model yet"):
        models.load()
    saved_model(tmp_path, "latest", 10, seed=1)
    first = models.load()
    assert models.load() is first
    saved_model(tmp_path, "latest", 20, seed=2)
    second = models.load()
    assert second.name == "ckpt_latest, step 20"
    assert not np.array_equal(first.weights.flat, second.weights.flat)


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_a_model_is_loaded_in_the_format_of_the_field(
    controller: TrainingController, tmp_path: Path, weights: Literal["bfloat16", "int8"]
) -> None:
    saved_model(tmp_path, "best", 50, seed=1)
    models = ModelLoader(controller, str(tmp_path))
    small = models.load(weights=weights)
    assert small.name == f"best_model, step 50, {weights}"
    assert isinstance(small.weights, StoredWeights)
    assert small.weights.format == weights
    assert models.load(weights=weights) is small
    assert models.load().name == "best_model, step 50"
    controller.start(RunRequest(fake_settings(str(tmp_path))))
    while controller.live_model() is None:
        controller.drain()
    assert models.load(weights=weights).name.endswith(weights)
    controller.stop()
    while controller.alive:
        controller.drain()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_any_checkpoint_can_be_chosen(controller: TrainingController, tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    saved_model(tmp_path, "latest", 60, seed=2)
    models = ModelLoader(controller, str(tmp_path))
    reported: list[str] = []
    chosen = str(tmp_path / "ckpt_latest.safetensors")
    assert models.load(chosen, reported.append).name == "ckpt_latest, step 60"
    assert reported == ["loading ckpt_latest, 4.8 kB"]
    assert models.load(AUTOMATIC, reported.append).name == "best_model, step 50"
    controller.start(RunRequest(fake_settings(str(tmp_path))))
    while controller.live_model() is None:
        controller.drain()
    assert models.load(chosen).name == "ckpt_latest, step 60"


def test_two_checkpoints_are_cached_and_a_third_replaces_the_oldest(controller: TrainingController, tmp_path: Path):
    models = ModelLoader(controller, str(tmp_path))
    paths = []
    for kind in ("best", "latest", "final"):
        saved_model(tmp_path, kind, 50, seed=1)
        paths.append(str(CheckpointStore(tmp_path).path_of(kind)))
    flat = [weakref.ref(models.load(path).weights.flat) for path in paths]
    gc.collect()
    assert [cached() is not None for cached in flat] == [False, True, True]
    reported: list[str] = []
    models.load(paths[1], reported.append)
    models.load(paths[2], reported.append)
    assert reported == []


def test_the_error_names_a_chosen_file_that_is_damaged_or_missing(controller: TrainingController, tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    path = tmp_path / "best_model.safetensors"
    damage(path)
    models = ModelLoader(controller, str(tmp_path))
    with pytest.raises(CheckpointError, match=r"best_model.safetensors.*checksum"):
        models.load(str(path))
    path.unlink()
    with pytest.raises(CheckpointError, match=r"best_model.safetensors"):
        models.load(str(path))


def test_the_automatic_choice_skips_damaged_files_and_names_them(controller: TrainingController, tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    saved_model(tmp_path, "latest", 60, seed=2)
    damage(tmp_path / "best_model.safetensors")
    models = ModelLoader(controller, str(tmp_path))
    assert models.load().name == "ckpt_latest, step 60 (best_model: unusable)"
    (tmp_path / "best_model.safetensors").write_bytes(b"nothing")
    assert models.load().name == "ckpt_latest, step 60 (best_model: unusable)"
    damage(tmp_path / "ckpt_latest.safetensors")
    with pytest.raises(CheckpointError, match=r"no model yet in .* \(2 unusable files\)"):
        ModelLoader(controller, str(tmp_path)).load()


async def test_the_age_of_the_chosen_checkpoint_grows_without_a_new_choice(
    controller: TrainingController, tmp_path: Path, hours_pass: PassHours
):
    class SelectApp(App[None]):
        changes = 0

        def compose(self) -> ComposeResult:
            yield ModelSelect(compare=False, id="model")

        def on_select_changed(self) -> None:
            self.changes += 1

    saved_model(tmp_path, "latest", 60, seed=1)
    app = SelectApp()
    async with app.run_test(size=(80, 24)) as pilot:
        select = app.query_one(ModelSelect)
        select.show(ModelLoader(controller, str(tmp_path)).available())
        select.select(str(tmp_path / "ckpt_latest.safetensors"))
        await pilot.pause()
        changes = app.changes
        hours_pass(2)
        end = time.monotonic() + DEADLINE_S
        while "ckpt_latest · step 60 · latest · 2 h ago" not in (shown := screen_lines(app)):
            await pilot.pause(0.01)
            assert time.monotonic() < end, shown
        await pilot.pause()
        assert (app.changes, Path(select.selected).name) == (changes, "ckpt_latest.safetensors")


def test_every_checkpoint_is_an_option_and_the_best_is_first(controller: TrainingController, tmp_path: Path):
    models = ModelLoader(controller, str(tmp_path))
    assert [option.label for option in model_options(models.available(), AUTOMATIC, compare=False)] == [
        "automatic · none yet"
    ]
    saved_model(tmp_path, "final", 50, seed=1)
    saved_model(tmp_path, "best", 1200, seed=1)
    available = models.available()
    available = available._replace(now_s=max(info.saved_at for info in available.checkpoints) + 130)
    shown = model_options(available, AUTOMATIC, compare=False)
    assert [option.label for option in shown] == [
        "automatic · best_model · step 1,200",
        "best_model · step 1,200 · best · 2 min ago",
        "transformer · step 50 · final · 2 min ago",
    ]
    scored = available.checkpoints[0]
    scored.state.last_eval = EvalScores(1200, 4.2214, 0.25, 2.1)
    assert option_label(OtherModel(scored), available).startswith("best_model · step 1,200 · eval loss 4.221 · best · ")
    assert shown[1].value == str(tmp_path / "best_model.safetensors")
    assert [option.value for option in model_options(available, NO_COMPARISON, compare=True)] == [
        NO_COMPARISON,
        *(o.value for o in shown),
    ]
    assert model_options(available._replace(live=True), AUTOMATIC, compare=False)[0].label == "automatic · in training"


def test_a_checkpoint_of_another_folder_is_named_with_its_folder(controller: TrainingController, tmp_path: Path):
    saved_model(tmp_path / "second", "best", 50, seed=1)
    chosen = str(tmp_path / "second" / "best_model.safetensors")
    models = ModelLoader(controller, str(tmp_path))
    assert models.load(chosen).name == "second/best_model, step 50"
    assert model_options(models.available(), chosen, compare=True)[-1] == ("second/best_model", chosen)


def test_a_selected_file_that_is_missing_stays_an_option_with_escaped_name():
    assert model_options(AvailableModels(), "old\x1b[2J.safetensors", compare=True)[-1].label == "old␛[2J"


def test_an_empty_conversation_suggests_a_prompt_in_the_language_of_the_text(
    controller: TrainingController, tmp_path: Path
):
    assert hint(AvailableModels(), {}) == with_keys(NO_MODEL, {})
    models = ModelLoader(controller, str(tmp_path))
    assert hint(models.available(), {}) == with_keys(NO_MODEL, {})
    saved_model(tmp_path, "best", 50, seed=1, sample_prompt="话说\n天下")
    assert hint(models.available(), {}) == f"{with_keys(EMPTY, {})}\n\nFor example: 话说 天下"
    controller.start(RunRequest(msgspec.structs.replace(fake_settings(str(tmp_path)), sample_prompt="Über allen")))
    while controller.live_model() is None:
        controller.drain()
    assert hint(models.available(), {}) == f"{with_keys(EMPTY, {})}\n\nFor example: Über allen"


def saved_run(folder: Path, kind: str, step: int) -> Path:
    saved_model(folder, kind, step, seed=step)
    (folder / METRICS).write_text("")
    found = [info for info in CheckpointStore(folder).list() if isinstance(info, CheckpointInfo)]
    return next(info.path for info in found if info.step == step)


def test_the_models_of_other_runs_are_offered_those_in_training_first_then_the_newest(
    controller: TrainingController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    own = saved_run(Path("models"), "best", 10)
    old, live = saved_run(Path("models/old"), "best", 20), saved_run(Path("live"), "best", 25)
    new = saved_run(Path("new"), "best", 30)
    newest = saved_run(Path("new"), "latest", 40)
    with CheckpointStore(Path("live")) as store:
        store.prepare("a", new_run=False)
        available = ModelLoader(controller, "models").available()
    options = model_options(available, AUTOMATIC, compare=False)
    assert [option.value for option in options] == [AUTOMATIC, *map(str, (own, live, new, newest, old))]
    labels = [[*parts[:2], parts[-2]] for option in options[1:] if (parts := option.label.split(" · "))]
    assert labels == [
        ["best_model", "step 10", "best"],
        ["live/best_model", "step 25", "run in training"],
        ["new/best_model", "step 30", "best"],
        ["new/ckpt_latest", "step 40", "latest"],
        ["old/best_model", "step 20", "best"],
    ]
    models = ModelLoader(controller, "models")
    assert models.load(str(new)).name == "new/best_model, step 30"
    assert models.load().name == "best_model, step 10"


def test_without_a_model_in_the_folder_the_first_one_of_another_run_is_used(
    controller: TrainingController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    saved_run(Path("models/second"), "best", 20)
    models = ModelLoader(controller, "models")
    available = models.available()
    assert available.any
    assert model_options(available, AUTOMATIC, compare=False)[0].label == "automatic · second/best_model · step 20"
    assert models.load().name == "second/best_model, step 20"


def test_without_a_valid_model_in_the_folder_the_first_valid_one_of_other_runs_is_used(
    controller: TrainingController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    saved_run(Path("models/old"), "best", 10)
    broken = saved_run(Path("models/new"), "best", 20)
    content = bytearray(broken.read_bytes())
    content[-9] ^= 1
    broken.write_bytes(content)
    Path("models/best_model.safetensors").write_bytes(b"cut")
    models = ModelLoader(controller, "models")
    label = model_options(models.available(), AUTOMATIC, compare=False)[0].label
    assert label == "automatic · new/best_model · step 20", "its header is valid"
    assert models.load().name == "old/best_model, step 10 (best_model, new/best_model: unusable)"
