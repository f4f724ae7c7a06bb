"""Histories and events for the tests of what is pure."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpt_core.training.events import EvalCompleted, RunStarted, StepCompleted
from gpt_tui.run_history import Limits, RunHistory, advance, advance_all

LIMITS = Limits(max_epochs=20, patience=3, improvement_threshold=0.005)


def started(**changes: object) -> RunStarted:
    """A nano run of 20 epochs of 100 steps."""
    values: dict[str, object] = {
        "step": 0, "epoch": 0, "kind": "train", "preset": "nano", "parameters": 1_071_872, "train_tokens": 102_400,
        "eval_tokens": 9_000, "batch_tokens": 1024, "steps_per_epoch": 100, "max_steps": 2000, "threads": 2, "seed": 0,
        "train_file": "data/raw/train.en", "eval_file": "", "resumed_from": "", "elapsed_s": 0.0,
    }  # fmt: skip
    return RunStarted(**(values | changes))  # type: ignore[arg-type]


def step(number: int, loss: float = 3.0) -> StepCompleted:
    """One step; a step takes a tenth of a second and 1,024 tokens."""
    return StepCompleted(
        number, number // 100, loss, math.exp(min(loss, 700)), 1e-3, 0.5, number * 1024, 10240.0, number / 10
    )


def scored(number: int, accuracy: float, loss: float = 3.0) -> EvalCompleted:
    """One evaluation."""
    return EvalCompleted(number, loss, math.exp(loss), accuracy, 2.5)


def trained(
    steps: int, loss: Callable[[int], float] = lambda number: 3.0 + 4.0 * math.exp(-number / 100)
) -> RunHistory:
    """A run of so many steps."""
    history = advance(RunHistory(limits=LIMITS), started())
    return advance_all(history, [step(number, loss(number)) for number in range(1, steps + 1)])
