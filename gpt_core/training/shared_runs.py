"""Runs that a program on several ranks starts one after another, such as the app: rank 0 opens them, the others join.

A run that cannot start, because the request is not valid or a text is missing on one host, ends on all ranks before
the first step, and all of them wait for the next one. From the first step on, an error of any rank ends all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from gpt_core.config.settings import Settings
from gpt_core.distributed.communicator import Communicator, RankError, described
from gpt_core.errors import GptError
from gpt_core.progress import Progress
from gpt_core.training.joining import join_run
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_core.training.trainer import Trainer

if TYPE_CHECKING:
    from gpt_core.distributed.communicator import Numbers

START, END = b"start", b"end"
TakePart = Callable[[Trainer], int]


class StartError(GptError):
    """A run has not started because of an error of another rank, which the message names with its host."""


class StartingRanks:
    """Communicator with which ranks open a run: an error of one of them is an error of all at their next operation.

    Before each operation the ranks gather who has failed. Once all of them have opened the run, operations are those of
    the communicator.

    Args:
        ranks: Communicator of the ranks.
    """

    def __init__(self, ranks: Communicator) -> None:
        self._ranks = ranks
        self._is_open = False
        self.rank, self.hosts, self.is_first_on_host = ranks.rank, ranks.hosts, ranks.is_first_on_host

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Context in which this rank opens the run. Collective: all ranks leave it together, or with an error.

        Raises:
            StartError: Another rank has failed, and this one has not.
            RankError: A rank is lost.
        """
        try:
            yield
            self._agree()
        except (StartError, RankError):
            raise
        except Exception as error:
            self._agree(error)
            raise
        self._is_open = True

    def _agree(self, error: Exception | None = None) -> None:
        """Gather the errors of all ranks. Raises StartError if another rank has one, and this one has none."""
        if not self._ranks.gather(np.array([float(error is not None)])).any():
            return
        texts = self._ranks.gather_bytes(b"" if error is None else error_text(error).encode())
        if error is None:
            rank = next(rank for rank, text in enumerate(texts) if text)
            raise StartError(f"{described(rank, self.hosts)}: {texts[rank].decode()}")

    def _ready(self) -> Communicator:
        """Return the communicator for the next operation."""
        if not self._is_open:
            self._agree()
        return self._ranks

    def gather(self, values: Numbers) -> Numbers:
        """Return the values of all ranks, a row per rank."""
        return self._ready().gather(values)

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the data of all ranks."""
        return self._ready().gather_bytes(data)

    def broadcast(self, data: bytes) -> bytes:
        """Return the data of rank 0."""
        return self._ready().broadcast(data)

    def broadcast_array(self, values: NDArray[Any]) -> None:
        """Overwrite the values by those of rank 0."""
        self._ready().broadcast_array(values)

    def exchange(
        self, sent: NDArray[Any], sent_counts: Sequence[int], received: NDArray[Any], received_counts: Sequence[int]
    ) -> None:
        """Send a part of `sent` to each rank, and receive one from each rank into `received`."""
        self._ready().exchange(sent, sent_counts, received, received_counts)

    def collect(self, part: NDArray[Any], whole: NDArray[Any], counts: Sequence[int]) -> None:
        """Set `whole` to the parts of all ranks."""
        self._ready().collect(part, whole, counts)

    def watch_every(self, seconds: float) -> None:
        """Treat a rank as lost if it has not responded for this time."""
        self._ranks.watch_every(seconds)

    def check(self) -> None:
        """Raise RankError if a rank has failed or is lost."""
        self._ranks.check()

    def saving(self) -> AbstractContextManager[None]:
        """Return a context in which rank 0 saves a checkpoint."""
        return self._ranks.saving()

    def leave(self, code: int) -> NoReturn:
        """End all ranks: if called on another rank, once rank 0 has ended."""
        self._ranks.leave(code)

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once."""
        self._ranks.abort(code)


def error_text(error: Exception) -> str:
    """Return an error as text."""
    return str(error) if isinstance(error, GptError) and str(error) else f"{type(error).__name__}: {error}"


class SharedRuns:
    """Rank 0 of a program that starts runs on all ranks, of which the others call `join_runs`.

    Creating it and all methods are collective, and raise RankError if a rank has failed or is lost. The methods may be
    called from any thread, one at a time.

    Args:
        ranks: Ranks that train together.
        settings: Settings that this rank was started with.
    """

    def __init__(self, ranks: Communicator, settings: Settings) -> None:
        self._ranks = ranks
        ranks.watch_every(settings.heartbeat_s)
        ranks.broadcast(msgspec.msgpack.encode(settings))

    def open_run(self, request: RunRequest, progress: Progress) -> Trainer:
        """Prepare a run on all ranks.

        Raises:
            GptError: The run cannot start; all ranks wait for the next one.
            RankError: A rank has failed or is lost.
        """
        self._ranks.broadcast(START)
        starting = StartingRanks(self._ranks)
        trainer = None
        try:
            with starting.opening():
                trainer = open_run(request, progress, starting)
        except BaseException:
            if trainer is not None:
                trainer.run.store.close()
            raise
        return trainer

    def end_run(self) -> int:
        """Wait until all ranks have ended the run. Return the highest of their exit codes, 0 without a signal."""
        return int(self._ranks.gather(np.zeros(1)).max())

    def close(self) -> None:
        """Let the other ranks end."""
        self._ranks.broadcast(END)


def join_runs(ranks: Communicator, requested: Mapping[str, object], take_part: TakePart) -> None:
    """Take part in the runs that rank 0 opens, until it ends (`SharedRuns`). Collective.

    Args:
        ranks: Ranks that train together.
        requested: Settings that were requested for this rank.
        take_part: Iterates a trainer to its end, and returns 128 + signal number if a signal has stopped it, else 0.

    Raises:
        RankError: A rank has failed or is lost.
    """
    settings = msgspec.msgpack.decode(ranks.broadcast(b""), type=Settings)
    ranks.watch_every(settings.heartbeat_s)
    while ranks.broadcast(b"") == START:
        starting = StartingRanks(ranks)
        try:
            with starting.opening():
                trainer = join_run(starting, requested, settings)
        except RankError:
            raise
        except (GptError, OSError, MemoryError):
            continue  # rank 0 shows it
        code = take_part(trainer)
        del trainer
        ranks.gather(np.array([float(code)]))
