"""Profiler: every kernel of the model is timed under its part, and the kernels are restored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt_core.bench.profiler import PARTS, TIMED_KERNELS, Profiler, overhead_per_call
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.kernels import gelu
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters, initial_parameters
from gpt_core.optim import Optimizer, create_optimizer
from tests.core.kernel_functions import kernel_functions

SHAPE = ModelShape(d_model=16, hidden_size=40, vocab_size=300, num_heads=2, seq_len=8, layers=2)
NOT_IN_PASSES = {"adamw", "conversion", "decoding", "gemm", "muon", "threads"}  # modules
NOT_TIMED = {"workspace_size"}  # functions called when buffers are made


def step(parameters: Parameters, optimizer: Optimizer) -> Parameters:
    gradients = Parameters(SHAPE)
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8)
    GPT(parameters).loss_and_gradients(tokens, tokens, gradients, 1.0)
    optimizer.update(gradients, 1, 1.0, optimizer.clip_scale(optimizer.gradient_norm(gradients)))
    return parameters


def kernels_now() -> list[Any]:
    return [getattr(module, name) for module, name, _ in TIMED_KERNELS]


def test_every_kernel_is_timed() -> None:
    in_passes = {(module, name) for module, name in kernel_functions(without=NOT_IN_PASSES) if name not in NOT_TIMED}
    assert {(module, name) for module, name, _ in TIMED_KERNELS} == in_passes


def test_every_call_of_a_step_is_timed_under_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:  # a call takes one second: it reads the clock twice
        nonlocal now
        now += 1.0
        return now

    parameters = initial_parameters(SHAPE, 0)
    optimizer = create_optimizer(parameters, Settings())
    profiler = Profiler(parameters)
    profiler.add_optimizer(optimizer)
    monkeypatch.setattr("gpt_core.bench.profiler.time.perf_counter", clock)
    with profiler:
        step(parameters, optimizer)
    profile = profiler.take()
    layers = SHAPE.layers
    assert profile.seconds == {
        "data": 0,
        "embedding": 2,
        "norms": 4 * layers + 2 * layers + 2,  # two forward, made again for the backward pass; ln_f
        "attention_linears": 4 * layers,
        "attention_scores": 2 * layers,
        "mlp_linears": 4 * layers,
        "activation": 3 * layers,
        "dropout": 0,
        "loss": 4,  # logits, loss, and two products of its gradient
        "optimizer": 2,  # gradient norm and update
    }
    assert profile.calls == sum(profile.seconds.values())


def test_profiling_changes_no_bit_and_restores_the_kernels() -> None:
    before = kernels_now()
    plain, timed = initial_parameters(SHAPE, 0), initial_parameters(SHAPE, 0)
    step(plain, create_optimizer(plain, Settings()))
    optimizer = create_optimizer(timed, Settings())
    profiler = Profiler(timed)
    profiler.add_optimizer(optimizer)
    with profiler:
        assert kernels_now() != before
        step(timed, optimizer)
    np.testing.assert_array_equal(plain.flat, timed.flat)
    assert kernels_now() == before


def test_an_error_restores_the_kernels() -> None:
    before = kernels_now()
    with pytest.raises(ValueError, match="gelu"), Profiler(initial_parameters(SHAPE, 0)):
        gelu.forward(np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32))
    assert kernels_now() == before


def test_any_method_can_be_timed() -> None:
    class Reader:
        def read(self, *, count: int) -> int:
            return count

    reader = Reader()
    profiler = Profiler(initial_parameters(SHAPE, 0))
    profiler.add(reader, "read", "data")
    with profiler:
        assert reader.read(count=3) == 3
    assert vars(reader) == {}
    profile = profiler.take()
    assert (profile.seconds["data"] > 0, profile.calls) == (True, 1)
    assert profiler.take() == (dict.fromkeys(PARTS, 0.0), 0)


def test_overhead_per_call_is_two_clock_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:  # each read takes one second
        nonlocal now
        now += 1.0
        return now

    monkeypatch.setattr("gpt_core.bench.profiler.time.perf_counter", clock)
    assert overhead_per_call(initial_parameters(SHAPE, 0)) == 2.0
