"""The registry of metrics, and the values read from events."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, inf, isnan, log, nan

import pytest

from gpt_core.training import metrics
from gpt_core.training.events import EvalCompleted, StepCompleted
from gpt_core.training.metrics import Metric, MetricValues, smooth, smooth_all
from gpt_tui.session.curve import Curve, places
from gpt_tui.shared.formatting import metric_value

TOKENS = Metric("tokens_seen", "tokens seen", "tokens", "tokens", "short", StepCompleted, lambda step: step.tokens)


def step(number: int, loss: float) -> StepCompleted:
    """Return an event with this loss."""
    return StepCompleted(
        step=number, epoch=0, loss=loss, ppl=1.0, lr=1e-3, grad_norm=0.5, tokens=100 * number, tokens_per_s=2e4,
        elapsed_s=number,
    )  # fmt: skip


@pytest.fixture
def added() -> Iterator[Metric]:
    """Register a metric for one test."""
    metrics.register(TOKENS)
    yield TOKENS
    metrics.unregister(TOKENS.name)


def test_the_built_in_metrics_have_unique_names_labels_and_known_formats() -> None:
    assert len({row.name for row in metrics.BUILT_IN}) == len({row.label for row in metrics.BUILT_IN}) == 9
    assert all(metric_value(row, 0.25) for row in metrics.BUILT_IN)
    assert metrics.added_metrics() == ()


def test_an_added_metric_is_listed_read_and_removed(added: Metric) -> None:
    assert metrics.added_metrics() == (added,)
    assert metrics.metric("tokens_seen") is added
    values = MetricValues().updated([step(1, 5.0), step(2, 4.0)], metrics.metrics())
    assert values.latest["tokens_seen"] == 200
    assert metric_value(added, 12_000.0) == "12.0k tokens"


def test_values_come_from_the_events_of_each_metric() -> None:
    evaluated = EvalCompleted(step=2, loss=3.0, ppl=20.0, accuracy=0.25, bits_per_byte=1.5)
    before = MetricValues().updated([step(1, 5.0)], metrics.metrics())
    assert "eval_loss" not in before.latest
    latest = before.updated([step(2, 4.0), evaluated], metrics.metrics()).latest
    assert (latest["step_loss"], latest["eval_loss"], latest["accuracy"]) == (4.0, 3.0, 0.25)
    assert (latest["bits_per_byte"], latest["learning_rate"], latest["throughput"]) == (1.5, 1e-3, 2e4)
    assert 4.0 < latest["train_loss"] < 5.0
    assert latest["perplexity"] == pytest.approx(exp(latest["train_loss"]))
    assert before.latest["step_loss"] == 5.0  # values are not changed in place


def test_the_train_loss_equals_the_smoothed_curve_of_the_app() -> None:
    losses = [7.0, 6.0, nan, 5.5, inf, 5.0, 4.9]
    events = [step(number, loss) for number, loss in enumerate(losses, 1)]
    values = MetricValues().updated(events[:3], metrics.metrics()).updated(events[3:], metrics.metrics())
    assert values.latest["train_loss"] == Curve().with_values(places(events), losses).smoothed


@pytest.mark.parametrize("smoothed", [False, True])
def test_a_metric_is_read_once_per_event(smoothed: bool) -> None:
    read: list[int] = []
    probe = Metric(
        "probe", "probe", "", "x", "fixed", StepCompleted, lambda e: (read.append(e.step), e.loss)[1], smoothed
    )
    MetricValues().updated([step(1, 5.0), step(2, nan), step(3, 4.0)], [probe])
    assert read == [1, 2, 3]


def test_the_train_loss_does_not_lag_behind_the_steep_decrease_of_the_first_steps() -> None:
    losses = [8.1 - 0.65 * log(number) for number in range(1, 201)]  # the decrease of a nano run
    averages = smooth_all(nan, losses, 0)
    assert max(average - loss for average, loss in zip(averages[9:], losses[9:], strict=True)) < 0.06


def test_a_loss_that_is_not_finite_leaves_the_average_unchanged() -> None:
    assert smooth(2.0, nan, 5) == 2.0
    assert smooth(2.0, inf, 5) == 2.0
    assert isnan(smooth(nan, nan, 0))
    assert smooth(nan, 3.0, 0) == 3.0
