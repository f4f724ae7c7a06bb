"""Texts of several files and kinds: their documents, their digest, and the refusal of what is no text."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_core.config.settings import Settings
from gpt_core.errors import CorpusError
from gpt_core.text import compression, corpus, records
from gpt_core.text import documents as documents_module
from gpt_core.text.compression import decompressed
from gpt_core.text.preview import read_text_preview
from gpt_core.text.reader import (
    TextReader,
    documents,
    first_lines,
    markup_note,
    require_readable,
    sample_texts,
    text_sha256,
)
from gpt_core.text.shuffled_documents import document_starts
from gpt_core.text.source import TextSource, text_source
from gpt_core.text.token_cache import load_or_train_tokenizer, load_tokens
from gpt_core.text.token_stream import split_held_out
from gpt_core.training.setup import text_note
from tests.core.text_samples import PIECES

GERMAN = "Über die Brücke.\n\nZwei."
ENGLISH = "One line\nand another.\n\nA second paragraph.\n"


def json_lines(*texts: str | None, field: str = "text") -> bytes:
    return b"".join(json.dumps({"id": number, field: text}).encode() + b"\n" for number, text in enumerate(texts))


def zstd(data: bytes) -> bytes:
    compressed: bytes = pytest.importorskip("zstandard").compress(data)
    return compressed


def write_parquet(path: Path, texts: list[str | None], field: str = "text", **options: object) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"n": list(range(len(texts))), field: texts}), path, **options)


def file(path: Path, data: bytes) -> TextSource:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return text_source(path)


def refusal(source: TextSource, function: Callable[[TextSource], object] = lambda s: list(documents(s, "line"))) -> str:
    with pytest.raises(CorpusError) as caught:
        function(source)
    assert str(caught.value).isprintable(), "an error is one line"
    return str(caught.value)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of texts of every kind that the standard library reads."""
    folder = tmp_path / "mixed"
    file(folder / "a.txt", ENGLISH.encode())
    file(folder / "b.txt", GERMAN.encode("utf-16"))
    file(folder / "c.txt.gz", gzip.compress(b"Zipped.\n\nTwice.\n\n"))
    file(folder / "d.jsonl", json_lines("A record.\n\nStill it.", None, "", " \n", "Another."))
    file(folder / "sub/e.ndjson.gz", gzip.compress(b"\xef\xbb\xbf" + json_lines("ä\u2028b")))
    file(folder / "sub/f.txt", b"")
    file(folder / "sub/g.txt", b"The end without a line break")
    return folder


MIXED = [
    "One line\nand another.", "A second paragraph.", "Über die Brücke.", "Zwei.", "Zipped.", "Twice.",
    "A record.\n\nStill it.", "Another.", "ä\u2028b", "The end without a line break",
]  # fmt: skip


def test_a_folder_of_mixed_files_is_their_documents_in_order_and_none_spans_two_files(mixed: Path) -> None:
    source = text_source(mixed)
    assert [part.decode() for part in documents(source, "paragraph")] == MIXED
    assert all(ends for _, ends in TextReader(source).parts("paragraph"))
    as_files = [part.decode() for part in documents(source, "file")]
    assert as_files == [ENGLISH, GERMAN, "Zipped.\n\nTwice.\n\n", *MIXED[6:]]
    assert first_lines(source, 3) == [b"One line", b"and another.", b"A second paragraph."]
    assert [line.decode() for line in first_lines(source, 99)][7:9] == ["A record.", "Still it."]


def test_tokens_of_mixed_files_are_those_of_their_documents_and_are_cached_once(mixed: Path) -> None:
    source = text_source(mixed)
    expected = [id for text in MIXED for id in (1, *PIECES.encode(text.encode()).tolist(), 2)]
    for _ in range(2):
        text = load_tokens(source, PIECES, "paragraph")
        assert text.read(0, len(text)).tolist() == expected
        assert text.documents == len(MIXED)
        assert text.sha256 == text_sha256(source)
        assert len(list(mixed.glob("mixed.tokens-*"))) == 1
    assert text_source(mixed).files == source.files, "caches are not texts"
    records_and_text = sum(len(text.encode()) for text in MIXED[6:]) + 3  # the blank record counts, too
    texts = len(ENGLISH.encode()) + len(GERMAN.encode()) + len("Zipped.\n\nTwice.\n\n")
    assert text.bytes in (records_and_text + texts, records_and_text + texts - 1)
    load_or_train_tokenizer(source, 300)
    assert len(list(mixed.glob("mixed.pieces-*"))) == 1
    (mixed / "a.txt").write_text("Changed.\n")
    load_tokens(source, PIECES, "paragraph")
    assert len(list(mixed.glob("mixed.tokens-*"))) == 1, "the cache of the earlier text is removed"


def test_the_held_out_part_of_several_files_is_the_end_of_the_last_ones(tmp_path: Path) -> None:
    for number in range(10):
        file(tmp_path / "t" / f"{number}.txt", f"Document {number}.\n\nAnd more of {number}.\n".encode())
    train, held_out = split_held_out(load_tokens(text_source(tmp_path / "t"), PIECES, "paragraph"), 0.2)
    assert (train.documents, held_out.documents) == (16, 4)
    assert b"Document 8." in PIECES.decode(held_out.read(0, len(held_out)).tolist())
    assert b"of 7." in PIECES.decode(train.read(0, len(train)).tolist())


def test_the_digest_of_one_plain_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    for data in (ENGLISH.encode(), b"\xef\xbb\xbf" + GERMAN.encode()):
        source = file(tmp_path / "t" / "t.txt", data)
        assert text_sha256(source) == hashlib.sha256(data).hexdigest()
        assert text_sha256(text_source(tmp_path / "t")) == hashlib.sha256(data).hexdigest()


def test_the_digest_depends_on_every_byte_and_on_how_the_files_are_read(mixed: Path) -> None:
    source = text_source(mixed)
    seen = {text_sha256(source), text_sha256(text_source(mixed, allow_binary=True))}
    lines = mixed / "d.jsonl"
    lines.write_bytes(lines.read_bytes().replace(b"}", b', "title": "x"}'))
    seen |= {text_sha256(source), text_sha256(text_source(lines)), text_sha256(text_source(lines, text_field="title"))}
    plain = file(mixed / "plain.txt", lines.read_bytes())
    seen |= {text_sha256(text_source(mixed)), text_sha256(plain)}
    (mixed / "sub/g.txt").rename(mixed / "sub/0.txt")
    seen.add(text_sha256(text_source(mixed)))
    assert len(seen) == 8
    reader = TextReader(text_source(mixed))
    assert list(reader.parts("line"))
    assert reader.sha256 == text_sha256(text_source(mixed)), "the digest of what was encoded is that of the files"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_may_hold_several_streams(tmp_path: Path, suffix: str) -> None:
    compress = gzip.compress if suffix == ".gz" else zstd
    data = compress(b"One.\n") + compress(b"") + compress(b"Two.\n" * 9) + bytes(512)
    assert list(documents(file(tmp_path / f"t.txt{suffix}", data), "line")) == [b"One."] + [b"Two."] * 9


def test_zstd_data_may_begin_with_a_frame_to_skip(tmp_path: Path) -> None:
    def skipped(code: int) -> bytes:  # as pzstd writes before each frame
        return bytes([code]) + b"\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"

    data = b"".join(skipped(0x50 + n) + zstd(text) for n, text in enumerate((b"a\n\n", b"b\n")))
    assert list(documents(file(tmp_path / "t.zst", data), "line")) == [b"a", b"b"]


def test_zstd_data_may_have_a_window_of_2_gib(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    header = compression.MAGIC[".zst"][0] + bytes([0, (31 - 10) << 3])  # as `zstd --long=31` writes for a pipe
    last_block = (len(b"One.\n") << 3 | 1).to_bytes(3, "little") + b"One.\n"
    assert list(documents(file(tmp_path / "t.txt.zst", header + last_block), "line")) == [b"One."]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_damaged_compressed_file_is_refused(tmp_path: Path, suffix: str) -> None:
    draw = random.Random(0)
    data = (gzip.compress if suffix == ".gz" else zstd)(draw.randbytes(4000).hex().encode())
    for size in (len(data) - 1, len(data) // 2, 20):
        assert f"t{suffix} is damaged: " in refusal(file(tmp_path / f"t{suffix}", data[:size]))
    damaged = data[:8] + b"\xff" * 8 + data[16:]
    assert "restore it from its source" in refusal(file(tmp_path / f"t{suffix}", damaged))
    assert f"t{suffix} is not " in refusal(file(tmp_path / f"t{suffix}", b""))
    assert "compressed data: got plain text" in refusal(file(tmp_path / f"t{suffix}", b"plain text"))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_memory_is_bounded_however_far_a_file_expands(tmp_path: Path, suffix: str) -> None:
    if suffix == ".gz":
        encoder = zlib.compressobj(9, wbits=31)
        data = b"".join(encoder.compress(bytes(1 << 20)) for _ in range(60)) + encoder.flush()
    else:
        data = zstd(bytes(60 << 20))
    tracemalloc.start()
    try:
        size = sum(len(block) for block in decompressed([data], suffix, "t"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 60 << 20
    assert peak < 40 << 20


def test_zstd_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(compression, "import_module", not_found)
    monkeypatch.setattr(records, "import_module", not_found)
    message = refusal(file(tmp_path / "t.zst", b"\x28\xb5\x2f\xfd" + bytes(20)))
    assert "run `pip install '.[zstd]'` in the clone of gpt-tui, or decompress the file with `unzstd`" in message
    message = refusal(file(tmp_path / "t.parquet", b"PAR1" + bytes(20)))
    assert "run `pip install '.[parquet]'` in the clone of gpt-tui" in message


def test_each_line_of_json_is_a_document_in_the_named_field(tmp_path: Path) -> None:
    data = b'\n{"body": "a\\nb", "text": 1}\r\n{"text": [{"x": {}}], "body": "\\u00e4\\ud83d\\ude00"}\n \n{"body":null}'
    source = text_source(file(tmp_path / "t.jsonl", data).files, text_field="body")
    for kind in ("paragraph", "line", "file"):
        assert list(documents(source, kind)) == [b"a\nb", "ä😀".encode()]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", 'n,body\r\n1,"Über ""a"", b\nand on"\r\n2,\r\n3,c\r\n'),
        ("t.csv", 'n;body;x\n1;"Über ""a"", b\nand on"\n\n3;c;;'),
        ("t.tsv", '\ufeff\n body \tn\n"Über ""a"", b\nand on"\t1\nc\t3\n'),
        ("t.csv.gz", 'body\n"Über ""a"", b\nand on"\nc\n'),
    ],
)
def test_each_row_of_csv_is_a_document_in_the_named_field(name: str, data: str, tmp_path: Path) -> None:
    raw = gzip.compress(data.encode()) if name.endswith(".gz") else data.encode()
    source = text_source(file(tmp_path / name, raw).files, text_field="body")
    assert list(documents(source, "line")) == ['Über "a", b\nand on'.encode(), b"c"]
    assert text_sha256(source) != text_sha256(text_source(source.files, allow_binary=True))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            "id,body\n1,a",
            "t.csv has no field 'text': got id, body; set text_field to the one with the text, or read the",
        ),
        (
            "It was a dark and stormy night, " * 9,
            "t.csv has no field 'text': got It was a dark and stormy night, It was",
        ),
        ("Itwasadarkandstormynight" * 9, f"got {('Itwasadarkandstormynight' * 9)[:40]}…; set"),
        ('\nid,text\n1,"a\nb"\n2\n', "t.csv: line 5: number of fields: got 1, expected 2; correct the row (fields"),
        ("text\na\nb, c\n", "t.csv: line 3: number of fields: got 2, expected 1; correct the row (fields with"),
        ("id,title,text\n1,a, b,c\n", "t.csv: line 2: number of fields: got 4, expected 3; correct"),
        ('id,text\n1,"a" b\n', "t.csv: line 2 is not CSV: ',' expected after '\"'; correct it"),
        ('id,text\n1,"a\n2,b\n', "is not CSV: unexpected end of data; correct it"),
        ("id,text\r1,a\r2,b\r", "t.csv: line 1 is not CSV: new-line character seen in unquoted field; correct it"),
    ],
)
def test_what_is_no_csv_with_the_field_is_named_with_what_is_wrong(data: str, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(file(tmp_path / "t.csv", data.encode()))


def test_a_field_of_csv_may_be_as_long_as_a_line_of_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = file(tmp_path / "t.csv", b'id,text\n1,"' + b"word\n" * 100_000 + b'"\n')
    assert b"".join(documents(source, "line")) == b"word\n" * 100_000
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 1 << 20)
    message = refusal(file(tmp_path / "t.csv", b"id,text\n1," + b"x" * (3 << 20)))
    assert "t.csv: line 2 is longer than 1 MiB; read the file as plain text under a name that ends in .txt" in message


def test_markup_that_is_read_as_text_is_named(tmp_path: Path) -> None:
    page = file(tmp_path / "a.html", b"<p>A text.</p>")
    assert markup_note(page).startswith(f"{page.name} is read as plain text, with all HTML marks; extract the text")
    file(tmp_path / "b.JSON.gz", gzip.compress(b'["A text."]'))
    file(tmp_path / "c.txt", b"A text.")
    folder = text_source(tmp_path)
    assert f"{page.name} (and 1 more) is read as plain text" in markup_note(folder)
    assert ".jsonl" in markup_note(text_source(tmp_path / "b.JSON.gz"))
    assert markup_note(text_source(tmp_path / "c.txt")) == ""
    assert markup_note(text_source(tmp_path, allow_binary=True)) == ""
    assert markup_note(folder) == text_note(Settings(train_file=str(tmp_path)), folder)


def test_half_a_surrogate_pair_in_json_does_not_end_the_reading(tmp_path: Path) -> None:
    source = file(tmp_path / "t.jsonl", b'{"text": "a\\ud800b"}\n{"x": "\\udfff", "text": "c"}\n')
    assert list(documents(source, "line")) == [b"a?b", b"c"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"body": "x", "id": 1}', "line 2 has no field 'text': got body, id; set text_field to the one"),
        (b"{}", "line 2 has no field 'text': got none"),
        (b'{"text": 5}', "line 2: the field 'text' is a number, expected text; set text_field to another field"),
        (b'{"text": ["a"]}', "line 2: the field 'text' is an array"),
        (b'{"text": true}', "line 2: the field 'text' is true"),
        (b'["a"]', "line 2: got an array, expected a JSON object with the field 'text'"),
        (b'"a"', "line 2: got a string"), (b'{"text": "a', "line 2 is not JSON: Unterminated string"),
        (b"plain words", "line 2 is not JSON: "), (b"[" * 100_000, "line 2 is not JSON: RecursionError"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_named_with_what_is_wrong(tmp_path: Path, line: bytes, expected: str) -> None:
    assert f"t.jsonl: {expected}" in refusal(file(tmp_path / "t.jsonl", b'{"text": "a"}\n' + line + b"\n"))


def test_a_line_of_json_without_end_is_refused_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 1 << 20)
    message = refusal(file(tmp_path / "t.jsonl", b"[" + b'{"text": "a"},' * 300_000))
    assert "line 1 is longer than 1 MiB" in message
    assert "`jq -c '.[]'`" in message


def test_a_long_record_is_cut_like_a_long_document(tmp_path: Path) -> None:
    text = "é" * 3_000_000
    parts = list(TextReader(file(tmp_path / "t.jsonl", json_lines(text, "b"))).parts("line"))
    assert b"".join(part for part, _ in parts[:-1]).decode() == text
    assert [ends for _, ends in parts] == [False] * (len(parts) - 2) + [True, True]
    assert max(len(part) for part, _ in parts) <= 2 * documents_module.PART_BYTES


def test_each_row_of_a_parquet_file_is_a_document(tmp_path: Path) -> None:
    texts = [f"Row {number}.\n\nSame row." for number in range(700)]
    path = tmp_path / "t.parquet"
    write_parquet(path, [*texts, None, "ä"], "story", row_group_size=100)
    source = text_source(path, text_field="story")
    assert [part.decode() for part in documents(source, "line")] == [*texts, "ä"]
    before = text_sha256(source)
    assert load_tokens(source, PIECES, "line").sha256 == before
    assert "t.parquet has no field 'text': got n, story; set text_field" in refusal(text_source(path))
    assert "the field 'n' is of type int64, expected string" in refusal(text_source(path, text_field="n"))
    arrow = pytest.importorskip("pyarrow")
    twice = arrow.Table.from_arrays([arrow.array([text]) for text in "ab"], names=["text", "text"])
    pytest.importorskip("pyarrow.parquet").write_table(twice, tmp_path / "twice.parquet")
    assert list(documents(text_source(tmp_path / "twice.parquet"), "line")) == [b"a"]
    path.write_bytes(path.read_bytes()[:-200])
    assert "t.parquet cannot be read as Parquet: " in refusal(source)


ZIPPED = gzip.compress(b"text", mtime=0)  # a time would be part of the name of the test


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("t.txt", ZIPPED, "got gzip-compressed data, expected UTF-8; give it a name that ends in .gz"),
        ("t.txt", b"\x28\xb5\x2f\xfd" + bytes(99), "got zstd-compressed data, expected UTF-8; give it a name that"),
        ("t.txt", b"PAR1" + bytes(99), "got a Parquet table, expected UTF-8; give it a name that ends in .parquet"),
        ("t.txt", "wide".encode("utf-16-le"), "got UTF-16 text, expected UTF-8; set encoding=utf-16-le"),
        ("t.md", b"%PDF-1.7 text", "got a PDF document, expected UTF-8; extract its text"),
        ("t.docx", b"PK\x03\x04" + bytes(99), "got a zip archive (or a document such as .docx"),
        ("t.jsonl", b"\x89PNG\r\n\x1a\n" + bytes(99), "got a PNG image"),
        ("t.txt.gz", gzip.compress(b"\x89PNG\r\n\x1a\n" + bytes(99), mtime=0), "got a PNG image"),
        ("t.parquet", b"plain text", "is not a Parquet table: got plain text"),
        ("t.gz", b"%PDF-1.7 text", "is not gzip-compressed data: got a PDF document"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused_with_what_it_looks_like(
    tmp_path: Path, name: str, data: bytes, expected: str
) -> None:
    file(tmp_path / "t" / "a.txt", b"text")
    file(tmp_path / "t" / "b" / name, data)
    for source in (text_source(tmp_path / "t" / "b" / name), text_source(tmp_path / "t")):
        for function in (lambda source: read_text_preview(source, "line"), require_readable, text_sha256):
            message = refusal(source, function)
            assert f"b/{name}" in message
            assert expected in message
    if "is not plain text" in message and not name.endswith(".txt"):
        assert message.endswith(f"to leave it out, name the texts by a pattern such as '{tmp_path}/t/**/*.txt'")


def test_the_pattern_that_leaves_a_file_out_has_the_suffix_of_a_text(tmp_path: Path) -> None:
    for number in range(3):
        file(tmp_path / "t" / f"{number}.png", b"\x89PNG\r\n\x1a\n" + bytes(99))
    file(tmp_path / "t" / "a.pdf", b"%PDF-1.7")
    file(tmp_path / "t" / "b.md", b"text")
    assert refusal(text_source(tmp_path / "t"), text_sha256).endswith(f"such as '{tmp_path}/t/**/*.md'")
    (tmp_path / "t" / "b.md").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    assert refusal(text_source(tmp_path / "t"), text_sha256).endswith("to use its bytes as they are")


def test_reading_many_files_reports_one_progress(mixed: Path) -> None:
    reports: list[tuple[str, float]] = []
    load_tokens(text_source(mixed), PIECES, "line", progress=lambda *report: reports.append(report))
    assert {activity for activity, _ in reports} == {"reading mixed", "encoding mixed"}
    assert all(0 <= fraction <= 1 for _, fraction in reports)
    assert len({fraction for _, fraction in reports}) > 3


def test_samples_of_a_long_text_of_several_files_come_from_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", 1 << 10)
    for number in range(40):
        file(tmp_path / "t" / f"{number:02}.txt", (f"{number:02} " * 300 + "\n\n").encode() * 2)
    source = text_source(tmp_path / "t")
    texts = list(sample_texts(source, "paragraph", 20 << 10))
    assert len(b"".join(texts)) < 40 << 10
    assert len({text[:2] for text in texts}) > 15
    assert len(list(sample_texts(source, "paragraph", 1 << 20))) == 80


class StoppedError(Exception):
    """Raised to stop what reports its progress."""


def stops_while(activity: str, function: Callable[..., object], *arguments: object, after: float = 0.0) -> bool:
    """Return True if a function ends at a report of this activity that raises, with a fraction above `after`."""

    def stop(found: str, fraction: float) -> None:
        if found == activity and fraction > after:
            raise StoppedError

    try:
        function(*arguments, progress=stop)
    except StoppedError:
        return True
    return False


@pytest.mark.parametrize("name", ["t.txt", "t.txt.gz", "t.jsonl", "t.parquet"])
def test_opening_a_text_can_be_stopped_while_it_is_sampled_encoded_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr("gpt_core.text.token_file.BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(records, "ROWS_PER_BATCH", 100)
    words = random.Random(0)
    lines = [" ".join(f"{words.random():.5f}" for _ in range(10)) for _ in range(1000)]
    text, path = "\n\n".join(lines).encode(), tmp_path / name
    if name.endswith("parquet"):
        write_parquet(path, lines)
    else:
        path.write_bytes({"gz": gzip.compress(text), "jsonl": json_lines(*lines)}.get(name.split(".")[-1], text))
    source = text_source(path)
    train, load = (load_or_train_tokenizer, source, 300), (load_tokens, source, PIECES, "paragraph")
    assert stops_while(f"training the tokenizer on {name}", *train, after=0.3)
    assert stops_while(f"encoding {name}", *load, after=0.3)
    assert stops_while(f"checking the tokens of {name}", *load, after=0.3)
    tokens = load_tokens(source, PIECES, "paragraph")
    assert stops_while(f"checking the tokens of {name}", *load, after=0.3), "the tokens are cached"
    monkeypatch.setattr("gpt_core.text.token_stream.SEARCH_TOKENS", 1 << 10)
    assert stops_while("counting the bytes of the text", split_held_out, tokens, 0.1, after=0.3)
    monkeypatch.setattr("gpt_core.text.shuffled_documents.SCANNED", 1 << 10)
    assert stops_while("finding the documents of the text", document_starts, tokens, after=0.3)


# previews


def test_the_preview_of_a_short_text_is_exact(mixed: Path) -> None:
    found = read_text_preview(text_source(mixed), "paragraph")
    assert (found.documents, found.is_exact) == (len(MIXED), True)
    assert found.words == "One line and another. / A second paragraph."
    assert found.raw_bytes == sum(path.stat().st_size for path in mixed.rglob("*.*"))


def test_the_preview_of_a_long_text_estimates_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt_core.text.preview.MAX_READ_BYTES", 1 << 16)
    monkeypatch.setattr(corpus, "BLOCK_BYTES", 1 << 12)
    draw = random.Random(0)
    lines = [f"Line {draw.random()} of the text.\n\n" for _ in range(20_000)]
    size = len("".join(lines))
    for number in range(4):
        part = "".join(lines[number * 5000 : (number + 1) * 5000])
        file(tmp_path / "plain" / f"{number}.txt", part.encode())
        file(tmp_path / "zip" / f"{number}.txt.gz", gzip.compress(part.encode()))
        file(tmp_path / "wide" / f"{number}.txt", part.encode("utf-16"))
    for folder in ("plain", "zip", "wide"):
        found = read_text_preview(text_source(tmp_path / folder), "paragraph")
        assert not found.is_exact
        assert found.documents == pytest.approx(20_000, rel=0.1)
        assert found.text_bytes == pytest.approx(size, rel=0.1)
        assert found.words.startswith(lines[0].strip())
    assert read_text_preview(text_source(tmp_path / "plain"), "line").text_bytes == pytest.approx(size, rel=0.001)


def test_the_preview_of_a_long_table_reads_only_some_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_core.text.preview.MAX_READ_BYTES", 1 << 16)
    draw = random.Random(0)
    texts: list[str | None] = [f"Row {number}: {draw.random()} {draw.random()}" for number in range(20_000)]
    write_parquet(tmp_path / "t.parquet", texts)
    source = text_source(tmp_path / "t.parquet")
    found = read_text_preview(source, "paragraph")
    assert not found.is_exact
    assert found.words.startswith(f"{texts[0]} / Row 1: ")
    assert found.documents == pytest.approx(20_000, rel=0.2)
    assert found.text_bytes == pytest.approx(sum(len(text or "") for text in texts), rel=0.2)
    assert len(first_lines(source, 5)) == 5


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"", "0 bytes"),
        (b" \n\n", "only white space"),
        (b"\xef\xbb\xbf", "only a byte order mark"),
        (b"\xff\xfe", "only a byte order mark"),
        (b"\xef\xbb\xbf\n", "only white space"),
    ],
)
def test_an_empty_text_is_told_from_one_of_white_space_or_a_mark(data: bytes, got: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(data)
    with pytest.raises(CorpusError, match=f"text.txt is empty: got {got}, expected text; name another file"):
        first_lines(text_source(tmp_path / "text.txt"), 1)
