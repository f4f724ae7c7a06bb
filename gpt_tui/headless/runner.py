"""Headless training: iterates the trainer's events, reports them, and turns signals into requests.

At the end it prints a summary, the checkpoint and the next commands. After tiny overfit, on a terminal, it starts the
terminal chat, so that the memorized lines can be tried.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TextIO

import msgspec

from gpt_core.config.settings import GROUP_RATES, Settings
from gpt_core.distributed.communicator import SINGLE_PROCESS, Communicator, RankError
from gpt_core.errors import EXIT_FAILED, EXIT_OK, CheckpointError
from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.generation.generator import Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.optim.schedule import ends_within_warmup
from gpt_core.training.events import AnyEvent, CheckpointSaved, LogFailed, LossDiverged, RunFinished, StepCompleted
from gpt_core.training.joining import join_run
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_core.training.shared_runs import join_runs
from gpt_core.training.trainer import Trainer
from gpt_tui.headless.reporters import Reporter, reporter_for
from gpt_tui.headless.signals import RunSignals
from gpt_tui.headless.terminal_chat import at_terminals, converse
from gpt_tui.session.exchange_text import exchange_text
from gpt_tui.session.log_replay import with_earlier_part
from gpt_tui.session.outcome_text import divergence, ending, full_scores, log_failure, verdict
from gpt_tui.session.run_events import advance_all
from gpt_tui.session.run_preview import kept_files
from gpt_tui.session.run_state import Limits, RunState, is_unsaved
from gpt_tui.session.run_text import best_score, divergence_so_far, gain_text
from gpt_tui.shared.formatting import counted, duration, fixed, integer, nats, percent, rate
from gpt_tui.shared.interrupts import Interrupted
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.standard_streams import OutputError, can_print, say

BATCHED_S = 0.1  # steps that take less are reported together


def run_other_rank(requested: Mapping[str, object], ranks: Communicator) -> int:
    """Train on a rank other than 0 and return the exit code: 128 + signal number if a signal to it stopped the run.

    Args:
        requested: Settings that were requested for this rank.
        ranks: Ranks that train together.
    """
    with RunSignals(ranks) as signals:
        train_unreported(join_run(ranks, requested), signals)
    return signals.exit_code


def join_app(requested: Mapping[str, object], ranks: Communicator) -> int:
    """Take part in the runs that the app on rank 0 starts, until it quits. Returns the exit code of this rank.

    Args:
        requested: Settings that were requested for this rank.
        ranks: Ranks that train together.
    """
    with RunSignals(ranks) as signals:

        def take_part(trainer: Trainer) -> int:
            train_unreported(trainer, signals)
            signals.unwatch()
            return signals.exit_code

        join_runs(ranks, requested, take_part)
    return EXIT_OK


def train_unreported(trainer: Trainer, signals: RunSignals) -> None:
    """Run the trainer of a rank other than 0 to its end; its events are those that rank 0 reports."""
    signals.watch(trainer)
    with closing(trainer.events()) as events:
        for _ in events:
            pass


def run_headless(request: RunRequest, *, as_json: bool, ranks: Communicator = SINGLE_PROCESS) -> int:
    """Train and return the exit code. With several ranks, this is rank 0.

    The code is 1 if the last save failed or the run diverged, 128 + signal number if a signal stopped the run, else 0.
    Raises the errors of `open_run` and of the trainer.
    """
    with RunSignals(ranks) as signals:
        with closing(reporter_for(as_json, lambda: signals.stopped_by is not None)) as reporter:
            trainer = open_trainer(request, reporter, signals, ranks)
            for warning in (*trainer.run.warnings, *warmup_note(trainer)):
                say(sys.stderr, f"gpt-tui: {warning}")
            try:
                history = follow(trainer, request, reporter)
            except OutputError as error:  # the run was saved on the way out
                error.filename = as_saved(trainer.newest_checkpoint, trainer.step)
                raise
            except BrokenPipeError:  # as in `| head -1`
                saved = as_saved(trainer.newest_checkpoint, trainer.step)
                end = f"; the run is saved in {saved}" if saved else ""
                say(sys.stderr, f"gpt-tui: the reader of standard output closed it, so training stopped{end}")
                raise
            except RankError as error:
                raise with_last_save(error, trainer.newest_checkpoint) from None
        say_how_it_ended(history, trainer.settings, sys.stderr if as_json else sys.stdout)
    if is_unsaved(history, request.settings.models_dir):
        return EXIT_FAILED
    if signals.exit_code:
        return signals.exit_code
    if history.finished is None or history.finished.reason == "diverged":
        return EXIT_FAILED
    if history.finished.reason == "overfit_done" and not as_json:
        chat_with(trainer)
    return EXIT_OK


def saved_step(newest: Path | None) -> int | None:
    """Return the step that a checkpoint holds, None if there is none."""
    try:
        return None if newest is None else peek_checkpoint(newest).step
    except CheckpointError:
        return None


def as_saved(newest: Path | None, step: int) -> str | None:
    """Return the checkpoint of a run that has ended at a step, with the step it holds if that is another one."""
    found = saved_step(newest)
    if found is None:
        return None
    return str(newest) if found == step else f"{newest} as of step {integer(found)}"


def with_last_save(error: RankError, newest: Path | None) -> RankError:
    """Return the error of a rank that ended the run, with the checkpoint to resume if there is one."""
    if (step := saved_step(newest)) is None:
        return error
    saved = f"; {newest} holds step {integer(step)}, from which --resume resumes the run on any number of ranks"
    return RankError(f"{error}{saved}" if str(error) else "", error.exit_code)


def open_trainer(
    request: RunRequest, reporter: Reporter, signals: RunSignals, ranks: Communicator = SINGLE_PROCESS
) -> Trainer:
    """Prepare the run and direct signals to it. Raises the errors of `open_run`, and Interrupted after a signal."""
    try:
        trainer = open_run(request, reporter.preparing, ranks)
        signals.watch(trainer)
    except Interrupted:
        reporter.close()
        if note := kept_files(request):
            say(sys.stderr, f"gpt-tui: {note}")
        raise
    return trainer


def warmup_note(trainer: Trainer) -> list[str]:
    """Return a line if all epochs of a new run are fewer steps than the warm-up, as with a text of a few kilobytes."""
    settings = trainer.settings
    steps = settings.max_epochs * trainer.run.steps_per_epoch
    if settings.max_steps or trainer.step or not ends_within_warmup(settings, steps):
        return []
    return [
        f"a short run: max_epochs={settings.max_epochs} gives {counted(steps, 'step')}, fewer than "
        f"warmup_steps={settings.warmup_steps}, so the learning rate does not reach its full value; add "
        f"--set warmup_steps={max(steps // 10, 1)}, or for a longer run "
        f"--set max_epochs={settings.max_epochs * math.ceil(4 * settings.warmup_steps / steps)}"
    ]


def follow(trainer: Trainer, request: RunRequest, reporter: Reporter) -> RunState:
    """Run the trainer to its end and report its events. The run is saved on every exit from here."""
    history = with_earlier_part(RunState(limits=Limits.of(trainer.settings)), trainer.earlier_log, trainer.state)
    saved_in: set[Path] = set()
    with closing(trainer.events()) as events:
        for batch in batched(events):
            saved_in |= {Path(event.path).parent for event in batch if isinstance(event, CheckpointSaved)}
            history = advance_all(history, batch, time.monotonic())
            reporter.show(batch, history)
            for line in warnings_of(batch):
                say(sys.stderr, f"gpt-tui: {line}")
    if note := kept_files(request, saved_in):
        say(sys.stderr, f"gpt-tui: {note}")
    return history


def warnings_of(events: Sequence[AnyEvent]) -> list[str]:
    """Return a line for each event that reports divergence, or a log that cannot be written."""
    lines = []
    for event in events:
        if isinstance(event, LogFailed):
            lines.append(log_failure(event))
        elif isinstance(event, LossDiverged):
            lines.append(f"step {integer(event.step)}: {divergence(event)}")
        elif isinstance(event, RunFinished) and event.reason == "diverged":
            lines.append(f"step {integer(event.step)}: {ending(event)}")
    return lines


def batched(events: Iterator[AnyEvent]) -> Iterator[list[AnyEvent]]:
    """Group the events: steps are held for up to BATCHED_S, other events are passed on at once."""
    waiting: list[AnyEvent] = []
    shown_s = 0.0
    for event in events:
        waiting.append(event)
        if not isinstance(event, StepCompleted) or time.monotonic() - shown_s >= BATCHED_S:
            yield waiting
            waiting, shown_s = [], time.monotonic()


def say_how_it_ended(history: RunState, settings: Settings, stream: TextIO) -> None:
    """Print the result of the run, where it is saved, and the next commands, as far as the stream can print them."""
    if history.finished is None:
        return
    reached = [f"{counted(history.step, 'step')} in {duration(history.elapsed_s)}"]
    if history.last is not None:
        reached.append(f"train loss {nats(history.curve.smoothed)}")
    named_loss = None
    if (full := history.full_evaluation) is not None and full.step == history.step:
        reached.append(full_scores(full))
        named_loss = full.loss
    elif (score := history.evaluation) is not None:
        reached.append(
            f"eval loss {nats(score.loss)}, {fixed(score.bits_per_byte)} bits per byte, "
            f"accuracy {percent(score.accuracy)}"
        )
        named_loss = score.loss
    gain = gain_text(history, named_loss)
    is_last_best = history.evaluation is not None and history.evaluation.step == history.best.step
    names_best = bool(gain) and history.best_metric == "loss"
    if (best := best_score(history)) and not is_last_best and not names_best:
        reached.append(f"best eval {history.best_metric} {best} at step {integer(history.best.step)}")
    if gain:
        reached.append(gain)
    if (lines := history.lines_reproduced) is not None and lines.step == history.step:
        reached.append(f"self-test {verdict(lines)}")
    if history.exchange is not None:
        reached.append(f"exchange {exchange_text(history.exchange)}")
    if history.save_error:
        reached.append(f"NOT SAVED: {history.save_error}")
    elif history.finished.reason == "diverged":
        reached.append(f"last good checkpoint: {history.finished.good_checkpoint or 'none'}")
    elif history.saved is not None:
        reached.append(f"saved in {history.saved.path}")
    if history.finished.reason != "diverged" and (words := divergence_so_far(history)):
        reached.append(f"DIVERGED: {words}")
    how = {"stopped": "stopped", "diverged": "diverged"}.get(history.finished.reason, "finished")
    say(stream, f"{how}: " + ", ".join(reached))
    models_dir = str(Path(history.saved.path).parent) if history.saved else settings.models_dir
    if note := best_model_note(history):
        say(stream, note)
    for known in (settings, msgspec.structs.replace(settings, sample_prompt="")):
        line = f"next: {next_commands(history.finished, known, models_dir)}"
        if can_print(line, stream):
            say(stream, line)
            return


def best_model_note(history: RunState) -> str:
    """Return which model generates text after a run whose last weights are not the best ones; else ""."""
    last, best = history.evaluation, history.best.step
    if not best or last is None or last.step == best or history.saved is None or history.save_error:
        return ""
    return (
        f"generate, chat and evaluate use the best model, of step {integer(best)}; "
        f"--model {shlex.quote(history.saved.path)} is that of step {integer(history.saved.step)}"
    )


def next_commands(finished: RunFinished, settings: Settings, models_dir: str) -> str:
    """Return the commands that make sense after a run whose checkpoints are in `models_dir`."""
    folder = "" if models_dir == Settings().models_dir else f" --models-dir {shlex.quote(models_dir)}"
    if finished.reason != "diverged":
        more = f" --max-steps {2 * finished.step}" if finished.reason == "max_steps" else ""
        others = f"gpt-tui chat{folder}, or gpt-tui --train-only --resume{more}{folder}"
        if not (prompt := one_line(settings.sample_prompt)):  # a text without a word to begin with
            return others
        return f"gpt-tui generate{folder} {'-- ' * prompt.startswith('-')}{shlex.quote(prompt)}, {others}"
    good = finished.good_checkpoint
    start = f"gpt-tui --train-only --resume {shlex.quote(good)}" if good else "repeat the command with --overwrite"
    return f"{start}{folder if good else ''} {tenth_of_rates(settings)}"


def tenth_of_rates(settings: Settings) -> str:
    """Return the options for a tenth of the learning rate, or of the rate of each group where they differ."""
    if settings.learning_rate is not None:
        return f"--learning-rate {rate(settings.learning_rate / 10)}"
    return " ".join(f"--set {name}={rate(getattr(settings, name) / 10)}" for name in GROUP_RATES)


def chat_with(trainer: Trainer) -> None:
    """Start the terminal chat with the trained model if input and output are terminals."""
    if at_terminals():
        settings = trainer.settings
        generator = Generator(trainer.run.evaluated, trainer.tokenizer)
        converse(generator, Sampling.from_settings(settings), settings.sample_prompt)
