"""Several ranks compute what one process computes, to the bit; what goes wrong on one of them ends all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.distributed.communicator import SINGLE_PROCESS, Communicator, RankError
from gpt_core.distributed.cores import share_of_cores
from gpt_core.distributed.launch import launched_as
from gpt_core.distributed.tree import Node, leaves_of_rank, merges, owned_nodes, sums_at_once, tree_sum
from gpt_core.distributed.watch import Fault, Watch, open_links
from gpt_core.errors import ConfigError, CorpusError, SaveError
from gpt_core.kernels import conversion
from gpt_core.model.parameters import Parameters
from gpt_core.training import events as ev
from gpt_core.training.gradient_sum import (
    GradientSum,
    LayerDone,
    add,
    check_ranks,
    chunks_of,
    round_to_bfloat16,
)
from gpt_core.training.joining import join_run
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_core.training.trainer import Trainer
from tests.core.fake_ranks import FakeRank, on_ranks
from tests.core.training_samples import LATEST, tiny_settings, whole_state

SIZES = (2, 3, 4, 8)
SHAPE = ModelShape(d_model=8, hidden_size=12, vocab_size=260, num_heads=2, seq_len=8, layers=3)

# ---- tree


@pytest.mark.parametrize("leaves", range(1, 18))
def test_the_nodes_of_all_ranks_contain_every_leaf_once_and_are_nodes_of_the_tree(leaves: int) -> None:
    def nodes(node: Node) -> set[Node]:
        return {node} | (set() if node.is_leaf else nodes(node.halves[0]) | nodes(node.halves[1]))

    for size in range(1, leaves + 1):
        found = [node for rank in range(size) for node in owned_nodes(leaves, leaves_of_rank(rank, size, leaves))]
        assert [leaf for node in found for leaf in range(*node)] == list(range(leaves))
        assert set(found) <= nodes(Node(0, leaves))


@pytest.mark.parametrize("leaves", [1, 2, 3, 5, 6, 7, 8, 13, 16])
def test_a_sum_in_the_tree_has_the_same_bits_for_any_number_of_ranks(leaves: int) -> None:
    values = (10.0 ** np.random.default_rng(leaves).uniform(-8, 8, leaves)).astype(np.float32)
    terms = {Node(leaf, leaf + 1): value for leaf, value in enumerate(values)}
    expected = tree_sum(leaves, terms, lambda left, right: left + right)
    for size in range(1, leaves + 1):
        sums = {}
        for rank in range(size):
            owned, stack, highest = leaves_of_rank(rank, size, leaves), [], 0
            for leaf, count in zip(range(*owned), merges(leaves, owned), strict=True):
                stack.append(values[leaf])
                highest = max(highest, len(stack))
                for _ in range(count):
                    right = stack.pop()
                    stack[-1] = stack[-1] + right
            assert size > 1 or highest == sums_at_once(leaves)
            sums |= dict(zip(owned_nodes(leaves, owned), stack, strict=True))
        assert tree_sum(leaves, sums, lambda left, right: left + right) == expected


# ---- sums of gradients


def summed(rank: Communicator, leaves: int, format: str, frozen: frozenset[str] = frozenset()) -> tuple[bytes, float]:
    """Return the bits of the sum of random gradients, and the sum of their losses."""
    total = Parameters(SHAPE)
    sums = GradientSum(total, leaves, rank, format, frozen)  # type: ignore[arg-type]

    def micro_batch(leaf: int, gradients: Parameters, layer_done: LayerDone | None) -> float:
        assert not gradients.flat.any()
        random = np.random.default_rng(leaf)
        for block in (2, 1, 0, -1):
            for name in gradients.tensors:
                if name.startswith(f"h.{block}.") or (block == 2 and name.startswith("ln_f")):
                    gradients[name][:] = random.standard_normal(gradients[name].shape, dtype=np.float32)
            if layer_done is not None and block >= 0:
                layer_done(block)
        for name in ("wte.weight", "wpe.weight"):
            gradients[name][:] = random.standard_normal(gradients[name].shape, dtype=np.float32)
        return float(random.standard_normal())

    for _ in range(2):  # buffers are reused
        loss = sums.of_step(micro_batch)
    assert loss is not None
    for name in frozen:
        total[name][:] = 0.0
    return total.flat.tobytes(), loss


@pytest.mark.parametrize("format", ["float32", "bfloat16"])
@pytest.mark.parametrize("leaves", [8, 12])
def test_gradients_and_losses_have_the_same_bits_on_any_number_of_ranks(leaves: int, format: str) -> None:
    expected = summed(SINGLE_PROCESS, leaves, format)
    for size in SIZES:
        assert on_ranks(size, lambda rank: summed(rank, leaves, format)) == [expected] * size


def test_small_chunks_and_frozen_parameters_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = frozenset(("wte.weight", "h.0.ln_1.weight"))
    expected = summed(SINGLE_PROCESS, 8, "float32", frozen)
    monkeypatch.setattr("gpt_core.training.gradient_sum.MIN_CHUNK", 100)
    monkeypatch.setattr("gpt_core.training.gradient_sum.MAX_CHUNK", 300)
    assert on_ranks(3, lambda rank: summed(rank, 8, "float32", frozen)) == [expected] * 3


def test_bfloat16_halves_the_bytes_that_a_rank_sends() -> None:
    def sent(rank: FakeRank, format: str) -> int:
        summed(rank, 4, format)
        return rank.sent_bytes

    whole = sum(on_ranks(4, lambda rank: sent(rank, "float32")))
    assert sum(on_ranks(4, lambda rank: sent(rank, "bfloat16"))) == whole // 2


def test_chunks_contain_every_value_of_every_trained_tensor_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_core.training.gradient_sum.MIN_CHUNK", 200)
    monkeypatch.setattr("gpt_core.training.gradient_sum.MAX_CHUNK", 500)
    parameters, frozen = Parameters(SHAPE), frozenset(("h.1.mlp.c_fc.weight",))
    chunks = chunks_of(parameters, frozen)
    for chunk in chunks:
        assert chunk.size <= 500
        for part in chunk.ranges:
            parameters.flat[part] += 1
    assert {
        name: (tensor == (name not in frozen)).all() for name, tensor in parameters.tensors.items()
    } == dict.fromkeys(parameters.tensors, True)
    assert [chunk.block for chunk in chunks] == sorted((chunk.block for chunk in chunks), reverse=True)


def test_values_are_rounded_as_the_kernels_round_them() -> None:
    random = np.random.default_rng(0)
    bits = random.integers(0, 1 << 32, 10_000, dtype=np.uint32)
    values = np.concatenate((bits.view(np.float32), np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1.00390625])))
    values = values[np.isfinite(values) | np.isinf(values)]
    rounded, expected = values.copy(), np.empty((1, len(values)), np.uint16)
    round_to_bfloat16(rounded)
    conversion.to_bfloat16(expected, values[None])
    assert np.array_equal(rounded.view(np.uint32) >> 16, expected[0])
    ones = np.ones(4, np.float32)
    add(ones, np.float32([2**-8, 2**-9, 1.0, np.nan]), rounds=True)
    assert ones[:3].tolist() == [1.0, 1.0, 2.0]
    assert np.isnan(ones[3])


def test_more_ranks_than_micro_batches_are_refused_with_the_setting_that_helps() -> None:
    check_ranks(4, 16, 4)
    with pytest.raises(ConfigError, match=r"4 ranks need as many micro-batches per step, got 1 .*micro_batch_size=4"):
        check_ranks(4, 16, 16)
    with pytest.raises(ConfigError, match=r"3 ranks .*--set micro_batch_size=4"):
        check_ranks(3, 16, 16)
    with pytest.raises(
        ConfigError, match=r"8 ranks .*at most 4 ranks, or add --set batch_size=8 --set micro_batch_size=1"
    ):
        check_ranks(8, 4, 1)


# ---- runs


def settings_of(folder: Path, **changes: object) -> Settings:
    """Return settings of a tiny run with 8 micro-batches per step."""
    values = {"micro_batch_size": 1, "max_steps": 7, "eval_tokens": 600, "sample_tokens": 4, "threads": 1}
    return tiny_settings(folder, **(values | changes))


def trainer_of(rank: FakeRank, settings: Settings, resume: Path | None = None) -> Trainer:
    """Return the trainer of one rank."""
    return open_run(RunRequest(settings, resume=resume), ranks=rank) if rank.rank == 0 else join_run(rank, {})


def trained(rank: FakeRank, settings: Settings, resume: Path | None = None) -> tuple[list[object], tuple[bytes, ...]]:
    """Return the events that do not depend on time, and all tensors at the end."""
    trainer = trainer_of(rank, settings, resume)
    return timeless(trainer.events()), whole_state(trainer)


def timeless(events: Iterator[ev.AnyEvent]) -> list[object]:
    """Return what must be equal in the events of two runs."""
    kinds = ev.StepCompleted | ev.EvalCompleted | ev.FullEvalCompleted | ev.SampleWritten | ev.RunFinished
    return [
        replace(event, elapsed_s=0.0, tokens_per_s=0.0) if isinstance(event, ev.StepCompleted) else event
        for event in events
        if isinstance(event, kinds)
    ]


@pytest.mark.parametrize("size", SIZES)
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


def test_a_text_that_differs_on_a_host_is_refused_with_rank_and_host(tmp_path: Path) -> None:
    other = tmp_path / "other.en"
    settings = settings_of(tmp_path)
    other.write_text("Another text.\n\n" * 50)

    def prepare(rank: FakeRank) -> None:
        if rank.rank == 0:
            open_run(RunRequest(settings), ranks=rank)
        else:
            join_run(rank, {"train_file": str(other)} if rank.rank == 2 else {})

    with pytest.raises(CorpusError, match=r"rank 2 on host2 has another training text: .*copy the text there"):
        on_ranks(3, prepare)
    assert not (tmp_path / LATEST).exists()


def test_weights_that_differ_end_the_run_without_a_save(tmp_path: Path) -> None:
    def train(rank: FakeRank) -> None:
        trainer = trainer_of(rank, settings_of(tmp_path))
        for event in trainer.events():
            if isinstance(event, ev.StepCompleted) and event.step == 4 and rank.rank == 1:
                trainer.parameters.flat[0] += 1

    with pytest.raises(RankError, match="the weights of rank 1 on host1 differ from those of rank 0 at step 7"):
        on_ranks(2, train)
    assert not (tmp_path / LATEST).exists()


def cut_at(collective: int, settings: Settings) -> int:
    """Train on two ranks until a collective operation of rank 0 fails; return how many there were."""
    found = 0

    def train(rank: FakeRank) -> None:
        nonlocal found
        trainer = trainer_of(rank, settings)
        rank.collectives = 0
        rank.fails_at = collective if rank.rank == 0 else -1
        for _ in trainer.events():
            pass
        found = rank.collectives

    if collective < 0:
        on_ranks(2, train)
    else:
        with pytest.raises(RankError, match="lost"):
            on_ranks(2, train)
    return found


def check_exact_after(collective: int, complete: tuple[list[object], tuple[bytes, ...]], folder: Path) -> None:
    """Check that a run that ended at a collective operation equals the complete one once it is resumed."""
    folder.mkdir(exist_ok=True)
    settings = settings_of(folder)
    cut_at(collective, settings)
    saved = CheckpointStore(Path(settings.models_dir)).list()
    newest = saved[0].path if saved else None  # the best model, if its step is the last one
    events, tensors = on_ranks(1, lambda rank: trained(rank, settings, newest))[0]
    assert tensors == complete[1]
    for kind in (ev.StepCompleted, ev.EvalCompleted):
        found, expected = ([event for event in run if isinstance(event, kind)] for run in (events, complete[0]))
        assert found == expected[len(expected) - len(found) :]


@pytest.mark.parametrize("collective", [10, 11, 12, 13])
def test_a_rank_lost_within_a_step_leaves_a_state_from_which_a_resume_is_exact(
    collective: int, complete: tuple[list[object], tuple[bytes, ...]], tmp_path: Path
) -> None:
    check_exact_after(collective, complete, tmp_path)


@pytest.mark.slow
def test_a_rank_lost_at_any_operation_of_a_run_leaves_a_state_from_which_a_resume_is_exact(
    complete: tuple[list[object], tuple[bytes, ...]], tmp_path: Path
) -> None:
    operations = cut_at(-1, settings_of(tmp_path))
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
    assert [event.step for event in ended if isinstance(event, ev.SaveFailed) and event.kind == "latest"] == [
        2,
        4,
        6,
        7,
    ]
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


def test_ranks_of_a_host_share_its_cores_unless_the_launcher_has_bound_them() -> None:
    assert [share_of_cores(rank, [(0, 1, 2, 3, 4)] * 2) for rank in range(2)] == [(0, 1), (2, 3, 4)]
    assert [share_of_cores(rank, [(0, 1)] * 3) for rank in range(3)] == [(0,), (1,), (0,)]
    assert share_of_cores(1, [(0, 1), (2, 3)]) == (2, 3)
    assert share_of_cores(0, [(4, 5)]) == (4, 5)
    assert share_of_cores(0, [(), ()]) == ()


# ---- watch


class Ranks:
    """Watches of two ranks that are connected with each other."""

    aborted: ClassVar[list[int]] = []

    def __init__(self, timeout_s: float = 30.0) -> None:
        self.ends = socket.socketpair()
        self.watches = [
            Watch(rank, ("left", "right"), {1 - rank: end}, timeout_s, self.aborted.append)
            for rank, end in enumerate(self.ends)
        ]

    def fault(self, rank: int) -> Fault | None:
        """Return the fault that a rank finds, None if it finds none in time."""
        expires = time.monotonic() + 20
        while self.watches[rank].fault is None and time.monotonic() < expires:
            time.sleep(0.01)
        return self.watches[rank].fault


def test_a_rank_whose_connection_is_closed_is_lost() -> None:
    ranks = Ranks()
    ranks.ends[1].shutdown(socket.SHUT_RDWR)
    assert ranks.fault(0) == Fault(1, "the process has ended or its network is lost")
    with pytest.raises(RankError, match=r"^rank 1 on right: the process has ended"):
        ranks.watches[0].check()


def test_a_rank_that_sends_nothing_is_lost_after_the_timeout() -> None:
    left, _right = socket.socketpair()
    watch = Watch(0, ("left", "right"), {1: left}, 0.5, lambda _code: None)
    expires = time.monotonic() + 20
    while watch.fault is None and time.monotonic() < expires:
        time.sleep(0.01)
    assert watch.fault == Fault(1, "has not responded for 0.5 seconds")


def test_the_error_of_a_rank_arrives_at_rank_0_with_its_exit_code() -> None:
    ranks = Ranks()
    ranks.watches[1].report("no such text", 2)
    assert ranks.fault(0) == Fault(1, "no such text", 2)
    with pytest.raises(RankError, match=r"^rank 1 on right: no such text$") as caught:
        ranks.watches[0].check()
    assert caught.value.exit_code == 2


def test_ranks_that_end_in_turn_are_not_lost() -> None:
    ranks = Ranks()
    ranks.watches[1].close()
    time.sleep(0.3)
    assert ranks.watches[0].fault is None
    ranks.watches[0].close()


def test_other_ranks_connect_to_rank_0_with_its_token_only() -> None:
    invitation: list[bytes] = []
    ready = threading.Event()

    def from_rank_0(data: bytes) -> bytes:
        if data:
            invitation.append(data)
            ready.set()
        assert ready.wait(20)
        return invitation[0]

    found = {}
    threads = [
        threading.Thread(target=lambda rank=rank: found.update({rank: open_links(rank, ("here",) * 3, from_rank_0)}))
        for rank in range(3)
    ]
    threads[0].start()
    assert ready.wait(20)
    port = msgspec.json.decode(invitation[0])["port"]
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"wrong 1\n")
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
    assert [opened.error for opened in found.values()] == ["", "", ""]
    assert {rank: set(opened.links) for rank, opened in found.items()} == {0: {1, 2}, 1: {0}, 2: {0}}
    for opened in found.values():
        for link in opened.links.values():
            link.close()
