"""Statistics of heads and weights that a run logs at its evaluations, and the first induction head."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gpt_core import interpret
from gpt_core.config.presets import PRESETS, preset
from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.model.gpt import GPT
from gpt_core.training import events as ev
from gpt_core.training import model_stats
from gpt_core.training.metrics_log import read_metrics
from gpt_core.training.model_stats import ModelStats, probe, sampled, used_ids
from gpt_core.training.trainer import Trainer
from tests.core.training_samples import (
    LATEST,
    events_with,
    in_one_go,
    losses,
    of_kind,
    open_run,
    tiny_settings,
    train,
    whole_state,
)

STATS = (ev.HeadsScored, ev.HealthMeasured, ev.InductionHeadAppeared)


def logged_stats(folder: Path) -> list[ev.AnyEvent]:
    return [event for event in read_metrics(folder / "models/metrics.jsonl") if isinstance(event, STATS)]


@pytest.mark.parametrize("max_steps", [20, 21])
def test_heads_and_weights_are_measured_once_per_evaluation(tmp_path: Path, max_steps: int) -> None:
    events = train(tiny_settings(tmp_path, max_steps=max_steps))
    steps = [event.step for event in of_kind(events, ev.EvalCompleted)]
    assert len(steps) > 3
    assert steps[-1] == max_steps
    assert None not in of_kind(events, ev.HealthMeasured)[-1].update_ratios
    assert [event.step for event in of_kind(events, ev.HeadsScored)] == steps
    assert [event.step for event in of_kind(events, ev.HealthMeasured)] == steps
    assert logged_stats(tmp_path) == [event for event in events if isinstance(event, STATS)]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_logged_values_are_those_of_interpret_for_the_evaluated_model(tmp_path: Path, ema: float) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=10, ema=ema))
    events = list(trainer.events())
    heads, health = (of_kind(events, kind)[-1] for kind in (ev.HeadsScored, ev.HealthMeasured))
    assert heads.step == health.step == 10
    gpt, text = GPT(trainer.run.evaluated), trainer.run.texts.held_out
    tokens = probe(text, trainer.shape.seq_len)
    assert np.array_equal(tokens.reshape(-1), text.read(0, 256))
    scores = interpret.head_scores(gpt, tokens, interpret.repeated_tokens(used_ids(text, trainer.tokenizer), 16))
    for name, values in scores._asdict().items():
        np.testing.assert_allclose(getattr(heads, name), values, rtol=1e-4)
    np.testing.assert_allclose(health.dead_units, interpret.dead_units(gpt, tokens), atol=1e-4)
    stats = interpret.weight_stats(trainer.parameters, trainer._gradients)
    assert health.tensors == tuple(found.name for found in stats)
    np.testing.assert_allclose(health.norms, [found.norm for found in stats], rtol=1e-4)
    np.testing.assert_allclose(health.grad_norms, [found.gradient_norm for found in stats], rtol=1e-4)


def test_the_update_ratio_is_that_of_the_step_before_the_evaluation(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=5))
    before, found = None, None
    for event in trainer.events():
        if isinstance(event, ev.StepCompleted) and event.step == 4:
            before = trainer.parameters.copy()
        if isinstance(event, ev.HealthMeasured):
            found = event
            expected = interpret.weight_stats(trainer.parameters, previous=before)
    assert found is not None
    np.testing.assert_allclose(found.update_ratios, [tensor.update_ratio for tensor in expected], atol=1e-3)


@pytest.mark.parametrize("shape", [(1000, 320), (4096, 130), (300_001,)])
def test_a_part_of_a_large_tensor_covers_its_columns_and_estimates_its_update(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    before = random.standard_normal(shape, dtype=np.float32)
    after = before + random.standard_normal(shape, dtype=np.float32) * np.float32(1e-3)
    part = sampled(before)
    assert part.size <= model_stats.MAX_SAMPLED
    assert np.shares_memory(part, before)
    numbers = sampled(np.broadcast_to(np.arange(shape[-1]), shape).copy())
    assert len(shape) == 1 or set(numbers.tolist()) == set(range(shape[-1]))
    ratio = interpret.update_ratio(sampled(after), part)
    assert ratio == pytest.approx(interpret.update_ratio(after, before), abs=0.01)


def test_measuring_changes_no_bit_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, measured_losses = in_one_go(tmp_path / "measured", 12)
    monkeypatch.setattr(ModelStats, "measure", lambda _: iter(()))
    monkeypatch.setattr(ModelStats, "before_update", lambda _, is_measured: None)
    plain, plain_losses = in_one_go(tmp_path / "plain", 12)
    assert measured_losses == plain_losses
    assert whole_state(measured) == whole_state(plain)
    assert logged_stats(tmp_path / "measured")
    assert not logged_stats(tmp_path / "plain")


@pytest.mark.parametrize("cut", [4, 5, 7])
def test_the_log_of_a_resumed_run_has_the_statistics_of_an_uninterrupted_one(tmp_path: Path, cut: int) -> None:
    in_one_go(tmp_path / "whole", 15)
    in_one_go(tmp_path / "cut", cut)
    train(tiny_settings(tmp_path / "cut", max_steps=15), tmp_path / "cut" / LATEST)
    found, expected = logged_stats(tmp_path / "cut"), logged_stats(tmp_path / "whole")
    assert [event for event in found if event.step % 5 == 0] == expected
    assert {event.step for event in found} == {event.step for event in expected} | {cut}  # evaluated at its end


def stopped_in_evaluation(folder: Path, step: int) -> Trainer:
    """Return the trainer of a run that was stopped during the evaluation of a step."""
    trainer = open_run(tiny_settings(folder, max_steps=15))
    for event in trainer.events():
        if isinstance(event, ev.EvalProgressed) and event.step == step:
            trainer.requests.stop()
    assert trainer.state.evaluation_due
    assert trainer.step == step
    return trainer


def test_an_evaluation_that_is_repeated_after_a_stop_is_measured_once(tmp_path: Path) -> None:
    in_one_go(tmp_path / "whole", 15)
    (tmp_path / "cut").mkdir()
    stopped_in_evaluation(tmp_path / "cut", 10)
    train(tiny_settings(tmp_path / "cut", max_steps=15), tmp_path / "cut" / LATEST)
    assert logged_stats(tmp_path / "cut") == logged_stats(tmp_path / "whole")


def test_the_first_induction_head_is_reported_once_per_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_stats, "INDUCTION_THRESHOLD", 0.0)
    stopped_in_evaluation(tmp_path, 5)
    kept = peek_checkpoint(tmp_path / LATEST).state.induction_head
    resumed = train(tiny_settings(tmp_path, max_steps=15), tmp_path / LATEST)
    assert of_kind(resumed, ev.HeadsScored)
    assert not of_kind(resumed, ev.InductionHeadAppeared)
    (found,) = [event for event in logged_stats(tmp_path) if isinstance(event, ev.InductionHeadAppeared)]
    heads = next(event for event in logged_stats(tmp_path) if isinstance(event, ev.HeadsScored))
    assert found.step == heads.step == 5
    assert found.score == pytest.approx(np.max(heads.induction), abs=1e-4)
    assert heads.induction[found.layer][found.head] == np.max(heads.induction)
    assert kept is not None
    assert (kept.step, kept.layer, kept.head, kept.score) == (found.step, found.layer, found.head, found.score)


def test_no_induction_head_is_reported_below_the_threshold(tmp_path: Path) -> None:
    trainer, _ = in_one_go(tmp_path / "run", 10)
    assert trainer.state.induction_head is None
    assert not [event for event in logged_stats(tmp_path / "run") if isinstance(event, ev.InductionHeadAppeared)]


def test_a_requested_evaluation_has_gradients_and_no_update(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=4))
    health, at_end = of_kind(events_with(trainer, 3, trainer.requests.evaluate), ev.HealthMeasured)
    assert (health.step, at_end.step) == (3, 4)
    assert set(health.update_ratios) == {None}
    assert all(norm is not None and norm > 0 for norm in health.grad_norms)


def test_frozen_tensors_have_no_update(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, max_steps=5, freeze="embedding"))
    (health,) = of_kind(events, ev.HealthMeasured)
    ratios = dict(zip(health.tensors, health.update_ratios, strict=True))
    assert ratios.pop("wte.weight") is None
    assert all(ratio is not None for name, ratio in ratios.items() if name != "wpe.weight")


@pytest.mark.parametrize("changes", [{"overfit_tiny": True, "overfit_steps": 8}, {"seq_len": 2}])
def test_without_an_eval_text_or_a_context_to_repeat_in_nothing_is_measured(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    events = train(tiny_settings(tmp_path, max_steps=8, **changes))
    assert losses(events)
    assert not [event for event in events if isinstance(event, STATS)]


def test_values_that_are_not_finite_are_logged_as_unknown() -> None:
    values = tuple(map(model_stats.logged, (math.nan, -math.inf, None, 1.23456789)))
    event = ev.HealthMeasured(3, ("a",), values, (), (), ())
    assert ev.from_json(ev.to_json(event)) == event
    assert event.norms == (None, None, None, 1.2346)


@pytest.mark.parametrize("name", PRESETS)
def test_the_probes_are_a_small_part_of_the_tokens_that_an_evaluation_scores(name: str) -> None:
    settings = preset(name)
    repeated = 4 * 2 * min(model_stats.REPEATED_TOKENS, settings.seq_len // 2)
    assert model_stats.PROBE_TOKENS + repeated < (0.02 if name == "induction" else 0.01) * settings.eval_tokens
