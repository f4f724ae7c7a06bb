"""The lines of text that a headless run prints for its events.

The log of the app has shorter lines; these use the full width of a terminal and name files by their paths.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from gpt_core.config.presets import CUSTOM
from gpt_core.training import events as ev
from gpt_core.training import losses
from gpt_core.training.metrics import added_metrics
from gpt_tui.session.baseline_text import baselines_text
from gpt_tui.session.exchange_text import awaited_text, exchange_text
from gpt_tui.session.learning_text import copied_text
from gpt_tui.session.outcome_text import full_scores, induction_text, verdict, verdict_tone
from gpt_tui.session.overfitting_text import too_small_text
from gpt_tui.session.run_preview import shown_path
from gpt_tui.session.run_state import RunState, latest_value
from gpt_tui.session.run_text import advice, end_text, gap_at
from gpt_tui.session.start_text import origin_text, parameters_text, text_sample, threads_text
from gpt_tui.shared.formatting import (
    counted,
    duration,
    estimated_duration,
    fixed,
    integer,
    metric_value,
    nats,
    percent,
    perplexity,
    rate,
    short,
    shown_continuation,
)
from gpt_tui.shared.rows import Tone
from gpt_tui.shared.sanitize import one_line

SAMPLE_CHARACTERS = 160


def news(event: ev.AnyEvent, history: RunState) -> list[tuple[str, Tone]]:
    """Return the lines for an event with their tones; none for steps and progress.

    Divergence and a log that cannot be written are reported on standard error instead.
    """
    match event:
        case ev.RunStarted():
            lines: list[tuple[str, Tone]] = [(started(event), "good"), (started_details(event), "dim")]
            if event.model_reason:
                lines.append((event.model_reason, "plain"))
            if event.first_words:
                lines.append((text_sample(event), "dim"))
            if small := too_small_text(event):
                lines.append((small, "plain"))
            return [*lines, (event.best_restarted, "plain")] if event.best_restarted else lines
        case ev.BaselinesMeasured():
            return [(baselines_text(event), "dim")]
        case ev.EvalCompleted():
            scores = [evaluated(event, history)]
            if gap := gap_line(event, history):
                scores.append((gap, "plain"))
            if history.used_up is not None and history.used_up.step == event.step:
                scores.append((advice(history), "plain"))
            return scores
        case ev.FullEvalCompleted():
            return [(f"eval at step {integer(event.step)}: {full_scores(event)}", "plain")]
        case ev.LinesReproduced():
            return [(f"self-test {verdict(event)}", verdict_tone(event))]
        case ev.SampleWritten():
            text = one_line(event.prompt + shown_continuation(event.text), SAMPLE_CHARACTERS)
            lines = [(f"sample at step {integer(event.step)}: {text}", "dim")]
            copied = copied_text(event.copied, event.searched, sample=event.prompt + event.text)
            return [*lines, (copied, "dim")] if copied else lines
        case ev.ExchangeMeasured():
            return [(f"exchange at step {integer(event.step)}: {exchange_text(event)}", "dim")]
        case ev.CheckpointSaved():
            return [(f"saved {event.path} at step {integer(event.step)}", "good")]
        case ev.SaveFailed():
            return [(f"NOT SAVED: {event.error}", "bad")]
        case ev.UpdateSkipped():
            return [(f"step {integer(event.step)} skipped: {event.reason} ({event.in_a_row} in a row)", "bad")]
        case ev.GradientNorms():
            norms = (
                f"{name} {norm:.2e}/{event.update_norms.get(name, 0.0):.2e}" for name, norm in event.grad_norms.items()
            )
            return [(f"gradient/update norms at step {integer(event.step)}: {', '.join(norms)}", "dim")]
        case ev.InductionHeadAppeared():
            return [(f"step {integer(event.step)}: {induction_text(event)}", "good")]
        case ev.RoundAwaited():
            return [(awaited_text(event), "plain")]
        case ev.RunPaused():
            return [(f"paused at step {integer(event.step)}", "plain")]
        case ev.RunContinued():
            return [("continued", "plain")]
        case ev.RunFinished(reason=reason) if reason != "diverged":
            return [(end_text(event, history), "good")]
        case ev.StepCompleted() | ev.EvalProgressed() | ev.HeadsScored() | ev.HealthMeasured() | ev.PlanMade():
            return []
        case ev.LogFailed() | ev.LossDiverged() | ev.RunFinished():
            return []
        case _:
            assert_never(event)


def gap_line(event: ev.EvalCompleted, history: RunState) -> str:
    """Return what the gap between train and eval loss means at an evaluation; "" before the first step."""
    point = next((point for point in reversed(history.evaluations) if point.step == event.step), None)
    return str(gap_at(history, point) or "")


def evaluated(event: ev.EvalCompleted, history: RunState) -> tuple[str, Tone]:
    """Return the scores of an evaluation; in fine-tuning, beside the eval loss before it."""
    before = history.start_scores
    is_start = before is not None and event.step == 0
    is_best = history.best.step == event.step and not is_start
    when = "before fine-tuning" if is_start else f"at step {integer(event.step)}"
    notes = [f"best {history.best_metric} so far"] if is_best else []
    notes += [f"before fine-tuning {nats(before.loss)}"] if before is not None and not is_start else []
    note = f" ({'; '.join(notes)})" if notes else ""
    line = (
        f"eval {when}: eval loss {nats(event.loss)}, ppl {perplexity(event.ppl)}, accuracy {percent(event.accuracy)}, "
        f"{fixed(event.bits_per_byte)} bits per byte{note}"
    )
    return line, "good" if is_best else "plain"


def started(event: ev.RunStarted) -> str:
    """Return what is trained, which weights it started with, and which checkpoint it resumes."""
    what = {"train": "training", "overfit-tiny": "self-test of"}[event.kind]
    start = ""
    if event.init_from:
        what = "fine-tuning" if event.kind == "train" else what
        start = f"; weights and tokenizer of {origin_text(event, shown_path(Path(event.init_from)))}"
    model = "a custom model" if event.preset in ("", CUSTOM) else event.preset
    resumed = f"; resumed from {event.resumed_from} at step {integer(event.step)}" if event.resumed_from else ""
    return f"{what} {model}: {parameters_text(event)}{start}{resumed}"


def started_details(event: ev.RunStarted) -> str:
    """Return the text, the weights that are scored, the steps, the threads and the number format of a run."""
    name = event.train_file or "the first lines"
    threads = threads_text(event)
    if event.hosts:
        threads += f" ({', '.join(dict.fromkeys(event.hosts))})"
    scored = ""
    # the same number of tokens: the training text is named as the eval text, too
    if event.eval_file == event.train_file and event.eval_file and event.eval_tokens != event.train_tokens:
        scored = f", evaluated on its last {short(event.eval_tokens)} tokens, which are held out"
    elif event.eval_file:
        scored = f", evaluated on {event.eval_file}"
    if event.eval_part_tokens:
        part, tokens = short(event.eval_part_tokens), short(event.eval_tokens)
        scored += f" ({part} of its {tokens} tokens; all after epochs and at the end)"
    if event.ema:
        scored += f"; scores, samples and saved models are of the average of the weights (ema {event.ema:g})"
    step_tokens = min(event.batch_tokens, event.train_tokens)
    return (
        f"text {name}: {short(event.train_tokens)} tokens{scored}; {counted(event.steps_per_epoch, 'step')} per epoch, "
        f"{counted(step_tokens, 'token')} per step; {threads}, {precision_clause(event)}, seed {event.seed}"
    )


def precision_clause(event: ev.RunStarted) -> str:
    """Return the format of the matrix products, and why it was chosen."""
    return f"{event.precision} products" + (f" ({event.precision_reason})" if event.precision_reason else "")


def figures(history: RunState) -> str:
    """Return the figures of a run in one line. Tiny overfit names its train loss tokLoss, as the Go project does."""
    last = history.last
    if last is None:
        return ""
    added = (
        f"  {added.label} {metric_value(added, value)}"
        for added in added_metrics()
        if (value := latest_value(history, added)) is not None
    )
    name, loss = "train loss" if is_training(history) else "tokLoss", history.curve.smoothed
    return (
        f"{name} {nats(loss)}  ppl {perplexity(losses.perplexity(loss))}  "
        f"lr {rate(last.lr)}  norm {fixed(last.grad_norm, 2)}  {integer(last.tokens_per_s)} tokens/s  "
        f"{duration(last.elapsed_s)}{''.join(added)}"
    )


def steps_line(history: RunState) -> str:
    """Return the line for the steps since the last line."""
    epoch = f"  epoch {history.last.epoch + 1}" if history.last is not None and is_training(history) else ""
    of = f"/{integer(history.last_step)}" if history.last_step else ""
    left = f"  {estimated_duration(history.remaining_s)} left" if history.remaining_s else ""
    return f"step {integer(history.step)}{of}{epoch}  {figures(history)}{left}"


def is_training(history: RunState) -> bool:
    """Return True for a training run, False for tiny overfit."""
    return history.started is None or history.started.kind == "train"
