"""The checkpoints under the models folder, as the app asks for them: which to resume, which to chat with."""

from __future__ import annotations

from typing import NamedTuple

from gpt_core.checkpoints.store import CheckpointStore, DamagedCheckpoint, chat_candidates, resume_candidates
from gpt_core.errors import CheckpointError, GptError
from gpt_core.formats.checkpoint import Checkpoint, CheckpointInfo
from gpt_tui.shared.formatting import whole


class StoredCheckpoints(NamedTuple):
    """What is there, by the files' headers alone: the checkpoint to go on from, and the one to chat with."""

    resumable: CheckpointInfo | None = None
    for_chat: CheckpointInfo | None = None


def glance(models_dir: str) -> StoredCheckpoints:
    """Which checkpoints would be taken. Quick: nothing but headers is read, so a file may turn out to be damaged."""
    try:
        listing = CheckpointStore(models_dir).list()
    except (GptError, OSError):
        return StoredCheckpoints()
    return StoredCheckpoints(next(iter(resume_candidates(listing)), None), next(iter(chat_candidates(listing)), None))


def in_the_way(models_dir: str) -> str:
    """What a new run there would have to replace, and so is asked about; "" where there is nothing. Quick, as above."""
    try:
        found = [info for info in CheckpointStore(models_dir).list() if info.kind != "other"]
    except (GptError, OSError):
        return ""
    newest = next((info for info in found if isinstance(info, CheckpointInfo)), None)
    if newest is not None:
        return f"a run at step {whole(newest.step)}"
    return "a damaged checkpoint" if found else ""


def load_resumable(models_dir: str) -> tuple[Checkpoint, list[str]]:
    """Load the newest checkpoint that can be resumed; also return a line for each damaged one that was skipped.

    Raises CheckpointError if there is none.
    """
    loaded = CheckpointStore(models_dir).load_for_resume()
    if loaded.checkpoint is None:
        raise CheckpointError(
            f"nothing to resume: no valid checkpoint in {models_dir}{in_words(loaded.damaged)}; start a new run"
        )
    return loaded.checkpoint, [damaged.error for damaged in loaded.damaged]


def in_words(damaged: list[DamagedCheckpoint]) -> str:
    """The damaged files by their names, to go on a sentence with: `; damaged: ckpt_latest.safetensors`."""
    return f"; damaged: {', '.join(found.path.name for found in damaged)}" if damaged else ""
