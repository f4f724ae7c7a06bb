"""Import of the tokenizers of Hugging Face folders: `tokenizer.json`, or `vocab.json` with `merges.txt`.

They are byte-pair encoding as in GPT-2, or the tokenizers of this program as `gpt_core.bridges.hf_tokenizer` writes
them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from gpt_core.bridges.hf_tokenizer import BYTE_PAIRS, WORD_PIECE, tokenizer_json
from gpt_core.bridges.huggingface import (
    ADDED_TOKENS,
    MERGES,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    VOCABULARY,
    ModelConfig,
)
from gpt_core.bridges.source import read_json, read_small
from gpt_core.errors import ModelImportError, TokenizerError
from gpt_core.tokenizers import Tokenizer, byte_level
from gpt_core.tokenizers.byte_pairs import END_OF_TEXT, BytePairTokenizer, Pair, pairs, unused_name
from gpt_core.tokenizers.pieces import AsciiTokenizer, PieceTokenizer
from gpt_core.tokenizers.protocol import FIRST_PIECE


class AddedToken(msgspec.Struct):
    """Entry of `added_tokens` in `tokenizer.json`."""

    id: int
    content: str
    special: bool = False


class Model(msgspec.Struct):
    """`model` in `tokenizer.json`."""

    type: str = "BPE"
    vocab: dict[str, int] | list[Any] = {}
    merges: list[str | tuple[str, str]] = []
    dropout: float | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    byte_fallback: bool = False
    ignore_merges: bool = False


class TemplateToken(msgspec.Struct):
    """Special token of a template, by its name."""

    id: str


class TemplatePart(msgspec.Struct):
    """Part of a template: a special token, or else the text."""

    special: TemplateToken | None = msgspec.field(name="SpecialToken", default=None)


class PostProcessor(msgspec.Struct):
    """Entry of `post_processor` in `tokenizer.json`: `single` is the template of a text."""

    type: str = ""
    processors: list[PostProcessor] | None = None
    single: list[TemplatePart] | None = None


class TokenizerFile(msgspec.Struct):
    """The part of `tokenizer.json` that decides how text is encoded."""

    model: Model
    added_tokens: list[AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: PostProcessor | None = None


class NamedToken(msgspec.Struct):
    """Token by its name, in `tokenizer_config.json` and `special_tokens_map.json`."""

    content: str = ""
    special: bool = False


Name: TypeAlias = str | NamedToken | None


class TokenizerConfig(msgspec.Struct):
    """The part of `tokenizer_config.json` that names special tokens, as `special_tokens_map.json` does, or changes ids.

    Attributes:
        added_tokens_decoder: Added tokens by id.
    """

    eos_token: Name = None
    bos_token: Name = None
    unk_token: Name = None
    sep_token: Name = None
    pad_token: Name = None
    cls_token: Name = None
    mask_token: Name = None
    additional_special_tokens: list[str | NamedToken] | None = None
    extra_special_tokens: list[str | NamedToken] | dict[str, str | NamedToken] | None = None
    added_tokens_decoder: dict[str, NamedToken] | None = None
    add_prefix_space: bool | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None

    @property
    def special_names(self) -> set[str]:
        """Names of the special tokens."""
        extra = self.extra_special_tokens or ()
        tokens = (
            self.eos_token, self.bos_token, self.unk_token, self.sep_token, self.pad_token, self.cls_token,
            self.mask_token, *(self.additional_special_tokens or ()),
            *(extra.values() if isinstance(extra, dict) else extra),
            *(token for token in (self.added_tokens_decoder or {}).values() if token.special),
        )  # fmt: skip
        return {_content(token) for token in tokens}


_TOKENIZER = msgspec.json.Decoder(TokenizerFile)
_CONFIG = msgspec.json.Decoder(TokenizerConfig)
_IDS = msgspec.json.Decoder(dict[str, int])


def read_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    """Return the tokenizer of a model folder.

    Raises:
        ModelImportError: There is none, it is of another kind, or it has more tokens than the embedding has rows.
        MissingPackageError: The package `tokenizers` is not installed.
    """
    named, mapped = _read_config(folder / TOKENIZER_CONFIG), _read_config(folder / SPECIAL_TOKENS)
    if os.path.lexists(folder / TOKENIZER):
        path = folder / TOKENIZER
        contents = read_json(path, _TOKENIZER)
        if contents.model.type == WORD_PIECE:
            return _exported(path, contents, config.vocab_size)
        ids, merges, special = _from_tokenizer_file(path, contents)
        opening = _opening(path, contents.post_processor, ids)
        adds_bos = opening is not None  # add_bos_token has no effect beside a tokenizer.json
    elif os.path.lexists(folder / VOCABULARY) and os.path.lexists(folder / MERGES):
        path = folder / VOCABULARY
        if named.add_eos_token:
            raise _not_supported(folder / TOKENIZER_CONFIG, "add_eos_token, which ends each text")
        ids, merges, special = _from_vocabulary(folder, named.special_names | mapped.special_names)
        opening, adds_bos = None, bool(named.add_bos_token)
    else:
        raise ModelImportError(
            f"{folder} has no tokenizer: expected {TOKENIZER}, or {VOCABULARY} with {MERGES}; save it there with "
            "`tokenizer.save_pretrained`"
        )
    if named.add_prefix_space:
        raise _not_supported(folder / TOKENIZER_CONFIG, "add_prefix_space")
    tokens = _in_order(path, ids, config.vocab_size)
    eos = _named(named.eos_token or mapped.eos_token, ids, config.eos_token_id, special)
    if eos is None:
        raise ModelImportError(f"{path} has no end of text: expected {END_OF_TEXT}, or eos_token in {TOKENIZER_CONFIG}")
    bos_token = named.bos_token or mapped.bos_token
    bos = _named(bos_token, ids, config.bos_token_id, special) if opening is None else opening
    bos = eos if bos is None else bos
    while len(tokens) - 1 in special and tokens[-1] == unused_name(len(tokens) - 1):
        tokens.pop()
    special_ids = sorted(token for token in {*special, bos, eos} if token < len(tokens))
    try:
        return BytePairTokenizer(tokens, merges, special_ids, eos, bos, config.vocab_size, adds_bos=adds_bos)
    except TokenizerError as error:
        raise ModelImportError(f"{path}: {error}") from None


def _exported(path: Path, contents: TokenizerFile, vocab_size: int) -> Tokenizer:
    """Return the tokenizer of this program that an export wrote.

    It is recognized by what the export of the tokenizer that is returned would write: any other WordPiece differs.

    Raises:
        ModelImportError: An export did not write it.
    """
    vocab = contents.model.vocab
    kind = PieceTokenizer if contents.normalizer is None else AsciiTokenizer
    try:
        names = sorted(vocab, key=dict(vocab).__getitem__)
        tokenizer = kind([byte_level.to_bytes(name) for name in names[FIRST_PIECE:]], vocab_size)
        written = tokenizer_json(tokenizer)
        steps = written["normalizer"], written["pre_tokenizer"], written["model"]["vocab"]
        is_same = steps == (contents.normalizer, contents.pre_tokenizer, vocab)
    except (ValueError, TypeError, TokenizerError):
        is_same = False
    if not is_same:
        raise _not_supported(path, f"the model {WORD_PIECE}, not as an export of this program writes it")
    return tokenizer


def _from_tokenizer_file(path: Path, found: TokenizerFile) -> tuple[dict[str, int], Sequence[Pair], set[int]]:
    """Return ids by name, merges and special ids of a `tokenizer.json`. Raises ModelImportError."""
    model, split = found.model, found.pre_tokenizer or {}
    faults = [
        (model.type != BYTE_PAIRS or not isinstance(model.vocab, dict), f"the model {model.type[:40]}"),
        (found.normalizer is not None, "a normalizer, which changes the text"),
        (split.get("type") != "ByteLevel", f"the pre-tokenizer {str(split.get('type'))[:40]}"),
        (split.get("add_prefix_space") is not False, "add_prefix_space"),
        (split.get("use_regex", True) is not True, "use_regex false"),
        (bool(model.dropout), "dropout"),
        (bool(model.continuing_subword_prefix), "continuing_subword_prefix"),
        (bool(model.end_of_word_suffix), "end_of_word_suffix"),
        (model.byte_fallback, "byte_fallback"),
        (model.ignore_merges, "ignore_merges"),
    ]
    for is_present, what in faults:
        if is_present:
            raise _not_supported(path, what)
    assert isinstance(model.vocab, dict)
    ids = dict(model.vocab)
    for token in found.added_tokens:
        if not token.special and token.content != END_OF_TEXT:
            raise _not_supported(path, f"the added token {token.content[:40]!r}, which is not special")
        if ids.setdefault(token.content, token.id) != token.id:
            raise ModelImportError(f"{path}: {token.content[:40]!r} has the ids {ids[token.content]} and {token.id}")
    return ids, _merges(path, model.merges), {token.id for token in found.added_tokens if token.special}


def _opening(path: Path, step: PostProcessor | None, ids: Mapping[str, int]) -> int | None:
    """Return the id that the post-processor puts before each text, None if it adds none.

    Raises:
        ModelImportError: It adds more tokens than that, or is of another kind.
    """
    found = None
    for processor in (step.processors or []) if step is not None and step.type == "Sequence" else [step]:
        if processor is None or processor.type == "ByteLevel":  # which adds no token
            continue
        names = [part.special.id if part.special else None for part in processor.single or []]
        added = names[:-1]
        if processor.type != "TemplateProcessing" or names[-1:] != [None] or len(added) + (found is not None) > 1:
            what = (
                f"a post-processor ({processor.type[:40]}) that adds more than one token before each text, or any after"
            )
            raise _not_supported(path, what)
        if added:
            found = ids.get(added[0] or "")
            if found is None:
                raise ModelImportError(f"{path}: the post-processor adds {str(added[0])[:40]!r}, which is no token")
    return found


def _from_vocabulary(folder: Path, named: set[str]) -> tuple[dict[str, int], Sequence[Pair], set[int]]:
    """Return ids by name, merges and special ids of `vocab.json`, `merges.txt` and `added_tokens.json`.

    Args:
        folder: Folder of the model.
        named: Names of the special tokens.

    Raises:
        ModelImportError: A file is not valid, or an added token is not special.
    """
    ids = read_json(folder / VOCABULARY, _IDS)
    added = read_json(folder / ADDED_TOKENS, _IDS) if os.path.lexists(folder / ADDED_TOKENS) else {}
    if ordinary := sorted(added.keys() - named - {END_OF_TEXT}, key=added.__getitem__):
        raise _not_supported(folder / ADDED_TOKENS, f"the added token {ordinary[0][:40]!r}, which is not special")
    try:
        lines = read_small(folder / MERGES).decode().split("\n")
    except UnicodeDecodeError as error:
        raise ModelImportError(f"{folder / MERGES} is not UTF-8 ({error.reason} at byte {error.start})") from None
    merges = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    return ids | added, _merges(folder / MERGES, merges), set(added.values())


def _merges(path: Path, merges: Sequence[str | Pair]) -> Sequence[Pair]:
    """Return merges as pairs; each is a pair or a line with a space in it. Raises ModelImportError."""
    try:
        return [pair for merge in merges for pair in (pairs([merge]) if isinstance(merge, str) else [merge])]
    except TokenizerError as error:
        raise ModelImportError(f"{path}: {error}") from None


def _not_supported(path: Path, what: str) -> ModelImportError:
    return ModelImportError(f"{path} is not supported: got {what}; expected byte-level byte-pair encoding as in GPT-2")


def _in_order(path: Path, ids: Mapping[str, int], vocab_size: int) -> list[str]:
    """Return the names of the tokens by id, at most one per row of the embedding. Raises ModelImportError."""
    if len(ids) > vocab_size:
        raise ModelImportError(
            f"{path} has {len(ids):,} tokens, but the embedding has {vocab_size:,} rows; make them agree with "
            "`model.resize_token_embeddings(len(tokenizer))` and save both again"
        )
    by_id = {token: name for name, token in ids.items()}
    if missing := set(range(len(ids))) - by_id.keys():
        raise ModelImportError(
            f"{path}: no token has the id {min(missing):,}; expected one for each id up to {len(ids) - 1:,}"
        )
    return [by_id[token] for token in range(len(ids))]


def _read_config(path: Path) -> TokenizerConfig:
    """Return what a `tokenizer_config.json` or `special_tokens_map.json` says, nothing if there is none."""
    return read_json(path, _CONFIG) if os.path.lexists(path) else TokenizerConfig()


def _content(token: Name) -> str:
    """Return the name of a token, "" for none."""
    return token.content if isinstance(token, NamedToken) else token or ""


def _named(named: Name, ids: Mapping[str, int], configured: int | list[int] | None, special: set[int]) -> int | None:
    """Return the id of a special token, None if there is none.

    That is the token that `tokenizer_config.json` names, else `<|endoftext|>`, else the id in `config.json` if it is a
    special one: it is GPT-2's in many folders whose tokenizer is another one.
    """
    for name in (_content(named), END_OF_TEXT):
        if name in ids:
            return ids[name]
    candidates = configured if isinstance(configured, list) else [configured]
    return next((token for token in candidates if token in special), None)
