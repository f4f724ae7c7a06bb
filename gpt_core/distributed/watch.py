"""Watch over the ranks of a run: a TCP connection from every other rank to rank 0, apart from MPI.

Every rank sends a beat at regular intervals from a thread of its own. A rank whose connection is closed, or that has
not sent anything for the timeout, is lost: MPI itself may wait for it without end. A rank that fails sends its error to
rank 0, which reports it once. Threads that wait for other ranks look at `Watch.fault`; a process that does not end by
itself after a fault is ended by the thread of the watch: rank 0 GRACE_S after the end of its last save, which may take
MAX_SAVE_S, and the others GRACE_S after the last beat of rank 0, which continues to send them.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from gpt_core.distributed.communicator import RankError, described
from gpt_core.distributed.launch import GRACE_S, MAX_SAVE_S
from gpt_core.errors import EXIT_FAILED

CONNECT_S = 20.0
INTERVAL_S = 0.2
"""Time between two beats, whatever the timeout of this rank: rank 0 may already expect one per `heartbeat_s`."""
MAX_PAUSE_S = 2.0
FIND_GIVEN_UP_S = 5.0
"""Time after a suspension longer than the timeout in which closed connections mean that this rank was given up."""
TURN_S = 2.0
"""Time by which each next rank waits for the one before it to report the loss of rank 0."""
BEAT, BYE = b".\n", b"bye\n"
_MAX_LINE = 1 << 16


class Fault(msgspec.Struct, frozen=True):
    """Failure or loss of a rank. `text` is its error, "" if it has been reported or is none."""

    rank: int
    text: str
    exit_code: int = EXIT_FAILED


class Invitation(msgspec.Struct, frozen=True):
    """Addresses at which rank 0 accepts connections, and the token that the others send first."""

    addresses: tuple[str, ...]
    port: int
    token: str


class Watch:
    """Watch of one rank.

    Args:
        rank: Number of this rank.
        hosts: Host of each rank.
        links: Connections to the other ranks; of a rank other than 0, to rank 0.
        timeout_s: Time without a beat after which a rank is lost.
        abort: Ends the process, and all ranks, with an exit code.

    Attributes:
        fault: The first failure or loss of a rank, None while there is none.
        timeout_s: Time without a beat after which a rank is lost.
    """

    def __init__(
        self,
        rank: int,
        hosts: Sequence[str],
        links: dict[int, socket.socket],
        timeout_s: float,
        abort: Callable[[int], None],
    ) -> None:
        self.fault: Fault | None = None
        self.timeout_s = timeout_s
        self._rank, self._hosts, self._links = rank, hosts, links
        self._sending = threading.RLock()  # a signal handler may report while the thread that it interrupts sends
        self._heard = dict.fromkeys(links, time.monotonic())
        self._unread = dict.fromkeys(links, b"")
        self._given_up_until_s = -math.inf
        self._is_saving = False
        self._fault_s = self._grace_s = -math.inf
        self._closing = threading.Event()
        self._abort = abort
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise RankError if a rank has failed or is lost."""
        if (fault := self.fault) is not None:
            raise RankError(self.described(fault), fault.exit_code)

    def described(self, fault: Fault) -> str:
        """Return what happened as text, "" if there is nothing to report."""
        return f"{described(fault.rank, self._hosts)}: {fault.text}" if fault.text else ""

    def report(self, text: str, exit_code: int) -> None:
        """Send the error of this rank to rank 0; of rank 0, end the others, and this one after the grace period."""
        if self._rank:
            self._send_all(msgspec.json.encode(Fault(self._rank, text, exit_code)) + b"\n")
        else:
            self._set(Fault(0, "", exit_code))

    def wait_for_rank_0(self) -> bool:
        """After an error of this rank: wait until rank 0 has ended the run. Return True if rank 0 itself is lost."""
        expires_s = time.monotonic() + GRACE_S
        while self.fault is None and time.monotonic() < expires_s:
            time.sleep(0.05)
        if self.fault is None or (self.fault.rank == 0 and self.fault.text):
            return True
        while 0 in self._heard and self._thread.is_alive():
            time.sleep(0.05)
        return False

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Context in which this rank saves a checkpoint: after a fault its process is not ended meanwhile."""
        self._is_saving = True
        try:
            yield
        finally:
            self._is_saving = False

    def close(self) -> None:
        """End the watch of this rank without a fault."""
        self._closing.set()
        self._send_all(BYE)
        self._thread.join()
        for link in self._links.values():
            link.close()

    # ---- thread

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, link in self._links.items():
                link.setblocking(False)
                selector.register(link, selectors.EVENT_READ, rank)
            sent_s, last_s = 0.0, time.monotonic()
            while not self._closing.is_set() and not self._is_grace_over():
                if selector.get_map():
                    ready = selector.select(0.1)
                else:  # Windows cannot wait for no connection at all
                    ready = []
                    self._closing.wait(0.1)
                now = time.monotonic()
                if now - last_s > MAX_PAUSE_S:
                    self._continue_after(now - last_s)
                last_s = now
                for key, _ in ready:
                    if not self._read(key.data):
                        selector.unregister(key.fileobj)
                if now - sent_s >= INTERVAL_S:
                    self._send_all(BEAT)
                    sent_s = now
                if self.fault is None:
                    self._find_lost()
        if self.fault is not None and not self._closing.is_set():
            self._end_process(self.fault)

    def _continue_after(self, pause_s: float) -> None:
        """Take note that this process was suspended, perhaps together with the others."""
        self._heard = {rank: heard_s + pause_s for rank, heard_s in self._heard.items()}
        if pause_s > self.timeout_s:
            self._given_up_until_s = time.monotonic() + FIND_GIVEN_UP_S

    def _read(self, rank: int) -> bool:
        """Read what a rank has sent; return False if it will send nothing more."""
        try:
            data = self._links[rank].recv(_MAX_LINE)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            is_given_up = time.monotonic() < self._given_up_until_s  # the others have reported this rank as lost
            self._set(Fault(rank, "" if is_given_up else "the process has ended or its network is lost"))
            self._heard.pop(rank, None)
            return False
        self._heard[rank] = time.monotonic()
        *lines, self._unread[rank] = (self._unread[rank] + data).split(b"\n")
        for line in lines:
            if line + b"\n" == BYE:
                del self._heard[rank]
                return False
            if line + b"\n" != BEAT:
                with contextlib.suppress(msgspec.MsgspecError):
                    self._set(msgspec.json.decode(line, type=Fault))
        return True

    def _find_lost(self) -> None:
        now = time.monotonic()
        for rank, heard_s in list(self._heard.items()):
            if now - heard_s > self.timeout_s:
                self._set(Fault(rank, f"has not responded for {self.timeout_s:g} seconds"))

    def _set(self, fault: Fault) -> None:
        if self.fault is None and not self._closing.is_set():
            self._fault_s = self._grace_s = time.monotonic()
            self.fault = fault
            if self._rank == 0:
                self._send_all(msgspec.json.encode(Fault(fault.rank, "", fault.exit_code)) + b"\n")

    def _is_grace_over(self) -> bool:
        """Return True if this process should have ended: its main thread may be blocked in MPI, or rank 0 may hang."""
        if self.fault is None:
            return False
        now = time.monotonic()
        if self._rank:
            self._grace_s = max(self._grace_s, self._heard.get(0, 0.0))
        elif self._is_saving:
            self._grace_s = min(now, self._fault_s + MAX_SAVE_S)
        return now - self._grace_s > GRACE_S + TURN_S * self._rank

    def _end_process(self, fault: Fault) -> None:
        if self._rank and 0 in self._heard and not fault.text:
            fault = Fault(0, f"has not responded for {GRACE_S:g} seconds", fault.exit_code)
        if text := self.described(fault):
            with contextlib.suppress(OSError):
                os.write(2, f"gpt-tui: {text}\n".encode())
        self._abort(fault.exit_code)

    def _send_all(self, data: bytes) -> None:
        with self._sending:
            for link in self._links.values():
                with contextlib.suppress(OSError):  # a rank that is lost, or that does not read
                    link.send(data)


class Opened(NamedTuple):
    """Connections of a rank by the rank at the other end; `error` says why they are incomplete, "" if they are not."""

    links: dict[int, socket.socket]
    error: str


def open_links(rank: int, hosts: Sequence[str], broadcast: Callable[[bytes], bytes]) -> Opened:
    """Connect every other rank to rank 0. Collective.

    Args:
        rank: Number of this rank.
        hosts: Host of each rank.
        broadcast: Returns the data of rank 0 on every rank.
    """
    if rank:
        return _connect(rank, hosts, msgspec.json.decode(broadcast(b""), type=Invitation))
    with _server(len(hosts)) as server:
        invitation = Invitation(own_addresses(hosts[0]), server.getsockname()[1], secrets.token_hex(16))
        broadcast(msgspec.json.encode(invitation))
        return _accept(server, invitation.token, hosts)


def _server(backlog: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=backlog)


def _accept(server: socket.socket, token: str, hosts: Sequence[str]) -> Opened:
    links: dict[int, socket.socket] = {}
    expires_s = time.monotonic() + CONNECT_S
    expected = {f"{token} {rank}\n".encode(): rank for rank in range(1, len(hosts))}
    while len(links) < len(expected) and (left_s := expires_s - time.monotonic()) > 0:
        server.settimeout(left_s)
        try:
            link, _ = server.accept()
            link.settimeout(2.0)
            line = _read_line(link)
        except OSError:
            continue
        if line in expected:
            links[expected[line]] = _prepared(link)
        else:
            link.close()
    missing = [described(rank, hosts) for rank in expected.values() if rank not in links]
    return Opened(links, f"{', '.join(missing)} did not connect to rank 0 on {hosts[0]}" if missing else "")


def _connect(rank: int, hosts: Sequence[str], invitation: Invitation) -> Opened:
    same_host = hosts[rank] == hosts[0]
    addresses = ("127.0.0.1", *invitation.addresses) if same_host else (*invitation.addresses, hosts[0])
    for address in addresses:
        try:
            link = socket.create_connection((address, invitation.port), timeout=3.0)
            link.sendall(f"{invitation.token} {rank}\n".encode())
            if _read_line(link) == BEAT:
                return Opened({0: _prepared(link)}, "")
        except (OSError, UnicodeError):  # the latter for a name that IDNA does not allow
            continue
    tried = ", ".join(f"{address}:{invitation.port}" for address in addresses)
    return Opened({}, f"{described(rank, hosts)} cannot connect to rank 0 on {hosts[0]} (tried {tried})")


def _read_line(link: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < 256:
        if not (byte := link.recv(1)):
            break
        line += byte
    return line


def _prepared(link: socket.socket) -> socket.socket:
    with contextlib.suppress(OSError):
        link.sendall(BEAT)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def own_addresses(host: str) -> tuple[str, ...]:
    """Return the IPv4 addresses of this host that others may reach it at, without the loopback interface."""
    found: list[str] = []
    if sys.platform == "linux":
        found += _interface_addresses()
    with contextlib.suppress(OSError, UnicodeError):
        found += socket.gethostbyname_ex(host)[2]
    return tuple(address for address in dict.fromkeys(found) if not address.startswith("127."))


def _interface_addresses() -> list[str]:
    import fcntl
    import struct

    SIOCGIFADDR = 0x8915
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                reply = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(reply[20:24]))
    return found
