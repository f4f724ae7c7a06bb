"""Chat tab: replies stream, stop and fail; text is not interpreted as markup; leaving the tab."""

from pathlib import Path

import pytest
from textual import events
from textual.widgets import Input

from gpt_core.generation.generator import readable
from gpt_tui.session.models import make_generator
from gpt_tui.session.phase import Phase
from gpt_tui.tabs.chat.pane import ChatTab
from gpt_tui.tabs.chat.prompt_area import MAX_PROMPT_CHARACTERS, PromptArea
from gpt_tui.tabs.chat.transcript import Transcript
from tests.tui.app_bench import AppBench, running_app
from tests.tui.fake_trainer import fake_generator
from tests.tui.test_chat_model import saved_model

pytestmark = pytest.mark.slow


def chat(bench: AppBench) -> ChatTab:
    return bench.app.main.query_one(ChatTab)


async def ask(bench: AppBench, text: str) -> None:
    bench.app.main.query_one("#prompt", PromptArea).text = text
    await bench.pilot.press("enter")


@pytest.mark.essential
async def test_a_reply_streams_during_training_and_names_its_model(tmp_path: Path):
    async with running_app(tmp_path, size=(120, 40), make=fake_generator(0.02), autostart=True) as bench:
        await bench.until_step(10)
        await bench.pilot.press("c")
        await bench.pilot.press(*"Once", "enter")
        await bench.until_seen("the sea was")
        assert chat(bench).replying
        before = bench.app.controller.run.step
        last = bench.app.main.query_one(Transcript).last
        assert last is not None
        [answer] = last.answers
        length = len(answer.reply)
        await bench.until(lambda: len(answer.reply) > length)
        await bench.until_step(before + 5)
        assert answer.prompt == "Once"
        await bench.until_seen("in training, step")
        await bench.until_seen("tokens/s")


async def test_escape_stops_a_reply_and_then_leaves_the_field_but_not_the_tab(tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    async with running_app(tmp_path, make=fake_generator(0.02)) as bench:
        await bench.pilot.press("c")
        await ask(bench, "Once")
        await bench.until_seen("the sea")
        await bench.pilot.press("escape")
        await bench.until(lambda: not chat(bench).replying)
        await bench.until_seen("stopped")
        assert bench.app.main.tab == "chat"
        for _ in range(3):
            await bench.pilot.press("escape")
            assert bench.app.main.tab == "chat"
            assert bench.app.focused is bench.app.main.query_one(Transcript)


@pytest.mark.parametrize("focus", [["escape"], ["f7"], ["escape", "escape"], ["f7", "escape", "escape"]])
async def test_letters_typed_outside_the_prompt_are_no_commands_but_continue_it(tmp_path: Path, focus: list[str]):
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_step(3)
        await bench.pilot.press("c", "a", *focus)
        assert bench.app.focused is not bench.app.main.query_one("#prompt")
        await bench.pilot.press(*"text q")
        await bench.pilot.press("question_mark", "comma")
        assert bench.app.main.tab == "chat"
        assert bench.app.main.query_one("#prompt", PromptArea).text == "atext q?,"
        assert bench.phase is Phase.TRAINING


async def test_escape_in_a_settings_field_returns_to_the_prompt(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("c")
        bench.app.main.query_one("#field-top_k", Input).focus()
        await bench.pilot.press("escape")
        assert bench.app.focused is bench.app.main.query_one("#prompt")


async def test_pasted_lines_are_one_prompt_and_stay_in_the_history(tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    async with running_app(tmp_path, size=(120, 40), make=fake_generator(0.0)) as bench:
        await bench.pilot.press("c", *"see: ")
        prompt = bench.app.main.query_one("#prompt", PromptArea)
        prompt.post_message(events.Paste("one\r\n\ttwo\r\nthree\x1b[31m"))
        await bench.pilot.pause()
        text = "see: one\n\ttwo\nthree[31m"
        assert prompt.text == text
        await bench.pilot.press("enter")
        await bench.until(lambda: len(bench.app.main.query_one(Transcript).turns) == 1)
        await bench.until(lambda: not chat(bench).replying)
        last = bench.app.main.query_one(Transcript).last
        assert last is not None
        assert last.answers[0].prompt == text
        assert prompt.text == ""
        await bench.pilot.press("up")
        assert prompt.text == text
        await bench.pilot.press("up", "up", "up", "down", "down", "down")
        assert prompt.text == ""


async def test_a_paste_outside_the_prompt_goes_into_it(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("c", "escape")
        bench.app.main.query_one(Transcript).post_message(events.Paste("one\ntwo"))
        await bench.pilot.pause()
        await bench.pilot.pause()
        assert bench.app.main.query_one("#prompt", PromptArea).text == "one\ntwo"


async def test_the_prompt_grows_with_its_lines_to_a_maximum(tmp_path: Path):
    async with running_app(tmp_path, size=(80, 24)) as bench:
        await bench.pilot.press("c")
        prompt, heights = bench.app.main.query_one("#prompt", PromptArea), []
        for _ in range(10):
            heights.append(prompt.outer_size.height)
            await bench.pilot.press("x", "ctrl+j")
            await bench.pilot.pause()
        assert heights == [3, 4, 5, 6, 7, 7, 7, 7, 7, 7]
        assert prompt.text == "x\n" * 10


async def test_only_the_end_of_a_huge_paste_is_inserted_and_a_notification_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    notified: list[str] = []
    monkeypatch.setattr(PromptArea, "notify", lambda _self, message, **_options: notified.append(message))
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await bench.pilot.press("c", "a")
        prompt = bench.app.main.query_one("#prompt", PromptArea)
        prompt.post_message(events.Paste("line\n" * 20_000 + "end"))
        await bench.until(lambda: len(prompt.text) > 1)
        assert notified == ["a prompt holds 65,536 characters: pasted the last 65,535 of 100,003"]
        assert len(prompt.text) == MAX_PROMPT_CHARACTERS
        assert prompt.text.endswith("line\nend")
        prompt.post_message(events.Paste("more"))
        await bench.until(lambda: len(notified) > 1)
        assert notified[1:] == ["nothing was pasted: the prompt is full (65,536 characters)"]
        assert prompt.text.endswith("line\nend")


async def test_a_long_prompt_is_shown_by_its_end(tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    async with running_app(tmp_path, size=(120, 40), make=fake_generator(0.0)) as bench:
        await bench.pilot.press("c")
        await ask(bench, "\n".join(f"line {number}" for number in range(500)))
        await bench.until_seen("line 499")
        assert "line 400" not in bench.text()
        assert "characters above)" in bench.text()


async def test_typing_exit_returns_to_the_train_tab(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("c")
        assert bench.app.main.tab == "chat"
        await bench.pilot.press(*"exit", "enter")
        await bench.pilot.pause()
        assert bench.app.main.tab == "train"
        assert bench.app.main.query_one("#prompt", PromptArea).text == ""


async def test_markup_and_escape_sequences_are_shown_as_text(tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await bench.pilot.press("c")
        await ask(bench, "[red]prompt[/red] \x1b[2J")
        await bench.until(lambda: not chat(bench).replying)
        shown = bench.text()
        assert "[red]prompt[/red] ␛[2J" in shown
        assert "[bold]calm[/bold] ␛[31m" in shown
        assert "\x1b" not in shown


async def test_without_a_model_the_tab_names_the_next_step(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("c")
        await bench.until_seen("There is no model to chat with yet.")
        await ask(bench, "Hello")
        await bench.until_seen("✗ no model yet")
        assert not chat(bench).replying


async def test_sampling_fields_are_validated_while_typing_and_applied(tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await bench.pilot.press("c")
        field = bench.app.main.query_one("#field-temperature", Input)
        field.value = "warm"
        await bench.until_seen("✗ temperature: got 'warm'")
        await ask(bench, "Once")
        assert not chat(bench).replying
        field.value = "0.5"
        bench.app.main.query_one("#field-max_tokens", Input).value = "4"
        await bench.pilot.pause()
        assert "got 'warm'" not in bench.text()
        await ask(bench, "Once")
        await bench.until_seen("4 tokens")
        last = bench.app.main.query_one(Transcript).last
        assert last is not None
        assert len(last.answers[0].reply.split()) == 4


async def test_enter_leaves_a_sampling_field_only_once_the_fields_are_valid(tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await bench.pilot.press("c")
        field = bench.app.main.query_one("#field-weights", Input)
        field.focus()
        field.value = "int4"
        await bench.until_seen("✗ weights: got 'int4'")
        await bench.pilot.press("enter")
        assert field.has_focus
        field.value = "int8"
        await bench.pilot.press("enter")
        assert not field.has_focus


async def test_enter_on_an_empty_line_continues_the_last_reply(tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    async with running_app(tmp_path, size=(120, 40), max_tokens=3) as bench:
        await bench.pilot.press("c")
        await ask(bench, "")
        assert bench.app.main.query_one(Transcript).last is None
        await ask(bench, "Once")
        await bench.until(lambda: not chat(bench).replying)
        first = bench.app.main.query_one(Transcript).last
        await ask(bench, "")
        await bench.until(lambda: not chat(bench).replying)
        second = bench.app.main.query_one(Transcript).last
        assert first is not None
        assert second is not None
        assert second.answers[0].prompt == "Once" + first.answers[0].reply


async def test_retry_copy_and_clear_act_on_the_last_reply(tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    async with running_app(tmp_path, size=(120, 40), max_tokens=3) as bench:
        await bench.pilot.press("c")
        await ask(bench, "Once")
        await bench.until(lambda: not chat(bench).replying)
        await bench.pilot.press("ctrl+r")
        await bench.until(lambda: not chat(bench).replying)
        transcript = bench.app.main.query_one(Transcript)
        assert [turn.answers[0].prompt for turn in transcript.turns] == ["Once", "Once"]
        await bench.pilot.press("ctrl+y")
        assert transcript.last is not None
        assert bench.app.clipboard == transcript.last.answers[0].reply
        await bench.pilot.press("ctrl+l")
        await bench.until_seen("Type the beginning of a text")
        assert transcript.turns == []


async def test_a_reply_of_any_bytes_is_copied_as_text_and_continued_as_bytes(tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    async with running_app(tmp_path, size=(120, 40), max_tokens=60, make=make_generator) as bench:
        await bench.pilot.press("c")
        await ask(bench, "Once")
        await bench.until(lambda: not chat(bench).replying)
        transcript = bench.app.main.query_one(Transcript)
        assert transcript.last is not None
        reply = transcript.last.answers[0].reply
        assert readable(reply) != reply, "random weights choose any byte"
        await bench.pilot.press("ctrl+y")
        assert bench.app.clipboard == readable(reply)
        await ask(bench, "")
        await bench.until(lambda: len(transcript.turns) == 2 and not chat(bench).replying)
        assert transcript.last.answers[0].prompt == "Once" + reply


@pytest.mark.essential
async def test_after_a_finished_run_its_checkpoint_can_be_chatted_with(tmp_path: Path):
    saved_model(tmp_path, "latest", 50, seed=1)
    async with running_app(tmp_path, size=(120, 40), max_steps=30, autostart=True) as bench:
        await bench.until_phase(Phase.FINISHED)
        assert "all steps done. F3: chat" in bench.text()
        await bench.pilot.press("c")
        await bench.until_seen("automatic · ckpt_latest")
