"""Communicator on MPI (mpi4py). Imported only in a process that `mpiexec` has started.

Collectives are started without blocking and tested until they are complete: meanwhile the watch can report that a rank
is lost, for which a blocking call would wait without end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from gpt_core.distributed.communicator import RankError
from gpt_core.distributed.cores import take_share_of_cores, usable_cores
from gpt_core.distributed.launch import OPEN_MPI, wait_until_read
from gpt_core.distributed.watch import TURN_S, Watch, open_links
from gpt_core.errors import EXIT_FAILED

if TYPE_CHECKING:
    from gpt_core.distributed.communicator import Numbers

SPIN_S = 0.002
"""Time for which a waiting thread only yields its core before it sleeps between tests."""
POLL_S, MAX_POLL_S, POLLS = 0.0001, 0.02, 1000
"""Shortest and longest time between two tests; between these bounds it is 1 / POLLS of the time waited so far."""
DEFAULT_TIMEOUT_S = 60.0
MAX_FINALIZE_S = 20
FIND_FAULT_S = 5.0  # in which the watch finds the reason of an error of MPI


class MpiCommunicator:
    """Ranks that `mpiexec` has started. Creating it is collective.

    Attributes:
        rank: Number of this rank, from 0.
        hosts: Name of the host of each rank.
        is_first_on_host: True for the lowest rank of each host.

    Raises:
        RankError: A rank cannot connect to rank 0.
    """

    def __init__(self) -> None:
        world = MPI.COMM_WORLD
        self.rank: int = world.Get_rank()
        self.hosts: tuple[str, ...] = tuple(world.allgather(MPI.Get_processor_name()))
        local = world.Split_type(MPI.COMM_TYPE_SHARED)
        self.is_first_on_host: bool = local.Get_rank() == 0
        take_share_of_cores(local.Get_rank(), local.allgather(usable_cores()))
        links, error = open_links(self.rank, self.hosts, lambda data: bytes(world.bcast(data)))
        if errors := [text for text in world.allgather(error) if text]:
            raise RankError(f"{errors[-1]}; allow TCP connections between these machines")
        self._control, self._data = world.Dup(), world.Dup()
        self.watch = Watch(self.rank, self.hosts, links, DEFAULT_TIMEOUT_S, partial(abort, flush=False))

    def gather(self, values: Numbers) -> Numbers:
        """Return the values of all ranks, a row per rank; their number must be the same on all ranks."""
        rows = np.empty((len(self.hosts), len(values)))
        self._wait(self._control.Iallgather(np.ascontiguousarray(values, np.float64), rows))
        return rows

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the data of all ranks."""
        counts = [int(count) for count in self.gather(np.array([len(data)], np.float64))[:, 0]]
        whole = np.empty(sum(counts), np.uint8)
        self._wait(self._control.Iallgatherv(np.frombuffer(data, np.uint8), [whole, (counts, _starts(counts))]))
        return [whole[start : start + n].tobytes() for start, n in zip(_starts(counts), counts, strict=True)]

    def gather_codes(self, code: int) -> list[int]:
        """Return the exit codes of all ranks."""
        return [int(found) for found in self.gather(np.array([code], np.float64))[:, 0]]

    def broadcast(self, data: bytes) -> bytes:
        """Return the data of rank 0."""
        size = int(self.gather(np.array([len(data)], np.float64))[0, 0])
        values = np.frombuffer(data, np.uint8).copy() if self.rank == 0 else np.empty(size, np.uint8)
        self.broadcast_array(values)
        return values.tobytes()

    def broadcast_array(self, values: NDArray[Any]) -> None:
        """Overwrite the values by those of rank 0."""
        self._wait(self._control.Ibcast(values))

    def exchange(
        self, sent: NDArray[Any], sent_counts: Sequence[int], received: NDArray[Any], received_counts: Sequence[int]
    ) -> None:
        """Send a part of `sent` to each rank, and receive one from each rank into `received`, in the order of ranks."""
        self._wait(
            self._data.Ialltoallv(
                [sent, (sent_counts, _starts(sent_counts))],
                [received, (received_counts, _starts(received_counts))],
            )
        )

    def collect(self, part: NDArray[Any], whole: NDArray[Any], counts: Sequence[int]) -> None:
        """Set `whole` to the parts of all ranks, of these lengths, in the order of ranks."""
        self._wait(self._data.Iallgatherv(part, [whole, (counts, _starts(counts))]))

    def watch_every(self, seconds: float) -> None:
        """Treat a rank as lost if it has not responded for this time."""
        self.watch.timeout_s = seconds

    def check(self) -> None:
        """Raise RankError if a rank has failed or is lost."""
        self.watch.check()

    def saving(self) -> AbstractContextManager[None]:
        """Return a context in which rank 0 saves a checkpoint: the other ranks wait for it, whatever happens to one."""
        return self.watch.saving()

    def leave(self, code: int) -> NoReturn:
        """End all ranks with this exit code, without cleaning up: if called on another rank, once rank 0 has ended."""
        self.watch.report("was stopped by a second signal", code)
        if self.rank and not self.watch.wait_for_rank_0():
            time.sleep(TURN_S)  # rank 0 ends this one meanwhile
            os._exit(code)
        wait_until_read()
        abort(code, flush=False)  # the interrupted code may be writing

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once, with this exit code of `mpiexec`."""
        abort(code)

    def close(self) -> None:
        """Finalize MPI. Collective. Ends the process if its launcher does not respond for MAX_FINALIZE_S seconds."""
        self.gather(np.zeros(1))
        self.watch.close()
        if hasattr(signal, "alarm"):  # it ends the process while a function of MPI blocks the interpreter
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(MAX_FINALIZE_S)
        MPI.Finalize()
        if hasattr(signal, "alarm"):
            signal.alarm(0)

    def _wait(self, request: MPI.Request) -> None:
        """Wait until a collective is complete. Raises RankError if a rank is lost meanwhile."""
        started_s = time.monotonic()
        try:
            while not request.Test():
                self.watch.check()
                if (waited_s := time.monotonic() - started_s) < SPIN_S:
                    _yield_core()
                else:
                    time.sleep(min(MAX_POLL_S, max(POLL_S, waited_s / POLLS)))
        except MPI.Exception as error:
            expires_s = time.monotonic() + FIND_FAULT_S
            while time.monotonic() < expires_s:
                self.watch.check()
                time.sleep(0.05)
            raise RankError(f"MPI: {error}", EXIT_FAILED) from None


def abort(code: int, *, flush: bool = True) -> NoReturn:
    """End all ranks at once, with this exit code of `mpiexec` and without a message of MPI.

    Args:
        code: The exit code.
        flush: Write what standard output holds, which may block.
    """
    if flush:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if MPI.get_vendor()[0] != OPEN_MPI:  # its mpiexec does the same when a rank exits; it may have ended already
        MPI.COMM_WORLD.Abort(code)
    os._exit(code)


def _yield_core() -> None:
    if hasattr(os, "sched_yield"):
        os.sched_yield()
    else:
        time.sleep(0)


def _starts(counts: Sequence[int]) -> list[int]:
    return [sum(counts[:number]) for number in range(len(counts))]
