"""Serialized form of tokenizers: one line of JSON, a body that each tokenizer defines, and the SHA-256 of both.

The line names the tokenizer (`mode`), by which the registry finds the class that reads the body.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from gpt_core.errors import TokenizerError
from gpt_core.tokenizers.protocol import check_vocab_size

FORMAT = "gpt-tui tokenizer"
VERSION = 1
MAX_HEADER_BYTES = 256
DIGEST_BYTES = 32
MAX_STORED_BYTES = 64 << 20


class Stored(NamedTuple):
    """A serialized tokenizer whose header and checksum are valid."""

    name: str
    vocab_size: int
    body: bytes


class Header(msgspec.Struct, forbid_unknown_fields=True):
    """First line of a serialized tokenizer."""

    format: str
    version: int
    mode: str
    vocab_size: int


_HEADER = msgspec.json.Decoder(Header)


def pack(name: str, vocab_size: int, body: bytes) -> bytes:
    """Serialize a tokenizer of the registered name from its vocabulary size and its body."""
    data = msgspec.json.encode(Header(FORMAT, VERSION, name, vocab_size)) + b"\n" + body
    return data + hashlib.sha256(data).digest()


def unpack(data: bytes) -> Stored:
    """Check and take apart what `pack` returned.

    Raises:
        TokenizerError: The data is damaged or is not a tokenizer.
    """
    first_line = data[: data.find(b"\n", 0, MAX_HEADER_BYTES) + 1]
    try:
        header = _HEADER.decode(first_line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TokenizerError(f"the tokenizer is damaged, or this is not a tokenizer; its header: {error}") from error
    if header.format != FORMAT or header.version != VERSION:
        raise TokenizerError(
            f"unsupported tokenizer: got {header.format[:80]!r} version {header.version}, "
            f"expected {FORMAT!r} version {VERSION}"
        )
    signed, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if len(data) > MAX_STORED_BYTES or hashlib.sha256(signed).digest() != digest:
        raise TokenizerError("the tokenizer is damaged: its checksum does not match")
    check_vocab_size(header.vocab_size)
    return Stored(header.mode, header.vocab_size, signed[len(first_line) :])
