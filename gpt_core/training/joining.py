"""Setup of a rank other than 0: it receives settings, tokenizer, state and tensors, and reads the texts itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from gpt_core import tokenizers
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import Settings
from gpt_core.distributed.communicator import Communicator
from gpt_core.kernels import compute_threads, threads
from gpt_core.model.parameters import Parameters
from gpt_core.optim import create_optimizer, create_outer_optimizer
from gpt_core.progress import ignore_progress
from gpt_core.training.run import Run
from gpt_core.training.setup import text_sources, texts_of_ranks
from gpt_core.training.sharing import check_same_program, receive_start, receive_state, share_tensors
from gpt_core.training.trainer import Trainer

OWN_SETTINGS = ("train_file", "eval_file", "threads")
"""Settings that may differ from rank to rank."""


def join_run(ranks: Communicator, requested: Mapping[str, object], replaced: Settings | None = None) -> Trainer:
    """Prepare this rank for the run that rank 0 opens (`gpt_core.training.setup.open_run`). Collective.

    Args:
        ranks: Ranks that train together.
        requested: Settings that were requested for this rank; those of `OWN_SETTINGS` are used.
        replaced: Settings that they replace: where the run has another value, that is used. None: any.

    Raises:
        GptError: A text is not usable on this host.
        RankError: A rank has failed or is lost, or has another text.
    """
    check_same_program(ranks)
    start = receive_start(ranks)
    own = own_settings(start.settings, requested, replaced)
    settings = msgspec.convert(msgspec.structs.asdict(start.settings) | own, Settings)
    ranks.watch_every(settings.heartbeat_s)
    threads.set_threads(compute_threads(settings.threads))
    tokenizer = tokenizers.from_bytes(start.tokenizer)
    texts = texts_of_ranks(settings, *text_sources(settings), tokenizer, ignore_progress, ranks)
    shared = receive_state(ranks)
    settings = msgspec.convert(msgspec.structs.asdict(shared.settings) | own, Settings)
    parameters = Parameters(settings.shape)
    optimizer, outer = create_optimizer(parameters, settings), create_outer_optimizer(parameters, settings)
    share_tensors(ranks, parameters, optimizer, outer, shared.state)
    run = Run(
        settings=settings, preset=shared.preset, texts=texts, tokenizer=tokenizer, parameters=parameters,
        optimizer=optimizer, state=shared.state, store=CheckpointStore(Path(settings.models_dir)), outer=outer,
        communicator=ranks, is_reported=False,
    )  # fmt: skip
    return Trainer(run)


def own_settings(run: Settings, requested: Mapping[str, object], replaced: Settings | None) -> dict[str, object]:
    """Return the requested settings that replace those of the run on this rank."""
    return {
        name: requested[name]
        for name in OWN_SETTINGS
        if name in requested and (replaced is None or getattr(run, name) == getattr(replaced, name))
    }
