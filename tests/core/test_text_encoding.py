"""Encodings of texts: recognition, conversion to UTF-8, and the refusal of what does not decode."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from gpt_core.errors import ConfigError, CorpusError
from gpt_core.file_kinds import HEAD_BYTES
from gpt_core.text import corpus
from gpt_core.text.encodings import find_encoding, guess_encoding, prompt_text, utf8_blocks
from gpt_core.text.reader import TextReader, documents, text_sha256
from gpt_core.text.source import TextSource, text_source

GERMAN, CHINESE = "Über die Brücke läuft Jörg. " * 20, "老人慢慢地走过旧桥，没有说话。" * 20
RUSSIAN, JAPANESE, KOREAN = (
    "Это было лучшее из времён. " * 20,
    "吾輩は猫である。名前はまだ無い。" * 20,
    "나는 고양이다. " * 20,
)
TEXTS = {"German": GERMAN, "Chinese": CHINESE, "Russian": RUSSIAN, "English": "It was. " * 20}


def written(folder: Path, text: str, stored_as: str, **reading: str) -> TextSource:
    """Return a file with a text, to be read as `reading` says."""
    (folder / "text.txt").write_bytes(text.encode(stored_as))
    return text_source(folder / "text.txt", **reading)  # type: ignore[arg-type]


def read(source: TextSource) -> str:
    return b"".join(TextReader(source).contents()).decode()


def refusal(source: TextSource) -> str:
    with pytest.raises(CorpusError) as caught:
        list(documents(source, "paragraph"))
    assert str(caught.value).isprintable(), "an error is one line"
    return str(caught.value)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_text_with_a_byte_order_mark_is_read_in_its_encoding(tmp_path: Path, text: str, encoding: str) -> None:
    for otherwise in ("", "cp1252"):
        if TEXTS[text].isascii() and encoding == "utf-8" and otherwise:
            continue
        assert read(written(tmp_path, TEXTS[text], encoding, encoding=otherwise)) == TEXTS[text]


@pytest.mark.parametrize("mark", [b"\xfe\xff", b"\0\0\xfe\xff"])
def test_a_big_endian_byte_order_mark_is_recognized(tmp_path: Path, mark: bytes) -> None:
    encoding = "utf-16-be" if len(mark) == 2 else "utf-32-be"
    (tmp_path / "t").write_bytes(mark + GERMAN.encode(encoding))
    assert read(text_source(tmp_path / "t")) == GERMAN


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(GERMAN, "latin-1"), (GERMAN, "cp1252"), (CHINESE, "gb18030"), (CHINESE, "utf-16-le"), (RUSSIAN, "koi8-r"),
     (JAPANESE, "shift-jis"), (JAPANESE, "iso2022_jp"), (GERMAN, "utf-7")],
)  # fmt: skip
def test_a_named_encoding_is_used_where_there_is_no_byte_order_mark(tmp_path: Path, text: str, encoding: str) -> None:
    assert read(written(tmp_path, text, encoding, encoding=encoding)) == text
    assert read(written(tmp_path, text, "utf-16", encoding=encoding)) == text, "a byte order mark decides"
    assert read(written(tmp_path, text, "utf-8", encoding=encoding)) == text, (
        "text that is clearly UTF-8 is not garbled"
    )


@pytest.mark.parametrize(
    ("text", "encoding", "suggested"),
    [(GERMAN, "latin-1", "cp1252"), (GERMAN + "„“ – €", "cp1252", "cp1252"), (CHINESE, "gb18030", "gb18030"),
     (RUSSIAN, "cp1251", "cp1251"), (RUSSIAN, "koi8-r", "koi8_r"), (RUSSIAN, "cp866", "cp866"),
     (JAPANESE, "shift-jis", "shift_jis"), (JAPANESE, "euc-jp", "euc_jp"), (KOREAN, "euc-kr", "euc_kr")],
)  # fmt: skip
def test_a_text_that_is_not_utf8_is_refused_with_the_encoding_it_looks_like(
    tmp_path: Path, text: str, encoding: str, suggested: str
) -> None:
    message = refusal(written(tmp_path, f"ASCII only.\n\n{text}", encoding))
    assert "text.txt is not UTF-8: got 0x" in message
    assert "(line 3)" in message
    assert f"it looks like {suggested} ('{text[:10]}" in message
    assert f": set encoding={suggested}, or set allow_binary=true to use its bytes as they are" in message
    assert read(written(tmp_path, text, encoding, encoding=suggested)) == text
    assert guess_encoding(text.encode(encoding)[:-1]) == suggested


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_the_byte_that_is_not_utf8_is_named_wherever_blocks_end(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", block)
    (tmp_path / "t").write_bytes("Zeile 1: ä\nZeile 2: €".encode() + b" \xe2\x82X\n")
    assert "t is damaged UTF-8: got 0xe2 at byte 25 (line 2), which is no UTF-8 character" in refusal(
        text_source(tmp_path / "t")
    )
    (tmp_path / "t").write_bytes("Zeile 1: ä\nZeile 2: €".encode()[:-1])
    assert "0xe2 at byte 21 (line 2), where it ends inside a character; remove the last 2 bytes" in refusal(
        text_source(tmp_path / "t")
    )
    (tmp_path / "t").write_bytes("Zeile 1: ä\nZeile 2: €".encode() + b" \xe2\x82X\n")
    with pytest.raises(CorpusError, match="at byte 25"):
        text_sha256(text_source(tmp_path / "t"))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"It was a truth. " * 8000 + "größer ".encode() * 3000 + b"\xe9 " + "größer ".encode() * 30, "0xe9 at byte"),
        (("naïve café " * 9000).encode()[:-2], "where it ends inside a character; remove the last byte"),
        ((JAPANESE * 99).encode()[:-1], "where it ends inside a character; remove the last 2 bytes"),
        ((RUSSIAN * 99).encode() + b"\x96" + RUSSIAN.encode(), "0x96 at byte"),
        ("one é, then ".encode() + b"plain " * 20_000 + RUSSIAN.encode("cp1251"), "which is no UTF-8 character"),
        (codecs.BOM_UTF8 + b"It was \xe9.", "got 0xe9 at byte 10 (line 1)"),
        (b"plain " * 20_000 + "€".encode()[:2], "0xe2 at byte 120,000 (line 1), where it ends inside a character"),
    ],
)
def test_a_damaged_utf8_text_is_not_taken_for_another_encoding(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "t").write_bytes(data)
    for named in ("",) if data[:HEAD_BYTES].isascii() else ("", "cp1252", "koi8-r"):
        message = refusal(text_source(tmp_path / "t", encoding=named))
        assert "t is damaged UTF-8: got 0x" in message
        assert problem in message
        assert "set encoding" not in message
        assert "looks like" not in message


def test_a_character_that_happens_to_be_utf8_does_not_make_a_text_utf8(tmp_path: Path) -> None:
    data = "通".encode("gb18030") + (CHINESE * 9).encode("gb18030")
    assert len(data[:2].decode()) == 1
    (tmp_path / "t").write_bytes(data)
    assert ": set encoding=gb18030" in refusal(text_source(tmp_path / "t"))


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_an_incomplete_character_at_the_end_of_a_block_is_no_valid_one(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", block)
    (tmp_path / "t").write_bytes("the cat sat in a café too".encode("cp1252"))
    assert "t is not UTF-8: got 0xe9 at byte 20 (line 1)" in refusal(text_source(tmp_path / "t"))


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("byte", [0x80, 0xE9, 0xFF])
def test_no_encoding_is_guessed_from_a_last_byte_alone(
    tmp_path: Path, byte: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", block)
    (tmp_path / "t").write_bytes(b"It was\na caf" + bytes([byte]))
    message = refusal(text_source(tmp_path / "t"))
    assert f"got 0x{byte:02x} at byte 12 (line 2), the last byte and the only one beyond ASCII" in message
    assert "remove it, set encoding to that of the text, or set allow_binary=true to use its bytes" in message
    with pytest.raises(ConfigError, match=r"prompt is not UTF-8: got 0x.. at .*, the last byte and the only one"):
        prompt_text((tmp_path / "t").read_bytes(), "prompt")
    (tmp_path / "t").write_bytes(b"It was\na caf" + bytes([byte]) + b"!")
    assert "the last byte" not in refusal(text_source(tmp_path / "t"))


def test_a_damaged_text_with_a_byte_order_mark_is_not_to_be_read_with_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes("It was".encode("utf-16")[:-1])
    message = refusal(text_source(tmp_path / "t"))
    assert "t is not utf-16: truncated data at byte 12 (line 1); restore it, or set allow_binary=true" in message
    assert "set encoding" not in message


def test_a_text_that_is_not_in_the_named_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"It was\n\xff\xff")
    message = refusal(text_source(tmp_path / "t", encoding="ascii"))
    assert (
        "t is not ascii: ordinal not in range(128) at byte 7 (line 2); set encoding to that of the text, or" in message
    )
    (tmp_path / "t").write_bytes("It was".encode("utf-16")[:-1])
    assert "t is not utf-16: truncated data at byte 12" in refusal(text_source(tmp_path / "t"))


def test_any_bytes_are_text_where_binary_data_is_allowed(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9
    for name in ("t", "t.gz", "t.jsonl", "t.parquet"):
        (tmp_path / name).write_bytes(data)
        assert b"".join(TextReader(text_source(tmp_path / name, allow_binary=True)).contents()) == data


def test_binary_data_is_refused_in_a_named_encoding_as_well(tmp_path: Path) -> None:
    for data in (bytes(range(256)) * 9, b"%PDF-1.7 It was.", b"\xff\xfe" + bytes(range(256)) * 99):
        (tmp_path / "t").write_bytes(data)
        assert "t is not plain text: got " in refusal(text_source(tmp_path / "t", encoding="latin-1"))


def test_ascii_is_utf8_unless_an_encoding_is_named() -> None:
    assert find_encoding(b"plain", "") == "utf-8"
    assert find_encoding(b"plain", "latin-1") == "iso8859-1"
    assert find_encoding("ä".encode(), "latin-1") == "utf-8"
    assert find_encoding("ää".encode()[:-1], "latin-1") == "utf-8", "a character may be cut"
    assert find_encoding(b"\xe4", "latin-1") == "iso8859-1"


def test_blocks_of_utf8_are_passed_on_as_they_are() -> None:
    blocks = [b"a\xc3", b"\xa4", b"b\r\n\0"]
    assert list(utf8_blocks(blocks, "utf-8", "t")) == blocks
