"""Relay between a rank and its launcher, for launchers that speak PMIx: Open MPI's `mpiexec`, `srun --mpi=pmix`.

Such a launcher ends all ranks within half a second when the connection of one closes, and MPI ends a rank whose
connection the launcher closes. A process between them keeps both ends open, so that a rank can save in either case.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, MutableMapping
from typing import NamedTuple

VARIABLE = "PMIX_SERVER_URI"  # and others that begin with it, one per version of the protocol
ADDRESS = re.compile(r"tcp4://([0-9.]+):([0-9]+)")
LOOPBACK = "127.0.0.1"
_CHUNK = 1 << 16


class Relay(NamedTuple):
    """Socket at which a rank connects to the relay, and the address of its launcher."""

    server: socket.socket
    launcher: tuple[str, int]

    def start(self, on_lost: Callable[[], None]) -> None:
        """Connect a rank to its launcher in the background; `on_lost` is called when the launcher has ended."""
        threading.Thread(target=self._accept, args=(on_lost,), daemon=True).start()

    def _accept(self, on_lost: Callable[[], None]) -> None:
        while True:
            rank, _ = self.server.accept()
            try:
                launcher = socket.create_connection(self.launcher)
            except OSError:
                rank.close()
                on_lost()
                continue
            threading.Thread(target=_copy, args=(rank, launcher, None), daemon=True).start()
            threading.Thread(target=_copy, args=(launcher, rank, on_lost), daemon=True).start()


def open_relay(environ: MutableMapping[str, str]) -> Relay | None:
    """Return a relay, and change the environment so that a rank connects to it; None if no launcher speaks PMIx."""
    found = {name: ADDRESS.search(value) for name, value in environ.items() if name.startswith(VARIABLE)}
    launchers = {(match[1], int(match[2])) for match in found.values() if match}
    if len(launchers) != 1:
        return None
    server = socket.create_server((LOOPBACK, 0))
    uri = f"tcp4://{LOOPBACK}:{server.getsockname()[1]}"
    for name in found:
        environ[name] = ADDRESS.sub(uri, environ[name])
    return Relay(server, launchers.pop())


def _copy(source: socket.socket, target: socket.socket, on_end: Callable[[], None] | None) -> None:
    """Copy data until the source ends. The target stays open."""
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    if on_end is not None:
        on_end()
