"""Run states and events for tests of pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpt_core.training.events import CheckpointSaved, EvalCompleted, RunStarted, SampleWritten, StepCompleted
from gpt_tui.session.run_events import advance, advance_all
from gpt_tui.session.run_state import Limits, RunState

LIMITS = Limits(max_epochs=20, patience=3)


def started(**changes: object) -> RunStarted:
    """Return the start of a nano run of 20 epochs of 100 steps."""
    values: dict[str, object] = {
        "step": 0, "epoch": 0, "kind": "train", "preset": "nano", "parameters": 1_071_872, "train_tokens": 102_400,
        "eval_tokens": 9_000, "batch_tokens": 1024, "steps_per_epoch": 100, "max_steps": 2000, "threads": 2, "seed": 0,
        "train_file": "data/raw/train.en", "eval_file": "", "resumed_from": "", "elapsed_s": 0.0,
    }  # fmt: skip
    return RunStarted(**(values | changes))  # type: ignore[arg-type]


def step(number: int, loss: float = 3.0) -> StepCompleted:
    """Return a completed step of 0.1 s and 1,024 tokens."""
    return StepCompleted(
        number, number // 100, loss, math.exp(min(loss, 700)), 1e-3, 0.5, number * 1024, 10240.0, number / 10
    )


def scored(
    number: int, accuracy: float, loss: float = 3.0, *, is_best: bool | None = None, without_improvement: int = 0
) -> EvalCompleted:
    """Return an evaluation."""
    return EvalCompleted(number, loss, math.exp(loss), accuracy, 2.5, is_best, without_improvement)


def trained(steps: int, loss: Callable[[int], float] = lambda number: 3.0 + 4.0 * math.exp(-number / 100)) -> RunState:
    """Return the state after a number of steps."""
    history = advance(RunState(limits=LIMITS), started())
    return advance_all(history, [step(number, loss(number)) for number in range(1, steps + 1)])


PROMPT = "It was"
TEXTS = (
    "osed2seaaretpounritysit rty feat\x07sfy dshamap\npeppy libesilescarTre [bold]signsh ew",
    " not of the explstery give idea fnd's of his man I are to be himself be no seasons, for ever to to have have on",
    " not the the husband, which I cannot marry are a notice, I had not suppose it was further concerness of the\n"
    "temper, that Sir John I never her--I never left a invit of the better, and it was to do",
    " not to the dreadful there can speak. I hope me with she was and this could bring them, on a very young man",
    ' a very good match for her, and she had been at the house of her sister.\n\n"I am very glad," said Elizabeth.',
)


def sampled(number: int, text: str, prompt: str = PROMPT) -> SampleWritten:
    """Return a sample."""
    return SampleWritten(number, prompt, text)


def learned(evaluations: int = 4, every: int = 150) -> RunState:
    """Return the state after evaluations with saves and samples, 50 steps after the last one."""
    history = advance(advance(RunState(limits=LIMITS), started()), sampled(0, TEXTS[0]))
    for number in range(1, evaluations + 1):
        at = number * every
        steps = [step(n, wavy_loss(n)) for n in range(at - every + 1, at + 1)]
        accuracy = 0.3 - 0.3 * math.exp(-at / 200)
        events = [
            scored(at, accuracy, wavy_loss(at) + 0.4),
            sampled(at, TEXTS[min(number, len(TEXTS) - 1)]),
            CheckpointSaved("best", "models/best_model.safetensors", at),
        ]
        history = advance_all(history, [*steps, *events], at_s=at / 10)
    last = evaluations * every
    return advance_all(history, [step(n, wavy_loss(n)) for n in range(last + 1, last + 51)])


def wavy_loss(number: int) -> float:
    """Return a loss from 7 down to 3 nats, with a ripple instead of noise."""
    return 3.0 + 4.0 * math.exp(-number / 120) + 0.25 * math.sin(number * 1.7) * math.sin(number * 0.13)
