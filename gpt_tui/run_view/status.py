"""Rows of the status panel: progress, metrics, evaluations, model and saves of a run. Does not import Textual."""

from __future__ import annotations

from math import isfinite
from pathlib import PurePath

from gpt_core.training.evaluation import epochs_per_evaluation
from gpt_core.training.events import EvalCompleted, Event, StepCompleted
from gpt_core.training.metrics import Metric, metrics
from gpt_tui.session.exchange_text import exchange_figures, exchange_text
from gpt_tui.session.outcome_text import verdict, verdict_tone
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_state import NO_LIMITS, RunState, latest_value
from gpt_tui.session.run_text import best_score, gap_at
from gpt_tui.session.start_text import hosts_count, hosts_text, origin_text
from gpt_tui.shared.formatting import (
    PART_MARK,
    age,
    bar,
    counted,
    duration,
    estimated_duration,
    fixed,
    integer,
    metric_value,
    nats,
    percent,
    short,
    size,
)
from gpt_tui.shared.rows import RULE, Row, Tone, longest_fitting
from gpt_tui.shared.sanitize import one_line

LABEL_WIDTH = 14
BAR_MARGIN = 7  # cells of the value beside a progress bar

SYMBOLS = {
    Phase.IDLE: "○", Phase.OPENING: "◌", Phase.TRAINING: "▶", Phase.PAUSING: "‖", Phase.PAUSED: "‖",
    Phase.EVALUATING: "◆", Phase.STOPPING: "■", Phase.STOPPED: "■", Phase.FINISHED: "✓", Phase.FAILED: "✗",
}  # fmt: skip

PHASE_TONES: dict[Phase, Tone] = {Phase.FAILED: "bad", Phase.TRAINING: "good", Phase.FINISHED: "good"}

DROPPED_FIRST = (
    "tokens", "eval tokens", "full eval", "started from", "memory", "model", "ranks", "time", "learning rate",
    "best accuracy", "best loss", "exchange", "eval - train", "grad norm", "step loss", "not improved", "accuracy",
)  # fmt: skip


def status_rows(state: RunState, status: SessionStatus, width: int) -> list[Row]:
    """Return the rows of a panel `width` cells wide."""
    value_width = width - LABEL_WIDTH
    if state.started is None:
        return [phase_row(state, status, value_width)]
    return [
        phase_row(state, status, value_width),
        *progress_rows(state, value_width),
        RULE,
        *training_rows(state, value_width),
        RULE,
        *evaluation_rows(state, value_width),
        RULE,
        model_row(state, value_width),
        *ranks_rows(state, value_width),
        *exchange_rows(state, value_width),
        *origin_rows(state, value_width),
        Row("memory", size(status.memory_bytes) if status.memory_bytes else "unknown"),
        saved_row(state, status, value_width),
    ]


def phase_row(state: RunState, status: SessionStatus, value_width: int) -> Row:
    """Return the phase, during an evaluation with its progress."""
    names = [status.phase.value]
    if status.phase is Phase.EVALUATING:
        names = ["final evaluation", "final eval"] if state.has_used_its_time else names
        progress = f" {percent(state.evaluating)}" if state.evaluating is not None else ""
        names = [f"{name}{progress}" for name in (*names, "eval")]
    text = longest_fitting([f"{SYMBOLS[status.phase]} {name}" for name in names], value_width)
    return Row("state", text, PHASE_TONES.get(status.phase, "plain"))


def progress_rows(state: RunState, value_width: int) -> list[Row]:
    """Return step, epoch, progress bar of the run, times, tokens."""
    started = state.started
    assert started is not None
    rows = [Row("step", count_of(state.step, state.last_step, value_width))]
    if started.steps_per_epoch and started.kind == "train":
        epoch = (state.last.epoch if state.last else started.epoch) + 1
        rows.append(Row("epoch", count_of(epoch, state.limits.max_epochs, value_width)))
    if (fraction := state.progress) is not None:
        rows.append(Row("", f"{bar(fraction, max(6, value_width - BAR_MARGIN))} {fraction * 100:3.0f}%"))
    rows.append(Row("time", duration(state.elapsed_s)))
    if (remaining := state.remaining_s) is not None:
        rows.append(Row("time left", estimated_duration(remaining)))
    return [*rows, Row("tokens", short(state.last.tokens) if state.last else "0")]


def count_of(count: int, limit: int, width: int) -> str:
    """Return `1,256 of 2,000`, shorter where that is too wide; the count alone for a limit of 0."""
    text = integer(count)
    return longest_fitting([f"{text} of {integer(limit)}", f"{text}/{integer(limit)}", text], width) if limit else text


def training_rows(state: RunState, value_width: int) -> list[Row]:
    """Return the metrics of the steps, a divergence, and the number of skipped updates."""
    if state.last is None:
        return [Row("waiting for the first step", "")]
    rows = metric_rows(state, StepCompleted, value_width)
    if found := state.diverging:
        ratio = fixed(state.curve.smoothed / max(found.guessing_loss, 1e-9), 1)
        options = [f"{ratio} × loss of uniform guessing", f"{ratio} × uniform"]
        rows.append(Row("diverging", longest_fitting(options, value_width), "bad"))
    if state.skipped:
        rows.append(Row("skipped", counted(state.skipped, "update"), "bad"))
    return rows


def metric_rows(state: RunState, event: type[Event], value_width: int) -> list[Row]:
    """Return a row per registered metric that is read from this class of events and has a value."""
    return [
        metric_row(metric, value, value_width)
        for metric in metrics()
        if metric.event is event and (value := latest_value(state, metric)) is not None
    ]


def metric_row(metric: Metric, value: float, value_width: int) -> Row:
    """Return the row of a metric: with its unit if that fits, marked if the value is not finite."""
    label = metric.label if len(metric.label) < LABEL_WIDTH - 1 else metric.label.replace(" per ", "/")
    text = longest_fitting([metric_value(metric, value), metric_value(metric, value, unit=False)], value_width)
    return Row(label, text, "plain" if isfinite(value) else "bad")


def evaluation_rows(state: RunState, value_width: int) -> list[Row]:
    """Return the metrics of the last evaluation, the best one, and the state of early stopping."""
    if state.started is not None and state.started.kind != "train":
        return [verdict_row(state, value_width)]
    full = full_evaluation_rows(state, value_width)
    if state.evaluation is None:
        return [first_evaluation_row(state, value_width)] if state.full_evaluation is None else full
    mark = PART_MARK if state.started is not None and state.started.eval_part_tokens else ""
    scores = [
        row._replace(value=mark + row.value) for row in metric_rows(state, EvalCompleted, value_width - len(mark))
    ]
    rows = [*scores, *gap_rows(state, value_width), *full, *start_rows(state, value_width)]
    if best := best_score(state):
        options = [f"★ {mark}{best} at {short(state.best.step)}", f"★ {mark}{best}"]
        rows.append(Row(f"best {state.best_metric}", longest_fitting(options, value_width)))
    if state.limits.patience and state.finished is None:
        rows.append(early_stopping_row(state, value_width))
    return rows


def gap_rows(state: RunState, value_width: int) -> list[Row]:
    """Return the gap between train and eval loss at the last evaluation, in as many words as fit."""
    point = state.evaluation
    if point is None or (found := gap_at(state, point)) is None:
        return []
    gap = fixed(point.loss - point.train_loss, 2)
    return [Row("eval - train", longest_fitting([f"{gap}: {found.meaning}", gap], value_width))]


def start_rows(state: RunState, value_width: int) -> list[Row]:
    """Return the scores before fine-tuning, once there are others to compare with them."""
    before = state.start_scores
    if before is None or not (state.is_evaluated or state.full_evaluation is not None):
        return []
    loss = nats(before.loss)
    options = [f"{loss}, {fixed(before.bits_per_byte)} bits/byte", loss]
    return [Row("before tuning", longest_fitting(options, value_width))]


def verdict_row(state: RunState, value_width: int) -> Row:
    """Return how many lines the self-test reproduces, or when that is checked."""
    found = state.lines_reproduced
    if found is None:
        return Row(longest_fitting(["lines are checked at the end", "check at the end"], value_width + LABEL_WIDTH), "")
    count = f"{integer(found.reproduced)} of {counted(found.lines, 'line')}"
    options = [verdict(found), count, count_of(found.reproduced, found.lines, value_width)]
    return Row("self-test", longest_fitting(options, value_width), verdict_tone(found))


def full_evaluation_rows(state: RunState, value_width: int) -> list[Row]:
    """Return how many tokens of the eval text every evaluation scores, and the last loss on all of it."""
    started, full = state.started, state.full_evaluation
    rows = []
    if started is not None and started.eval_part_tokens:
        part, total = f"{PART_MARK} {short(started.eval_part_tokens)}", short(started.eval_tokens)
        rows.append(Row("eval tokens", longest_fitting([f"{part} of {total}", f"{part}/{total}"], value_width)))
    if full is None:
        return rows
    loss = nats(full.loss)
    rows.append(Row("full eval", longest_fitting([f"{loss} at {short(full.step)}", loss], value_width)))
    if state.evaluation is None:  # its only scores
        rows += [Row("accuracy", percent(full.accuracy)), Row("bits/byte", fixed(full.bits_per_byte))]
    return rows


def early_stopping_row(state: RunState, value_width: int) -> Row:
    """Return the evaluations without improvement, and after how many of them, and of steps, the run stops."""
    limits, so_far = state.limits, state.best.without_improvement
    if state.step <= limits.warmup_steps:
        counted = f"counted after step {integer(limits.warmup_steps)}"
        options = [f"{counted}, the end of the warm-up", counted, f"from step {short(limits.warmup_steps)}"]
        return Row("not improved", longest_fitting(options, value_width))
    min_steps = limits.patience_min_steps
    steps = min(max(0, state.step - max(state.best.patience_from, limits.warmup_steps)), min_steps)
    if so_far >= limits.patience and steps < min_steps:
        unit, limit, so_far = "steps", min_steps, steps
    else:
        unit, limit, so_far = "evaluations", limits.patience, min(so_far, limits.patience)
    tone: Tone = "bad" if unit == "evaluations" and limit - so_far <= 1 else "plain"
    counts = f"{integer(so_far)} of {integer(limit)}"
    text = f"stops after {integer(limit)} {unit} without improvement ({integer(so_far)} so far)"
    if len(text) <= value_width:
        return Row("patience", text, tone)
    options = [f"{counts} {unit}", f"{counts} {unit.replace('evaluations', 'evals')}", counts]
    return Row("not improved", longest_fitting(options, value_width), tone)


def first_evaluation_row(state: RunState, value_width: int) -> Row:
    """Return the step of the first evaluation, if the settings of the run are known; it may be the end of the run."""
    started = state.started
    if state.finished is not None:
        return Row("no evaluation", "")
    if state.limits == NO_LIMITS or state.evaluating is not None:
        return Row("no evaluation yet", "")
    every, epoch = state.limits.eval_every_steps, started.steps_per_epoch if started and started.kind == "train" else 0
    intervals = [every, epoch and epoch * epochs_per_evaluation(every, epoch)]
    if not any(intervals):
        return Row("no evaluation yet", "")
    step = min((state.step // interval + 1) * interval for interval in intervals if interval)
    if 0 < state.last_step < step:
        at_end = "evaluation at the end"
        options = [f"{at_end}, step {integer(state.last_step)}", at_end, "eval at the end"]
        return Row(longest_fitting(options, value_width + LABEL_WIDTH), "")
    options = [f"first {text} {integer(step)}" for text in ("evaluation at step", "eval at step", "eval at")]
    return Row(longest_fitting(options, value_width + LABEL_WIDTH), "")


def model_row(state: RunState, value_width: int) -> Row:
    """Return the size of the model, the number of threads, and bfloat16 if the products are in that format."""
    assert state.started is not None
    parameters, threads = short(state.started.parameters), state.started.threads
    counted_threads = f"{counted(threads, 'thread')}{' per rank' if state.started.hosts else ''}"
    if state.started.trained_parameters:
        parameters = f"{short(state.started.trained_parameters)} of {parameters}"
    options = [f"{parameters} parameters, {counted_threads}", f"{parameters}, {counted_threads}"]
    options.append(parameters)
    if state.started.precision == "bfloat16":
        options = [f"{option}, {name}" for name in ("bfloat16", "bf16") for option in options]
    return Row("model", longest_fitting(options, value_width))


def ranks_rows(state: RunState, value_width: int) -> list[Row]:
    """Return the ranks of a run on several, and their hosts."""
    if state.started is None or not state.started.hosts:
        return []
    hosts = state.started.hosts
    options = [hosts_text(hosts), f"{len(hosts)} on {hosts_count(hosts)}"]
    return [Row("ranks", longest_fitting(options, value_width))]


def exchange_rows(state: RunState, value_width: int) -> list[Row]:
    """Return the exchange of gradients of a run on several ranks: bytes per step, time, and what of it is hidden."""
    if state.exchange is None:
        return []
    sent, spent, hidden = exchange_figures(state.exchange)
    options = [exchange_text(state.exchange), f"{sent} per step, {spent}, {hidden} hidden", f"{sent}, {spent}", spent]
    return [Row("exchange", longest_fitting(options, value_width))]


def origin_rows(state: RunState, value_width: int) -> list[Row]:
    """Return the checkpoint that the run started from, if it did."""
    if state.started is None or not state.started.init_from:
        return []
    path = PurePath(state.started.init_from)
    names = [one_line(name) for name in (f"{path.parent.name}/{path.stem}", path.stem)]
    options = [*(origin_text(state.started, name) for name in names), names[1]]
    return [Row("started from", longest_fitting(options, value_width))]


def saved_row(state: RunState, status: SessionStatus, value_width: int) -> Row:
    """Return step and age of the last save, or the step of the resumed checkpoint, or that the last save failed."""
    if state.save_error:
        return Row("saved", longest_fitting(["✗ failed, see the log", "✗ see the log"], value_width), "bad")
    if state.saved is None:
        if state.started is not None and state.started.resumed_from:
            step = f"step {short(state.started.step)}"
            return Row("saved", longest_fitting([f"{step} (resumed)", step], value_width))
        return Row("saved", "not yet", "dim")
    step, ago = short(state.saved.step), f"{age(status.now_s - state.saved.at_s)} ago"
    return Row("saved", longest_fitting([f"at step {step}, {ago}", f"step {step}, {ago}", ago], value_width))
