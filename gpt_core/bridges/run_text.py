"""Name of the text that a model was trained on, for those who read an export."""

from __future__ import annotations

from gpt_core.config.validation import names_title
from gpt_core.errors import CorpusError
from gpt_core.model.bundle import ModelBundle
from gpt_core.text.corpus import find_training_text
from gpt_core.text.reader import text_sha256
from gpt_core.text.source import text_of
from gpt_core.text.synthetic import is_synthetic

MAX_HASHED_BYTES = 64 << 20  # of a text, to find out whether it is the one of a run


def training_text(bundle: ModelBundle) -> str:
    """Return the name of the training text without its folder, "" if it is unknown or the model was not trained.

    A run without `train_file` has the text that is found in the working folder or ships with the program. It is named
    if its digest is that of the run.
    """
    if not bundle.step:
        return ""
    settings = bundle.settings
    if name := names_title(settings.train_file):
        return name
    if is_synthetic(settings):
        return f"{settings.synthetic_text} (generated)"
    try:
        source = text_of(settings, find_training_text())
        size = sum(path.stat().st_size for path in source.files)
        if size <= MAX_HASHED_BYTES and text_sha256(source) == bundle.corpus_sha256:
            return source.title
    except (CorpusError, OSError):
        pass
    return ""
