"""A rank of a run that `mpiexec` has started: `mpiexec -n 4 gpt-tui --train-only ...`."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from gpt_core.distributed.communicator import DifferenceError, described
from gpt_core.distributed.launch import connect, end_all_ranks, fork_rank, launched_as, wait_until_read
from gpt_core.distributed.watch import TURN_S
from gpt_core.errors import EXIT_FAILED
from gpt_tui.app.launcher_terminal import terminal_restorer
from gpt_tui.shared.standard_streams import is_terminal

if TYPE_CHECKING:
    from gpt_core.distributed.communicator import Communicator
    from gpt_core.distributed.mpi import MpiCommunicator


RESTORE_S = 0.5  # in which the terminal of the app is restored after the loss of rank 0


def run_rank(run: Callable[[Communicator], int], describe: Callable[[BaseException], tuple[str, int]]) -> int:
    """Run a command on this rank, and return the exit code of all ranks. Does not return after an error.

    Rank 0 alone prints. An error of any rank ends all of them; rank 0 prints it once.

    Args:
        run: The command.
        describe: Returns the message of an error, "" for none, and its exit code.
    """
    rank = launched_as()[0]
    if is_terminal(sys.stdout) and not is_terminal(sys.stdin) and not launcher_has_terminal():
        print_plain_lines()
    fork_rank(terminal_restorer() if rank == 0 else lambda: None)
    if rank:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        ranks = connect()
    except BaseException as error:
        text, code = describe(error)
        if rank:  # if rank 0 has the same error, it ends all ranks meanwhile
            time.sleep(TURN_S * rank)
            text = f"rank {rank} on {platform.node()}: {text}"
        show(text)
        flush()
        wait_until_read()
        end_all_ranks(code)
    try:
        code = code_of_all(ranks.gather_codes(run(ranks)))
        ranks.close()
    except BaseException as error:
        end_after(error, ranks, describe)
    return code


def code_of_all(codes: Sequence[int]) -> int:
    """Return the exit code of all ranks: EXIT_FAILED if one has it, as rank 0 without a save, else the highest."""
    return EXIT_FAILED if EXIT_FAILED in codes else max(codes)


def check_same_command(ranks: Communicator, command: str) -> None:
    """Check that all ranks were started with the same command. Collective. Raises DifferenceError."""
    found = [name.decode() for name in ranks.gather_bytes(command.encode())]
    for rank, name in enumerate(found):
        if name != found[0]:
            raise DifferenceError(
                f"{described(rank, ranks.hosts)} was started with {name}, rank 0 with {found[0]}; start the same on all"
            )


def launcher_has_terminal() -> bool:
    """Return True if the process that has started this one prints to a terminal, or where that is unknown.

    Open MPI gives the ranks a terminal of its own as output, even where that of its `mpiexec` goes to a file. Their
    input is none, unlike with `srun --pty`, whose terminal is that of the user.
    """
    try:
        output = os.open(f"/proc/{os.getppid()}/fd/1", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:  # a socket, or nothing
        return sys.platform != "linux"
    with open(output, "wb") as file:
        return file.isatty()


def print_plain_lines() -> None:
    """Print to the terminal of standard output as to a file: without progress bars and carriage returns."""
    import termios

    os.environ["TERM"] = "dumb"
    with contextlib.suppress(OSError, termios.error):
        modes = termios.tcgetattr(sys.stdout)
        modes[1] &= ~termios.OPOST
        termios.tcsetattr(sys.stdout, termios.TCSANOW, modes)


def end_after(
    error: BaseException, ranks: MpiCommunicator, describe: Callable[[BaseException], tuple[str, int]]
) -> NoReturn:
    """End this rank after an error. Without MPI: other ranks may be lost, or wait for this one."""
    text, code = describe(error)
    if ranks.rank:
        if ranks.watch.fault is None and not isinstance(error, DifferenceError):
            ranks.watch.report(text, code)
        if not ranks.watch.wait_for_rank_0():
            time.sleep(TURN_S)
            os._exit(code)
        time.sleep(RESTORE_S + TURN_S * (ranks.rank - 1))  # the first of the others reports it, and ends all
    else:
        ranks.watch.report("", code)
    show(text)
    flush()
    wait_until_read()
    ranks.abort(code)


def show(text: str) -> None:
    """Print an error on standard error, where `sys.stderr` may be the null device."""
    if text:
        with contextlib.suppress(OSError):
            os.write(2, f"gpt-tui: {text}\n".encode(errors="backslashreplace"))


def flush() -> None:
    """Write what the standard streams hold."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
