"""Setup of a run: from a request to a trainer that is ready for its first step."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from gpt_core import tokenizers
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.presets import shape_name
from gpt_core.config.resolve import check_resumable
from gpt_core.config.settings import Settings
from gpt_core.config.validation import READING, checked
from gpt_core.distributed.communicator import SINGLE_PROCESS, Communicator
from gpt_core.errors import CheckpointError, CorpusError, ResumeTextError
from gpt_core.formats.checkpoint import Checkpoint, TrainingState, new_run_id, peek_checkpoint, same_eval_text
from gpt_core.formats.checkpoint_header import TRAINED, require_savable
from gpt_core.kernels import compute_threads, threads, threads_warning
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.parameters import Parameters, initial_parameters
from gpt_core.optim import OUTER_MOMENTUM, OptimizerState, create_optimizer, create_outer_optimizer
from gpt_core.progress import Progress, ignore_progress
from gpt_core.text.corpus import find_eval_text, find_training_text, unused_texts_note
from gpt_core.text.data_loader import DataLoader
from gpt_core.text.first_words import first_words, opening
from gpt_core.text.overfit_data import OverfitLoader
from gpt_core.text.reader import first_lines, markup_note, require_readable, text_sha256
from gpt_core.text.source import PathLike, TextSource, text_of
from gpt_core.text.synthetic import is_synthetic, synthetic_file
from gpt_core.text.token_cache import load_or_train_tokenizer, load_tokens
from gpt_core.text.token_stream import TokenStream, split_held_out, tokens_of_documents
from gpt_core.tokenizers import Tokenizer
from gpt_core.training.evaluation import max_part_tokens, part_windows
from gpt_core.training.fine_tuning import StartingPoint, context_note, read_start, tokenizer_note
from gpt_core.training.gradient_sum import check_ranks
from gpt_core.training.precision import emulation_warning, with_precision
from gpt_core.training.request import RunRequest, text_error, text_of_run_error
from gpt_core.training.run import Run, Texts
from gpt_core.training.sharing import check_same_program, check_same_text_on_ranks, share_start, share_state
from gpt_core.training.trainer import MAX_SKIPPED_IN_A_ROW, Trainer

OVERFIT_SEQ_LEN = 128  # maximum context of the self-test: a few lines, and a quick check of the largest preset


def open_run(
    request: RunRequest, progress: Progress = ignore_progress, ranks: Communicator = SINGLE_PROCESS
) -> Trainer:
    """Prepare a requested run: folder, tokenizer, tokens, parameters, optimizer. No step is taken yet.

    Args:
        request: The new run, or the one to resume.
        progress: Receives the activity and its completed fraction.
        ranks: Ranks that train together. This is rank 0; the others call `gpt_core.training.joining.join_run`.

    Raises:
        GptError: The folder, a text or the checkpoint is not usable. These are checked before anything slow begins.
        RankError: A rank has failed or is lost, or has another text.
    """
    if request.resume is not None and not request.loaded.is_available:
        progress(f"reading {request.resume.name if isinstance(request.resume, Path) else 'the newest checkpoint'}", 0.0)
    request = request.located()
    settings, checkpoint = request.settings, request.loaded.take()
    check_ranks(len(ranks.hosts), settings.batch_size, settings.micro_batch)
    require_savable(settings)
    ranks.watch_every(settings.heartbeat_s)
    check_same_program(ranks)
    threads.set_threads(compute_threads(settings.threads))
    try:
        train_source, eval_source = text_sources(settings)
    except CorpusError as error:
        raise text_error(error, settings, checkpoint) from None
    start = read_start(settings, progress) if settings.init_from and checkpoint is None else None
    run_id = checkpoint.run_id if checkpoint else new_run_id()
    store = CheckpointStore(settings.models_dir)
    store.prepare(run_id, new_run=checkpoint is None, overwrite=request.overwrite)
    try:
        if checkpoint is not None:
            check_unchanged(checkpoint)
            origin = checkpoint.state.origin
            check_resumable(checkpoint.settings, settings, str(checkpoint.path), origin.path if origin else "")
            tokenizer = tokenizers.from_bytes(checkpoint.tokenizer)
        elif start is not None:
            tokenizer = start.tokenizer
        else:
            tokenizer = load_or_train_tokenizer(
                train_source, settings.vocab_size, settings.tokenizer, settings.document, progress=progress
            )
        share_start(ranks, settings, tokenizer)
        texts = texts_of_ranks(settings, train_source, eval_source, tokenizer, progress, ranks)
        if checkpoint is not None:
            check_same_text(checkpoint, settings, texts.train)
        notes = (
            text_note(settings, train_source) if checkpoint is None else other_text_note(checkpoint, texts.train),
            context_note(start) if start is not None else "",
            tokenizer_note(start, texts.train) if start is not None else "",
            eval_text_note(train_source, eval_source, texts),
        )
        run = assemble(request, run_id, store, tokenizer, texts, checkpoint, start, notes)
        run.communicator = ranks
        share_state(ranks, run)
        return Trainer(run)
    except BaseException:
        store.close()
        raise


def check_unchanged(checkpoint: Checkpoint) -> None:
    """Check, once the folder is locked, that a checkpoint is still the one that was read before.

    The run may have been in training until then: a resume would take steps again that its last save holds, and replace
    that.

    Raises:
        CheckpointError: It was saved again meanwhile.
    """
    assert checkpoint.path is not None
    try:
        now = peek_checkpoint(checkpoint.path)
    except CheckpointError:
        return  # removed or damaged since: what was read is all that is left of it
    if (now.run_id, now.step) != (checkpoint.run_id, checkpoint.step):
        raise CheckpointError(
            f"{checkpoint.path} was saved again while it was read: it was at step {checkpoint.step:,}, and is at step "
            f"{now.step:,} now; resume it again"
        )


def assemble(
    request: RunRequest,
    run_id: str,
    store: CheckpointStore,
    tokenizer: Tokenizer,
    texts: Texts,
    checkpoint: Checkpoint | None,
    start: StartingPoint | None = None,
    notes: Iterable[str] = (),
) -> Run:
    """Return the parts of a run: those of its checkpoint, or initial ones. `notes` are warnings to report, "" for none.

    The weights of a run that starts from others are evaluated before the first step: later scores compare with that.
    """
    (settings, choice), best_restarted = with_precision(request.settings), ""
    prompted = texts.held_out if texts.held_out is not None and texts.has_best else texts.train
    prompt = request.settings.sample_prompt or first_words(prompted, tokenizer)
    settings = msgspec.structs.replace(settings, sample_prompt=prompt)
    if checkpoint is None:
        state, optimizer_state, average, momentum = TrainingState(run_id=run_id), None, None, None
        if start is None:
            parameters = initial_parameters(settings.shape, settings.seed, settings.init_projections)
        else:
            parameters, state.origin = start.parameters, start.origin
            state.evaluation_due = texts.held_out is not None
    else:
        state, (parameters, average, optimizer_state, momentum) = checkpoint.state, tensors_of(checkpoint)
        if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            state.skipped_in_a_row = 0  # resuming such a run, for example with lower learning rates, tries again
        if state.finished == "early_stopping":
            state.restart_patience()
        state.finished = ""
        best_restarted = check_best(checkpoint, settings, texts)
    if texts.held_out is not None:
        state.eval_sha256, state.eval_windows = eval_text_id(settings, texts.held_out)
    run = Run(
        settings=settings, preset=shape_name(settings.shape), texts=texts, tokenizer=tokenizer, parameters=parameters,
        optimizer=create_optimizer(parameters, settings, optimizer_state, average), state=state, store=store,
        outer=create_outer_optimizer(parameters, settings, momentum),
        resumed_from=checkpoint.path if checkpoint else None,
        earlier_folders=earlier_folders(checkpoint) if checkpoint else (), first_words=opening(texts.train, tokenizer),
        precision_reason=choice.reason, best_restarted=best_restarted, model_reason=request.model_reason,
    )  # fmt: skip
    run.warnings = tuple(filter(None, (
        *(f"skipped: {line}" for line in request.passed_over), store.space_warning(settings, run.epoch_files),
        emulation_warning(choice), *notes, threads_warning(settings.threads), *request.raised,
    )))  # fmt: skip
    return run


def earlier_folders(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """Return the folders in which a run has saved: that of its checkpoint, and the one that it was to be saved in."""
    assert checkpoint.path is not None
    return checkpoint.path.parent, Path(checkpoint.settings.models_dir)


class RunTensors(NamedTuple):
    """Tensors of a checkpoint's run: the weights it trains, their average if it keeps one, and states of optimizers."""

    weights: Parameters
    average: Parameters | None
    optimizer_state: OptimizerState | None
    outer_momentum: Parameters | None


def tensors_of(checkpoint: Checkpoint) -> RunTensors:
    """Return the tensors of a checkpoint's run."""
    if checkpoint.optimizer_state is None:
        return RunTensors(checkpoint.parameters, None, None, None)
    state = dict(checkpoint.optimizer_state)
    trained, momentum = state.pop(TRAINED, None), state.pop(OUTER_MOMENTUM, None)
    if trained is None:
        return RunTensors(checkpoint.parameters, None, state, momentum)
    return RunTensors(trained, checkpoint.parameters, state, momentum)


def eval_text_id(settings: Settings, text: TokenStream) -> tuple[str, int]:
    """Return the digest of the eval text and the number of windows of the part that every evaluation scores."""
    return text.sha256, part_windows(text, settings.seq_len, max_part_tokens(settings))


def check_best(checkpoint: Checkpoint, settings: Settings, texts: Texts) -> str:
    """Forget the best score of a checkpoint if scores of the resumed run cannot be compared with it.

    Returns:
        The reason with the forgotten score, "" if the score is kept.
    """
    state = checkpoint.state
    if settings.best_metric != checkpoint.settings.best_metric:
        state.restart_patience()
    if texts.held_out is None or not state.is_scored:
        return ""
    sha256, windows = eval_text_id(settings, texts.held_out)
    now = msgspec.structs.replace(state, eval_sha256=sha256)
    resumed = checkpoint._replace(settings=settings, corpus_sha256=texts.train.sha256, state=now)
    is_same_text = same_eval_text(checkpoint, resumed)
    if not is_same_text or windows != state.eval_windows:
        state.last_eval = state.start_scores = None
        reason = "another part of the eval text" if is_same_text else "another eval text"
    elif settings.best_metric == "loss" and state.best_loss is None:
        reason = "the best eval loss so far is unknown"
    else:
        return ""
    loss = "" if state.best_loss is None else f"eval loss {state.best_loss:.3f}, "
    best = f"{loss}accuracy {state.best_accuracy:.1%} at step {state.best_step:,}"
    state.forget_best()
    return f"{reason}: a new best score and a new patience begin (the best so far: {best})"


def text_sources(settings: Settings) -> tuple[TextSource, TextSource | None]:
    """Return the training text, and the eval text if there is a separate one, whose files are not trained on.

    Raises:
        CorpusError: There is no training text, or a text is empty, cannot be read or is not text.
        ConfigError: The name of a text is not UTF-8.
    """
    own = synthetic_file(settings.synthetic_text) if is_synthetic(settings) else settings.train_file
    names = own or find_training_text()
    checked("train_file", str(names) if isinstance(names, Path) else names)  # one that is found may not be UTF-8
    train = named_text(settings, names)
    if settings.hold_out or (is_synthetic(settings) and not settings.eval_file):
        return train, None
    training_text = train.files[0] if len(train.files) == 1 else train.cache_path  # the one of a folder or a pattern
    eval_names = settings.eval_file or find_eval_text(training_text=training_text)
    if eval_names is None:
        return train, None
    checked("eval_file", str(eval_names) if isinstance(eval_names, Path) else eval_names)
    try:
        held_out = named_text(settings, eval_names)
    except CorpusError as error:
        error.setting = "eval_file"
        raise
    return train.without(held_out), held_out


def named_text(settings: Settings, names: PathLike | Iterable[PathLike]) -> TextSource:
    """Return the text of the named files, read as the settings say.

    Raises:
        CorpusError: No file is named, a file cannot be read or is not text, or there is only white space.
    """
    if not names:
        raise CorpusError("got no text, expected the name of a file, a folder or a pattern")
    source = text_of(settings, names)
    require_readable(source)
    return source


def text_note(settings: Settings, train_text: TextSource) -> str:
    """Return a line about markup that is read as text, or about texts under `data/` that are not used; "" for none."""
    if settings.train_file or is_synthetic(settings):
        return markup_note(train_text)
    return unused_texts_note(train_text.files[0]) or markup_note(train_text)


def eval_text_note(train: TextSource, held_out: TextSource | None, texts: Texts) -> str:
    """Return a line about an eval text that contains the training text, "" if it does not."""
    if held_out is None or texts.held_out is None:
        return ""
    trained, scored = ({os.path.realpath(path) for path in source.files} for source in (train, held_out))
    if not trained <= scored and texts.train.sha256 != texts.held_out.sha256:
        return ""
    return (
        f"the eval text {held_out.name} contains the training text {train.name}: the model is scored on what it is "
        "trained on; set eval_file to another text, or set hold_out=true to hold out the end of the training text "
        "instead"
    )


def window_length(settings: Settings) -> int:
    """Return T, the number of tokens in one training window."""
    return min(settings.seq_len, OVERFIT_SEQ_LEN) if settings.overfit_tiny else settings.seq_len


def open_texts(
    settings: Settings, train: TextSource, held_out: TextSource | None, tokenizer: Tokenizer, progress: Progress
) -> Texts:
    """Return the tokens to train on and to evaluate on: those of the eval text, else the end of the training text."""
    if settings.overfit_tiny:
        lines = tokens_of_documents(first_lines(train, settings.overfit_lines), tokenizer)
        windows = OverfitLoader(lines, window_length(settings), settings.seed)
        return Texts(lines, windows, None, "", 0)
    text = load_tokens(train, tokenizer, settings.document, progress=progress)
    if held_out is not None:
        eval_text = load_tokens(held_out, tokenizer, settings.document, progress=progress)
    else:
        text, eval_text = split_held_out(text, settings.val_frac, progress)
    is_shuffled = settings.shuffle == "documents"
    loader = DataLoader(text, settings.seq_len, settings.seed, documents=is_shuffled, progress=progress)
    source = held_out or train
    eval_sha256 = eval_text.sha256 if held_out is not None else text.sha256
    return Texts(text, loader, eval_text, source.name, len(train.files), source.cache_path, eval_sha256)


def texts_of_ranks(
    settings: Settings,
    train: TextSource,
    held_out: TextSource | None,
    tokenizer: Tokenizer,
    progress: Progress,
    ranks: Communicator,
) -> Texts:
    """Return the texts of a run on several ranks, of which one per host writes the token caches. Collective.

    Raises:
        CorpusError: A rank has another text.
    """
    texts = open_texts(settings, train, held_out, tokenizer, progress) if ranks.is_first_on_host else None
    ranks.gather(np.zeros(1))
    texts = texts or open_texts(settings, train, held_out, tokenizer, progress)
    check_same_text_on_ranks(ranks, texts.train, texts.held_out)
    return texts


def check_same_text(checkpoint: Checkpoint, settings: Settings, text: TokenStream) -> None:
    """Check that a resumed run has the text it started with, unless another was requested. Raises ResumeTextError."""
    named_another = any(
        getattr(settings, name) != getattr(checkpoint.settings, name)
        for name in ("train_file", "synthetic_text", *READING)
    )
    if text.sha256 != checkpoint.corpus_sha256 and not named_another:
        raise ResumeTextError(
            f"{checkpoint.path} was trained on another text: SHA-256 {checkpoint.corpus_sha256[:12]}…, got "
            f"{text.name or 'lines'} with {text.sha256[:12]}…",
            "; restore that text, or resume with a copy of this one under another name (--train-file)",
        )


def other_text_note(checkpoint: Checkpoint, text: TokenStream) -> str:
    """Return a line about the tokenizer of a run that is resumed with another training text, else ""."""
    if text.sha256 == checkpoint.corpus_sha256:
        return ""
    return (
        "another training text: the tokenizer is still that of the earlier text "
        f"({text.bytes / max(len(text), 1):.2f} bytes per token here); for another language, start a new run"
    )


def eval_text_of_run(model: ModelBundle, progress: Progress = ignore_progress) -> tuple[TokenStream, str]:
    """Return the eval text of the run that trained a model, found as a resume finds it, and its name.

    Raises:
        CheckpointError: The text that is found is not the one of the run, or the run has none.
        CorpusError: A text cannot be read.
    """
    settings, name = model.settings, model.path or "the model"
    if settings.overfit_tiny:
        raise CheckpointError(f"{name} is of a self-test, which has no eval text", "; name a text with --eval-file")
    if not model.corpus_sha256:
        raise CheckpointError(
            f"{name} records no training text: its eval text is unknown", "; name one with --eval-file"
        )
    try:
        train, held_out = text_sources(settings)
        source = held_out or train
        text = load_tokens(source, model.tokenizer, settings.document, progress=progress)
    except CorpusError as error:
        raise text_of_run_error(error, str(name), "name a text with --eval-file") from None
    file_sha256 = text.sha256
    if held_out is None:
        text = split_held_out(text, settings.val_frac, progress)[1]
    expected, found, hashed = model.eval_sha256, text.sha256, source.name
    if not expected:  # earlier versions saved the digest of the training text alone
        expected, found, hashed = model.corpus_sha256, text_sha256(train, progress), train.name
    if expected != found:
        if held_out is None and model.corpus_sha256 != file_sha256:  # digests of files, not of the held-out part
            expected, found = model.corpus_sha256, file_sha256
        raise CheckpointError(
            f"{name}: the text of its run was not found: expected SHA-256 {expected[:12]}…, got {hashed} with "
            f"{found[:12]}…",
            "; run the command in the folder of that text, restore it, or name a text with --eval-file",
        )
    return text, source.name
