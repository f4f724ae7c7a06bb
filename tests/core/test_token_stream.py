import numpy as np
import pytest

from gpt_core.errors import CorpusError
from gpt_core.text.source import text_source
from gpt_core.text.token_cache import load_tokens
from gpt_core.text.token_stream import MemorySource, TokenStream, split_held_out, stream_of, tokens_of_documents
from gpt_core.tokenizers.pieces import PieceTokenizer
from tests.core.text_samples import LINES, PIECES


def tokens_of(text):
    return text.read(0, len(text)).tolist()


def refusal(function, *arguments):
    with pytest.raises(CorpusError) as caught:
        function(*arguments)
    assert str(caught.value).isprintable(), "an error is one line"
    return str(caught.value)


def test_reading_is_bounded_by_the_text():
    text = TokenStream(MemorySource(np.arange(10, dtype=np.int32)), 2, 5, 5, np.ones(20, dtype=np.uint8), "", "", 0)
    assert text.read(0, 99).tolist() == [2, 3, 4, 5, 6]
    assert text.read(3, 2).tolist() == [5, 6]
    assert text.read(5, 3).tolist() == text.read(50, 3).tolist() == []


# documents in memory


def test_documents_in_memory_are_encoded_like_files():
    text = tokens_of_documents([b"The one", b"of two"], PIECES)
    assert tokens_of(text) == [1, *PIECES.encode(b"The one"), 2, 1, *PIECES.encode(b"of two"), 2]
    assert text.bytes == 13
    assert (text.name, text.documents) == ("", 2)
    assert text.sha256 == tokens_of_documents([b"The one", b"of two"], PIECES).sha256
    assert text.sha256 != tokens_of_documents([b"The oneo", b"f two"], PIECES).sha256
    for empty in ([], [b""], [b"", b""]):
        refusal(tokens_of_documents, empty, PIECES)


def test_documents_begin_with_the_bos_of_an_imported_tokenizer(monkeypatch):
    monkeypatch.setattr(PieceTokenizer, "BOS", 3)
    tokens = np.array([3, *PIECES.encode(b"The one"), 2, 3, *PIECES.encode(b"of two"), 2], np.int32)
    text = stream_of(MemorySource(tokens), len(tokens), 13, PIECES, "", "", 2)
    assert text.document_starts(0, len(text)).tolist() == np.flatnonzero(tokens == 3).tolist()


# held-out text


def test_the_held_out_part_is_complete_documents_from_the_end(tmp_path):
    path = tmp_path / "train.en"
    path.write_bytes(LINES)
    full = load_tokens(text_source(path, allow_binary=True), PIECES, "paragraph")
    for fraction in (0.01, 0.1, 0.5, 0.9, 0.999):
        train, held_out = split_held_out(full, fraction)
        assert tokens_of(train) + tokens_of(held_out) == tokens_of(full)
        assert tokens_of(held_out)[0] == 1
        assert tokens_of(train)[-1] == 2
        assert train.documents == tokens_of(train).count(1)
        assert held_out.documents == tokens_of(held_out).count(1)
        assert train.bytes + held_out.bytes == full.bytes == len(LINES)
        assert abs(len(held_out) - fraction * len(full)) < 60
        spelled = [len(PIECES.decode(tokens_of(part))) for part in (held_out, full)]
        assert held_out.bytes == round(len(LINES) * spelled[0] / spelled[1]), "blank lines are divided in proportion"


def test_a_text_of_one_document_is_split_inside_it():
    full = tokens_of_documents([b"x" * 98], PIECES)
    train, held_out = split_held_out(full, 0.25)
    assert (len(train), len(held_out)) == (75, 25)
    assert (train.bytes, held_out.bytes) == (74, 24)


def test_the_split_falls_back_to_the_last_document_that_begins_before_it(monkeypatch):
    monkeypatch.setattr("gpt_core.text.token_stream.SEARCH_TOKENS", 7)
    full = tokens_of_documents([b"a" * 101, b"b" * 15], PIECES)
    train, held_out = split_held_out(full, 0.1)
    assert (len(train), len(held_out)) == (103, 17)


@pytest.mark.parametrize("sizes", [(90, 26), (30, 86), (113, 3)])
def test_a_document_that_would_hold_out_much_more_or_less_than_the_fraction_is_split(sizes):
    full = tokens_of_documents([b"a" * sizes[0], b"b" * sizes[1]], PIECES)
    train, held_out = split_held_out(full, 0.1)
    assert (len(train), len(held_out)) == (108, 12)
    assert train.documents + held_out.documents == 2


@pytest.mark.parametrize("document", [b"a" * 8, b"a" * 998])
def test_at_most_a_fixed_number_of_tokens_of_a_long_text_is_held_out(monkeypatch, document):
    monkeypatch.setattr("gpt_core.text.token_stream.MAX_HELD_OUT_TOKENS", 35)
    full = tokens_of_documents([document] * 100, PIECES)
    size = len(full) // 100
    for fraction in (0.1, 0.5, 0.999):
        train, held_out = split_held_out(full, fraction)
        assert len(held_out) == (3 * size if 3 * size <= 35 else 35)
        assert len(train) + len(held_out) == len(full)


def test_both_parts_of_a_split_have_a_target_or_the_text_is_rejected():
    for size in range(1, 12):
        full = tokens_of_documents([b"x" * size], PIECES)
        if len(full) < 4:
            assert "too short" in refusal(split_held_out, full, 0.1)
            continue
        for fraction in (0.001, 0.5, 0.999):
            assert min(len(part) for part in split_held_out(full, fraction)) >= 2
