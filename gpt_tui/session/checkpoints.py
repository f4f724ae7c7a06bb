"""The checkpoints under the models folder, as the app asks for them: which to resume, which to chat with."""

from __future__ import annotations

from typing import NamedTuple

from gpt_core.checkpoints.store import CheckpointStore, chat_candidates, resume_candidates
from gpt_core.errors import GptError
from gpt_core.formats.checkpoint_header import CheckpointInfo
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
