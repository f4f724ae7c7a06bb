"""A run resumed after any step, with any settings, equals the uninterrupted run; see also `test_resuming`."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_core.checkpoints.replacement import METRICS
from gpt_core.training.events import EvalCompleted
from gpt_core.training.metrics_log import read_metrics
from gpt_core.training.trainer import Trainer
from gpt_tui.cli.verify_resume import compared
from tests.core.training_samples import open_run, tiny_settings
from tests.reliability.counts import count
from tests.reliability.runs import LATEST

STEPS = 30  # covers two epoch boundaries, evaluations, the end of warmup and a part of the decay
CHOICES: dict[str, tuple[object, ...]] = {
    "micro_batch_size": (8, 4, 1),
    "eval_every_steps": (0, 1, 5),
    "save_every_steps": (0, 1, 4),
    "save_epoch_number": (0, 1),
    "warmup_steps": (0, 10, 1000),
    "decay_steps": (0, 12, 40),
    "cooldown": (0.0, 0.0, 0.5, 1.0),
    "patience": (0, 3),
    "improvement_threshold": (0.0, 0.3),
    "grad_clip": (0.0, 1.0),
    "weight_decay": (0.0, 0.1),
    "document": ("paragraph", "line", "file"),
    "eval_file": (None, ""),
    "shuffle": ("windows", "documents"),
    "norm": ("layer_norm", "rms_norm"),
    "qk_norm": (False, True),
    "positions": ("learned", "rope"),
    "mlp": ("gelu", "relu_squared", "swiglu"),
    "bias": (True, False),
    "tied_head": (True, False),
    "x0_shortcut": (False, True),
    "overfit_tiny": (False, False, False, True),
    "seed": (0, 7),
}


def finished(folder: Path, resume: Path | None = None, *, stop_at: int = 0, **changes: object) -> Trainer:
    """Train to completion or to the step `stop_at`, from scratch or a checkpoint, and return the trainer."""
    trainer = open_run(tiny_settings(folder, **changes), resume=resume)
    for _ in trainer.events():
        if 0 < stop_at <= trainer.step:
            trainer.requests.stop()
    return trainer


def evaluations(models_dir: Path) -> dict[int, tuple[float, float]]:
    """Return loss and accuracy of the evaluations in the log of a run, by step."""
    events = read_metrics(models_dir / METRICS)
    return {event.step: (event.loss, event.accuracy) for event in events if isinstance(event, EvalCompleted)}


def some_settings(draw: random.Random) -> dict[str, object]:
    """Draw a value of every setting that affects the state a resume restores; None selects the default."""
    chosen = {name: draw.choice(values) for name, values in CHOICES.items()}
    return {name: value for name, value in chosen.items() if value is not None} | {"epsilon": 0.0, "threads": 1}


def test_a_run_resumed_after_any_step_equals_the_uninterrupted_run(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    cuts = random.Random(3).sample(range(1, 51), min(50, count(5, 50)))
    record_property("count", len(cuts))
    settings = {"max_steps": 52, "threads": 1}
    uninterrupted, cut_folder = tmp_path / "uninterrupted", tmp_path / "cut"
    uninterrupted.mkdir()
    cut_folder.mkdir()
    finished(uninterrupted, **settings)
    for cut in cuts:
        finished(cut_folder, **settings | {"max_steps": cut})
        finished(cut_folder, cut_folder / LATEST, **settings)
        rows = compared(uninterrupted / "models", cut_folder / "models")
        assert [row for row in rows if not row.equal and row.what != "evaluations"] == [], cut
        scores, expected = evaluations(cut_folder / "models"), evaluations(uninterrupted / "models")
        assert {cut: scores[cut]} | expected == scores, cut  # the end of the shorter run is evaluated, too
        for path in (cut_folder / "models").iterdir():
            path.unlink()


@pytest.mark.slow
def test_any_combination_of_settings_resumes_exactly(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    combinations = count(5, 300)
    record_property("count", combinations)
    draw = random.Random(5)
    for number in range(combinations):
        settings = some_settings(draw)
        uninterrupted, cut_folder = tmp_path / f"{number}-uninterrupted", tmp_path / f"{number}-cut"
        uninterrupted.mkdir()
        cut_folder.mkdir()
        reached = finished(uninterrupted, max_steps=STEPS, **settings).step
        resume = None
        for cut in sorted(draw.sample(range(1, reached), min(3, reached - 1))):
            finished(cut_folder, resume, stop_at=cut, max_steps=STEPS, **settings)
            resume = cut_folder / LATEST
        assert finished(cut_folder, resume, max_steps=STEPS, **settings).step == reached
        assert [row for row in compared(uninterrupted / "models", cut_folder / "models") if not row.equal] == [], (
            settings
        )


@pytest.mark.parametrize("threads", [1, 2])
def test_a_resume_with_the_same_threads_is_exact(tmp_path: Path, threads: int) -> None:
    uninterrupted, cut_folder = tmp_path / "uninterrupted", tmp_path / "cut"
    uninterrupted.mkdir()
    cut_folder.mkdir()
    finished(uninterrupted, max_steps=10, threads=threads)
    finished(cut_folder, max_steps=5, threads=threads)
    finished(cut_folder, cut_folder / LATEST, max_steps=10, threads=threads)
    assert all(row.equal for row in compared(uninterrupted / "models", cut_folder / "models"))
