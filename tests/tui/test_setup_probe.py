"""Measurements behind the set-up screen, without an app: requests, cancellation, failures."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec
import pytest
from textual.message import Message

from gpt_core.bench.estimate import StepTime
from gpt_core.bench.step_timing import STEP_TIMES, StepTimes
from gpt_core.config.presets import preset
from gpt_core.config.settings import Settings
from gpt_core.errors import CorpusError
from gpt_tui.new_run.probe import Prober, Probes, StepTimed, TextsRead
from tests.tui.app_bench import DEADLINE_S
from tests.tui.fake_probes import fake_probes, fake_texts, fake_time

NANO = preset("nano")


Kind = TypeVar("Kind", bound=Message)


class Answers:
    """Messages of a prober; `first` waits for the next one of a type."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._come: queue.Queue[Message] = queue.Queue()

    def post(self, message: Message) -> None:
        self.messages.append(message)
        self._come.put(message)

    def first(self, kind: type[Kind]) -> Kind:
        while not isinstance(message := self._come.get(timeout=DEADLINE_S), kind):
            pass
        return message


def prober(**others: object) -> tuple[Prober, Answers]:
    answers = Answers()
    return Prober(fake_probes(**others), answers.post), answers


def test_messages_carry_the_number_of_the_request():
    probe, answers = prober()
    number = probe.start(NANO)
    assert answers.first(TextsRead).texts == fake_texts(NANO)
    assert answers.first(StepTimed).step_time == fake_time(NANO, lambda: False)
    assert {message.number for message in answers.messages} == {number}  # type: ignore[attr-defined]


def test_a_known_step_time_is_not_measured_again():
    taken: list[Settings] = []

    def timed(settings: Settings, _stopped: Callable[[], bool]) -> StepTime:
        taken.append(settings)
        return StepTime(1.0, 0.0)

    probe, answers = prober(time=timed)
    for changes in ({}, {"attn_lr": 1.0}, {"layers": 2}):
        settings = msgspec.structs.replace(NANO, **changes)
        number = probe.start(settings)
        assert answers.first(StepTimed).number == number
    assert [settings.layers for settings in taken] == [4, 2]


def test_all_estimates_of_a_process_have_the_same_step_time():
    taken: list[Settings] = []

    def timed(settings: Settings, _stopped: Callable[[], bool]) -> StepTime:
        taken.append(settings)
        return StepTime(1.0, 0.0)

    times = StepTimes(timed)
    (first, answers), (second, _) = prober(time=times), prober(time=times)
    first.start(NANO)
    assert answers.first(StepTimed).step_time == second.known_time(NANO) == times(NANO)
    assert len(taken) == 1
    assert Probes().time is STEP_TIMES


def test_a_measurement_that_ends_as_a_new_request_begins_is_also_its_answer():
    began, answer, taken = threading.Event(), threading.Event(), []

    def timed(settings: Settings, _stopped: Callable[[], bool]) -> StepTime:
        taken.append(settings)
        began.set()
        assert answer.wait(DEADLINE_S)
        return StepTime(1.0, 0.0)

    probe, answers = prober(time=timed)
    first = probe.start(NANO)
    assert began.wait(DEADLINE_S)
    second = probe.start(msgspec.structs.replace(NANO, attn_lr=1.0))
    answer.set()
    assert [answers.first(StepTimed).number for _ in range(2)] == [first, second]
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

    probe, answers = prober(time=timed)
    probe.start(NANO)
    assert began.wait(DEADLINE_S)
    number = probe.start(msgspec.structs.replace(NANO, layers=2))
    assert answers.first(StepTimed).number == number
    assert at_once == [True, True]


def test_a_request_cancelled_while_typing_probes_nothing():
    probed: list[Settings] = []
    probe, answers = prober(wait_s=60.0, texts=lambda settings: probed.append(settings))
    probe.start(NANO)
    probe.cancel()
    assert not answers.messages
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
    probe, answers = prober(**others)
    probe.start(NANO)
    message = answers.first(StepTimed)
    assert message.step_time is None
    assert message.problem.startswith(words)


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

    probe, answers = prober(texts=failing)
    probe.start(NANO)
    read = answers.first(TextsRead)
    assert (read.texts, read.problem) == (None, problem)
    assert answers.first(StepTimed).step_time


def test_default_probes_are_those_of_gpt_core():
    assert Probes().texts.__module__ == "gpt_core.bench.estimate"
