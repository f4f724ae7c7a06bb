"""From settings to a trainer that is ready for its first step: text, tokenizer, tokens, weights, checkpoint, log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gpt_core import tokenizers
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.resolve import check_resumable
from gpt_core.config.settings import Settings
from gpt_core.errors import CheckpointError
from gpt_core.formats.checkpoint import Checkpoint, TrainingState, new_run_id, read_checkpoint
from gpt_core.kernels import available_cores, threads
from gpt_core.model.parameters import initial_parameters
from gpt_core.optim import create_optimizer
from gpt_core.progress import Progress, ignore_progress
from gpt_core.text.corpus import find_eval_text, find_training_text
from gpt_core.text.data_loader import DataLoader
from gpt_core.text.documents import first_lines
from gpt_core.text.overfit_data import OverfitLoader
from gpt_core.text.token_cache import load_or_train_tokenizer, load_tokens
from gpt_core.text.token_stream import TokenStream, split_held_out, tokens_of_documents
from gpt_core.tokenizers import Tokenizer
from gpt_core.training.run import BatchSource, Run
from gpt_core.training.trainer import Trainer

OVERFIT_SEQ_LEN = 128  # long enough for a line and its neighbours, short enough for a quick check of the 57.5M preset


class Texts(NamedTuple):
    """What is learned, in which windows, and what it is scored on."""

    train: TokenStream
    windows: BatchSource
    held_out: TokenStream | None
    eval_file: Path | None


def open_run(
    settings: Settings,
    *,
    preset_name: str = "",
    resume: Path | Checkpoint | None = None,
    passed_over: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress = ignore_progress,
) -> Trainer:
    """A new run, or with `resume` the one that a checkpoint holds, with `settings` in force.

    A `resume` that is a path is read and verified first. `passed_over` are lines about damaged checkpoints that were
    skipped: they become warnings of the run.

    `progress` is told what is being done and which share of it is done. Raises the errors of `gpt_core.errors`: before
    anything that takes time where the folder, the text or the checkpoint is at fault.
    """
    threads.set_threads(settings.threads or available_cores())
    train_file, eval_file = text_files(settings)
    if isinstance(resume, Path):
        progress(f"reading {resume.name}", 0.0)
    checkpoint = read_checkpoint(resume) if isinstance(resume, Path) else resume
    run_id = checkpoint.run_id if checkpoint else new_run_id()
    store = CheckpointStore(settings.models_dir)
    store.prepare(run_id, new_run=checkpoint is None, overwrite=overwrite)
    try:
        if checkpoint is not None:
            check_resumable(checkpoint.settings, settings, str(checkpoint.path))
            tokenizer = tokenizers.from_bytes(checkpoint.tokenizer)
        else:
            tokenizer = load_or_train_tokenizer(
                train_file, settings.vocab_size, settings.tokenizer, settings.document, progress=progress
            )
        texts = open_texts(settings, train_file, eval_file, tokenizer, progress)
        if checkpoint is not None:
            check_same_text(checkpoint, settings, texts.train)
        run = assemble(settings, preset_name, run_id, store, tokenizer, texts, checkpoint)
        run.warnings = (*(f"passed over: {line}" for line in passed_over), *store.space_warnings(settings))
        return Trainer(run)
    except BaseException:
        store.close()
        raise


def assemble(
    settings: Settings,
    preset_name: str,
    run_id: str,
    store: CheckpointStore,
    tokenizer: Tokenizer,
    texts: Texts,
    checkpoint: Checkpoint | None,
) -> Run:
    """The parts of a run: from its checkpoint, or fresh ones."""
    if checkpoint is None:
        state = TrainingState(run_id=run_id)
        parameters = initial_parameters(settings.shape, settings.seed)
        optimizer_state = None
    else:
        state, parameters = checkpoint.state, checkpoint.parameters
        if state.finished == "diverged":
            state.skipped_in_a_row = 0  # who resumes such a run, with lower rates perhaps, wants it to be tried again
        optimizer_state = checkpoint.optimizer_state
    return Run(
        settings=settings, preset=preset_name, windows=texts.windows, train_text=texts.train, eval_text=texts.held_out,
        tokenizer=tokenizer, parameters=parameters, optimizer=create_optimizer(parameters, settings, optimizer_state),
        state=state, store=store, resumed_from=checkpoint.path if checkpoint else None, eval_file=texts.eval_file,
    )  # fmt: skip


def text_files(settings: Settings) -> tuple[Path, Path | None]:
    """The training text, and the eval text if there is one of its own. Raises CorpusError."""
    train_file = Path(settings.train_file) if settings.train_file else find_training_text()
    if settings.eval_file:
        return train_file, Path(settings.eval_file)
    return train_file, find_eval_text(training_text=train_file)


def open_texts(
    settings: Settings, train_file: Path, eval_file: Path | None, tokenizer: Tokenizer, progress: Progress
) -> Texts:
    """The tokens to train on, and those to score: of the eval text, or of the end of the training text."""
    if settings.overfit_tiny:
        lines = tokens_of_documents(first_lines(train_file, settings.overfit_lines), tokenizer)
        windows = OverfitLoader(lines, min(settings.seq_len, OVERFIT_SEQ_LEN), settings.seed)
        return Texts(lines, windows, None, None)
    text = load_tokens(train_file, tokenizer, settings.document, progress=progress)
    if eval_file is not None:
        held_out = load_tokens(eval_file, tokenizer, settings.document, progress=progress)
    else:
        text, held_out = split_held_out(text, settings.val_frac)
    return Texts(text, DataLoader(text, settings.seq_len, settings.seed), held_out, eval_file or train_file)


def check_same_text(checkpoint: Checkpoint, settings: Settings, text: TokenStream) -> None:
    """A run goes on with the text that it began with, unless the user names another. Raises CheckpointError."""
    named_another = settings.train_file != checkpoint.settings.train_file
    if text.sha256 != checkpoint.corpus_sha256 and not named_another:
        raise CheckpointError(
            f"{checkpoint.path} was trained on another text: SHA-256 {checkpoint.corpus_sha256[:12]}…, got "
            f"{text.path or 'lines'} with {text.sha256[:12]}…; restore that text, or name this one with --train-file to "
            "resume with it"
        )
