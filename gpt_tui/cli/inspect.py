"""Commands that inspect and print: config, verify, gradcheck, tokenize, evaluate."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from gpt_core.config.settings import Settings
from gpt_core.config.toml_file import as_toml
from gpt_core.errors import EXIT_FAILED, EXIT_OK, CheckpointError, GptError, printable
from gpt_core.formats.bundle import load_bundle
from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_core.model.bundle import ModelBundle
from gpt_core.progress import Progress
from gpt_core.text.reader import TextReader
from gpt_core.text.source import TextSource
from gpt_core.text.token_cache import load_or_train_tokenizer, load_tokens
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import Tokenizer
from gpt_core.training.setup import eval_text_of_run, named_text, text_note, text_sources
from gpt_tui.app import preferences
from gpt_tui.cli.options import config_file, load_model, report_text_note, resolve_settings, typed_path
from gpt_tui.headless.progress_line import ProgressLine
from gpt_tui.shared.error_log import log_path
from gpt_tui.shared.formatting import fixed, integer, nats, percent, perplexity, scores_text, short, size
from gpt_tui.shared.sanitize import one_line


def config(options: Namespace) -> int:
    """Run `gpt-tui config`: print settings, theme and keys as a TOML file that reproduces them."""
    resolved = resolve_settings(options)
    chosen = preferences.read_preferences(config_file(options))
    own_file = preferences.user_file() or "none, because there is no home folder; set XDG_CONFIG_HOME"
    files = (
        f"# user theme and keys: {one_line(str(own_file))}\n"
        f"# error log: {one_line(str(log_path(resolved.settings.models_dir)))}\n"
    )
    print(files + config_note(resolved.settings) + as_toml(*resolved) + "\n" + preferences.as_toml(chosen), end="")
    return EXIT_OK


def config_note(settings: Settings) -> str:
    """Return the note about the texts of a run with these settings as a comment; "" if there is none."""
    try:
        train, _ = text_sources(settings)
        note = text_note(settings, train)
    except GptError as error:
        note = str(error)
    return f"# note: {one_line(note, 1000)}\n" if note else ""


def verify(options: Namespace) -> int:
    """Run `gpt-tui verify`: print a line per file; the exit code is 0 if all are valid."""
    code = EXIT_OK
    for name in options.files:
        try:
            info = verify_checkpoint(typed_path(name))
            scores = f", {scores_text(info.scores)}" if info.scores else ""
            print(one_line(f"{name}: OK, {info.kind}, step {integer(info.step)}{scores}, {size(info.size)}"))
        except GptError as error:
            print(one_line(why_invalid(name, error), 1000))
            code = EXIT_FAILED
    return code


def why_invalid(name: str, error: GptError) -> str:
    """Return a line with the name of a file that is no valid checkpoint, and the reason."""
    is_read = isinstance(error, CheckpointError)
    if is_read and Path(name).suffix != ".safetensors" and typed_path(name).is_file():
        return f"{name}: is not a checkpoint; name files that end in .safetensors"
    return str(error) if printable(name) in str(error) else f"{name}: {error}"


def gradcheck(options: Namespace) -> int:
    """Run `gpt-tui gradcheck`: compare kernels with the reference, and the reference with central differences."""
    from gpt_core.gradcheck import KERNEL_LIMIT, REFERENCE_LIMIT, run_gradcheck

    rows = run_gradcheck()
    passed = all(row.passed for row in rows)
    if options.json:
        print(json.dumps({"passed": passed, "tensors": [msgspec.to_builtins(row) for row in rows]}))
        return EXIT_OK if passed else EXIT_FAILED
    width = max(len(row.tensor) for row in rows)
    print(f"{'tensor':<{width}}  {'shape':>9}  {'reference':>11}  {'kernels':>8}")
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        verdict = "" if row.passed else "  WRONG"
        print(f"{row.tensor:<{width}}  {shape:>9}  {row.reference_error:>11.1e}  {row.kernel_error:>8.1e}{verdict}")
    print(
        f"\nreference: relative error of the reference against central differences, limit {REFERENCE_LIMIT:g}\n"
        f"kernels: relative error of the kernels against the reference, limit {KERNEL_LIMIT:g}"
    )
    wrong = sum(not row.passed for row in rows)
    print(f"all {len(rows)} gradients are correct" if passed else f"{wrong} of {len(rows)} gradients are WRONG")
    return EXIT_OK if passed else EXIT_FAILED


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
    given = typed_path(options.model, "--model") if options.model is not None else settings.init_from
    model = load_bundle(given) if given else None
    if model and model.settings.allow_binary:
        settings = msgspec.structs.replace(settings, allow_binary=True)
    source = named_text(settings, [typed_path(name) for name in options.files])
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
        print(f"{integer(found.bytes)} bytes, {integer(found.tokens)} tokens, vocabulary {integer(found.vocab_size)}")
        print(f"{found.bytes_per_token:.3f} bytes per token, encoded at {short(found.mb_per_s)} MB/s")
        print("round trip: identical" if found.round_trip else "round trip: DIFFERENT bytes")
        if options.show_tokens:
            print()
            print_tokens(source, tokenizer)
    return EXIT_OK if found.round_trip else EXIT_FAILED


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
    return Tokenization(source.name, total, tokens, bytes_per_token, same, mb_per_s, tokenizer.vocab_size, origin)


def tokenizer_of(settings: Settings) -> tuple[Tokenizer, str]:
    """Return the tokenizer that the settings give for the training text, and the name of that text."""
    text, _ = text_sources(settings)
    report_text_note(settings)
    with ProgressLine() as waiting:
        tokenizer = load_or_train_tokenizer(
            text, settings.vocab_size, settings.tokenizer, settings.document, progress=waiting
        )
    return tokenizer, text.name


class Evaluation(msgspec.Struct, frozen=True, tag_field="event", tag="eval"):
    """Result of `gpt-tui evaluate`: the fields of an `eval` event, the model and the text.

    `text` is "run" for the eval text of the run that trained the model, "other" for another one.
    """

    step: int
    loss: float
    ppl: float
    accuracy: float
    bits_per_byte: float
    tokens: int
    model: str
    eval_file: str
    text: Literal["run", "other"]


def evaluate(options: Namespace) -> int:
    """Run `gpt-tui evaluate`: evaluate a model on the eval text of its run, or on the text of `--eval-file`."""
    from gpt_core.training import evaluation

    model = load_model(options, ("eval_file", "text_field", "encoding", "weights"))
    with ProgressLine() as waiting:
        text, name, of_run = scored_text(model, options.eval_file is not None, waiting)
        result = evaluation.evaluate(
            model.gpt(),
            text,
            model.settings.micro_batch,
            lambda done, total: waiting(f"evaluating on {Path(name).name}", done / total),
        )
    found = Evaluation(model.step, *result, str(model.path), name, "run" if of_run else "other")
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        print(one_line(f"{model.path}, step {integer(found.step)}, on {name}: {integer(found.tokens)} tokens"))
        if not of_run:
            print("another text than the eval text of its run: the scores are not comparable with those of the run")
        print(
            f"loss {nats(found.loss)}, perplexity {perplexity(found.ppl)}, token accuracy {percent(found.accuracy)}, "
            f"{fixed(found.bits_per_byte)} bits per byte"
        )
    return EXIT_OK


def scored_text(model: ModelBundle, is_named: bool, progress: Progress) -> tuple[TokenStream, str, bool]:
    """Return the tokens to evaluate on, the name of their text, and whether they are the eval text of the model's run.

    Raises:
        CheckpointError: No text is named, and the text that is found is not that of the run.
        CorpusError: A text cannot be read.
    """
    if not is_named:
        return *eval_text_of_run(model, progress), True
    source = named_text(model.settings, model.settings.eval_file)
    text = load_tokens(source, model.tokenizer, model.settings.document, progress=progress)
    return text, source.name, text.sha256 == model.eval_sha256
