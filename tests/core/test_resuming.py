"""Resuming a run: to the bit from any step, with another text, and after its limits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gpt_core.config.settings import Settings
from gpt_core.errors import CheckpointError, ResumeTextError
from gpt_core.formats.checkpoint import TrainingState, peek_checkpoint, read_checkpoint
from gpt_core.formats.training_state import Plan
from gpt_core.model.gpt import GPT
from gpt_core.training import events as ev
from gpt_core.training import setup
from gpt_core.training.metrics import MetricValues, metrics
from gpt_core.training.metrics_log import read_metrics
from gpt_core.training.request import RunRequest, raised_limits
from tests.core.checkpoint_samples import sample
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
    seen: list[ev.AnyEvent] = []
    while len(losses(seen)) < 4:
        seen.append(next(events))
    events.close()
    assert peek_checkpoint(folder / LATEST).step == 4
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
        if calls == 5:  # two micro-batches per step
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
    with pytest.raises(ResumeTextError, match="another text"):
        open_run(settings, resume=tmp_path / "run" / LATEST)
    other = tmp_path / "other.en"
    text.rename(other)
    named = tiny_settings(tmp_path / "run", max_steps=3, train_file=str(other))
    trainer, taken = finished_trainer(named, tmp_path / "run" / LATEST)
    assert (trainer.step, len(taken)) == (3, 1)


@pytest.mark.slow
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


def test_the_train_loss_of_a_checkpoint_is_the_smoothed_one_also_after_a_resume(tmp_path: Path) -> None:
    first = train(tiny_settings(tmp_path, max_steps=4))
    second = train(tiny_settings(tmp_path, max_steps=9), resume=tmp_path / LATEST)
    values = MetricValues().updated([*first, *second], metrics())
    assert peek_checkpoint(tmp_path / LATEST).state.train_loss == values.latest["train_loss"]


@pytest.mark.parametrize("reason", ["max_steps", "max_epochs", "early_stopping", "epsilon", "overfit_done"])
def test_a_finished_run_continues_when_it_is_resumed(tmp_path: Path, reason: str) -> None:
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


def test_a_run_that_reached_two_limits_ends_for_the_same_reason_when_it_is_completed_by_a_resume(
    tmp_path: Path,
) -> None:
    epoch = tiny_settings(tmp_path, max_epochs=1, models_dir=str(tmp_path / "epoch"))
    steps = of_kind(train(epoch), ev.RunFinished)[0].step
    settings = tiny_settings(tmp_path, max_epochs=1, max_steps=steps, save_epoch_number=1)
    whole = of_kind(train(settings), ev.RunFinished)[0]
    completed = of_kind(train(settings, tmp_path / "models/epoch_001.safetensors"), ev.RunFinished)[0]
    assert (whole.reason, whole.step) == (completed.reason, completed.step) == ("max_epochs", steps)


def test_limits_that_a_resumed_run_has_not_reached_stay() -> None:
    settings = Settings(max_steps=100, max_epochs=20)
    checkpoint = sample()

    def raised(step: int, epoch: int) -> dict[str, int | float]:
        state = TrainingState(run_id="r", step=step, epoch=epoch)
        return raised_limits(checkpoint._replace(settings=settings, state=state))

    assert raised(99, 19) == {}
    assert raised(100, 19) == {"max_steps": 0}
    assert raised(100, 20) == {"max_steps": 0, "max_epochs": 40}


@pytest.mark.parametrize("minutes", [0.001, 0.01, 0.5, 10.0])
@pytest.mark.parametrize("overrun", [1.001, 1.5, 40.0])
def test_a_raised_budget_is_longer_than_the_time_that_was_used(minutes: float, overrun: float) -> None:
    used = 60 * minutes * overrun
    plan = Plan(step=3, progress=1.0, last_step=3, elapsed_s=used, step_s=1.0, budget_s=60 * minutes)
    state = TrainingState(run_id="r", step=3, elapsed_s=used, plan=plan)
    raised = raised_limits(sample()._replace(settings=Settings(minutes=minutes), state=state))
    assert 60 * raised["minutes"] > used


@pytest.mark.slow
def test_a_run_with_shuffled_documents_resumes_exactly(tmp_path: Path) -> None:
    whole, expected = in_one_go(tmp_path / "whole", 30, shuffle="documents")  # more than two epochs
    in_one_go(tmp_path / "parts", 17, shuffle="documents")
    settings = tiny_settings(tmp_path / "parts", max_steps=30, shuffle="documents")
    resumed, losses = finished_trainer(settings, resume=tmp_path / "parts" / LATEST)
    assert losses == expected[17:]
    assert whole_state(resumed) == whole_state(whole)
    _, others = in_one_go(tmp_path / "windows", 30)
    assert others != expected
