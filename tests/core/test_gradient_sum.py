"""Gradients are summed in one fixed tree: the sums have the same bits on any number of ranks."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from gpt_core.config.settings import ModelShape
from gpt_core.distributed.communicator import SINGLE_PROCESS, Communicator
from gpt_core.distributed.tree import Node, leaves_of_rank, merges, owned_nodes, sums_at_once, tree_sum
from gpt_core.errors import ConfigError
from gpt_core.kernels import conversion, threads
from gpt_core.kernels.arrays import zeros
from gpt_core.model.gpt import Gradients
from gpt_core.model.parameters import Parameters
from gpt_core.training.gradient_sum import (
    GradientSum,
    LayerDone,
    add,
    check_ranks,
    chunks_of,
    round_to_bfloat16,
    summed_gradient_bytes,
)
from tests.core.fake_ranks import FakeRank, on_ranks

SHAPE = ModelShape(d_model=8, hidden_size=12, vocab_size=260, num_heads=2, seq_len=8, layers=3)

# ---- tree


@pytest.mark.parametrize("leaves", range(1, 18))
def test_the_nodes_of_all_ranks_contain_every_leaf_once_and_are_nodes_of_the_tree(leaves: int) -> None:
    def nodes(node: Node) -> set[Node]:
        return {node} | (set() if node.stop - node.first == 1 else nodes(node.halves[0]) | nodes(node.halves[1]))

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
                own = values[leaf]
                for _ in range(count):
                    own = stack.pop() + own
                stack.append(own)
                highest = max(highest, len(stack))
            assert size > 1 or highest == sums_at_once(leaves)
            sums |= dict(zip(owned_nodes(leaves, owned), stack, strict=True))
        assert tree_sum(leaves, sums, lambda left, right: left + right) == expected


# ---- sums of gradients


def summed(rank: Communicator, leaves: int, format: str, frozen: frozenset[str] = frozenset()) -> tuple[bytes, float]:
    """Return the bits of the sum of random gradients, and the sum of their losses."""
    total = Parameters(SHAPE)
    sums = GradientSum(total, leaves, rank, format, frozen)  # type: ignore[arg-type]

    def micro_batch(leaf: int, gradients: Gradients, layer_done: LayerDone | None) -> float:
        assert not any(tensor.any() for tensor in gradients.tensors.values())
        random = np.random.default_rng(leaf)
        for block in (2, 1, 0, -1):
            for name in gradients.tensors:
                if name.startswith(f"h.{block}.") or (block == 2 and name.startswith("ln_f")):
                    gradients.tensors[name][:] = random.standard_normal(gradients.tensors[name].shape, dtype=np.float32)
            if layer_done is not None and block >= 0:
                layer_done(block)
        for name in ("wte.weight", "wpe.weight"):
            gradients.tensors[name][:] = random.standard_normal(gradients.tensors[name].shape, dtype=np.float32)
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
    for size in (2, 3, 4, 8):
        assert on_ranks(size, lambda rank: summed(rank, leaves, format)) == [expected] * size


def test_denormal_sums_are_kept_within_a_pass_that_flushes_denormal_numbers() -> None:
    total = Parameters(SHAPE)

    def micro_batch(leaf: int, gradients: Gradients, layer_done: LayerDone | None) -> float:
        with threads.DenormalsFlushed():
            for block in (2, 1, 0):
                for tensor in gradients.tensors.values():
                    tensor.fill((1.5e-38, -1.2e-38)[leaf])
                if layer_done is not None:
                    layer_done(block)
        return 0.0

    GradientSum(total, 2, SINGLE_PROCESS).of_step(micro_batch)
    expected = np.float32(1.5e-38) - np.float32(1.2e-38)
    assert 0 < expected < np.finfo(np.float32).tiny
    assert {float(value) for tensor in total.tensors.values() for value in tensor.flat} == {float(expected)}


def test_a_step_that_is_given_up_leaves_nothing_in_the_next_one() -> None:
    total = Parameters(SHAPE)
    sums = GradientSum(total, 2, SINGLE_PROCESS)

    def micro_batch(leaf: int, gradients: Gradients, layer_done: LayerDone | None, *, last: int) -> float | None:
        for block in (2, 1, 0, -1):
            for name, tensor in gradients.tensors.items():
                if name.startswith((f"h.{block}.", {2: "ln_f", -1: "w"}.get(block, " "))):
                    tensor += 1.0
            if leaf == 1 and block == last:
                return None
            if layer_done is not None and block >= 0:
                layer_done(block)
        return 0.0

    assert sums.of_step(partial(micro_batch, last=1)) is None
    assert sums.of_step(partial(micro_batch, last=-2)) == 0.0
    assert {float(value) for tensor in total.tensors.values() for value in tensor.flat} == {2.0}


@pytest.mark.parametrize(("leaves", "size"), [(1, 1), (2, 1), (3, 1), (4, 1), (7, 1), (8, 1), (1, 2), (2, 2), (4, 2)])
def test_the_counted_bytes_are_those_that_are_allocated(
    leaves: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = ModelShape(d_model=16, hidden_size=16, vocab_size=272, num_heads=2, seq_len=8, layers=3)  # whole lines
    made: list[int] = []

    def counted(values: int, dtype: Any = np.float32) -> Any:
        made.append(values * np.dtype(dtype).itemsize)
        return zeros(values, dtype=dtype)

    for module in ("gpt_core.model.parameters", "gpt_core.training.gradient_sum"):
        monkeypatch.setattr(f"{module}.zeros", counted)
    on_ranks(size, lambda rank: GradientSum(Parameters(shape), size * leaves, rank).of_step(lambda *_: 0.0))
    assert sum(made) == size * summed_gradient_bytes(shape, leaves, is_exchanged=size > 1)


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


def test_chunks_of_a_buffer_of_some_parameters_are_of_these_alone() -> None:
    some = Parameters(SHAPE, names=("wte.weight", "h.1.mlp.c_fc.bias"))
    sizes = [(chunk.block, chunk.size) for chunk in chunks_of(some, frozenset())]
    assert sizes == [(-1, some["wte.weight"].size + some["h.1.mlp.c_fc.bias"].size)]


def test_values_are_rounded_as_the_kernels_round_them() -> None:
    random = np.random.default_rng(0)
    nans = np.uint32([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFF8000])
    bits = np.concatenate((random.integers(0, 1 << 32, 10_000, dtype=np.uint32), nans))
    values = np.concatenate((bits.view(np.float32), np.float32([0.0, -0.0, np.inf, -np.inf, 1.00390625])))
    rounded, expected = values.copy(), np.empty((1, len(values)), np.uint16)
    round_to_bfloat16(rounded)
    conversion.to_bfloat16(expected, values[None])
    assert np.array_equal(rounded.view(np.uint32) >> 16, expected[0])
    ones = np.ones(4, np.float32)
    add(ones, np.float32([2**-8, 2**-9, 1.0, np.nan]), rounded=True)
    assert ones[:3].tolist() == [1.0, 1.0, 2.0]
    assert np.isnan(ones[3])


def test_more_ranks_than_micro_batches_are_refused_with_the_setting_that_helps() -> None:
    check_ranks(4, 16, 4)
    with pytest.raises(ConfigError, match=r"4 ranks need as many micro-batches per step, got 1 .*micro_batch_size=4"):
        check_ranks(4, 16, 16)
    with pytest.raises(ConfigError, match=r"3 ranks .*set micro_batch_size=4"):
        check_ranks(3, 16, 16)
    with pytest.raises(ConfigError, match=r"8 ranks .*at most 4 ranks, or set batch_size=8 and micro_batch_size=1"):
        check_ranks(8, 4, 1)
