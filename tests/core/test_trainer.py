"""The trainer: exact resume, every reason to end, saves and requests, and skipped steps."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core.config.presets import preset
from gpt_core.config.settings import Settings
from gpt_core.errors import CheckpointError, RunExistsError, SaveError
from gpt_core.formats.checkpoint import TrainingState, peek_checkpoint, read_checkpoint, write_checkpoint
from gpt_core.generation.generator import Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.model.gpt import GPT
from gpt_core.model.scores import EvalScores
from gpt_core.optim.schedule import Schedule
from gpt_core.training import events as ev
from gpt_core.training import setup
from gpt_core.training.early_stopping import patience_is_over, record_evaluation
from gpt_core.training.metrics import MetricValues, metrics
from gpt_core.training.metrics_log import read_metrics
from gpt_core.training.request import RunRequest, raised_limits
from gpt_core.training.run import Run
from gpt_core.training.trainer import Trainer
from tests.core.checkpoint_samples import sample
from tests.core.training_samples import losses, of_kind, open_run, tiny_settings, train, whole_state

LATEST = Path("models/ckpt_latest.safetensors")


def finished_trainer(settings: Settings, resume: Path | None = None) -> tuple[Trainer, list[float]]:
    trainer = open_run(settings, resume=resume)
    return trainer, losses(list(trainer.events()))


def in_one_go(folder: Path, steps: int, **changes: object) -> tuple[Trainer, list[float]]:
    folder.mkdir()
    return finished_trainer(tiny_settings(folder, max_steps=steps, **changes))


def test_a_run_with_a_shape_of_its_own_is_custom_in_its_events_and_checkpoints(tmp_path: Path) -> None:
    request = RunRequest(tiny_settings(tmp_path, max_steps=1), "nano")
    started, *_ = setup.open_run(request).events()
    assert isinstance(started, ev.RunStarted)
    assert started.preset == "custom"
    assert peek_checkpoint(tmp_path / LATEST).preset == "custom"


# ---- exact resume


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 9, 10, 11, 12, 13, 19])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path: Path, cut: int) -> None:
    whole, all_losses = in_one_go(tmp_path / "whole", 20)
    first, first_losses = in_one_go(tmp_path / "cut", cut)
    settings = tiny_settings(tmp_path / "cut", max_steps=20)
    second, second_losses = finished_trainer(settings, tmp_path / "cut" / LATEST)
    assert first_losses + second_losses == all_losses
    assert whole_state(second) == whole_state(whole)
    assert (second.state.epoch, second.state.window, second.state.best_accuracy) == (
        whole.state.epoch, whole.state.window, whole.state.best_accuracy,
    )  # fmt: skip
    assert first.step == cut


def test_a_run_resumed_in_a_new_process_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    _, all_losses = in_one_go(tmp_path / "whole", 12)
    in_one_go(tmp_path / "cut", 6)
    settings = tiny_settings(tmp_path / "cut", max_steps=12)
    program = (
        "import json, sys, msgspec; from pathlib import Path; from gpt_core.config.settings import Settings;"
        "from gpt_core.training.setup import open_run; from gpt_core.training.events import StepCompleted;"
        "from gpt_core.training.request import RunRequest;"
        "settings = msgspec.json.decode(sys.argv[1], type=Settings);"
        "events = open_run(RunRequest(settings, resume=Path(sys.argv[2]))).events();"
        "print(json.dumps([e.loss for e in events if isinstance(e, StepCompleted)]))"
    )
    arguments = [msgspec.json.encode(settings).decode(), str(tmp_path / "cut" / LATEST)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == all_losses[6:]


def test_twenty_consecutive_stops_change_nothing(tmp_path: Path) -> None:
    whole, _ = in_one_go(tmp_path / "whole", 20)
    trainer, _ = in_one_go(tmp_path / "cut", 1)
    for step in range(2, 21):
        settings = tiny_settings(tmp_path / "cut", max_steps=step)
        trainer, _ = finished_trainer(settings, tmp_path / "cut" / LATEST)
    assert whole_state(trainer) == whole_state(whole)


@pytest.mark.parametrize("kind", ["latest", "best", "epoch", "final"])
def test_a_run_resumes_exactly_from_every_kind_of_checkpoint(tmp_path: Path, kind: str) -> None:
    whole, all_losses = in_one_go(tmp_path / "whole", 40)
    folder = tmp_path / "cut"
    folder.mkdir()
    changes = {"save_epoch_number": 1, "save_every_steps": 7, "improvement_threshold": 0.0}
    settings = tiny_settings(folder, **changes, max_epochs=2)
    events = train(settings)
    saved = [event for event in of_kind(events, ev.CheckpointSaved) if event.kind == kind]
    path = Path(saved[0].path if kind == "epoch" else saved[-1].path)
    step = peek_checkpoint(path).step
    longer = tiny_settings(folder, **changes, max_steps=40)
    resumed, resumed_losses = finished_trainer(longer, path)
    assert resumed_losses == all_losses[step:]
    assert whole_state(resumed) == whole_state(whole)


def test_closing_the_iterator_saves_as_stop_does(tmp_path: Path) -> None:
    _, all_losses = in_one_go(tmp_path / "whole", 9)
    folder = tmp_path / "closed"
    folder.mkdir()
    events = open_run(tiny_settings(folder)).events()
    seen = [next(events) for _ in range(6)]  # started, a sample, and four steps
    events.close()
    assert peek_checkpoint(folder / LATEST).step == len(losses(seen)) == 4
    _, rest = finished_trainer(tiny_settings(folder, max_steps=9), folder / LATEST)
    assert rest == all_losses[4:]


def test_an_evaluation_that_a_stop_interrupts_is_repeated_after_the_resume(tmp_path: Path) -> None:
    whole_folder, folder = tmp_path / "whole", tmp_path / "cut"
    whole_folder.mkdir()
    folder.mkdir()
    scores = of_kind(train(tiny_settings(whole_folder, max_steps=8)), ev.EvalCompleted)
    trainer = open_run(tiny_settings(folder))
    seen = []
    for event in trainer.events():
        seen.append(event)
        if isinstance(event, ev.EvalProgressed):
            trainer.requests.stop()
    assert not of_kind(seen, ev.EvalCompleted)
    assert of_kind(seen, ev.RunFinished) == [ev.RunFinished("stopped", 5)]
    log = folder / "models" / "metrics.jsonl"
    with log.open("ab") as file:  # as if a resumed run had crashed between the evaluation and the next save
        file.write(ev.to_json(scores[0]) + b"\n")
    again = train(tiny_settings(folder, max_steps=8), folder / LATEST)
    assert of_kind(again, ev.EvalCompleted) == scores
    assert [event for event in read_metrics(log) if isinstance(event, ev.EvalCompleted)] == scores


def test_a_stop_between_micro_batches_leaves_the_step_untaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, all_losses = in_one_go(tmp_path / "whole", 6)
    folder = tmp_path / "cut"
    folder.mkdir()
    trainer = open_run(tiny_settings(folder))
    forward_backward = GPT.loss_and_gradients
    calls = 0

    def stop_in_the_third_step(*arguments: object) -> tuple[float, int]:
        nonlocal calls
        calls += 1
        if calls == 5:  # two micro-batches a step
            trainer.requests.stop()
        return forward_backward(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(GPT, "loss_and_gradients", stop_in_the_third_step)
        assert losses(list(trainer.events())) == all_losses[:2]
    _, rest = finished_trainer(tiny_settings(folder, max_steps=6), folder / LATEST)
    assert rest == all_losses[2:]


def test_a_resume_with_another_text_is_refused_unless_it_is_requested(tmp_path: Path) -> None:
    in_one_go(tmp_path / "run", 2)
    settings = tiny_settings(tmp_path / "run", max_steps=3)
    text = Path(settings.train_file)
    text.write_text(text.read_text() + "\nOne more line than before.\n")
    with pytest.raises(CheckpointError, match="another text"):
        open_run(settings, resume=tmp_path / "run" / LATEST)
    other = tmp_path / "other.en"
    text.rename(other)
    named = tiny_settings(tmp_path / "run", max_steps=3, train_file=str(other))
    trainer, taken = finished_trainer(named, tmp_path / "run" / LATEST)
    assert (trainer.step, len(taken)) == (3, 1)


def test_the_last_step_named_by_a_resume_with_another_text_is_the_one_that_it_takes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    in_one_go(folder, 7)
    settings = tiny_settings(folder, max_steps=0, max_epochs=2)
    text = Path(settings.train_file).read_text()
    for name, other in (
        ("longer", text * 3),
        ("shorter", text[: len(text) // 3]),
        ("shortest", text[: len(text) // 9]),
    ):
        file = tmp_path / f"{name}.en"
        file.write_text(other)
        changed = msgspec.structs.replace(settings, train_file=str(file), models_dir=str(tmp_path / name))
        events = train(changed, folder / LATEST)
        (started,) = of_kind(events, ev.RunStarted)
        (finished,) = of_kind(events, ev.RunFinished)
        assert isinstance(started, ev.RunStarted)
        assert isinstance(finished, ev.RunFinished)
        assert (finished.reason, finished.step) == ("max_epochs", started.max_steps)


def test_a_resume_with_another_model_shape_is_refused(tmp_path: Path) -> None:
    in_one_go(tmp_path / "run", 1)
    with pytest.raises(CheckpointError, match="layers"):
        open_run(tiny_settings(tmp_path / "run", layers=3), resume=tmp_path / "run" / LATEST)


def test_a_new_run_does_not_replace_another_one_without_overwrite(tmp_path: Path) -> None:
    in_one_go(tmp_path / "run", 2)
    settings = tiny_settings(tmp_path / "run", max_steps=1)
    with pytest.raises(RunExistsError, match="--overwrite"):
        open_run(settings)
    assert peek_checkpoint(tmp_path / "run" / LATEST).step == 2
    train(settings, overwrite=True)
    assert peek_checkpoint(tmp_path / "run" / LATEST).step == 1


# ---- how a run ends


def test_the_loss_decreases(tmp_path: Path) -> None:
    _, all_losses = in_one_go(tmp_path / "run", 60)
    assert np.mean(all_losses[-5:]) < 0.6 * np.mean(all_losses[:5])


def test_early_stopping_counts_scheduled_evaluations_without_improvement(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, patience=2, improvement_threshold=1.0, eval_every_steps=0)
    events = train(settings)
    started = of_kind(events, ev.RunStarted)[0]
    # the first epoch's score is the best; the two after it are not better by a whole 1.0
    assert of_kind(events, ev.RunFinished) == [ev.RunFinished("early_stopping", 3 * started.steps_per_epoch)]
    assert [event.kind for event in of_kind(events, ev.CheckpointSaved)] == ["best", "latest", "final"]
    scores = of_kind(events, ev.EvalCompleted)
    assert [(score.is_best, score.without_improvement) for score in scores] == [(True, 0), (False, 1), (False, 2)]


def test_early_stopping_waits_for_the_end_of_the_warm_up_and_for_the_minimum_number_of_steps(tmp_path: Path) -> None:
    changes = {"improvement_threshold": 1.0, "eval_every_steps": 5, "patience": 3}
    for number, (warmup, least) in enumerate([(0, 0), (40, 0), (40, 25), (0, 33)]):
        settings = tiny_settings(
            tmp_path, **changes, warmup_steps=warmup, patience_min_steps=least, models_dir=str(tmp_path / str(number))
        )
        events = train(settings)
        per_epoch = of_kind(events, ev.RunStarted)[0].steps_per_epoch
        # the first evaluation, at step 5, stays the best
        scheduled = [step for step in range(6, 200) if step % 5 == 0 or step % per_epoch == 0]
        counted = [step for step in scheduled if step > warmup]
        end = next(step for step in counted[2:] if step - max(5, warmup) >= least)
        assert of_kind(events, ev.RunFinished) == [ev.RunFinished("early_stopping", end)], (warmup, least)


def test_early_stopping_ends_at_the_same_step_after_resumes(tmp_path: Path) -> None:
    changes = {"patience": 3, "improvement_threshold": 0.5}
    whole = train(tiny_settings(tmp_path, **changes, models_dir=str(tmp_path / "whole")))
    end = of_kind(whole, ev.RunFinished)[0]
    assert end.reason == "early_stopping"
    path, step = None, 0
    while step < end.step:
        settings = tiny_settings(tmp_path, **changes, max_steps=step + 7)
        last = train(settings, path)[-1]
        path, step = tmp_path / LATEST, last.step
    assert last == end


def test_the_run_ends_when_the_average_loss_of_an_epoch_is_below_epsilon(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, epsilon=3.0, eval_every_steps=0))
    end = of_kind(events, ev.RunFinished)[0]
    steps = of_kind(events, ev.RunStarted)[0].steps_per_epoch
    epochs = [np.mean(losses(events)[first : first + steps]) for first in range(0, end.step, steps)]
    assert end.reason == "epsilon"
    assert epochs[-1] < 3.0 <= min(epochs[:-1])


def test_transformer_is_the_best_model_and_not_the_last(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_epochs=3, improvement_threshold=0.2)
    train(settings)
    models = tmp_path / "models"
    best, final, last = (
        read_checkpoint(models / f"{name}.safetensors") for name in ("best_model", "transformer", "ckpt_latest")
    )
    assert final.state.step == best.state.step < last.state.step
    assert np.array_equal(final.parameters.flat, best.parameters.flat)
    assert not np.array_equal(final.parameters.flat, last.parameters.flat)


def test_each_checkpoint_holds_the_scores_of_its_very_step(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=11, eval_every_steps=3, improvement_threshold=0.0)
    events = train(settings)
    evals = {event.step: event for event in of_kind(events, ev.EvalCompleted)}
    best, last = (peek_checkpoint(tmp_path / f"models/{name}.safetensors") for name in ("best_model", "ckpt_latest"))
    event = evals[best.step]
    assert best.scores == EvalScores(best.step, event.loss, event.accuracy, event.bits_per_byte)
    assert last.step == 11
    assert last.step not in evals
    assert last.scores is None
    assert last.state.last_eval is not None
    assert last.state.last_eval.step == max(evals)
    assert last.state.step_loss == losses(events)[-1]


def test_the_train_loss_of_a_checkpoint_is_the_smoothed_one_also_after_a_resume(tmp_path: Path) -> None:
    first = train(tiny_settings(tmp_path, max_steps=4))
    second = train(tiny_settings(tmp_path, max_steps=9), resume=tmp_path / LATEST)
    values = MetricValues().updated([*first, *second], metrics())
    assert peek_checkpoint(tmp_path / LATEST).state.train_loss == values.latest["train_loss"]


def test_a_run_that_ends_by_max_steps_saves_as_a_stop_does(tmp_path: Path) -> None:
    events = [
        event for event in train(tiny_settings(tmp_path, max_steps=3)) if not isinstance(event, ev.EvalProgressed)
    ]
    kinds = (ev.CheckpointSaved, ev.FullEvalCompleted, ev.SampleWritten, ev.RunFinished)
    assert [type(event) for event in events[-4:]] == list(kinds)
    assert events[-4] == ev.CheckpointSaved("latest", str(tmp_path / LATEST), 3)
    assert events[-1] == ev.RunFinished("max_steps", 3)


def test_a_run_ends_with_a_sample_but_never_with_a_second_one_of_its_step(tmp_path: Path) -> None:
    def steps_of_samples(folder: str, **changes: object) -> list[int]:
        (tmp_path / folder).mkdir()
        settings = tiny_settings(tmp_path / folder, max_steps=3, sample_tokens=4, **changes)
        return [event.step for event in of_kind(train(settings), ev.SampleWritten)]

    assert steps_of_samples("unscored", eval_every_steps=0) == [0, 3]
    assert steps_of_samples("scored", eval_every_steps=3) == [0, 3]
    assert steps_of_samples("part", eval_every_steps=3, eval_tokens=16) == [0, 3]


def test_a_text_of_a_few_kilobytes_does_not_stop_early_with_the_default_settings(tmp_path: Path) -> None:
    """An epoch has about a dozen steps, each with an evaluation; none of them is an improvement here."""
    nano = preset("nano")
    names = ("patience", "patience_min_steps", "warmup_steps", "eval_every_steps", "max_epochs")
    settings = tiny_settings(
        tmp_path, **{name: getattr(nano, name) for name in names}, best_metric="loss", improvement_threshold=100.0
    )
    events = train(settings)
    end = of_kind(events, ev.RunFinished)[0]
    assert end.reason == "max_epochs"
    assert end.step > nano.warmup_steps
    assert of_kind(events, ev.EvalCompleted)[-1].without_improvement > nano.patience


def test_a_gain_below_the_threshold_is_no_improvement() -> None:
    settings, state = Settings(improvement_threshold=0.01), TrainingState(run_id="r", step=5)
    assert record_evaluation(state, 5.0, 0.0, settings, is_scheduled=True)  # the first is the best, even of nothing
    assert not record_evaluation(state, 1.0, 0.009, settings, is_scheduled=True)
    assert record_evaluation(state, 5.0, 0.01, settings, is_scheduled=True)
    assert (state.best_accuracy, state.best_loss) == (0.01, 5.0)


def test_the_best_loss_is_the_lowest_by_the_threshold_whatever_the_accuracy() -> None:
    settings, state = Settings(best_metric="loss", improvement_threshold=0.01), TrainingState(run_id="r", step=60)
    assert not record_evaluation(state, math.nan, 0.0, settings, is_scheduled=True)
    assert not state.is_scored
    assert record_evaluation(state, 5.298, 0.251, settings, is_scheduled=True)
    state.step = 120
    assert not record_evaluation(state, 5.29, 0.5, settings, is_scheduled=True)
    assert record_evaluation(state, 4.777, 0.211, settings, is_scheduled=True)
    assert (state.best_step, state.best_loss, state.best_accuracy) == (120, 4.777, 0.211)


def test_an_evaluation_on_request_or_of_the_same_step_does_not_count_towards_the_patience() -> None:
    settings, state = Settings(patience=1, warmup_steps=10), TrainingState(run_id="r", step=5)
    record_evaluation(state, 3.0, 0.3, settings, is_scheduled=True)

    def recorded(step: int, *, is_scheduled: bool) -> int:
        state.step = step
        record_evaluation(state, 3.0, 0.2, settings, is_scheduled=is_scheduled)
        state.last_eval = EvalScores(step, 3.0, 0.2, 1.5)
        return state.evaluations_without_improvement

    assert recorded(10, is_scheduled=True) == 0  # the last step of the warm-up
    assert recorded(11, is_scheduled=False) == 0
    assert not patience_is_over(state, settings)
    assert recorded(12, is_scheduled=True) == 1
    assert patience_is_over(state, settings)
    assert recorded(12, is_scheduled=True) == 1


@pytest.mark.parametrize("reason", ["max_steps", "max_epochs", "early_stopping", "epsilon", "overfit_done"])
def test_a_finished_run_goes_on_when_it_is_resumed(tmp_path: Path, reason: str) -> None:
    changes: dict[str, object] = {
        "max_steps": {"max_steps": 3},
        "max_epochs": {"max_epochs": 1},
        "early_stopping": {"patience": 1, "improvement_threshold": 1.0},
        "epsilon": {"epsilon": 100.0},
        "overfit_done": {"overfit_tiny": True, "overfit_steps": 3},
    }[reason]  # type: ignore[assignment]
    end = of_kind(train(tiny_settings(tmp_path, **changes)), ev.RunFinished)[0]
    assert end.reason == reason
    trainer = setup.open_run(RunRequest(Settings(models_dir=str(tmp_path / "models")), resume="newest"))
    steps = 0
    for event in trainer.events():
        steps += isinstance(event, ev.StepCompleted)
        if steps == 2:
            trainer.requests.stop()
    assert (event.reason, trainer.step) == ("stopped", end.step + 2)
    assert read_checkpoint(tmp_path / LATEST).state.finished == ""


def test_limits_that_a_resumed_run_has_not_reached_stay() -> None:
    settings = Settings(max_steps=100, max_epochs=20)
    checkpoint = sample()

    def raised(step: int, epoch: int) -> dict[str, int | float]:
        state = TrainingState(run_id="r", step=step, epoch=epoch)
        return raised_limits(checkpoint._replace(settings=settings, state=state))

    assert raised(99, 19) == {}
    assert raised(100, 19) == {"max_steps": 0}
    assert raised(100, 20) == {"max_steps": 0, "max_epochs": 40}


# ---- another eval text


def test_another_eval_text_begins_a_new_best_and_a_new_patience(tmp_path: Path) -> None:
    """An eval text without a single known byte pair has a worse score than any of the first text."""
    changes = {"eval_every_steps": 5, "patience": 4, "improvement_threshold": 0.0}
    train(tiny_settings(tmp_path, max_steps=30, **changes))
    before = read_checkpoint(tmp_path / LATEST).state
    other = tmp_path / "other.en"
    other.write_text("zqxj vkwq jjxz qqkv wvzx.\n\n" * 40)
    settings = tiny_settings(tmp_path, max_steps=36, **changes, eval_file=str(other))
    events = train(settings, tmp_path / LATEST)
    started, scores = of_kind(events, ev.RunStarted)[0], of_kind(events, ev.EvalCompleted)
    assert "another eval text" in started.best_restarted
    assert f"step {before.best_step}" in started.best_restarted
    assert scores[0].is_best
    assert scores[0].accuracy < before.best_accuracy
    best = peek_checkpoint(tmp_path / "models/best_model.safetensors").state
    assert best.step == max(score.step for score in scores if score.is_best) >= 35
    assert best.eval_sha256 == hashlib.sha256(other.read_bytes()).hexdigest() != before.eval_sha256
    again = train(tiny_settings(tmp_path, max_steps=40, **changes, eval_file=str(other)), tmp_path / LATEST)
    assert of_kind(again, ev.RunStarted)[0].best_restarted == ""


def test_a_text_that_changed_in_place_and_another_held_out_part_are_other_eval_texts(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=5)
    train(settings)
    text = Path(settings.eval_file)

    def restarted(**changes: object) -> bool:
        run = open_run(msgspec.structs.replace(settings, **changes), resume=tmp_path / LATEST).run
        run.store.close()
        return bool(run.best_restarted)

    assert not restarted(max_steps=9)
    assert not restarted(eval_file=str(text.rename(tmp_path / "renamed.en")))
    text.write_text("A short text.\n")
    assert restarted()
    held_out = tiny_settings(tmp_path, max_steps=5, eval_file="", val_frac=0.2, models_dir=str(tmp_path / "held_out"))
    text.unlink()
    train(held_out)
    for val_frac, expected in ((0.2, False), (0.4, True)):
        again = msgspec.structs.replace(held_out, val_frac=val_frac)
        run = open_run(again, resume=tmp_path / "held_out/ckpt_latest.safetensors").run
        run.store.close()
        assert bool(run.best_restarted) is expected


def test_another_part_of_the_eval_text_begins_a_new_best(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=5)
    train(settings)
    for eval_tokens, expected in ((0, ""), (10_000, ""), (64, "another part of the eval text")):
        run = open_run(msgspec.structs.replace(settings, eval_tokens=eval_tokens), resume=tmp_path / LATEST).run
        run.store.close()
        assert run.best_restarted.partition(":")[0] == expected


@pytest.mark.parametrize(("changed", "expected"), [({}, False), ({"eval_file": "other.en"}, True)])
def test_a_checkpoint_without_the_hash_of_its_eval_text_keeps_its_best_unless_another_text_is_named(
    tmp_path: Path, changed: dict[str, str], expected: bool
) -> None:
    settings = tiny_settings(tmp_path, max_steps=5)
    train(settings)
    checkpoint = read_checkpoint(tmp_path / LATEST)
    checkpoint.state.eval_sha256 = ""
    write_checkpoint(tmp_path / LATEST, checkpoint)
    (tmp_path / "other.en").write_text("Another text, not a long one.\n")
    changes = {name: str(tmp_path / value) for name, value in changed.items()}
    run = open_run(msgspec.structs.replace(settings, **changes), resume=tmp_path / LATEST).run
    run.store.close()
    assert bool(run.best_restarted) is expected


def test_a_resumed_run_with_another_best_metric_needs_a_known_best_loss(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=5)
    train(settings)
    by_loss = msgspec.structs.replace(settings, best_metric="loss")
    run = open_run(by_loss, resume=tmp_path / LATEST).run
    run.store.close()
    assert run.best_restarted == ""
    checkpoint = read_checkpoint(tmp_path / LATEST)
    checkpoint.state.best_loss = None  # as in checkpoints of earlier versions
    write_checkpoint(tmp_path / LATEST, checkpoint)
    run = open_run(by_loss, resume=tmp_path / LATEST).run
    run.store.close()
    assert "unknown" in run.best_restarted


# ---- steps


def test_a_step_that_is_not_finite_changes_no_weight_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=4))
    forward_backward = GPT.loss_and_gradients
    before: list[bytes] = []

    def third_is_not_finite(self: GPT, *arguments: object) -> tuple[float, int]:
        loss, targets = forward_backward(self, *arguments)  # type: ignore[arg-type]
        if trainer.step == 2:
            before.append(self.parameters.flat.tobytes())
            return math.nan, targets
        return loss, targets

    monkeypatch.setattr(GPT, "loss_and_gradients", third_is_not_finite)
    events = []
    for event in trainer.events():
        events.append(event)
        if isinstance(event, ev.UpdateSkipped):
            assert trainer.parameters.flat.tobytes() == before[0]
    skipped = of_kind(events, ev.UpdateSkipped)
    assert [(event.step, event.in_a_row) for event in skipped] == [(3, 1)]
    assert len(losses(events)) == 3
    assert trainer.state.skipped_in_a_row == 0


def test_five_consecutive_steps_that_are_not_finite_end_the_run_with_finite_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GPT, "loss_and_gradients", lambda *_: (math.inf, 1))
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=1, eval_every_steps=0))
    before = trainer.parameters.flat.copy()
    events = list(trainer.events())
    assert events[-1] == ev.RunFinished("diverged", 5)  # there is no checkpoint to name
    assert not of_kind(events, ev.CheckpointSaved)
    assert np.array_equal(trainer.parameters.flat, before)


def from_step_on(first: int, trainer: Trainer) -> Callable[..., tuple[float, int]]:
    """Replace forward and backward by passes whose losses are not finite from step `first` on."""
    forward_backward = GPT.loss_and_gradients

    def pass_or_fail(self: GPT, *arguments: object) -> tuple[float, int]:
        loss, targets = forward_backward(self, *arguments)  # type: ignore[arg-type]
        return (math.nan if trainer.step + 1 >= first else loss), targets

    return pass_or_fail


def test_a_run_that_diverges_keeps_the_checkpoint_from_before_its_first_skipped_update_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=3, eval_every_steps=0))
    monkeypatch.setattr(GPT, "loss_and_gradients", from_step_on(8, trainer))
    events = list(trainer.events())
    assert [event.step for event in of_kind(events, ev.UpdateSkipped)] == [8, 9, 10, 11, 12]
    assert [event.step for event in of_kind(events, ev.CheckpointSaved)] == [3, 6]  # not 9, not 12
    assert events[-1] == ev.RunFinished("diverged", 12, str(tmp_path / LATEST), 6)
    assert peek_checkpoint(tmp_path / LATEST).step == 6


def test_a_run_that_diverges_before_it_saved_names_the_checkpoint_that_it_was_resumed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_one_go(tmp_path / "run", 4)
    latest = tmp_path / "run" / LATEST
    trainer = open_run(tiny_settings(tmp_path / "run"), resume=latest)
    monkeypatch.setattr(GPT, "loss_and_gradients", from_step_on(7, trainer))
    assert list(trainer.events())[-1] == ev.RunFinished("diverged", 11, str(latest), 4)


def test_while_updates_are_skipped_only_requested_saves_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=1, eval_every_steps=0))
    monkeypatch.setattr(GPT, "loss_and_gradients", from_step_on(3, trainer))
    events = []
    for event in trainer.events():
        events.append(event)
        if isinstance(event, ev.UpdateSkipped) and event.in_a_row == 2:
            trainer.requests.save()
    assert [event.step for event in of_kind(events, ev.CheckpointSaved)] == [1, 2, 4]


def test_accumulating_micro_batches_gives_the_losses_of_the_complete_batch(tmp_path: Path) -> None:
    _, in_parts = in_one_go(tmp_path / "parts", 10, micro_batch_size=2)
    _, at_once = in_one_go(tmp_path / "whole", 10, micro_batch_size=0)
    assert np.allclose(in_parts, at_once, rtol=1e-4)


def test_the_schedule_rises_linearly_and_falls_as_a_cosine() -> None:
    schedule = Schedule(warmup_steps=10, decay_steps=100, min_share=0.1)
    assert [schedule.share(step) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert schedule.share(60) == pytest.approx(0.55)
    assert schedule.share(110) == schedule.share(10_000) == pytest.approx(0.1)
    assert Schedule(0, 0, 0.1).share(1) == 1.0


def test_the_gradient_norm_is_reported_before_clipping_and_bounded_after(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=1, grad_clip=0.01))
    step = of_kind(list(trainer.events()), ev.StepCompleted)[0]
    assert step.grad_norm > 0.1
    # after one step the first moment is (1 - beta1) times the clipped gradient
    assert np.linalg.norm(trainer.run.optimizer.state["adam_m"].flat) / 0.1 == pytest.approx(0.01, rel=1e-3)


def test_each_parameter_group_has_its_own_learning_rate(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=1, pos_lr=0.0, attn_lr=0.0, mlp_lr=0.0, norm_lr=0.0, weight_decay=0.5)
    trainer = open_run(settings)
    before = trainer.parameters.copy()
    list(trainer.events())
    changed = {name for name in before.tensors if not np.array_equal(before[name], trainer.parameters[name])}
    assert changed == {"wte.weight"}


# ---- requests


def test_a_paused_run_takes_single_steps_and_continues_on_request(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=4, eval_every_steps=0, sample_tokens=0))
    trainer.requests.pause()
    kinds = []
    for event in trainer.events():
        kinds.append(type(event).__name__)
        if isinstance(event, ev.RunPaused) and event.step == 0:
            trainer.requests.single_step()
        elif isinstance(event, ev.RunPaused):
            trainer.requests.unpause()
    assert kinds[:5] == ["RunStarted", "RunPaused", "StepCompleted", "RunPaused", "RunContinued"]
    assert kinds.count("StepCompleted") == 4


def test_save_and_evaluate_are_done_at_the_next_boundary(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=3, eval_every_steps=0))
    events = []
    for event in trainer.events():
        events.append(event)
        if isinstance(event, ev.StepCompleted) and event.step == 1:
            trainer.requests.save()
            trainer.requests.evaluate()
    assert [event.step for event in of_kind(events, ev.EvalCompleted)] == [1]
    assert [(e.kind, e.step) for e in of_kind(events, ev.CheckpointSaved)] == [
        ("best", 1),
        ("latest", 1),
        ("latest", 3),
    ]


def test_a_failed_save_is_reported_and_training_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_one_go(tmp_path / "run", 4)
    latest = tmp_path / "run" / LATEST
    failing = open_run(tiny_settings(tmp_path / "run", max_steps=6, save_every_steps=5), resume=latest)
    monkeypatch.setattr(failing.run.store, "save", refuse)
    seen = list(failing.events())
    assert [event.step for event in of_kind(seen, ev.SaveFailed) if event.kind == "latest"] == [5, 6]
    assert peek_checkpoint(latest).step == 4
    assert len(losses(seen)) == 2


def refuse(kind: str, _checkpoint: object, **_: object) -> Path:
    raise SaveError(f"{kind} was not saved: no space left")


@pytest.mark.slow
def test_a_snapshot_holds_the_weights_of_one_step(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=30)
    trainer = open_run(settings)
    taken = {}
    done = threading.Event()

    def take_snapshots() -> None:
        while not done.is_set():
            parameters, step = trainer.weights_snapshot()
            taken[step] = parameters.flat.tobytes()

    thread = threading.Thread(target=take_snapshots)
    thread.start()
    by_step = {0: trainer.parameters.flat.tobytes()}
    for event in trainer.events():
        if isinstance(event, ev.StepCompleted):
            by_step[event.step] = trainer.parameters.flat.tobytes()
            while event.step % 10 == 0 and event.step not in taken and thread.is_alive():
                time.sleep(0.001)  # however seldom a busy machine lets the other thread run
    done.set()
    thread.join()
    assert {10, 20, 30} <= taken.keys()
    assert all(by_step[step] == weights for step, weights in taken.items())


# ---- what is told


def test_the_log_holds_the_events(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, max_steps=6))
    logged = [event for event in events if isinstance(event, ev.LOGGED)]
    assert list(read_metrics(tmp_path / "models" / "metrics.jsonl")) == logged
    assert len(of_kind(events, ev.EvalProgressed)) > 0


def test_debug_reports_the_norms_of_every_tensor(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, max_steps=4, debug=True, debug_every=2))
    told = of_kind(events, ev.GradientNorms)
    steps = of_kind(events, ev.StepCompleted)
    assert [event.step for event in told] == [2, 4]
    total = math.sqrt(sum(norm**2 for norm in told[0].grad_norms.values()))
    assert total == pytest.approx(steps[1].grad_norm, rel=1e-5)
    assert min(told[0].update_norms.values()) > 0


def test_bits_per_byte_is_the_loss_of_all_targets_in_bits_over_the_bytes_of_the_text(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=5)
    trainer = open_run(settings)
    score = of_kind(list(trainer.events()), ev.EvalCompleted)[0]
    assert trainer.run.eval_text is not None
    size = Path(settings.eval_file).stat().st_size
    targets = len(trainer.run.eval_text) - 1
    assert score.bits_per_byte == pytest.approx(score.loss * targets / math.log(2) / size)


# ---- tiny overfit


@pytest.mark.slow
def test_the_self_test_memorizes_its_lines(tmp_path: Path) -> None:
    settings = tiny_settings(
        tmp_path, overfit_tiny=True, overfit_lines=12, overfit_steps=250, d_model=48, hidden_size=96, seq_len=128,
        layers=2, vocab_size=400, document="paragraph",
    )  # fmt: skip
    lines = [f"{name} had {count} horses and a {colour} coach." for count, (name, colour) in enumerate(
        zip(["Ann", "Bess", "Cato", "Dora", "Edward", "Fanny", "George", "Henry", "Isabella", "Jane", "Kitty", "Lydia"],
            ["red", "blue", "green", "black", "white", "grey", "brown", "pink", "small", "large", "old", "new"],
            strict=True), start=3)]  # fmt: skip
    Path(settings.train_file).write_text("\n".join(lines) + "\n")
    trainer = open_run(settings)
    events = list(trainer.events())
    assert isinstance(trainer.run, Run)
    assert events[-1] == ev.RunFinished("overfit_done", 250)
    assert [event.kind for event in of_kind(events, ev.CheckpointSaved)] == ["latest"]
    assert not of_kind(events, ev.EvalCompleted)
    assert np.mean(losses(events)[-10:]) < 0.1
    greedy = Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=100)
    generator = Generator(trainer.parameters, trainer.tokenizer)
    for line in lines:
        beginning = line.split(" ")[0]
        assert beginning + "".join(generator.generate(beginning, greedy)) == line


def too_high_from(first: int, trainer: Trainer) -> Callable[..., tuple[float, int]]:
    """Replace forward and backward by passes whose losses are 40 times that of guessing from step `first` on."""
    forward_backward = GPT.loss_and_gradients

    def pass_too_high(self: GPT, *arguments: object) -> tuple[float, int]:
        loss, targets = forward_backward(self, *arguments)  # type: ignore[arg-type]
        return (targets * 40 * math.log(trainer.shape.vocab_size) if trainer.step + 1 >= first else loss), targets

    return pass_too_high


def test_a_run_that_ends_far_above_guessing_diverged_and_names_the_checkpoint_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=3, eval_every_steps=0, max_steps=30))
    monkeypatch.setattr(GPT, "loss_and_gradients", too_high_from(8, trainer))
    events = list(trainer.events())
    (found,) = of_kind(events, ev.LossDiverged)
    assert (found.good_checkpoint, found.good_step) == (str(tmp_path / LATEST), 6)
    end = events[-1]
    assert isinstance(end, ev.RunFinished)
    assert (end.reason, end.good_checkpoint, end.good_step) == ("diverged", str(tmp_path / LATEST), 6)
    assert end.loss == pytest.approx(40 * end.guessing_loss)
    assert peek_checkpoint(tmp_path / LATEST).step == 6


def test_a_diverged_run_without_a_good_checkpoint_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=0, eval_every_steps=0, max_steps=5))
    monkeypatch.setattr(GPT, "loss_and_gradients", too_high_from(1, trainer))
    end = list(trainer.events())[-1]
    assert isinstance(end, ev.RunFinished)
    assert (end.reason, end.good_checkpoint) == ("diverged", "")
    assert peek_checkpoint(tmp_path / LATEST).step == 5
