"""Data that is not plain text is recognized by its first bytes; text in any encoding of bytes is not refused."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import zipfile

import pytest

from gpt_core.file_kinds import HEAD_BYTES, not_text

ENGLISH = "It was a dark night; the rat was at it again.\n\n" * 40
GERMAN = "Die Größe der Straße überraschte ihn.\r\n\r\n" * 40
CHINESE = "那是最好的时代,那是最坏的时代。人们面前应有尽有,人们面前一无所有。\n" * 40
HINDI = "यह सबसे अच्छा समय था, यह सबसे बुरा समय था।\n" * 40
RUSSIAN = "Это было лучшее из времён.\n" * 40
SAMPLES = {"English": ENGLISH, "German": GERMAN, "Chinese": CHINESE, "Hindi": HINDI, "Russian": RUSSIAN}


def zipped(text: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("t.txt"), text)
    return file.getvalue()


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_wide_encodings_are_recognized_with_and_without_a_byte_order_mark(sample: str, encoding: str) -> None:
    for data in (SAMPLES[sample].encode(encoding), SAMPLES[sample].encode(encoding)[:-1]):
        found = not_text(data)
        assert found is not None
        assert found.kind == f"{encoding[:6].upper()} text"
        assert "UTF-8" in found.remedy


@pytest.mark.parametrize("sample", SAMPLES)
def test_utf_8_is_text_with_and_without_a_byte_order_mark_also_where_a_character_is_cut(sample: str) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        data = SAMPLES[sample].encode(encoding)
        assert all(not_text(data[:size]) is None for size in range(len(data) - 8, len(data) + 1))
    assert not_text((SAMPLES[sample] * 40).encode()[:HEAD_BYTES]) is None


@pytest.mark.parametrize(
    ("encoding", "sample"),
    [("latin-1", GERMAN), ("cp1251", RUSSIAN), ("koi8-r", RUSSIAN), ("gbk", CHINESE), ("big5", "天地玄黃" * 100),
     ("shift-jis", "吾輩は猫である。\n" * 50), ("euc-jp", "吾輩は猫である。\n" * 50),
     ("iso2022_jp", "吾輩は猫である。\n" * 50)],
)  # fmt: skip
def test_other_encodings_of_bytes_are_text(encoding: str, sample: str) -> None:
    assert not_text(sample.encode(encoding)) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"a", b"\n", b"\x1b]0;title\x07\x1b[2J\x9b31m[red]\n" * 50, b"Z\xff\xfe\x80\xc3(" * 60,
     ENGLISH.encode() + b"\0", b"BZh is how some files begin", b"ID3 tags", b"PKzip", b"GIF89a is a format"],
)  # fmt: skip
def test_unusual_bytes_are_text_where_control_characters_are_rare(data: bytes) -> None:
    assert not_text(data) is None


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (gzip.compress(ENGLISH.encode(), mtime=0), "gzip"), (bz2.compress(ENGLISH.encode()), "bzip2"),
        (lzma.compress(ENGLISH.encode()), "xz"), (b"\x28\xb5\x2f\xfd\x24" + bytes(range(200)), "zstd"),
        (zipped(ENGLISH), "zip archive"), (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + ENGLISH.encode(), "PDF"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG"), (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "JPEG"),
        (b"GIF89a\x01\0\x01\0\x80\0\0", "GIF"), (b"\x7fELF\x02\x01\x01" + bytes(9), "ELF"),
        (b"t.txt".ljust(257, b"\0") + b"ustar\x0000", "tar archive"), (b"{\\rtf1\\ansi It was}", "RTF"),
        (bytes(5000), "binary data"), (random.Random(0).randbytes(20_000), "binary data"),
        (ENGLISH.encode() + b"\0" * 100, "text with NUL bytes"), (b"one\0two\n", "text with NUL bytes"),
        ("Ein kurzer\0 Satz mit ü und \0ß".encode(), "text with NUL bytes"), (b"ab\0", "text with NUL bytes"),
        (b"a\0\1bcdef", "text with NUL bytes"), (b"hello\1w", "text with control characters"),
        (b"\0\0\0", "binary data"), (b"a\0", "UTF-16 text"), ("ü".encode("utf-16-be"), "UTF-16 text"),
        ("हिंदी".encode("utf-16-le"), "UTF-16 text"), (b"a\0\0\0", "UTF-32 text"),
    ],
)  # fmt: skip
def test_compressed_files_documents_images_programs_and_binary_data_are_named(data: bytes, kind: str) -> None:
    found = not_text(data[:HEAD_BYTES])
    assert found is not None
    assert kind in found.kind


@pytest.mark.skipif(shutil.which("tr") is None, reason="there is no tr")
@pytest.mark.parametrize("data", [b"one\0two\n", bytes(range(127)) + b"text" * 20 + "ü\x7f".encode()])
def test_a_text_with_control_characters_can_be_cleaned_as_its_error_says(data: bytes) -> None:
    found = not_text(data)
    assert found is not None
    command = found.remedy.split("`")[1]
    cleaned = subprocess.run(["sh", "-c", command], input=data, capture_output=True, check=True).stdout
    assert not_text(cleaned) is None
