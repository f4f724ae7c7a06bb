"""The trainer: steps, requests between them, snapshots of the weights, and the log."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gpt_core.errors import RunExistsError, SaveError
from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.model.scores import EvalScores
from gpt_core.training import events as ev
from gpt_core.training import setup
from gpt_core.training.metrics_log import read_metrics
from gpt_core.training.request import RunRequest
from tests.core.training_samples import (
    LATEST,
    events_with,
    in_one_go,
    lines_are_lost,
    losses,
    of_kind,
    open_run,
    tiny_settings,
    train,
)


def test_a_run_with_a_shape_of_its_own_is_custom_in_its_events_and_checkpoints(tmp_path: Path) -> None:
    request = RunRequest(tiny_settings(tmp_path, max_steps=1), "nano")
    started, *_ = setup.open_run(request).events()
    assert isinstance(started, ev.RunStarted)
    assert started.preset == "custom"
    assert peek_checkpoint(tmp_path / LATEST).preset == "custom"


def test_a_new_run_does_not_replace_another_one_without_overwrite(tmp_path: Path) -> None:
    in_one_go(tmp_path / "run", 2)
    settings = tiny_settings(tmp_path / "run", max_steps=1)
    with pytest.raises(RunExistsError, match="--overwrite"):
        open_run(settings)
    assert peek_checkpoint(tmp_path / "run" / LATEST).step == 2
    train(settings, overwrite=True)
    assert peek_checkpoint(tmp_path / "run" / LATEST).step == 1


def test_the_loss_decreases(tmp_path: Path) -> None:
    _, all_losses = in_one_go(tmp_path / "run", 60)
    assert np.mean(all_losses[-5:]) < 0.6 * np.mean(all_losses[:5])


def test_each_checkpoint_holds_the_scores_of_its_very_step(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, eval_every_steps=3, improvement_threshold=0.0))
    events = events_with(trainer, 11, trainer.requests.stop)
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


def test_accumulating_micro_batches_gives_the_losses_of_the_complete_batch(tmp_path: Path) -> None:
    _, in_parts = in_one_go(tmp_path / "parts", 10, micro_batch_size=2)
    _, at_once = in_one_go(tmp_path / "whole", 10, micro_batch_size=0)
    assert np.allclose(in_parts, at_once, rtol=1e-4)


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

    def request() -> None:
        trainer.requests.save()
        trainer.requests.evaluate()

    events = events_with(trainer, 1, request)
    assert [event.step for event in of_kind(events, ev.EvalCompleted)] == [1, 3]
    assert [(e.kind, e.step) for e in of_kind(events, ev.CheckpointSaved)][:2] == [("best", 1), ("latest", 1)]


def test_a_failed_save_is_reported_and_training_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_one_go(tmp_path / "run", 4)
    latest = tmp_path / "run" / LATEST
    failing = open_run(tiny_settings(tmp_path / "run", max_steps=6, save_every_steps=5), resume=latest)
    monkeypatch.setattr(failing.run.store, "save", refuse)
    seen = list(failing.events())
    assert [event.step for event in of_kind(seen, ev.SaveFailed) if event.kind == "latest"] == [
        5,
        6,
        6,
    ]  # before and after the last evaluation
    assert peek_checkpoint(latest).step == 4
    assert len(losses(seen)) == 2


def refuse(kind: str, _checkpoint: object, **_: object) -> Path:
    raise SaveError(f"{kind} was not saved: no space left")


def test_a_log_that_cannot_be_written_is_reported_once_and_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=4))
    lines_are_lost(monkeypatch, b'{"event":"step"')
    seen = list(trainer.events())
    log = tmp_path / "models/metrics.jsonl"
    assert of_kind(seen, ev.LogFailed) == [ev.LogFailed(1, f"{log}: No space left on device")]
    assert [type(event).__name__ for event in seen if isinstance(event, ev.LogFailed | ev.StepCompleted)] == [
        "LogFailed", *["StepCompleted"] * 4,
    ]  # fmt: skip
    assert isinstance(seen[-1], ev.RunFinished)
    logged = list(read_metrics(log))
    assert not of_kind(logged, ev.StepCompleted)
    assert logged == [
        event for event in seen if isinstance(event, ev.LOGGED) and not isinstance(event, ev.StepCompleted)
    ]


def test_a_log_that_cannot_be_written_from_the_start_is_reported_after_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=1))
    lines_are_lost(monkeypatch)
    seen = list(trainer.events())
    assert isinstance(seen[0], ev.RunStarted)
    assert isinstance(seen[1], ev.LogFailed)
    assert len(of_kind(seen, ev.LogFailed)) == 1
    assert isinstance(seen[-1], ev.RunFinished)


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


def test_the_log_holds_the_events(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, max_steps=6))
    logged = [event for event in events if isinstance(event, ev.LOGGED)]
    assert list(read_metrics(tmp_path / "models" / "metrics.jsonl")) == logged
    assert len(of_kind(events, ev.EvalProgressed)) > 0


def test_debug_reports_the_norms_of_every_tensor(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, max_steps=4, debug=True, debug_every=2))
    norms = of_kind(events, ev.GradientNorms)
    steps = of_kind(events, ev.StepCompleted)
    assert [event.step for event in norms] == [2, 4]
    total = math.sqrt(sum(norm**2 for norm in norms[0].grad_norms.values()))
    assert total == pytest.approx(steps[1].grad_norm, rel=1e-5)
    assert min(norms[0].update_norms.values()) > 0


def test_bits_per_byte_is_the_loss_of_all_targets_in_bits_over_the_bytes_of_the_text(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=5)
    trainer = open_run(settings)
    score = of_kind(list(trainer.events()), ev.EvalCompleted)[0]
    assert trainer.run.texts.held_out is not None
    size = Path(settings.eval_file).stat().st_size
    targets = len(trainer.run.texts.held_out) - 1
    assert score.bits_per_byte == pytest.approx(score.loss * targets / math.log(2) / size)
