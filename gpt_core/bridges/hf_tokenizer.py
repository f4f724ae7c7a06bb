"""Tokenizers as `tokenizer.json`, the format of Hugging Face's `tokenizers` library.

Longest match at each position is what the library's WordPiece model does with an empty prefix, so a tokenizer of pieces
is that model on the byte-level alphabet. WordPiece takes time that grows with the third power of the length of a word,
so the text is split first:

1. Wherever no piece can cross: characters are of three kinds (letters, white space, others), and a boundary between
   two kinds that are not neighbors in any piece splits the text.
2. What is still long, as in languages without spaces, is split by a pattern of all pieces, the longest at each
   position first. The pattern alone would do, but it takes longer than WordPiece where words are short.

Byte-pair encoding is written as GPT-2's own `tokenizer.json`.

`JsonTokenizer` is the reader of tokenizers of pieces: it runs the parts of the library that are written here, for the
self-check.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from gpt_core.errors import ExportError
from gpt_core.tokenizers import Tokenizer, byte_level
from gpt_core.tokenizers.byte_pairs import BytePairTokenizer, unused_name
from gpt_core.tokenizers.pieces import AsciiTokenizer, PieceTokenizer
from gpt_core.tokenizers.protocol import SPECIAL_NAMES

WORD_PIECE, BYTE_PAIRS = "WordPiece", "BPE"  # types of models
MAX_WORD_CHARACTERS = 1 << 30

LONG_WORD = 32  # characters
FIRSTS_PER_GROUP = 32  # first characters of pieces that are tried one after the other

_Trie: TypeAlias = "dict[str, _Trie]"
_END = ""  # key of a node at which a piece ends

# Kinds of characters (see `gpt_core.tokenizers.training`) in the syntax that Oniguruma, JavaScript and Python share.
_SPACE = r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_NO_LETTER = r"\u0000-\u0040\u005b-\u0060\u007b-\u00bf\u00d7\u00f7\u1680\u2000-\u206f\u3000-\u303f"
_OTHER = (
    r"\u0000-\u0008\u000e-\u001b\u0021-\u0040\u005b-\u0060\u007b-\u0084\u0086-\u009f\u00a1-\u00bf\u00d7\u00f7"
    r"\u200b-\u2027\u202a-\u202e\u2030-\u205e\u2060-\u206f\u3001-\u303f"
)
_KINDS = {"letter": f"[^{_NO_LETTER}]", "space": f"[{_SPACE}]", "other": f"[{_OTHER}]"}
_KIND_OF = {kind: re.compile(pattern) for kind, pattern in _KINDS.items()}

_ANY = r"[\s\S]"
_FOLDED_SPACE = r"[\u0009-\u000d\u0020]+"  # of the `ascii` tokenizer
_FOLDED_SLICE = r"[\u0000-\u007f]{4}"
_NOT_ASCII = r"[^\u0000-\u007f]"


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the contents of a `tokenizer.json` that gives the same ids for every text, after `<bos>` if it is added.

    Raises:
        ExportError: The tokenizer is one that the format cannot express.
    """
    if isinstance(tokenizer, BytePairTokenizer):
        unused = {number: unused_name(number) for number in range(len(tokenizer.tokens), tokenizer.vocab_size)}
        special = {**tokenizer.special, **unused}
        steps = _byte_pair_steps(tokenizer, unused)
    elif isinstance(tokenizer, PieceTokenizer):
        special = dict(tokenizer.special)
        steps = _longest_match_steps(tokenizer)
    else:
        raise ExportError(f"tokenizer {tokenizer.name!r} cannot be exported; expected pieces, ascii or bpe")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(number, name) for number, name in sorted(special.items())],
        **steps,
        "post_processor": _begin_with(special[tokenizer.BOS], tokenizer.BOS) if tokenizer.adds_bos else None,
        "decoder": _byte_level(add_prefix_space=True),
    }


def _longest_match_steps(tokenizer: PieceTokenizer) -> dict[str, Any]:
    """Return the steps from a text to ids for a tokenizer of pieces."""
    pieces = tokenizer.vocabulary[len(SPECIAL_NAMES) :]
    normalizer = None
    splits = [_split(pattern) for pattern in (*boundary_patterns(pieces), long_word_pattern(pieces))]
    if isinstance(tokenizer, AsciiTokenizer):
        normalizer = {"type": "Sequence", "normalizers": [_removal(_NOT_ASCII), {"type": "Lowercase"}]}
        splits = [_split(_FOLDED_SPACE, "Removed"), _split(_FOLDED_SLICE)]
    vocabulary = {name: number for number, name in enumerate(SPECIAL_NAMES)}
    vocabulary |= {byte_level.to_characters(piece): len(SPECIAL_NAMES) + at for at, piece in enumerate(pieces)}
    return {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, _byte_level(add_prefix_space=False)]},
        "model": {
            "type": WORD_PIECE,
            "unk_token": SPECIAL_NAMES[tokenizer.UNK],
            "continuing_subword_prefix": "",
            "max_input_chars_per_word": MAX_WORD_CHARACTERS,
            "vocab": vocabulary,
        },
    }


def _byte_pair_steps(tokenizer: BytePairTokenizer, unused: Mapping[int, str]) -> dict[str, Any]:
    """Return the steps from a text to ids for byte-pair encoding as in GPT-2."""
    names = [*enumerate(tokenizer.tokens), *unused.items()]
    return {
        "normalizer": None,
        "pre_tokenizer": _byte_level(add_prefix_space=False, use_regex=True),
        "model": {
            "type": BYTE_PAIRS,
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: number for number, name in names},
            "merges": [" ".join(pair) for pair in tokenizer.merges],
        },
    }


def boundary_patterns(pieces: Iterable[bytes]) -> list[str]:
    """Return the patterns at whose (empty) matches a text can be split without splitting any piece; none or one."""
    inside = {pair for piece in pieces for pair in itertools.pairwise(_kinds(piece.decode("utf-8", "replace")))}
    crossed = [
        f"(?<={_KINDS[left]})(?={_KINDS[right]})"
        for left, right in itertools.permutations(_KINDS, 2)
        if (left, right) not in inside
    ]
    return ["|".join(crossed)] if crossed else []


def long_word_pattern(pieces: Iterable[bytes]) -> str:
    """Return the pattern that matches the next piece, else a character, while at least LONG_WORD characters follow."""
    trie: _Trie = {}
    for piece in pieces:
        if len(piece) > 1:
            node = trie
            for character in piece.decode():
                node = node.setdefault(character, {})
            node[_END] = {}
    firsts = sorted(trie)
    parts = []
    for group in (firsts[at : at + FIRSTS_PER_GROUP] for at in range(0, len(firsts), FIRSTS_PER_GROUP)):
        alternatives = "|".join(_literal(first) + _rest_pattern(trie[first]) for first in group)
        parts.append(f"(?=[{_literal(group[0])}-{_literal(group[-1])}])(?:{alternatives})")
    choices = "|".join([*parts, _ANY])
    return f"(?={_ANY}{{{LONG_WORD}}})(?:{choices})"


def _rest_pattern(node: _Trie) -> str:
    """Return the pattern of the ends of pieces below a node of their trie, the longest first; "" for none."""
    parts = [_literal(character) + _rest_pattern(node[character]) for character in sorted(node.keys() - {_END})]
    if not parts:
        return ""
    return f"(?:{'|'.join(parts)}){'?' if _END in node else ''}"


def _literal(character: str) -> str:
    return character if character.isalnum() or not character.isascii() else f"\\u{ord(character):04x}"


def _kinds(text: str) -> list[str]:
    return [next(kind for kind, pattern in _KIND_OF.items() if pattern.match(character)) for character in text]


def _split(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _removal(pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": ""}


def _byte_level(*, add_prefix_space: bool, use_regex: bool = False) -> dict[str, Any]:
    flags = {"add_prefix_space": add_prefix_space, "trim_offsets": False, "use_regex": use_regex}
    return {"type": "ByteLevel", **flags}


def _added_token(number: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, **flags, "special": True}


def _begin_with(name: str, number: int) -> dict[str, Any]:
    """Return the step that puts a special id before each text, as generating does."""

    def part(kind: str, name: str, side: int) -> dict[str, Any]:
        return {kind: {"id": name, "type_id": side}}

    single = [part("SpecialToken", name, 0), part("Sequence", "A", 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, part("SpecialToken", name, 1), part("Sequence", "B", 1)],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
    }


class JsonTokenizer:
    """Reader of `tokenizer.json` files with a WordPiece model, as `tokenizer_json` writes them."""

    def __init__(self, contents: bytes) -> None:
        """Read the contents of a file. Raises KeyError or ValueError for one of another form."""
        data = json.loads(contents)
        model = data["model"]
        if model["type"] != WORD_PIECE or model["continuing_subword_prefix"]:
            raise ValueError(f"got model {model['type']}")
        self._normalizers = (data["normalizer"] or {"normalizers": []})["normalizers"]
        self._pre_tokenizers = data["pre_tokenizer"]["pretokenizers"]
        self._vocabulary: dict[str, int] = model["vocab"]
        self._longest = max(map(len, self._vocabulary))

    def encode(self, data: bytes) -> Sequence[int]:
        """Return the ids of a text in UTF-8, without special ids."""
        text = data.decode()
        for step in self._normalizers:
            text = text.lower() if step["type"] == "Lowercase" else re.sub(step["pattern"]["Regex"], "", text)
        words = [text]
        for step in self._pre_tokenizers:
            words = [part for word in words for part in _pre_tokenized(word, step) if part]
        return [number for word in words for number in self._longest_matches(word)]

    def _longest_matches(self, word: str) -> Iterable[int]:
        at = 0
        while at < len(word):
            ends = range(min(len(word), at + self._longest), at, -1)
            end = next(end for end in ends if word[at:end] in self._vocabulary)
            yield self._vocabulary[word[at:end]]
            at = end


def _pre_tokenized(word: str, step: dict[str, Any]) -> list[str]:
    if step["type"] == "ByteLevel":
        return [byte_level.to_characters(word.encode())]
    pattern = step["pattern"]["Regex"]
    return re.split(pattern if step["behavior"] == "Removed" else f"({pattern})", word)
