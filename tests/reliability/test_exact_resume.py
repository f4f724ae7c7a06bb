"""A run resumed after any step, with any settings, equals the uninterrupted run; see also `test_resuming`."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from gpt_core.formats.checkpoint import read_checkpoint
from gpt_core.formats.training_state import TrainingState
from gpt_core.run_files import METRICS
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
    "precision": ("float32", "bfloat16"),
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


def evaluations(models_dir: Path, *, scheduled: bool) -> list[tuple[object, ...]]:
    """Return the scheduled evaluations in the log of a run, or the other ones."""
    return [
        (event.step, event.loss, event.accuracy, event.without_improvement)
        for event in read_metrics(models_dir / METRICS)
        if isinstance(event, EvalCompleted) and event.is_scheduled == scheduled
    ]


def without_best(state: TrainingState) -> TrainingState:
    """Return the state of a run without what an evaluation that is not scheduled may change, and of its process."""
    scheduled = state.best_scheduled or state.best
    return msgspec.structs.replace(
        state, best_accuracy=scheduled.accuracy, best_loss=scheduled.loss, best_step=0, best_scheduled=None,
        run_id="", elapsed_s=0.0,
    )  # fmt: skip


def some_settings(draw: random.Random) -> dict[str, object]:
    """Draw a value of every setting that affects the state a resume restores; None selects the default."""
    chosen = {name: draw.choice(values) for name, values in CHOICES.items()}
    return {name: value for name, value in chosen.items() if value is not None} | {"epsilon": 0.0, "threads": 1}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of 52 steps."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    finished(folder, max_steps=52, threads=1)
    return folder / "models"


def test_a_run_resumed_after_any_step_equals_the_uninterrupted_run(
    uninterrupted: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    cuts = random.Random(3).sample(range(1, 51), min(50, count(5, 50)))
    record_property("count", len(cuts))
    for cut in cuts:
        finished(tmp_path, stop_at=cut, max_steps=52, threads=1)
        finished(tmp_path, tmp_path / LATEST, max_steps=52, threads=1)
        assert [row for row in compared(uninterrupted, tmp_path / "models") if not row.equal] == [], cut
        for path in (tmp_path / "models").iterdir():
            path.unlink()


def test_a_run_with_more_steps_equals_a_longer_one_but_for_the_evaluation_of_its_earlier_end(
    uninterrupted: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """That evaluation may have found a better model; steps, scheduled evaluations and all other state are equal."""
    cuts = random.Random(4).sample(range(1, 51), min(50, count(5, 50)))
    record_property("count", len(cuts))
    models = tmp_path / "models"
    for cut in cuts:
        finished(tmp_path, max_steps=cut, threads=1)
        at_the_cut = evaluations(models, scheduled=False)
        finished(tmp_path, tmp_path / LATEST, max_steps=52, threads=1)
        rows = compared(uninterrupted, models)
        assert {row.what for row in rows if not row.equal} <= {"evaluations", "epoch and best score"}, cut
        assert evaluations(models, scheduled=True) == evaluations(uninterrupted, scheduled=True), cut
        assert [step for step, *_ in at_the_cut] == ([] if is_scheduled(uninterrupted, cut) else [cut])
        others = evaluations(models, scheduled=False)
        assert others == [*at_the_cut, *evaluations(uninterrupted, scheduled=False)], cut
        state, expected = (read_checkpoint(folder / LATEST.name).state for folder in (models, uninterrupted))
        assert without_best(state) == without_best(expected), cut
        assert state.best_accuracy >= expected.best_accuracy, cut
        for path in models.iterdir():
            path.unlink()


def is_scheduled(models_dir: Path, step: int) -> bool:
    """Return True if a run has a scheduled evaluation at a step."""
    return step in [number for number, *_ in evaluations(models_dir, scheduled=True)]


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
