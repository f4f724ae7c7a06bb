"""The average of the weights is evaluated, sampled and saved as the model; training itself does not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt_core import reference
from gpt_core.bench.estimate import checkpoint_tensor_bytes, estimate_memory
from gpt_core.config.settings import Settings
from gpt_core.formats.checkpoint import peek_checkpoint, read_checkpoint, verify_checkpoint
from gpt_core.formats.checkpoint_header import TRAINED
from gpt_core.kernels import adamw
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters, parameter_count
from gpt_core.optim import create_optimizer
from gpt_core.training.evaluation import EvalText, max_part_tokens
from gpt_core.training.events import EvalCompleted, RunStarted
from gpt_core.training.trainer import Trainer
from gpt_tui.headless.event_text import started_details
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

BEST, FINAL = Path("models/best_model.safetensors"), Path("models/transformer.safetensors")


def average_of(trainer: Trainer) -> Parameters:
    """Return the average of a run that keeps one."""
    average = trainer.run.optimizer.average
    assert average is not None
    return average


def eval_loss(trainer: Trainer, weights: Parameters) -> float:
    """Return the loss on the eval text of a run, computed by a model of its own."""
    assert trainer.run.texts.held_out is not None
    text = EvalText(trainer.run.texts.held_out, trainer.run.texts.windows.seq_len, max_part_tokens(trainer.settings))
    scoring = text.scores(GPT(weights), trainer.settings.micro_batch, complete=False)
    while True:
        try:
            next(scoring)
        except StopIteration as end:
            return float(end.value.part.loss)


# ---- the kernel


@pytest.mark.parametrize("size", [1, 100, 50_001])
def test_the_average_is_that_of_the_reference(size: int) -> None:
    random = np.random.default_rng(size)
    average, values = random.normal(size=(2, size)).astype(np.float32)
    expected = reference.average_step(average.astype(np.float64), values, step=7, decay=0.9)
    adamw.average(average, values, reference.average_decay(7, 0.9))
    np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6)


def test_the_memory_of_the_average_is_short_at_first() -> None:
    assert [reference.average_decay(step, 0.9) for step in (1, 8, 10_000)] == [2 / 11, 0.5, 0.9]


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="length of averages: got 2, expected 3"):
        adamw.average(np.zeros(2, np.float32), np.zeros(3, np.float32), 0.9)


def test_updates_follow_the_formula(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, ema=0.8)
    weights, gradients = Parameters(settings.shape), Parameters(settings.shape)
    optimizer = create_optimizer(weights, settings)
    expected, random = weights.flat.astype(np.float64), np.random.default_rng(0)
    for step in range(1, 60):
        gradients.flat[:] = random.normal(size=gradients.flat.size)
        optimizer.update(gradients, step, 1.0, 1.0)
        optimizer.update_average(step)
        expected = reference.average_step(expected, weights.flat, step=step, decay=0.8)
    assert optimizer.average is not None
    np.testing.assert_allclose(optimizer.average.flat, expected, rtol=1e-4, atol=1e-6)


# ---- runs


def test_training_is_the_same_to_the_bit_and_the_scores_are_of_the_average(tmp_path: Path) -> None:
    changes = {"eval_every_steps": 6, "best_metric": "loss"}
    plain, plain_losses = in_one_go(tmp_path / "plain", 12, **changes)
    averaged, averaged_losses = in_one_go(tmp_path / "averaged", 12, ema=0.9, **changes)
    assert averaged_losses == plain_losses
    assert averaged.parameters.flat.tobytes() == plain.parameters.flat.tobytes()
    assert not np.array_equal(average_of(averaged).flat, plain.parameters.flat)
    assert averaged.state.last_eval is not None
    assert averaged.state.last_eval.loss == pytest.approx(eval_loss(averaged, average_of(averaged)), rel=1e-6)
    assert averaged.state.last_eval.loss != pytest.approx(eval_loss(averaged, averaged.parameters), rel=1e-4)


def test_the_weights_of_every_checkpoint_are_the_average_and_those_trained_are_beside_it(tmp_path: Path) -> None:
    trainer, _ = finished_trainer(tiny_settings(tmp_path, max_epochs=1, max_steps=0, ema=0.9))
    latest = read_checkpoint(tmp_path / LATEST)
    assert latest.optimizer_state is not None
    assert tuple(latest.optimizer_state) == ("adam_m", "adam_v", TRAINED)
    assert latest.parameters.flat.tobytes() == average_of(trainer).flat.tobytes()
    assert latest.optimizer_state[TRAINED].flat.tobytes() == trainer.parameters.flat.tobytes()
    best, final = (read_checkpoint(tmp_path / path) for path in (BEST, FINAL))
    assert final.parameters.flat.tobytes() == best.parameters.flat.tobytes()
    assert best.state.best_loss == pytest.approx(eval_loss(trainer, best.parameters), rel=1e-6)
    assert verify_checkpoint(tmp_path / LATEST).settings.ema == 0.9


@pytest.mark.parametrize("kind", [LATEST, BEST])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, kind: Path) -> None:
    whole, all_losses = in_one_go(tmp_path / "whole", 14, ema=0.9)
    _, first = in_one_go(tmp_path / "cut", 5, ema=0.9)
    assert peek_checkpoint(tmp_path / "cut" / kind).step == 5
    settings = tiny_settings(tmp_path / "cut", max_steps=14, ema=0.9)
    resumed, second = finished_trainer(settings, tmp_path / "cut" / kind)
    assert first + second == all_losses
    assert whole_state(resumed) == whole_state(whole)
    assert average_of(resumed).flat.tobytes() == average_of(whole).flat.tobytes()
    assert resumed.state.last_eval == whole.state.last_eval


def test_a_resume_may_begin_and_end_averaging(tmp_path: Path) -> None:
    whole, all_losses = in_one_go(tmp_path / "whole", 12)
    _, first = in_one_go(tmp_path / "cut", 4)
    trainer, second = finished_trainer(
        tiny_settings(tmp_path / "cut", max_steps=8, ema=0.9), resume=tmp_path / "cut" / LATEST
    )
    assert not np.array_equal(average_of(trainer).flat, trainer.parameters.flat)
    last, third = finished_trainer(tiny_settings(tmp_path / "cut", max_steps=12), resume=tmp_path / "cut" / LATEST)
    assert first + second + third == all_losses
    assert last.run.optimizer.average is None
    assert last.parameters.flat.tobytes() == whole.parameters.flat.tobytes()
    assert tuple(read_checkpoint(tmp_path / "cut" / LATEST).optimizer_state or ()) == ("adam_m", "adam_v")


def test_fine_tuning_starts_from_the_average(tmp_path: Path) -> None:
    train(tiny_settings(tmp_path, max_steps=5, ema=0.9))
    saved = read_checkpoint(tmp_path / LATEST)
    started = tiny_settings(
        tmp_path, max_steps=1, ema=0.9, init_from=str(tmp_path / LATEST), models_dir=str(tmp_path / "tuned")
    )
    trainer = open_run(started)
    assert trainer.parameters.flat.tobytes() == saved.parameters.flat.tobytes()
    assert average_of(trainer).flat.tobytes() == saved.parameters.flat.tobytes()
    trainer.run.store.close()


def test_a_snapshot_for_chat_is_of_the_average(tmp_path: Path) -> None:
    trainer, _ = finished_trainer(tiny_settings(tmp_path, max_steps=5, ema=0.9))
    snapshot, step = trainer.weights_snapshot()
    assert (snapshot.flat.tobytes(), step) == (average_of(trainer).flat.tobytes(), 5)


def test_the_model_has_the_trained_weights_again_after_an_evaluation(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=8, ema=0.9, eval_every_steps=4))
    events = trainer.events()
    found = []
    for event in events:
        found.append(event)
        if isinstance(event, EvalCompleted):
            assert trainer._gpt.parameters is trainer.parameters
            assert trainer._gpt.transformer.embedding.wte is trainer.parameters["wte.weight"]
    assert len(of_kind(found, EvalCompleted)) == 2
    assert len(losses(found)) == 8


def test_other_weights_are_used_within_a_block_only() -> None:
    settings = Settings(d_model=8, hidden_size=16, vocab_size=300, num_heads=2, seq_len=8, layers=1)
    own, other = Parameters(settings.shape), Parameters(settings.shape)
    other["wte.weight"][:] = np.random.default_rng(0).normal(size=other["wte.weight"].shape)
    gpt, tokens = GPT(own), np.zeros((1, 4), np.int32)
    before = gpt.logits(tokens)
    with gpt.using(other):
        np.testing.assert_array_equal(gpt.logits(tokens), GPT(other).logits(tokens))
    np.testing.assert_array_equal(gpt.logits(tokens), before)


def test_memory_and_file_size_count_the_average(tmp_path: Path) -> None:
    plain, averaged = tiny_settings(tmp_path), tiny_settings(tmp_path, ema=0.9)
    values = 4 * parameter_count(plain.shape)
    assert estimate_memory(averaged, 1).state - estimate_memory(plain, 1).state == values
    assert checkpoint_tensor_bytes(averaged) - checkpoint_tensor_bytes(plain) == values


def test_the_start_of_a_run_says_which_weights_are_scored(tmp_path: Path) -> None:
    texts = []
    for ema in (0.0, 0.9):
        events = train(tiny_settings(tmp_path, max_steps=1, ema=ema, models_dir=str(tmp_path / f"m{ema}")))
        texts.append(started_details(next(event for event in events if isinstance(event, RunStarted))))
    assert "average of the weights" not in texts[0]
    assert "scores, samples and saved models are of the average of the weights (ema 0.9)" in texts[1]
