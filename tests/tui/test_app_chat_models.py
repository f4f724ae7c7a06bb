"""The Chat tab's models: choosing them, two side by side, seeds, prompts had again, keys that go between it all."""

import threading
from pathlib import Path

import pytest
from textual.widgets import Input, Select

from gpt_tui.run_view.status import Phase
from gpt_tui.shared.messages import ChatWanted
from gpt_tui.tabs.chat.loaded_models import LoadedModel
from gpt_tui.tabs.chat.model_options import AUTOMATIC, NOBODY
from gpt_tui.tabs.chat.model_select import ModelSelect
from gpt_tui.tabs.chat.sampling_form import SamplingForm
from gpt_tui.tabs.chat.transcript import Answer, Transcript
from tests.tui.app_bench import DEADLINE_S, AppBench, running_app
from tests.tui.fake_trainer import FakeGenerator, fake_generator
from tests.tui.test_app_chat import ask, chat
from tests.tui.test_chat_model import saved_model

pytestmark = pytest.mark.slow

BEST, LATEST = "best_model.safetensors", "ckpt_latest.safetensors"


def two_models(folder: Path) -> None:
    saved_model(folder, "best", 50, seed=1)
    saved_model(folder, "latest", 60, seed=2)


def named_generator(answerer: LoadedModel, seed: int | None) -> FakeGenerator:
    """Says who it is, over and over."""
    return FakeGenerator(0.002, text=f"{answerer.name.partition(',')[0]}:{seed}")


async def choose(bench: AppBench, path: Path, *, beside: bool) -> None:
    bench.app.main.post_message(ChatWanted(path, beside=beside))
    await bench.until(lambda: bench.app.main.tab == "chat" and str(path) in chosen(bench)[beside : beside + 1])


def chosen(bench: AppBench) -> list[str]:
    return bench.app.main.query_one(SamplingForm).models


def answers(bench: AppBench) -> list[Answer]:
    last = bench.app.main.query_one(Transcript).last
    assert last is not None
    return last.answers


async def replied(bench: AppBench) -> None:
    await bench.until(lambda: not chat(bench).replying)


@pytest.mark.parametrize(("size", "beside_each_other"), [((80, 24), False), ((120, 40), True), ((200, 60), True)])
async def test_two_models_answer_the_same_prompt_with_the_same_seed(tmp_path: Path, size, beside_each_other):
    two_models(tmp_path)
    async with running_app(tmp_path, size=size, make=named_generator, max_tokens=20) as bench:
        await choose(bench, tmp_path / LATEST, beside=True)
        assert chosen(bench) == [AUTOMATIC, str(tmp_path / LATEST)]
        await ask(bench, "Once")
        await replied(bench)
        left, right = answers(bench)
        [seed] = {answer.reply.split()[0].partition(":")[2] for answer in (left, right)}
        assert left.reply.split() == [f"best_model:{seed}"] * 20
        assert right.reply.split() == [f"ckpt_latest:{seed}"] * 20
        assert (left.model, right.model) == ("best_model, step 50", "ckpt_latest, step 60")
        assert (left.region.y == right.region.y) is beside_each_other
        assert (left.region.x == right.region.x) is not beside_each_other
        assert f"seed {seed}" in bench.text()


@pytest.mark.essential
async def test_both_replies_stream_and_escape_stops_both(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), make=fake_generator(0.02)) as bench:
        await choose(bench, tmp_path / LATEST, beside=True)
        await ask(bench, "Once")
        await bench.until(lambda: all(answer.reply for answer in answers(bench)))
        assert chat(bench).replying
        await bench.pilot.press("escape")
        await replied(bench)
        assert bench.text().count("stopped") == 2
        assert bench.app.main.tab == "chat"


async def test_each_of_two_goes_on_from_its_own_reply_and_copy_takes_them_in_turn(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), make=named_generator, max_tokens=3) as bench:
        await choose(bench, tmp_path / LATEST, beside=True)
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
        bench.app.main.query_one("#beside-choice", ModelSelect).choose(NOBODY)
        await ask(bench, "")
        await replied(bench)
        assert [answer.prompt for answer in answers(bench)] == ["Once" + first[0].reply + left]


async def test_a_kept_seed_gives_the_same_reply_again(tmp_path: Path):
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


async def test_a_file_that_is_gone_or_damaged_fails_in_one_line_and_the_other_answers(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), max_tokens=3) as bench:
        await choose(bench, tmp_path / LATEST, beside=True)
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


async def test_clearing_in_mid_reply_leaves_nothing_behind(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), make=fake_generator(0.02)) as bench:
        await choose(bench, tmp_path / LATEST, beside=True)
        await ask(bench, "Once")
        await bench.until(lambda: all(answer.reply for answer in answers(bench)))
        await bench.pilot.press("ctrl+l")
        assert not chat(bench).replying
        await bench.pilot.pause(0.3)
        assert bench.app.main.query_one(Transcript).turns == []
        assert "the sea" not in bench.text()


async def test_the_list_follows_saves_and_the_end_of_a_run_and_keeps_the_choice(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), autostart=True) as bench:
        await bench.until_step(5)
        await choose(bench, tmp_path / LATEST, beside=True)
        await bench.until_seen("automatic · in training")
        saved_model(tmp_path, "latest", 70, seed=3)
        bench.app.controller.save()
        await bench.until_seen("ckpt_latest · step 70")
        bench.app.controller.stop()
        await bench.until_phase(Phase.STOPPED)
        await bench.until_seen("automatic · best_model")
        assert chosen(bench) == [AUTOMATIC, str(tmp_path / LATEST)]


async def test_what_is_chosen_elsewhere_is_not_asked_twice(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await choose(bench, tmp_path / LATEST, beside=True)
        await choose(bench, tmp_path / LATEST, beside=False)
        assert chosen(bench) == [str(tmp_path / LATEST)]
        await choose(bench, tmp_path / BEST, beside=True)
        assert chosen(bench) == [str(tmp_path / LATEST), str(tmp_path / BEST)]
        await choose(bench, tmp_path / LATEST, beside=True)
        assert chosen(bench) == [AUTOMATIC, str(tmp_path / LATEST)]


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_an_open_list_is_whole_on_the_screen_and_leaves_the_keys_of_the_app_alone(tmp_path: Path, size):
    two_models(tmp_path)
    async with running_app(tmp_path, size=size) as bench:
        await bench.pilot.press("c", "f6", "tab", "enter")
        await bench.until_seen("ckpt_latest · step 60 · latest")
        chooser = bench.app.main.query_one("#beside-choice", ModelSelect)
        assert chooser.expanded
        await bench.pilot.press("escape")
        assert not chooser.expanded
        assert bench.app.main.tab == "chat"
        await bench.pilot.press("enter", "down", "down", "enter")
        assert chosen(bench) == [AUTOMATIC, str(tmp_path / BEST)]
        await bench.pilot.press("enter", "f2")
        await bench.pilot.pause()
        assert bench.app.main.tab == "train"
        await bench.pilot.press("f3")
        await bench.pilot.pause()
        assert not chooser.expanded
        assert bench.app.focused is bench.app.main.query_one("#prompt")


async def test_keys_go_between_prompt_and_fields_and_through_earlier_prompts(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, max_tokens=2) as bench:
        await bench.pilot.press("c")
        prompt = bench.app.main.query_one("#prompt", Input)
        for text in ("one", "two"):
            await ask(bench, text)
            await replied(bench)
        await bench.pilot.press("d", "up", "up")
        assert prompt.value == "one"
        await bench.pilot.press("down", "down")
        assert prompt.value == "d"
        await bench.pilot.press("f6")
        assert isinstance(bench.app.focused, Select)
        await bench.pilot.press("down")
        assert bench.app.focused is bench.app.main.query_one("#beside-choice")
        await bench.pilot.press("down", "up", "up")
        assert bench.app.focused is bench.app.main.query_one("#model-choice")
        await bench.pilot.press("f6")
        assert bench.app.focused is prompt


async def test_a_slow_file_is_read_off_the_event_loop_and_the_chat_says_so(tmp_path: Path, monkeypatch):
    two_models(tmp_path)
    gate = threading.Event()
    from gpt_tui.tabs.chat import loaded_models

    read = loaded_models.read_checkpoint

    def slow(path: Path, *, moments: bool) -> object:
        assert gate.wait(DEADLINE_S)
        return read(path, moments=moments)

    monkeypatch.setattr(loaded_models, "read_checkpoint", slow)
    async with running_app(tmp_path, size=(120, 40), max_tokens=3) as bench:
        await bench.pilot.press("c")
        await ask(bench, "Once")
        await bench.until_seen("reading best_model, 4.8 kB")
        await bench.pilot.press("x")
        assert bench.app.main.query_one("#prompt", Input).value == "x"
        gate.set()
        await bench.until_seen("3 tokens")
