"""`gpt-tui tokenize`: tokenize a text and check the round trip."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator

import msgspec

from gpt_core.config.settings import Settings
from gpt_core.errors import EXIT_FAILED, EXIT_OK, ConfigError
from gpt_core.formats.bundle import load_bundle
from gpt_core.home import expand_home
from gpt_core.model.bundle import ModelBundle
from gpt_core.text.reader import TextReader
from gpt_core.text.source import TextSource
from gpt_core.text.token_cache import load_or_train_tokenizer
from gpt_core.tokenizers import Tokenizer
from gpt_core.training.setup import named_text, text_sources
from gpt_tui.cli.options import (
    is_typed,
    load_chosen,
    load_from_folder,
    report_text_note,
    requested_settings,
    resolve_settings,
    typed_path,
)
from gpt_tui.headless.progress_line import ProgressLine
from gpt_tui.shared.formatting import counted, integer, short
from gpt_tui.shared.sanitize import one_line, valid_utf8

TRAINED_BY = ("train_file", "synthetic_text", "vocab_size", "tokenizer", "document", "minutes")
"""Settings that ask for a tokenizer of a training text."""


class Tokenization(msgspec.Struct, frozen=True):
    """Result of `gpt-tui tokenize`; `mb_per_s` is the speed of encoding in 10^6 bytes per second.

    `tokenizer_from` is the checkpoint of the tokenizer, or the text that it was trained on.
    """

    file: str
    bytes: int
    tokens: int
    bytes_per_token: float
    round_trip: bool
    mb_per_s: float
    vocab_size: int
    tokenizer_from: str


def tokenize(options: Namespace) -> int:
    """Run `gpt-tui tokenize`: print token counts; the exit code is 0 if decoding restores the bytes."""
    settings = resolve_settings(options).settings
    model = chosen_model(options, settings)
    if model and model.settings.allow_binary:
        settings = msgspec.structs.replace(settings, allow_binary=True)
    source = named_text(settings, [typed_path(name, "FILE") for name in options.files])
    tokenizer, origin = (model.tokenizer, str(model.path or "")) if model else tokenizer_of(settings)
    found = tokenized(source, tokenizer, origin)
    if options.json:
        values = msgspec.to_builtins(found)
        if options.show_tokens:
            values["texts"] = [tokenizer.describe(token) for token in token_ids(source, tokenizer)]
        print(msgspec.json.encode(values).decode())
    else:
        trained = "of" if model else "trained on"
        print(one_line(f"{source.name}, with the tokenizer {trained} {origin}", 1000))
        sizes = f"{counted(found.bytes, 'byte')}, {counted(found.tokens, 'token')}"
        print(f"{sizes}, vocabulary {integer(found.vocab_size)}")
        print(f"{found.bytes_per_token:.3f} bytes per token, encoded at {short(found.mb_per_s)} MB/s")
        print("round trip: identical" if found.round_trip else "round trip: DIFFERENT bytes")
        if options.show_tokens:
            print()
            print_tokens(source, tokenizer)
    return EXIT_OK if found.round_trip else EXIT_FAILED


def chosen_model(options: Namespace, settings: Settings) -> ModelBundle | None:
    """Return the model whose tokenizer to use; None for a tokenizer of the training text.

    Raises:
        GptError: There is no such checkpoint, or it is damaged.
    """
    requested = requested_settings(options)
    if options.model is not None:
        if other := next((name for name in (*TRAINED_BY, "init_from") if is_typed(requested, name)), ""):
            raise ConfigError(f"got --model and {other}, expected one of them: a model has its own tokenizer")
        if options.preset is not None:
            raise ConfigError("got --model and --preset, expected one of them: a model has its own tokenizer")
        return load_chosen(options)
    if settings.init_from:
        return load_bundle(settings.init_from)
    if requested.preset is not None or any(name in requested.values for name in TRAINED_BY):
        return None
    if options.models_dir is not None:
        return load_chosen(options)
    return load_from_folder(expand_home(settings.models_dir))


def token_ids(source: TextSource, tokenizer: Tokenizer) -> Iterator[int]:
    """Yield the token ids of a text, block by block. Raises CorpusError."""
    for block in TextReader(source).contents():
        yield from tokenizer.encode(block).tolist()


def print_tokens(source: TextSource, tokenizer: Tokenizer) -> None:
    """Print a text with `|` between its tokens, and a line break after each token that ends a line."""
    is_inside = False
    for token in token_ids(source, tokenizer):
        ends_line = tokenizer.token_bytes(token).endswith(b"\n")
        print("|" * is_inside + tokenizer.describe(token), end="\n" if ends_line else "")
        is_inside = not ends_line
    if is_inside:
        print()


def tokenized(source: TextSource, tokenizer: Tokenizer, origin: str) -> Tokenization:
    """Encode and decode a text block by block, in bounded memory. `origin`: see `Tokenization`. Raises CorpusError."""
    total, tokens, same, seconds = 0, 0, True, 0.0
    for block in TextReader(source).contents():
        started = time.perf_counter()
        ids = tokenizer.encode(block)
        seconds += time.perf_counter() - started
        total, tokens = total + len(block), tokens + len(ids)
        same = same and tokenizer.decode(ids.tolist()) == block
    bytes_per_token = total / tokens if tokens else 0.0
    mb_per_s = total / seconds / 1e6 if seconds else 0.0
    name, origin = valid_utf8(source.name), valid_utf8(origin)
    return Tokenization(name, total, tokens, bytes_per_token, same, mb_per_s, tokenizer.vocab_size, origin)


def tokenizer_of(settings: Settings) -> tuple[Tokenizer, str]:
    """Return the tokenizer that the settings give for the training text, and the name of that text."""
    text, _ = text_sources(settings)
    report_text_note(settings)
    with ProgressLine() as waiting:
        tokenizer = load_or_train_tokenizer(
            text, settings.vocab_size, settings.tokenizer, settings.document, progress=waiting
        )
    return tokenizer, text.name
