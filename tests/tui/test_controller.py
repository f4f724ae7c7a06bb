"""Training controller without an app: one run at a time, requests, errors."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gpt_core.errors import CorpusError, ResumeTextError, RunExistsError
from gpt_core.training import events as ev
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_tui.session.controller import TrainingController
from gpt_tui.session.phase import Phase
from tests.core.training_samples import tiny_settings, train
from tests.tui.app_bench import DEADLINE_S
from tests.tui.fake_trainer import FakeOpen, fake_settings
from tests.tui.samples import scored, started, step


class Bench:
    """Controller of fake trainers, drained by the test."""

    def __init__(self, folder: Path, opener: FakeOpen) -> None:
        self.opener = opener
        self.posted: list[object] = []
        self.controller = TrainingController(opener, self.posted.append, folder / "gpt-tui.log")
        self.request = RunRequest(fake_settings(str(folder)), "nano")

    def until(self, reached: Callable[[], bool]) -> None:
        """Drain until a condition holds."""
        end = time.monotonic() + DEADLINE_S
        while not reached():
            assert time.monotonic() < end, f"still {self.controller.phase} at step {self.controller.run.step}"
            self.controller.drain()
            time.sleep(0.002)

    def until_step(self, step: int) -> None:
        """Drain until a step is reached."""
        self.until(lambda: self.controller.run.step >= step)

    def until_ended(self) -> None:
        """Drain until the run has ended."""
        self.until(lambda: not self.controller.alive)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, FakeOpen())
    yield bench
    bench.opener.unpause.set()
    bench.controller.stop()
    assert bench.controller.join(DEADLINE_S)


def test_phases_go_from_idle_to_training_to_stopped(bench: Bench):
    assert bench.controller.phase is Phase.IDLE
    assert bench.controller.start(bench.request)
    assert bench.controller.phase is Phase.OPENING
    bench.until_step(20)
    assert bench.controller.phase is Phase.TRAINING
    bench.controller.stop()
    assert bench.controller.phase is Phase.STOPPING
    bench.until_ended()
    assert bench.controller.phase is Phase.STOPPED
    assert bench.opener.trainers[0].saved == [bench.controller.run.step]


def test_a_second_run_cannot_start_while_one_is_alive(bench: Bench):
    assert bench.controller.start(bench.request)
    assert not bench.controller.start(bench.request)
    bench.until_step(5)
    assert not bench.controller.start(bench.request)
    bench.controller.stop()
    bench.until_ended()
    assert len(bench.opener.requests) == 1
    assert bench.controller.start(bench.request)
    bench.until_step(5)
    assert len(bench.opener.trainers) == 2


def test_pause_step_and_continue_reach_the_trainer(bench: Bench):
    bench.controller.start(bench.request)
    bench.until_step(10)
    bench.controller.pause()
    bench.until(lambda: bench.controller.phase is Phase.PAUSED)
    at = bench.controller.run.step
    bench.controller.single_step()
    bench.until_step(at + 1)
    time.sleep(0.05)
    bench.controller.drain()
    assert bench.controller.run.step == at + 1
    bench.controller.unpause()
    bench.until_step(at + 20)
    assert bench.controller.phase is Phase.TRAINING


def test_a_single_step_of_a_running_run_pauses_it(bench: Bench):
    bench.controller.start(bench.request)
    bench.until_step(10)
    bench.controller.single_step()
    bench.until(lambda: bench.controller.phase is Phase.PAUSED)


def test_save_saves_and_training_continues(bench: Bench):
    bench.controller.start(bench.request)
    bench.until_step(10)
    bench.controller.save()
    bench.until(lambda: bench.controller.run.saved is not None)
    saved = bench.opener.trainers[0].saved[0]
    bench.until_step(saved + 5)


def test_stopping_without_a_save_saves_nothing(bench: Bench):
    bench.controller.start(bench.request)
    bench.until_step(10)
    bench.controller.stop(save=False)
    bench.until_ended()
    assert bench.opener.trainers[0].saved == []


def test_wait_for_save_waits_only_for_the_save(bench: Bench):
    bench.controller.start(bench.request)
    bench.until_step(5)
    bench.controller.wait_for_save()
    trainer = bench.opener.trainers[0]
    trainer.saving = True
    waiting = threading.Thread(target=bench.controller.wait_for_save)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    trainer.saving = False
    waiting.join(DEADLINE_S)
    assert not waiting.is_alive()
    assert bench.controller.alive


def test_a_run_can_be_stopped_while_opening(bench: Bench):
    bench.opener.gate = threading.Event()
    bench.controller.start(bench.request)
    bench.until(lambda: bench.controller.opening == ("making tokens of the text", 0.5))
    bench.controller.stop()
    bench.until_ended()
    assert bench.controller.phase is Phase.IDLE
    assert bench.opener.trainers == []


def test_a_run_that_opens_while_it_is_stopped_stops(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    controller, trainers, look_up = bench.controller, bench.opener.trainers, TrainingController._requests.fget
    gate = bench.opener.gate = threading.Event()
    controller.start(bench.request)
    bench.until(lambda: controller.opening == ("making tokens of the text", 0.5))

    def opens_after_the_look_up(self: TrainingController) -> object:
        found = look_up(self)
        gate.set()
        bench.until(lambda: self._ended or bool(trainers and trainers[0].step > 2))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(TrainingController, "_requests", property(opens_after_the_look_up))
        controller.stop()
    assert controller._ended


def test_requests_without_a_run_do_nothing(bench: Bench):
    for request in (
        bench.controller.pause,
        bench.controller.unpause,
        bench.controller.single_step,
        bench.controller.save,
        bench.controller.stop,
    ):
        request()
    assert bench.controller.phase is Phase.IDLE


def test_an_error_for_the_user_is_shown_as_one_line(bench: Bench, tmp_path: Path):
    bench.opener.error = CorpusError("no training text: put one there")
    bench.controller.start(bench.request)
    bench.until_ended()
    assert bench.controller.phase is Phase.FAILED
    assert bench.controller.failure == ("no training text: put one there", False, "")
    assert not (tmp_path / "gpt-tui.log").exists()


def test_the_failure_of_a_start_has_no_options_of_the_command_line_and_can_be_dismissed(bench: Bench):
    bench.opener.error = CorpusError("no training text; create it", ", or name a text with --train-file")
    bench.controller.start(bench.request)
    assert not bench.controller.dismiss_failure()
    bench.until_ended()
    assert bench.controller.failure == ("no training text; create it", False, "")
    assert bench.controller.dismiss_failure()
    assert bench.controller.phase is Phase.IDLE
    assert not bench.controller.dismiss_failure()


def test_the_failure_of_a_run_that_has_started_is_part_of_its_end(bench: Bench):
    bench.opener.fail_at = {7: ZeroDivisionError("so it goes")}
    bench.controller.start(bench.request)
    bench.until_ended()
    assert not bench.controller.dismiss_failure()
    assert bench.controller.phase is Phase.FAILED


def test_a_resume_without_its_text_says_which_setting_has_to_name_it(bench: Bench):
    bench.opener.error = ResumeTextError("cannot read the text", ": name it with --eval-file", "eval_file")
    bench.controller.start(replace(bench.request, resume="newest"))
    bench.until_ended()
    assert bench.controller.failure == ("cannot read the text", False, "eval_file")


def test_an_unexpected_error_is_one_line_with_a_logged_traceback(bench: Bench, tmp_path: Path):
    bench.opener.fail_at = {7: ZeroDivisionError("so it goes")}
    bench.controller.start(bench.request)
    bench.until_ended()
    assert bench.controller.failure is not None
    assert bench.controller.failure.message == f"ZeroDivisionError: so it goes (details in {tmp_path / 'gpt-tui.log'})"
    assert "_one_step" in (tmp_path / "gpt-tui.log").read_text()
    assert bench.controller.run.step == 6
    assert bench.controller.run.log[-1].tone == "bad"


def test_an_existing_run_is_distinct_from_other_failures(bench: Bench):
    bench.opener.error = RunExistsError("models holds another run's checkpoints")
    bench.controller.start(bench.request)
    bench.until_ended()
    assert bench.controller.failure is not None
    assert bench.controller.failure.run_exists
    assert bench.controller.phase is Phase.IDLE


def test_a_refused_run_keeps_the_previous_one_on_screen(bench: Bench):
    bench.controller.start(bench.request)
    bench.until_step(5)
    bench.controller.stop()
    bench.until_ended()
    step = bench.controller.run.step
    bench.opener.error = RunExistsError("models holds another run's checkpoints")
    bench.controller.start(bench.request)
    bench.until_ended()
    assert (bench.controller.run.step, bench.controller.phase) == (step, Phase.STOPPED)


def test_every_step_is_applied_exactly_once(bench: Bench):
    bench.opener.step_s = 0.0
    bench.controller.start(bench.request)
    bench.until_step(6000)
    bench.controller.stop()
    bench.until_ended()
    assert bench.controller.run.curve.count == bench.opener.trainers[0].step


def test_a_resumed_run_has_its_earlier_curve(bench: Bench, tmp_path: Path):
    events = [started(), *(step(n) for n in range(1, 101)), scored(100, 0.2), *(step(n) for n in range(101, 121))]
    lines = [ev.to_json(event) for event in events]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*lines[:50], b"torn {", *lines[50:], b""]))
    bench.opener.hold_at = 110
    bench.controller.start(replace(bench.request, resume="newest"))  # the fake run resumes at step 100
    bench.until_step(110)
    assert bench.controller.run.curve.rows()[:, 0].tolist() == list(range(1, 111))
    assert [point.step for point in bench.controller.run.evaluations] == [100]
    assert len(bench.controller.run.log) == 1


def test_a_resume_logs_and_reports_the_limit_that_it_raises(tmp_path: Path):
    settings = tiny_settings(tmp_path, max_steps=6)
    train(settings)
    controller = TrainingController(open_run, lambda _: None, tmp_path / "gpt-tui.log")
    assert controller.start(RunRequest(settings, resume="newest", changes={"max_epochs": 1}))
    assert controller.join(DEADLINE_S)
    controller.drain()
    assert controller.warning.startswith("the run had reached max_steps=6: it is lifted")
    assert controller.run.log[0].text == controller.warning
    assert controller.run.step > 6


def test_steps_do_not_wake_the_app(bench: Bench):
    bench.opener.hold_at = 100  # before the first evaluation
    bench.controller.start(bench.request)
    bench.until_step(100)
    assert len(bench.posted) <= 2
    assert all(isinstance(message, TrainingController.Updated) for message in bench.posted)


def test_at_most_one_update_is_pending(bench: Bench):
    bench.opener.step_s = 0.0
    bench.controller.start(bench.request)
    bench.until_step(1)
    before = len(bench.posted)
    while bench.opener.trainers[0].step < 3000:  # a dozen evaluations and saves
        time.sleep(0.002)
    assert len(bench.posted) <= before + 1
    bench.controller.drain()
    bench.controller.stop()
    bench.until_ended()
    assert len(bench.posted) > before


def test_a_run_ends_and_saves_after_the_app_has_closed(bench: Bench):
    def closed(_message: object) -> None:
        raise RuntimeError("event loop is closed")

    bench.controller._post = closed
    bench.controller.start(bench.request)
    bench.until_step(10)
    bench.controller.stop()
    bench.until_ended()
    assert bench.controller.failure is None
    assert len(bench.opener.trainers[0].saved) == 1


def test_the_live_model_exists_only_during_its_run(bench: Bench):
    assert bench.controller.live_model() is None
    bench.controller.start(bench.request)
    bench.until_step(5)
    assert bench.controller.live_model() is bench.opener.trainers[0]
    bench.controller.stop()
    bench.until_ended()
    assert bench.controller.live_model() is None
