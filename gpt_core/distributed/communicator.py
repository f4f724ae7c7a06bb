"""Communicator: the ranks of a run, and the operations that all of them take part in.

Every rank is a process that holds all weights and trains on a part of each batch. All ranks call the same collective
operations in the same order. Rank 0 alone reads and writes the models folder, samples, and prints.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from gpt_core.errors import EXIT_FAILED, GptError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]


class RankError(GptError):
    """A rank has failed or is lost. The message names the rank and its host; "" if nothing is left to report."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class DifferenceError(InputError):
    """A rank differs from rank 0 in what must be equal. All ranks raise it together; rank 0 reports it."""


class Communicator(Protocol):
    """Ranks of a run.

    All methods but the last five are collective, and raise RankError if a rank fails or is lost meanwhile.
    """

    @property
    def rank(self) -> int:
        """Number of this rank, from 0."""

    @property
    def hosts(self) -> Sequence[str]:
        """Name of the host of each rank."""

    @property
    def is_first_on_host(self) -> bool:
        """True for the lowest rank of each host."""

    def gather(self, values: Numbers) -> Numbers:
        """Return the values of all ranks, a row per rank; their number must be the same on all ranks."""

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the data of all ranks."""

    def broadcast(self, data: bytes) -> bytes:
        """Return the data of rank 0."""

    def broadcast_array(self, values: NDArray[Any]) -> None:
        """Overwrite the values by those of rank 0."""

    def exchange(
        self, sent: NDArray[Any], sent_counts: Sequence[int], received: NDArray[Any], received_counts: Sequence[int]
    ) -> None:
        """Send a part of `sent` to each rank, and receive one from each rank into `received`, in the order of ranks.

        May be called from another thread than the other methods, but from one thread at a time.
        """

    def collect(self, part: NDArray[Any], whole: NDArray[Any], counts: Sequence[int]) -> None:
        """Set `whole` to the parts of all ranks, of these lengths, in the order of ranks. Threads as `exchange`."""

    def watch_every(self, seconds: float) -> None:
        """Treat a rank as lost if it has not responded for this time."""

    def check(self) -> None:
        """Raise RankError if a rank has failed or is lost. Never waits."""

    def saving(self) -> AbstractContextManager[None]:
        """Return a context in which rank 0 saves a checkpoint: the other ranks wait for it, whatever happens to one."""

    def leave(self, code: int) -> NoReturn:
        """End all ranks with this exit code, without cleaning up: if called on another rank, once rank 0 has ended."""

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once with this exit code, without cleaning up."""


class SingleProcess:
    """Communicator of a run on one process: rank 0 and no other."""

    rank = 0
    hosts: Sequence[str] = ("",)
    is_first_on_host = True

    def gather(self, values: Numbers) -> Numbers:
        """Return the values as the only row."""
        return values[None]

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the data in a list."""
        return [data]

    def broadcast(self, data: bytes) -> bytes:
        """Return the data."""
        return data

    def broadcast_array(self, values: NDArray[Any]) -> None:
        """Leave the values as they are."""

    def exchange(
        self, sent: NDArray[Any], sent_counts: Sequence[int], received: NDArray[Any], received_counts: Sequence[int]
    ) -> None:
        """Copy the values."""
        received[:] = sent

    def collect(self, part: NDArray[Any], whole: NDArray[Any], counts: Sequence[int]) -> None:
        """Copy the values."""
        whole[:] = part

    def watch_every(self, seconds: float) -> None:
        """Do nothing: there is no other rank."""

    def check(self) -> None:
        """Do nothing: there is no other rank."""

    def saving(self) -> AbstractContextManager[None]:
        """Return a context without effect: there is no other rank."""
        return nullcontext()

    def leave(self, code: int) -> NoReturn:
        """End the process."""
        os._exit(code)

    def abort(self, code: int) -> NoReturn:
        """End the process."""
        os._exit(code)


SINGLE_PROCESS: Communicator = SingleProcess()


def described(rank: int, hosts: Sequence[str]) -> str:
    """Return a rank and its host as text."""
    return f"rank {rank} on {hosts[rank]}"
