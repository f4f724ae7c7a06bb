"""`gpt-tui bench --mpi`: under mpiexec it measures the ranks; without it, it says how it is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt_core.bench.exchange import ExchangeBenchmark, ExchangedChunk, MeasuredStep
from gpt_core.bench.scaling import Chunk, Network, StepCosts, predict, predictions
from gpt_tui.cli import main as cli
from gpt_tui.cli.bench_mpi import advice_text, report

COSTS = StepCosts(
    tokens=8192, micro_batches=8, pass_s=1.0, update_s=0.1, layers=4, blocks_share=0.75,
    chunks=(Chunk(2, 2_000_000), Chunk(0, 2_000_000), Chunk(-1, 1_000_000)),
)  # fmt: skip
FAST, SLOW = Network(1e-4, 100e6), Network(1e-2, 1e6)


def measured(network: Network, ranks: int) -> MeasuredStep:
    """Return a step as it is predicted."""
    found = predict(COSTS, network, ranks)
    return MeasuredStep(
        format="float32", steps=5, step_s=found.step_s, tokens_per_s=found.tokens_per_s,
        sent_bytes=found.bytes_per_step, exchange_s=found.exchange_s, exchange_share=found.exchange_s / found.step_s,
        waited_s=found.exchange_s - found.hidden_s, hidden_share=found.hidden_s / found.exchange_s, network=network,
        costs=COSTS, predictions=predictions(COSTS, network),
    )  # fmt: skip


def benchmark(network: Network, hosts: tuple[str, ...]) -> ExchangeBenchmark:
    """Return the benchmark of a network."""
    return ExchangeBenchmark(
        hosts=hosts, processor="a processor", threads=2, preset="nano", parameters=1_000_000, batch_size=16,
        micro_batch_size=2, time=64, latency_s=network.latency_s, bytes_per_s=network.bytes_per_s,
        chunks=[ExchangedChunk(4096, 0.001, 4e6)], alone_step_s=8.1, alone_tokens_per_s=8192 / 8.1,
        steps=[measured(network, len(hosts))],
    )  # fmt: skip


def test_the_report_has_ranks_hosts_network_steps_and_predictions() -> None:
    lines = report(benchmark(FAST, ("left", "right")))
    assert lines[0] == "2 ranks on 2 hosts (left, right), 2 threads per rank; a processor"
    assert lines[1].endswith("a step is 16 x 64 tokens in 8 micro-batches")
    text = "\n".join(lines)
    assert "0.100 ms per message, 100 MB/s per rank in each direction" in text
    assert next(line.split() for line in lines if line.startswith("one rank"))[2:] == ["8,100.00", "1,011", "1.00", "x"]
    assert [line.split()[1:] for line in lines if line.startswith("ranks ")] == [["2", "4", "8"]]
    assert "more than 8 ranks need a larger batch_size or a smaller micro_batch_size" in lines
    assert "one host" not in text


def test_ranks_of_one_host_are_said_to_use_no_network() -> None:
    assert "all ranks are on one host: they share its memory and cores, and use no network" in report(
        benchmark(FAST, ("left", "left"))
    )


def test_words_say_that_another_machine_is_worthwhile() -> None:
    text = advice_text(measured(FAST, 2), 2)
    assert text.startswith("another machine is worthwhile: 3 ranks are predicted to train 1.")
    assert text.endswith("times as fast as 2")


def test_words_say_how_many_more_machines_are_worthwhile() -> None:
    text = advice_text(measured(FAST, 4), 4)
    assert text.startswith("4 more machines are worthwhile: 8 ranks are predicted to train 1.")
    assert text.endswith("fewer than 8 ranks leave 2 micro-batches to one of them")


def test_words_say_that_no_machine_is_worthwhile_on_a_slow_network() -> None:
    text = advice_text(measured(SLOW, 2), 2)
    assert text.startswith("another machine is not worthwhile on this network: 3 ranks are predicted to train 0.")
    assert text.endswith("; one machine alone is the fastest; sync_every_steps=N exchanges once in N steps instead")


def test_words_say_when_no_micro_batch_is_left() -> None:
    assert advice_text(measured(FAST, 8), 8) == (
        "each rank has one micro-batch per step, so that another machine has nothing to do"
    )


def test_without_mpiexec_one_line_says_how_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "--mpi"]) == 2
    assert capsys.readouterr() == (
        "",
        "gpt-tui: bench --mpi measures the exchange between ranks, got one rank; start it by mpiexec -n 2 gpt-tui "
        "bench --mpi, or over machines: mpiexec --host a,b gpt-tui bench --mpi\n",
    )


TINY = (
    "--set", "d_model=16", "--set", "hidden_size=24", "--set", "vocab_size=300", "--set", "num_heads=2",
    "--set", "seq_len=16", "--set", "layers=2", "--set", "batch_size=8", "--set", "micro_batch_size=2",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_under_mpiexec_the_ranks_measure_their_exchange(tmp_path: Path, ranks: int) -> None:
    from tests.distributed.launched import run_on

    code, output = run_on(ranks, "bench", "--mpi", "--json", "--steps", "2", *TINY[:-2], cwd=tmp_path)
    assert code == 0, output
    found = json.loads(output.splitlines()[-1])
    assert len(found["hosts"]) == ranks
    assert found["micro_batch_size"] == (4 if ranks == 2 else 2)
    assert [step["format"] for step in found["steps"]] == ["float32", "bfloat16"]
    assert all(step["sent_bytes"] > 0 and step["exchange_s"] > 0 for step in found["steps"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_too_many_ranks_are_refused_once_in_one_line(tmp_path: Path) -> None:
    from tests.distributed.launched import run_on

    code, output = run_on(3, "bench", "--mpi", *TINY, "--set", "micro_batch_size=4", cwd=tmp_path)
    assert code != 0
    assert output.count("3 ranks need as many micro-batches per step, got 2") == 1, output


@pytest.mark.slow
def test_bench_without_its_option_is_refused_on_several_ranks(tmp_path: Path) -> None:
    from tests.distributed.launched import run_on

    code, output = run_on(2, "bench", cwd=tmp_path)
    assert code == 2, output
    assert "expected the app, train or bench --mpi" in output
