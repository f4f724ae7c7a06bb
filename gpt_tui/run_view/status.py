"""What the status panel says: a run's history and the controller's facts as rows of text. Pure."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

from gpt_core.training.metrics import added_metrics
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_state import RunState, Tone
from gpt_tui.shared.formatting import (
    age,
    bar,
    duration,
    fixed,
    metric_value,
    nats,
    percent,
    perplexity,
    rate,
    short,
    size,
    whole,
)

SYMBOLS = {
    Phase.IDLE: "○", Phase.OPENING: "◌", Phase.TRAINING: "▶", Phase.PAUSING: "‖", Phase.PAUSED: "‖",
    Phase.EVALUATING: "◆", Phase.STOPPING: "■", Phase.STOPPED: "■", Phase.FINISHED: "✓", Phase.FAILED: "✗",
}  # fmt: skip

PHASE_TONES: dict[Phase, Tone] = {Phase.FAILED: "bad", Phase.TRAINING: "good", Phase.FINISHED: "good"}

# rows that go first where the panel is too low for all of them
LEAST_IMPORTANT = ("time", "tokens", "model", "memory", "best", "rate", "lr", "gradient", "patience", "accuracy")


class Row(NamedTuple):
    """One row of the panel; a row with no label is a rule when its value is empty too."""

    label: str
    value: str
    tone: Tone = "plain"


RULE = Row("", "")


def status_rows(history: RunState, facts: SessionStatus, width: int) -> list[Row]:
    """The rows of a panel whose values have about `width` - 10 cells, most important first."""
    started, last = history.started, history.last
    if started is None:
        return [state_row(history, facts)]
    wide = width >= 34
    rows = [state_row(history, facts), *progress_rows(history, max(6, width - 17))]
    rows.append(Row("tokens", short(last.tokens) if last else "0"))
    rows.append(Row("speed", f"{short(last.tokens_per_s)} tokens/s" if last else "–"))
    rows.append(RULE)
    if last is None:
        rows.append(Row("", "waiting for the first step", "dim"))
    else:
        rows.append(Row("loss", nats(last.loss), "plain" if isfinite(last.loss) else "bad"))
        rows.append(Row("smoothed", f"{nats(history.curve.smoothed)}  ppl {perplexity(history.smoothed_perplexity)}"))
        if found := history.diverging:
            rows.append(
                Row("", f"{fixed(history.curve.smoothed / max(found.guessing_loss, 1e-9), 1)} × guessing", "bad")
            )
        rows.append(
            Row("gradient", f"{last.grad_norm:.3g} norm" + (f", {history.skipped} skipped" * bool(history.skipped)))
        )
        rows.append(Row("rate", rate(last.lr)))
        rows += added_metric_rows(history)
    rows.append(RULE)
    rows += evaluation_rows(history, wide)
    rows.append(RULE)
    threads = f"{started.threads} thread{'s' * (started.threads != 1)}"
    rows.append(Row("model", f"{short(started.parameters)}{' parameters' * wide}, {threads}"))
    rows.append(Row("memory", size(facts.memory_bytes) if facts.memory_bytes else "unknown"))
    rows.append(saved_row(history, facts, wide))
    return rows


def added_metric_rows(history: RunState) -> list[Row]:
    """Return a row per registered metric that is not built in and has a value."""
    latest = history.added_metrics.latest
    return [
        Row(added.label, metric_value(added, latest[added.name])) for added in added_metrics() if added.name in latest
    ]


def fitted(rows: list[Row], height: int) -> list[Row]:
    """As many of the rows as fit into `height`: first the rules go, then the least important rows."""
    if len(rows) > height:
        rows = [row for row in rows if row != RULE]
    for label in LEAST_IMPORTANT:
        if len(rows) > height:
            rows = [row for row in rows if row.label != label]
    return rows


def state_row(history: RunState, facts: SessionStatus) -> Row:
    """The state in a word, with its sign, and for how long the run has trained."""
    words = facts.phase.value
    if facts.phase is Phase.EVALUATING and history.evaluating is not None:
        words += f" {percent(history.evaluating)}"
    return Row("state", f"{SYMBOLS[facts.phase]} {words}", PHASE_TONES.get(facts.phase, "plain"))


def progress_rows(history: RunState, bar_width: int) -> list[Row]:
    """Step, epoch with its bar, time spent and left."""
    started = history.started
    assert started is not None
    of_steps = f" of {whole(history.last_step)}" if history.last_step else ""
    rows = [Row("step", whole(history.step) + of_steps)]
    if started.steps_per_epoch and started.kind == "train":
        of_epochs = f" of {history.limits.max_epochs}" if history.limits.max_epochs else ""
        epoch = (history.last.epoch if history.last else started.epoch) + 1
        rows.append(Row("epoch", f"{whole(epoch)}{of_epochs}"))
        share = history.epoch_fraction
        rows.append(Row("", f"{bar(share, bar_width)} {share * 100:3.0f}%"))
    elif history.last_step:
        share = min(1.0, history.step / history.last_step)
        rows.append(Row("", f"{bar(share, bar_width)} {share * 100:3.0f}%"))
    rows.append(Row("time", duration(history.elapsed_s)))
    if (remaining := history.remaining_s) is not None:
        rows.append(Row("left", duration(remaining)))
    return rows


def evaluation_rows(history: RunState, wide: bool) -> list[Row]:
    """The last evaluation, the best one, and how much patience is left."""
    point = history.evaluation
    if point is None:
        return [Row("eval", "none yet", "dim")]
    at = f" at {whole(point.step)}" if wide else ""
    rows = [
        Row("eval", f"{nats(point.loss)}{at}"),
        Row("accuracy", percent(point.accuracy)),
        Row("bits/byte", fixed(point.bits_per_byte)),
    ]
    if history.best.accuracy >= 0:
        rows.append(Row("best", f"★ {percent(history.best.accuracy)} at {short(history.best.step)}"))
    if history.limits.patience:
        left = max(0, history.limits.patience - history.best.stale_epochs)
        words = f"{left} of {history.limits.patience} epochs"
        rows.append(Row("patience", words, "bad" if left <= 1 else "plain"))
    return rows


def saved_row(history: RunState, facts: SessionStatus, wide: bool) -> Row:
    """The last save and its age, or why the last one failed."""
    if history.save_error:
        return Row("saved", "✗ failed, see the log", "bad")
    if history.saved is None:
        return Row("saved", "not yet", "dim")
    return Row("saved", f"{'at step ' * wide}{short(history.saved.step)}, {age(facts.now_s - history.saved.at_s)} ago")
