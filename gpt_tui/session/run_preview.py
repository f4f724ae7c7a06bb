"""Run preview: the model, text and checkpoints of the next run, found before it starts."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

import msgspec

from gpt_core import run_files
from gpt_core.checkpoints.store import CheckpointStore, UnusableCheckpoint, chat_candidates, resume_candidates
from gpt_core.config.presets import shape_name
from gpt_core.config.settings import Settings
from gpt_core.errors import GptError
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.model.parameters import parameter_count
from gpt_core.text.reader import size_of
from gpt_core.training.events import RunStarted
from gpt_core.training.fine_tuning import check_start, peek_start
from gpt_core.training.gradient_sum import check_ranks
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import text_note, text_sources
from gpt_tui.session.run_finder import is_trained_in, log_folders
from gpt_tui.shared.formatting import integer, short
from gpt_tui.shared.sanitize import one_line

EXISTING = {
    "damaged": "a damaged checkpoint", "unusable": "a checkpoint that cannot be used here",
    "foreign": "a file that is not a gpt-tui checkpoint",
}  # fmt: skip
"""What a models folder without a valid checkpoint holds, by the fault of its files"""


class StoredCheckpoints(NamedTuple):
    """Checkpoints of a models folder that the app offers, chosen by their headers: each may still be damaged."""

    resumable: CheckpointInfo | None = None
    for_chat: CheckpointInfo | None = None


class RunPreview(NamedTuple):
    """Preview of a run.

    Attributes:
        settings: Settings of the run.
        preset_name: Preset that the settings began with, "" for none.
        train_file: Training text, relative to the working folder where that is shorter; "" if there is none.
        train_bytes: Size of its files.
        train_files: Number of its files.
        eval_file: Eval text, "" where the end of the training text is used.
        start: Header of the checkpoint that the run starts from; None for random weights, or if it is not valid.
        note: Texts under `data/` that are not used, in one line; "" for none.
        problem: Why the run could not start, in one line; "" if it can.
        stored: Checkpoints to resume, which may be in another folder, and to chat with.
        in_use: Folder of the run that would be resumed if another process did not train there; "" if none does.
        hosts: Host of each rank that trains; empty for one process.
    """

    settings: Settings
    preset_name: str
    train_file: str = ""
    train_bytes: int = 0
    train_files: int = 1
    eval_file: str = ""
    start: CheckpointInfo | None = None
    note: str = ""
    problem: str = ""
    stored: StoredCheckpoints = StoredCheckpoints()
    in_use: str = ""
    hosts: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Name of the preset with the shape of the model, "custom" if there is none."""
        return shape_name(self.settings.shape)


def read_preview(
    settings: Settings, preset_name: str, session_dir: str = "", hosts: tuple[str, ...] = ()
) -> RunPreview:
    """Find text and checkpoints of a run. Reads the headers of files, so call it in a worker thread.

    Args:
        settings: Settings of the run.
        preset_name: Preset that the settings began with.
        session_dir: Folder of the last run of this session, which is the one to resume unless another process
            trains there; "" before a run.
        hosts: Host of each rank that trains; empty for one process.
    """
    stored, in_use = stored_checkpoints(settings.models_dir), ""
    if session_dir and not is_trained_in(Path(session_dir)):
        stored = stored._replace(resumable=stored_checkpoints(session_dir).resumable)
    else:
        in_use = settings.models_dir if is_trained_in(Path(settings.models_dir)) else ""
        own = None if in_use else stored.resumable
        stored = stored._replace(resumable=newest_run(settings.models_dir, own, Path()))
    preview = RunPreview(settings, preset_name, stored=stored, in_use=in_use, hosts=hosts)
    try:
        train, evaluation = text_sources(settings)
        start = peek_start(settings.init_from) if settings.init_from else None
        if start is not None:
            check_start(settings.init_from, start.settings, msgspec.structs.asdict(settings))
        check_ranks(max(1, len(hosts)), settings.batch_size, settings.micro_batch)
        return preview._replace(
            start=start,
            train_file=shown_path(Path(train.name)),
            train_bytes=sum(map(size_of, train.files)),
            train_files=len(train.files),
            eval_file=shown_path(Path(evaluation.name)) if evaluation else "",
            note=one_line(text_note(settings, train)),
        )
    except GptError as error:
        return preview._replace(problem=one_line(error.reason))
    except OSError as error:
        return preview._replace(problem=f"{one_line(str(error.filename))} cannot be read: {error.strerror}")


def stored_checkpoints(models_dir: str) -> StoredCheckpoints:
    """Return the checkpoints to resume and to chat with. Fast: only headers are read."""
    try:
        listing = CheckpointStore(models_dir).list()
    except (GptError, OSError):
        return StoredCheckpoints()
    return StoredCheckpoints(next(iter(resume_candidates(listing)), None), next(iter(chat_candidates(listing)), None))


def newest_run(models_dir: str, own: CheckpointInfo | None, around: Path) -> CheckpointInfo | None:
    """Return the checkpoint to resume: the newest of those in and below `models_dir`, else below `around`.

    The default folder is one of those below `around`. Self-tests, runs of a race and runs in training are left out,
    except for `own`.

    Args:
        models_dir: The models folder.
        own: Checkpoint to resume in this folder itself, if there is one.
        around: The working folder.
    """
    is_default = models_dir == Settings().models_dir
    for places in ([Path(models_dir), around],) if is_default else ([Path(models_dir)], [around]):
        found = [info for folder in log_folders(places) if (info := _resumable(folder))]
        if own is not None:
            found.append(own)
        if found:
            return max(found, key=lambda info: info.saved_at)
    return None


def _resumable(folder: Path) -> CheckpointInfo | None:
    """Return the checkpoint to resume in a folder; None for a self-test, or while another process trains there.

    None also for a run of a race: longer than the others, it could not be compared with them.
    """
    if (folder.parent / run_files.RACE).is_file() or is_trained_in(folder):
        return None
    info = stored_checkpoints(str(folder)).resumable
    return None if info is None or info.settings.overfit_tiny else info


def existing_run(models_dir: str) -> str:
    """Return what a new run in this folder would replace, "" for nothing. Fast: only headers are read."""
    try:
        found = CheckpointStore(models_dir).list_named()
    except (GptError, OSError):
        return ""
    newest = next((info for info in found if isinstance(info, CheckpointInfo)), None)
    if newest is not None:
        return f"a run at step {integer(newest.step)}"
    faults = [info.fault for info in found if isinstance(info, UnusableCheckpoint)]
    return next((text for fault, text in EXISTING.items() if fault in faults), "")


def kept_files(request: RunRequest, saved_in: Set[Path] = frozenset()) -> str:
    """Return a note that a run has kept the files of an earlier one, "" if it has replaced them or there were none.

    Args:
        request: The run.
        saved_in: Folders in which it has saved checkpoints.
    """
    models_dir = request.settings.models_dir
    if not request.overwrite or Path(models_dir) in saved_in or not existing_run(models_dir):
        return ""
    return f"no checkpoint saved in {one_line(models_dir)}: the earlier run's files were kept"


def shown_path(path: Path) -> str:
    """Return a path that is safe to show, relative to the working folder where that is shorter."""
    try:
        absolute, here = str(path.absolute()), f"{Path.cwd()}/"
    except FileNotFoundError:  # the working folder was deleted
        return one_line(str(path))
    return one_line(absolute.removeprefix(here))


def model_name(preview: RunPreview) -> str:
    """Return preset and size of the model: `nano · 1.06M parameters`."""
    return named_size(preview.model, parameter_count(preview.settings.shape))


def run_name(started: RunStarted) -> str:
    """Return preset and size of the model of a run that has started."""
    return named_size("self-test" if started.kind != "train" else started.preset, started.parameters)


def named_size(name: str, parameters: int) -> str:
    """Return a name, if there is one, and a number of parameters."""
    size = f"{short(parameters)} parameters"
    return f"{name} · {size}" if name else size
