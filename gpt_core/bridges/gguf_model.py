"""Models as GGUF files: keys, names of the tensors, and texts of the tokens.

The architecture is `gpt2`, or `qwen3` (`gpt_core.bridges.qwen3`).

Linear weights are transposed against this program's layout. Without `output.weight`, llama.cpp uses the token embedding
for the logits, too. The tokenizer model `rwkv` is a longest match over raw bytes, as with the tokenizers of pieces; its
tokens are escaped texts, and each id must have a text of its own, so ids without bytes have one that is not UTF-8. The
model `gpt2` is byte-pair encoding; its tokens are spelled in the byte-level alphabet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_core.bridges import qwen3
from gpt_core.bridges.architecture import architecture_of
from gpt_core.bridges.places import Place
from gpt_core.config.settings import ModelShape
from gpt_core.formats.gguf import Value
from gpt_core.model.parameters import parameter_table
from gpt_core.tokenizers.byte_pairs import BytePairTokenizer, unused_name
from gpt_core.tokenizers.protocol import SPECIAL_NAMES

ARCHITECTURE = "gpt2"
TOKENIZER = "tokenizer.ggml."
"""Begins the keys of the tokenizer"""
DOCUMENT = "gpt_tui.document"
"""Key of the setting `document`, which decides on what an import is evaluated; other programs ignore it"""
LONGEST_MATCH, BYTE_PAIRS = "rwkv", "gpt2"  # models of tokenizers
EPSILON = 1e-5
NORMAL, CONTROL, ADDED, UNUSED = 1, 3, 4, 5  # types of tokens
HEAD = "output.weight"
"""Matrix of the logits, which files of a tied head may have, too"""
NO_TEXT = b"\xff\xff"  # begins the texts of ids without bytes

_TENSORS = {
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "ln_1": "attn_norm", "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    "lm_head": "output",
}  # fmt: skip
_ESCAPES = {b"\n": "\\n", b"\r": "\\r", b"\t": "\\t", b"\\": "\\\\"}
_UNESCAPED = {escape: data for data, escape in _ESCAPES.items()}
_ESCAPE = re.compile(r"\\x[0-9a-f]{2}|\\.|.", re.DOTALL)


# -- tensors


def places(shape: ModelShape) -> list[Place]:
    """Return the tensors of a model."""
    if architecture_of(shape) == qwen3.NAME:
        return qwen3.places(shape, "llama.cpp")
    return [
        Place(tensor_name(spec.name), spec.name, is_transposed(spec.name, spec.shape))
        for spec in parameter_table(shape)
    ]


def tensor_name(parameter: str) -> str:
    """Return the name of a parameter's tensor: `h.0.attn.c_attn.weight` -> `blk.0.attn_qkv.weight`."""
    layer, _, part = parameter.removeprefix("h.").partition(".") if parameter.startswith("h.") else ("", "", parameter)
    module, _, kind = part.rpartition(".")
    return (f"blk.{layer}." if layer else "") + f"{_TENSORS[module]}.{kind}"


def is_transposed(parameter: str, shape: tuple[int, ...]) -> bool:
    """Return True for the weights of linear layers, whose tensors are transposed."""
    return len(shape) == 2 and parameter.startswith("h.")


# -- keys


def shape_values(shape: ModelShape) -> dict[str, Value]:
    """Return the keys of the model shape."""
    if architecture_of(shape) == qwen3.NAME:
        return qwen3.gguf_values(shape)
    numbers = {
        "context_length": shape.seq_len,
        "embedding_length": shape.d_model,
        "block_count": shape.layers,
        "feed_forward_length": shape.hidden_size,
        "attention.head_count": shape.num_heads,
    }
    return {
        **{f"{ARCHITECTURE}.{key}": number for key, number in numbers.items()},
        f"{ARCHITECTURE}.attention.layer_norm_epsilon": EPSILON,
    }


def shape_of(values: Mapping[str, Any], *, tied_head: bool) -> ModelShape:
    """Return the model shape of a file with these keys.

    Args:
        values: The keys.
        tied_head: False if the file has a matrix of the logits.

    Raises:
        KeyError: A key is missing or of another type.
    """
    vocab_size, architecture = len(strings(values, f"{TOKENIZER}tokens")), values["general.architecture"]

    def number(key: str) -> int:
        return integer(values, f"{architecture}.{key}")

    if architecture == qwen3.NAME:
        return qwen3.gguf_shape(number, vocab_size, tied_head=tied_head)
    return ModelShape(
        d_model=number("embedding_length"), hidden_size=number("feed_forward_length"),
        vocab_size=vocab_size, num_heads=number("attention.head_count"),
        seq_len=number("context_length"), layers=number("block_count"), tied_head=tied_head,
    )  # fmt: skip


def integer(values: Mapping[str, Any], key: str) -> int:
    """Return the value of a key. Raises KeyError if it is missing or not an integer."""
    value = values.get(key)
    if not isinstance(value, int):
        raise KeyError(key)
    return value


def strings(values: Mapping[str, Any], key: str) -> list[str]:
    """Return the value of a key. Raises KeyError if it is missing or not an array of strings."""
    value = values.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise KeyError(key)
    return value


# -- tokens


def token_texts(vocabulary: Sequence[bytes], vocab_size: int) -> tuple[list[str], list[int]]:
    """Return the text and the type of each id of a longest-match tokenizer."""
    texts, types = [], []
    for number in range(vocab_size):
        data = vocabulary[number] if number < len(vocabulary) else b""
        if data:
            kind = NORMAL
        elif number < len(SPECIAL_NAMES):
            data, kind = special_bytes(number), CONTROL
        else:
            data, kind = NO_TEXT + unused_name(number).encode(), UNUSED
        texts.append(escaped(data))
        types.append(kind)
    return texts, types


def special_bytes(number: int) -> bytes:
    """Return the bytes by which a longest-match tokenizer knows a special id."""
    return NO_TEXT + SPECIAL_NAMES[number].encode()


def byte_pair_texts(tokenizer: BytePairTokenizer) -> tuple[list[str], list[int]]:
    """Return the text and the type of each id of byte-pair encoding."""
    unused = range(len(tokenizer.tokens), tokenizer.vocab_size)
    types = [CONTROL if number in tokenizer.special else NORMAL for number in range(len(tokenizer.tokens))]
    return [*tokenizer.tokens, *map(unused_name, unused)], types + [UNUSED] * len(unused)


def escaped(data: bytes) -> str:
    """Return the text of a token: everything outside printable ASCII is escaped."""
    return "".join([_escaped(data[at : at + 1]) for at in range(len(data))])


def unescaped(text: str) -> bytes:
    """Return the bytes of a token from its text. Raises ValueError for an escape that is not one of `escaped`."""
    return b"".join([_unescaped(match) for match in _ESCAPE.findall(text)])


def _escaped(byte: bytes) -> str:
    if byte in _ESCAPES:
        return _ESCAPES[byte]
    return byte.decode() if b" " <= byte <= b"~" else f"\\x{byte[0]:02x}"


def _unescaped(text: str) -> bytes:
    if text in _UNESCAPED:
        return _UNESCAPED[text]
    if text.startswith("\\"):
        if len(text) != 4:
            raise ValueError(f"got the escape {text!r} in a token")
        return bytes.fromhex(text[2:])
    return text.encode()
