"""`gpt-tui race`: train short runs that differ in a few settings, with paired seeds, and compare their scores.

The runs are in one folder, each in its own subfolder, with `race.json`, which holds the settings of the cases. The same
command continues an interrupted race: finished runs are not repeated, and an interrupted run is resumed.
"""

from __future__ import annotations

import gc
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gpt_core import files
from gpt_core.bench.race import (
    Case,
    CaseResult,
    Curve,
    Difference,
    curve_of,
    events_in_race,
    race_cases,
    race_results,
)
from gpt_core.checkpoints.store import CheckpointStore, resume_candidates
from gpt_core.config.resolve import Overrides
from gpt_core.config.settings import Settings
from gpt_core.config.validation import checked
from gpt_core.errors import EXIT_OK, ConfigError, InputError
from gpt_core.progress import Progress, ignore_progress
from gpt_core.run_files import METRICS, RACE
from gpt_core.text.reader import text_sha256
from gpt_core.training.events import AnyEvent
from gpt_core.training.fine_tuning import start_sha256
from gpt_core.training.metrics_log import read_metrics
from gpt_core.training.request import LoadedCheckpoint, RunRequest, load_checkpoint
from gpt_core.training.setup import text_sources
from gpt_tui.cli.options import is_typed, requested_settings
from gpt_tui.headless.progress_line import ProgressLine
from gpt_tui.headless.runner import follow, open_trainer
from gpt_tui.headless.signals import RunSignals
from gpt_tui.session.run_preview import shown_path
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.formatting import counted, integer, short
from gpt_tui.shared.sanitize import one_line, valid_utf8

FOLDER = "race"
NO_SCORE = "–"
MAX_SEEDS = 1000
MAX_MANIFEST_BYTES = 1 << 24


class Manifest(msgspec.Struct, frozen=True):
    """Contents of `race.json`.

    Attributes:
        requested: What was requested, but for the number of seeds, which may grow.
        cases: The cases, the baseline first.
        texts: Digests of the training text, of a separate eval text, and of the checkpoints that runs start from; empty
            in folders of earlier versions.
    """

    requested: dict[str, Any]
    cases: list[Case]
    texts: list[str] = []


class RaceRun(NamedTuple):
    """One run of a race."""

    case: Case
    seed: int
    folder: Path

    @property
    def settings(self) -> Settings:
        """Settings of the run."""
        return msgspec.structs.replace(self.case.settings, seed=self.seed, models_dir=str(self.folder))

    def curve(self) -> Curve:
        """Return the scores in its log. Raises ConfigError if it cannot be read, or the run has had other limits."""
        return curve_of(events_in_race(read_metrics(self.folder / METRICS), self.settings))


class RaceReporter:
    """Reporter of one run of a race on standard error: a progress line on a terminal, else a line when it begins."""

    def __init__(self, what: str) -> None:
        self._what, self._line = what, ProgressLine()
        if not self._line.is_shown:
            print(what, file=sys.stderr, flush=True)

    def preparing(self, stage: str, share: float) -> None:
        """Show the progress of the setup."""
        self._line(f"{self._what}: {stage}", share)

    def show(self, events: Sequence[AnyEvent], history: RunState) -> None:
        """Show the fraction of the run that is over."""
        if (share := history.progress) is not None:
            self._line(self._what, share)

    def close(self) -> None:
        """Clear the line."""
        self._line.__exit__(None, None, None)


def race(options: Namespace) -> int:
    """Run `gpt-tui race`: train what is missing, and print a table or one JSON object."""
    overrides = requested_settings(options)
    check_options(options, overrides)
    folder = Path(str(overrides.value("models_dir")) if is_typed(overrides, "models_dir") else FOLDER)
    is_checked = not os.path.lexists(folder / RACE)  # a new race reads its texts when it begins
    started = manifest_in(folder, options, overrides)
    cases = started.cases
    first = int(str(overrides.value("seed")))
    runs = [
        RaceRun(case, seed, folder / f"{folder_name(case)},seed={seed}")
        for seed in range(first, first + options.seeds)
        for case in cases
    ]
    for number, run in enumerate(runs):
        if run.curve().is_finished:
            continue
        if not is_checked:
            check_texts(folder, started)
            is_checked = True
        if code := train(run, f"run {number + 1} of {len(runs)}"):
            command = "the same command continues the race"
            print(f"gpt-tui: stopped; {number} of {len(runs)} runs are finished; {command}", file=sys.stderr)
            return code
    report(folder, cases, runs, as_json=options.json)
    return EXIT_OK


def check_options(options: Namespace, overrides: Overrides) -> None:
    """Raise InputError for options that are missing or contradict each other."""
    minutes = overrides.value("minutes")
    if is_typed(overrides, "max_steps") or overrides.value("overfit_tiny"):
        raise InputError("--max-steps and --overfit-tiny have no effect here: use --steps or --minutes")
    if options.steps is not None and options.steps < 1:
        raise InputError(f"got --steps {options.steps}, expected at least 1")
    if not options.vary:
        length = "" if minutes or options.steps else ", and the length of each run: --minutes or --steps"
        raise InputError(f"got no --vary, expected what to compare, such as --vary weight_decay=0.1,0.3{length}")
    if bool(minutes) == (options.steps is not None):
        got = "both" if minutes else "neither"
        raise InputError(f"got {got} of --minutes and --steps, expected one: the length of each run")
    if not 1 <= options.seeds <= MAX_SEEDS:
        raise InputError(f"got --seeds {options.seeds}, expected 1 to {MAX_SEEDS}")
    checked("seed", int(str(overrides.value("seed"))) + options.seeds - 1, "--seed and --seeds")


def manifest_in(folder: Path, options: Namespace, overrides: Overrides) -> Manifest:
    """Return the manifest of the race in a folder, which is written there when it starts.

    Raises:
        ConfigError: The folder has another race, is a file, or cannot be written.
        InputError: Two cases would have one folder.
        GptError: A setting is not valid.
    """
    requested = msgspec.json.decode(
        msgspec.json.encode(
            {
                "vary": [valid_utf8(text) for text in options.vary],
                "steps": options.steps,
                "preset": overrides.preset,
                "settings": overrides.layers,
            }
        )
    )
    if problem := files.folder_problem(folder):
        raise ConfigError(f"{folder} {problem}; choose another --models-dir")
    found = read_manifest(folder)
    if found is not None:
        if found.requested != requested:
            other = " and ".join(name for name in requested if found.requested.get(name) != requested[name])
            other = other or "arguments"
            raise ConfigError(f"{folder} has another race, with other {other}; choose another folder with --models-dir")
        return found
    with ProgressLine() as waiting:
        cases = race_cases(overrides, options.vary, steps=options.steps or 0, progress=waiting)
        started = Manifest(requested, cases, digests(cases, waiting))
    if len({folder_name(case) for case in cases}) < len(cases):
        raise InputError("--vary: got two cases with the same folder (/ becomes - in its name); leave one of them out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(started), indent=1)
        files.replace_file(folder / RACE, [text])
    except OSError as error:
        reason = files.reason(error)
        raise ConfigError(f"{folder} cannot be written: {reason}; choose another --models-dir") from None
    return started


def check_texts(folder: Path, started: Manifest) -> None:
    """Raise ConfigError if a text or a checkpoint that runs start from has changed since the race in a folder began."""
    with ProgressLine() as waiting:
        if started.texts and started.texts != digests(started.cases, waiting):
            what = "the text or the file of init_from" if starts(started.cases) else "the text"
            remedy = "restore it, or start another race with --models-dir"
            raise ConfigError(f"{folder}: {what} has changed since this race began; {remedy}")


def digests(cases: Sequence[Case], progress: Progress = ignore_progress) -> list[str]:
    """Return the digests of the training text, of a separate eval text, and of the checkpoints that runs start from.

    Raises the errors of `text_sources`, and CheckpointError.
    """
    texts = [text_sha256(source, progress) for source in text_sources(cases[0].settings) if source is not None]
    return [*texts, *map(start_sha256, starts(cases))]


def starts(cases: Sequence[Case]) -> list[str]:
    """Return the checkpoints that runs of the cases start from, each once."""
    return [path for path in dict.fromkeys(case.settings.init_from for case in cases) if path]


def folder_name(case: Case) -> str:
    """Return the beginning of the names of the folders of a case."""
    return case.name.replace("/", "-").replace(" ", ",")


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a race, None if the folder has none. Raises ConfigError if it cannot be read."""
    path = folder / RACE
    try:
        with files.open_regular(path) as file:
            return msgspec.json.decode(file.read(MAX_MANIFEST_BYTES), type=Manifest)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {files.reason(error)}; choose another --models-dir") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not of a race ({one_line(str(error), 200)}); choose another --models-dir"
        ) from None


def train(run: RaceRun, which: str) -> int:
    """Train a run to its end, from its newest checkpoint if it has one; return the exit code of a signal, 0 for none.

    Raises the errors of `open_run` and of the trainer.
    """
    request = RunRequest(run.settings, overwrite=True)
    has_log = (run.folder / METRICS).exists()  # without the scores of its log, a run is trained again
    if has_log and resume_candidates(CheckpointStore(run.folder).list()):
        checkpoint, passed_over = load_checkpoint("newest", run.folder)
        request = RunRequest(
            run.settings, resume=checkpoint.path, passed_over=passed_over, loaded=LoadedCheckpoint(checkpoint)
        )
    with RunSignals() as signals, closing(RaceReporter(f"{which}, {run.case.name}, seed {run.seed}")) as reporter:
        follow(open_trainer(request, reporter, signals), request, reporter)
    gc.collect()  # a run is a few cycles of references, and as large as the next
    return signals.exit_code


# ---- result


def report(folder: Path, cases: Sequence[Case], runs: Sequence[RaceRun], *, as_json: bool) -> None:
    """Print the results of the race."""
    by_case = {
        name: [run.curve() for run in own]
        for name, own in groupby(sorted(runs, key=lambda run: cases.index(run.case)), key=lambda run: run.case.name)
    }
    results = race_results(by_case)
    settings = cases[0].settings
    seeds = sorted({run.seed for run in runs})
    part_tokens = max(curve.part_tokens for own in by_case.values() for curve in own)
    if as_json:
        found = {
            "folder": str(folder), "minutes": settings.minutes, "steps": settings.max_steps, "seeds": seeds,
            "held_out": not settings.eval_file, "part_tokens": part_tokens, "cases": results,
        }  # fmt: skip
        print(msgspec.json.encode(found).decode())
        return
    length = counted(settings.max_steps, "step")
    if settings.minutes:
        length = f"{settings.minutes:g} minute{'s' * (settings.minutes != 1)}"
    text = "the eval text" if settings.eval_file else "the held-out end of the training text"
    if part_tokens:
        text = f"{short(part_tokens)} tokens of {text}"
    print(f"{length} per run, {counted(len(seeds), 'paired seed')}: bits per byte of {text}, lower is better")
    lines = table(results)
    print("\n".join(lines))
    if any(NO_SCORE in line.split() for line in lines):
        print(f"{NO_SCORE}: no evaluation, or none up to the time or tokens that both runs of a pair reached")
    if any(" ± " in line for line in lines):
        print("± is the standard error of the mean of the paired differences")
    print(f"time and tokens/s are of the training steps, without evaluations; runs in {one_line(shown_path(folder))}/")


def table(results: Sequence[CaseResult]) -> list[str]:
    """Return the lines of the table."""
    width = max(len("case"), *(len(one_line(result.name)) for result in results))
    lines = [f"{'case':<{width}}  {'bits/byte':>9}  {'at equal time':>18}  {'at equal tokens':>18}  {'tokens/s':>8}"]
    for result in results:
        known = [score for score in result.bits_per_byte if score is not None]
        mean = f"{sum(known) / len(known):.4f}" if known else NO_SCORE
        lines.append(
            f"{one_line(result.name):<{width}}  {mean:>9}  {difference_text(result.equal_time):>18}  "
            f"{difference_text(result.equal_tokens):>18}  {integer(round(result.tokens_per_s)):>8}"
        )
    return lines


def difference_text(found: Difference | None) -> str:
    """Return a difference: `-0.0123 ± 0.0021`; "baseline" for None."""
    if found is None:
        return "baseline"
    if found.mean is None:
        return NO_SCORE
    return f"{found.mean:+.4f}" + (f" ± {found.standard_error:.4f}" if found.standard_error is not None else "")
