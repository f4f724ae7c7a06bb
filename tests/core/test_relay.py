"""The relay between a rank and a launcher with PMIx: neither sees the other's end, and the rank can still save."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_core.distributed.relay import open_relay
from tests.program import environment, take_terminal

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a rank is several processes only where they fork")
TIMEOUT_S = 60.0
RANK = """
import os, re, signal, socket, sys
from gpt_core.distributed.launch import fork_rank
fork_rank()
link = socket.create_connection(re.search(r"tcp4://(.*):(\\d+)", os.environ["PMIX_SERVER_URI2"]).groups())
signal.signal(signal.SIGTERM, lambda *_: None)
with open(sys.argv[1], "w") as file:
    link.sendall(b"%d\\n" % os.getpid())
    signal.pause()
    file.write("saved")
"""

RANK_WITH_TERMINAL = """
import os, sys, termios
from gpt_core.distributed.launch import fork_rank
before = os.getpgrp()
fork_rank()
termios.tcsetattr(0, termios.TCSANOW, termios.tcgetattr(0))
sys.exit(7 if os.getpgrp() != before else 1)
"""


@pytest.fixture
def launcher() -> Iterator[socket.socket]:
    """Socket of a launcher at which ranks connect."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT_S)
        yield server


def uri(launcher: socket.socket) -> str:
    """Return the address of a launcher as it tells its ranks."""
    return f"prterun-host-17@0.0;tcp4://127.0.0.1:{launcher.getsockname()[1]}"


def test_no_relay_is_opened_without_an_address_of_a_launcher() -> None:
    environ = {"PMI_RANK": "0", "PMIX_SERVER_URI2": "unknown"}
    assert open_relay(environ) is None
    assert environ == {"PMI_RANK": "0", "PMIX_SERVER_URI2": "unknown"}


def test_a_relay_passes_data_on_and_keeps_each_end_open_when_the_other_closes(launcher: socket.socket) -> None:
    environ = {"PMIX_SERVER_URI2": uri(launcher), "PMIX_SERVER_URI41": uri(launcher)}
    relay = open_relay(environ)
    assert relay is not None
    port = relay.server.getsockname()[1]
    assert set(environ.values()) == {f"prterun-host-17@0.0;tcp4://127.0.0.1:{port}"}
    is_lost = threading.Event()
    relay.start(is_lost.set)
    ranks = [socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) for _ in range(2)]
    ends = [launcher.accept()[0] for _ in ranks]
    for rank, end in zip(ranks, ends, strict=True):
        rank.sendall(b"question")
        assert end.recv(100) == b"question"
        end.sendall(b"answer")
        assert rank.recv(100) == b"answer"
    ranks[0].close()
    ends[0].settimeout(0.1)
    with pytest.raises(TimeoutError):
        ends[0].recv(1)
    assert not is_lost.is_set()
    ends[1].close()
    assert is_lost.wait(TIMEOUT_S)
    ranks[1].settimeout(0.1)
    with pytest.raises(TimeoutError):
        ranks[1].recv(1)


def test_a_rank_with_a_terminal_of_its_own_keeps_it_in_its_own_process_group(launcher: socket.socket) -> None:
    """As with `srun --pty`: a rank in the background of its terminal would be stopped when it sets the modes."""
    leader, follower = pytest.importorskip("pty").openpty()
    rank = subprocess.Popen(
        [sys.executable, "-c", RANK_WITH_TERMINAL], env=environment(PMIX_SERVER_URI2=uri(launcher)),
        stdin=follower, start_new_session=True, preexec_fn=take_terminal,
    )  # fmt: skip
    try:
        assert rank.wait(TIMEOUT_S) == 7
    finally:
        rank.kill()
        os.close(leader)
        os.close(follower)


class LaunchedRank:
    """A rank of a launcher: its first process, the connection to the launcher, and the process that would train."""

    def __init__(self, launcher: socket.socket, file: Path) -> None:
        self.first = subprocess.Popen(
            [sys.executable, "-c", RANK, str(file)], env=environment(PMIX_SERVER_URI2=uri(launcher)),
            start_new_session=True,
        )  # fmt: skip
        self.link = launcher.accept()[0]
        self.pid = int(self.link.makefile().readline())


def test_a_rank_saves_after_its_launcher_has_killed_the_first_process_and_ended(
    launcher: socket.socket, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "saved")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "saved").read_text()), daemon=True)
    reader.start()
    rank = LaunchedRank(launcher, tmp_path / "saved")
    os.killpg(rank.first.pid, signal.SIGKILL)
    assert rank.first.wait(TIMEOUT_S) == -signal.SIGKILL
    assert not found
    rank.link.close()
    reader.join(TIMEOUT_S)
    assert found == ["saved"]


def test_a_killed_rank_leaves_its_connection_open_until_its_launcher_ends_it(
    launcher: socket.socket, tmp_path: Path
) -> None:
    rank = LaunchedRank(launcher, tmp_path / "saved")
    os.kill(rank.pid, signal.SIGKILL)
    rank.link.settimeout(0.3)
    with pytest.raises(TimeoutError):
        rank.link.recv(1)
    assert rank.first.poll() is None
    os.killpg(rank.first.pid, signal.SIGTERM)
    assert rank.first.wait(TIMEOUT_S) == 1
    rank.link.settimeout(TIMEOUT_S)
    assert rank.link.recv(1) == b""
