"""Runs that rank 0 starts one after another and the other ranks join; starts that fail, and lost ranks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gpt_core.config.settings import Settings
from gpt_core.distributed.communicator import DifferenceError, RankError
from gpt_core.errors import ConfigError, CorpusError, GptError, RunExistsError
from gpt_core.progress import ignore_progress
from gpt_core.training.joining import own_settings
from gpt_core.training.request import RunRequest
from gpt_core.training.shared_runs import SharedRuns, StartError, StartingRanks, join_runs
from gpt_core.training.trainer import Trainer
from tests.core.fake_ranks import FakeRank, on_ranks
from tests.core.training_samples import LATEST, finished_trainer, losses, tiny_settings, whole_state

HOSTS = ("a", "a", "b")


def settings_for_ranks(folder: Path, **changes: object) -> Settings:
    """Return settings of a tiny run of as many micro-batches per step as three ranks can share."""
    values: dict[str, object] = {"micro_batch_size": 2, "sample_tokens": 0, "threads": 1, "max_steps": 6}
    return tiny_settings(folder, **(values | changes))


def take_part(trainer: Trainer) -> int:
    """Iterate a trainer to its end."""
    for _ in trainer.events():
        pass
    return 0


def on_all(
    settings: Settings,
    rank_0: Callable[[SharedRuns], object],
    join: Callable[[Trainer], int] = take_part,
    requested: dict[str, object] | None = None,
) -> None:
    """Let rank 0 start runs, which two other ranks join until it ends."""

    def function(rank: FakeRank) -> None:
        if rank.rank:
            join_runs(rank, requested or {}, join)
            return
        runs = SharedRuns(rank, settings)
        rank_0(runs)
        runs.close()

    on_ranks(3, function, HOSTS)


def trained(runs: SharedRuns, request: RunRequest) -> list[float]:
    """Run a request to its end on all ranks, and return the loss of every step."""
    found = losses(list(runs.open_run(request, ignore_progress).events()))
    assert runs.end_run() == 0
    return found


def test_runs_that_follow_each_other_equal_those_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    alone, expected = finished_trainer(settings_for_ranks(tmp_path / "alone", max_steps=12))
    settings = settings_for_ranks(tmp_path)
    found: list[float] = []

    def start_three(runs: SharedRuns) -> None:
        found.extend(trained(runs, RunRequest(settings)))
        found.extend(trained(runs, RunRequest(replace(settings, max_steps=12), resume=tmp_path / LATEST)))
        small = replace(settings, overfit_tiny=True, overfit_steps=2, models_dir=str(tmp_path / "lines"))
        assert len(trained(runs, RunRequest(small))) == 2

    on_all(settings, start_three)
    assert found == expected
    resumed = finished_trainer(replace(settings, max_steps=12), tmp_path / LATEST)[0]
    assert whole_state(resumed) == whole_state(alone)


def test_a_start_that_rank_0_refuses_leaves_the_others_waiting_for_the_next_one(tmp_path: Path) -> None:
    settings = settings_for_ranks(tmp_path)

    def start(runs: SharedRuns) -> None:
        trained(runs, RunRequest(settings))
        with pytest.raises(RunExistsError):
            runs.open_run(RunRequest(settings), ignore_progress)
        with pytest.raises(ConfigError, match="3 ranks need as many micro-batches per step, got 1"):
            runs.open_run(RunRequest(replace(settings, micro_batch_size=8), overwrite=True), ignore_progress)
        assert len(trained(runs, RunRequest(settings, overwrite=True))) == 6

    on_all(settings, start)


@pytest.mark.slow
def test_a_text_that_is_missing_or_differs_on_one_rank_is_refused_and_another_run_starts(tmp_path: Path) -> None:
    settings = settings_for_ranks(tmp_path)
    other = tmp_path / "other.en"
    other.write_text("Another text of a few words.\n\n" * 40)
    for name, expected in ((tmp_path / "none.en", r"rank 1 on a: .*none\.en"), (other, "rank 1 on a has another")):

        def start(runs: SharedRuns, expected: str = expected) -> None:
            with pytest.raises((StartError, DifferenceError), match=expected):
                runs.open_run(RunRequest(settings), ignore_progress)
            run_of_other = replace(settings, train_file=str(other), models_dir=str(tmp_path / "other"))
            assert len(trained(runs, RunRequest(run_of_other, overwrite=True))) == 6

        on_all(settings, start, requested={"train_file": (str(name),)})


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_an_error_at_any_operation_of_a_start_ends_the_start_on_all_ranks(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for_ranks(tmp_path)
    ready, counted, failing = StartingRanks._ready, threading.local(), [1]

    def fail_once(self: StartingRanks) -> object:
        if self.rank == rank and not self._is_open:
            counted.number = getattr(counted, "number", 0) + 1
            if counted.number == failing[0]:
                raise CorpusError("the text has disappeared")
        return ready(self)

    monkeypatch.setattr(StartingRanks, "_ready", fail_once)
    errors: list[str] = []

    def start(runs: SharedRuns) -> None:
        try:
            trained(runs, RunRequest(settings, overwrite=True))
        except GptError as error:
            errors.append(str(error))
            trained(runs, RunRequest(settings, overwrite=True))

    for failing[0] in range(1, 100):
        before = len(errors)
        on_all(settings, start)
        if len(errors) == before:
            break
    assert len(errors) > 5
    assert set(errors) == {f"{'rank 2 on b: ' * (rank == 2)}the text has disappeared"}


def test_an_unexpected_error_of_another_rank_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for_ranks(tmp_path)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("gpt_core.training.shared_runs.join_run", broken)

    def start(runs: SharedRuns) -> None:
        with pytest.raises(StartError, match="rank 1 on a: ZeroDivisionError: a fault"):
            runs.open_run(RunRequest(settings), ignore_progress)

    with pytest.raises(ZeroDivisionError):
        on_all(settings, start)


def test_the_end_of_a_run_returns_the_exit_code_of_the_rank_that_a_signal_has_stopped(tmp_path: Path) -> None:
    settings = settings_for_ranks(tmp_path)

    def stopped(trainer: Trainer) -> int:
        is_last = trainer.run.communicator.rank == 2
        if is_last:
            trainer.requests.stop()
        take_part(trainer)
        return 143 if is_last else 0

    def start(runs: SharedRuns) -> None:
        events = list(runs.open_run(RunRequest(settings), ignore_progress).events())
        assert len(losses(events)) < 6
        assert runs.end_run() == 143

    on_all(settings, start, join=stopped)


def test_the_heartbeat_of_rank_0_is_that_of_all_before_the_first_run(tmp_path: Path) -> None:
    settings = settings_for_ranks(tmp_path, heartbeat_s=7.0)

    def function(rank: FakeRank) -> float:
        if rank.rank:
            join_runs(rank, {}, take_part)
        else:
            SharedRuns(rank, settings).close()
        return rank.timeout_s

    assert on_ranks(3, function, HOSTS) == [7.0] * 3


@pytest.mark.parametrize("fails_at", [1, 2, 3, 5, 8])
def test_a_rank_that_is_lost_while_others_wait_or_start_ends_all(fails_at: int, tmp_path: Path) -> None:
    settings = settings_for_ranks(tmp_path)

    def function(rank: FakeRank) -> None:
        if rank.rank:
            rank.fails_at = fails_at if rank.rank == 1 else -1
            join_runs(rank, {}, take_part)
            return
        runs = SharedRuns(rank, settings)
        trained(runs, RunRequest(settings))
        runs.close()

    with pytest.raises(RankError):
        on_ranks(3, function, HOSTS)


def test_settings_of_a_rank_replace_those_that_rank_0_was_started_with_and_no_others() -> None:
    first, requested = Settings(train_file="novels.txt"), {"train_file": "/data/novels.txt", "threads": 3, "seed": 5}
    assert own_settings(first, requested, first) == {"train_file": "/data/novels.txt", "threads": 3}
    chosen = replace(first, train_file="letters.txt")
    assert own_settings(chosen, requested, first) == {"threads": 3}
    assert own_settings(chosen, requested, None) == {"train_file": "/data/novels.txt", "threads": 3}
