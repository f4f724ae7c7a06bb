"""Find the training and eval texts, and read text files in blocks."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from gpt_core import files
from gpt_core.errors import CorpusError
from gpt_core.progress import Progress, ignore_progress

PACKAGE = Path(__file__).resolve().parents[1]  # an installed one holds the shipped text in data/

TRAINING_NAMES = ("train.en", "train.eng")
BLOCK_BYTES = 1 << 20  # bytes per read


def find_training_text(start: Path | None = None) -> Path:
    """Return the path of the training text: under `start`, else the text that ships with the program.

    Under `start` it is `data/raw/train.en` or `data/raw/train.eng`, else the first file of such a name anywhere under
    `data/`, in sorted order.

    Args:
        start: Folder that contains `data/`; None for the working directory.

    Raises:
        CorpusError: There is no such file.
    """
    for folder in [(start or Path()) / "data", *shipped_folders()]:
        named = [folder / "raw" / name for name in TRAINING_NAMES]
        for path in [*named, *files_under(folder)]:
            if path.name in TRAINING_NAMES and os.path.isfile(path):
                return path
    raise CorpusError(
        f"no training text: {(start or Path()) / 'data' / 'raw' / 'train.en'} does not exist; "
        "create it, or name a text with --train-file"
    )


def find_eval_text(start: Path | None = None, training_text: Path | None = None) -> Path | None:
    """Return the path of the text to evaluate on, or None: then part of the training text has to be held out.

    Under `start` it is `data/test/eval.en`, else the first name in `data/` that contains "eval" and ends in `.en`. The
    eval text that ships with the program is only used with the training text that ships with it: a model of your own
    text is not evaluated on another author's.

    Args:
        start: Folder that contains `data/`; None for the working directory.
        training_text: Text that the model is trained on; None for the one that `find_training_text` returns.
    """
    training_text = training_text or find_training_text(start)
    is_shipped = is_shipped_text(training_text)
    for folder in [(start or Path()) / "data", *(shipped_folders() if is_shipped else [])]:
        for path in [folder / "test" / "eval.en", *files_under(folder)]:
            is_eval = "eval" in path.name and path.name.endswith(".en") and os.path.isfile(path)
            if is_eval and (is_shipped or not is_shipped_text(path)) and path.resolve() != training_text.resolve():
                return path
    return None


def shipped_folders() -> list[Path]:
    """Return the folders of the text that ships with the program: in the installed package or the source tree."""
    package = PACKAGE
    folders = [package / "data"]
    if (package.parent / "pyproject.toml").is_file():
        folders.append(package.parent / "data")
    return [folder for folder in folders if folder.is_dir()]


def is_shipped_text(path: Path) -> bool:
    """Return whether `path` is in a folder of the text that ships with the program."""
    return any(path.resolve().is_relative_to(folder) for folder in shipped_folders())


def files_under(folder: Path) -> Iterator[Path]:
    """Yield every file under `folder`, sorted, a folder's own files first. Links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def require_text(path: Path) -> None:
    """Check that `path` is a readable regular file, without opening it: opening a FIFO or a device can block.

    Raises:
        CorpusError: It is not.
    """
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind):
            raise _unreadable(path, f"it is {'a folder' if stat.S_ISDIR(kind) else 'not a regular file'}")
        if not os.access(path, os.R_OK):
            raise _unreadable(path, os.strerror(errno.EACCES))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(path, files.reason(error)) from error


def text_blocks(
    path: Path, start: int = 0, *, activity: str = "reading", progress: Progress = ignore_progress
) -> Iterator[bytes]:
    """Yield the bytes of a text file in blocks of 1 MiB.

    Args:
        path: File to read.
        start: Offset of the first byte.
        activity: Reported with the name of the file, before each block.
        progress: Receives `activity` and the fraction of the file that was read.

    Raises:
        CorpusError: The file cannot be read, or is not a regular file.
    """
    require_text(path)
    try:
        file = open(path, "rb")  # noqa: SIM115
        size = max(os.fstat(file.fileno()).st_size, 1)
    except OSError as error:
        raise _unreadable(path, files.reason(error)) from error
    with file:
        for done in itertools.count(start, BLOCK_BYTES):
            try:
                file.seek(done)
                block = file.read(BLOCK_BYTES)
            except OSError as error:
                raise _unreadable(path, files.reason(error)) from error
            if not block:
                return
            progress(f"{activity} {path.name}", min(done / size, 1.0))  # its errors are not those of the file
            yield block


def text_sha256(path: Path, progress: Progress = ignore_progress) -> str:
    """Return the SHA-256 of all bytes of a text file as a hex digest.

    Raises:
        CorpusError: The file cannot be read.
    """
    digest = hashlib.sha256()
    for block in text_blocks(path, progress=progress):
        digest.update(block)
    return digest.hexdigest()


def sample_windows(path: Path, max_bytes: int) -> Iterator[Iterator[bytes]]:
    """Yield a text as streams of blocks: one stream of all, or samples of a text longer than `max_bytes`.

    The samples are single blocks at regular intervals, `max_bytes` in all.

    Raises:
        CorpusError: The file cannot be read.
    """
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if size <= max_bytes:
        yield text_blocks(path)
        return
    count = max_bytes // BLOCK_BYTES
    for window in range(count):
        start = (size - BLOCK_BYTES) * window // (count - 1)
        yield itertools.islice(text_blocks(path, start), 1)


def _unreadable(path: Path, reason: str) -> CorpusError:
    return CorpusError(f"cannot read the text {path}: {reason}; name a text file")
