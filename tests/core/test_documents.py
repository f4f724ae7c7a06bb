import os
import random
import re
import tracemalloc
from pathlib import Path

import pytest

from gpt_core.errors import CorpusError
from gpt_core.text import corpus
from gpt_core.text import documents as documents_module
from gpt_core.text.corpus import text_blocks
from gpt_core.text.documents import document_parts
from gpt_core.text.reader import documents, first_lines
from gpt_core.text.source import text_source

KINDS = ("paragraph", "line", "file")


def file(path, data=b"text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def source(path):
    """Return a text of any bytes."""
    return text_source(path, allow_binary=True)


def refusal(function, *arguments):
    with pytest.raises(CorpusError) as caught:
        list(function(*arguments))
    message = str(caught.value)
    assert message.isprintable(), "an error is one line"
    return message


def joined_documents(data, kind, block_size):
    """Return the documents of `data` read in blocks of a size, each joined from its parts."""
    found = [b""]
    blocks = (data[at : at + block_size] for at in range(0, len(data), block_size))
    for part, ends in document_parts(blocks, kind):
        found[-1] += part
        if ends:
            found.append(b"")
    assert found.pop() == b"", "the last part ends a document"
    return found


def expected_documents(data, kind):
    """Return the documents of `data` by the definition, computed on the entire text."""
    if kind == "file":
        return [data] if data.strip() else []
    if kind == "line":
        return [line.removesuffix(b"\r") for line in data.split(b"\n") if line.strip()]
    found, lines = [], []
    for line in [*data.split(b"\n"), b""]:
        if line.strip():
            lines.append(line)
        elif lines:
            found.append(b"\n".join(lines).removesuffix(b"\r"))
            lines = []
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_documents_do_not_depend_on_block_and_part_sizes(kind, monkeypatch):
    rng = random.Random(1)
    words = [
        b"a",
        b"bc",
        b" ",
        b"\t",
        b"\n",
        b"\n",
        b"\r\n",
        b"\0",
        "é".encode(),
        "\u4f60".encode(),
        b"\xff",
        b"\xef\xbb\xbf",
    ]
    for round_number in range(400):
        monkeypatch.setattr(documents_module, "PART_BYTES", rng.choice([8, 16, 1 << 20]) if kind != "file" else 1 << 20)
        data = b"".join(rng.choices(words, k=rng.randint(0, 40)))
        # white space longer than a part is dropped, which `expected_documents` does not model
        if documents_module.PART_BYTES < 100 and re.search(rb"[ \t\r]{7}", data):
            continue
        expected = expected_documents(data, kind)
        for block_size in (1, 2, 3, 7, 1000):
            assert joined_documents(data, kind, block_size) == expected, (round_number, data)


def test_a_paragraph_keeps_its_line_breaks_and_its_indentation():
    data = b"\n\n  First line \r\n\tsecond\r\n \t\r\n\r\nAnother\n"
    assert joined_documents(data, "paragraph", 1000) == [b"  First line \r\n\tsecond", b"Another"]


@pytest.mark.parametrize("allow_binary", [False, True])
def test_a_byte_order_mark_is_dropped_at_the_beginning_only(tmp_path, allow_binary, monkeypatch):
    monkeypatch.setattr(corpus, "BLOCK_BYTES", 1)
    mark = b"\xef\xbb\xbf"
    text = text_source(file(tmp_path / "t", mark + b"a" + mark), allow_binary=allow_binary)
    for kind in KINDS:
        assert list(documents(text, kind)) == [b"a" + mark]
    with pytest.raises(CorpusError, match="is empty"):
        list(documents(text_source(file(tmp_path / "mark", mark), allow_binary=allow_binary), "line"))


def test_a_file_as_one_document_is_unchanged(tmp_path):
    data = b"\n a\r\n\n\nb \n\n"
    assert list(documents(source(file(tmp_path / "t", data)), "file")) == [data]


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_document_is_cut_into_bounded_parts_of_complete_characters(kind, monkeypatch):
    monkeypatch.setattr(documents_module, "PART_BYTES", 64)
    text = ("déjà \u4f60\u597d \U0001f600" * 200 + "\n" + "été " * 100).encode()
    parts = list(document_parts((text[at : at + 50] for at in range(0, len(text), 50)), kind))
    assert len(parts) > 10
    assert all(len(part.decode()) <= len(part) <= 128 for part, _ in parts)
    assert sum(ends for _, ends in parts) == (2 if kind == "line" else 1)
    assert b"".join(part for part, _ in parts).replace(b"\n", b"") == text.replace(b"\n", b"")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filling", [b"\0", b"\n", b" ", b"a\n", b"\n\n\r", b"\xff"])
def test_memory_is_bounded_for_one_line_and_for_only_line_breaks(tmp_path, kind, filling, monkeypatch):
    monkeypatch.setattr(corpus, "BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(documents_module, "PART_BYTES", 1 << 14)
    path = file(tmp_path / "big", filling * ((1 << 20) // len(filling)) + b"end")
    tracemalloc.start()
    try:
        size = sum(len(part) for part, _ in document_parts(text_blocks(path), kind))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size >= 3
    assert peak < 600_000


def test_a_part_that_ends_with_its_document_still_ends_it(monkeypatch):
    monkeypatch.setattr(documents_module, "PART_BYTES", 8)
    data = b"ab\n" + b"x" * 8 + b"\n\nnext"
    for block_size in range(1, 20):
        assert joined_documents(data, "paragraph", block_size) == [b"ab\nxxxxxxxx", b"next"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "data", [b"", b" ", b"\n", b"\r\n \t\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n", b"\n" * 3_000_000]
)
def test_an_empty_text_is_rejected(tmp_path, kind, data):
    assert "empty" in refusal(documents, source(file(tmp_path / "t", data)), kind)


def test_one_byte_and_nuls_are_text(tmp_path):
    for kind in KINDS:
        assert list(documents(source(file(tmp_path / "t", b"x")), kind)) == [b"x"]
        assert list(documents(source(file(tmp_path / "t", b"\0\0")), kind)) == [b"\0\0"]


def test_files_that_are_not_regular_are_rejected_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    assert "not a regular file" in refusal(text_source, tmp_path / "fifo")
    assert "not a regular file" in refusal(text_source, Path("/dev/zero"))
    assert "No such file" in refusal(text_source, tmp_path / "missing")
    assert "null" in refusal(text_source, tmp_path / "a\0b")
    refusal(text_source, tmp_path / "loop")
    refusal(text_source, tmp_path / ("n" * 300))


def test_first_lines_skips_blank_lines(tmp_path):
    path = file(tmp_path / "t", b"\n one\r\n \ntwo\n\nthree")
    path = source(path)
    assert first_lines(path, 2) == [b" one", b"two"]
    assert first_lines(path, 9) == [b" one", b"two", b"three"]
    assert "empty" in refusal(first_lines, source(file(tmp_path / "e", b" \n")), 3)
