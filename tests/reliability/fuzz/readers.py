"""Fuzz targets: the readers of untrusted files, each as a function of bytes.

`read` passes the bytes to a reader as the content of a file. The reader must accept them or raise its documented error
with a message of one printable line; anything else is a finding. Accepted content must survive a round trip.

A fuzzer cannot guess checksums, so the first byte of an input selects whether they are corrected first.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from gpt_core import tokenizers
from gpt_core.bridges import gguf_export, gguf_model, huggingface
from gpt_core.bridges.importing import import_checkpoint
from gpt_core.config.resolve import read_overrides
from gpt_core.config.settings import Settings
from gpt_core.config.toml_file import as_toml
from gpt_core.errors import EXIT_BAD_INPUT, CheckpointError, ConfigError, CorpusError, GptError, TokenizerError
from gpt_core.formats import gguf
from gpt_core.formats.bundle import load_bundle
from gpt_core.formats.checkpoint import read_checkpoint, verify_checkpoint, write_checkpoint
from gpt_core.formats.checkpoint_header import peek_checkpoint
from gpt_core.model.parameters import initial_parameters
from gpt_core.text import corpus, documents, reader, token_cache, token_file
from gpt_core.text.source import text_source
from gpt_core.text.token_stream import encode_parts
from gpt_core.tokenizers import byte_level
from gpt_core.tokenizers.byte_pairs import BytePairTokenizer
from gpt_core.tokenizers.pieces import AsciiTokenizer, PieceTokenizer
from gpt_core.tokenizers.storage import DIGEST_BYTES
from gpt_core.training import events as ev
from gpt_core.training.metrics_log import MetricsLog, read_metrics
from tests.bridges import hf_samples
from tests.core.checkpoint_samples import sample

AS_IT_IS, SEALED = b"\0", b"\1"
BYTE_PAIRS = BytePairTokenizer(
    [*byte_level.CHARACTERS, "th", "the", "Ġthe", "<|endoftext|>"], [("t", "h"), ("th", "e"), ("Ġ", "the")], [259], 259
)
SMALLEST = Settings(d_model=2, hidden_size=2, vocab_size=260, num_heads=1, seq_len=2, layers=1)
PIECES = [b"th", b"the", b"the ", "é".encode(), "日本".encode(), b"\r\n", b"0000"]
TEXT = "It was — “dark”.\r\nThe cat\r\n\r\n\n \t\nA thé, 日本.\x00\n".encode() + b"\xff\xfe the the\n"
KINDS: tuple[documents.DocumentKind, ...] = ("paragraph", "line", "file")
LAST_STEP = 3

_folder = tempfile.TemporaryDirectory(prefix="gpt-tui-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
PLACE = Path(_folder.name, "input")


class Reader(NamedTuple):
    """Fuzz target: seed inputs, the function under test, and the maximum size of an input."""

    seeds: Callable[[], Iterable[bytes]]
    read: Callable[[bytes], None]
    max_bytes: int


def put(data: bytes) -> Path:
    """Write `data` to the input file and return its path."""
    with open(PLACE, "wb") as file:
        file.write(data)
    return PLACE


def refused(error: GptError) -> None:
    """Check that the message of an error is one printable line."""
    assert str(error).isprintable(), repr(error)
    assert str(error), "an error without a message"


# -- checkpoints


def checkpoint_seeds() -> Iterable[bytes]:
    """Yield the smallest checkpoints, with and without optimizer state."""
    for optimizer_state in (False, True):
        write_checkpoint(PLACE, sample(SMALLEST, optimizer_state=optimizer_state, tokenizer=b""), saved_at=1.0)
        data = PLACE.read_bytes()
        yield AS_IT_IS + data
        yield SEALED + data


def sealed_checkpoint(data: bytes) -> bytes:
    """Return the file with the length of its header and its checksums corrected, where it has fields for them."""
    end = data.rfind(b"}", 8, 8 + (16 << 10)) + 1
    while end < len(data) and data[end] == 0x20:
        end += 1
    head, tail = data[8:end], data[end:]
    try:
        header = json.loads(head)
        metadata = header["__metadata__"]
        metadata["checksums"] = json.dumps({
            name: hashlib.sha256(tail[slice(*entry["data_offsets"])]).hexdigest()
            for name, entry in header.items() if name != "__metadata__"
        })  # fmt: skip
        head = json.dumps(header, separators=(",", ":")).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass  # the header is sealed as it is
    sealed = bytearray(len(head).to_bytes(8, "little") + head)
    start = sealed.find(b'"header_sha256":"') + len(b'"header_sha256":"')
    sealed[start : start + 64] = b"0" * 64
    sealed[start : start + 64] = hashlib.sha256(sealed).hexdigest().encode()
    return bytes(sealed) + tail


def read_checkpoints(data: bytes) -> None:
    """Check that reading, verifying and peeking agree, and that accepted values are finite."""
    path = put(sealed_checkpoint(data[1:]) if data[:1] == SEALED else data[1:])
    try:
        info = peek_checkpoint(path)
    except CheckpointError as error:
        refused(error)
        info = None
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError as error:
        refused(error)
        checkpoint = None
    try:
        verify_checkpoint(path)
    except CheckpointError as error:
        refused(error)
        assert checkpoint is None, "readable, but verify_checkpoint refused it"
    else:
        assert checkpoint is not None, "verified, but read_checkpoint refused it"
    if checkpoint is not None:
        assert info is not None, "readable, but peek_checkpoint refused it"
        assert info.size == path.stat().st_size
        assert np.isfinite(checkpoint.parameters.flat).all()


# -- tokenizers


def tokenizer_seeds() -> Iterable[bytes]:
    """Yield a tokenizer of each kind."""
    for tokenizer in (PieceTokenizer(PIECES, 300), AsciiTokenizer(PIECES, 300), BYTE_PAIRS):
        data = tokenizer.to_bytes()
        yield AS_IT_IS + data
        yield SEALED + data[:-DIGEST_BYTES]


def read_tokenizers(data: bytes) -> None:
    """Check that an accepted tokenizer survives a round trip, and that its ids decode to the text."""
    stored = data[1:] + hashlib.sha256(data[1:]).digest() if data[:1] == SEALED else data[1:]
    try:
        tokenizer = tokenizers.from_bytes(stored)
    except TokenizerError as error:
        refused(error)
        return
    assert tokenizers.from_bytes(tokenizer.to_bytes()).vocabulary == tokenizer.vocabulary
    assert tokenizer.token_bytes(tokenizer.EOS) == b""
    text = TEXT + stored[: 1 << 10] + b"".join(tokenizer.vocabulary[260:276])
    ids = tokenizer.encode(text)
    decoded = tokenizer.decode(ids.tolist())
    assert tokenizer.name == "ascii" or decoded == text
    ends = np.array([0, len(text) // 2, len(text) // 2, len(text)], np.int64)
    again, is_open = tokenizer.encode_documents(text, ends, False)
    assert not is_open
    assert tokenizer.name == "ascii" or tokenizer.decode(again.tolist()) == text


# -- settings


def config_seeds() -> Iterable[bytes]:
    """Yield a file of all settings, and small ones with each TOML construct."""
    yield b"".join(
        line.partition(b"#")[0].rstrip() + b"\n" for line in as_toml(*read_overrides().apply_to()).encode().splitlines()
    )
    yield b'preset = "micro"\nseed = 7\nattn_lr = 1e-3 # rate\ntrain_file = "a\\u00e9.en"\nepsilon = 0.0\n'
    yield b"[table]\nlayers = 0x10\nlist = [1, 2.5, true, inf, nan]\nwhen = 1979-05-27T07:32:00Z\nraw = '''x'''\n"
    yield 'overfit_tiny = true\r\nmodels_dir = "日本"\r\nd_model = 64\nnum_heads = 8\nbatch_size = 6'.encode()


def read_configs(data: bytes) -> None:
    """Check that accepted settings survive a round trip."""
    try:
        resolved = read_overrides(config_file=put(data)).apply_to()
    except ConfigError as error:
        refused(error)
        return
    assert read_overrides(config_file=put(as_toml(*resolved).encode())).apply_to().settings == resolved.settings


# -- texts


def corpus_seeds() -> Iterable[bytes]:
    """Yield texts of each kind of document, with every line ending, and binary data."""
    yield from (bytes([kind]) + TEXT for kind in range(len(KINDS)))
    yield b"\0" + documents.BYTE_ORDER_MARK + b"One.\n\n\nTwo\nlines.\n \nThree"
    yield b"\1" + b"x" * 200 + b"\n" + "é".encode() * 60 + b"\r\n\r\n"
    yield b"\2" + bytes(range(256))


def read_texts(data: bytes) -> None:
    """Check a text as documents of the kind that its first byte selects, with tiny blocks and parts."""
    sizes = corpus.BLOCK_BYTES, documents.PART_BYTES
    corpus.BLOCK_BYTES, documents.PART_BYTES = 16, 24
    try:
        read_text(KINDS[data[0] % len(KINDS)] if data else "file", data[1:])
    finally:
        corpus.BLOCK_BYTES, documents.PART_BYTES = sizes


def read_text(kind: documents.DocumentKind, text: bytes) -> None:
    """Check that documents hold all words of the text in order, and that their ids decode to them."""
    path = put(text)
    try:
        parts = list(reader.documents(text_source(path, allow_binary=True), kind))
    except CorpusError as error:
        refused(error)
        assert not text.removeprefix(documents.BYTE_ORDER_MARK).strip(), "a text that is not empty was refused as empty"
        return
    assert b"".join(b"".join(parts).split()) == b"".join(text.removeprefix(documents.BYTE_ORDER_MARK).split())
    assert max(map(len, parts)) <= 3 * documents.PART_BYTES + corpus.BLOCK_BYTES
    expected = list(documents.document_parts(documents.without_byte_order_mark(corpus.text_blocks(path)), kind))
    ids = [ids for ids, _ in encode_parts(expected, TOKENIZER)]
    assert TOKENIZER.decode(np.concatenate(ids).tolist()) == b"".join(part for part, _ in expected)


TOKENIZER = PieceTokenizer(PIECES, 300)


# -- files of several kinds


SUFFIXES = (".txt", ".txt.gz", ".txt.zst", ".jsonl", ".jsonl.gz", ".parquet")


def file_seeds() -> Iterable[bytes]:
    """Yield files of each kind. The first byte selects the suffix."""
    text = "It was — “dark”.\n\nA thé.\n"
    lines = b"".join(json.dumps({"id": n, "text": text}).encode() + b"\n" for n in range(3))
    yield b"\0" + text.encode()
    yield b"\0" + text.encode("utf-16")
    yield b"\0" + text.encode("utf-32")
    yield b"\1" + gzip.compress(text.encode("utf-16"), mtime=0) + gzip.compress(b"", mtime=0)
    yield b"\3" + lines
    yield b"\4" + gzip.compress(lines, mtime=0)
    if importlib.util.find_spec("zstandard"):
        yield b"\2" + importlib.import_module("zstandard").compress(text.encode())
    if importlib.util.find_spec("pyarrow"):
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
        file = io.BytesIO()
        parquet.write_table(arrow.table({"text": [text, None, "b"], "n": [1, 2, 3]}), file)
        yield b"\5" + file.getvalue()


def read_files(data: bytes) -> None:
    """Check that a file of each kind yields UTF-8 documents, again the same with the same digest, or is refused."""
    number = data[0] % len(SUFFIXES) if data else 0
    path = PLACE.with_name(f"file{SUFFIXES[number]}")
    path.write_bytes(data[1:])
    source = text_source(path)
    try:
        first = reader.TextReader(source)
        parts = list(first.parts("paragraph"))
    except CorpusError as error:
        refused(error)
        return
    assert all(part.decode().encode() == part for part, _ in parts)
    again = reader.TextReader(source)
    assert list(again.parts("paragraph")) == parts
    assert first.sha256 == again.sha256 == reader.text_sha256(source)


# -- token caches


def cache_seeds() -> Iterable[bytes]:
    """Yield the token cache of a short text."""
    text = PLACE.with_name("text")
    text.write_bytes(TEXT)
    source = text_source(text, allow_binary=True)
    made = token_cache.load_tokens(source, TOKENIZER, "line", cache_dir=text.parent)
    cache = text.parent / token_cache.token_cache_name(text, made.sha256, TOKENIZER.sha256, "line")
    data = cache.read_bytes()
    yield AS_IT_IS + data
    yield SEALED + data


def sealed_cache(data: bytes) -> bytes:
    """Return the cache with its checksum corrected, if its header is readable."""
    ids = data[token_file.HEADER_BYTES :]
    try:
        header = msgspec.json.decode(data[: token_file.HEADER_BYTES], type=token_file.Header)
        header.crc32 = 0
        header.crc32 = zlib.crc32(msgspec.json.encode(header), zlib.crc32(ids))
        head = msgspec.json.encode(header)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return data
    return head.ljust(token_file.HEADER_BYTES - 1) + b"\n" + ids


def read_caches(data: bytes) -> None:
    """Check that an accepted cache is complete and that its ids are in the vocabulary."""
    text = PLACE.with_name("text")
    digest = hashlib.sha256(TEXT).hexdigest()
    cache = PLACE.with_name(token_cache.token_cache_name(text, digest, TOKENIZER.sha256, "line"))
    with open(cache, "wb") as file:
        file.write(sealed_cache(data[1:]) if data[:1] == SEALED else data[1:])
    text.write_bytes(TEXT)
    found = token_file.open_token_file(cache, text_source(text, allow_binary=True), digest, TOKENIZER, "line")
    if found is not None:
        ids = found.read(0, len(found))
        assert len(ids) == len(found)
        assert ids.min() >= 0
        assert ids.max() < TOKENIZER.vocab_size


# -- logs


def log_seeds() -> Iterable[bytes]:
    """Yield a log with each kind of event: complete, truncated, and with invalid lines."""
    logged = [
        ev.StepCompleted(1, 0, 2.5, 12.2, 1e-3, 1.0, 64, 1e3, 0.5), ev.UpdateSkipped(2, 1, "the loss was nan"),
        ev.EvalCompleted(2, 2.4, 11.0, 0.3, 1.9), ev.FullEvalCompleted(2, 2.4, 11.0, 0.3, 1.9, 500),
        ev.LinesReproduced(3, 1, 2, False),
        ev.GradientNorms(3, {"wte.weight": 1.0}, {"wte.weight": 0.1}),
        ev.CheckpointSaved("latest", "models/ckpt_latest.safetensors", 3), ev.SaveFailed("best", "é", 4, "disk full"),
        ev.RunFinished("stopped", 4),
    ]  # fmt: skip
    data = b"".join(ev.to_json(event) + b"\n" for event in logged)
    yield data
    yield data[:-9]
    yield data.replace(b"\n", b"\n\n\xff{\n", 2)


def read_logs(data: bytes) -> None:
    """Check that a log yields only events, and that a resume leaves complete lines of steps before it."""
    path = put(data)
    before = list(read_metrics(path))
    assert all(isinstance(event, ev.Event) for event in before)
    if len(data) % 16:  # truncating a log replaces the file, which takes ten times as long as reading it
        return
    MetricsLog(path, resume_step=LAST_STEP).close()
    kept = path.read_bytes()
    assert not kept or kept.endswith(b"\n")
    after = list(read_metrics(path))
    assert all(event.step <= LAST_STEP for event in after)
    assert len(after) <= len(before)


# -- models of other programs

IMPORTED = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
SEPARATOR = b"\n--file--\n"  # between the files of a folder in one input
OUTPUT = PLACE.with_name("imported.safetensors")


def folder_seeds() -> Iterable[bytes]:
    """Yield the smallest folder of a Hugging Face model, with a tokenizer of a few merges."""
    folder = PLACE.with_name("seed")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shape = msgspec.structs.replace(SMALLEST.shape, vocab_size=BYTE_PAIRS.vocab_size)
    hf_samples.write_json(folder / "config.json", huggingface.config(shape, BYTE_PAIRS))
    hf_samples.write_json(folder / "tokenizer.json", hf_samples.tokenizer_file(BYTE_PAIRS))
    hf_samples.write_json(folder / "tokenizer_config.json", {"eos_token": "<|endoftext|>"})
    tensors = hf_samples.tensors_of(shape)
    halves = {name: array.astype(np.float16) for name, array in tensors.items()}
    for stored in (tensors, halves, {**tensors, "lm_head.weight": tensors["transformer.wte.weight"]}):
        hf_samples.write_safetensors(folder / "model.safetensors", stored)
        yield SEPARATOR.join((folder / name).read_bytes() for name in IMPORTED)


def read_folders(data: bytes) -> None:
    """Check that a folder is imported as a valid checkpoint, or refused with nothing written."""
    folder = PLACE.with_name("folder")
    folder.mkdir(exist_ok=True)
    for name, contents in zip_longest(IMPORTED, data.split(SEPARATOR)[: len(IMPORTED)], fillvalue=b""):
        (folder / str(name)).write_bytes(contents)
    import_from(folder, data)


def gguf_seeds() -> Iterable[bytes]:
    """Yield the smallest GGUF files, of each tokenizer and number type."""
    for tokenizer in (PieceTokenizer([b"th", b"the "], 263), BYTE_PAIRS):
        shape = msgspec.structs.replace(SMALLEST.shape, vocab_size=tokenizer.vocab_size)
        parameters = initial_parameters(shape, 1)
        values: dict[str, gguf.Value] = {"general.architecture": "gpt2", **gguf_model.shape_values(shape)}
        if isinstance(tokenizer, PieceTokenizer):
            values |= gguf_export.tokenizer_values(tokenizer)
        else:
            values |= {
                "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokenizer.tokens,
                "tokenizer.ggml.token_type": [3 if token in tokenizer.special else 1 for token in range(260)],
                "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer.merges],
                "tokenizer.ggml.eos_token_id": tokenizer.EOS,
            }  # fmt: skip
        for number_type in ("f32", "bf16"):
            tensors = [
                gguf.Tensor(place.name, place.view(parameters[place.parameter]), number_type)
                for place in gguf_model.places(shape)
            ]
            yield b"".join(map(bytes, gguf.encode(values, tensors)))


def read_gguf_files(data: bytes) -> None:
    """Check that a GGUF file is imported as a valid checkpoint, or refused with nothing written."""
    path = PLACE.with_name("model.gguf")
    path.write_bytes(data)
    import_from(path, data)


def import_from(source: Path, data: bytes) -> None:
    """Import a model and check the checkpoint, or how it was refused."""
    OUTPUT.unlink(missing_ok=True)
    try:
        import_checkpoint(source, OUTPUT)
    except GptError as error:
        refused(error)
        is_input_error = error.exit_code == EXIT_BAD_INPUT
        assert is_input_error, "refused with another exit code"
        assert not OUTPUT.exists(), "refused, but written"
        return
    verify_checkpoint(OUTPUT)
    bundle = load_bundle(OUTPUT)
    text = TEXT + data[:200]
    assert bundle.tokenizer.decode(bundle.tokenizer.encode(text).tolist()) == text


READERS = {
    "checkpoint": Reader(checkpoint_seeds, read_checkpoints, 16_000),
    "tokenizer": Reader(tokenizer_seeds, read_tokenizers, 1_000),
    "config": Reader(config_seeds, read_configs, 3_000),
    "corpus": Reader(corpus_seeds, read_texts, 160),
    "text-files": Reader(file_seeds, read_files, 2_000),
    "token-cache": Reader(cache_seeds, read_caches, 1_000),
    "metrics": Reader(log_seeds, read_logs, 1_000),
    "huggingface": Reader(folder_seeds, read_folders, 24_000),
    "gguf": Reader(gguf_seeds, read_gguf_files, 24_000),
}
