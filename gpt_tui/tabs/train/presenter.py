"""Text and rules of the Train tab: preview rows, allowed actions, countdown, titles. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Literal, NamedTuple

from gpt_core.bench.estimate import model_state_bytes
from gpt_core.config.presets import CUSTOM
from gpt_core.config.settings import NO_EPOCH_LIMIT, Settings
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.model.parameters import parameter_count
from gpt_core.text.token_stream import MAX_HELD_OUT_TOKENS
from gpt_tui.session.phase import Phase
from gpt_tui.session.run_preview import RunPreview, StoredCheckpoints, shown_path
from gpt_tui.session.start_text import hosts_text
from gpt_tui.shared.formatting import age, bar, counted, integer, minutes_text, nats, percent, size
from gpt_tui.shared.sanitize import one_line

MIN_BAR_WIDTH, MAX_BAR_WIDTH = 8, 30

Notes = Literal["samples", "log", "alone"]
"""Panel below the charts: samples, log, or samples without the charts."""


BUDGETS = (1.0, 5.0, 30.0, 480.0)
"""Minutes to choose from before a run."""


# -- actions


def next_budget(minutes: float) -> float:
    """Return the time budget that follows one of `minutes`: the next longer one, the first after the last."""
    return next((budget for budget in BUDGETS if budget > minutes), BUDGETS[0])


def allowed(phase: Phase, *, can_resume: bool, is_changed: bool = False, has_budget: bool = False) -> frozenset[str]:
    """Return the actions of the "train" keys that are available in a phase."""
    if phase is Phase.STOPPING:
        return frozenset()
    if phase is Phase.OPENING:
        return frozenset({"stop"})
    if phase.alive:
        return frozenset({"pause", "step", "save", "evaluate", "stop"})
    optional = {"resume": can_resume, "defaults": is_changed, "next_budget": has_budget and not is_changed}
    return frozenset({"start", "setup", "overfit"} | {action for action, works in optional.items() if works})


def why_not(action: str, phase: Phase, keys: Mapping[str, str], in_use: str = "") -> str:
    """Return why an action is unavailable, in one line.

    Args:
        action: An action of the "train" keys that `allowed` does not contain.
        phase: The current phase.
        keys: The displayed key of each action.
        in_use: Folder of the run that would be resumed if another process did not train there; "" if none does.
    """
    if action == "start_now":
        return ""  # the countdown shows this key while it works
    if phase is Phase.STOPPING:
        return "the run is stopping"
    if phase is Phase.OPENING:
        return f"the run is getting ready ({keys['stop']}: stop)"
    if phase.alive:
        return f"a run is in progress ({keys['stop']}: stop)"
    if action == "resume" and in_use:
        return f"another process trains in {one_line(in_use)}; its run can be resumed when it has ended"
    if action == "resume":
        return f"no checkpoint to resume ({keys['start']}: start a run)"
    if action == "next_budget":
        return "the time is chosen in the set-up screen"
    if action == "defaults":
        return "the settings have not been changed"
    return f"no run in progress ({keys['start']}: start one)"


def next_steps(reason: str, keys: Mapping[str, str]) -> str:
    """Return the keys to press after a run, on any tab: those of the Train tab follow the key that opens it.

    Args:
        reason: Why the run has ended, as in `RunFinished`.
        keys: The displayed key of each action.
    """
    resume = "resume" if reason in ("stopped", "diverged") else "train longer"
    return f"{keys['chat']}: chat; {keys['train']}, then {keys['resume']}: {resume}, {keys['start']}: new run."


# -- before a run


def preview_rows(preview: RunPreview, changes: Mapping[str, str], model_reason: str = "") -> list[tuple[str, str]]:
    """Return what a start would train, as (label, text).

    Args:
        preview: The files and checkpoints of the run.
        changes: Settings that were changed in the set-up screen, as text.
        model_reason: Why a time budget has led to the settings, "" if it has not.
    """
    settings, shape = preview.settings, preview.settings.shape
    parameters = parameter_count(shape)
    tokens = settings.batch_size * settings.seq_len
    limit = ""
    if preview.train_bytes * settings.val_frac > MAX_HELD_OUT_TOKENS:
        limit = f", at most {integer(MAX_HELD_OUT_TOKENS)} tokens"
    eval_text = preview.eval_file or f"about the last {percent(settings.val_frac)} of the text{limit}"
    memory = size(model_state_bytes(settings, max(1, len(preview.hosts))))
    texts = [("problem", preview.problem)]
    if not preview.problem:
        notes = [("note", preview.note)] if preview.note else []
        texts = [("text", text_and_size(preview)), *notes, ("eval text", eval_text)]
    changed = ", ".join(f"{name} {one_line(text)}" for name, text in changes.items())
    return [
        *([("weights", start_text(preview.start))] if preview.start is not None else []),
        ("model", f"{preview.model}, {integer(parameters)} parameters"),
        *([("why", one_line(model_reason))] if model_reason else []),
        (
            "shape",
            f"{counted(shape.layers, 'layer')}, width {shape.d_model}, {counted(shape.num_heads, 'head')}, "
            f"context {shape.seq_len}",
        ),
        *([("layers", shape.other_layers)] if shape.other_layers else []),
        *texts,
        (
            "batch",
            f"{settings.batch_size} × {settings.seq_len} = {integer(tokens)} tokens per step, {length(settings)}",
        ),
        *([("ranks", hosts_text(preview.hosts))] if preview.hosts else []),
        ("memory", f"{memory} for weights and optimizer{', per rank' * bool(preview.hosts)}, plus activations"),
        ("saves", f"{one_line(settings.models_dir)}/, {saving(settings)}"),
        *([("changed", changed)] if changes else []),
    ]


def start_text(info: CheckpointInfo) -> str:
    """Return the checkpoint that a run starts from, with its step and eval loss where its header has them."""
    step = f", step {integer(info.step)}" if info.step else ""
    scores = f", eval loss {nats(info.scores.loss)}" if info.scores else ""
    return f"{shown_path(info.path)}{step}{scores}, and its tokenizer"


def text_and_size(preview: RunPreview) -> str:
    """Return the name of the training text, its number of files if there are several, and its size."""
    files = f", {integer(preview.train_files)} files" if preview.train_files > 1 else ""
    return f"{preview.train_file}{files}, {size(preview.train_bytes)}"


def length(settings: Settings) -> str:
    """Return the maximum length of a run: `up to 2,000 steps or 20 epochs`, or `5 minutes, up to 2 epochs`."""
    limits = [counted(settings.max_steps, "step")] if settings.max_steps else []
    if settings.max_epochs < NO_EPOCH_LIMIT:
        limits.append(counted(settings.max_epochs, "epoch"))
    up_to = [f"up to {' or '.join(limits)}"] if limits else []
    if settings.minutes:
        return ", ".join([minutes_text(settings.minutes), *up_to])
    return up_to[0] if up_to else "no limit of steps or epochs"


def saving(settings: Settings) -> str:
    """Return when a run saves: `every 10 minutes, every 10 epochs and when it stops`."""
    intervals = [minutes_text(settings.save_every_minutes)] if settings.save_every_minutes else []
    if settings.save_every_steps and not intervals:
        intervals.append(counted(settings.save_every_steps, "step"))
    if settings.save_epoch_number:
        intervals.append(counted(settings.save_epoch_number, "epoch"))
    when = ", ".join(f"every {interval.removeprefix('1 ')}" for interval in intervals)
    return f"{when} and when it stops" if when else "when it stops"


def labeled_actions(preview: RunPreview, available: Set[str], now_s: float) -> list[tuple[str, str]]:
    """Return what can be done before a run, as (action, label), in the order of usefulness.

    Args:
        preview: The files and checkpoints of the run.
        available: The actions that `allowed` returns; those that need a text are omitted if it has a problem.
        now_s: Time at which they are shown, in seconds since the epoch.
    """
    labels = {}
    if not preview.problem:
        what = "training this model" if preview.model == CUSTOM else f"training the {preview.model} preset"
        if preview.start is not None:
            what = f"fine-tuning {one_line(preview.start.path.stem)}"
        labels["start"] = f"Start {what} on {PurePath(preview.train_file).name}"
        labels["next_budget"] = budget_choice(preview.settings.minutes)
    if resumable := preview.stored.resumable:
        labels["resume"] = resume_choice(preview.settings, resumable, now_s)
    if not preview.problem:
        labels["overfit"] = f"Self-test: memorize {counted(preview.settings.overfit_lines, 'line')}"
    labels["setup"] = "Change model, text or learning rate"
    labels["defaults"] = "Go back to the settings before the changes"
    actions = [(action, label) for action, label in labels.items() if action in available]
    if for_chat := preview.stored.for_chat:
        actions.append(("chat", f"Chat with {one_line(for_chat.path.stem)} ({step_and_age(for_chat, now_s)})"))
    return [*actions, ("help", "Show all keys")]


def budget_choice(minutes: float) -> str:
    """Return the time budget that the key chooses, and those after it: `Train for 30 minutes (again: 8 hours)`."""
    first = next_budget(minutes)
    others = [next_budget(first)]
    while (following := next_budget(others[-1])) not in (first, minutes):
        others.append(following)
    return f"Train for {minutes_text(first)} (again: {', '.join(map(minutes_text, others))})"


def resume_choice(settings: Settings, resumable: CheckpointInfo, now_s: float) -> str:
    """Return the run that the key resumes: `Resume models-2 (step 258, saved 48 s ago)`.

    Args:
        settings: Settings of the next run, whose folder is not named.
        resumable: Checkpoint to resume.
        now_s: Time at which it is shown, in seconds since the epoch.
    """
    folder = resumable.path.parent
    name = "" if folder == PurePath(settings.models_dir) else f"{shown_path(folder)} "
    return f"Resume {name}({step_and_age(resumable, now_s)})"


def step_and_age(info: CheckpointInfo, now_s: float) -> str:
    """Return step and age of a checkpoint: `step 258, saved 48 s ago`."""
    return f"step {integer(info.step)}, saved {age(max(0.0, now_s - info.saved_at))} ago"


# -- the countdown of a first start


class Countdown(NamedTuple):
    """Countdown of `length_s` seconds from `started_s`, on the caller's clock."""

    started_s: float
    length_s: float

    def remaining_s(self, now_s: float) -> float:
        """Return the remaining seconds, at least 0."""
        return max(0.0, self.started_s + self.length_s - now_s)

    def fraction(self, now_s: float) -> float:
        """Return the elapsed fraction, 0 to 1."""
        return 1.0 - self.remaining_s(now_s) / self.length_s


def starts_automatically(preview: RunPreview) -> bool:
    """Return True if a first run may start after a countdown: no checkpoint yet, and no doubt about the text."""
    return bool(preview.train_file) and not (preview.problem or preview.note) and preview.stored == StoredCheckpoints()


def countdown_line(preview: RunPreview, countdown: Countdown, now_s: float, keys: Mapping[str, str], width: int) -> str:
    """Return a progress bar, what starts and when, and the keys that start or cancel it, as much as `width` holds."""
    what = "this model" if preview.model == CUSTOM else preview.model
    seconds = int(countdown.remaining_s(now_s)) + 1
    choices = f"({keys['start_now'].capitalize()}: now, {keys['cursor_off'].capitalize()}: cancel)"
    for_minutes = f" for {minutes_text(preview.settings.minutes)}" if preview.settings.minutes else ""
    on_text = f" on {PurePath(preview.train_file).name}"
    starts = f"starts in {seconds} s {choices}"
    texts = [
        f"training {what}{on_text}{for_minutes} {starts}",
        f"training {what}{on_text} {starts}",
        f"training {starts}",
    ]
    growth = max(0, len(str(int(countdown.length_s))) - len(str(seconds)))  # cells that a longer remaining time takes
    text = next((text for text in texts if len(text) + growth <= width), starts)
    room = min(MAX_BAR_WIDTH, width - len(text) - growth - 1)
    return f"{bar(countdown.fraction(now_s), room)} {text}" if room >= MIN_BAR_WIDTH else text


# -- samples and log


def next_notes(notes: Notes, *, both_seen: bool) -> Notes:
    """Return the panels after the next press of the key: samples, log in their place, samples without charts.

    Args:
        notes: The panels shown now.
        both_seen: True if samples and log are both visible, so that neither replaces the other.
    """
    order: tuple[Notes, ...] = ("samples", "alone") if both_seen else ("samples", "log", "alone")
    return order[(order.index(notes) + 1) % len(order)] if notes in order else "samples"


def notes_title(notes: Notes, name: Notes, *, both_seen: bool, key: str) -> str:
    """Return the title of the panel `name` as markup, with the key and what the key shows next."""
    if notes == "alone":
        other = "charts"
    elif both_seen:
        other = "samples only" if name == "samples" else ""
    else:
        other = "log" if name == "samples" else "samples only"
    return f"[b]{name}[/b]  [dim]{key} {other}[/]" if other else f"[b]{name}[/b]"
