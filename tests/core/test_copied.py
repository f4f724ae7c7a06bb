"""The longest passage of a text that stands in another, against a plain search."""

from __future__ import annotations

import numpy as np
import pytest

from gpt_core.text import copied
from gpt_core.text.copied import CopiedPassage, copied_passage, longest_match
from gpt_core.text.token_stream import MemorySource, TokenStream, tokens_of_documents
from gpt_core.tokenizers.pieces import AsciiTokenizer, PieceTokenizer

TOKENIZER = PieceTokenizer.train([b"abc"], 260)


def stream(ids):
    ids = np.asarray(ids, np.int32)
    lengths = np.ones(int(ids.max(initial=0)) + 50, np.uint8)
    return TokenStream(MemorySource(ids), 0, len(ids), len(ids), lengths, "", "", 1)


def plain_length(ids, text):
    """Return the length of the longest common run, by comparing all pairs of places."""
    longest = 0
    for i in range(len(ids)):
        for j in range(len(text)):
            length = 0
            while i + length < len(ids) and j + length < len(text) and ids[i + length] == text[j + length]:
                length += 1
            longest = max(longest, length)
    return longest


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize(("size", "vocabulary"), [(5, 3), (40, 4), (64, 20), (65, 2), (130, 12)])
def test_the_longest_match_is_that_of_a_plain_search(monkeypatch, chunk, size, vocabulary):
    monkeypatch.setattr(copied, "CHUNK", chunk)
    random = np.random.default_rng(size)
    text, ids = random.integers(0, vocabulary, 300), random.integers(0, vocabulary, size)
    found = longest_match(ids.astype(np.int32), stream(text))
    assert found.length == plain_length(ids, text)
    run = ids[found.start : found.start + found.length].tolist()
    assert any(text[at : at + len(run)].tolist() == run for at in range(len(text)))


@pytest.mark.parametrize("size", [1, 63, 64, 65, 200])
def test_a_copy_is_found_whole_across_the_chunks(monkeypatch, size):
    monkeypatch.setattr(copied, "CHUNK", 50)
    text = np.random.default_rng(1).integers(0, 200, 900)
    assert longest_match(text[333 : 333 + size].astype(np.int32), stream(text)) == (0, size, size)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_longest_match_has_the_most_bytes(monkeypatch, chunk):
    monkeypatch.setattr(copied, "CHUNK", chunk)
    lengths = np.array([1, 1, 3, 4, 0], np.uint8)
    text = TokenStream(MemorySource(np.array([0, 1, 4, 2, 4, 3], np.int32)), 0, 6, 9, lengths, "", "", 1)
    assert longest_match(np.array([0, 1, 2, 3, 4], np.int32), text) == (3, 1, 4)


def test_nothing_in_common_and_no_tokens_have_a_run_of_0():
    assert longest_match(np.array([40, 41], np.int32), stream([1, 2, 3])).length == 0
    assert longest_match(np.empty(0, np.int32), stream([1, 2, 3])).length == 0


def test_a_passage_begins_after_the_prompt_and_crosses_no_document():
    text = tokens_of_documents([b"the old man and", b"the sea was calm"], TOKENIZER)
    assert copied_passage(b"the old", b" man and!", TOKENIZER, text) == (" man and", 0)
    assert copied_passage(b"", b"andthe sea", TOKENIZER, text).text == "the sea"
    assert copied_passage(b"the old man", b"XYZ", TOKENIZER, text) == CopiedPassage("", 0)
    assert copied_passage(b"the old man", b"", TOKENIZER, text).text == ""


def test_a_long_text_is_searched_up_to_a_limit_that_is_reported(monkeypatch):
    monkeypatch.setattr(copied, "MAX_SEARCHED", 10)
    text = tokens_of_documents([b"abcdefghijklmnop"], TOKENIZER)
    assert copied_passage(b"", b"abcdefghijkl", TOKENIZER, text) == ("abcdefghi", 10)


def test_a_passage_is_unknown_with_a_lossy_tokenizer():
    tokenizer = AsciiTokenizer([b"the", b"old", b"man"], 300)
    text = tokens_of_documents([b"The old man"], tokenizer)
    written = tokenizer.decode(tokenizer.encode(b"The old man").tolist())
    assert copied_passage(b"", written, tokenizer, text) == CopiedPassage(None, 0)
