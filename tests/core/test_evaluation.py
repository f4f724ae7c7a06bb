"""Evaluations of a run: a fixed part of the eval text between epochs, all of it after epochs and at the end."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core.config.presets import PRESETS, preset
from gpt_core.config.settings import Settings
from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.model.gpt import GPT, EvalSums
from gpt_core.model.layers.layer import Ids
from gpt_core.text.data_loader import spread
from gpt_core.training import events as ev
from gpt_core.training.evaluation import EvalText, RunScores, evaluate
from gpt_core.training.request import raised_limits
from gpt_core.training.run import MIN_TEXT_TOKENS
from gpt_core.training.trainer import Trainer
from tests.core.training_samples import (
    LATEST,
    finished_trainer,
    in_one_go,
    losses,
    of_kind,
    open_run,
    tiny_settings,
    train,
    whole_state,
)

PART = {"eval_tokens": 100, "sample_tokens": 0}  # four windows of 32 tokens


def steps_per_epoch(events: list[ev.AnyEvent]) -> int:
    return int(of_kind(events, ev.RunStarted)[0].steps_per_epoch)


def scores_of(trainer: Trainer, text: EvalText, *, complete: bool) -> RunScores:
    scoring = text.scores(GPT(trainer.parameters), 3, complete=complete)
    while True:
        try:
            next(scoring)
        except StopIteration as end:
            return end.value


def eval_text(trainer: Trainer, tokens: int) -> EvalText:
    assert trainer.run.texts.held_out is not None
    return EvalText(trainer.run.texts.held_out, trainer.settings.seq_len, tokens)


@pytest.mark.parametrize(("windows", "count"), [(1, 1), (7, 7), (10, 3), (1000, 999), (5_000_000, 1024)])
def test_the_part_is_spread_evenly_over_the_text(windows: int, count: int) -> None:
    numbers = spread(windows, count)
    assert len(numbers) == count
    assert 0 <= numbers[0] <= numbers[-1] < windows
    gaps = np.diff(numbers)
    assert count == 1 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_an_evaluation_between_epochs_scores_the_part_and_one_after_an_epoch_all_of_the_text(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, max_epochs=2, **PART))
    started, per_epoch = of_kind(events, ev.RunStarted)[0], steps_per_epoch(events)
    assert 100 <= started.eval_part_tokens <= 128 < started.eval_tokens
    for event in of_kind(events, ev.EvalProgressed):
        whole = event.step % per_epoch == 0
        assert event.total == (started.eval_tokens - 1 if whole else started.eval_part_tokens)
        assert event.done <= event.total
    full = of_kind(events, ev.FullEvalCompleted)
    assert [event.step for event in full] == [per_epoch, 2 * per_epoch]  # the last one only once
    assert {event.tokens for event in full} == {started.eval_tokens - 1}
    assert {event.step for event in full} < {event.step for event in of_kind(events, ev.EvalCompleted)}


def test_of_epochs_that_are_short_for_the_interval_only_some_are_followed_by_an_evaluation(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=100, sample_tokens=0)
    epoch = steps_per_epoch(train(settings))

    def evaluated(every: int) -> list[int]:
        folder = tmp_path / str(every)
        changed = msgspec.structs.replace(settings, eval_every_steps=every, models_dir=str(folder))
        return [event.step for event in of_kind(train(changed), ev.EvalCompleted)]

    ends = list(range(epoch, 100, epoch))
    assert evaluated(0) == [*ends, 100]
    assert evaluated(10 * epoch) == [*ends, 100]
    assert evaluated(10 * epoch + 1) == [*ends[1::2], 100]
    assert evaluated(30 * epoch) == [*ends[2::3], 100]


def test_a_resumed_run_has_the_evaluations_of_a_run_in_one_go(tmp_path: Path) -> None:
    """Also where it is resumed at the end of an epoch without an evaluation."""
    settings = tiny_settings(tmp_path, max_steps=1, sample_tokens=0)
    epoch = steps_per_epoch(train(settings))
    whole = msgspec.structs.replace(settings, max_steps=5 * epoch, eval_every_steps=10 * epoch + 1)
    steps = [event.step for event in of_kind(train(whole, overwrite=True), ev.EvalCompleted)]
    assert steps == [2 * epoch, 4 * epoch, 5 * epoch]
    short = msgspec.structs.replace(whole, max_steps=epoch, models_dir=str(tmp_path / "short"))
    train(short)
    resumed = msgspec.structs.replace(short, max_steps=5 * epoch)
    events = train(resumed, resume=tmp_path / "short" / LATEST.name)
    assert [event.step for event in of_kind(events, ev.EvalCompleted)] == steps


@pytest.mark.parametrize("separate", [False, True])
def test_the_end_of_a_tiny_text_chooses_no_best_model_but_a_separate_eval_text_does(
    tmp_path: Path, separate: bool
) -> None:
    settings = tiny_settings(tmp_path, max_steps=30)
    text = Path(settings.train_file)
    text.write_text("\n\n".join(text.read_text().split("\n\n")[:12]))
    if not separate:
        settings = msgspec.structs.replace(settings, eval_file="", hold_out=True)
    events = train(settings)
    started, finished = of_kind(events, ev.RunStarted)[0], of_kind(events, ev.RunFinished)[0]
    assert started.train_tokens < MIN_TEXT_TOKENS
    assert any(event.is_best for event in of_kind(events, ev.EvalCompleted)) == separate
    assert (tmp_path / "models/best_model.safetensors").exists() == separate
    final = peek_checkpoint(tmp_path / "models/transformer.safetensors")
    assert separate or final.step == finished.step
    prompt = of_kind(events, ev.SampleWritten)[0].prompt
    assert separate or prompt in text.read_text()[: len(text.read_text()) // 2]


def test_a_complete_evaluation_scores_the_part_as_one_of_the_part_alone_does(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=3))
    list(trainer.events())
    text = eval_text(trainer, 100)
    alone, complete = (scores_of(trainer, text, complete=complete) for complete in (False, True))
    assert alone.full is None
    assert complete.part == alone.part  # to the bit
    assert complete.full is not None
    whole = evaluate(GPT(trainer.parameters), text.text, 4)
    assert complete.full == pytest.approx(whole, rel=1e-6)
    assert complete.full != complete.part


def test_a_text_that_is_shorter_than_the_context_is_scored_without_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path))
    assert trainer.run.texts.held_out is not None
    text = replace(trainer.run.texts.held_out, count=11)
    padded = scores_of(trainer, EvalText(text, trainer.settings.seq_len, 0), complete=True).part
    shapes: list[tuple[int, ...]] = []
    run = GPT.evaluate

    def recorded(gpt: GPT, tokens: Ids, targets: Ids) -> EvalSums:
        shapes.append(tokens.shape)
        return run(gpt, tokens, targets)

    monkeypatch.setattr(GPT, "evaluate", recorded)
    assert evaluate(GPT(trainer.parameters), text, 1) == pytest.approx(padded, rel=1e-6)
    assert shapes == [(1, 10)]


def test_bits_per_byte_of_the_part_count_its_own_bytes(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=1))
    list(trainer.events())
    text = eval_text(trainer, 100)
    assert text.part is not None
    lengths, seq_len = trainer.tokenizer.token_lengths, text.seq_len
    ids = np.concatenate([text.text.read(int(number) * seq_len + 1, seq_len) for number in text.part])
    share = lengths[ids].sum() / lengths[text.text.read(0, text.text.count)].sum()
    part = scores_of(trainer, text, complete=False).part
    assert part.tokens == len(ids)
    assert part.bits_per_byte == pytest.approx(part.loss * len(ids) / math.log(2) / (share * text.text.bytes))


def test_bits_per_byte_leave_out_a_first_token_with_text_which_is_not_predicted(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path))
    with_bos, lengths = trainer.run.texts.held_out, trainer.tokenizer.token_lengths
    assert with_bos is not None
    assert with_bos.target_bytes == with_bos.bytes
    text = replace(with_bos, start=with_bos.start + 1, count=with_bos.count - 1)
    ids = text.read(0, text.count)
    size = text.bytes - int(lengths[ids[0]])
    assert size < text.bytes
    whole = evaluate(GPT(trainer.parameters), text, 4)
    assert whole.bits_per_byte == pytest.approx(whole.loss * whole.tokens / math.log(2) / size, rel=1e-12)
    parted = EvalText(text, trainer.settings.seq_len, 100)
    assert parted.part is not None
    scores = scores_of(trainer, parted, complete=True)
    assert scores.full is not None
    assert scores.full.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=1e-6)
    targets = np.concatenate([ids[number * parted.seq_len + 1 :][: parted.seq_len] for number in parted.part])
    part_size = size * int(lengths[targets].sum()) / int(lengths[ids[1:]].sum())
    expected = scores.part.loss * len(targets) / math.log(2) / part_size
    assert scores.part.bits_per_byte == pytest.approx(expected, rel=1e-12)


def test_a_text_that_is_not_longer_than_the_part_has_one_score_per_evaluation(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, max_epochs=1, eval_tokens=100_000))
    assert of_kind(events, ev.RunStarted)[0].eval_part_tokens == 0
    assert of_kind(events, ev.EvalCompleted)
    assert not of_kind(events, ev.FullEvalCompleted)


@pytest.mark.parametrize("eval_tokens", [0, 100])
@pytest.mark.parametrize("max_steps", [7, 10])
def test_a_run_that_ends_between_epochs_scores_all_of_the_text_once(
    tmp_path: Path, max_steps: int, eval_tokens: int
) -> None:
    settings = tiny_settings(tmp_path, max_steps=max_steps, **PART | {"eval_tokens": eval_tokens})
    events = train(settings)
    # every evaluation of all of the text is a full one: it needs no other at the same step
    assert [event.step for event in of_kind(events, ev.FullEvalCompleted)] == [max_steps] * (eval_tokens > 0)
    assert [event.step for event in of_kind(events, ev.EvalCompleted)] == [5, max_steps]


@pytest.mark.parametrize("eval_tokens", [0, 100])
def test_the_evaluation_at_the_end_decides_about_the_best_model_by_the_scores_of_the_part(
    tmp_path: Path, eval_tokens: int
) -> None:
    settings = tiny_settings(tmp_path, max_steps=7, best_metric="loss", **PART | {"eval_tokens": eval_tokens})
    events = train(settings)
    state, last = peek_checkpoint(tmp_path / LATEST).state, of_kind(events, ev.EvalCompleted)[-1]
    assert last.is_best
    assert (state.best_step, state.best_loss) == (7, last.loss)
    assert state.scores is not None
    assert state.scores.loss == last.loss
    assert all(full.loss != last.loss for full in of_kind(events, ev.FullEvalCompleted))


def test_a_run_with_more_steps_equals_a_longer_one_that_was_evaluated_once_less(tmp_path: Path) -> None:
    changes = {"patience": 2, "patience_min_steps": 0, "warmup_steps": 0, "improvement_threshold": 1.0, **PART}
    whole, all_losses = in_one_go(tmp_path / "whole", 40, **changes)
    in_one_go(tmp_path / "cut", 7, **changes)
    longer = tiny_settings(tmp_path / "cut", max_steps=40, **changes)
    resumed, resumed_losses = finished_trainer(longer, tmp_path / "cut" / LATEST)
    assert resumed.step == whole.step == 15  # stopped early
    assert resumed_losses == all_losses[7:]
    assert whole_state(resumed) == whole_state(whole)


def test_a_stopped_run_does_not_score_all_of_the_text(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, **PART))
    events = []
    for event in trainer.events():
        events.append(event)
        if event.step == 3:
            trainer.requests.stop()
    assert events[-1] == ev.RunFinished("stopped", 3)
    assert not of_kind(events, ev.FullEvalCompleted)
    assert not of_kind(events, ev.EvalProgressed)


def test_a_stop_during_the_evaluation_at_the_end_leaves_it_to_a_resume(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=3, **PART))
    events = []
    for event in trainer.events():
        events.append(event)
        if isinstance(event, ev.EvalProgressed):
            trainer.requests.stop()
    assert len(of_kind(events, ev.EvalProgressed)) == 1
    assert events[-1] == ev.RunFinished("stopped", 3)
    assert not of_kind(events, ev.EvalCompleted)
    assert not of_kind(events, ev.FullEvalCompleted)
    assert_completed_by_a_resume(tmp_path, tiny_settings(tmp_path, max_steps=3, **PART))


@pytest.mark.parametrize("limit", [{"max_steps": 3}, {"max_steps": 5}, {"max_epochs": 1}], ids=str)
def test_a_kill_during_the_evaluation_at_the_end_leaves_it_to_a_resume(
    tmp_path: Path, limit: dict[str, object]
) -> None:
    (tmp_path / "killed").mkdir()
    settings = tiny_settings(tmp_path, **limit, **PART)
    trainer = open_run(settings)
    for event in trainer.events():
        if isinstance(event, ev.EvalProgressed) and event.total == len(trainer.run.texts.held_out) - 1:
            shutil.copytree(tmp_path / "models", tmp_path / "killed/models", dirs_exist_ok=True)
    killed = msgspec.structs.replace(settings, models_dir=str(tmp_path / "killed/models"))
    assert_completed_by_a_resume(tmp_path / "killed", killed)
    scores = (peek_checkpoint(folder / LATEST).state.scores for folder in (tmp_path, tmp_path / "killed"))
    assert len(set(scores)) == 1


def test_a_resume_that_makes_the_last_evaluation_does_not_save_the_step_again_before_it(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=3)
    trainer = open_run(settings)
    for event in trainer.events():
        if isinstance(event, ev.EvalProgressed):
            trainer.requests.stop()
    saves = of_kind(train(settings, tmp_path / LATEST), ev.CheckpointSaved)
    assert [event.kind for event in saves] == ["best", "final", "latest"]


@pytest.mark.parametrize("limit", [{"max_steps": 3}, {"max_epochs": 1}], ids=str)
def test_a_run_that_was_killed_after_its_last_evaluation_is_completed_by_a_resume(
    tmp_path: Path, limit: dict[str, object]
) -> None:
    (tmp_path / "killed").mkdir()
    settings = tiny_settings(tmp_path, eval_every_steps=0, **limit)
    for event in open_run(settings).events():
        if isinstance(event, ev.CheckpointSaved) and event.kind == "best":
            shutil.copytree(tmp_path / "models", tmp_path / "killed/models")
    best = tmp_path / "killed/models/best_model.safetensors"
    assert raised_limits(peek_checkpoint(best)) == {}
    killed = msgspec.structs.replace(settings, models_dir=str(best.parent))
    events = train(killed, best)
    assert not losses(events)
    assert [event.kind for event in of_kind(events, ev.CheckpointSaved)] == ["final", "latest"]
    assert peek_checkpoint(tmp_path / "killed" / LATEST).state.finished == next(iter(limit))


def assert_completed_by_a_resume(folder: Path, settings: Settings) -> None:
    """Check that a resume of a run takes no step: it makes the last evaluation, and saves the best model."""
    checkpoint = peek_checkpoint(folder / LATEST)
    assert checkpoint.state.evaluation_due
    assert (checkpoint.state.finished, raised_limits(checkpoint)) == ("", {})
    events = train(settings, folder / LATEST)
    assert not losses(events)
    for kind in (ev.EvalCompleted, ev.FullEvalCompleted):
        assert [event.step for event in of_kind(events, kind)] == [checkpoint.step]
    assert events[-1] == ev.RunFinished("max_steps" if settings.max_steps else "max_epochs", checkpoint.step)
    for name in ("best_model", "transformer"):
        assert peek_checkpoint(folder / f"models/{name}.safetensors").step == checkpoint.step


def test_a_complete_evaluation_that_a_stop_interrupts_is_repeated_after_the_resume(tmp_path: Path) -> None:
    whole_folder, folder = tmp_path / "whole", tmp_path / "cut"
    whole_folder.mkdir()
    folder.mkdir()
    whole = train(tiny_settings(whole_folder, max_epochs=1, **PART))
    end = steps_per_epoch(whole)
    trainer = open_run(tiny_settings(folder, max_epochs=1, **PART))
    seen = []
    for event in trainer.events():
        seen.append(event)
        if isinstance(event, ev.EvalProgressed) and event.step == end and event.done > 128:  # past the part
            trainer.requests.stop()
    assert seen[-1] == ev.RunFinished("stopped", end)
    assert not of_kind(seen, ev.FullEvalCompleted)
    again = train(tiny_settings(folder, max_epochs=1, **PART), folder / LATEST)
    for kind in (ev.EvalCompleted, ev.FullEvalCompleted):
        assert of_kind(again, kind) == of_kind(whole, kind)[-1:]


def test_without_evaluations_between_epochs_every_evaluation_scores_all_of_the_text(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, max_epochs=1, eval_every_steps=0, **PART))
    assert of_kind(events, ev.RunStarted)[0].eval_part_tokens == 0
    assert len(of_kind(events, ev.EvalCompleted)) == 1
    assert not of_kind(events, ev.FullEvalCompleted)


@pytest.mark.parametrize("name", ["nano", "micro"])
def test_a_preset_scores_at_most_a_sixth_of_the_tokens_that_it_trains_on_meanwhile(name: str) -> None:
    settings = preset(name)  # a token is scored in a third of the time that it is trained in: at most 5.5%
    trained = settings.eval_every_steps * settings.batch_size * settings.seq_len
    assert 0 < settings.eval_tokens <= trained / 6


def test_every_preset_bounds_the_part_and_a_checkpoint_without_the_setting_scores_all() -> None:
    assert all(preset(name).eval_tokens for name in PRESETS)
    assert Settings().eval_tokens == 0
    earlier = Path(__file__).parent / "golden/checkpoint_4702b56.safetensors"
    assert peek_checkpoint(earlier).settings.eval_tokens == 0
