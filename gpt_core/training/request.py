"""Run requests: everything that determines how a run starts, resolved once for the command line, the app and library.

`resolve_request` turns requested settings into a `RunRequest`; `gpt_core.training.setup.open_run` turns
that into a trainer. On a resume the checkpoint's settings are the base: requested settings override them, a limit that
the run has reached is raised (`raised_limits`), and checkpoints are saved in the folder that the checkpoint is in.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.resolve import Overrides
from gpt_core.config.settings import MAX_COUNT, Settings
from gpt_core.config.validation import checked
from gpt_core.errors import CheckpointError, ConfigError, CorpusError, ResumeTextError
from gpt_core.formats.checkpoint import Checkpoint, CheckpointInfo, read_checkpoint
from gpt_core.text.source import text_source
from gpt_core.training.fine_tuning import resolve_new
from gpt_core.training.gradient_sum import micro_batch_for

Newest = Literal["newest"]
"""The newest valid checkpoint of the models folder."""


class LoadedCheckpoint:
    """A checkpoint that was read before its run is opened. It can be taken once: the run changes its tensors."""

    def __init__(self, checkpoint: Checkpoint | None = None) -> None:
        self._checkpoint = checkpoint

    @property
    def is_available(self) -> bool:
        """True until the checkpoint is taken."""
        return self._checkpoint is not None

    def take(self) -> Checkpoint | None:
        """Return the checkpoint and drop the reference to it; None if there is none, or it was taken."""
        checkpoint, self._checkpoint = self._checkpoint, None
        return checkpoint


@dataclass(frozen=True)
class RunRequest:
    """A requested run.

    Attributes:
        settings: Settings of the run; where `as_saved` applies, only `threads` and `models_dir` are used.
        preset_name: Preset that the settings are based on, "" if unknown.
        resume: Checkpoint to resume, "newest" for the newest valid one in `models_dir`, None for a new run.
        as_saved: Resume with the settings that are saved in the checkpoint. Always so for "newest".
        changes: Settings that override the saved ones, and those of `settings`, where `as_saved` applies.
        overwrite: Replace the checkpoints of another run in the folder.
        passed_over: One line per unusable checkpoint that is newer than `resume`; the run reports them as warnings.
        raised: One line per limit that the run to resume had reached and that was raised for it; also warnings.
        model_reason: Why the time budget has led to the model and its settings, "" if it has not.
        loaded: The checkpoint that was read from `resume`, so that it is read once.
    """

    settings: Settings
    preset_name: str = ""
    resume: Path | Newest | None = None
    as_saved: bool = False
    changes: Mapping[str, object] = field(default_factory=dict)
    overwrite: bool = False
    passed_over: tuple[str, ...] = ()
    raised: tuple[str, ...] = ()
    model_reason: str = ""
    loaded: LoadedCheckpoint = field(default_factory=LoadedCheckpoint, compare=False, repr=False)

    def with_changes(self, **changes: object) -> RunRequest:
        """Return the request with other values of some settings, also where `as_saved` applies."""
        settings = msgspec.structs.replace(self.settings, **changes)
        return replace(self, settings=settings, changes={**self.changes, **changes})

    def located(self) -> RunRequest:
        """Return the request with the checkpoint to resume, read and verified, and the settings to use.

        Raises:
            GptError: As `resolve_request`.
        """
        if self.resume is None or self.loaded.is_available:
            return self
        if self.as_saved or self.resume == "newest":
            here = {"threads": self.settings.threads, "models_dir": self.settings.models_dir}
            overrides = Overrides(None, (("request", here | dict(self.changes)),))
            return resolve_request(overrides, resume=self.resume, overwrite=self.overwrite)
        checkpoint, _ = load_checkpoint(self.resume, Path(self.settings.models_dir))
        return replace(self, loaded=LoadedCheckpoint(checkpoint))


def resolve_request(
    overrides: Overrides, *, resume: Path | Newest | None = None, overwrite: bool = False
) -> RunRequest:
    """Apply requested settings to a preset, or to those of the checkpoint to resume.

    Args:
        overrides: The requested settings.
        resume: Checkpoint to resume, "newest" for the newest valid one of the models folder, None for a new run.
        overwrite: Replace the checkpoints of another run in the folder.

    Raises:
        ConfigError: Settings contradict each other.
        CheckpointError: There is no such checkpoint to resume or to start from, or it is damaged.
        CorpusError: A requested text is not a readable file.
    """
    checkpoint = None
    if resume is None:
        resolved = resolve_new(overrides)
        request = RunRequest(resolved.settings, resolved.preset, overwrite=overwrite)
    else:
        checkpoint, passed_over = load_checkpoint(resume, Path(str(overrides.value("models_dir"))))
        assert checkpoint.path is not None
        folder = str(checkpoint.path.parent)
        checked("models_dir", folder, str(checkpoint.path))
        base = msgspec.structs.replace(checkpoint.settings, models_dir=folder, **raised_limits(checkpoint))
        resolved = overrides.apply_to(base, checkpoint.preset)
        require_limits(resolved.settings, checkpoint)
        request = RunRequest(
            resolved.settings, resolved.preset, checkpoint.path, overwrite=overwrite, passed_over=passed_over,
            loaded=LoadedCheckpoint(checkpoint),
            raised=raised_lines(checkpoint, resolved.settings, requested=overrides.values.keys()),
        )  # fmt: skip
    for name in ("train_file", "eval_file"):
        if names := getattr(request.settings, name):
            try:
                text_source(names)
            except CorpusError as error:
                error.setting = name
                raise text_error(error, request.settings, checkpoint) from None
    return request


def with_micro_batches(settings: Settings, ranks: int) -> Settings:
    """Return settings with at least as many micro-batches per step as ranks, unless there are fewer sequences."""
    if settings.micro_batches < ranks <= settings.batch_size:
        return msgspec.structs.replace(settings, micro_batch_size=micro_batch_for(ranks, settings.batch_size))
    return settings


def text_error(error: CorpusError, settings: Settings, checkpoint: Checkpoint | None) -> CorpusError:
    """Return the error for a text of a run; on a resume, a text that was not named now is that of the run."""
    if checkpoint is None:
        return error
    if getattr(settings, error.setting) == getattr(checkpoint.settings, error.setting):
        remedy = f"name it with --{error.setting.replace('_', '-')}"
        error = text_of_run_error(error, str(checkpoint.path), remedy)
    return ResumeTextError(error.reason, error.remedy, error.setting)


def text_of_run_error(error: CorpusError, name: str, remedy: str) -> CorpusError:
    """Return the error for a text that the run of a checkpoint names, with `remedy` where the text has moved."""
    explained = CorpusError(
        f"{error.reason}; it is the text of the run of {name}",
        f": run the command in the folder of that run, or {remedy}",
    )
    explained.setting = error.setting
    return explained


def load_checkpoint(resume: Path | Newest, models_dir: Path) -> tuple[Checkpoint, tuple[str, ...]]:
    """Read and verify the checkpoint to resume; also return a line per unusable one that was skipped.

    Raises:
        CheckpointError: The file is missing, damaged or without optimizer state, or "newest" finds no valid checkpoint.
        ConfigError: `models_dir` is a file.
    """
    if isinstance(resume, Path):
        checkpoint = read_checkpoint(resume)
        if checkpoint.optimizer_state is None:
            raise CheckpointError(
                f"{resume} holds weights only, without the optimizer state that a resume needs; start a new run with "
                f"these weights: set init_from={shlex.quote(str(resume))}"
            )
        return checkpoint, ()
    found = CheckpointStore(models_dir).load_for_resume()
    if found.checkpoint is None:
        reasons = "; ".join(unusable.error for unusable in found.unusable)
        raise CheckpointError(
            f"nothing to resume in {models_dir}: no valid checkpoint{f' ({reasons})' if reasons else ''}",
            "; name one with --resume FILE, choose another folder with --models-dir, or start a new run",
        )
    return found.checkpoint, tuple(unusable.error for unusable in found.unusable)


def require_limits(settings: Settings, checkpoint: Checkpoint) -> None:
    """Raise ConfigError if a limit is below what the run of a checkpoint has done; a limit that is reached is valid."""
    epoch = 0 if settings.overfit_tiny else checkpoint.state.epoch  # a self-test has another limit
    for name, done in (("max_steps", checkpoint.state.step), ("max_epochs", epoch)):
        limit = getattr(settings, name)
        if 0 < limit < done:
            raise ConfigError(f"{name}: got {limit}, expected at least {done}, which {checkpoint.path} has reached")


def raised_lines(checkpoint: Checkpoint, settings: Settings, *, requested: Set[str]) -> tuple[str, ...]:
    """Return a line per limit that the run had reached and that `settings` have as `raised_limits` gives it.

    A limit that is one of the `requested` settings needs no line.
    """
    lines = []
    for name, limit in raised_limits(checkpoint).items():
        reached = getattr(checkpoint.settings, name)
        if name not in requested and getattr(settings, name) == limit:
            what = f"{name} is now {limit:.15g}" if limit else "it is lifted"
            end = f"minutes={settings.minutes:g}" if settings.minutes else f"max_epochs={settings.max_epochs}"
            otherwise = "" if limit else f"; without one, the run continues to {end}"
            lines.append(f"the run had reached {name}={reached:g}: {what}; set {name}=N for another limit{otherwise}")
    return tuple(lines)


def raised_limits(checkpoint: Checkpoint | CheckpointInfo) -> dict[str, int | float]:
    """Return the limits that the run of a checkpoint has reached, with the values that a resume gives them.

    The limits on steps and on the loss are lifted (0). Epochs and the steps of a self-test always have a limit: it
    becomes the number so far plus the limit that was reached, as does a time budget, so that a cooldown has an end.
    A run that was interrupted during its last evaluation, or between that and its end, has not ended: it is resumed
    with its limits, and completed.
    """
    settings, state = checkpoint.settings, checkpoint.state
    raised: dict[str, int | float] = {}
    if state.evaluation_due or (state.scores is not None and not state.finished):
        return raised
    if 0 < settings.max_steps <= state.step:
        raised["max_steps"] = 0
    if state.plan is not None and state.plan.is_over:
        # the last step and evaluations may have taken longer than the budget: rounded up, it is more than was used
        used = math.ceil(state.elapsed_s / 6) / 10
        raised["minutes"] = settings.minutes + (settings.minutes if 120 * settings.minutes > state.elapsed_s else used)
    if settings.overfit_tiny:
        if settings.overfit_steps <= state.step:
            raised["overfit_steps"] = min(state.step + settings.overfit_steps, MAX_COUNT)
    elif settings.max_epochs <= state.epoch:
        raised["max_epochs"] = min(state.epoch + settings.max_epochs, MAX_COUNT)
    if state.finished == "epsilon":
        raised["epsilon"] = 0.0
    return raised
