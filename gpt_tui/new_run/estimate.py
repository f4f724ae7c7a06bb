"""Estimate of a run as rows of text for the set-up screen. Does not import Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gpt_core.bench.estimate import (
    CorpusStats,
    MemoryEstimate,
    RunLength,
    StepTime,
    checkpoint_tensor_bytes,
    count_epoch_steps,
    estimate_memory,
    estimate_run_length,
    step_tokens,
)
from gpt_core.bench.scaling import BYTES, values_per_link
from gpt_core.config.settings import Settings
from gpt_core.model.memory import weight_bytes
from gpt_core.model.parameters import parameter_count, trained_count
from gpt_core.optim import optimizer_type
from gpt_core.optim.schedule import ends_within_warmup
from gpt_core.training.setup import window_length
from gpt_tui.session.start_text import hosts_text
from gpt_tui.shared.formatting import counted, duration, estimated_duration, integer, short, size
from gpt_tui.shared.rows import RULE, Row
from gpt_tui.shared.sanitize import one_line

TIMING = "timing a few steps …"
READING = "reading the text …"
TEXT_SETTINGS = (
    "train_file", "eval_file", "synthetic_text", "text_field", "encoding", "val_frac", "hold_out", "allow_binary",
    "document",
    "tokenizer", "vocab_size", "init_from",
)  # fmt: skip
MAX_WORDS = 60  # characters of the beginning of the text
REASON, DETAIL = "  ", " "
PRECISION, DOCUMENTS, WORDS, MORE_WORDS, RANKS = "precision", "documents", "begins", "   ", "ranks"
# labels of the rows that are left out of a low panel, in this order
OPTIONAL = (REASON, DETAIL, RANKS, PRECISION, DOCUMENTS, MORE_WORDS, WORDS)


class RunEstimate(NamedTuple):
    """Estimate of a run with the settings of the form.

    Attributes:
        settings: Settings of the run; None while a field is invalid.
        threads: Number of threads.
        free_bytes: Available memory; None if unknown.
        texts: Statistics of the texts; None until known.
        texts_problem: Why `texts` is None.
        time: Time per step; None until measured.
        time_problem: Why `time` is None.
        hosts: Host of each rank that trains; empty for one process.
        existing_run: The run that this one would replace, "" for none.
        unusable: Setting that names a text or checkpoint which cannot be used, "" for none.
    """

    settings: Settings | None = None
    threads: int = 1
    free_bytes: int | None = None
    texts: CorpusStats | None = None
    texts_problem: str = READING
    time: StepTime | None = None
    time_problem: str = TIMING
    hosts: tuple[str, ...] = ()
    existing_run: str = ""
    unusable: str = ""

    @property
    def problems(self) -> dict[str, str]:
        """Error message of the setting that names a text or checkpoint which cannot be used."""
        return {self.unusable: f"{self.unusable}: {self.texts_problem}"} if self.unusable else {}


def estimate_after(before: RunEstimate, settings: Settings) -> RunEstimate:
    """Return what is known of a run from the estimate of another one, which may have the same texts or folder."""
    estimate = RunEstimate(settings)
    if before.settings is None:
        return estimate
    if all(getattr(before.settings, name) == getattr(settings, name) for name in TEXT_SETTINGS):
        estimate = estimate._replace(texts=before.texts, texts_problem=before.texts_problem, unusable=before.unusable)
    if before.settings.models_dir == settings.models_dir:
        estimate = estimate._replace(existing_run=before.existing_run)
    return estimate


class MemoryHere(NamedTuple):
    """Memory of a run on this computer: that of one rank, and how many ranks are here."""

    rank: MemoryEstimate
    ranks: int

    @property
    def total(self) -> int:
        """Bytes of all ranks of this computer."""
        return self.ranks * self.rank.total


def memory_here(settings: Settings, threads: int, texts: CorpusStats | None, hosts: Sequence[str]) -> MemoryHere:
    """Return the memory that a run needs on this computer, which is the first one of `hosts`."""
    memory = estimate_memory(settings, threads, texts, max(1, len(hosts)))
    return MemoryHere(memory, hosts.count(hosts[0]) if hosts else 1)


def memory_text(memory: MemoryHere, free_bytes: int | None) -> str:
    """Return the memory that a run needs, and the available one: `2 × 31 MB, 4 GB free` for two ranks here."""
    needed = size(memory.rank.total)
    if memory.ranks > 1:
        needed = f"{memory.ranks} × {needed}"
    return f"{needed}, {size(free_bytes)} free" if free_bytes is not None else f"about {needed}"


def memory_problem(needed_bytes: int, free_bytes: int | None) -> str:
    """Return why a model cannot be timed, "" if it can."""
    if free_bytes is None or needed_bytes <= free_bytes:
        return ""
    return f"not timed: needs {size(needed_bytes)}, {size(free_bytes)} free"


def existing_run_note(models_dir: str, existing_run: str) -> str:
    """Return a note that starting asks for confirmation because of an existing run, "" without one."""
    if not existing_run:
        return ""
    return f"• {one_line(models_dir)}/ has {existing_run}. Start asks first; or enter another models_dir."


def ready_note(problems: int, *, asks: bool) -> str:
    """Return the line that says if the run can start."""
    if problems:
        return f"✗ {counted(problems, 'invalid field')}"
    return "• ready; Start asks first" if asks else "✓ ready to start"


def estimate_rows(estimate: RunEstimate) -> list[Row]:
    """Return the rows of the estimate."""
    settings = estimate.settings
    if settings is None:
        return [Row("Fix the fields marked ✗.", "")]
    return [
        *size_rows(settings, estimate),
        RULE,
        *text_rows(settings, estimate),
        RULE,
        *time_rows(settings, estimate),
    ]


def size_rows(settings: Settings, estimate: RunEstimate) -> list[Row]:
    """Return parameters, memory and size of a checkpoint."""
    memory, free = memory_here(settings, estimate.threads, estimate.texts, estimate.hosts), estimate.free_bytes
    is_too_much = free is not None and memory.total > free
    text = memory_text(memory, free)
    trained = trained_count(settings.shape, settings.freeze)
    return [
        Row("parameters", integer(parameter_count(settings.shape))),
        *([Row("trained", integer(trained))] if settings.freeze else []),
        Row("memory", f"{'✗ ' if is_too_much else ''}{text}", "bad" if is_too_much else "plain"),
        Row(DETAIL, f"{size(memory.rank.state)} model state", "dim"),
        Row(DETAIL, f"{size(memory.rank.activations)} activations", "dim"),
        Row("checkpoint", size(checkpoint_tensor_bytes(settings))),
        *ranks_rows(settings, estimate.hosts),
    ]


def ranks_rows(settings: Settings, hosts: Sequence[str]) -> list[Row]:
    """Return the ranks of the run, or how many it may have under mpiexec, and the bytes of a step.

    A run on one process whose steps are one micro-batch has no rows: it can have only one rank.
    """
    micro_batches = settings.micro_batches
    if micro_batches == 1:
        return []
    return [
        Row(RANKS, hosts_text(hosts) if hosts else f"up to {integer(micro_batches)}, by mpiexec"),
        Row(
            DETAIL,
            f"{size(sent_per_step(settings, len(hosts) or 2))} sent per step{'' if hosts else ' with 2 ranks'}",
            "dim",
        ),
    ]


def sent_per_step(settings: Settings, ranks: int) -> float:
    """Return the bytes that the busiest rank sends per step; with local steps, those of a round per step of it."""
    trained, bytes_per_value = trained_count(settings.shape, settings.freeze), BYTES[settings.exchange]
    if not settings.sync_every_steps:
        return values_per_link(trained, ranks, settings.micro_batches) * bytes_per_value
    weights = weight_bytes(settings.shape)
    state = optimizer_type(settings.optimizer).state_bytes(settings.shape) + (weights if settings.ema else 0)
    per_value = bytes_per_value + BYTES["float32"] * state / weights
    return values_per_link(trained, ranks, ranks) * per_value / settings.sync_every_steps


def text_rows(settings: Settings, estimate: RunEstimate) -> list[Row]:
    """Return the texts and the length of an epoch."""
    texts = estimate.texts
    if texts is None:
        problem = estimate.texts_problem
        return [Row("text", one_line(problem), "dim" if problem == READING else "bad")]
    files = f", {integer(texts.files)} files" if texts.files > 1 else ""
    rows = [
        Row("text", f"{one_line(texts.train_title)}{files}, {size(texts.train_bytes)}"),
        *([Row(WORDS, one_line(texts.words, MAX_WORDS))] if texts.words else []),
        *([Row("note", one_line(texts.note, 300), "bad")] if texts.note else []),
        Row("eval text", one_line(texts.eval_title) if texts.eval_title else "held out of it"),
    ]
    if settings.overfit_tiny:
        return [*rows, Row("lines", f"the first {integer(settings.overfit_lines)}")]
    steps, about = count_epoch_steps(settings, texts.train_tokens), "" if texts.counted else "about "
    if texts.documents:
        roughly = "" if texts.documents_counted else "about "
        rows.append(Row(DOCUMENTS, f"{roughly}{short(texts.documents)}"))
        rows.append(Row(DETAIL, f"{about}{texts.bytes_per_token:.2f} bytes per token", "dim"))
    return [
        *rows,
        Row("epoch", f"{about}{short(texts.train_tokens)} tokens"),
        Row("", f"{about}{counted(steps, 'step')}"),
    ]


def time_rows(settings: Settings, estimate: RunEstimate) -> list[Row]:
    """Return number format and throughput, and the time per step, per epoch and in total."""
    time, texts = estimate.time, estimate.texts
    if time is None:
        problem = estimate.time_problem
        return [Row("throughput", one_line(problem), "dim" if problem == TIMING else "bad")]
    if texts is None or settings.overfit_tiny:
        tokens_per_s = settings.batch_size * window_length(settings) / time.step_s
    else:
        tokens_per_s = step_tokens(settings, texts.train_tokens) / time.step_s
    products, reason = time.precision
    rows = [
        Row(PRECISION, f"{products} products"),
        *([Row(REASON, reason, "dim")] if reason else []),
        Row("throughput", f"{short(tokens_per_s)} tokens/s"),
        *([Row(DETAIL, "of rank 0 alone; the ranks share a step", "dim")] if estimate.hosts else []),
        Row("per step", step_time(time.step_s)),
    ]
    if texts is None:
        return rows
    length = estimate_run_length(settings, texts, time)
    if settings.minutes and not settings.overfit_tiny:
        rows += budget_rows(settings, texts, length)
    if length.epoch_steps:
        rows.append(Row("per epoch", estimated_duration(length.epoch_s)))
    return [
        *rows,
        Row("total", f"up to {estimated_duration(length.max_s)}"),
        Row(DETAIL, counted(length.max_steps, "step"), "dim"),
        *([Row(DETAIL, "fewer than warmup_steps", "bad")] if ends_within_warmup(settings, length.max_steps) else []),
        *([Row(DETAIL, "plus a final evaluation", "dim")] if settings.minutes and not settings.overfit_tiny else []),
    ]


def budget_rows(settings: Settings, texts: CorpusStats, length: RunLength) -> list[Row]:
    """Return what a time budget is enough for: tokens, passes over the text, and tokens per parameter."""
    tokens = length.max_steps * step_tokens(settings, texts.train_tokens)
    passes = tokens / max(1, texts.train_tokens)
    per_parameter = tokens / parameter_count(settings.shape)
    return [
        Row("budget", f"{short(tokens)} tokens, {short(passes)} passes"),
        Row(DETAIL, "evaluations included", "dim"),
        Row(DETAIL, f"{short(per_parameter)} tokens per parameter", "dim"),
    ]


def step_time(seconds: float) -> str:
    """Format the time of a step: 0.0523 -> 52.3 ms, 8.3 -> 8.3 s."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
