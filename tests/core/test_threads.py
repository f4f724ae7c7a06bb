"""The default number of threads is the least of affinity, CPU quota and OMP_NUM_THREADS; more than cores is reduced."""

import os

import pytest

from gpt_core.kernels import _runtime, compute_threads, threads_warning
from gpt_core.kernels._runtime import default_threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runtime, "CORES", frozenset(range(8)))
    monkeypatch.setattr(_runtime, "available_cores", _runtime.available_cores.__wrapped__)  # without its cache
    monkeypatch.setattr(_runtime, "cpu_quota", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(("quota", "threads"), [(None, 8), (2.0, 2), (1.5, 1), (0.5, 1), (64.0, 8)])
def test_the_cpu_quota_limits_the_cores(monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int) -> None:
    monkeypatch.setattr(_runtime, "cpu_quota", lambda: quota)
    assert _runtime.available_cores() == threads
    assert compute_threads(0) == threads
    assert compute_threads(64) == threads


@pytest.mark.parametrize(
    ("words", "threads"),
    [("1", 1), ("3", 3), ("4,2", 4), (" 2 ", 2), ("64", 8), ("", 8), ("0", 8), ("-1", 8), ("x", 8)],
)
def test_omp_num_threads_limits_the_default_only(monkeypatch: pytest.MonkeyPatch, words: str, threads: int) -> None:
    assert default_threads({"OMP_NUM_THREADS": words}) == threads
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", words)
    assert compute_threads(0) == threads
    assert compute_threads(5) == 5


def test_more_threads_than_cores_are_reduced_with_a_line() -> None:
    assert compute_threads(64) == 8
    assert threads_warning(64) == "threads: got 64, using 8: this process may use 8 cores"
    assert threads_warning(8) == threads_warning(0) == ""
