"""Registry of metrics: what a run measures, with its unit, axis, format and the event it is read from.

Charts, status rows and tables show what is registered. Another metric is one call:

    register(Metric("tokens", "tokens", "", "tokens", "short", StepCompleted, lambda step: step.tokens))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any, Literal

from gpt_core.training.events import EvalCompleted, Event, StepCompleted
from gpt_core.training.losses import perplexity

MIN_SMOOTHING = 0.03  # weight of each new loss in the moving average
EARLY_STEPS = 40  # steps after which the weight is one half; at first it is larger, to follow the steep decrease
MAX_LOSS = 1e300  # larger losses count as this one, so that sums and differences remain finite

NumberFormat = Literal["loss", "perplexity", "percent", "fixed", "scientific", "short"]
"""Format of a value: a loss, a perplexity, a fraction as a percentage, fixed decimals, 3.00e-4, or 1.06M."""


@dataclass(frozen=True)
class Metric:
    """One quantity measured during training.

    Attributes:
        name: Key in the registry.
        label: Name shown to the user.
        unit: Unit shown after a value or in an axis label, "" for none.
        axis: Y axis; metrics with the same axis may share a chart.
        format: Format of a value.
        event: Class of the events that the value is read from.
        read: Returns the value of such an event.
        smoothed: The metric is the moving average of the values that `read` returns.
        transform: Function of the value, or of the moving average, that gives the metric.
    """

    name: str
    label: str
    unit: str
    axis: str
    format: NumberFormat
    event: type[Event]
    read: Callable[[Any], float]
    smoothed: bool = False
    transform: Callable[[float], float] | None = None


BUILT_IN = (
    Metric("step_loss", "step loss", "nats per token", "loss", "loss", StepCompleted, lambda e: e.loss),
    Metric("train_loss", "train loss", "nats per token", "loss", "loss", StepCompleted, lambda e: e.loss, True),
    Metric(
        "perplexity", "perplexity", "", "perplexity", "perplexity", StepCompleted, lambda e: e.loss, True, perplexity
    ),
    Metric("learning_rate", "learning rate", "", "learning rate", "scientific", StepCompleted, lambda e: e.lr),
    Metric("grad_norm", "grad norm", "", "norm", "fixed", StepCompleted, lambda e: e.grad_norm),
    Metric("throughput", "throughput", "tokens/s", "throughput", "short", StepCompleted, lambda e: e.tokens_per_s),
    Metric("eval_loss", "eval loss", "nats per token", "loss", "loss", EvalCompleted, lambda e: e.loss),
    Metric("accuracy", "accuracy", "", "accuracy", "percent", EvalCompleted, lambda e: e.accuracy),
    Metric("bits_per_byte", "bits per byte", "", "bits per byte", "fixed", EvalCompleted, lambda e: e.bits_per_byte),
)

_registered: dict[str, Metric] = {metric.name: metric for metric in BUILT_IN}


def register(metric: Metric) -> None:
    """Register a metric, replacing the one of the same name."""
    _registered[metric.name] = metric


def unregister(name: str) -> None:
    """Remove a metric. Raises KeyError if none has this name."""
    del _registered[name]


def metrics() -> tuple[Metric, ...]:
    """Return the registered metrics, in the order of registration."""
    return tuple(_registered.values())


def metric(name: str) -> Metric:
    """Return a metric by its name. Raises KeyError if none has this name."""
    return _registered[name]


def added_metrics() -> tuple[Metric, ...]:
    """Return the registered metrics that are not built in."""
    return tuple(found for found in metrics() if found not in BUILT_IN)


def smooth(average: float, value: float, count: int) -> float:
    """Return the moving average after one more value; a value that is not finite changes nothing.

    Args:
        average: Average of the values before; ignored if `count` is 0.
        value: The new value.
        count: Number of finite values before.
    """
    if not isfinite(value):
        return average
    value = min(max(value, -MAX_LOSS), MAX_LOSS)
    weight = max(MIN_SMOOTHING, 1 / (1 + (count / EARLY_STEPS) ** 1.5))
    return average + weight * (value - average) if count else value


def smooth_all(average: float, values: Iterable[float], count: int) -> list[float]:
    """Return the moving average after each of several values; see `smooth`."""
    averages = []
    for value in values:
        if isfinite(value):
            average = smooth(average, value, count)
            count += 1
        averages.append(average)
    return averages


@dataclass(frozen=True)
class MetricValues:
    """Latest values of the metrics of one run.

    Attributes:
        latest: Latest value of each metric that has one, by name.
        averages: Moving average and number of finite values of each smoothed metric, by name.
    """

    latest: Mapping[str, float] = field(default_factory=dict)
    averages: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    def updated(self, events: Iterable[Event], read: Sequence[Metric]) -> MetricValues:
        """Return the values after these events, for the metrics in `read`."""
        latest, averages = dict(self.latest), dict(self.averages)
        for event in events:
            for found in read:
                if not isinstance(event, found.event):
                    continue
                value = found.read(event)
                if found.smoothed:
                    average, count = averages.get(found.name, (nan, 0))
                    averages[found.name] = smooth(average, value, count), count + isfinite(value)
                    value = averages[found.name][0]
                latest[found.name] = found.transform(value) if found.transform else value
        return MetricValues(latest, averages)
