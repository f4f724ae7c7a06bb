"""Synthetic texts, generated on first use; the setting `synthetic_text` selects one.

Each line of `induction` is a random sequence of letters, repeated. The next letter is unpredictable in the first
occurrence of the sequence and determined in the others: an induction head predicts it by attending to the token after
the previous occurrence of the current one (Olsson et al. 2022, "In-context Learning and Induction Heads"). The lengths
of the sequences vary, so that no fixed distance does.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from gpt_core import files
from gpt_core.config.settings import Settings
from gpt_core.errors import CorpusError
from gpt_core.home import cache_folder
from gpt_core.text.cache_files import new_cache_file

NONE, INDUCTION = "none", "induction"
LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
SHORTEST, LONGEST = 4, 20  # letters of a sequence, each different
REPEATS = 3  # occurrences of a sequence in its line
LINES = 30_000
SEED = 2022


def is_synthetic(settings: Settings) -> bool:
    """Return True if a run is trained on a generated text: one is chosen, and no training text is named."""
    return settings.synthetic_text != NONE and not settings.train_file


def synthetic_file(name: str) -> Path:
    """Return the file of a synthetic text in the user's cache folder, written if it is missing or was changed.

    Raises:
        CorpusError: There is no cache folder, or it cannot be written.
    """
    assert name == INDUCTION, name
    folder, text = cache_folder(), induction_text()
    if folder is None:
        raise CorpusError(
            f"the text {name} is generated in the cache folder, and the home folder is unknown; set XDG_CACHE_HOME "
            "to a folder",
            ", or name a text with --train-file",
        )
    path = folder / f"{name}.txt"
    try:
        if not path.is_file() or path.read_bytes() != text:
            with new_cache_file(path.parent) as file:
                file.file.write(text)
                file.publish(path.name)
    except OSError as error:
        raise CorpusError(
            f"the text {name} cannot be written to {path}: {files.reason(error)}; set XDG_CACHE_HOME to a folder that "
            "can be written",
            ", or name a text with --train-file",
        ) from None
    return path


@lru_cache(maxsize=1)
def induction_text() -> bytes:
    """Return the text `induction`: from raw random bits only, so that every version of NumPy gives the same bytes."""
    bits = np.random.PCG64(SEED).random_raw(LINES * (len(LETTERS) + 1)).reshape(LINES, len(LETTERS) + 1)
    lengths = SHORTEST + bits[:, 0] % (LONGEST - SHORTEST + 1)
    order = np.argsort(bits[:, 1:], axis=1, kind="stable")  # a random permutation of the letters per line
    rows = LETTERS[order]
    return b"".join(
        row[:length].tobytes() * REPEATS + b"\n" for row, length in zip(rows, lengths.tolist(), strict=True)
    )
