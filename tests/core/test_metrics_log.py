import os
import tracemalloc
from contextlib import closing
from math import inf, isnan, nan

import pytest

from gpt_core.errors import ConfigError
from gpt_core.training import metrics_log
from gpt_core.training.events import (
    CheckpointSaved,
    EvalCompleted,
    EvalProgressed,
    FullEvalCompleted,
    GradientNorms,
    RoundAwaited,
    RunFinished,
    SampleWritten,
    StepCompleted,
    UpdateSkipped,
    from_json_lines,
    to_json,
)
from gpt_core.training.metrics_log import MetricsLog, read_metrics


def step(number, loss=1 / 3):
    return StepCompleted(number, 0, loss, 1.4, 1e-3, 0.5, number * 8, 100.0, number * 0.1)


@pytest.mark.parametrize(
    "event", [EvalCompleted(2, nan, nan, 0.0, nan, is_best=False), FullEvalCompleted(2, inf, inf, 0.0, inf, 9)]
)
def test_evaluations_that_are_not_finite_are_read_back(path, event):
    with closing(MetricsLog(path)) as log:
        log.append(step(1))
        log.append(event)
    for found in (list(read_metrics(path)), from_json_lines(path.read_bytes())):
        assert found[0] == step(1)
        assert isinstance(found[1], type(event))
        assert isnan(found[1].loss)
        assert isnan(found[1].bits_per_byte)
        assert (found[1].step, found[1].accuracy) == (2, 0.0)


def test_norms_that_are_not_finite_are_read_back(path):
    with closing(MetricsLog(path)) as log:
        log.append(GradientNorms(2, {"a": inf, "b": 0.5}, {"a": nan, "b": 0.25}))
    [found] = read_metrics(path)
    assert (found.grad_norms["b"], found.update_norms["b"]) == (0.5, 0.25)
    assert isnan(found.grad_norms["a"])
    assert isnan(found.update_norms["a"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_logged_events_are_read_back_to_the_bit_and_others_are_not_logged(path):
    logged = [
        step(1, 0.1 + 0.2),
        UpdateSkipped(2, 1, "loss"),
        CheckpointSaved("latest", "é", 2),
        RunFinished("stopped", 2),
    ]
    log = MetricsLog(path)
    for event in [*logged[:2], EvalProgressed(2, 1, 10), RoundAwaited(2, "stop", 8), *logged[2:]]:
        assert log.append(event)
    assert list(read_metrics(path)) == logged
    assert path.read_bytes() == b"".join(to_json(event) + b"\n" for event in logged)
    log.close()


def test_a_line_is_visible_to_readers_as_soon_as_it_is_appended(path):
    log = MetricsLog(path)
    log.append(step(1))
    assert list(read_metrics(path)) == [step(1)]


def test_a_new_run_starts_a_new_log(path):
    path.write_bytes(to_json(step(99)) + b"\n")
    MetricsLog(path).append(step(1))
    assert list(read_metrics(path)) == [step(1)]


def test_a_resumed_run_drops_the_steps_that_it_will_take_again(path):
    first = MetricsLog(path)
    for number in range(1, 11):
        first.append(step(number))
        if number == 7:
            first.append(CheckpointSaved("latest", "x", 7))
    first.close()
    second = MetricsLog(path, resume_step=7)
    second.append(step(8))
    second.append(step(9))
    second.close()
    assert [event.step for event in read_metrics(path)] == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9]
    assert os.listdir(path.parent) == [path.name]


def test_a_resumed_run_drops_the_evaluation_that_it_will_repeat(path):
    def evaluation(number):
        return EvalCompleted(number, 4.0, 54.6, 0.2, 2.0)

    first = MetricsLog(path)
    for event in (step(1), evaluation(1), step(2), CheckpointSaved("latest", "x", 2), evaluation(2)):
        first.append(event)
    first.append(SampleWritten(2, "It was", " a bat"))
    first.close()
    MetricsLog(path, resume_step=2).close()
    assert len(list(read_metrics(path))) == 6
    second = MetricsLog(path, resume_step=2, evaluates=True)
    second.append(evaluation(2))
    second.close()
    assert [type(event).__name__ for event in read_metrics(path)] == [
        "StepCompleted", "EvalCompleted", "StepCompleted", "CheckpointSaved", "EvalCompleted",
    ]  # fmt: skip


def test_a_resumed_run_without_a_log_starts_one(path):
    MetricsLog(path, resume_step=7).append(step(8))
    assert [event.step for event in read_metrics(path)] == [8]


@pytest.mark.parametrize("torn", [b"", b"{", to_json(step(3))[:-1], to_json(step(3)), b"\xff\xfe", b"[" * 200_000])
def test_an_incomplete_last_line_is_skipped_and_removed_by_a_resume(path, torn):
    whole = b"".join(to_json(step(number)) + b"\n" for number in (1, 2))
    path.write_bytes(whole + torn)
    assert [event.step for event in read_metrics(path)][:2] == [1, 2]
    MetricsLog(path, resume_step=9).append(step(4))
    assert path.read_bytes() == whole + to_json(step(4)) + b"\n"


def test_a_log_that_needs_no_cut_is_not_rewritten(path):
    path.write_bytes(to_json(step(1)) + b"\n")
    before = path.stat().st_ino
    MetricsLog(path, resume_step=1)
    assert path.stat().st_ino == before
    MetricsLog(path, resume_step=0)
    assert path.stat().st_ino != before
    assert path.read_bytes() == b""


def test_a_full_disk_loses_lines_and_does_not_end_the_run(path, monkeypatch):
    log = MetricsLog(path)
    log.append(step(1))
    real = os.write

    def half(descriptor, data):
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: len(data) - 19])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        assert not log.append(step(2))
        assert not log.append(step(3))
    assert "No space left on device" in log.failure
    assert log.append(step(4))
    assert [event.step for event in read_metrics(path)] == [1, 4]


def test_a_line_longer_than_the_bound_is_skipped(path, monkeypatch):
    monkeypatch.setattr(metrics_log, "MAX_LINE_BYTES", 1000)
    long = GradientNorms(2, {f"h.{n}": 1.0 for n in range(1000)}, {})
    log = MetricsLog(path)
    for event in (step(1), long, step(3)):
        log.append(event)
    assert [event.step for event in read_metrics(path)] == [1, 3]


def test_reading_and_truncating_take_bounded_memory(path, monkeypatch):
    monkeypatch.setattr(metrics_log, "MAX_LINE_BYTES", 1 << 18)
    line = to_json(step(1)) + b"\n"
    path.write_bytes(line * (3_000_000 // len(line)) + b"x" * 3_000_000)
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_metrics(path))
        MetricsLog(path, resume_step=5).close()
        assert tracemalloc.get_traced_memory()[1] < 1_500_000
    finally:
        tracemalloc.stop()
    assert count == 3_000_000 // len(line)
    assert path.stat().st_size == count * len(line)


def test_a_reader_that_stops_early_leaves_no_open_file(path):
    path.write_bytes((to_json(step(1)) + b"\n") * 10)
    before = len(os.listdir("/proc/self/fd"))
    events = read_metrics(path)
    assert next(events) == step(1)
    events.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_missing_log_has_no_events_and_one_that_is_not_a_file_is_refused(path):
    assert list(read_metrics(path)) == []
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="a FIFO"):
        list(read_metrics(path))
    with pytest.raises(ConfigError, match="a FIFO"):
        MetricsLog(path, resume_step=1)
    with pytest.raises(ConfigError, match="cannot be written"):
        MetricsLog(path.parent / "missing" / "metrics.jsonl")


def test_the_log_does_not_follow_a_symbolic_link(path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    path.symlink_to(victim)
    with pytest.raises(ConfigError):
        MetricsLog(path, resume_step=1)
    MetricsLog(path).append(step(1))
    assert victim.read_bytes() == b""
