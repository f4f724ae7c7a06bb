"""`gpt-tui bench`: results are consistent, and the table shows the time of each part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpt_core.bench import hardware
from gpt_core.bench.benchmark import (
    StepMeasurement,
    TrainingMeasurement,
    measure_training,
    required_steps,
    training_result,
)
from gpt_core.bench.profiler import PARTS, Profile
from gpt_core.bench.result import Benchmark
from gpt_core.config.presets import preset
from gpt_core.config.settings import ModelShape
from gpt_core.errors import GptError
from gpt_core.kernels import LEVEL, threads
from gpt_core.model.flops import prefill_flops, step_flops
from gpt_core.model.parameters import parameter_count
from gpt_tui.cli import bench
from gpt_tui.cli import main as cli
from tests.core.training_samples import open_run, tiny_settings
from tests.program import tiny, write_texts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with texts; the limits of the machine are measured on tiny arrays."""
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hardware, "SGEMM_SIZE", 64)
    monkeypatch.setattr(hardware, "READ_BYTES", 1 << 20)
    return tmp_path


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run `gpt-tui bench --json` for three steps and return its result."""
    assert cli.main(["bench", "--json", "--steps", "3", "--threads", "2", *tiny(), *arguments]) == 0
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_the_results_are_consistent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, "--set", "batch_size=4")
    shape = ModelShape(**found["shape"])
    machine, training, prompt, decoding = (found[key] for key in ("machine", "training", "prompt", "decoding"))
    assert (machine["level"], machine["threads"]) == (LEVEL, threads.get_threads())
    assert (found["parameters"], found["batch_size"], found["micro_batch_size"]) == (parameter_count(shape), 4, 2)
    counted = step_flops(shape, 4, 16)
    assert training["steps"] == 3
    assert 0 < training["fastest_s"] <= training["step_s"] <= training["slowest_s"]
    assert training["gflop"] == pytest.approx(counted.total / 1e9)
    assert training["gflop_per_s"] == pytest.approx(training["gflop"] / training["step_s"])
    assert training["sgemm_share"] == pytest.approx(training["gflop_per_s"] / machine["sgemm_gflop_per_s"])
    assert 32 < training["tokens_per_s"] * training["step_s"] < 64.1  # 4 windows of 16 tokens, or less at an end
    parts = {part["part"]: part for part in training["parts"]}
    assert list(parts) == [*PARTS, "rest"]
    assert all((part["seconds"] > 0) == (name != "dropout") for name, part in parts.items())
    assert sum(part["seconds"] for part in parts.values()) == pytest.approx(training["step_s"])
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    assert sum(part["gflop"] for part in parts.values()) == pytest.approx(training["gflop"])
    assert 0 < training["timing_share"] < 1
    assert prompt["gflop_per_s"] == pytest.approx(prompt["tokens_per_s"] * prefill_flops(shape, 8).total / 8 / 1e9)
    assert decoding["gb_per_s"] == pytest.approx(decoding["tokens_per_s"] * decoding["bytes_per_token"] / 1e9)
    assert decoding["read_share"] == pytest.approx(decoding["gb_per_s"] / machine["read_gb_per_s"])
    assert found["memory"]["peak"] > found["memory"]["weights"] + found["memory"]["activations"]


def test_a_benchmark_removes_its_folder_and_writes_no_other(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = folder / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    measured(capsys)
    assert list(temporary.iterdir()) == []
    assert not (folder / "models").exists()


@pytest.mark.parametrize("settings", [["seq_len=2"], ["max_epochs=1", "max_steps=1", "eval_every_steps=1"]])
def test_short_contexts_and_run_limits_do_not_end_a_benchmark(
    settings: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured(capsys, *(word for one in settings for word in ("--set", one)))["training"]["steps"] == 3


def test_measurement_continues_across_epochs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, "--steps", "9", "--set", "batch_size=16", "--set", "seq_len=64")
    assert found["training"]["steps"] == 9


def test_overfit_tiny_can_be_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measured(capsys, "--overfit-tiny")["training"]["steps"] == 3


def test_tokens_are_counted_without_padding_and_epochs_are_not_evaluated(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "short.txt").write_text("It was a cat.\n" * 20)
    found = measured(capsys, "--train-file", "short.txt", "--set", "batch_size=64", "--set", "ema=0.9")
    training = found["training"]  # an average of the weights cannot be evaluated while parts are timed
    assert training["tokens_per_s"] * training["step_s"] < 300  # 64 windows of 16 tokens are 1,024


@pytest.mark.slow
def test_a_run_that_ends_early_raises_an_error(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path))
    trainer.requests.stop()
    with pytest.raises(GptError, match="the run ended after 0 steps"):
        measure_training(trainer, 3, lambda _words, _share: None)


@pytest.mark.parametrize(
    ("seconds", "requested", "expected"),
    [([], 0, 5), ([9.0], 0, 3), ([1.0, 1.0], 0, 5), ([0.1], 0, 30), ([1e-4], 0, 100), ([9.0], 7, 7), ([], 2, 2)],
)
def test_five_steps_or_three_slow_ones_are_the_minimum(seconds: list[float], requested: int, expected: int) -> None:
    assert required_steps(seconds, requested) == expected


def test_parts_are_those_of_the_median_step() -> None:
    steps = [StepMeasurement(s, Profile(dict.fromkeys(PARTS, s / 20), 100), 7) for s in (5.0, 1.0, 3.0)]
    found = training_result(preset("nano"), 128, TrainingMeasurement(steps, 1e12, None), 1e-6)
    assert (found.fastest_s, found.step_s, found.slowest_s) == (1.0, 3.0, 5.0)
    assert [round(part.seconds, 9) for part in found.parts] == [0.15] * len(PARTS) + [1.5]
    assert found.timing_share == pytest.approx(1e-4 / 3)
    assert found.tokens_per_s == 7 / 3


def test_a_rate_is_the_median_of_five_repeats_after_a_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, done = 0.0, 0
    lengths = [100.0, 4.0, 2.0, 1.0, 50.0, 2.0]

    def action() -> None:
        nonlocal now, done
        now += lengths[done]
        done += 1

    monkeypatch.setattr(hardware.time, "perf_counter", lambda: now)
    meter = hardware.RateMeter(action, 10.0)
    meter.repeat_until(5.0)
    assert done == 3
    assert meter.rate == 5.0
    assert done == 6


def sample() -> Benchmark:
    """Result with round numbers: a step of 42 ms."""
    parts = {
        "data": 0.1, "embedding": 0.2, "norms": 1.5, "attention_linears": 8.0, "attention_scores": 5.0,
        "mlp_linears": 15.0, "activation": 1.5, "dropout": 0.0, "loss": 9.0, "optimizer": 1.0, "rest": 0.7,
    }  # fmt: skip
    gflop = {"attention_linears": 1.6, "attention_scores": 0.2, "mlp_linears": 3.2, "loss": 1.6}
    return msgspec.convert(
        {
            "machine": {"processor": "A processor", "cores": 4, "threads": 2, "level": "x86_64_v4",
                        "sgemm_gflop_per_s": 200.0, "read_gb_per_s": 30.0},
            "preset": "nano", "parameters": 1_071_104, "batch_size": 8, "micro_batch_size": 4, "time": 128,
            "shape": {"d_model": 128, "hidden_size": 512, "vocab_size": 2048, "num_heads": 4, "seq_len": 128,
                      "layers": 4},
            "training": {"steps": 70, "step_s": 0.042, "fastest_s": 0.04, "slowest_s": 0.05, "tokens_per_s": 24381.0,
                         "gflop": 6.6, "gflop_per_s": 157.1, "sgemm_share": 0.786, "precision": "float32",
                         "product_gflop_per_s": 200.0, "product_share": 0.786, "timing_share": 0.002,
                         "parts": [{"part": part, "seconds": ms / 1e3, "share": ms / 42, "gflop": gflop.get(part, 0.0)}
                                   for part, ms in parts.items()]},
            "memory": {"peak": 99_000_000, "weights": 17_000_000, "activations": 36_000_000},
            "prompt": {"tokens": 64, "tokens_per_s": 50000.0, "gflop_per_s": 80.0, "sgemm_share": 0.4},
            "decoding": {"tokens_per_s": 2000.0, "bytes_per_token": 4_600_000, "gb_per_s": 9.2, "read_share": 0.307},
        },
        Benchmark,
    )  # fmt: skip


def test_the_table_shows_phases_parts_and_total() -> None:
    lines = bench.report(sample())
    assert max(map(len, lines)) <= 120
    assert lines[0] == "A processor: 2 threads on 4 cores, kernels for x86_64_v4"
    rows = [" ".join(line.split()) for line in lines]
    assert "attention 13.00 31.0% 138.5 69.2%" in rows
    assert "scores and values 5.00 11.9% 40.0 20.0%" in rows
    assert "norms 1.50 3.6%" in rows
    assert "one step 42.00 100.0% 157.1 78.6%" in rows
    assert any("24,381 tokens/s (median of 70 steps, 40.0 to 50.0 ms" in row for row in rows)
    once = sample()
    once = msgspec.structs.replace(once, training=msgspec.structs.replace(once.training, steps=1))
    assert any("24,381 tokens/s (1 step of 42.0 ms; profiling" in row for row in bench.report(once))
    assert any(
        row.startswith("decoding 2,000 tokens/s") and row.endswith("30.7% of the memory bandwidth)") for row in rows
    )


def test_bfloat16_steps_are_compared_with_the_rate_of_bfloat16_products() -> None:
    found = sample()
    training = msgspec.structs.replace(
        found.training, precision="bfloat16", product_gflop_per_s=400.0, product_share=0.393
    )
    lines = bench.report(msgspec.structs.replace(found, training=training))
    assert "200 GFLOP/s (SGEMM), 400 GFLOP/s (bfloat16 products), 30.0 GB/s" in lines[1]
    assert any(line.endswith("of bfloat16") for line in lines)
    assert any(" ".join(line.split()) == "one step 42.00 100.0% 157.1 39.3%" for line in lines)


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_the_format_of_the_products_is_measured_with_its_limit(
    products: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = measured(capsys, "--set", f"precision={products}")["training"]
    assert training["precision"] == products
    assert training["product_share"] == pytest.approx(training["gflop_per_s"] / training["product_gflop_per_s"])


def test_the_table_has_every_part_once() -> None:
    shown = [part for _, members in bench.PHASES for _, part in members]
    assert shown == [*PARTS, "rest"]


def test_the_table_shows_dropout_where_there_is_some() -> None:
    found = sample()
    parts = [
        msgspec.structs.replace(part, seconds=0.001) if part.part == "dropout" else part
        for part in found.training.parts
    ]
    dropped = msgspec.structs.replace(found, training=msgspec.structs.replace(found.training, parts=parts))
    shown = [any(row.startswith("dropout ") for row in bench.report(each)) for each in (found, dropped)]
    assert shown == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "got --steps 0, expected at least 1"),
        (["--steps", "x"], "--steps: got 'x', expected a whole number"),
        (["--models-dir", "x"], "--models-dir, --max-steps and --minutes have no effect here"),
        (["--preset", "nanu"], "nano"),
        (["--train-file", "nowhere"], "nowhere"),
    ],
)
def test_invalid_arguments_are_one_line_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
