"""Ranks that were started with different commands."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gpt_core.distributed.communicator import DifferenceError
from gpt_tui.cli import ranks
from gpt_tui.cli.ranks import check_same_command
from tests.core.fake_ranks import FakeRank, on_ranks


def test_ranks_that_were_started_with_different_commands_are_refused_on_all() -> None:
    def check(rank: FakeRank) -> str:
        try:
            check_same_command(rank, "train" if rank.rank == 2 else "the app")
        except DifferenceError as error:
            return str(error)
        return ""

    expected = "rank 2 on host2 was started with train, rank 0 with the app; start the same on all"
    assert on_ranks(3, check) == [expected] * 3


@pytest.mark.parametrize(("codes", "expected"), [((1, 143, 130), 1), ((0, 143, 0), 143), ((0, 0), 0)])
def test_a_run_that_rank_0_could_not_save_has_failed_whatever_signal_stopped_it(
    codes: tuple[int, ...], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = SimpleNamespace(gather_codes=lambda _code: list(codes), close=lambda: None)
    monkeypatch.setattr(ranks, "fork_rank", lambda _ended: None)
    monkeypatch.setattr(ranks, "connect", lambda: connected)
    assert ranks.run_rank(lambda _ranks: codes[0], lambda error: (str(error), 1)) == expected


@pytest.mark.parametrize("command", ["the app", "train", "bench --mpi"])
def test_ranks_with_one_command_are_accepted(command: str) -> None:
    assert on_ranks(2, lambda rank: check_same_command(rank, command)) == [None, None]
