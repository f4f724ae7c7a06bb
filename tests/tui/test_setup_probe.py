"""Measurements behind the set-up screen, without an app: requests, cancellation, failures."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import msgspec
import pytest
from textual.message import Message

from gpt_core.bench.estimate import CorpusStats, StepTime
from gpt_core.bench.step_timing import STEP_TIMES, StepTimes
from gpt_core.config.presets import preset
from gpt_core.config.settings import Settings
from gpt_core.errors import CorpusError
from gpt_tui.new_run.estimate import TIMING, RunEstimate
from gpt_tui.new_run.probe import Prober, Probes
from tests.tui.app_bench import DEADLINE_S
from tests.tui.fake_probes import FREE_BYTES, fake_probes, fake_texts, fake_time

NANO = preset("nano")


class Observed:
    """A prober; `until` waits for a message after which a condition holds."""

    def __init__(self, **others: object) -> None:
        self._changed: queue.Queue[Message] = queue.Queue()
        self.prober = Prober(fake_probes(**others), self._changed.put)

    def until(self, reached: Callable[[RunEstimate], object]) -> RunEstimate:
        while not reached(estimate := self.prober.estimate):
            self._changed.get(timeout=DEADLINE_S)
        return estimate

    def until_timed(self) -> RunEstimate:
        return self.until(lambda estimate: estimate.time)


def with_layers(layers: int) -> Settings:
    return msgspec.structs.replace(NANO, layers=layers)


def test_the_estimate_is_empty_then_that_of_the_request_as_far_as_it_is_known():
    read = threading.Event()

    def texts(settings: Settings) -> CorpusStats:
        assert read.wait(DEADLINE_S)
        return fake_texts(settings)

    observed = Observed(texts=texts, existing_run=lambda folder: f"a run in {folder}")
    assert observed.prober.estimate == RunEstimate()
    observed.prober.start(NANO)
    estimate = observed.until(lambda estimate: estimate.existing_run)
    assert (estimate.settings, estimate.free_bytes) == (NANO, FREE_BYTES)
    assert estimate.existing_run == f"a run in {NANO.models_dir}"
    assert (estimate.texts, estimate.time) == (None, None)
    read.set()
    estimate = observed.until_timed()
    assert (estimate.texts, estimate.time) == (fake_texts(NANO), fake_time(NANO, lambda: False))
    observed.prober.clear()
    assert observed.prober.estimate == RunEstimate()


def test_a_result_of_an_earlier_request_is_not_in_the_estimate():
    begun, read = threading.Event(), threading.Event()

    def texts(settings: Settings) -> CorpusStats:
        if settings.vocab_size == NANO.vocab_size:
            begun.set()
            assert read.wait(DEADLINE_S)
            raise CorpusError("an earlier text")
        return fake_texts(settings)

    observed = Observed(texts=texts)
    observed.prober.start(NANO)
    assert begun.wait(DEADLINE_S)
    earlier = next(thread for thread in threading.enumerate() if thread.name.endswith("(_probe)"))
    observed.prober.start(msgspec.structs.replace(NANO, vocab_size=4096))
    estimate = observed.until_timed()
    read.set()
    earlier.join(DEADLINE_S)
    assert observed.prober.estimate == estimate
    assert estimate.texts == fake_texts(NANO)


def test_the_same_request_again_estimates_anew_only_after_it_was_stopped():
    probed: list[Settings] = []

    def texts(settings: Settings) -> CorpusStats:
        probed.append(settings)
        return fake_texts(settings)

    observed = Observed(texts=texts)
    observed.prober.start(NANO)
    complete = observed.until_timed()
    observed.prober.start(NANO)
    assert observed.prober.estimate is complete
    observed.prober.cancel()
    observed.prober.start(NANO)
    observed.until(lambda _: len(probed) == 2)


def test_a_known_step_time_is_not_measured_again():
    taken: list[Settings] = []

    def timed(settings: Settings, _stopped: Callable[[], bool]) -> StepTime:
        taken.append(settings)
        return StepTime(1.0, 0.0)

    observed = Observed(time=timed)
    for changes in ({}, {"attn_lr": 1.0}, {"layers": 2}):
        observed.prober.start(msgspec.structs.replace(NANO, **changes))
        observed.until_timed()
    assert [settings.layers for settings in taken] == [4, 2]


def test_all_estimates_of_a_process_have_the_same_step_time():
    taken: list[Settings] = []

    def timed(settings: Settings, _stopped: Callable[[], bool]) -> StepTime:
        taken.append(settings)
        return StepTime(1.0, 0.0)

    times = StepTimes(timed)
    first, second = Observed(time=times), Observed(time=times, wait_s=DEADLINE_S)
    first.prober.start(NANO)
    first.until_timed()
    second.prober.start(NANO)
    assert first.prober.estimate.time == second.prober.estimate.time == times(NANO)
    second.prober.cancel()
    assert len(taken) == 1
    assert Probes().time is STEP_TIMES


def test_a_measurement_that_ends_as_a_new_request_begins_is_also_its_answer():
    began, answer, taken = threading.Event(), threading.Event(), []

    def timed(settings: Settings, _stopped: Callable[[], bool]) -> StepTime:
        taken.append(settings)
        began.set()
        assert answer.wait(DEADLINE_S)
        return StepTime(1.0, 0.0)

    observed = Observed(time=timed)
    observed.prober.start(NANO)
    assert began.wait(DEADLINE_S)
    observed.prober.start(settings := msgspec.structs.replace(NANO, attn_lr=1.0))
    answer.set()
    assert observed.until_timed().settings == settings
    assert taken == [NANO]


def test_a_new_request_stops_the_measurement_before_its_own():
    began, at_once = threading.Event(), []
    lock = threading.Lock()

    def timed(settings: Settings, stopped: Callable[[], bool]) -> StepTime | None:
        at_once.append(lock.acquire(blocking=False))
        began.set()
        try:
            while settings.layers == 4:
                if stopped():
                    return None
        finally:
            lock.release()
        return StepTime(1.0, 0.0)

    observed = Observed(time=timed)
    observed.prober.start(NANO)
    assert began.wait(DEADLINE_S)
    observed.prober.start(with_layers(2))
    assert observed.until_timed().settings == with_layers(2)
    assert at_once == [True, True]


def test_a_request_cancelled_while_typing_probes_nothing():
    probed: list[Settings] = []
    observed = Observed(wait_s=60.0, texts=lambda settings: probed.append(settings))
    observed.prober.start(NANO)
    observed.prober.cancel()
    assert not probed


@pytest.mark.usefixtures("fixed_activation_memory")
@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"free_memory": lambda: 1_000_000}, "not timed: needs 139 MB, 1.0 MB free"),
        ({"time": lambda settings, stopped: bytearray(1 << 62)}, "not timed: not enough memory"),
        ({"time": lambda settings, stopped: 1 // 0}, "not timed: ZeroDivisionError"),
    ],
)
def test_a_failed_measurement_has_a_reason(others: dict[str, object], words: str):
    observed = Observed(**others)
    observed.prober.start(NANO)
    estimate = observed.until(lambda estimate: estimate.time_problem != TIMING)
    assert estimate.time is None
    assert estimate.time_problem.startswith(words)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (CorpusError("cannot read the text \x1b[31m"), r"cannot read the text \x1b[31m"),
        (MemoryError("1 GB"), "MemoryError: 1 GB"),
    ],
)
def test_an_unreadable_text_is_reported_and_the_step_still_measured(error: Exception, problem: str):
    def failing(_settings: Settings) -> None:
        raise error

    observed = Observed(texts=failing)
    observed.prober.start(NANO)
    estimate = observed.until_timed()
    assert (estimate.texts, estimate.texts_problem, estimate.unusable) == (None, problem, "train_file")
    assert estimate.problems == {"train_file": f"train_file: {problem}"}


def test_default_probes_are_those_of_gpt_core():
    assert Probes().texts.__module__ == "gpt_core.bench.estimate"
