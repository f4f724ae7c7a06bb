"""Prediction of tokens/s on several machines: bytes, hidden exchange, and whether another machine pays."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gpt_core.bench import exchange
from gpt_core.bench.exchange import measure_exchange
from gpt_core.bench.scaling import (
    Chunk,
    Network,
    StepCosts,
    advise,
    calibrated,
    hideable_seconds,
    predict,
    predictions,
    values_per_link,
)
from gpt_core.config.settings import Settings
from gpt_core.errors import ConfigError
from gpt_core.kernels import threads
from tests.core.fake_ranks import on_ranks

MEGABYTE = 1_000_000
COSTS = StepCosts(
    tokens=8192, micro_batches=8, pass_s=1.0, update_s=0.1, layers=4, blocks_share=0.75,
    chunks=(Chunk(2, 2 * MEGABYTE), Chunk(0, 2 * MEGABYTE), Chunk(-1, MEGABYTE)),
)  # fmt: skip
INSTANT = Network(latency_s=0.0, bytes_per_s=1e15)


def test_one_rank_exchanges_nothing() -> None:
    found = predict(COSTS, Network(1.0, 1.0), 1)
    assert found.step_s == pytest.approx(8.1)
    assert found.tokens_per_s == pytest.approx(8192 / 8.1)
    assert (found.exchange_s, found.hidden_s, found.bytes_per_step) == (0.0, 0.0, 0.0)


def test_without_a_cost_of_the_network_only_the_update_limits_the_gain() -> None:
    for ranks, seconds in ((2, 4.1), (4, 2.1), (8, 1.1)):
        assert predict(COSTS, INSTANT, ranks).step_s == pytest.approx(seconds)


def test_the_rank_with_the_most_micro_batches_decides() -> None:
    assert [predict(COSTS, INSTANT, ranks).micro_batches for ranks in (2, 3, 4, 5, 7, 8)] == [4, 3, 2, 2, 2, 1]
    assert predict(COSTS, INSTANT, 7).step_s == pytest.approx(predict(COSTS, INSTANT, 4).step_s)


def test_only_as_many_ranks_as_micro_batches_are_predicted() -> None:
    assert [found.ranks for found in predictions(COSTS, INSTANT)] == [2, 4, 8]
    assert [found.ranks for found in predictions(replace(COSTS, micro_batches=64), INSTANT)] == [2, 4, 8, 16, 32, 64]


def test_a_larger_batch_keeps_the_step_time_of_as_many_more_ranks() -> None:
    grown = replace(COSTS, tokens=4 * COSTS.tokens, micro_batches=4 * COSTS.micro_batches)
    assert predict(grown, INSTANT, 8).step_s == pytest.approx(predict(COSTS, INSTANT, 2).step_s)


@pytest.mark.parametrize(
    ("ranks", "micro_batches", "nodes"),
    [(2, 2, 1), (2, 8, 1), (4, 8, 1), (8, 8, 1), (3, 3, 1), (3, 8, 2), (2, 6, 2)],
)
def test_every_owned_node_and_the_sums_are_sent_to_each_other_rank(ranks: int, micro_batches: int, nodes: int) -> None:
    expected = (ranks - 1) * (nodes + 1) / ranks
    assert values_per_link(1000, ranks, micro_batches) == pytest.approx(1000 * expected)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_predicted_bytes_are_those_that_the_gradient_sum_sends(ranks: int) -> None:
    found = on_ranks(ranks, lambda rank: measure_exchange(rank, measured_settings(), repeats=1))[0]
    for step in found.steps:
        predicted = predict(step.costs, step.network, ranks).bytes_per_step
        # parts of a chunk differ by a value where it cannot be divided; of three, a rank receives more than it sends
        assert step.sent_bytes <= predicted * 1.01
        assert step.sent_bytes >= predicted * (0.99 if ranks != 3 else 0.7)


def test_bfloat16_halves_the_bytes() -> None:
    half = replace(COSTS, bytes_per_value=2)
    assert predict(half, INSTANT, 4).bytes_per_step == predict(COSTS, INSTANT, 4).bytes_per_step / 2


def test_the_backward_pass_hides_what_it_outlasts() -> None:
    # a block takes 1/8 s: chunks are complete 1/4 s and 0 s before the end of the backward pass
    assert hideable_seconds(COSTS, [0.25, 0.0, 0.0]) == pytest.approx(0.25)
    assert hideable_seconds(COSTS, [0.1, 0.2, 0.3]) == pytest.approx(0.1)
    assert hideable_seconds(COSTS, [1.0, 1.0, 1.0]) == pytest.approx(0.25)


def test_no_part_of_the_last_chunk_is_hidden() -> None:
    only = replace(COSTS, chunks=(Chunk(-1, MEGABYTE),))
    found = predict(only, Network(0.0, MEGABYTE), 2)
    assert found.hidden_s == 0
    assert found.step_s == pytest.approx(4.1 + 4.0)  # 2 halves of 4 bytes per value, at 1 MB/s


def test_latency_counts_once_per_message_and_collective() -> None:
    found = predict(COSTS, Network(0.001, 1e30), 4)
    assert found.exchange_s == pytest.approx(len(COSTS.chunks) * 2 * 3 * 0.001)
    assert predict(COSTS, Network(0.001, 1e15), 8).exchange_s > found.exchange_s


def test_a_slower_network_never_predicts_a_faster_step() -> None:
    for ranks in (2, 3, 4, 8):
        rates = [predict(COSTS, Network(1e-4, rate), ranks).tokens_per_s for rate in (1e9, 1e8, 1e7, 1e6)]
        assert rates == sorted(rates, reverse=True)


def test_calibration_reproduces_the_measured_step() -> None:
    network = Network(1e-4, 100 * MEGABYTE)
    wire_s = predict(COSTS, network, 2).exchange_s
    found = calibrated(COSTS, network, 2, exchange_s=wire_s + 0.05, waited_s=wire_s)
    prediction = predict(COSTS, found, 2)
    assert prediction.exchange_s == pytest.approx(wire_s + 0.05)
    assert prediction.hidden_s == pytest.approx(0.05)


def test_calibration_stays_within_its_bounds() -> None:
    network = Network(1e-4, 100 * MEGABYTE)
    none = calibrated(COSTS, network, 2, exchange_s=0.0, waited_s=1.0)
    assert (none.work_s, none.overlap) == (0.0, 0.0)
    assert calibrated(COSTS, network, 2, exchange_s=10.0, waited_s=0.0).overlap == 1.0


def test_another_machine_pays_on_a_fast_network() -> None:
    found = advise(COSTS, Network(1e-5, 1e9), 1)
    assert (found.pays, found.next and found.next.ranks, found.best.ranks) == (True, 2, 8)


def test_the_next_number_of_ranks_is_one_with_fewer_micro_batches_per_rank() -> None:
    found = advise(COSTS, Network(1e-5, 1e9), 4)
    assert (found.pays, found.next and found.next.ranks) == (True, 8)


def test_another_machine_does_not_pay_where_the_exchange_takes_longer_than_it_saves() -> None:
    found = advise(COSTS, Network(0.01, MEGABYTE), 1)
    assert (found.pays, found.best.ranks) == (False, 1)


def test_no_machine_is_left_to_add_once_each_rank_has_one_micro_batch() -> None:
    found = advise(COSTS, INSTANT, 8)
    assert (found.pays, found.next, found.best.ranks) == (False, None, 8)


def measured_settings(batch_size: int = 8) -> Settings:
    """Settings of a tiny step of micro-batches of one sequence."""
    return Settings(
        d_model=16, hidden_size=24, vocab_size=300, num_heads=2, seq_len=16, layers=2, batch_size=batch_size,
        micro_batch_size=1, threads=1,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute on one thread, and measure small chunks for a short time."""
    threads.set_threads(1)
    monkeypatch.setattr(exchange, "MEASURE_S", 0.01)
    monkeypatch.setattr(exchange, "MESSAGE_BYTES", (1 << 10, 1 << 12))


def test_the_benchmark_measures_both_formats_on_all_ranks() -> None:
    rows = on_ranks(2, lambda rank: measure_exchange(rank, measured_settings(), repeats=2), ["left", "right"])
    found = rows[0]
    assert found.hosts == ("left", "right")
    assert [step.format for step in found.steps] == ["float32", "bfloat16"]
    assert found.steps[1].sent_bytes == pytest.approx(found.steps[0].sent_bytes / 2)
    assert found.alone_step_s > 0
    assert found.bytes_per_s > 0
    for step in found.steps:
        assert step.steps == 2
        assert step.exchange_share == pytest.approx(step.exchange_s / step.step_s)
        assert 0 <= step.hidden_share <= 1
        assert [prediction.ranks for prediction in step.predictions] == [2, 4, 8]
    assert rows[1].steps == found.steps  # of the slowest rank, on all ranks


def test_the_settings_of_rank_0_are_measured_on_all_ranks() -> None:
    found = on_ranks(2, lambda rank: measure_exchange(rank, measured_settings(4 + 4 * rank.rank), repeats=1))
    assert [result.batch_size for result in found] == [4, 4]


def test_more_ranks_than_micro_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 ranks need as many micro-batches per step, got 2"):
        on_ranks(3, lambda rank: measure_exchange(rank, measured_settings(2)))
