"""The benchmark of several machines: its table and its picture, and its delay, without a network."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest

from gpt_core.distributed.communicator import SINGLE_PROCESS
from tests.distributed.test_bench import FAST, benchmark

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "several_machines.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("several_machines", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_has_a_row_per_step_with_the_error_of_its_prediction(script: ModuleType) -> None:
    found = benchmark(FAST, ("left", "right"))
    step = found.steps[0]
    row = script.Row("1 Gbit/s", "nano", 2, found, step, 1.1 * step.tokens_per_s)
    head, rule, line = script.table([row])
    assert head.count("|") == rule.count("|") == line.count("|")
    assert line.startswith("| nano | 2 | 1 Gbit/s | 0.10 | 100 | float32 |")
    assert line.endswith("| +10% |")


def test_the_picture_has_a_line_per_shape_network_and_format(script: ModuleType) -> None:
    found = benchmark(FAST, ("left", "right"))
    rows = [
        script.prediction_of(script.Row(network.name, shape, 2, found, found.steps[0], 1.0))
        for shape in script.SHAPES
        for network in script.NETWORKS
    ]
    picture = ElementTree.fromstring(script.picture(rows))
    lines = picture.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == len(script.SHAPES) * (len(script.NETWORKS) - 1)
    assert all(len(line.get("points", "").split()) == 7 for line in lines)
    assert script.predicted_table(rows)[2].startswith("| nano | 1 Gbit/s | float32 | 64,")


def test_the_delay_is_added_to_each_collective_operation(script: ModuleType) -> None:
    delayed = script.Delayed(SINGLE_PROCESS, 0.05)
    assert delayed.rank == 0
    began = time.monotonic()
    delayed.gather(np.zeros(1))
    delayed.exchange(np.zeros(1), [1], np.zeros(1), [1])
    delayed.collect(np.zeros(1), np.zeros(1), [1])
    assert time.monotonic() - began >= 0.15
