"""Fine-tuning: a new run that starts from the weights and the tokenizer of a checkpoint."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

import gpt_core
from gpt_core.bench.estimate import read_corpus_stats
from gpt_core.config.fine_tuning import FROM_FILE, MAX_CONTEXT, RATE_FACTOR, fine_tuning_defaults
from gpt_core.config.presets import PRESETS, preset
from gpt_core.config.resolve import read_overrides
from gpt_core.config.settings import GROUP_RATES, Settings
from gpt_core.config.toml_file import as_toml, changes_as_toml
from gpt_core.errors import CheckpointError, ConfigError, RunExistsError
from gpt_core.formats.checkpoint import peek_checkpoint, read_checkpoint, write_checkpoint
from gpt_core.training import events as ev
from gpt_core.training.fine_tuning import full_rates, nearest_preset, settings_to_fine_tune
from gpt_core.training.request import RunRequest, resolve_request
from tests.core.checkpoint_samples import SETTINGS, same_bits, sample
from tests.core.training_samples import (
    finished_trainer,
    losses,
    of_kind,
    open_run,
    tiny_settings,
    train,
    whole_state,
)

BEST = Path("models/best_model.safetensors")
OTHER_TEXT = "The ship left the harbour at noon, and nobody on board knew where it was bound.\n\n" * 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of 12 steps."""
    folder = tmp_path_factory.mktemp("trained")
    train(tiny_settings(folder, max_steps=12))
    return folder


@pytest.fixture
def start(trained: Path) -> Path:
    """The checkpoint that runs start from."""
    return trained / BEST


def fine_tuning(start: Path, folder: Path, **changes: object) -> Settings:
    """Return settings of a run that starts from a checkpoint, on another text."""
    text = folder / "other.txt"
    text.write_text(OTHER_TEXT)
    changes = {"init_from": str(start), "train_file": str(text), "eval_file": "", "max_steps": 6} | changes
    return msgspec.structs.replace(tiny_settings(folder), **changes)


def saved(folder: Path, kind: str = "ckpt_latest"):
    return read_checkpoint(folder / "models" / f"{kind}.safetensors")


# -- weights, tokenizer, scores


def test_a_run_with_zero_learning_rate_keeps_the_weights_and_the_tokenizer_of_its_start(start: Path, tmp_path: Path):
    train(fine_tuning(start, tmp_path, **dict.fromkeys(GROUP_RATES, 0.0)))
    before, after = read_checkpoint(start), saved(tmp_path)
    assert same_bits(before.parameters, after.parameters)
    assert before.tokenizer == after.tokenizer
    assert (after.step, after.run_id != before.run_id) == (6, True)


def test_optimizer_schedule_and_counters_begin_anew(start: Path, tmp_path: Path):
    trainer = open_run(fine_tuning(start, tmp_path))
    state, optimizer = trainer.state, trainer.run.optimizer
    trainer.run.store.close()
    assert (state.step, state.epoch, state.tokens, state.train_loss) == (0, 0, 0, None)
    assert not any(moments.flat.any() for moments in optimizer.state.values())


def test_the_evaluation_before_the_first_step_equals_that_of_the_file(start: Path, tmp_path: Path):
    settings = fine_tuning(start, tmp_path)
    held_out = tmp_path / "held_out.txt"
    held_out.write_text(OTHER_TEXT[:2000])
    events = train(msgspec.structs.replace(settings, eval_file=str(held_out)))
    first = next(event for event in events if isinstance(event, ev.EvalCompleted))
    scores = gpt_core.load(start).evaluate(held_out)
    assert (first.step, first.loss, first.bits_per_byte) == (0, scores.loss, scores.bits_per_byte)
    assert saved(tmp_path).state.start_scores is not None


def test_a_sample_of_the_weights_at_the_start_is_written_once_with_their_scores(start: Path, tmp_path: Path):
    events = train(fine_tuning(start, tmp_path))
    assert [event.step for event in of_kind(events, ev.SampleWritten)].count(0) == 1
    others = (ev.EvalProgressed, ev.HeadsScored, ev.HealthMeasured)
    kinds = [type(event) for event in events if not isinstance(event, others)]
    assert kinds[:3] == [ev.RunStarted, ev.EvalCompleted, ev.SampleWritten]


def test_the_best_model_is_that_of_the_start_until_an_evaluation_is_better(start: Path, tmp_path: Path):
    worse = dict.fromkeys(GROUP_RATES, 0.5)
    changes = {"grad_clip": 0.0, "eval_every_steps": 2, "warmup_steps": 0, "best_metric": "loss"}
    events = train(fine_tuning(start, tmp_path, **worse, **changes))
    scores = of_kind(events, ev.EvalCompleted)
    assert [event.is_best for event in scores] == [True, False, False, False]
    assert same_bits(saved(tmp_path, "best_model").parameters, read_checkpoint(start).parameters)
    better = tmp_path / "better"
    better.mkdir()
    scores = of_kind(train(fine_tuning(start, better, best_metric="loss")), ev.EvalCompleted)
    assert scores[-1].loss < scores[0].loss
    assert saved(better, "best_model").step > 0


def test_a_run_that_is_shorter_than_one_evaluation_has_the_tuned_weights_as_its_best_model(start: Path, tmp_path: Path):
    events = train(fine_tuning(start, tmp_path, best_metric="loss", eval_every_steps=100))
    scores = of_kind(events, ev.EvalCompleted)
    assert [(event.step, event.is_best) for event in scores] == [(0, True), (6, True)]
    assert saved(tmp_path, "best_model").step == saved(tmp_path, "transformer").step == 6


def test_where_the_weights_came_from_is_in_the_log_and_in_every_checkpoint(start: Path, tmp_path: Path):
    (started, *_) = train(fine_tuning(start, tmp_path))
    origin = saved(tmp_path).state.origin
    assert origin is not None
    sha256 = hashlib.sha256(start.read_bytes()).hexdigest()
    step = peek_checkpoint(start).step
    assert (origin.path, origin.sha256, origin.step) == (str(start), sha256, step)
    assert isinstance(started, ev.RunStarted)
    assert (started.init_from, started.init_sha256, started.init_step) == (str(start), sha256, step)


def test_weights_without_optimizer_state_are_a_start(start: Path, tmp_path: Path):
    imported = tmp_path / "imported.safetensors"
    write_checkpoint(imported, read_checkpoint(start, optimizer_state=False))
    train(fine_tuning(imported, tmp_path))
    assert saved(tmp_path).state.origin is not None


def test_a_shorter_context_cuts_the_positions_and_changes_nothing_else(start: Path, tmp_path: Path):
    settings = fine_tuning(start, tmp_path, seq_len=16, max_steps=1, **dict.fromkeys(GROUP_RATES, 0.0))
    (started, *_) = train(settings)
    assert isinstance(started, ev.RunStarted)
    assert any(
        "the context is 16 tokens, shortened from the 32 of best_model.safetensors" in line for line in started.warnings
    )
    before, after = read_checkpoint(start).parameters, saved(tmp_path).parameters
    assert np.array_equal(after["wpe.weight"], before["wpe.weight"][:16])
    assert all(np.array_equal(after[n], before[n]) for n in before.tensors if n != "wpe.weight")


def test_a_text_that_the_tokenizer_does_not_fit_is_reported(start: Path, tmp_path: Path):
    settings = fine_tuning(start, tmp_path)
    Path(settings.train_file).write_text("那只猫坐在垫子上，天黑了。\n\n" * 200)
    (started, *_) = train(settings)
    assert isinstance(started, ev.RunStarted)
    assert any("tokenizer of best_model.safetensors does not fit this text" in line for line in started.warnings)


def test_the_estimate_counts_the_tokens_of_the_tokenizer_of_the_start(start: Path, tmp_path: Path):
    settings = fine_tuning(start, tmp_path, max_steps=1)
    train(msgspec.structs.replace(settings, init_from="", models_dir=str(tmp_path / "other")))
    guess = read_corpus_stats(settings)
    (started, *_) = train(settings)
    found = read_corpus_stats(settings)
    assert isinstance(started, ev.RunStarted)
    tokens = started.train_tokens + started.eval_tokens
    assert guess.train_tokens + guess.eval_tokens != tokens == found.train_tokens + found.eval_tokens


# -- resuming


@pytest.mark.parametrize("cut", [1, 4])
def test_a_resumed_run_equals_an_uninterrupted_one_without_the_file(start: Path, tmp_path: Path, cut: int):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    copy = tmp_path / "start.safetensors"
    copy.write_bytes(start.read_bytes())
    trainer, expected = finished_trainer(fine_tuning(copy, whole, max_steps=8))
    train(fine_tuning(copy, parts, max_steps=cut))
    copy.unlink()
    request = resolve_request(
        read_overrides(options={"max_steps": "8"}), resume=parts / "models/ckpt_latest.safetensors"
    )
    resumed = gpt_core.training.setup.open_run(request)
    assert losses(list(resumed.events())) == expected[cut:]
    assert whole_state(resumed) == whole_state(trainer)
    assert resumed.state.start_scores == trainer.state.start_scores


def test_a_run_stopped_before_its_first_evaluation_evaluates_after_the_resume(start: Path, tmp_path: Path):
    settings = fine_tuning(start, tmp_path)
    trainer = open_run(settings)
    events = trainer.events()
    assert isinstance(next(events), ev.RunStarted)
    trainer.requests.stop()
    assert not of_kind(list(events), ev.EvalCompleted)
    again = train(settings, resume=tmp_path / "models/ckpt_latest.safetensors")
    assert of_kind(again, ev.EvalCompleted)[0].step == 0
    assert saved(tmp_path).state.start_scores is not None


def test_the_start_of_a_resumed_run_may_be_named_relative_to_another_folder(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As by a config file, whose paths are relative to its folder."""
    settings = fine_tuning(start, tmp_path)
    train(settings)
    longer = {"max_steps": settings.max_steps + 1, "init_from": os.path.relpath(start, tmp_path / "models")}
    monkeypatch.chdir(tmp_path / "models")
    train(msgspec.structs.replace(settings, **longer), resume=tmp_path / "models/ckpt_latest.safetensors")
    assert saved(tmp_path).step == settings.max_steps + 1


def test_a_resume_from_another_start_is_refused(start: Path, tmp_path: Path):
    settings = fine_tuning(start, tmp_path)
    train(settings)
    latest = tmp_path / "models/ckpt_latest.safetensors"
    with pytest.raises(CheckpointError, match=r"init_from is '.* in it, 'other\.safetensors' was requested"):
        open_run(msgspec.structs.replace(settings, init_from="other.safetensors"), resume=latest)


# -- the models folder


def test_a_start_in_the_same_folder_is_replaced_at_the_first_save_and_not_before(trained: Path, tmp_path: Path):
    folder = tmp_path / "models"
    folder.mkdir()
    start = folder / BEST.name
    start.write_bytes((trained / BEST).read_bytes())
    settings = fine_tuning(start, tmp_path, **dict.fromkeys(GROUP_RATES, 0.0))
    with pytest.raises(RunExistsError):
        open_run(settings)
    trainer = open_run(settings, overwrite=True)
    before = start.read_bytes()
    events = trainer.events()
    next(events)
    assert start.read_bytes() == before
    list(events)
    assert same_bits(saved(tmp_path, "best_model").parameters, read_checkpoint(trained / BEST).parameters)
    assert saved(tmp_path, "best_model").run_id == saved(tmp_path).run_id == trainer.state.run_id


def test_a_run_that_is_stopped_before_it_evaluates_keeps_the_run_that_it_would_replace(trained: Path, tmp_path: Path):
    folder = tmp_path / "models"
    folder.mkdir()
    start = folder / BEST.name
    start.write_bytes((trained / BEST).read_bytes())
    trainer = open_run(fine_tuning(start, tmp_path), overwrite=True)
    events = trainer.events()
    next(events)
    trainer.requests.stop()
    list(events)
    assert start.read_bytes() == (trained / BEST).read_bytes()
    assert not (folder / "ckpt_latest.safetensors").exists()


# -- settings


def test_shape_and_tokenizer_are_those_of_the_file_and_the_rest_has_the_defaults_of_fine_tuning(start: Path):
    request = resolve_request(read_overrides(options={"init_from": str(start)}))
    file = peek_checkpoint(start).settings
    assert all(getattr(request.settings, name) == getattr(file, name) for name in FROM_FILE)
    assert request.settings.learning_rate == pytest.approx(RATE_FACTOR * preset("nano").learning_rate)
    expected = msgspec.structs.replace(
        preset("nano"), **fine_tuning_defaults("nano"), **{name: getattr(file, name) for name in FROM_FILE},
        init_from=str(start),
    )  # fmt: skip
    assert request.settings == expected


def test_of_a_very_long_context_a_part_is_used_unless_it_is_requested(tmp_path: Path):
    start = tmp_path / "long.safetensors"
    write_checkpoint(start, sample(msgspec.structs.replace(SETTINGS, seq_len=4096), optimizer_state=False))
    options = {"init_from": str(start)}
    assert resolve_request(read_overrides(options=options)).settings.seq_len == MAX_CONTEXT
    assert settings_to_fine_tune(start, preset("nano")).settings.seq_len == MAX_CONTEXT
    longer = read_overrides(assignments=["seq_len=4096"], options=options)
    assert resolve_request(longer).settings.seq_len == 4096
    with pytest.raises(ConfigError, match="seq_len is 4096 in it, 5000 was requested"):
        resolve_request(read_overrides(assignments=["seq_len=5000"], options=options))


def test_a_run_from_a_checkpoint_reads_the_texts_of_the_session_in_the_same_way(start: Path):
    names = {"train_file": "a.txt", "text_field": "body", "encoding": "latin-1", "allow_binary": True}
    found = settings_to_fine_tune(start, msgspec.structs.replace(preset("nano"), **names)).settings
    assert {name: getattr(found, name) for name in names} == names


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_defaults_of_fine_tuning_that_are_slower_and_evaluate_earlier(name: str):
    base, tuned = preset(name), msgspec.structs.replace(preset(name), **fine_tuning_defaults(name))
    assert all(getattr(tuned, group) < getattr(base, group) for group in GROUP_RATES)
    assert tuned.warmup_steps < base.warmup_steps
    assert 0 < tuned.eval_every_steps < (base.eval_every_steps or 100)
    assert (tuned.dropout, tuned.weight_decay) == (0.0, 0.1)
    assert (nearest_preset(base.shape) == name) == (base.synthetic_text == "none")


def test_requested_settings_override_the_defaults_of_fine_tuning(start: Path):
    settings = resolve_request(
        read_overrides(assignments=["eval_every_steps=7"], options={"init_from": str(start), "learning_rate": "1e-5"})
    ).settings
    assert (settings.learning_rate, settings.eval_every_steps) == (1e-5, 7)


def test_a_self_test_has_the_full_rates(start: Path):
    settings = resolve_request(read_overrides(options={"init_from": str(start), "overfit_tiny": True})).settings
    assert settings.learning_rate == preset("nano").learning_rate
    assert full_rates(settings.shape) == dict.fromkeys(GROUP_RATES, settings.learning_rate)


def test_a_config_file_of_a_run_gives_the_same_settings(start: Path, tmp_path: Path):
    resolved = resolve_request(read_overrides(options={"init_from": str(start)}))
    full = msgspec.structs.replace(resolved.settings, seq_len=16, **dict.fromkeys(GROUP_RATES, 3e-3))
    for number, settings in enumerate((resolved.settings, full)):
        path = tmp_path / f"{number}.toml"
        path.write_text(changes_as_toml("nano", settings, tmp_path))
        again = resolve_request(read_overrides(config_file=path)).settings
        assert msgspec.structs.replace(again, init_from=settings.init_from) == settings
        sources = dict.fromkeys(msgspec.structs.asdict(settings), "test")
        path.write_text(as_toml(settings, "nano", sources))
        again = resolve_request(read_overrides(config_file=path)).settings
        assert msgspec.structs.replace(again, models_dir="models") == settings


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        ({"assignments": ["d_model=32"]}, r"d_model is 16 in it, 32 was requested \(--set\)"),
        ({"preset": "micro"}, r"d_model is 16 in it, 320 was requested \(preset micro\); .*layers is 2 in it, 7"),
        ({"assignments": ["tokenizer=ascii"]}, "tokenizer is 'pieces' in it, 'ascii' was requested"),
        ({"assignments": ["seq_len=64"]}, "seq_len is 32 in it, 64 was requested"),
    ],
)
def test_settings_that_contradict_the_file_are_refused_in_one_line(start: Path, requested, words: str):
    with pytest.raises(ConfigError, match=words) as refused:
        resolve_request(read_overrides(**requested, options={"init_from": str(start)}))
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("init_from: ")


def test_a_run_of_the_library_starts_from_a_file(start: Path, tmp_path: Path):
    text = tmp_path / "other.txt"
    text.write_text(OTHER_TEXT)
    run = gpt_core.train(text, init_from=start, max_steps=2, models_dir=tmp_path / "models", threads=1)
    result = run.result()
    assert (result.step, run.settings.d_model) == (2, 16)


# -- unusable files


def test_missing_damaged_and_other_files_are_refused_in_one_line_and_nothing_is_written(start: Path, tmp_path: Path):
    damaged = tmp_path / "damaged.safetensors"
    data = bytearray(start.read_bytes())
    data[8 + int.from_bytes(data[:8], "little") + 100] ^= 1  # of the first weights
    damaged.write_bytes(data)
    text = tmp_path / "text.safetensors"
    text.write_text("no checkpoint")
    gpt2 = tmp_path / "gpt2"
    gpt2.mkdir()
    (gpt2 / "config.json").write_text("{}")
    (gpt2 / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    gguf = tmp_path / "other.gguf"
    gguf.write_bytes(b"GGUF\x03" + bytes(99))
    for path, words in (
        (gguf, "is a model in GGUF, expected a checkpoint; import it first: gpt-tui import /"),
        (tmp_path / "missing.safetensors", "No such file"), (damaged, "is damaged"),
        (text, "is not a gpt-tui checkpoint"),
        (tmp_path, "is a folder"), (gpt2, "import it first: gpt-tui import /"),
        (gpt2 / "model.safetensors", "import it first: gpt-tui import /"),
    ):  # fmt: skip
        settings = fine_tuning(path, tmp_path)
        with pytest.raises(CheckpointError, match=words) as refused:
            open_run(settings)
        assert str(refused.value).startswith("init_from: ")
        assert not (tmp_path / "models").exists()


def test_a_file_replaced_by_another_shape_since_the_settings_were_resolved_is_refused(start: Path, tmp_path: Path):
    path = tmp_path / "start.safetensors"
    write_checkpoint(path, sample())
    with pytest.raises(ConfigError, match="d_model is 8 in it, 16 was requested"):
        open_run(fine_tuning(path, tmp_path))


def test_a_self_test_starts_from_the_weights_too(start: Path, tmp_path: Path):
    settings = fine_tuning(start, tmp_path, overfit_tiny=True, overfit_lines=4, overfit_steps=3, max_steps=0)
    events = train(settings)
    assert not of_kind(events, ev.EvalCompleted)
    assert saved(tmp_path).state.origin is not None


def test_requests_compare_equal_without_the_file(start: Path):
    path = os.fspath(start)
    assert RunRequest(Settings(init_from=path)) == RunRequest(Settings(init_from=path))
