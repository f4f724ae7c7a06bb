"""Settings, tokenizer and state that rank 0 sends to the others before the first step, and checks that ranks agree."""

from __future__ import annotations

import platform

import msgspec

from gpt_core import __version__
from gpt_core.config.settings import Settings
from gpt_core.distributed.communicator import Communicator, DifferenceError, described
from gpt_core.formats.training_state import TrainingState
from gpt_core.kernels import LEVEL
from gpt_core.model.parameters import Parameters
from gpt_core.optim import Optimizer, OuterOptimizer
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import Tokenizer
from gpt_core.training.run import Run


class Start(msgspec.Struct, frozen=True):
    """Requested settings of a run, and its serialized tokenizer."""

    settings: Settings
    tokenizer: bytes


class SharedState(msgspec.Struct, frozen=True):
    """State of a run, with its settings in force and the name of its preset."""

    settings: Settings
    preset: str
    state: TrainingState


def share_start(ranks: Communicator, settings: Settings, tokenizer: Tokenizer) -> None:
    """Send settings and tokenizer of rank 0 to the other ranks. Collective: they call `receive_start`."""
    if len(ranks.hosts) > 1:
        ranks.broadcast(msgspec.msgpack.encode(Start(settings, tokenizer.to_bytes())))


def receive_start(ranks: Communicator) -> Start:
    """Return settings and tokenizer of rank 0."""
    return msgspec.msgpack.decode(ranks.broadcast(b""), type=Start)


def share_state(ranks: Communicator, run: Run) -> None:
    """Send the state of rank 0 to the other ranks, with all tensors. Collective: they call `receive_state`."""
    if len(ranks.hosts) > 1:
        ranks.broadcast(msgspec.msgpack.encode(SharedState(run.settings, run.preset, run.state)))
        share_tensors(ranks, run.parameters, run.optimizer, run.outer, run.state)


def receive_state(ranks: Communicator) -> SharedState:
    """Return the state of rank 0; its tensors follow (`share_tensors`)."""
    return msgspec.msgpack.decode(ranks.broadcast(b""), type=SharedState)


def share_tensors(
    ranks: Communicator,
    parameters: Parameters,
    optimizer: Optimizer,
    outer: OuterOptimizer | None,
    state: TrainingState,
) -> None:
    """Overwrite all tensors of a run by those of rank 0. The optimizers' states are zero before the first step."""
    ranks.broadcast_array(parameters.flat)
    if optimizer.average is not None:
        ranks.broadcast_array(optimizer.average.flat)
    if state.step:
        for tensors in (*optimizer.state.values(), *([outer.momentum] if outer is not None else [])):
            ranks.broadcast_array(tensors.flat)


def check_same_program(ranks: Communicator) -> None:
    """Check that all ranks compute the same bits: version, kind of processor and instruction-set level. Collective.

    Raises:
        DifferenceError: A rank differs from rank 0.
    """
    found = ranks.gather_bytes(f"gpt-tui {__version__}, {platform.machine()}, {LEVEL}".encode())
    for rank, program in enumerate(found):
        if program != found[0]:
            raise DifferenceError(
                f"{described(rank, ranks.hosts)} computes with {program.decode()}, rank 0 with {found[0].decode()}: "
                "their results would differ; install the same version, and set GPT_TUI_LEVEL to the same level for "
                "all ranks"
            )


def check_same_text_on_ranks(ranks: Communicator, train: TokenStream, held_out: TokenStream | None) -> None:
    """Check that all ranks have the texts of rank 0. Collective.

    Raises:
        DifferenceError: A rank has another text.
    """
    texts = (("training", train), ("eval", held_out))
    for kind, text in texts:
        found = ranks.gather_bytes(text.sha256.encode() if text is not None else b"")
        for rank, sha256 in enumerate(found):
            if sha256 != found[0]:
                raise DifferenceError(
                    f"{described(rank, ranks.hosts)} has another {kind} text: SHA-256 {sha256.decode()[:12]}…, "
                    f"expected {found[0].decode()[:12]}… as on {ranks.hosts[0]}; copy the text there, or set "
                    f"{'train_file' if kind == 'training' else 'eval_file'} for that rank"
                )
