"""Which model answers: the one in training or a checkpoint, which are kept, which are read again, which are damaged."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import Settings
from gpt_core.errors import CheckpointError, GptError
from gpt_core.formats.checkpoint import Checkpoint, TrainingState
from gpt_core.model.parameters import initial_parameters
from gpt_core.tokenizers.pieces import PieceTokenizer
from gpt_tui.session.controller import RunRequest, TrainingController
from gpt_tui.tabs.chat.loaded_models import ChatModels
from gpt_tui.tabs.chat.model_options import AUTOMATIC, NOBODY, Listed, offers
from tests.tui.app_bench import DEADLINE_S
from tests.tui.fake_trainer import SMALL, FakeOpen, fake_settings


def saved_model(folder: Path, kind: str, step: int, seed: int) -> None:
    settings = msgspec.structs.replace(
        Settings(), **{name: getattr(SMALL, name) for name in SMALL.__struct_fields__}, models_dir=str(folder)
    )
    tokenizer = PieceTokenizer.train([b"abc"], SMALL.vocab_size).to_bytes()
    parameters = initial_parameters(SMALL, seed)
    state = TrainingState(run_id="a", step=step, best_accuracy=0.1)
    with CheckpointStore(folder) as store:
        store.prepare("a", new_run=False)
        store.save(kind, Checkpoint(settings, "", state, tokenizer, "0" * 64, parameters, (parameters, parameters)))


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[TrainingController]:
    controller = TrainingController(FakeOpen(), lambda _message: None, tmp_path / "log")
    yield controller
    controller.stop()
    controller.join(DEADLINE_S)


def test_the_model_in_training_answers_while_there_is_one(controller: TrainingController, tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    models = ChatModels(controller, str(tmp_path))
    assert models.answerer().name == "best_model, step 50"
    controller.start(RunRequest(fake_settings(str(tmp_path))))
    while controller.live_model() is None:
        controller.drain()
    assert models.answerer().name.startswith("in training, step ")
    controller.stop()
    while controller.alive:
        controller.drain()
    assert models.answerer().name == "best_model, step 50"


def test_a_checkpoint_is_read_once_and_again_when_it_is_another(controller: TrainingController, tmp_path: Path):
    models = ChatModels(controller, str(tmp_path))
    with pytest.raises(GptError, match="no model to chat with"):
        models.answerer()
    saved_model(tmp_path, "latest", 10, seed=1)
    first = models.answerer()
    assert models.answerer() is first
    saved_model(tmp_path, "latest", 20, seed=2)
    second = models.answerer()
    assert second.name == "ckpt_latest, step 20"
    assert not np.array_equal(first.parameters.flat, second.parameters.flat)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_any_checkpoint_answers_when_it_is_chosen(controller: TrainingController, tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    saved_model(tmp_path, "latest", 60, seed=2)
    models = ChatModels(controller, str(tmp_path))
    told: list[str] = []
    chosen = str(tmp_path / "ckpt_latest.safetensors")
    assert models.answerer(chosen, told.append).name == "ckpt_latest, step 60"
    assert told == ["reading ckpt_latest, 4.8 kB"]
    assert models.answerer(AUTOMATIC, told.append).name == "best_model, step 50"
    controller.start(RunRequest(fake_settings(str(tmp_path))))
    while controller.live_model() is None:
        controller.drain()
    assert models.answerer(chosen).name == "ckpt_latest, step 60"


def test_two_checkpoints_are_kept_and_a_third_takes_the_place_of_the_oldest(
    controller: TrainingController, tmp_path: Path
):
    models = ChatModels(controller, str(tmp_path))
    paths = []
    for kind in ("best", "latest", "final"):
        saved_model(tmp_path, kind, 50, seed=1)
        paths.append(str(CheckpointStore(tmp_path).path_of(kind)))
    flat = [weakref.ref(models.answerer(path).parameters.flat) for path in paths]
    gc.collect()
    assert [kept() is not None for kept in flat] == [False, True, True]
    told: list[str] = []
    models.answerer(paths[1], told.append)
    models.answerer(paths[2], told.append)
    assert told == []


def test_what_is_chosen_and_damaged_or_gone_is_named(controller: TrainingController, tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    path = tmp_path / "best_model.safetensors"
    damage(path)
    models = ChatModels(controller, str(tmp_path))
    with pytest.raises(CheckpointError, match=r"best_model.safetensors.*checksum"):
        models.answerer(str(path))
    path.unlink()
    with pytest.raises(CheckpointError, match=r"best_model.safetensors"):
        models.answerer(str(path))


def test_the_automatic_choice_passes_over_damaged_files_and_names_them(controller: TrainingController, tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    saved_model(tmp_path, "latest", 60, seed=2)
    damage(tmp_path / "best_model.safetensors")
    models = ChatModels(controller, str(tmp_path))
    assert models.answerer().name == "ckpt_latest, step 60 (best_model: damaged)"
    (tmp_path / "best_model.safetensors").write_bytes(b"nothing")
    assert models.answerer().name == "ckpt_latest, step 60 (best_model: damaged)"
    damage(tmp_path / "ckpt_latest.safetensors")
    with pytest.raises(CheckpointError, match=r"no model to chat with in .*; 2 there are damaged"):
        ChatModels(controller, str(tmp_path)).answerer()


def test_the_choosers_offer_every_checkpoint_the_best_first(controller: TrainingController, tmp_path: Path):
    models = ChatModels(controller, str(tmp_path))
    assert [offer.words for offer in offers(models.listed(), AUTOMATIC, beside=False)] == ["automatic · none yet"]
    saved_model(tmp_path, "final", 50, seed=1)
    saved_model(tmp_path, "best", 1200, seed=1)
    listed = models.listed()
    listed = listed._replace(now_s=max(info.saved_at for info in listed.checkpoints) + 130)
    shown = offers(listed, AUTOMATIC, beside=False)
    assert [offer.words for offer in shown] == [
        "automatic · best_model · step 1,200",
        "best_model · step 1,200 · best · 2 min old",
        "transformer · step 50 · final · 2 min old",
    ]
    assert shown[1].value == str(tmp_path / "best_model.safetensors")
    assert [offer.value for offer in offers(listed, NOBODY, beside=True)] == [NOBODY, *(o.value for o in shown)]
    assert offers(listed._replace(live=True), AUTOMATIC, beside=False)[0].words == "automatic · in training"


def test_a_checkpoint_of_another_folder_is_called_by_both_names(controller: TrainingController, tmp_path: Path):
    saved_model(tmp_path / "second", "best", 50, seed=1)
    chosen = str(tmp_path / "second" / "best_model.safetensors")
    models = ChatModels(controller, str(tmp_path))
    assert models.answerer(chosen).name == "second/best_model, step 50"
    assert offers(models.listed(), chosen, beside=True)[-1] == ("second/best_model", chosen)


def test_a_choice_whose_file_is_gone_stays_offered_as_plain_text():
    assert offers(Listed(), "old\x1b[2J.safetensors", beside=True)[-1].words == "old␛[2J"
