"""Removed parts in the Inside tab: the loss without them, when it is measured, and Chat without them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpt_core import interpret
from gpt_core.interpret import Part
from gpt_core.model.gpt import GPT
from gpt_tui.tabs.inside.presenter import TextChoice
from gpt_tui.tabs.inside.worker import InsideWorker, RemovalMeasured, Removed
from tests.tui.app_bench import DEADLINE_S
from tests.tui.inside_samples import TEXT, save_model, small_subject
from tests.tui.test_app_inside import inside, looking


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.slow
async def test_a_removed_part_is_measured_and_chat_answers_without_it_until_it_is_put_back(tmp_path: Path, monkeypatch):
    measured: list[tuple[Part, ...]] = []

    def measure(worker: InsideWorker, removed: Removed) -> None:
        measured.append(removed.parts)
        worker._post(RemovalMeasured(removed, 0.125))

    monkeypatch.setattr(InsideWorker, "measure", measure)
    async with looking(tmp_path, (120, 40), max_tokens=4) as bench:
        await bench.pilot.press("6")
        await bench.until_seen("loss of this text")
        await bench.pilot.press("down", "x")
        await bench.until_seen("Chat without layer 0 head 1: eval loss +0.125 (x: put back)")
        await bench.pilot.press("3")
        await bench.until_seen("Chat without layer 0 head 1")
        await bench.pilot.press("f3")
        await bench.until_seen("─ without layer 0 head 1 (F6, x: put back)")
        await bench.pilot.resize_terminal(80, 24)
        await bench.until_seen("─ without layer 0 head 1 (F6, x: put back) ─")
        await bench.pilot.resize_terminal(120, 40)
        await bench.pilot.press(*"It", "enter")
        await bench.until_seen("step 103, without layer 0 head 1")
        await bench.pilot.press("f6", "r")
        await bench.until(lambda: len(measured) == 2)
        await bench.pilot.press("6")
        await bench.until_seen("loss of this text")
        await bench.pilot.press("x")
        await bench.until(lambda: "without" not in bench.text().replace("change without", ""))
        assert measured == [(Part("head", 0, 1),)] * 2
        await bench.pilot.press("f3")
        await bench.until_seen("─ conversation ─")


@pytest.mark.slow
async def test_the_loss_without_a_part_is_that_of_the_weights_without_it(tmp_path: Path):
    subject, parts = small_subject(), (Part("head", 1, 0), Part("mlp", 2))
    posted: list[RemovalMeasured] = []
    worker = InsideWorker(None, posted.append)  # type: ignore[arg-type]
    worker._source = SimpleNamespace(  # type: ignore[assignment]
        load=lambda *_: SimpleNamespace(gpt=subject.gpt), subject=lambda *_: subject, release=lambda: None
    )
    worker.measure(Removed("automatic", 0, parts))
    wait_until(lambda: any(isinstance(message.outcome, float) for message in posted))  # not progress
    worker.end()
    inputs, targets = subject.eval_inputs_and_targets()
    losses = [
        GPT(weights).evaluate(inputs, targets).loss_sum / targets.size
        for weights in (subject.gpt.parameters, interpret.ablate(subject.gpt.parameters, parts))
    ]
    assert (posted[-1].removed.parts, posted[-1].outcome) == (parts, pytest.approx(losses[1] - losses[0]))


def test_an_unexpected_error_of_a_measurement_is_reported_and_the_worker_continues():
    posted: list[RemovalMeasured] = []

    def load(*_: object) -> None:
        raise MemoryError("no room")

    worker = InsideWorker(None, posted.append)  # type: ignore[arg-type]
    worker._source = SimpleNamespace(load=load, release=lambda: None)  # type: ignore[assignment]
    for number in (1, 2):
        worker.measure(Removed("automatic", number, (Part("mlp", 0),)))
        wait_until(lambda number=number: len(posted) >= number)  # type: ignore[misc]
    worker.end()
    assert [found.removed.version for found in posted] == [1, 2]
    assert posted[0].outcome == "eval loss unknown: MemoryError: no room"


@pytest.mark.slow
async def test_a_measurement_of_an_earlier_model_is_not_shown_for_the_present_one(tmp_path: Path, monkeypatch):
    wanted: list[Removed] = []
    monkeypatch.setattr(InsideWorker, "measure", lambda _, removed: wanted.append(removed))
    async with looking(tmp_path, (120, 40)) as bench:
        await bench.pilot.press("6")
        await bench.until_seen("loss of this text")
        await bench.pilot.press("down", "x", "r")
        await bench.until(lambda: len(wanted) == 2)
        tab = inside(bench)
        tab.post_message(RemovalMeasured(wanted[0], 0.5))
        tab.post_message(RemovalMeasured(wanted[1], 0.125))
        await bench.until_seen("eval loss +0.125")
        tab.post_message(RemovalMeasured(wanted[0], 0.5))
        await bench.pilot.pause()
        assert tab._measured == 0.125


@pytest.mark.slow
async def test_measured_parts_are_kept_and_the_header_reads_the_number_of_the_row(tmp_path: Path, monkeypatch):
    wanted, computed = [], []
    ablations = interpret.ablations

    def counted(gpt: GPT, inputs: object, targets: object, parts: tuple[Part, ...]):
        computed.append(parts)
        return ablations(gpt, inputs, targets, parts)

    monkeypatch.setattr(interpret, "ablations", counted)
    monkeypatch.setattr(InsideWorker, "measure", lambda _, removed: wanted.append(removed))
    monkeypatch.setattr("gpt_tui.tabs.inside.worker.PROBE", TextChoice("typed", TEXT))
    async with looking(tmp_path, (120, 40)) as bench:
        await bench.pilot.press("6")
        await bench.until(lambda: "eval loss" in bench.text() and "of 12 parts" not in bench.text())
        row = next(line for line in bench.text().splitlines() if "layer 0 head 1" in line)
        change = row.split("layer 0 head 1")[1].split()[0]
        await bench.pilot.press("down", "x")
        await bench.until_seen(f"Chat without layer 0 head 1: eval loss {change} (x: put back)")
        await bench.pilot.press("f2", "f6", "r")
        await bench.until_seen("eval loss")
        assert not wanted
        assert len(computed) == 1
        save_model(tmp_path, seed=4)
        await bench.pilot.press("f2", "f6")
        await bench.until(lambda: len(computed) == 2)
        await bench.until_seen("step 104")
        await bench.until(lambda: "of 12 parts" not in bench.text())
        row = next(line for line in bench.text().splitlines() if "▸ layer 0 head 1" in line)
        other = row.split("layer 0 head 1")[1].split()[0]
        assert other != change
        await bench.until_seen(f"Chat without layer 0 head 1: eval loss {other} (x: put back)")


@pytest.mark.slow
async def test_removed_parts_are_measured_again_for_other_weights_in_the_same_file(tmp_path: Path, monkeypatch):
    wanted: list[Removed] = []

    def measure(worker: InsideWorker, removed: Removed) -> None:
        wanted.append(removed)
        worker._post(RemovalMeasured(removed, 0.125 * len(wanted)))

    monkeypatch.setattr(InsideWorker, "measure", measure)
    async with looking(tmp_path, (120, 40)) as bench:
        await bench.pilot.press("3")
        await bench.until_seen("row: from, column: to")
        await bench.pilot.press("x")
        await bench.until_seen("eval loss +0.125")
        save_model(tmp_path, seed=4)
        await bench.pilot.press("f2", "f6")
        await bench.until(lambda: wanted[-1].checksum != wanted[0].checksum)
        await bench.until_seen(f"eval loss {0.125 * len(wanted):+.3f}")


@pytest.mark.slow
async def test_a_measurement_that_failed_is_repeated_when_the_tab_is_shown_again(tmp_path: Path, monkeypatch):
    outcomes: list[float | str] = ["ckpt_latest.safetensors: No such file or directory", 0.125]
    monkeypatch.setattr(
        InsideWorker, "measure", lambda worker, removed: worker._post(RemovalMeasured(removed, outcomes.pop(0)))
    )
    async with looking(tmp_path, (120, 40)) as bench:
        await bench.pilot.press("3")
        await bench.until_seen("row: from, column: to")
        await bench.pilot.press("x")
        await bench.until_seen("No such file")
        await bench.pilot.press("f2", "f6")
        await bench.until_seen("eval loss +0.125")
        assert "No such file" not in bench.text()
        await bench.pilot.press("f2", "f6")
        await bench.until_seen("eval loss +0.125")
        assert not outcomes


def test_a_measurement_is_cancelled_with_the_other_work_and_repeated_after_a_request(monkeypatch):
    subject, posted = small_subject(), []
    loading, go_on, released = threading.Event(), threading.Event(), threading.Event()
    computed: list[object] = []

    def load(_model: str, _version: int, _first: object, progress: Callable[[str, float], None]) -> SimpleNamespace:
        loading.set()
        assert go_on.wait(DEADLINE_S)
        progress("loading", 0.0)
        return SimpleNamespace(gpt=subject.gpt)

    worker = InsideWorker(None, posted.append)  # type: ignore[arg-type]
    worker._source = SimpleNamespace(  # type: ignore[assignment]
        load=load, subject=lambda *_: subject, release=released.set
    )
    monkeypatch.setattr(worker, "_compute", computed.append)
    monkeypatch.setattr("gpt_tui.tabs.inside.worker.PROGRESS_INTERVAL_S", 0.0)
    removed = Removed("automatic", 0, (Part("mlp", 0),))
    worker.measure(removed)
    assert loading.wait(DEADLINE_S)
    worker.cancel()
    go_on.set()
    assert released.wait(DEADLINE_S)
    assert not posted

    loading.clear()
    go_on.clear()
    worker.measure(removed)
    assert loading.wait(DEADLINE_S)
    worker.request("a request")  # type: ignore[arg-type]
    go_on.set()
    wait_until(lambda: bool(posted) and isinstance(posted[-1].outcome, float))
    worker.end()
    assert computed == ["a request"]
    assert [found.outcome for found in posted[:-1]] == [
        "loading", "measuring the eval loss", "measuring the eval loss 50%",
    ]  # fmt: skip
