"""`gpt-tui evaluate`: evaluate a checkpoint on a text."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec

from gpt_core.config.validation import READING
from gpt_core.errors import EXIT_OK, ConfigError, shown
from gpt_core.model.bundle import ModelBundle
from gpt_core.progress import Progress
from gpt_core.text.token_cache import load_tokens
from gpt_core.text.token_stream import TokenStream
from gpt_core.training.setup import eval_text_of_run, named_text
from gpt_tui.cli.main import option_of
from gpt_tui.cli.options import load_chosen, with_options
from gpt_tui.headless.progress_line import ProgressLine
from gpt_tui.shared.formatting import counted, fixed, integer, nats, percent, perplexity
from gpt_tui.shared.sanitize import one_line, valid_utf8

CHANGED = (*READING, "document")  # what --set may change: how the text is read, and cut into documents


class Evaluation(msgspec.Struct, frozen=True, tag_field="event", tag="eval"):
    """Result of `gpt-tui evaluate`: the fields of an `eval` event, the model and the text.

    `text` is "run" for the eval text of the run that trained the model, "other" for another one, or for
    that text cut into other documents.
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

    for assignment in options.assignments:
        if "=" in assignment and (name := assignment.partition("=")[0].strip()) not in CHANGED:
            raise ConfigError(f"--set: got {shown(name)}, expected one of {', '.join(CHANGED)}")
    trained = load_chosen(options)
    base = trained
    if options.eval_file is not None:  # it is scored instead of the end of the training text
        base = replace(trained, settings=msgspec.structs.replace(trained.settings, hold_out=False))
    model = with_options(base, options, ("eval_file", "text_field", "encoding", "weights"))
    given = [option_of(name) for name in ("text_field", "encoding") if getattr(options, name) is not None]
    given += [f"--set {assignment}" for assignment in options.assignments]
    if given and options.eval_file is None:
        raise ConfigError(
            f"got {' '.join(given)} without --eval-file: the eval text of the run is read as it was in training; "
            f"leave out {' '.join(given)}, or name a text with --eval-file"
        )
    with ProgressLine() as waiting:
        text, name, is_same = scored_text(model, options.eval_file is not None, waiting)
        result = evaluation.evaluate(
            model.gpt(),
            text,
            model.settings.micro_batch,
            lambda done, total: waiting(f"evaluating on {Path(name).name}", done / total),
        )
    of_run = is_same and model.settings.document == trained.settings.document
    found = Evaluation(model.step, *result, valid_utf8(str(model.path)), name, "run" if of_run else "other")
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        print(one_line(f"{model.path}, step {integer(found.step)}, on {name}: {counted(found.tokens, 'token')}"))
        if not of_run and model.eval_sha256:
            other = "other documents than those of" if is_same else "another text than"
            print(f"{other} the eval text of its run: the scores are not comparable with those of the run")
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
