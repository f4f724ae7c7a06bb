"""The first words of a text, as the default prompt of samples: in the language and style that a model is trained on."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import numpy as np

from gpt_core.text.preview import DOCUMENT_MARK, one_line_of
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import Tokenizer

OPENING_TOKENS = 256
SCANNED_TOKENS = 4096  # in which a line is searched
MIN_LINE = 24  # characters: shorter lines are often headings
MAX_WORDS, MAX_CHARACTERS = 3, 24
UNSPACED_CHARACTERS = 6  # of a script without spaces between words, or of a very long word
JOINERS = "\u200d\ufe0e\ufe0f"


def first_words(text: TokenStream, tokenizer: Tokenizer) -> str:
    """Return the beginning of the first document whose first line is long: up to three words, or a few characters.

    Without such a document it is that of the longest line. It is less than half of the line, so that it can be
    continued, and no character is cut.

    Raises:
        CorpusError: The text cannot be read.
    """
    documents = _documents(text, tokenizer)
    first_lines = [lines[0] for lines, is_complete in documents if is_complete]
    others = [line for lines, _ in documents for line in lines]
    line = next((line for line in first_lines if len(line) >= MIN_LINE), max(others, key=len, default=""))
    return beginning(line)


def opening(text: TokenStream, tokenizer: Tokenizer) -> str:
    """Return the beginning of a text in one line, as the tokenizer reads it, with a slash between documents.

    Raises:
        CorpusError: The text cannot be read.
    """
    ids = text.read(0, OPENING_TOKENS)
    documents = (tokenizer.decode(part.tolist()) for part in np.split(ids, np.flatnonzero(ids == tokenizer.EOS)))
    return one_line_of(DOCUMENT_MARK.join(document for document in documents if document))


def beginning(line: str) -> str:
    """Return up to three words of a line, or a few characters of a long word; less than half of the line."""
    limit = min(MAX_CHARACTERS, len(line) // 2)
    ends = [word.end() for word in re.finditer(r"\S+", line)][:MAX_WORDS]
    if fitting := [end for end in ends if end <= limit]:
        return line[: fitting[-1]]
    end = min(UNSPACED_CHARACTERS, limit)
    while 0 < end < len(line) and (unicodedata.combining(line[end]) or {line[end], line[end - 1]} & set(JOINERS)):
        end += 1
    return line[:end]


def _documents(text: TokenStream, tokenizer: Tokenizer) -> list[tuple[list[str], bool]]:
    """Return the lines of the first documents, and whether they begin with the first line of the document."""
    ids = text.read(0, SCANNED_TOKENS)
    begin_documents = set(text.document_starts(0, len(ids)).tolist())
    found = []
    for start, end in pairwise([0, *sorted(begin_documents - {0}), len(ids)]):
        lines = tokenizer.decode(ids[start:end].tolist()).decode("utf-8", "replace").splitlines()
        is_complete = start in begin_documents
        if not is_complete:
            lines = lines[1:] or [re.sub(r"^\S+\s+", "", line) for line in lines]  # a word may be cut
        filled = list(filter(None, map(_decodable, lines)))
        if filled:
            found.append((filled, is_complete))
    return found


def _decodable(line: str) -> str:
    """Return the longest run of words of a line without bytes that are not UTF-8, which no prompt could hold."""
    runs = re.split(r"\S*\ufffd\S*", line.strip("\ufffd"))  # a character may be cut at the ends of what is scanned
    return max(runs, key=len).strip()
