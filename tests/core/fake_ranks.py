"""Ranks that are threads of one process, and a tiny run that they train."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from gpt_core.config.settings import Settings
from gpt_core.distributed.communicator import RankError
from gpt_core.training import events as ev
from gpt_core.training.joining import join_run
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_core.training.trainer import Trainer
from tests.core.training_samples import tiny_settings

if TYPE_CHECKING:
    from gpt_core.distributed.communicator import Numbers

T = TypeVar("T")
TIMEOUT_S = 100.0


class _Meeting:
    """Exchange of one value per rank."""

    def __init__(self, size: int) -> None:
        self.values: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=TIMEOUT_S)

    def all_of(self, rank: int, value: Any) -> list[Any]:
        try:
            self.values[rank] = value
            self.barrier.wait()
            values = list(self.values)
            self.barrier.wait()
        except threading.BrokenBarrierError:
            raise RankError("another rank has failed") from None
        return values


class FakeRank:
    """Communicator of one of several ranks that are threads."""

    def __init__(self, rank: int, hosts: Sequence[str], control: _Meeting, data: _Meeting) -> None:
        self.rank, self.hosts = rank, hosts
        self.is_first_on_host = hosts.index(hosts[rank]) == rank
        self.timeout_s = 0.0
        self.sent_bytes = 0
        self.is_saving = False
        self.fails_at = -1
        """Number of the collective operation at which this rank finds that another one is lost, -1 for none."""
        self.collectives = 0
        self._control, self._data = control, data

    def gather(self, values: Numbers) -> Numbers:
        return np.stack(self._all_of(self._control, values.copy()))

    def gather_bytes(self, data: bytes) -> list[bytes]:
        return self._all_of(self._control, data)

    def broadcast(self, data: bytes) -> bytes:
        return self.gather_bytes(data)[0]

    def broadcast_array(self, values: NDArray[Any]) -> None:
        values[:] = self._all_of(self._control, values.copy())[0]

    def exchange(
        self, sent: NDArray[Any], sent_counts: Sequence[int], received: NDArray[Any], received_counts: Sequence[int]
    ) -> None:
        assert len(sent) == sum(sent_counts)
        assert len(received) == sum(received_counts)
        bounds = np.cumsum([0, *sent_counts])
        self.sent_bytes += sent.nbytes - sent_counts[self.rank] * sent.itemsize
        parts = [sent[start:stop].copy() for start, stop in itertools.pairwise(bounds)]
        found = [parts[self.rank] for parts in self._all_of(self._data, parts)]
        assert [len(part) for part in found] == list(received_counts)
        received[:] = np.concatenate(found)

    def collect(self, part: NDArray[Any], whole: NDArray[Any], counts: Sequence[int]) -> None:
        assert len(part) == counts[self.rank]
        self.sent_bytes += (len(self.hosts) - 1) * part.nbytes
        whole[:] = np.concatenate(self._all_of(self._data, part.copy()))

    def watch_every(self, seconds: float) -> None:
        self.timeout_s = seconds

    def check(self) -> None:
        if self._control.barrier.broken:
            raise RankError("another rank has failed")

    @contextmanager
    def saving(self) -> Iterator[None]:
        self.is_saving = True
        yield
        self.is_saving = False

    def leave(self, code: int) -> NoReturn:
        self.abort(code)

    def abort(self, code: int) -> NoReturn:
        self.break_off()
        raise SystemExit(code)

    def _all_of(self, meeting: _Meeting, value: Any) -> list[Any]:
        self.collectives += 1
        if self.collectives == self.fails_at:
            raise RankError("lost")
        return meeting.all_of(self.rank, value)

    def break_off(self) -> None:
        """Let the other ranks fail where they wait for this one."""
        self._control.barrier.abort()
        self._data.barrier.abort()


def on_ranks(size: int, function: Callable[[FakeRank], T], hosts: Sequence[str] | None = None) -> list[T]:
    """Call a function on several ranks at once, and return its results by rank; raise the first error of a rank."""
    names = hosts or [f"host{rank}" for rank in range(size)]
    control, data = _Meeting(size), _Meeting(size)
    ranks = [FakeRank(rank, names, control, data) for rank in range(size)]

    def call(rank: FakeRank) -> T:
        try:
            return function(rank)
        except BaseException:
            rank.break_off()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(call, rank) for rank in ranks]
        errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: "another rank" in str(error)):
        raise error
    return [future.result() for future in futures]


def settings_of(folder: Path, **changes: object) -> Settings:
    """Return settings of a tiny run with 8 micro-batches per step."""
    values = {"micro_batch_size": 1, "max_steps": 7, "eval_tokens": 600, "sample_tokens": 4, "threads": 1}
    return tiny_settings(folder, **(values | changes))


def trainer_of(rank: FakeRank, settings: Settings, resume: Path | None = None) -> Trainer:
    """Return the trainer of one rank."""
    return open_run(RunRequest(settings, resume=resume), ranks=rank) if rank.rank == 0 else join_run(rank, {})


def cut_at(collective: int, settings: Settings) -> tuple[int, int]:
    """Train on two ranks until a collective operation of rank 0 fails; return its operations and its steps."""
    found = (0, 0)

    def train(rank: FakeRank) -> None:
        nonlocal found
        trainer = trainer_of(rank, settings)
        rank.collectives = 0
        rank.fails_at = collective if rank.rank == 0 else -1
        try:
            for _ in trainer.events():
                pass
        finally:
            if rank.rank == 0:
                found = rank.collectives, trainer.step

    if collective < 0:
        on_ranks(2, train)
    else:
        with pytest.raises(RankError, match="lost"):
            on_ranks(2, train)
    return found


def timeless(events: Iterator[ev.AnyEvent]) -> list[object]:
    """Return what must be equal in the events of two runs."""
    kinds = ev.StepCompleted | ev.EvalCompleted | ev.FullEvalCompleted | ev.SampleWritten | ev.RunFinished
    return [
        replace(event, elapsed_s=0.0, tokens_per_s=0.0) if isinstance(event, ev.StepCompleted) else event
        for event in events
        if isinstance(event, kinds)
    ]
