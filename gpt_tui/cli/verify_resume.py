"""`gpt-tui verify-resume`: check that a stopped and resumed run equals an uninterrupted one, bit for bit.

Both runs train in temporary folders: the first is uninterrupted, the second is stopped at `--cut` and is resumed by a
new process. Then their checkpoints and logs are compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.resolve import Resolved
from gpt_core.config.settings import Settings
from gpt_core.config.toml_file import as_toml
from gpt_core.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, GptError, InputError
from gpt_core.formats.checkpoint import Checkpoint, TrainingState, peek_checkpoint, read_checkpoint
from gpt_core.formats.checkpoint_header import saved_state
from gpt_core.model.parameters import Parameters
from gpt_core.progress import Progress
from gpt_core.run_files import METRICS
from gpt_core.training.events import EvalCompleted, StepCompleted, UpdateSkipped
from gpt_core.training.metrics_log import read_metrics
from gpt_core.training.precision import with_precision
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_tui.cli.options import refuse_run_length, report_text_note, resolve_settings
from gpt_tui.headless.progress_line import ProgressLine
from gpt_tui.shared.formatting import counted, integer
from gpt_tui.shared.sanitize import one_line

OF_THE_PROCESS = {"run_id", "elapsed_s"}  # different in any two runs
OF_THE_DATA = {"step", "epoch", "window", "tokens"}


class Row(msgspec.Struct, frozen=True):
    """Result of one comparison; `detail` is the amount compared or the first difference."""

    what: str
    equal: bool
    detail: str


def verify_resume(options: Namespace) -> int:
    """Run `gpt-tui verify-resume`: print a table of comparisons; the exit code is 0 if all are equal."""
    check_options(options)
    resolved = resolve_settings(options)
    cut = end_of_round(resolved.settings, options.cut, options.steps)
    report_text_note(resolved.settings)  # and errors of the texts, here rather than from a subprocess
    with TemporaryDirectory(prefix="gpt-tui-verify-resume-") as name, ProgressLine() as waiting:
        rows = compared_runs(Path(name), resolved, options.steps, cut, waiting)
    equal = all(row.equal for row in rows)
    if options.json:
        table = [msgspec.to_builtins(row) for row in rows]
        print(json.dumps({"equal": equal, "steps": options.steps, "cut": cut, "rows": table}))
        return EXIT_OK if equal else EXIT_FAILED
    width = max(len(row.what) for row in rows)
    for row in rows:
        print(f"{row.what:<{width}}  {'equal' if row.equal else 'DIFFERENT':<9}  {one_line(row.detail)}")
    steps, stop = counted(options.steps, "step"), integer(cut)
    verdict = "equals" if equal else "DIFFERS from"
    print(f"\na run of {steps}, stopped at step {stop} and resumed, {verdict} an uninterrupted run bit for bit")
    return EXIT_OK if equal else EXIT_FAILED


def check_options(options: Namespace) -> None:
    """Raise InputError for options that contradict each other."""
    if not 1 <= options.cut < options.steps:
        raise InputError(f"got --steps {options.steps} and --cut {options.cut}, expected 1 <= --cut < --steps")
    refuse_run_length(options, "verify-resume trains in temporary folders")


def end_of_round(settings: Settings, cut: int, steps: int) -> int:
    """Return the step at which a run stops if that is requested at step `cut`: the end of a round of local steps.

    Raises:
        InputError: It is not before the last step.
    """
    every = settings.sync_every_steps or 1
    if (end := -(-cut // every) * every) >= steps:
        raise InputError(
            f"got --steps {steps} and --cut {cut} with sync_every_steps {every}, which stops at step {end}: use more "
            "--steps, or a smaller sync_every_steps"
        )
    return end


def compared_runs(folder: Path, resolved: Resolved, steps: int, cut: int, progress: Progress) -> list[Row]:
    """Train both runs in `folder` and compare them. Raises GptError if a run fails."""
    settings, _ = with_precision(msgspec.structs.replace(resolved.settings, max_steps=steps, minutes=0.0))  # of both
    resolved = resolved._replace(settings=settings)
    config = folder / "settings.toml"
    config.write_text(as_toml(*resolved), encoding="utf-8")
    uninterrupted, resumed = folder / "uninterrupted", folder / "resumed"
    new_run = ["--config", str(config)]
    latest = CheckpointStore(resumed).path_of("latest")
    progress(f"{steps} steps, uninterrupted", 0.0)
    train([*new_run, "--models-dir", str(uninterrupted)])
    check_reached(uninterrupted, steps)
    progress(f"{cut} steps", 1 / 3)
    train_and_stop(msgspec.structs.replace(settings, models_dir=str(resumed)), resolved.preset, cut)
    check_reached(resumed, cut)
    progress(f"resumed, to step {steps}", 2 / 3)
    train(["--resume", str(latest), "--models-dir", str(resumed)])
    check_reached(resumed, steps)
    return compared(uninterrupted, resumed)


def check_reached(models_dir: Path, step: int) -> None:
    """Raise InputError if the run in a folder ended before a step."""
    reached = peek_checkpoint(CheckpointStore(models_dir).path_of("latest")).state
    if reached.step < step:
        raise InputError(
            f"the run ended at step {reached.step} of {step} ({reached.finished}); use fewer "
            "--steps, or settings for a longer run"
        )


def train_and_stop(settings: Settings, preset: str, step: int) -> None:
    """Train a new run, and stop it after a step: the schedule may depend on `max_steps`, which is that of both runs."""
    trainer = open_run(RunRequest(settings, preset))
    for _ in trainer.events():
        if trainer.step >= step:
            trainer.requests.stop()


def train(arguments: Sequence[str]) -> None:
    """Run `gpt-tui --train-only` with the given arguments in a new process. Raises its error."""
    # the log holds what standard output would
    run = subprocess.run(
        [sys.executable, "-m", "gpt_tui", "--train-only", "--json", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    if run.returncode:
        lines = run.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {run.returncode}"]
        kind = InputError if run.returncode == EXIT_BAD_INPUT else GptError
        raise kind(f"a run failed: {lines[-1].removeprefix('gpt-tui: ')}")


def compared(uninterrupted: Path, resumed: Path) -> list[Row]:
    """Compare the checkpoints and logs of two runs. Raises CheckpointError."""
    left, right = (read_checkpoint(CheckpointStore(folder).path_of("latest")) for folder in (uninterrupted, resumed))
    return [
        compared_logs(
            "losses", uninterrupted, resumed, (StepCompleted, UpdateSkipped), ("step", "loss", "grad_norm", "lr")
        ),
        compared_logs("evaluations", uninterrupted, resumed, (EvalCompleted,), ("step", "loss", "accuracy")),
        *compared_checkpoints(left, right),
    ]


def compared_checkpoints(left: Checkpoint, right: Checkpoint) -> list[Row]:
    """Compare weights, optimizer state and training state of two checkpoints."""
    tensors = [compared_tensors("weights", left.parameters, right.parameters)]
    for name in saved_state(left.settings):
        if left.optimizer_state is None or right.optimizer_state is None:
            tensors.append(Row(name, left.optimizer_state is right.optimizer_state, "not saved"))
        else:
            tensors.append(compared_tensors(name, left.optimizer_state[name], right.optimizer_state[name]))
    others = set(TrainingState.__struct_fields__) - OF_THE_PROCESS - OF_THE_DATA
    return [
        *tensors,
        compared_fields("data position", left.state, right.state, OF_THE_DATA),
        compared_fields("epoch and best score", left.state, right.state, others),
    ]


def compared_tensors(what: str, left: Parameters, right: Parameters) -> Row:
    """Compare the bits of all values; -0.0 and 0.0 differ."""
    for name, tensor in left.tensors.items():
        differ = np.count_nonzero(tensor.view(np.uint32) != right[name].view(np.uint32))
        if differ:
            return Row(what, False, f"{name}: {integer(int(differ))} of {integer(tensor.size)} values differ")
    return Row(what, True, f"{integer(left.flat.size)} values")


def compared_fields(what: str, left: TrainingState, right: TrainingState, names: set[str]) -> Row:
    """Compare the named fields of two states."""
    ordered = [name for name in TrainingState.__struct_fields__ if name in names]
    for name in ordered:
        values = getattr(left, name), getattr(right, name)
        if values[0] != values[1]:
            return Row(what, False, f"{name}: {values[0]!r} and {values[1]!r}")
    numbers = {name: value for name in ordered if isinstance(value := getattr(left, name), int | float)}
    return Row(what, True, ", ".join(f"{name} {number:.10g}" for name, number in numbers.items()))


def compared_logs(what: str, uninterrupted: Path, resumed: Path, kinds: tuple[type, ...], names: Sequence[str]) -> Row:
    """Compare the named fields of the logged events of some kinds."""
    both = [
        [
            {name: getattr(event, name, None) for name in names}
            for event in read_metrics(folder / METRICS)
            if isinstance(event, kinds)
        ]
        for folder in (uninterrupted, resumed)
    ]
    for left, right in zip(*both, strict=False):
        if left != right:
            return Row(what, False, f"step {left['step']}: loss {left['loss']!r} and {right['loss']!r}")
    if len(both[0]) != len(both[1]):
        return Row(what, False, f"{len(both[0])} and {len(both[1])} events")
    return Row(what, True, f"{integer(len(both[0]))} events" if both[0] else "no events")
