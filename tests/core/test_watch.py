"""Watch over the ranks of a run: which rank is lost, what is reported, and who may connect to rank 0."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

import msgspec
import pytest

from gpt_core.distributed import watch
from gpt_core.distributed.communicator import RankError
from gpt_core.distributed.watch import Fault, Invitation, Watch, open_links, own_addresses

DEADLINE_S = 60.0
SHORTEST_HEARTBEAT_S = 1.0


def wait_until(condition: Callable[[], bool]) -> None:
    expires_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < expires_s
        time.sleep(0.01)


class Ranks:
    """Watches of two ranks that are connected with each other, and the ranks that they have ended by exit code."""

    def __init__(self) -> None:
        self.ends = socket.socketpair()
        self.aborted: list[tuple[int, int]] = []
        self.watches = [self._watch(rank, end) for rank, end in enumerate(self.ends)]

    def _watch(self, rank: int, end: socket.socket) -> Watch:
        return Watch(
            rank, ("left", "right"), {1 - rank: end}, 30.0, lambda exit_code: self.aborted.append((rank, exit_code))
        )

    def fault(self, rank: int) -> Fault | None:
        """Return the fault that a rank finds."""
        wait_until(lambda: self.watches[rank].fault is not None)
        return self.watches[rank].fault


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    """Two watches, which end with the test: after a fault they would end this process."""
    found = Ranks()
    yield found
    for each in found.watches:
        each.close()


def test_a_rank_whose_connection_is_closed_is_lost(ranks: Ranks) -> None:
    ranks.ends[1].shutdown(socket.SHUT_RDWR)
    assert ranks.fault(0) == Fault(1, "the process has ended or its network is lost")
    with pytest.raises(RankError, match=r"^rank 1 on right: the process has ended"):
        ranks.watches[0].check()


def test_a_rank_that_sends_nothing_is_lost_after_the_timeout() -> None:
    left, right = socket.socketpair()
    with right:
        found = Watch(0, ("left", "right"), {1: left}, 0.5, lambda _code: None)
        wait_until(lambda: found.fault is not None)
        found.close()
    assert found.fault == Fault(1, "has not responded for 0.5 seconds")


def test_a_rank_sends_beats_and_each_one_that_it_receives_restarts_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "INTERVAL_S", 0.01)
    left, right = socket.socketpair()
    found = Watch(0, ("left", "right"), {1: left}, 30.0, lambda _code: None)
    with right:
        right.settimeout(DEADLINE_S)
        assert b"".join(right.recv(len(watch.BEAT)) for _ in range(3)) == 3 * watch.BEAT
        before = found._heard[1]
        right.sendall(watch.BEAT)
        wait_until(lambda: found._heard[1] > before)
        found.close()


def test_a_rank_sends_beats_for_the_shortest_heartbeat_before_it_knows_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "now_s", 1000.0)
    monkeypatch.setattr("gpt_core.distributed.watch.time", Clock)
    left, right = socket.socketpair()
    found = Watch(1, ("left", "right"), {0: right}, 60.0, lambda _code: None)
    with left:
        left.settimeout(10.0)
        for _ in range(4):
            assert left.recv(100) == watch.BEAT
            Clock.now_s += SHORTEST_HEARTBEAT_S / 4
        found.close()


class SuspendedSelector(selectors.DefaultSelector):
    """Selector in whose wait the process is suspended once, for `pause_s` of a clock that jumps."""

    pause_s: ClassVar[float] = 0.0
    was_suspended: ClassVar[threading.Event] = threading.Event()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait, or be suspended the first time."""
        if not self.was_suspended.is_set():
            Clock.ahead_s += self.pause_s
            self.was_suspended.set()
        return super().select(timeout)


class Clock:
    """Module `time` whose clock can be set forward, or stands still at `now_s`."""

    ahead_s: ClassVar[float] = 0.0
    now_s: ClassVar[float | None] = None

    @classmethod
    def monotonic(cls) -> float:
        """Return the time of this clock."""
        return time.monotonic() + cls.ahead_s if cls.now_s is None else cls.now_s


@pytest.fixture
def suspended(monkeypatch: pytest.MonkeyPatch) -> float:
    """Suspension of the thread of a watch that it finds when it begins to wait; returns its length."""
    monkeypatch.setattr(SuspendedSelector, "pause_s", 100.0)
    monkeypatch.setattr(SuspendedSelector, "was_suspended", threading.Event())
    monkeypatch.setattr(Clock, "ahead_s", 0.0)
    monkeypatch.setattr("gpt_core.distributed.watch.selectors.DefaultSelector", SuspendedSelector)
    monkeypatch.setattr("gpt_core.distributed.watch.time", Clock)
    return SuspendedSelector.pause_s


def test_a_suspended_rank_does_not_treat_the_others_as_lost(suspended: float) -> None:
    left, right = socket.socketpair()
    found = Watch(0, ("left", "right"), {1: left}, suspended / 2, lambda _code: None)
    assert SuspendedSelector.was_suspended.wait(20)
    assert right.recv(100)
    Clock.ahead_s += 5.0
    assert right.recv(100)  # the beat of the next round: after a fault there is none
    assert found.fault is None
    right.sendall(b"bye\n")
    found.close()


def test_a_rank_that_was_suspended_and_given_up_reports_nothing(suspended: float) -> None:
    left, right = socket.socketpair()
    right.close()
    found = Watch(0, ("left", "right"), {1: left}, suspended / 2, lambda _code: None)
    wait_until(lambda: found.fault is not None)
    found.close()
    assert found.fault == Fault(1, "")


def test_the_error_of_a_rank_arrives_at_rank_0_with_its_exit_code(ranks: Ranks) -> None:
    ranks.watches[1].report("no such text", 2)
    assert ranks.fault(0) == Fault(1, "no such text", 2)
    with pytest.raises(RankError, match=r"^rank 1 on right: no such text$") as caught:
        ranks.watches[0].check()
    assert caught.value.exit_code == 2


def test_a_rank_that_does_not_end_after_a_fault_is_ended_with_the_exit_code_and_the_line(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "GRACE_S", 0.5)
    ranks.watches[1].report("no such text", 2)
    wait_until(lambda: len(ranks.aborted) == 1)
    assert ranks.aborted == [(0, 2)]
    assert capfd.readouterr().err == "gpt-tui: rank 1 on right: no such text\n"


def test_rank_0_that_does_not_end_after_its_own_error_is_ended(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "GRACE_S", 0.5)
    ranks.watches[0].report("", 2)
    assert ranks.fault(1) == Fault(0, "", 2)
    wait_until(lambda: (0, 2) in ranks.aborted)


def test_no_rank_is_ended_and_all_wait_while_rank_0_saves_after_a_fault(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "INTERVAL_S", 0.01)
    monkeypatch.setattr(watch, "GRACE_S", 1.0)
    monkeypatch.setattr(watch, "TURN_S", 0.0)
    ends: list[bool] = []
    with ranks.watches[0].saving():
        ranks.watches[1].report("no such text", 2)
        assert ranks.fault(0) == Fault(1, "no such text", 2)
        waiting = threading.Thread(target=lambda: ends.append(ranks.watches[1].wait_for_rank_0()))
        waiting.start()
        time.sleep(2.5)
        assert (ranks.aborted, ends) == ([], [])
    ranks.ends[0].shutdown(socket.SHUT_RDWR)
    waiting.join(DEADLINE_S)
    assert ends == [False]
    wait_until(lambda: len(ranks.aborted) == 2)


def test_a_save_that_does_not_end_is_given_up_after_its_longest_time(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "GRACE_S", 0.1)
    monkeypatch.setattr(watch, "MAX_SAVE_S", 0.3)
    with ranks.watches[0].saving():
        ranks.watches[1].report("no such text", 2)
        wait_until(lambda: (0, 2) in ranks.aborted)


def test_a_rank_0_that_sends_nothing_more_after_a_fault_is_reported_and_ends_the_others(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "GRACE_S", 0.5)
    monkeypatch.setattr(watch, "TURN_S", 0.0)
    left, right = socket.socketpair()
    aborted: list[int] = []
    found = Watch(1, ("left", "right"), {0: right}, 60.0, aborted.append)
    with left:
        left.sendall(msgspec.json.encode(Fault(2, "", 3)) + b"\n")
        wait_until(lambda: bool(aborted))
        assert not found.wait_for_rank_0()
        found.close()
    assert aborted == [3]
    assert capfd.readouterr().err == "gpt-tui: rank 0 on left: has not responded for 0.5 seconds\n"


def test_a_rank_that_ends_without_a_fault_is_not_lost(ranks: Ranks) -> None:
    ranks.watches[1].close()
    wait_until(lambda: 1 not in ranks.watches[0]._heard or ranks.watches[0].fault is not None)
    time.sleep(0.2)  # the end of the connection follows
    assert ranks.watches[0].fault is None


@pytest.mark.parametrize("host", ["a" * 64, "a..b"])
def test_a_host_name_that_idna_does_not_allow_is_not_looked_up(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert all(not address.startswith("127.") for address in own_addresses(host))
    invitation = msgspec.json.encode(Invitation((), port, "token"))
    opened = open_links(1, (host, "right"), lambda _data: invitation)
    assert opened == ({}, f"rank 1 on right cannot connect to rank 0 on {host} (tried {host}:{port})")


def test_other_ranks_connect_to_rank_0_with_its_token_only() -> None:
    invitation: list[bytes] = []
    ready = threading.Event()

    def from_rank_0(data: bytes) -> bytes:
        if data:
            invitation.append(data)
            ready.set()
        assert ready.wait(DEADLINE_S)
        return invitation[0]

    hosts, found = ("localhost",) * 3, {}
    threads = [
        threading.Thread(target=lambda rank=rank: found.update({rank: open_links(rank, hosts, from_rank_0)}))
        for rank in range(3)
    ]
    threads[0].start()
    assert ready.wait(DEADLINE_S)
    port = msgspec.json.decode(invitation[0])["port"]
    with socket.create_connection(("127.0.0.1", port)) as other:
        other.settimeout(DEADLINE_S)
        other.sendall(b"wrong 1\n")
        assert other.recv(16) == b""
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
    assert [opened.error for opened in found.values()] == ["", "", ""]
    assert {rank: set(opened.links) for rank, opened in found.items()} == {0: {1, 2}, 1: {0}, 2: {0}}
    for opened in found.values():
        for link in opened.links.values():
            link.close()
