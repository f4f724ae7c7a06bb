"""Probes of the set-up screen with fixed results and without delay."""

from __future__ import annotations

from collections.abc import Callable

from gpt_core.bench.estimate import CorpusStats, StepTime
from gpt_core.config.settings import Settings
from gpt_core.model.flops import step_flops
from gpt_core.training.precision import PrecisionChoice
from gpt_core.training.setup import window_length
from gpt_tui.new_run.probe import Probes

FREE_BYTES = 4_000_000_000
FLOPS_PER_S = 150e9
PRECISION = PrecisionChoice("bfloat16", "1.5 times as fast as float32")


def fake_texts(_settings: Settings) -> CorpusStats:
    """Return fixed statistics."""
    return CorpusStats(
        "train.en", 3_558_180, "eval.en", 1_205_806, 158_209, True, documents=11_402,
        bytes_per_token=2.95, words="It is a truth universally acknowledged",
    )  # fmt: skip


def fake_time(settings: Settings, _stopped: Callable[[], bool]) -> StepTime:
    """Return a time in proportion to the FLOPs of a step."""
    seconds = step_flops(settings.shape, settings.batch_size, window_length(settings)).total / FLOPS_PER_S
    return StepTime(seconds, seconds / 50, PRECISION)


def fake_probes(**others: object) -> Probes:
    """Return fake probes; `others` replace those of their names."""
    return Probes(fake_texts, fake_time, lambda: FREE_BYTES, 0.0)._replace(**others)
