"""Start of a rank: whether `mpiexec` has started this process, its communicator, and the process that waits for it.

A rank is two processes. The one that `mpiexec` has started only passes on signals and waits for the other, which
trains. `mpiexec` ends all ranks at once, with a code and a message of its own, if a process that it has started is
killed; so the others have time to save and to report which rank is lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from gpt_core.errors import EXIT_FAILED, ConfigError, MissingPackageError

if TYPE_CHECKING:
    from gpt_core.distributed.mpi import MpiCommunicator

RANK_VARIABLES = {
    "PMI_RANK": "PMI_SIZE",  # MPICH, Intel MPI, srun --mpi=pmi2
    "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_RANK": "MV2_COMM_WORLD_SIZE",
    "PMIX_RANK": "SLURM_NTASKS",  # srun --mpi=pmix
}
"""Environment variables of the number of a rank and of the number of ranks, by launcher."""

FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
PR_SET_PDEATHSIG = 1
GRACE_S = 60.0
"""Time after a fault in which rank 0 saves its last state and reports the fault, before other ranks end themselves."""


def launched_as(environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return the number of this rank and of all ranks, as the launcher has set them; (0, 1) without a launcher."""
    for rank, size in RANK_VARIABLES.items():
        numbers = environ.get(rank, ""), environ.get(size, "")
        if all(number.isdecimal() for number in numbers):
            return int(numbers[0]), int(numbers[1])
    return 0, 1


def connect() -> MpiCommunicator:
    """Return the communicator of the ranks that were started together. Collective.

    Raises:
        MissingPackageError: mpi4py is not installed.
        ConfigError: The MPI of mpi4py is not the one of the launcher.
        RankError: A rank cannot connect to rank 0.
    """
    try:
        import mpi4py

        mpi4py.rc.finalize = False  # at the end of the process it would wait for ranks that are lost
        from mpi4py import MPI
    except ImportError:
        raise MissingPackageError("started by mpiexec, but mpi4py", "mpi") from None
    except RuntimeError as error:  # it finds no MPI library
        raise ConfigError(f"mpi4py cannot load MPI: {error}; run `pip install 'gpt-tui[mpi]'`") from None
    expected, found = launched_as()[1], MPI.COMM_WORLD.Get_size()
    if found != expected:
        library = MPI.Get_library_version().split("\n")[0].strip()
        raise ConfigError(
            f"mpiexec has started {expected} ranks, but mpi4py's MPI ({library}) found {found}; use the mpiexec of "
            f"that MPI: {os.path.join(os.path.dirname(sys.executable), 'mpiexec')}"
        )
    from gpt_core.distributed.mpi import MpiCommunicator

    return MpiCommunicator()


def fork_rank(ended: Callable[[], None] = lambda: None) -> None:
    """Continue in a new process; this one passes on signals to it, waits for it, and exits with its code.

    Where the new process is killed, this one waits until another rank has reported that and ended the run.

    Args:
        ended: Called in this process as soon as the new one has ended.
    """
    if not hasattr(os, "fork"):
        return
    if child := os.fork():
        _wait_for(child, ended)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_for(child: int, ended: Callable[[], None]) -> NoReturn:
    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for name in FORWARDED:
        if signal.getsignal(number := signal.Signals[name]) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ended()
    if -code in [signal.Signals[name] for name in FORWARDED]:
        code = 128 - code  # stopped before it handles signals, as all ranks are
    elif code < 0:
        time.sleep(GRACE_S)
        code = EXIT_FAILED
    os._exit(code)
