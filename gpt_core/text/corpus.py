"""Find the training and eval texts under `data/`, and read files in blocks."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import glob
import itertools
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt_core import files
from gpt_core.errors import CorpusError
from gpt_core.file_kinds import HEAD_BYTES, not_text
from gpt_core.progress import Progress, ignore_progress
from gpt_core.text.cache_files import is_cache_name

PACKAGE = Path(__file__).resolve().parents[1]  # an installed one holds the shipped text in data/

SHIPPED_TEXTS = ("raw/train.en", "test/eval.en")  # in each of `shipped_folders`
SHIPPED_NAMES = {Path(name).name for name in SHIPPED_TEXTS}
TRAINING_NAMES = ("train.en", "train.eng")
OTHER_TRAINING_NAMES = ("train.txt", "input.txt")  # taken where there is none of TRAINING_NAMES
EVAL_NAMES = ("eval.txt", "val.txt")  # taken where there is no *eval*.en
_SUFFIX = r"(?:\.(?:en|eng|txt|text|md|jsonl|ndjson|csv|tsv)(?:\.gz|\.zst)?|\.parquet)"  # of texts with other names
_OTHER_KINDS = (".gz", ".zst", ".parquet")  # of texts that do not look like text
BLOCK_BYTES = 1 << 20  # bytes per read
MAX_FOLDERS = 1000  # that are searched: a link may lead to a folder of any size
MAX_EXAMINED = 200  # files whose contents are examined for a note


def find_training_text(start: Path | None = None) -> Path:
    """Return the name of the training text: under `start`, else the text that ships with the program.

    Under `start` it is `data/raw/train.en` or `data/raw/train.eng`, else the first file of such a name anywhere under
    `data/`, in sorted order; else likewise a file named `train.txt` or `input.txt`; else a text of another kind (see
    `_other_text`). Links are followed. In a clone, whose `data/` holds the text that ships with the program, any other
    of these is preferred to that.

    Args:
        start: Folder that contains `data/`; None for the working directory.

    Raises:
        CorpusError: There is no such file, or it is not found because of a broken link or an unreadable folder.
    """
    own = (start or Path()) / "data"
    errors: list[OSError] = []
    found = list(files_under(own, errors.append))
    shipped = shipped_texts()
    not_shipped = [path for path in found if path.name not in SHIPPED_NAMES or not _is_copy(path, shipped)]
    if (path := _first_named(own, not_shipped, shipped) or _other_text(own, not_shipped, "train|input")) is not None:
        return path
    if (path := _first_named(own, found, {})) is not None:
        return path
    _require_no_obstacle(own, found, errors)
    for folder in shipped_folders():
        if (path := _first_named(folder, list(files_under(folder)), {})) is not None:
            return path
    raise CorpusError(
        f"no training text: {own / 'raw' / 'train.en'} does not exist; create it", ", or name a text with --train-file"
    )


def _first_named(folder: Path, found: list[Path], left_out: dict[int, list[Path]]) -> Path | None:
    """Return the file named as a training text in `raw/`, else the first one anywhere in the folder.

    Args:
        folder: Folder to search.
        found: Its files (see `files_under`), which may be too many to have all of them.
        left_out: Texts by size that are passed over in `raw/`, as in `found`.

    Raises:
        CorpusError: It is a broken link.
    """
    for names in (TRAINING_NAMES, OTHER_TRAINING_NAMES):
        in_raw = [path for name in names if not _is_copy(path := folder / "raw" / name, left_out)]
        for path in [*in_raw, *(path for path in found if path.name in names)]:
            if os.path.isfile(path):
                return path
            require_unbroken(path)
    return None


def _other_text(folder: Path, found: list[Path], stems: str) -> Path | None:
    """Return the name of a text of another kind: a file, a pattern of numbered files, or a folder.

    It is the first file such as `train.jsonl.gz` anywhere in the folder; where the files are numbered, as in
    `train-00000-of-00004.parquet`, a pattern that matches all of them; else the folder `train/`, if it is not empty.

    Args:
        folder: Folder to search.
        found: Its files (see `files_under`).
        stems: Names without suffix, separated by `|`.

    Raises:
        CorpusError: It is a broken link.
    """
    name = re.compile(rf"(?P<stem>{stems})(?:-\d+-of-(?P<count>\d+))?(?P<suffix>{_SUFFIX})", re.IGNORECASE)
    for path in found:
        if match := name.fullmatch(path.name):
            require_unbroken(path)
            if match["count"]:
                pattern = f"{match['stem']}-*-of-{match['count']}{match['suffix']}"
                return Path(glob.escape(str(path.parent)), pattern)
            if os.path.isfile(path):
                return path
    folders = (folder / stem for stem in stems.split("|"))
    return next((place for place in folders if any(path.name[0] != "." for path in files_under(place))), None)


def require_unbroken(path: Path) -> None:
    """Raise CorpusError if `path` is a link to something that does not exist."""
    if os.path.islink(path) and not os.path.exists(path):
        raise CorpusError(
            f"{path} is a broken link to {os.readlink(path)}; repair or remove it", ", or name a text with --train-file"
        )


def _require_no_obstacle(folder: Path, found: list[Path], errors: list[OSError]) -> None:
    """Raise CorpusError if a text in the folder may be hidden by a broken link or by a folder that cannot be read.

    Args:
        folder: Folder that was searched.
        found: Its files (see `files_under`).
        errors: Errors of folders that cannot be read.
    """
    require_unbroken(folder)
    for error in errors:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise CorpusError(
                f"{error.filename} cannot be read: {files.reason(error)}", "; name a training text with --train-file"
            )
    for path in found:
        if not path.name.startswith("."):
            require_unbroken(path)


def unused_texts_note(training_text: Path, start: Path | None = None) -> str:
    """Return a line about texts under `data/` that were not taken in place of the shipped one, "" if there are none.

    Args:
        training_text: Path that `find_training_text` returned.
        start: Folder that contains `data/`; None for the working directory.
    """
    if not is_shipped_text(training_text):
        return ""
    folder = (start or Path()) / "data"
    unused = [path for path in itertools.islice(files_under(folder), MAX_EXAMINED) if _is_own_text(path)]
    if not unused:
        return ""
    others = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
    names = ", ".join((TRAINING_NAMES[0], *OTHER_TRAINING_NAMES))
    return (
        f"{folder}/ has {unused[0].relative_to(folder)}{others}, but not named {names}: the text that ships with the "
        f"program is used; to train on yours, set train_file={shlex.quote(str(unused[0]))}"
    )


def _is_own_text(path: Path) -> bool:
    """Return True for a text of the user, but not for an eval text, a README or a file of the program."""
    name = path.name.lower()
    if name.startswith((".", "readme", "license")) or "eval" in name or name in EVAL_NAMES:
        return False
    if is_cache_name(path.name) or is_shipped_text(path):
        return False
    try:
        with files.open_regular(path) as file:
            head = file.read(HEAD_BYTES) or b""
    except OSError:
        return False
    return bool(head) and (name.endswith(_OTHER_KINDS) or not_text(head) is None)


def find_eval_text(start: Path | None = None, training_text: Path | None = None) -> Path | None:
    """Return the name of the text to evaluate on, or None: then part of the training text has to be held out.

    Under `start` it is `data/test/eval.en`, else the first name in `data/` that contains "eval" and ends in `.en`, else
    the first file named `eval.txt` or `val.txt`, else a text of another kind (see `_other_text`). The eval text that
    ships with the program is only used with the training text that ships with it: a model of your own text is not
    evaluated on another author's.

    Args:
        start: Folder that contains `data/`; None for the working directory.
        training_text: Text that the model is trained on; None for the one that `find_training_text` returns.

    Raises:
        CorpusError: The eval text is a broken link.
    """
    training_text = training_text or find_training_text(start)
    is_shipped = is_shipped_text(training_text)

    def is_eval(path: Path) -> bool:
        if not os.path.isfile(path):
            require_unbroken(path)
            return False
        return (is_shipped or not is_shipped_text(path)) and path.resolve() != training_text.resolve()

    own = (start or Path()) / "data"
    own_files = list(files_under(own))
    for folder in [own, *(shipped_folders() if is_shipped else [])]:
        found = own_files if folder == own else list(files_under(folder))
        named = [path for path in found if "eval" in path.name and path.name.endswith(".en")]
        named += [path for path in found if path.name in EVAL_NAMES]
        for path in [folder / "test" / "eval.en", *named]:
            if is_eval(path):
                return path
    other = _other_text(own, own_files, "eval|val|validation")
    is_usable = other is not None and other.resolve() != training_text.resolve() and not is_shipped_text(other)
    return other if is_usable else None


def shipped_folders() -> list[Path]:
    """Return the folders of the text that ships with the program: in the installed package or the source tree."""
    package = PACKAGE
    folders = [package / "data"]
    if (package.parent / "pyproject.toml").is_file():
        folders.append(package.parent / "data")
    return [folder for folder in folders if folder.is_dir()]


def is_shipped_text(path: Path) -> bool:
    """Return True if `path` is a text that ships with the program, or a copy of one, as a clone has.

    The program is then installed elsewhere, with its own copy.
    """
    return _is_copy(path, shipped_texts())


def shipped_texts() -> dict[int, list[Path]]:
    """Return the texts that ship with the program, by size."""
    found: dict[int, list[Path]] = {}
    for path in (folder / name for folder in shipped_folders() for name in SHIPPED_TEXTS):
        with contextlib.suppress(OSError):
            found.setdefault(path.stat().st_size, []).append(path)
    return found


def _is_copy(path: Path, texts: dict[int, list[Path]]) -> bool:
    """Return True if a path is one of these texts, or a file with the same contents. Most differ in size."""
    with contextlib.suppress(OSError, ValueError):
        about = os.stat(path)
        same_size = texts.get(about.st_size, []) if stat.S_ISREG(about.st_mode) else []
        return any(os.path.samefile(path, text) or filecmp.cmp(path, text, shallow=False) for text in same_size)
    return False


def files_under(folder: Path, on_error: Callable[[OSError], object] | None = None) -> Iterator[Path]:
    """Yield every file under `folder`, sorted, a folder's own files first. Links to folders are followed once.

    Args:
        folder: Folder to search.
        on_error: Called with the error of a folder that cannot be read; None skips such folders.
    """
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=on_error, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or len(seen) == MAX_FOLDERS:
            folders.clear()
            continue
        seen.add(real)
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


def _unreadable(path: Path, reason: str) -> CorpusError:
    return CorpusError(f"cannot read the text {path}: {reason}", "; name a text file")
