"""The app as rank 0: what it does where another rank fails, is lost, or is stopped by a signal."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_core.distributed.communicator import RankError
from gpt_core.errors import ConfigError
from gpt_tui.app.launch import end_of_ranks
from gpt_tui.session.phase import Phase
from tests.tui.app_bench import running_app
from tests.tui.fake_trainer import FakeOpen

pytestmark = pytest.mark.slow

LOST = "rank 1 on b: the process has ended or its network is lost"


class Ranks:
    """Other ranks, one of which may fail."""

    def __init__(self) -> None:
        self.error: RankError | None = None
        self.code = 0
        self.ended = 0

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def end_run(self) -> int:
        self.check()
        self.ended += 1
        return self.code


async def test_a_rank_lost_while_no_run_is_in_progress_ends_the_app(tmp_path: Path) -> None:
    ranks = Ranks()
    async with running_app(tmp_path, end_run=ranks.end_run, check_ranks=ranks.check) as bench:
        ranks.error = RankError(LOST)
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 1
    assert end_of_ranks(bench.app) is ranks.error


async def test_a_rank_lost_during_a_run_ends_the_app_after_the_run(tmp_path: Path) -> None:
    ranks, opener = Ranks(), FakeOpen(fail_at={20: RankError(LOST)})
    async with running_app(
        tmp_path, opener=opener, autostart=True, end_run=ranks.end_run, check_ranks=ranks.check
    ) as bench:
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 1
    error = end_of_ranks(bench.app)
    assert isinstance(error, RankError)
    assert str(error) == LOST
    assert bench.app.controller.failure is None


async def test_a_run_that_waits_while_a_rank_is_lost_stops_without_a_question(tmp_path: Path) -> None:
    ranks = Ranks()
    async with running_app(tmp_path, autostart=True, end_run=ranks.end_run, check_ranks=ranks.check) as bench:
        await bench.until_step(5)
        bench.app.controller.pause()
        await bench.until_phase(Phase.PAUSED)
        ranks.error = RankError(LOST)
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 1
    assert bench.opener.trainers[0].saved
    assert not bench.opener.trainers[0].requests.can_ask


async def test_a_signal_to_another_rank_quits_with_its_exit_code(tmp_path: Path) -> None:
    ranks = Ranks()
    ranks.code = 143
    async with running_app(tmp_path, autostart=True, end_run=ranks.end_run, check_ranks=ranks.check) as bench:
        await bench.until_step(5)
        bench.opener.trainers[0].requests.stop()  # as agreed with the rank that received the signal
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 143
    assert end_of_ranks(bench.app) is None


async def test_an_error_of_rank_0_during_a_run_ends_all_and_one_before_the_first_step_does_not(tmp_path: Path) -> None:
    ranks = Ranks()
    opener = FakeOpen(error=ConfigError("2 ranks need as many micro-batches"), fail_at={10: ZeroDivisionError("x")})
    async with running_app(
        tmp_path, opener=opener, autostart=True, end_run=ranks.end_run, check_ranks=ranks.check
    ) as bench:
        await bench.until_seen("2 ranks need as many micro-batches")
        assert bench.phase is Phase.FAILED
        opener.error = None
        await bench.pilot.press("s")
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 1
    assert isinstance(end_of_ranks(bench.app), ZeroDivisionError)


async def test_runs_follow_each_other_and_each_is_ended_on_all_ranks(tmp_path: Path) -> None:
    ranks = Ranks()
    async with running_app(tmp_path, autostart=True, end_run=ranks.end_run, check_ranks=ranks.check) as bench:
        for number in (1, 2):
            await bench.until_step(5)
            bench.app.controller.stop()
            await bench.until(lambda: not bench.app.controller.alive)
            assert ranks.ended == number
            if number == 1:
                await bench.pilot.press("s")
    assert bench.app.controller.fatal is None
