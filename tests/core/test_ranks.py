"""A run on several ranks computes what one process computes, to the bit; what goes wrong on one of them ends all."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, NoReturn

import pytest
from msgspec.structs import replace

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import Settings
from gpt_core.distributed import launch
from gpt_core.distributed.communicator import DifferenceError, RankError
from gpt_core.distributed.cores import share_of_cores
from gpt_core.distributed.launch import is_of_other_mpi, launched_as
from gpt_core.errors import SaveError
from gpt_core.formats.checkpoint import Checkpoint, read_checkpoint
from gpt_core.training import events as ev
from gpt_core.training.agreement import Agreement
from gpt_core.training.controls import TrainingControls
from gpt_core.training.joining import join_run
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_core.training.timing import RunClock
from tests.core.fake_ranks import FakeRank, cut_at, on_ranks, settings_of, timeless, trainer_of
from tests.core.training_samples import LATEST, whole_state


def trained(rank: FakeRank, settings: Settings, resume: Path | None = None) -> tuple[list[object], tuple[bytes, ...]]:
    """Return the events that do not depend on time, and all tensors at the end."""
    trainer = trainer_of(rank, settings, resume)
    return timeless(trainer.events()), whole_state(trainer)


@pytest.mark.parametrize("size", [2, 3, 4, 8])
@pytest.mark.parametrize("changes", [{}, {"exchange": "bfloat16", "ema": 0.9, "dropout": 0.2, "freeze": "positions"}])
def test_a_run_has_the_same_bits_on_any_number_of_ranks(size: int, changes: dict[str, object], tmp_path: Path) -> None:
    expected = on_ranks(1, lambda rank: trained(rank, settings_of(tmp_path, models_dir=str(tmp_path / "a"), **changes)))
    settings = settings_of(tmp_path, models_dir=str(tmp_path / "b"), **changes)
    found = on_ranks(size, lambda rank: trained(rank, settings))
    assert found[0] == expected[0]
    assert all(tensors == expected[0][1] for _, tensors in found)
    assert not any(isinstance(event, ev.SampleWritten) for events, _ in found[1:] for event in events)


def test_a_checkpoint_of_one_number_of_ranks_resumes_on_another(tmp_path: Path) -> None:
    complete = on_ranks(1, lambda rank: trained(rank, settings_of(tmp_path, models_dir=str(tmp_path / "a"))))[0]
    cut = settings_of(tmp_path)
    for size, steps in ((3, 3), (2, 5), (1, 7)):
        resume = tmp_path / LATEST if steps > 3 else None
        settings = replace(cut, max_steps=steps)
        found = on_ranks(size, lambda rank, resume=resume, settings=settings: trained(rank, settings, resume))
    assert found[0][1] == complete[1]
    steps = [event for event in complete[0] if isinstance(event, ev.StepCompleted)]
    assert [event for event in found[0][0] if isinstance(event, ev.StepCompleted)] == steps[5:]


def test_a_request_to_any_rank_is_carried_out_by_all_at_one_step(tmp_path: Path) -> None:
    def train(rank: FakeRank) -> tuple[int, list[ev.AnyEvent]]:
        trainer = trainer_of(rank, settings_of(tmp_path, max_steps=0))
        found = []
        for event in trainer.events():
            found.append(event)
            if isinstance(event, ev.StepCompleted) and rank.rank == 2:
                if event.step == 2:
                    trainer.requests.save()
                if event.step == 6:
                    trainer.requests.stop()
        return trainer.step, found

    results = on_ranks(3, train)
    assert len({step for step, _ in results}) == 1
    saved = [event for event in results[0][1] if isinstance(event, ev.CheckpointSaved) and event.kind == "latest"]
    assert [event.step for event in saved] == [3, results[0][0]]
    assert isinstance(results[0][1][-1], ev.RunFinished)
    assert results[0][1][-1].reason == "stopped"


def test_the_training_time_of_rank_0_is_that_of_all_ranks() -> None:
    """A time budget would else end the run at different steps."""

    def elapsed(rank: FakeRank) -> float:
        agreement = Agreement(TrainingControls(), RunClock(1000.0 * (1 + rank.rank)), rank)
        agreement.update()
        return agreement.elapsed_s

    found = on_ranks(3, elapsed)
    assert 1000.0 <= found[0] < 2000.0
    assert found == [found[0]] * 3


def test_a_text_that_differs_on_a_host_is_refused_with_rank_and_host(tmp_path: Path) -> None:
    other = tmp_path / "other.en"
    settings = settings_of(tmp_path)
    other.write_text("Another text.\n\n" * 50)

    def prepare(rank: FakeRank) -> None:
        if rank.rank == 0:
            open_run(RunRequest(settings), ranks=rank)
        else:
            join_run(rank, {"train_file": str(other)} if rank.rank == 2 else {})

    with pytest.raises(DifferenceError, match=r"^rank 2 on host2 has another training text: .*copy the text there"):
        on_ranks(3, prepare)
    assert not (tmp_path / LATEST).exists()


@pytest.mark.parametrize(("compare_every", "found_at"), [(2, 4), (100, 7)])
def test_weights_that_differ_end_the_run_without_a_save(
    compare_every: int, found_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt_core.training.trainer.COMPARE_EVERY", compare_every)

    def train(rank: FakeRank) -> None:
        trainer = trainer_of(rank, settings_of(tmp_path))
        for event in trainer.events():
            if isinstance(event, ev.StepCompleted) and event.step == 4 and rank.rank == 1:
                trainer.parameters.flat[0] += 1

    words = f"the weights of rank 1 on host1 differ from those of rank 0 at step {found_at}:"
    with pytest.raises(RankError, match=words):
        on_ranks(2, train)
    assert not (tmp_path / LATEST).exists()


def check_exact_after(
    collective: int, complete: tuple[list[object], tuple[bytes, ...]], folder: Path
) -> tuple[int, int]:
    """Check that a run that ended at a collective operation equals the complete one once it is resumed.

    Returns:
        Steps that were taken, and the step of the checkpoint that was resumed, 0 if there was none.
    """
    folder.mkdir(exist_ok=True)
    settings = settings_of(folder)
    _, steps = cut_at(collective, settings)
    saved = CheckpointStore(Path(settings.models_dir)).list()
    newest = saved[0].path if saved else None  # the best model, if its step is the last one
    resumed = read_checkpoint(newest).step if newest else 0
    events, tensors = on_ranks(1, lambda rank: trained(rank, settings, newest))[0]
    assert tensors == complete[1]
    for kind in (ev.StepCompleted, ev.EvalCompleted):
        found, expected = ([event for event in run if isinstance(event, kind)] for run in (events, complete[0]))
        assert found == expected[len(expected) - len(found) :]
    return steps, resumed


@pytest.mark.parametrize("collective", [10, 11, 12, 13])
def test_a_rank_lost_within_a_step_leaves_a_state_from_which_a_resume_is_exact(
    collective: int, complete: tuple[list[object], tuple[bytes, ...]], tmp_path: Path
) -> None:
    steps, resumed = check_exact_after(collective, complete, tmp_path)
    assert 0 < steps == resumed


@pytest.mark.parametrize(
    ("before", "step"), [(ev.StepCompleted, 4), (ev.EvalCompleted, 5), (ev.SaveFailed, 4)],
    ids=["a-step", "a-sample", "an-answer-of-the-user"],
)  # fmt: skip
def test_a_rank_lost_while_rank_0_waits_for_no_other_is_found_at_once_and_the_run_is_saved(
    before: type[ev.Event], step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path)
    is_full = before is ev.SaveFailed
    operations = []
    save = CheckpointStore.save

    def full(self: CheckpointStore, kind: str, checkpoint: Checkpoint, **options: Any) -> Path:
        if is_full and self.folder == Path(settings.models_dir):
            raise SaveError("no space left on device")
        return save(self, kind, checkpoint, **options)

    def lost() -> None:
        raise RankError("lost")

    def train(rank: FakeRank) -> None:
        trainer = trainer_of(rank, settings)
        trainer.requests.can_ask = True
        try:
            for event in trainer.events():
                if is_full and isinstance(event, ev.StepCompleted) and event.step == step - 1:  # agreed with the next
                    trainer.requests.stop()
                if rank.rank == 0 and isinstance(event, before) and event.step == step:
                    rank.check = lost  # type: ignore[method-assign]
                    operations.append(rank.collectives)
        finally:
            if rank.rank == 0:
                operations.append(rank.collectives)
                trainer.requests.can_ask = False

    monkeypatch.setattr(CheckpointStore, "save", full)
    with pytest.raises(RankError, match="lost"):
        on_ranks(2, train)
    assert operations[0] == operations[-1]
    assert [read_checkpoint(path).step for path in tmp_path.glob("*/ckpt_latest.safetensors")] == [step]


@pytest.mark.slow
def test_a_rank_lost_at_any_operation_of_a_run_leaves_a_state_from_which_a_resume_is_exact(
    complete: tuple[list[object], tuple[bytes, ...]], tmp_path: Path
) -> None:
    operations, _ = cut_at(-1, settings_of(tmp_path))
    assert operations > 40
    for collective in range(1, operations + 1):
        check_exact_after(collective, complete, tmp_path / str(collective))


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], tuple[bytes, ...]]:
    """Events and tensors of the run on one process."""
    settings = settings_of(tmp_path_factory.mktemp("complete"))
    return on_ranks(1, lambda rank: trained(rank, settings))[0]


def test_a_failed_save_on_rank_0_is_reported_there_and_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SaveError("no space left on device")

    monkeypatch.setattr("gpt_core.checkpoints.store.write_checkpoint", full)
    settings = settings_of(tmp_path, save_every_steps=2)
    ended, *others = on_ranks(3, lambda rank: list(trainer_of(rank, settings).events()))
    failed = [event.step for event in ended if isinstance(event, ev.SaveFailed) and event.kind == "latest"]
    assert failed == [2, 4, 6, 7, 7]  # before and after the last evaluation
    assert ended[-1] == ev.RunFinished("max_steps", 7, saved=False)
    assert not any(isinstance(event, ev.SaveFailed) for events in others for event in events)


def test_the_log_of_a_run_names_the_host_of_each_rank(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, max_steps=1)
    hosts = ("left", "left", "right")

    def started(rank: FakeRank) -> ev.AnyEvent:
        return next(iter(list(trainer_of(rank, settings).events())))

    event = on_ranks(3, started, hosts)[0]
    assert isinstance(event, ev.RunStarted)
    assert event.hosts == hosts


# ---- launch


def test_the_launcher_is_found_by_its_variables() -> None:
    assert launched_as({}) == (0, 1)
    assert launched_as({"PMI_RANK": "2", "PMI_SIZE": "4"}) == (2, 4)
    assert launched_as({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}) == (1, 2)
    assert launched_as({"PMIX_RANK": "3", "SLURM_NTASKS": "8"}) == (3, 8)
    assert launched_as({"SLURM_NTASKS": "8"}) == (0, 1)


@pytest.mark.parametrize(
    ("rank", "is_connected", "expected"),
    [
        (1, True, launch.MAX_SAVE_S + launch.GRACE_S),
        (1, False, launch.GRACE_S),  # no other rank finds its loss
        (0, True, launch.GRACE_S),  # which is the one that saves
    ],
)
def test_the_process_that_waits_for_a_killed_rank_waits_as_long_as_rank_0_may_save(
    rank: int, is_connected: bool, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def end(code: int) -> NoReturn:
        raise SystemExit(code)

    before = {name: signal.getsignal(getattr(signal, name)) for name in launch.FORWARDED}
    monkeypatch.setattr(launch.os, "waitpid", lambda *_: (1, signal.SIGKILL))
    monkeypatch.setattr(launch.os, "_exit", end)
    monkeypatch.setattr(launch.time, "sleep", waited.append)
    monkeypatch.setattr(launch, "launched_as", lambda: (rank, 2))
    connected, mark = os.pipe()
    os.write(mark, b"1" * is_connected)
    try:
        with pytest.raises(SystemExit, match=r"^1$"):
            launch._wait_for(1, connected, lambda: None)
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
        os.close(connected)
        os.close(mark)
    assert waited == [expected]


def test_all_saves_of_rank_0_are_those_that_the_watch_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[str, bool]] = []
    save = CheckpointStore.save

    def watched(store: CheckpointStore, kind: str, *arguments: Any, **options: Any) -> Path:
        found.append((kind, rank_0.is_saving))
        if store.folder == tmp_path / "models":
            raise SaveError("no space left")
        return save(store, kind, *arguments, **options)

    monkeypatch.setattr(CheckpointStore, "save", watched)

    def train(rank: FakeRank) -> None:
        nonlocal rank_0
        if rank.rank == 0:
            rank_0 = rank
        for _ in trainer_of(rank, settings_of(tmp_path, max_steps=2, eval_every_steps=0)).events():
            pass

    rank_0: FakeRank
    on_ranks(2, train)
    assert len(found) > 1
    assert all(is_saving for _, is_saving in found)
    assert not rank_0.is_saving


def test_a_launcher_of_another_mpi_is_refused_unless_it_may_support_several() -> None:
    mpich, open_mpi = {"PMI_RANK": "0"}, {"OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0"}
    slurm = {"PMI_RANK": "0", "SLURM_PROCID": "0"}
    assert [is_of_other_mpi("MPICH", environ) for environ in (mpich, open_mpi, slurm)] == [False, True, False]
    assert [is_of_other_mpi("Intel MPI", environ) for environ in (mpich, open_mpi, slurm)] == [False, True, False]
    assert [is_of_other_mpi("Open MPI", environ) for environ in (mpich, open_mpi, slurm)] == [True, False, False]
    assert not is_of_other_mpi("MPICH", {"PMIX_RANK": "0"})


def test_ranks_of_a_host_share_its_cores_unless_the_launcher_has_bound_them() -> None:
    assert [share_of_cores(rank, [(0, 1, 2, 3, 4)] * 2) for rank in range(2)] == [(0, 1), (2, 3, 4)]
    assert [share_of_cores(rank, [(0, 1)] * 3) for rank in range(3)] == [(0,), (1,), (0,)]
    assert share_of_cores(1, [(0, 1), (2, 3)]) == (2, 3)
    assert share_of_cores(0, [(4, 5)]) == (4, 5)
    assert share_of_cores(0, [(), ()]) == ()
