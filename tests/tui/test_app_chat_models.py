"""Chat tab: model selection, two models side by side, seeds, prompt history and keys."""

import threading
from pathlib import Path

import pytest
from textual import events
from textual.widgets import Input, Select

from gpt_tui.run_view.model_select import ModelSelect
from gpt_tui.session import models
from gpt_tui.session.model_options import AUTOMATIC, NO_COMPARISON
from gpt_tui.session.models import LoadedModel
from gpt_tui.session.phase import Phase
from gpt_tui.tabs.chat.prompt_area import PromptArea
from gpt_tui.tabs.chat.sampling_form import SamplingForm
from gpt_tui.tabs.chat.transcript import Answer, Transcript
from gpt_tui.tabs.checkpoints.pane import CheckpointsTab
from tests.tui.app_bench import DEADLINE_S, AppBench, running_app
from tests.tui.fake_trainer import FakeGenerator, fake_generator
from tests.tui.test_app_chat import ask, chat
from tests.tui.test_chat_model import saved_model

pytestmark = pytest.mark.slow

BEST, LATEST = "best_model.safetensors", "ckpt_latest.safetensors"


def two_models(folder: Path) -> None:
    saved_model(folder, "best", 50, seed=1)
    saved_model(folder, "latest", 60, seed=2)


def named_generator(model: LoadedModel, seed: int | None) -> FakeGenerator:
    """Return a generator that repeats the model's name and the seed."""
    return FakeGenerator(0.002, text=f"{model.name.partition(',')[0]}:{seed}")


async def choose(bench: AppBench, path: Path, *, compare: bool) -> None:
    """Choose a checkpoint as the Checkpoints tab does."""
    bench.app.main.post_message(CheckpointsTab.ChatRequested(path, compare=compare))
    await bench.until(lambda: bench.app.main.tab == "chat" and str(path) in chosen(bench)[compare : compare + 1])


def chosen(bench: AppBench) -> list[str]:
    return bench.app.main.query_one(SamplingForm).models


def answers(bench: AppBench) -> list[Answer]:
    last = bench.app.main.query_one(Transcript).last
    assert last is not None
    return last.answers


async def replied(bench: AppBench) -> None:
    await bench.until(lambda: not chat(bench).replying)


@pytest.mark.parametrize(("size", "side_by_side"), [((80, 24), False), ((120, 40), True), ((200, 60), True)])
async def test_two_models_reply_to_the_same_prompt_with_the_same_seed(tmp_path: Path, size, side_by_side):
    two_models(tmp_path)
    async with running_app(tmp_path, size=size, make=named_generator, max_tokens=20) as bench:
        await choose(bench, tmp_path / LATEST, compare=True)
        assert chosen(bench) == [AUTOMATIC, str(tmp_path / LATEST)]
        await ask(bench, "Once")
        await replied(bench)
        left, right = answers(bench)
        [seed] = {answer.reply.split()[0].partition(":")[2] for answer in (left, right)}
        assert left.reply.split() == [f"best_model:{seed}"] * 20
        assert right.reply.split() == [f"ckpt_latest:{seed}"] * 20
        assert (left.model, right.model) == ("best_model, step 50", "ckpt_latest, step 60")
        assert (left.region.y == right.region.y) is side_by_side
        assert (left.region.x == right.region.x) is not side_by_side
        assert f"seed {seed}" in bench.text()


@pytest.mark.essential
async def test_two_replies_stream_and_escape_stops_both(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), make=fake_generator(0.02)) as bench:
        await choose(bench, tmp_path / LATEST, compare=True)
        await ask(bench, "Once")
        await bench.until(lambda: all(answer.reply for answer in answers(bench)))
        assert chat(bench).replying
        await bench.pilot.press("escape")
        await replied(bench)
        assert bench.text().count("stopped") == 2
        assert bench.app.main.tab == "chat"


async def test_each_model_continues_its_own_reply_and_copy_alternates(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), make=named_generator, max_tokens=3) as bench:
        await choose(bench, tmp_path / LATEST, compare=True)
        await ask(bench, "Once")
        await replied(bench)
        first = answers(bench)
        await ask(bench, "")
        await replied(bench)
        assert [answer.prompt for answer in answers(bench)] == ["Once" + answer.reply for answer in first]
        await bench.pilot.press("ctrl+r")
        await replied(bench)
        assert [answer.prompt for answer in answers(bench)] == ["Once" + answer.reply for answer in first]
        copied = []
        for _ in range(3):
            await bench.pilot.press("ctrl+y")
            copied.append(bench.app.clipboard)
        left, right = (answer.reply for answer in answers(bench))
        assert copied == [left, right, left]
        bench.app.main.query_one("#compare-select", ModelSelect).select(NO_COMPARISON)
        await ask(bench, "")
        await replied(bench)
        assert [answer.prompt for answer in answers(bench)] == ["Once" + first[0].reply + left]


async def test_a_kept_seed_reproduces_the_reply(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), make=named_generator, max_tokens=3) as bench:
        await bench.pilot.press("c")
        await ask(bench, "Once")
        await replied(bench)
        first = answers(bench)[0].reply
        await bench.pilot.press("ctrl+s", "ctrl+r")
        await replied(bench)
        assert answers(bench)[0].reply == first
        assert bench.app.main.query_one("#field-seed", Input).value == first.split(":")[-1]


async def test_a_missing_or_damaged_file_fails_in_one_line_and_the_other_model_replies(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), max_tokens=3) as bench:
        await choose(bench, tmp_path / LATEST, compare=True)
        (tmp_path / LATEST).unlink()
        await ask(bench, "Once")
        await replied(bench)
        left, right = answers(bench)
        assert left.reply
        assert not right.reply
        assert "✗" in bench.text()
        (tmp_path / LATEST).write_bytes(b"\x00" * 100)
        await bench.pilot.press("ctrl+r")
        await replied(bench)
        assert not answers(bench)[1].reply
        assert bench.text().count("✗") == 2
        await bench.pilot.press("ctrl+y", "ctrl+y", "ctrl+l")
        await bench.until_seen("Type the beginning of a text")


async def test_clearing_during_a_reply_removes_all_of_it(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), make=fake_generator(0.02)) as bench:
        await choose(bench, tmp_path / LATEST, compare=True)
        await ask(bench, "Once")
        await bench.until(lambda: all(answer.reply for answer in answers(bench)))
        await bench.pilot.press("ctrl+l")
        assert not chat(bench).replying
        await bench.pilot.pause(0.3)
        assert bench.app.main.query_one(Transcript).turns == []
        assert "the sea" not in bench.text()


async def test_the_options_follow_saves_and_the_end_of_a_run_and_the_selection_stays(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), autostart=True) as bench:
        await bench.until_step(5)
        await choose(bench, tmp_path / LATEST, compare=True)
        await bench.until_seen("automatic · in training")
        saved_model(tmp_path, "latest", 70, seed=3)
        bench.app.controller.save()
        await bench.until_seen("ckpt_latest · step 70")
        bench.app.controller.stop()
        await bench.until_phase(Phase.STOPPED)
        await bench.until_seen("automatic · best_model")
        assert chosen(bench) == [AUTOMATIC, str(tmp_path / LATEST)]


async def test_a_checkpoint_of_another_program_is_listed_while_the_tab_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    two_models(tmp_path)
    monkeypatch.setattr("gpt_tui.run_view.model_list.INTERVAL_S", 0.05)
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await choose(bench, tmp_path / LATEST, compare=False)
        await bench.until_seen("ckpt_latest · step 60")
        saved_model(tmp_path, "latest", 70, seed=3)
        await bench.until_seen("ckpt_latest · step 70")
        assert chosen(bench) == [str(tmp_path / LATEST)]


async def test_a_checkpoint_is_not_compared_with_itself(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await choose(bench, tmp_path / LATEST, compare=True)
        await choose(bench, tmp_path / LATEST, compare=False)
        assert chosen(bench) == [str(tmp_path / LATEST)]
        await choose(bench, tmp_path / BEST, compare=True)
        assert chosen(bench) == [str(tmp_path / LATEST), str(tmp_path / BEST)]
        await choose(bench, tmp_path / LATEST, compare=True)
        assert chosen(bench) == [AUTOMATIC, str(tmp_path / LATEST)]


async def test_the_model_that_replies_automatically_is_not_compared_with_itself(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40)) as bench:
        bench.app.main.post_message(CheckpointsTab.ChatRequested(tmp_path / BEST, compare=True))
        words = "best_model is the chat's model already"
        await bench.until(lambda: any(words in notice.message for notice in bench.app._notifications))
        assert chosen(bench) == [AUTOMATIC]
        await choose(bench, tmp_path / LATEST, compare=True)
        assert chosen(bench) == [AUTOMATIC, str(tmp_path / LATEST)]


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_an_open_list_fits_on_the_screen_and_the_keys_of_the_app_work(tmp_path: Path, size):
    two_models(tmp_path)
    async with running_app(tmp_path, size=size) as bench:
        await bench.pilot.press("c", "f7", "tab", "enter")
        await bench.until_seen("ckpt_latest · step 60 · latest")
        select = bench.app.main.query_one("#compare-select", ModelSelect)
        assert select.expanded
        await bench.pilot.press("escape")
        assert not select.expanded
        assert bench.app.main.tab == "chat"
        await bench.pilot.press("enter", "down", "down", "enter")
        assert chosen(bench) == [AUTOMATIC, str(tmp_path / BEST)]
        await bench.pilot.press("enter", "f2")
        await bench.pilot.pause()
        assert bench.app.main.tab == "train"
        await bench.pilot.press("f3")
        await bench.pilot.pause()
        assert not select.expanded
        assert bench.app.focused is bench.app.main.query_one("#prompt")


async def test_enter_with_an_invalid_setting_focuses_it_and_says_what_is_wrong(tmp_path: Path):
    async with running_app(tmp_path, size=(80, 24)) as bench:
        await bench.pilot.press("c")
        fields = {name: bench.app.main.query_one(f"#field-{name}", Input) for name in ("top_k", "seed", "temperature")}
        fields["top_k"].value = "-3"
        fields["temperature"].focus()
        await bench.until(lambda: fields["temperature"].has_focus and fields["top_k"].has_class("-wrong"))
        await bench.pilot.press("enter")
        await bench.until(lambda: fields["top_k"].has_focus)
        assert any(notice.message.startswith("top-k: got -3") for notice in bench.app._notifications)
        fields["seed"].value = "x"
        fields["seed"].focus()
        await bench.until(lambda: fields["seed"].has_focus and fields["seed"].has_class("-wrong"))
        await bench.pilot.press("enter")
        await bench.until(
            lambda: any(notice.message.startswith("seed: got 'x'") for notice in bench.app._notifications)
        )
        assert fields["seed"].has_focus
        fields["seed"].value, fields["top_k"].value = "", "5"
        await bench.until(lambda: not any(field.has_class("-wrong") for field in fields.values()))
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.app.focused is bench.app.main.query_one("#prompt"))


@pytest.mark.parametrize("focused", ["#model-select", "#transcript"])
async def test_keys_typed_faster_than_the_focus_moves_reach_the_prompt(tmp_path: Path, focused: str):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await bench.pilot.press("c")
        prompt = bench.app.main.query_one("#prompt", PromptArea)
        bench.app.main.query_one(focused).focus()
        await bench.until(lambda: bench.app.focused is bench.app.main.query_one(focused))
        for character in "a b  c":
            bench.app.post_message(events.Key("space" if character == " " else character, character))
        await bench.until(lambda: prompt.text == "a b  c")
        assert bench.app.focused is prompt


async def test_keys_move_between_prompt_and_settings_and_through_the_history(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, max_tokens=2) as bench:
        await bench.pilot.press("c")
        prompt = bench.app.main.query_one("#prompt", PromptArea)
        for text in ("one", "two"):
            await ask(bench, text)
            await replied(bench)
        await bench.pilot.press("d", "up", "up")
        assert prompt.text == "one"
        await bench.pilot.press("down", "down")
        assert prompt.text == "d"
        await bench.pilot.press("f7")
        assert isinstance(bench.app.focused, Select)
        await bench.pilot.press("down")
        assert bench.app.focused is bench.app.main.query_one("#compare-select")
        await bench.pilot.press("down", "up", "up")
        assert bench.app.focused is bench.app.main.query_one("#model-select")
        await bench.pilot.press("f7")
        assert bench.app.focused is prompt


async def test_a_slow_file_is_loaded_off_the_event_loop_and_the_note_says_so(tmp_path: Path, monkeypatch):
    two_models(tmp_path)
    gate = threading.Event()
    load = models.load_bundle

    def slow(path: Path) -> object:
        assert gate.wait(DEADLINE_S)
        return load(path)

    monkeypatch.setattr(models, "load_bundle", slow)
    async with running_app(tmp_path, size=(120, 40), max_tokens=3) as bench:
        await bench.pilot.press("c")
        await ask(bench, "Once")
        await bench.until_seen("loading best_model, 4.8 kB")
        await bench.pilot.press("x")
        assert bench.app.main.query_one("#prompt", PromptArea).text == "x"
        gate.set()
        await bench.until_seen("3 tokens")


async def test_the_model_in_training_is_not_cut_off_in_the_narrowest_terminal(tmp_path: Path) -> None:
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_step(3)
        await bench.pilot.press("f3")
        await bench.until_seen("automatic · in training ")
