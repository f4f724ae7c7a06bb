"""Texts of the records of JSON Lines, CSV and Parquet files: one document per line or row."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from gpt_core.errors import CorpusError, install_hint
from gpt_core.progress import Progress

MAX_LINE_BYTES = 64 << 20  # which are decoded at once, and of a field of CSV
ROWS_PER_BATCH = 256  # of a Parquet file; its rows are decoded page by page
PAGE_BUFFER_BYTES = 1 << 20
_MAX_LISTED_FIELDS = 10
_MAX_NAME_CHARACTERS = 40  # shown of each; the first row of a table without names may be a text
_DELIMITERS = ",;\t"
_AS_TEXT = "read the file as plain text under a name that ends in .txt"


def json_texts(blocks: Iterable[bytes], field: str, name: str) -> Iterator[bytes]:
    """Yield the text of each line of a JSON Lines file in UTF-8. Blank lines, and lines where it is null, have none.

    Args:
        blocks: Contents of the file.
        field: Name of the field with the text.
        name: Name of the file, for error messages.

    Raises:
        CorpusError: A line is not a JSON object with this field, or is longer than 64 MiB.
    """
    record = msgspec.defstruct("Record", [("text", str | None)], rename={"text": field})
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(record)
    remedy = "expected one JSON object per line; is it a single JSON array? `jq -c '.[]'` writes one line per object"
    for number, line in enumerate(_lines(blocks, name, remedy), 1):
        if not line.strip():
            continue
        try:
            text = decoder.decode(line).text
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            text = _text_of_unusual_line(line, field, f"{name}: line {number:,}")
        if text is not None:
            yield text.encode("utf-8", "replace")


def _lines(blocks: Iterable[bytes], name: str, remedy: str) -> Iterator[bytes]:
    """Yield the lines. Raises CorpusError for one of more than 64 MiB, with what to do."""
    rest = bytearray()
    lines = 0
    for block in blocks:
        *ended, last = block.split(b"\n")
        for line in ended:
            yield bytes(rest) + line
            rest.clear()
        lines += len(ended)
        rest += last
        if len(rest) > MAX_LINE_BYTES:
            raise CorpusError(f"{name}: line {lines + 1:,} is longer than {MAX_LINE_BYTES >> 20} MiB; {remedy}")
    yield bytes(rest)


def _text_of_unusual_line(line: bytes, field: str, place: str) -> str | None:
    """Return the text of a line that the fast decoder refuses: with half a surrogate pair, or an error to explain.

    Raises:
        CorpusError: Names the line and what is wrong with it.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise CorpusError(
            f'{place} is not JSON: {why}; expected an object such as {{{json.dumps(field)}: "…"}}, or {_AS_TEXT}'
        ) from None
    if not isinstance(value, dict):
        raise CorpusError(f"{place}: got {_kind(value)}, expected a JSON object with the field {field!r}")
    if field not in value:
        raise _missing_field(place, field, value)
    text = value[field]
    if text is not None and not isinstance(text, str):
        raise CorpusError(
            f"{place}: the field {field!r} is {_kind(text)}, expected text; set text_field to another field"
        )
    return text


def _kind(value: object) -> str:
    """Return the kind of a JSON value."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return {"list": "an array", "dict": "an object", "str": "a string"}.get(type(value).__name__, "a number")


def _missing_field(place: str, field: str, known: Iterable[str], otherwise: str = "") -> CorpusError:
    names = [name if len(name) <= _MAX_NAME_CHARACTERS else f"{name[:_MAX_NAME_CHARACTERS]}…" for name in known]
    listed = ", ".join(names[:_MAX_LISTED_FIELDS]) + (", …" if len(names) > _MAX_LISTED_FIELDS else "")
    return CorpusError(
        f"{place} has no field {field!r}: got {listed or 'none'}; set text_field to the one with the text{otherwise}"
    )


def csv_texts(blocks: Iterable[bytes], field: str, name: str) -> Iterator[bytes]:
    """Yield the text of each row of a CSV file. The first row names the fields; its delimiter is that of all rows.

    Args:
        blocks: Contents of the file in UTF-8.
        field: Name of the field with the text.
        name: Name of the file, for error messages.

    Raises:
        CorpusError: There is no such field, a row does not have it or has more fields than there are names, or the file
            is not CSV.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))  # of this process; by default 128 KiB
    lines = (line.decode() + "\n" for line in _lines(blocks, name, _AS_TEXT))
    before, first = next(((n, line) for n, line in enumerate(lines) if not line.isspace()), (0, ""))
    if not first:
        return
    rows = csv.reader(itertools.chain((first,), lines), delimiter=max(_DELIMITERS, key=first.count), strict=True)
    try:
        names = [field_name.strip() for field_name in next(rows)]
        if field not in names:
            raise _missing_field(name, field, names, f", or {_AS_TEXT}")
        column = names.index(field)
        for row in rows:
            if 0 < len(row) <= column or any(row[len(names) :]):  # else its text is cut, or that of another field
                place = f"{name}: line {before + rows.line_num:,}"
                raise CorpusError(
                    f"{place}: number of fields: got {len(row)}, expected {len(names)}; "
                    f"correct the row (fields with delimiters are in quotes), or {_AS_TEXT}"
                )
            if row:
                yield row[column].encode()
    except csv.Error as error:
        raise CorpusError(
            f"{name}: line {before + rows.line_num:,} is not CSV: {str(error).partition(' - ')[0]}; correct it (fields "
            f"with quotes or line breaks are in quotes, which are doubled within), or {_AS_TEXT}"
        ) from None


def parquet_texts(path: Path, field: str, progress: Progress) -> Iterator[bytes]:
    """Yield the text of each row of a Parquet file in UTF-8; none for a row where it is null.

    Args:
        path: File to read.
        field: Name of the column with the text.
        progress: Receives the fraction of the rows that were read, before their texts are yielded.

    Raises:
        CorpusError: The file is not a Parquet file with this column, or pyarrow is not installed.
    """
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise CorpusError(
            f"{path} is a Parquet table, but pyarrow is not installed; {install_hint('parquet')}"
        ) from None
    try:
        # not memory-mapped: a map of a file that shrinks ends the process
        with open(path, "rb") as file, parquet.ParquetFile(file, buffer_size=PAGE_BUFFER_BYTES) as table:
            _require_text_column(table.schema_arrow, field, path)
            rows = 0
            for batch in table.iter_batches(ROWS_PER_BATCH, columns=[field], use_threads=False):
                rows += batch.num_rows
                progress("", rows / max(1, table.metadata.num_rows))
                yield from (text.encode() for text in batch.column(0).to_pylist() if text is not None)
    except (arrow.ArrowException, OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise CorpusError(f"{path} cannot be read as Parquet: {why}; restore it from its source") from None


def _require_text_column(schema: Any, field: str, path: Path) -> None:
    """Raise CorpusError unless the table has a column of strings with this name."""
    if field not in schema.names:
        raise _missing_field(str(path), field, schema.names)
    kind = str(schema.field(schema.names.index(field)).type)  # of columns with the same name, the first one
    if not ("string" in kind and "<" not in kind.removeprefix("dictionary<values=")):
        raise CorpusError(
            f"{path}: the field {field!r} is of type {kind}, expected string; set text_field to another field"
        )
