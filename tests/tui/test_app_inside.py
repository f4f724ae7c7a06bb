"""Inside tab in the app: models and texts to look at, errors, what it computes and when."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from textual.widgets import Select

from gpt_core.progress import ignore_progress
from gpt_core.text.token_stream import MemorySource, TokenStream
from gpt_core.training.events import CheckpointSaved
from gpt_tui.run_view.model_select import ModelSelect
from gpt_tui.session.model_options import AUTOMATIC
from gpt_tui.session.models import ModelLoader
from gpt_tui.session.phase import Phase
from gpt_tui.shared.canvas import Canvas
from gpt_tui.shell.help import HelpScreen
from gpt_tui.tabs.chat.transcript import Transcript
from gpt_tui.tabs.inside.choices import TextSelect
from gpt_tui.tabs.inside.pane import InsideTab
from gpt_tui.tabs.inside.presenter import INITIAL
from gpt_tui.tabs.inside.registry import VIEWS
from gpt_tui.tabs.inside.subjects import SubjectSource
from gpt_tui.tabs.inside.views.tokens import TokensView
from gpt_tui.tabs.inside.views.view import Cursor
from gpt_tui.tabs.inside.worker import (
    Computed,
    Extent,
    InsideWorker,
    Outcome,
    Progressed,
    Request,
)
from tests.tui.app_bench import AppBench, running_app
from tests.tui.conftest import Snapshot
from tests.tui.fake_trainer import FakeOpen, FakeTrainer
from tests.tui.inside_samples import (
    SHAPE,
    TEXT,
    fixed_attention,
    fixed_history,
    fixed_knock_out,
    fixed_lens,
    fixed_neighbors,
    fixed_tokens,
    history_events,
    save_model,
)
from tests.tui.log_samples import write_log


def inside(bench: AppBench) -> InsideTab:
    return bench.app.main.inside


def model_select(bench: AppBench, name: str) -> ModelSelect:
    return bench.app.main.query_one(f"#inside-{name}", ModelSelect)


async def type_text(bench: AppBench, text: str) -> None:
    """Open the tab and type a text to look at."""
    if bench.app.main.tab != "inside":
        await bench.pilot.press("f6")
    await bench.pilot.press("e")
    field = bench.app.main.query_one("#inside-typed")
    await bench.until(lambda: field.has_focus)
    field.value = text  # type: ignore[attr-defined]
    await bench.pilot.press("enter")


@asynccontextmanager
async def looking(folder: Path, size: tuple[int, int] = (80, 24), **options: Any) -> AsyncIterator[AppBench]:
    """Run the app with the Inside tab on the tokens of a text and a saved model."""
    save_model(folder)
    async with running_app(folder, size=size, **options) as bench:
        await type_text(bench, TEXT)
        await bench.until_seen("bits per token")
        yield bench


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Record the requests that the worker computes."""
    requests: list[Request] = []
    real = InsideWorker._compute

    def compute(worker: InsideWorker, request: Request) -> None:
        requests.append(request)
        real(worker, request)

    monkeypatch.setattr(InsideWorker, "_compute", compute)
    return requests


@pytest.mark.essential
async def test_f6_shows_the_tokens_of_a_typed_text_and_what_the_model_expected(tmp_path: Path):
    async with looking(tmp_path) as bench:
        await bench.until_seen("ckpt_latest, step 103 · typed")
        assert inside(bench)._canvas(0).has_focus
        await bench.pilot.press("home", "right", "right")
        await bench.until_seen("position 2 of")
        assert bench.text().count("█") >= 1
        assert "rank" in bench.text()


@pytest.mark.slow
async def test_a_checkpoint_that_another_program_replaces_is_shown_while_the_tab_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gpt_tui.run_view.model_list.INTERVAL_S", 0.05)
    async with looking(tmp_path) as bench:
        save_model(tmp_path, seed=4)
        await bench.until_seen("ckpt_latest, step 104 · typed")


@pytest.mark.slow
async def test_the_views_share_one_cursor(tmp_path: Path):
    async with looking(tmp_path) as bench:
        await bench.pilot.press("home", *["right"] * 5, "2")
        await bench.until_seen("at position 5")
        await bench.pilot.press("down", "down", "down", "3")
        await bench.until_seen("L1 H0, ")
        assert "position 5 " in bench.text()
        await bench.pilot.press("full_stop", "right", "n")
        for _ in range(len(VIEWS) - 3):  # views after Attention
            await bench.pilot.press("n")
        await bench.until_seen("position 6 of")
        await bench.pilot.press("3")
        await bench.until_seen("L1 H1, ")


@pytest.mark.slow
async def test_the_footer_has_only_the_actions_that_the_view_has(tmp_path: Path):
    async with looking(tmp_path, (160, 40)) as bench:
        shown = {}
        for number, view in enumerate(VIEWS, 1):
            await bench.pilot.press(str(number))
            await bench.pilot.pause()
            footer = bench.text().splitlines()[-1]
            shown[view.name] = ("x Remove" in footer, "⏎ Choose" in footer or "enter Choose" in footer)
        assert shown == {
            "tokens": (False, True), "lens": (False, False), "attention": (True, False), "heads": (True, True),
            "health": (False, False), "ablation": (True, False), "neighbors": (False, False),
        }  # fmt: skip


@pytest.mark.slow
async def test_enter_on_an_alternative_generates_from_there_in_chat_with_the_same_model(tmp_path: Path):
    save_model(tmp_path)
    best = save_model(tmp_path, "best", seed=4)
    async with running_app(tmp_path, max_tokens=3) as bench:
        await type_text(bench, TEXT)
        await bench.until_seen("best_model, step 104")
        model_select(bench, "model").select(str(best))
        await bench.until_seen("bits per token")
        await bench.pilot.press("home", *["right"] * 4, "enter", "down", "down")  # the first two have no text
        outcome = inside(bench)._outcomes[0]
        assert isinstance(outcome, Outcome)
        expected = outcome.result.text_with(4, 2)
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.app.main.tab == "chat" and bool(bench.app.main.query_one(Transcript).turns))
        [turn] = bench.app.main.query_one(Transcript).turns
        assert [answer.prompt for answer in turn.answers] == [expected]
        assert bench.app.main.chat._form.models == [str(best)]
        await bench.until(lambda: not bench.app.main.chat.replying)
        await bench.pilot.press("f6", "escape", "s")
        bench.app.main.query_one(TextSelect).value = "reply"
        await bench.until_seen("· last reply, ")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "is_beside"), [((80, 24), False), ((200, 60), True)])
async def test_two_models_are_shown_beside_each_other_or_one_above_the_other(tmp_path: Path, size, is_beside: bool):
    save_model(tmp_path)
    async with running_app(tmp_path, size=size) as bench:
        await type_text(bench, TEXT)
        await bench.until_seen("bits per token")
        model_select(bench, "compare").select(INITIAL)
        await bench.until_seen("before the first step · typed")
        first, second = (bench.app.main.query_one(f"#inside-view-{side}", Canvas) for side in range(2))
        assert (first.region.y == second.region.y) is is_beside
        assert (first.region.x == second.region.x) is not is_beside
        results = [outcome.result for outcome in inside(bench)._outcomes if isinstance(outcome, Outcome)]
        assert len(results) == 2
        assert results[0].ids == results[1].ids
        for key in "23":
            await bench.pilot.press(key)
            await bench.until(lambda: all(isinstance(found, Outcome) for found in inside(bench)._outcomes))


@pytest.mark.slow
async def test_the_model_before_the_first_step_is_that_of_the_model_that_is_shown(tmp_path: Path):
    latest = save_model(tmp_path / "a")
    other = save_model(tmp_path / "b", shape=msgspec.structs.replace(SHAPE, layers=2))
    async with running_app(tmp_path) as bench:
        await type_text(bench, TEXT)
        model_select(bench, "model").select(str(latest))
        model_select(bench, "compare").select(INITIAL)
        for path, layers in ((latest, 3), (other, 2)):
            model_select(bench, "model").select(str(path))
            await bench.until(
                lambda layers=layers: [
                    found.extent.layers for found in inside(bench)._outcomes if isinstance(found, Outcome)
                ] == [layers] * 2
            )  # fmt: skip


@pytest.mark.slow
async def test_a_click_on_an_alternative_of_the_second_model_generates_that_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = save_model(tmp_path)
    save_model(tmp_path, "best", seed=4)
    requested: list[tuple[str, str]] = []
    async with running_app(tmp_path, size=(200, 60)) as bench:
        await type_text(bench, TEXT)
        model_select(bench, "compare").select(str(other))
        await bench.until(lambda: all(isinstance(found, Outcome) for found in inside(bench)._outcomes))
        results = [found.result for found in inside(bench)._outcomes if isinstance(found, Outcome)]
        token, choice = next(
            (token, choice) for token in range(1, 9) for choice in range(8)
            if all(result.text_with(token, choice) for result in results)
            and results[0].text_with(token, choice) != results[1].text_with(token, choice)
        )  # fmt: skip

        async def generate(prompt: str) -> None:
            requested.append((bench.app.main.chat.query_one("#model-select", ModelSelect).selected, prompt))

        monkeypatch.setattr(bench.app.main.chat, "generate_from", generate)
        for _ in range(2):
            chosen = Cursor(token=token, choice=choice)
            inside(bench)._chosen(Canvas.Chosen(inside(bench)._canvas(1), chosen))
        await bench.until(lambda: bool(requested))
        assert requested == [(str(other), results[1].text_with(token, choice))]


@pytest.mark.slow
async def test_a_typed_text_is_read_once_it_is_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with looking(tmp_path) as bench:
        requests = counted(monkeypatch)
        await bench.pilot.press("e", "a", "b")
        inside(bench)._ask()  # as each event of a run does
        await bench.settled()
        assert not requests
        await bench.pilot.press("enter")
        await bench.until(lambda: [request.text.text for request in requests] == ["ab"])


@pytest.mark.slow
async def test_the_log_of_a_run_is_shown_without_a_text_and_its_title_names_none(tmp_path: Path):
    saved = CheckpointSaved("latest", str(save_model(tmp_path)), 103)
    write_log(tmp_path, [*history_events(), saved])
    async with running_app(tmp_path) as bench:
        await type_text(bench, TEXT)
        await bench.until_seen("ckpt_latest, step 103 · typed")
        for key, kind in (("4", "reply"), ("5", "typed")):
            bench.app.main.query_one(TextSelect).value = kind
            await bench.pilot.press("escape", key)
            await bench.until_seen({"4": "layer 0, head 0:", "5": "wte.weight"}[key])
            await bench.until_seen("ckpt_latest, step 103 ─")


@pytest.mark.slow
async def test_weights_that_are_measured_without_a_text_name_a_random_one(tmp_path: Path):
    save_model(tmp_path)
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("f6", "5")
        await bench.until_seen("ckpt_latest, step 103 · random text, 48 tokens")


# ---- errors are one line in the tab


@pytest.mark.slow
async def test_a_checkpoint_that_vanishes_or_is_damaged_is_one_line_and_another_one_still_works(tmp_path: Path):
    latest, best = save_model(tmp_path), save_model(tmp_path, "best", seed=4)
    data = bytearray(best.read_bytes())
    data[-40] ^= 1
    best.write_bytes(data)
    async with running_app(tmp_path) as bench:
        await type_text(bench, TEXT)
        await bench.until_seen("ckpt_latest, step 103 (best_model: unusable) · typed")
        model_select(bench, "model").select(str(best))
        await bench.until_seen("✗")
        assert "best_model.safetensors" in str(inside(bench)._outcomes[0])
        model_select(bench, "model").select(str(latest))
        await bench.until_seen("ckpt_latest, step 103 · typed")
        latest.unlink()
        await bench.pilot.press("r")
        await bench.until_seen("✗")
        assert "ckpt_latest.safetensors" in str(inside(bench)._outcomes[0])
        save_model(tmp_path)
        await bench.pilot.press("r")
        await bench.until_seen("ckpt_latest, step 103 · typed")
        assert "✗" not in bench.text()


@pytest.mark.slow
async def test_without_a_model_a_reply_a_sample_or_a_text_one_line_says_what_to_do(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("f6")
        await bench.until_seen("✗ no model yet in")
        for kind, words in (("reply", "no reply yet"), ("sample", "no sample yet"), ("typed", "no text yet")):
            bench.app.main.query_one(TextSelect).value = kind
            await bench.until_seen(f"✗ {words}")


@pytest.mark.slow
async def test_a_problem_is_not_shown_while_what_follows_it_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    go_on = threading.Event()

    def held(_view: object, task: Any) -> Iterator[Any]:
        go_on.wait(60)
        yield fixed_tokens()

    save_model(tmp_path)
    monkeypatch.setattr(TokensView, "compute", held)
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("f6", "e")
        await bench.until_seen("✗ no text yet")
        await type_text(bench, TEXT)
        await bench.until_seen("computing…")
        assert "no text yet" not in bench.text()
        go_on.set()
        await bench.until_seen("bits per token")


@pytest.mark.slow
async def test_knock_out_names_in_its_title_how_much_of_a_long_text_its_loss_is_of(tmp_path: Path):
    save_model(tmp_path)
    async with running_app(tmp_path) as bench:
        await type_text(bench, TEXT * 10)
        await bench.until_seen(f"typed, first {SHAPE.seq_len} of ")
        inside(bench).action_view("ablation")
        await bench.until_seen("loss of this text")
        outcome = inside(bench)._outcomes[0]
        assert isinstance(outcome, Outcome)
        assert SHAPE.seq_len < outcome.result.tokens < outcome.total
        assert f"first {outcome.result.tokens} of {outcome.total} tokens" in bench.text()


@pytest.mark.slow
async def test_a_text_longer_than_the_context_is_read_up_to_it_and_says_so(tmp_path: Path):
    save_model(tmp_path)
    async with running_app(tmp_path) as bench:
        await type_text(bench, TEXT * 10)
        await bench.until_seen(f"typed, first {SHAPE.seq_len} of ")
        await bench.pilot.press("end")
        await bench.until_seen("what follows the text")


@pytest.mark.slow
async def test_a_model_with_another_tokenizer_reads_the_same_text_in_its_own_tokens(tmp_path: Path):
    save_model(tmp_path)
    other = tmp_path / "other"
    path = save_model(other, shape=msgspec.structs.replace(SHAPE, vocab_size=270, layers=1))
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await type_text(bench, TEXT)
        await bench.until_seen("bits per token")
        model_select(bench, "compare").select(str(path))
        await bench.until(lambda: all(isinstance(found, Outcome) for found in inside(bench)._outcomes))
        first, second = inside(bench)._outcomes
        assert isinstance(first, Outcome)
        assert isinstance(second, Outcome)
        assert first.result.ids != second.result.ids
        joined = [b"".join(outcome.result.data) for outcome in (first, second)]
        assert joined[0].startswith(joined[1]) or joined[1].startswith(joined[0])
        await bench.pilot.press("3", "end", *["down"] * 4)
        await bench.until(lambda: all(isinstance(found, Outcome) for found in inside(bench)._outcomes))


@pytest.mark.slow
async def test_an_unexpected_error_in_a_view_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(_view: object, _task: object) -> Iterator[Any]:
        raise ZeroDivisionError("by zero")

    save_model(tmp_path)
    monkeypatch.setattr(TokensView, "compute", fail)
    async with running_app(tmp_path) as bench:
        await type_text(bench, TEXT)
        await bench.until_seen("✗ tokens failed: ZeroDivisionError: by zero")


# ---- the run


class ProbeTrainer(FakeTrainer):
    """Fake trainer with an eval text."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        ids = np.array([1, 104, 105, 2], np.int32)
        self.probe_text = TokenStream(MemorySource(ids), 0, 4, 2, np.ones(260, np.uint8), "0" * 64, "eval", 1)


@pytest.mark.slow
async def test_the_model_in_training_is_computed_again_at_each_evaluation_only_while_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tests.tui.fake_trainer.FakeTrainer", ProbeTrainer)
    requests = counted(monkeypatch)
    async with running_app(tmp_path, opener=FakeOpen(step_s=0.0005), autostart=True) as bench:
        await bench.until_step(10)
        assert not requests
        await bench.pilot.press("f6")
        await bench.until_seen("in training, step")
        evaluations = len(bench.app.controller.run.evaluations)
        before = len(requests)
        await bench.until(lambda: len(bench.app.controller.run.evaluations) >= evaluations + 2)
        await bench.until(lambda: len(requests) >= before + 2)
        versions = [request.version for request in requests]
        assert versions == sorted(set(versions))
        await bench.pilot.press("f2")
        await bench.pilot.pause()
        hidden = len(requests)
        evaluations = len(bench.app.controller.run.evaluations)
        await bench.until(lambda: len(bench.app.controller.run.evaluations) >= evaluations + 2)
        assert len(requests) == hidden
        assert not inside(bench)._worker._source._held


@pytest.mark.slow
async def test_a_run_that_ends_meanwhile_leaves_a_model_or_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.tui.fake_trainer.FakeTrainer", ProbeTrainer)
    async with running_app(tmp_path, opener=FakeOpen(step_s=0.0005), autostart=True) as bench:
        await bench.until_step(10)
        await bench.pilot.press("f6")
        await bench.until_seen("in training, step")
        bench.app.controller.stop()
        await bench.until_phase(Phase.STOPPED)
        await bench.until_seen("✗ no model yet in")


def test_one_call_decides_whether_a_model_is_that_in_training(tmp_path: Path):
    asked: list[None] = []
    save_model(tmp_path)
    controller = SimpleNamespace(live_model=lambda: asked.append(None))
    loader = ModelLoader(controller, str(tmp_path))  # type: ignore[arg-type]
    held = SubjectSource(loader).load(AUTOMATIC, 0, None, ignore_progress)
    assert (held.name, held.live) == ("ckpt_latest, step 103", None)
    assert len(asked) == 1


@pytest.mark.slow
async def test_only_the_newest_request_is_computed_and_hiding_the_tab_ends_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    started, go_on = threading.Event(), threading.Event()
    finished: list[int] = []

    def slow(_view: object, task: Any) -> Iterator[Any]:
        started.set()
        go_on.wait(60)
        task.subject.progress("working", 0.5)
        finished.append(task.cursor.token)
        yield fixed_tokens()

    save_model(tmp_path)
    monkeypatch.setattr(TokensView, "compute", slow)
    async with running_app(tmp_path) as bench:
        await type_text(bench, TEXT)
        await bench.until(started.is_set)
        await bench.pilot.press("r", "r", "r")
        go_on.set()
        await bench.until(lambda: len(finished) == 1)
        go_on.clear()
        started.clear()
        await bench.pilot.press("r")
        await bench.until(started.is_set)
        await bench.pilot.press("f2")
        go_on.set()
        await bench.until(lambda: not inside(bench)._worker._source._held)
        assert len(finished) == 1


# ---- help and looks


@pytest.mark.slow
async def test_f1_explains_the_visible_view_first(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("f6", "2", "f1")
        await bench.until(lambda: isinstance(bench.app.screen, HelpScreen))
        await bench.until_seen("Lens: what the model would predict")


@pytest.mark.slow
async def test_the_mouse_chooses_views_tokens_and_heads(tmp_path: Path):
    async with looking(tmp_path) as bench:
        await bench.pilot.click("#inside-view-0", offset=(12, 2))
        token = 3  # of <bos>It was
        await bench.until(lambda: inside(bench)._cursor.token == token)
        await bench.pilot.click("#inside-bar", offset=(24, 0))
        await bench.until_seen("row: from, column: to")
        assert inside(bench)._cursor.token == token
        await bench.pilot.click("#inside-view-0", offset=(14, 6))
        await bench.until(lambda: (inside(bench)._cursor.layer, inside(bench)._cursor.head) == (1, 1))
        assert inside(bench)._cursor.token == token


@pytest.mark.slow
async def test_the_selectors_open_with_their_keys_and_escape_leads_back(tmp_path: Path):
    save_model(tmp_path)
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("f6")
        for key, name in (("m", "model"), ("b", "compare"), ("s", "text")):
            await bench.pilot.press(key)
            select = bench.app.main.query_one(f"#inside-{name}", Select)
            await bench.until(lambda select=select: select.expanded)  # type: ignore[misc]
            await bench.pilot.press("escape", "escape")
            await bench.until(lambda select=select: not select.expanded)  # type: ignore[misc]
            await bench.until(lambda: inside(bench)._canvas(0).has_focus)


FIXED: dict[str, Any] = {
    "tokens": fixed_tokens(), "lens": fixed_lens(columns=8), "attention": fixed_attention(), "heads": fixed_history(),
    "health": fixed_history(), "ablation": fixed_knock_out(), "neighbors": fixed_neighbors(),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (200, 60)], ids=["80x24", "200x60"])
@pytest.mark.parametrize("theme", ["gpt-night", "gpt-day"])
@pytest.mark.parametrize("name", FIXED)
async def test_a_view_looks_as_in_the_snapshot(
    tmp_path: Path, name: str, theme: str, size: tuple[int, int], snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
):
    def answer(worker: InsideWorker, request: Request) -> None:
        outcome = Outcome("in training, step 1,200", Extent(60, 4, 4), 60, FIXED[request.view.name], 0, "probe")
        worker._post(Computed(request.number, 0, outcome))
        worker._post(Progressed(request.number, ""))

    monkeypatch.setattr(InsideWorker, "request", answer)
    async with running_app(tmp_path, size=size) as bench:
        bench.app.theme = theme
        await bench.pilot.press("f6", str([view.name for view in VIEWS].index(name) + 1))
        await bench.pilot.press(*["right"] * 4, "down", "down")
        await bench.settled()
        day = "-day" if theme == "gpt-day" else ""
        snapshot(bench.app, f"inside-{name}{day}-{size[0]}x{size[1]}")


@pytest.mark.slow
async def test_a_run_in_the_runs_tab_is_looked_into_with_its_heads_over_time(tmp_path: Path):
    path = save_model(tmp_path)
    saved = CheckpointSaved("latest", str(path), 103)
    write_log(tmp_path, [*history_events(), saved])
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await bench.pilot.press("f5")
        await bench.until_seen("1,000 of 2,000")
        await bench.pilot.press("i")
        await bench.until_seen("first induction head: layer 1, head 2, at step 700")
        assert inside(bench)._choices.models == (str(path),)
        assert bench.app.main.tab == "inside"
        await bench.pilot.press("5")
        await bench.until_seen("h.0.mlp dead units")


@pytest.mark.slow
async def test_the_cursor_of_the_charts_moves_the_heads_and_other_tabs_leave_it(tmp_path: Path):
    saved = CheckpointSaved("latest", str(save_model(tmp_path)), 103)
    write_log(tmp_path, [*history_events(), saved])
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await bench.pilot.press("f5")
        await bench.until_seen("1,000 of 2,000")
        await bench.pilot.press(*["comma"] * 20)
        pointed = bench.app.main.runs.pointed_step
        assert pointed is not None
        assert 100 < pointed < 900
        await bench.pilot.press("f6", "4")
        await bench.until_seen(f"step {round(pointed, -2)}, layer 0, head 0:")
        await bench.pilot.press("end")
        await bench.until_seen("step 1,000, layer 0, head 0:")
        await bench.pilot.press("f3", "f6")
        await bench.until(lambda: bench.app.main.tab == "inside")
        assert inside(bench)._cursor.step == 1000
