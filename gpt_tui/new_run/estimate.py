"""What a run would take, as rows of text for the set-up screen. Pure."""

from __future__ import annotations

from typing import NamedTuple

from gpt_core.bench.estimate import (
    CorpusStats,
    MemoryEstimate,
    StepTime,
    checkpoint_bytes,
    count_epoch_steps,
    estimate_memory,
    estimate_run_length,
    window_length,
)
from gpt_core.config.settings import Settings
from gpt_core.model.parameters import parameter_count
from gpt_tui.shared.formatting import duration, short, size, whole
from gpt_tui.shared.rows import RULE, Row
from gpt_tui.shared.sanitize import one_line

TIMING = "timing a few steps …"
READING = "looking at the text …"
TEXT_SETTINGS = ("train_file", "eval_file", "val_frac", "document", "tokenizer", "vocab_size")
DETAIL = " "  # the label of rows that go first where there is little room


class RunEstimate(NamedTuple):
    """All that is known so far of a run that may be started; `settings` None while a field is wrong.

    `texts` and `time` are None until they are known, and the words beside them say why.
    """

    settings: Settings | None = None
    threads: int = 1
    free_bytes: int | None = None
    texts: CorpusStats | None = None
    texts_words: str = READING
    time: StepTime | None = None
    time_words: str = TIMING


def text_still_holds(prospect: RunEstimate, settings: Settings) -> bool:
    """Whether what is known of the text is also true with other settings, so that it need not vanish meanwhile."""
    before = prospect.settings
    return before is not None and all(getattr(before, name) == getattr(settings, name) for name in TEXT_SETTINGS)


def memory_problem(memory: MemoryEstimate, free_bytes: int | None) -> str:
    """Why a model cannot be timed, or ""."""
    if free_bytes is None or memory.total <= free_bytes:
        return ""
    return f"not timed: it takes {size(memory.total)}, {size(free_bytes)} are free"


def asking_first(models_dir: str, in_the_way: str) -> str:
    """The line on what a start would ask about, "" if it asks nothing."""
    if not in_the_way:
        return ""
    return f"• Start asks first: {one_line(models_dir)}/ has {in_the_way}; or name another folder."


def ready_words(problems: int, *, asks: bool) -> str:
    """Whether a run can start, in a few words."""
    if problems:
        return f"✗ {problems} field{'s' * (problems != 1)} to put right"
    return "• ready, asks first" if asks else "✓ ready to start"


def summary_rows(prospect: RunEstimate) -> list[Row]:
    """The rows, the ones that decide first."""
    settings = prospect.settings
    if settings is None:
        return [Row("Put right what is marked ✗.", "")]
    return [
        *size_rows(settings, prospect),
        RULE,
        *text_rows(settings, prospect),
        RULE,
        *time_rows(settings, prospect),
    ]


def roomy(rows: list[Row], height: int) -> list[Row]:
    """As many of the rows as there is room for: first the rules go, then the details."""
    if len(rows) > height:
        rows = [row for row in rows if row != RULE]
    return rows if len(rows) <= height else [row for row in rows if row.label != DETAIL]


def size_rows(settings: Settings, prospect: RunEstimate) -> list[Row]:
    """Parameters, memory and what is saved."""
    memory = estimate_memory(settings, prospect.threads)
    free = prospect.free_bytes
    is_too_much = free is not None and memory.total > free
    words = f"{size(memory.total)}, {size(free)} free" if free is not None else f"about {size(memory.total)}"
    return [
        Row("parameters", whole(parameter_count(settings.shape))),
        Row("memory", f"{'✗ ' if is_too_much else ''}{words}", "bad" if is_too_much else "plain"),
        Row(DETAIL, f"{size(memory.state)} for weights", "dim"),
        Row(DETAIL, f"{size(memory.activations)} for passes", "dim"),
        Row("checkpoint", size(checkpoint_bytes(settings))),
    ]


def text_rows(settings: Settings, prospect: RunEstimate) -> list[Row]:
    """The text, and what an epoch of it is."""
    texts = prospect.texts
    if texts is None:
        return [Row("text", one_line(prospect.texts_words), "dim" if prospect.texts_words == READING else "bad")]
    rows = [
        Row("text", f"{one_line(texts.train_file.name)}, {size(texts.train_bytes)}"),
        Row("eval text", one_line(texts.eval_file.name) if texts.eval_file else "held out of it"),
    ]
    if settings.overfit_tiny:
        return [*rows, Row("lines", f"the first {whole(settings.overfit_lines)}")]
    steps, how = count_epoch_steps(settings, texts.train_tokens), "counted" if texts.counted else "a guess"
    return [
        *rows,
        Row("epoch", f"{short(texts.train_tokens)} tokens, {how}"),
        Row("", f"{whole(steps)} step{'s' * (steps != 1)}"),
    ]


def time_rows(settings: Settings, prospect: RunEstimate) -> list[Row]:
    """The speed, and how long an epoch and the whole run take at that speed."""
    time, texts = prospect.time, prospect.texts
    if time is None:
        return [Row("speed", one_line(prospect.time_words), "dim" if prospect.time_words == TIMING else "bad")]
    speed = settings.batch_size * window_length(settings) / time.step_s
    rows = [Row("speed", f"{short(speed)} tokens/s"), Row("a step", step_time(time.step_s))]
    if texts is None:
        return rows
    length = estimate_run_length(settings, texts, time)
    if length.epoch_steps:
        rows.append(Row("an epoch", duration(length.epoch_s)))
    return [
        *rows,
        Row("all of it", f"up to {duration(length.max_s)}"),
        Row(DETAIL, f"{whole(length.max_steps)} steps", "dim"),
    ]


def step_time(seconds: float) -> str:
    """0.0523 -> 52 ms, 8.3 -> 8.3 s."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)
