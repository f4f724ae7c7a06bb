"""Files that runs write into their folders: names, and how they are recognized beside texts."""

from __future__ import annotations

from pathlib import Path

from gpt_core import files

CHECKPOINT_SUFFIX = ".safetensors"
CHECKPOINT_START = b'{"__metadata__":{"header_sha256":"'
"""Beginning of the header of a checkpoint."""
METRICS = "metrics.jsonl"
PREVIOUS_METRICS = "metrics.previous.jsonl"
"""Log of the last run that left no checkpoint in the folder."""
RACE = "race.json"
"""Cases of a race."""

_STARTS = {METRICS: b'{"event":"', PREVIOUS_METRICS: b'{"event":"', RACE: b'{\n "requested": {'}
_HEAD_BYTES = 64


def is_run_file(path: Path) -> bool:
    """Return True for a checkpoint of this program, a log or the cases of a race, by its name and its first bytes.

    An empty file with the name of a log is one whose first line is not written yet.
    """
    is_checkpoint = path.suffix == CHECKPOINT_SUFFIX
    if not is_checkpoint and path.name not in _STARTS:
        return False
    try:
        with files.open_regular(path) as file:
            head = file.read(_HEAD_BYTES) or b""
    except OSError:
        return False
    if is_checkpoint:
        return CHECKPOINT_START in head
    return not head or head.startswith(_STARTS[path.name])
