"""Texts in other encodings than UTF-8: their recognition and the note about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_core.file_kinds import is_utf8
from gpt_core.text.corpus import encoding_note

GERMAN, CHINESE = "Über die Brücke läuft Jörg. " * 20, "老人慢慢地走过旧桥，没有说话。" * 20


@pytest.mark.parametrize("text", [GERMAN, CHINESE, "plain ASCII", ""])
def test_utf8_is_recognized_also_where_the_head_ends_within_a_character(text: str) -> None:
    data = text.encode()
    assert all(is_utf8(data[:end]) for end in range(len(data) - 4, len(data) + 1) if end >= 0)


def test_a_few_stray_bytes_in_utf8_are_not_another_encoding() -> None:
    assert is_utf8(GERMAN.encode() + b"\xff\xfe\xfd" + GERMAN.encode())


@pytest.mark.parametrize(("text", "encoding"), [(GERMAN, "latin-1"), (GERMAN, "cp1252"), (CHINESE, "gb18030")])
def test_other_encodings_are_recognized_and_the_note_names_the_conversion(
    text: str, encoding: str, tmp_path: Path
) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(text.encode(encoding))
    assert not is_utf8(file.read_bytes())
    assert "is not UTF-8" in encoding_note(file)
    assert "iconv" in encoding_note(file)


def test_utf8_and_a_missing_file_have_no_note(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(GERMAN, encoding="utf-8")
    assert encoding_note(tmp_path / "text.txt") == encoding_note(tmp_path / "absent.txt") == ""
