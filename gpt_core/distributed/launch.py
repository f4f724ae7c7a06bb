"""Start of a rank: whether `mpiexec` has started this process, its communicator, and the process that waits for it.

A rank is two processes. The one that `mpiexec` has started only passes on signals and waits for the other, which
trains. `mpiexec` ends all ranks at once, with a code and a message of its own, if a process that it has started is
killed; so the others have time to save and to report which rank is lost.

With launchers that speak PMIx, such as Open MPI's, it is three processes: the one in the middle relays the connection
to `mpiexec`, which kills the first ones half a second after Ctrl+C. The other two are in a process group of their own
and continue until the run is saved (`gpt_core.distributed.relay`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from gpt_core.distributed.relay import Relay, open_relay
from gpt_core.errors import EXIT_FAILED, ConfigError, MissingPackageError, install_hint

if TYPE_CHECKING:
    from gpt_core.distributed.mpi import MpiCommunicator

OPEN_MPI, OPEN_MPI_RANK = "Open MPI", "OMPI_COMM_WORLD_RANK"
RANK_VARIABLES = {
    "PMI_RANK": "PMI_SIZE",  # MPICH, Intel MPI, srun --mpi=pmi2
    OPEN_MPI_RANK: "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_RANK": "MV2_COMM_WORLD_SIZE",
    "PMIX_RANK": "SLURM_NTASKS",  # srun --mpi=pmix
}
"""Environment variables of the number of a rank and of the number of ranks, by launcher."""

FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
PR_SET_PDEATHSIG = 1
END_S = 5.0  # for a launcher to end a process
MAX_READ_S = 2.0
GRACE_S = 60.0
"""Time after a fault in which rank 0 reports it and ends all ranks, besides the time in which it saves."""
MAX_SAVE_S = 3600.0
"""Time after a fault for which rank 0 is waited for while it saves."""
_connected_marks: list[int] = []
"""Pipe in which a rank tells the process that waits for it that it is connected."""


def launched_as(environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return the number of this rank and of all ranks, as the launcher has set them; (0, 1) without a launcher."""
    for rank, size in RANK_VARIABLES.items():
        numbers = environ.get(rank, ""), environ.get(size, "")
        if all(number.isdecimal() for number in numbers):
            return int(numbers[0]), int(numbers[1])
    return 0, 1


def is_of_other_mpi(vendor: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Return True if the launcher can start no ranks with this MPI; those of clusters may support several."""
    if OPEN_MPI_RANK in environ:
        return vendor != OPEN_MPI
    is_hydra = "PMI_RANK" in environ and not {"PMIX_RANK", "SLURM_PROCID"} & environ.keys()
    return is_hydra and vendor == OPEN_MPI


def connect() -> MpiCommunicator:
    """Return the communicator of the ranks that were started together. Collective.

    Raises:
        MissingPackageError: mpi4py is not installed.
        ConfigError: The MPI of mpi4py is not the one of the launcher.
        RankError: A rank cannot connect to rank 0.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = False  # it would end the process where the launcher is not its own
        mpi4py.rc.finalize = False  # at the end of the process it would wait for ranks that are lost
        with warnings.catch_warnings(action="ignore"):
            from mpi4py import MPI
    except ImportError:
        raise MissingPackageError("started by mpiexec, but mpi4py", "mpi") from None
    except RuntimeError as error:  # it finds no MPI library
        raise ConfigError(f"mpi4py cannot load MPI: {error}; {install_hint('mpi')}") from None
    # without it Open MPI ends a rank whose TCP connection to another one closes
    os.environ.setdefault("OMPI_MCA_mpi_ft_enable", "1")
    vendor, numbers = MPI.get_vendor()
    library = f"{vendor} {'.'.join(map(str, numbers))}"
    own = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    hint = f"; use the mpiexec of that MPI{f': {own}' if os.path.exists(own) else ''}"
    if is_of_other_mpi(vendor):
        raise ConfigError(f"mpiexec is not that of mpi4py's MPI ({library}){hint}")
    MPI.Init_thread()
    expected, found = launched_as()[1], MPI.COMM_WORLD.Get_size()
    if found != expected:
        raise ConfigError(f"mpiexec has started {expected} ranks, but mpi4py's MPI ({library}) found {found}{hint}")
    from gpt_core.distributed.mpi import MpiCommunicator

    communicator = MpiCommunicator()
    for mark in _connected_marks:
        os.write(mark, b"1")
    return communicator


def end_all_ranks(code: int) -> NoReturn:
    """Exit with a code, and end all ranks with it, where MPI cannot be used.

    Other launchers do that when a rank exits with an error. That of MPICH lets the others wait for this one without
    end, unless it receives a message of its protocol (PMI).
    """
    with contextlib.suppress(KeyError, ValueError, OSError):
        os.write(int(os.environ["PMI_FD"]), f"cmd=abort exitcode={code}\n".encode())
        time.sleep(END_S)
    os._exit(code)


def wait_until_read() -> None:
    """Wait until `mpiexec` has read what this rank has printed: it drops the rest when ranks are ended at once."""
    expires_s = time.monotonic() + MAX_READ_S
    while any(map(unread_bytes, (1, 2))) and time.monotonic() < expires_s:
        time.sleep(0.01)
    time.sleep(0.1)


def unread_bytes(descriptor: int) -> int:
    """Return the bytes in a pipe that have not been read; 0 for other files, and where that is unknown."""
    try:
        import fcntl
        import termios

        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return 0
        return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
    except (ImportError, OSError):
        return 0


def fork_rank(ended: Callable[[], None] = lambda: None) -> None:
    """Continue in a new process; this one passes on signals to it, waits for it, and exits with its code.

    Where the new process is killed, this one waits until another rank has reported that and ended the run.

    Args:
        ended: Called in this process as soon as the new one has ended.
    """
    if not hasattr(os, "fork"):
        return
    relay = open_relay(os.environ)
    connected, mark = os.pipe()
    _connected_marks.append(mark)
    if child := os.fork():
        _wait_for(child, connected, ended if relay is None else lambda: None)
    if relay is not None:
        leave_group()
        if child := os.fork():
            _wait_for(child, connected, ended, relay)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_group() -> None:
    """Enter a new process group, which takes over the terminal if the old one had it, as with `srun --pty`."""
    old = os.getpgrp()
    os.setpgrp()
    with contextlib.suppress(OSError):  # standard input is not the terminal of this session
        if os.tcgetpgrp(0) == old:
            before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it stops a process of the background
            try:
                os.tcsetpgrp(0, os.getpgrp())
            finally:
                signal.signal(signal.SIGTTOU, before)


def _wait_for(child: int, connected: int, ended: Callable[[], None], relay: Relay | None = None) -> NoReturn:
    """Wait for a rank, and exit with its code.

    Args:
        child: Its process.
        connected: Pipe with a byte in it once the rank is connected, so that others find its loss.
        ended: Called as soon as it has ended.
        relay: Relay of its connection to the launcher.
    """
    forwarded: list[int] = []

    def pass_on(number: int, _frame: FrameType | None = None) -> None:
        forwarded.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
            if number == signal.SIGTERM:
                os.kill(child, signal.SIGCONT)  # a suspended process handles no other signal

    for name in FORWARDED:
        if signal.getsignal(number := signal.Signals[name]) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    if relay is not None:
        relay.start(lambda: None if forwarded else pass_on(signal.SIGTERM))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ended()
    if -code in [signal.Signals[name] for name in (*FORWARDED, "SIGALRM")]:
        code = 128 - code  # stopped before it handles signals, as all ranks are; or at the end, by an alarm
    elif code < 0:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_FAILED))
        saves_elsewhere = unread_bytes(connected) > 0 and launched_as()[0] > 0  # rank 0 saves, and then ends all ranks
        time.sleep(GRACE_S + (MAX_SAVE_S if saves_elsewhere else 0.0))
        code = EXIT_FAILED
    os._exit(code)
