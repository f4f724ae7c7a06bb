"""Set-up screen in the app: validation, estimate, saving, start."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from textual import events
from textual.widgets import Input, Select

from gpt_core.bench.estimate import StepTime, read_corpus_stats
from gpt_core.config.presets import preset
from gpt_core.config.resolve import Overrides, read_overrides
from gpt_core.config.settings import GROUP_RATES, Settings
from gpt_core.errors import CorpusError, RunExistsError
from gpt_core.training.request import RunRequest
from gpt_tui.app.app import GptApp
from gpt_tui.new_run.estimate import existing_run_note, ready_note
from gpt_tui.new_run.fields import explanation
from gpt_tui.new_run.form import SetupForm
from gpt_tui.new_run.form_state import copied_form_state, typed_after
from gpt_tui.new_run.screen import SetupScreen
from gpt_tui.session.phase import Phase
from gpt_tui.shell.help import HelpScreen
from gpt_tui.tabs.checkpoints.pane import CheckpointsTab
from tests.tui.app_bench import AppBench, running_app
from tests.tui.conftest import Snapshot
from tests.tui.fake_probes import fake_probes
from tests.tui.fake_trainer import FakeOpen
from tests.tui.test_chat_model import saved_model

pytestmark = pytest.mark.slow

SIZES = [(80, 24), (120, 40)]


@asynccontextmanager
async def set_up(folder: Path, **options: object) -> AsyncIterator[AppBench]:
    """Run the app with the set-up screen open."""
    async with running_app(folder, **options) as bench:  # type: ignore[arg-type]
        await bench.until_seen("Change model, text or learning rate")
        await bench.pilot.press("u")
        await bench.until_set_up()
        yield bench


def field(bench: AppBench, name: str) -> Input:
    return bench.app.screen.query_one(f"#setting-{name}", Input)


async def type_in(bench: AppBench, name: str, text: str) -> None:
    field(bench, name).focus()
    await bench.pilot.pause()
    field(bench, name).clear()
    await bench.pilot.press(*text)
    await bench.pilot.pause()


async def choose(bench: AppBench, name: str, value: str) -> None:
    bench.app.screen.query_one(f"#setting-{name}", Select).value = value
    await bench.pilot.pause()


async def test_keys_that_arrive_at_once_are_all_typed_in_order(tmp_path: Path):
    async with set_up(tmp_path) as bench:
        train, held_out = field(bench, "train_file"), field(bench, "eval_file")
        train.focus()
        await bench.pilot.pause()
        form = bench.app.screen.query_one(SetupForm)
        for name, text in ((train, "data/my notes.txt"), (held_out, "other.txt")):
            for character in text:
                name.insert_text_at_cursor(character)  # without a pause in which the form handles the message before
        await bench.pilot.pause()
        assert (train.value, held_out.value) == ("data/my notes.txt", "other.txt")
        assert (train.cursor_position, held_out.cursor_position) == (17, 9)
        assert (form.texts["train_file"], form.texts["eval_file"]) == ("data/my notes.txt", "other.txt")


async def test_no_earlier_notification_covers_the_fields(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        bench.app.notify("text used up", timeout=60)
        await bench.pilot.press("u")
        await bench.until_set_up()
        assert not list(bench.app._notifications)


async def test_a_rate_typed_at_once_sets_all_groups(tmp_path: Path):
    async with set_up(tmp_path) as bench:
        rate = field(bench, "learning_rate")
        rate.clear()
        for character in "0.0125":
            rate.insert_text_at_cursor(character)
        await bench.pilot.pause()
        await bench.pilot.pause()
        assert rate.value == "0.0125"
        assert {field(bench, name).value for name in GROUP_RATES} == {"0.0125"}


@pytest.mark.parametrize("by", [pytest.param("key", marks=pytest.mark.essential), "button"])
async def test_the_typed_settings_are_started(tmp_path: Path, by: str):
    async with running_app(tmp_path) as bench:
        await bench.until_seen("Change model, text or learning rate")
        if by == "key":
            await bench.pilot.press("u")
        else:
            assert await bench.pilot.click("#button-setup")
        await bench.until_set_up()
        await type_in(bench, "layers", "6")
        if by == "key":
            await bench.pilot.press("ctrl+t")
        else:
            assert await bench.pilot.click("#button-begin_run")
        await bench.until_step(5)
        request = bench.opener.requests[0]
        assert (request.settings.layers, request.preset_name) == (6, "")
        assert bench.app.main.train.settings == request.settings
        await bench.pilot.press("x")
        await bench.until_phase(Phase.STOPPED)


async def test_a_run_with_the_shape_of_a_preset_has_its_name(tmp_path: Path):
    async with set_up(tmp_path) as bench:
        await choose(bench, "preset", "micro")
        await bench.pilot.press("ctrl+t")
        await bench.until_step(1)
        request = bench.opener.requests[0]
        assert (request.settings.shape, request.preset_name) == (preset("micro").shape, "micro")
        assert request.settings.models_dir == str(tmp_path)


async def test_chat_and_checkpoints_use_the_folder_of_the_new_run(tmp_path: Path):
    folder = str(tmp_path / "other")
    async with set_up(tmp_path) as bench:
        await type_in(bench, "models_dir", folder)
        await bench.pilot.press("ctrl+t")
        await bench.until_step(1)
        assert bench.opener.requests[0].settings.models_dir == folder
        assert bench.app.main._models.models_dir == folder
        assert bench.app.main.query_one(CheckpointsTab)._models_dir == folder


async def test_an_existing_run_is_shown_before_the_start_asks(tmp_path: Path):
    saved_model(tmp_path, "latest", 1200, seed=1)
    async with set_up(tmp_path, size=(120, 40)) as bench:
        await bench.until_seen("• ready; Start asks first")
        assert f"• {tmp_path}/"[:60] in bench.text()
        await type_in(bench, "models_dir", str(tmp_path / "new"))
        await bench.until_seen("✓ ready to start")
        assert "asks first" not in bench.text()


def test_an_existing_run_and_what_to_do_are_one_line():
    words = existing_run_note("models", "a run at step 1,200")
    assert words == "• models/ has a run at step 1,200. Start asks first; or enter another models_dir."
    assert existing_run_note("models", "") == ""
    assert ready_note(2, asks=True) == "✗ 2 invalid fields"


async def test_long_messages_are_wrapped_at_80_columns(tmp_path: Path):
    saved_model(tmp_path, "latest", 100, seed=1)
    async with set_up(tmp_path) as bench:
        await bench.until_seen("• ready; Start asks first")
        bench.app.screen.query_one("#setting-document").focus()
        meaning = explanation("document", "nano", "")[0]
        last_words = (" ".join(meaning.split()[-2:]), "another models_dir.")
        await bench.until(lambda: all(words in " ".join(bench.text().split()) for words in last_words))


async def test_an_invalid_field_is_shown_at_once_and_nothing_can_start(tmp_path: Path):
    async with set_up(tmp_path) as bench:
        await type_in(bench, "num_heads", "5")
        await bench.until_seen("✗ num_heads: got 5, expected a divisor of d_model (128); nearest: 4 or 8")
        assert "✗ 1 invalid field" in bench.text()
        assert "✗ num_heads" in bench.text()
        assert bench.app.screen.query_one("#button-begin_run").disabled
        await bench.pilot.press("ctrl+t")
        await bench.pilot.press("ctrl+s")
        await bench.pilot.pause()
        assert isinstance(bench.app.screen, SetupScreen)
        assert not bench.opener.requests
        await type_in(bench, "num_heads", "8")
        await bench.until_seen("✓ ready to start")
        assert "• num_heads" in bench.text()


async def test_a_missing_file_is_shown(tmp_path: Path):
    async with set_up(tmp_path) as bench:
        await type_in(bench, "train_file", "nowhere.en")
        await bench.until_seen("✗ train_file: no such file; expected a text file")


UNUSABLE = (
    ("empty.txt", b"", "is empty"),
    ("space.txt", b" \n\n", "is empty"),
    ("binary.txt", bytes(range(256)) * 20, "is not plain text"),
    ("latin.txt", "caf\xe9 cr\xe8me\n".encode("cp1252") * 20, "is not UTF-8"),
    ("other.jsonl", b'{"body": "A record."}\n', "has no field 'text'"),
    ("folder/.hidden", b"", "has no text files"),
)


@pytest.mark.essential
async def test_a_text_that_cannot_be_used_is_an_invalid_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    async with set_up(tmp_path, probes=fake_probes(texts=read_corpus_stats)) as bench:
        await bench.until_seen("✓ ready to start")
        for number, (file, data, words) in enumerate(UNUSABLE):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_bytes(data)
            name = "train_file" if number % 2 else "eval_file"
            await type_in(bench, name, file.partition("/")[0])
            await bench.until_seen("✗ 1 invalid field")
            assert f"✗ {name}: " in bench.text()
            assert words in bench.text()
            assert "per epoch" not in bench.text()
            await bench.pilot.press("ctrl+t")
            await bench.pilot.pause()
            assert isinstance(bench.app.screen, SetupScreen)
            await type_in(bench, "layers", str(number + 1))  # the text is the same one
            assert "✗ 1 invalid field" in bench.text()
            await type_in(bench, name, "")
            await bench.until_seen("✓ ready to start")


async def test_the_estimate_shows_what_a_folder_of_texts_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # a short name, which is not wrapped
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_bytes("Über die Brücke läuft Jörg.\n\nZwei.".encode("utf-16"))
    (folder / "b.jsonl").write_text('{"body": "One record."}\n' * 40)
    async with set_up(tmp_path, probes=fake_probes(texts=read_corpus_stats)) as bench:
        await type_in(bench, "train_file", "texts")
        await bench.until_seen("has no field 'text'")
        await type_in(bench, "text_field", "body")
        await bench.until_seen("Über die Brücke")
        await bench.until_seen("documents  about 42")
        await bench.until_seen("2 files")


async def test_a_preset_sets_the_fields_and_updates_the_estimate(tmp_path: Path):
    async with set_up(tmp_path) as bench:
        await bench.until_seen("1,194,752")
        await type_in(bench, "layers", "6")
        await bench.until_seen("1,591,296")
        await bench.until_seen("• 1 changed from nano")
        await choose(bench, "preset", "mini")
        await bench.until_seen("57,482,752")
        assert field(bench, "layers").value == "8"
        assert "changed from" not in bench.text()
        await bench.until_seen("per epoch  54 min")


async def test_keys_move_between_fields_and_open_menus(tmp_path: Path):
    async with set_up(tmp_path) as bench:
        await bench.until_seen("preset: sets all fields")
        await bench.pilot.press("enter", "down", "down", "enter")
        await bench.until_seen("57,482,752")
        await bench.pilot.press("down")
        await bench.until_seen("d_model: channels of the residual stream (C)")
        assert "at least 1 and at most 65536; mini: 768" in bench.text()
        await bench.pilot.press("up")
        await bench.until_seen("preset: sets all fields")


async def test_escape_saves_the_form_for_the_next_time(tmp_path: Path):
    async with set_up(tmp_path) as bench:
        await type_in(bench, "layers", "x")
        await bench.pilot.press("escape")
        await bench.until_seen("Change model, text or learning rate")
        assert bench.app.main.train.settings.layers == 4
        await bench.pilot.press("u")
        await bench.until_seen("✗ 1 invalid field")
        assert field(bench, "layers").value == "x"


async def test_the_learning_rate_and_the_rates_of_the_groups_show_each_other(tmp_path: Path):
    async with set_up(tmp_path) as bench:
        await type_in(bench, "learning_rate", "1e-4")
        assert field(bench, "attn_lr").value == "1e-4"
        await type_in(bench, "pos_lr", "0.5")
        assert field(bench, "learning_rate").value == ""
        await bench.pilot.press("ctrl+t")
        await bench.until_step(1)
        settings = bench.opener.requests[0].settings
        assert (settings.attn_lr, settings.unembed_lr, settings.pos_lr) == (1e-4, 1e-4, 0.5)


async def test_typing_faster_than_the_screen_updates_loses_nothing(tmp_path: Path):
    async with set_up(tmp_path) as bench:
        for text in ("0", "0.0", "0.00", "0.001"):  # no pause: each message is older than the field
            field(bench, "learning_rate").value = text
        for text in ("3", "30", "300"):
            field(bench, "max_steps").value = text
        await bench.pilot.pause()
        await bench.until_seen("• 2 changed from nano")
        texts = bench.app.screen.query_one(SetupForm).texts
        assert {texts[name] for name in ("learning_rate", *GROUP_RATES)} == {"0.001"}
        assert {field(bench, name).value for name in ("learning_rate", *GROUP_RATES)} == {"0.001"}
        assert (texts["max_steps"], field(bench, "max_steps").value) == ("300", "300")


async def test_a_saved_config_file_starts_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    async with set_up(tmp_path) as bench:
        await type_in(bench, "layers", "6")
        await bench.pilot.press("ctrl+s")
        await bench.until_seen("press Enter to save (Esc: cancel)")
        await bench.pilot.press("enter")
        await bench.until(Path("gpt-tui.toml").exists)
        await bench.pilot.press("ctrl+t")
        await bench.until_step(1)
        assert read_overrides(config_file=Path("gpt-tui.toml")).apply_to().settings == bench.opener.requests[0].settings


async def test_typing_in_the_save_dialog_replaces_the_default_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    async with set_up(tmp_path) as bench:
        await bench.pilot.press("ctrl+s")
        await bench.until_seen("Save as a config file")
        await bench.pilot.press(*"my.toml", "enter")
        await bench.until(Path("my.toml").exists)
    assert not list(tmp_path.glob("gpt-tui*"))


async def test_lines_pasted_into_a_field_of_one_line_are_joined(tmp_path: Path):
    async with set_up(tmp_path) as bench:
        box = field(bench, "sample_prompt")
        box.focus()
        await bench.pilot.pause()
        box.post_message(events.Paste("Once upon\r\n\ta time\r\n\r\nthere was\r\n"))
        await bench.pilot.pause()
        assert box.value == "Once upon a time there was"
        assert any(notice.message == "pasted 3 lines as one, joined with spaces" for notice in bench.app._notifications)


async def test_a_file_name_below_an_unknown_home_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    async with set_up(tmp_path) as bench:
        await bench.pilot.press("ctrl+s")
        await bench.until_seen("Save as a config file")
        bench.app.screen.query_one(Input).value = "~no-such-user-here/run.toml"
        await bench.pilot.press("enter")
        await bench.until(lambda: any("unknown home folder" in notice.message for notice in bench.app._notifications))
        assert isinstance(bench.app.screen, SetupScreen)
    assert not list(tmp_path.glob("~*"))


@pytest.mark.parametrize(("key", "is_replaced"), [("r", True), ("escape", False)])
async def test_an_existing_file_is_replaced_only_after_confirmation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, is_replaced: bool
):
    monkeypatch.chdir(tmp_path)
    Path("gpt-tui.toml").write_text("mine")
    async with set_up(tmp_path) as bench:
        await bench.pilot.press("ctrl+s")
        await bench.until_seen("Save as a config file")
        await bench.pilot.press("enter")
        await bench.until_seen("gpt-tui.toml already exists.")
        await bench.pilot.press(key)
        await bench.until(lambda: isinstance(bench.app.screen, SetupScreen))
        await bench.until(lambda: (Path("gpt-tui.toml").read_text() == "mine") is not is_replaced)


async def test_a_measurement_stops_when_a_run_starts_or_the_screen_is_left(tmp_path: Path):
    ended: list[int] = []

    def endless(settings: Settings, stopped: Callable[[], bool]) -> StepTime | None:
        waiting = threading.Event()
        while not stopped():
            waiting.wait(0.001)
        ended.append(settings.layers)
        return None

    async with set_up(tmp_path, probes=fake_probes(time=endless)) as bench:
        await bench.until_seen("timing a few steps")
        await bench.until(lambda: ended == [4])  # that of the home screen
        await type_in(bench, "layers", "6")
        await bench.until(lambda: ended == [4, 4])
        await bench.pilot.press("escape")
        await bench.until(lambda: ended == [4, 4, 6])
        await bench.pilot.press("u")
        await bench.until_seen("timing a few steps")
        await bench.until(lambda: ended == [4, 4, 6, 6])
        await bench.pilot.press("ctrl+t")
        await bench.until(lambda: ended == [4, 4, 6, 6, 6])
        await bench.until_step(1)


async def test_set_up_cannot_be_opened_during_a_run_nor_tabs_from_set_up(tmp_path: Path):
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_step(5)
        await bench.pilot.press("u")
        assert not isinstance(bench.app.screen, SetupScreen)
        assert bench.button("setup").disabled
        await bench.pilot.press("x")
        await bench.until_phase(Phase.STOPPED)
        await bench.pilot.press("u")
        await bench.until_set_up()
        await bench.pilot.press("f3")
        assert bench.app.main.tab == "train"


async def test_starting_in_a_folder_with_a_run_asks_first(tmp_path: Path):
    async with set_up(tmp_path, opener=FakeOpen(error=RunExistsError("models holds another run"))) as bench:
        await type_in(bench, "layers", "6")
        await bench.pilot.press("ctrl+t")
        await bench.until_seen("This folder already has a run")
        await bench.pilot.press("d")
        await bench.until_step(1)
        assert bench.opener.requests[-1].settings.layers == 6


async def test_help_and_palette_list_the_keys_of_set_up(tmp_path: Path):
    async with set_up(tmp_path, size=(120, 40)) as bench:
        commands = {command.title for command in bench.app.get_system_commands(bench.app.screen)}
        assert {"Save as file", "Back", "Help"} <= commands
        assert "Pause" not in commands
        await bench.pilot.press("f1")
        await bench.until(lambda: isinstance(bench.app.screen, HelpScreen))
        await bench.until_seen("All settings of a run, checked as you type")
        assert "Save as a config file" in bench.text()
        await bench.pilot.press("escape", "escape")
        await bench.until_seen("Change model, text or learning rate")
        assert "Set up" in {command.title for command in bench.app.get_system_commands(bench.app.screen)}


async def test_quitting_works_from_set_up(tmp_path: Path):
    async with set_up(tmp_path) as bench:
        await bench.pilot.press("ctrl+q")
        await asyncio.sleep(0)
        await bench.until(lambda: bench.app.return_code is not None)
        assert bench.app.return_code == 0


# ---- pictures


async def settled(bench: AppBench) -> None:
    """Wait for the estimate."""
    await bench.until_seen("per epoch")
    await bench.settled()


@pytest.mark.usefixtures("fixed_activation_memory")
@pytest.mark.parametrize("size", SIZES)
async def test_set_up_matches_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], snapshot: Snapshot
):
    monkeypatch.chdir(tmp_path)
    async with set_up(Path("models"), size=size) as bench:
        await settled(bench)
        snapshot(bench.app, f"setup-{size[0]}x{size[1]}")


@pytest.mark.usefixtures("fixed_activation_memory")
@pytest.mark.parametrize("size", SIZES)
async def test_an_invalid_field_matches_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], snapshot: Snapshot
):
    monkeypatch.chdir(tmp_path)
    async with set_up(Path("models"), size=size) as bench:
        await settled(bench)
        await type_in(bench, "layers", "6")
        await type_in(bench, "num_heads", "5")
        await bench.until_seen("✗ 1 invalid field")
        await bench.settled()
        snapshot(bench.app, f"setup-wrong-{size[0]}x{size[1]}")


@pytest.mark.usefixtures("fixed_activation_memory")
async def test_set_up_in_a_light_theme_matches_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot
):
    monkeypatch.chdir(tmp_path)
    async with set_up(Path("models"), size=(120, 40)) as bench:
        bench.app.theme = "textual-light"
        await settled(bench)
        await type_in(bench, "layers", "6")
        await bench.until_seen("15.1k tokens/s")
        await settled(bench)
        snapshot(bench.app, "setup-light-120x40")


@pytest.mark.parametrize("size", [(1, 1), (20, 5), (79, 10), (300, 100)])
async def test_any_terminal_size_works(tmp_path: Path, size: tuple[int, int]):
    async with set_up(tmp_path) as bench:
        await bench.pilot.resize_terminal(*size)
        await bench.pilot.pause(0.1)
        await bench.pilot.press("down", "down", "7")
        await bench.pilot.resize_terminal(80, 24)
        await bench.until_seen("estimate")


async def test_a_screenshot_is_saved_beside_the_run_and_the_message_names_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "absent"))
    notified: list[str] = []
    monkeypatch.setattr(GptApp, "notify", lambda _self, message, **_options: notified.append(message))
    async with running_app(tmp_path, size=(120, 40)) as bench:
        folder = bench.app.main.models_dir
        bench.app.deliver_screenshot("seen.svg")
        await bench.until(lambda: any("seen.svg" in message for message in notified))
        assert (folder / "seen.svg").exists()


async def test_a_screenshot_is_saved_in_the_working_folder_before_there_is_a_models_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    async with running_app(tmp_path / "models", size=(120, 40)) as bench:
        bench.app.deliver_screenshot("seen.svg")
        await bench.until(Path("seen.svg").exists)


async def test_a_screenshot_that_cannot_be_saved_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    async with running_app(tmp_path / "models", size=(120, 40)) as bench:
        (tmp_path / "here").rmdir()
        bench.app.deliver_screenshot("seen.svg")
        wanted = "not saved: No such file or directory"
        await bench.until(lambda: any(notice.message == wanted for notice in bench.app._notifications))


async def test_the_set_up_screen_opens_after_the_working_folder_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    async with running_app(Path("models")) as bench:
        (tmp_path / "here").rmdir()
        await bench.pilot.press("u")
        await bench.until_set_up()
        await bench.until(lambda: "was deleted; expected an absolute path" in " ".join(bench.text().split()))


def budget_run(minutes: float, typed: Mapping[str, str], preset_name: str) -> RunRequest:
    """Return a run whose depth follows from the time, with the settings that were typed."""
    rule = {"layers": 2 if minutes < 30 else 6, "weight_decay": 0.3, "minutes": minutes}
    overrides = Overrides(preset_name or None, (("rule", rule),)).override("set-up screen", typed)
    return RunRequest(overrides.apply_to().settings, "nano", model_reason=f"because {minutes:g} minutes are enough")


async def test_the_model_follows_from_the_minutes_that_are_typed_and_typed_fields_stay(tmp_path: Path):
    async with set_up(tmp_path, probes=fake_probes(budget=budget_run), size=(120, 40)) as bench:
        assert "Choose model and schedule" not in bench.text()
        await type_in(bench, "minutes", "30")
        await type_in(bench, "weight_decay", "0.2")
        await bench.until_seen("Choose model and schedule for 30 minutes")
        await bench.pilot.press("f8")
        await bench.until_seen("because 30 minutes are enough")
        assert [field(bench, name).value for name in ("layers", "weight_decay", "minutes")] == ["6", "0.2", "30"]
        await bench.pilot.press("f9")
        await bench.until_step(1)
        request = bench.opener.requests[0]
        assert (request.settings.layers, request.settings.minutes, request.settings.weight_decay) == (6, 30, 0.2)
        assert request.model_reason == "because 30 minutes are enough"


async def test_a_change_after_the_choice_ends_its_reason_and_another_time_chooses_again(tmp_path: Path):
    async with set_up(tmp_path, probes=fake_probes(budget=budget_run), size=(120, 40)) as bench:
        await type_in(bench, "minutes", "30")
        await bench.pilot.press("f8")
        await bench.until_seen("because 30 minutes are enough")
        await type_in(bench, "minutes", "5")
        await bench.until_seen("Choose model and schedule for 5 minutes")
        assert "are enough" not in bench.text()
        await bench.pilot.press("f8")
        await bench.until_seen("because 5 minutes are enough")
        assert field(bench, "layers").value == "2"
        await bench.pilot.press("escape")
        await bench.until_seen("because 5 minutes are enough")


async def test_another_text_may_need_another_model_for_the_time(tmp_path: Path):
    text = tmp_path / "book.txt"
    text.write_text("It was a dark night. " * 500)
    async with set_up(tmp_path, probes=fake_probes(budget=budget_run), size=(120, 40), minutes=1.0) as bench:
        assert "Choose model and schedule" not in bench.text()
        await type_in(bench, "train_file", str(text))
        await bench.until_seen("Choose model and schedule for 1 minute")
        assert "1 minutes" not in bench.text()
        await bench.pilot.press("f8")
        await bench.until_seen("because 1 minutes are enough")


async def test_the_line_about_the_time_is_clicked_too(tmp_path: Path):
    async with set_up(tmp_path, probes=fake_probes(budget=budget_run), size=(120, 40)) as bench:
        await type_in(bench, "minutes", "30")
        await bench.until_seen("Choose model and schedule for 30 minutes")
        await bench.pilot.click("#setup-time")
        await bench.until_seen("because 30 minutes are enough")


async def test_the_whole_reason_of_a_model_is_shown_in_a_small_terminal(tmp_path: Path):
    reason = "because the next larger model would have fewer tokens per parameter than the rule, " * 4 + "the end"

    def choose(minutes: float, typed: Mapping[str, str], preset_name: str) -> RunRequest:
        return replace(budget_run(minutes, typed, preset_name), model_reason=reason)

    async with set_up(tmp_path, probes=fake_probes(budget=choose), size=(80, 24)) as bench:
        await type_in(bench, "minutes", "30")
        await bench.pilot.press("f8")
        await bench.until_seen("the end")
        assert reason in " ".join(bench.text().split())


async def test_what_is_typed_during_the_choice_is_not_replaced(tmp_path: Path):
    measured = threading.Event()

    def measure(minutes: float, typed: Mapping[str, str], preset_name: str) -> RunRequest:
        measured.wait(60)
        return budget_run(minutes, typed, preset_name)

    async with set_up(tmp_path, probes=fake_probes(budget=measure), size=(120, 40)) as bench:
        await type_in(bench, "minutes", "30")
        await bench.pilot.press("f8")
        await bench.until_seen("timing a few steps on this computer")
        assert bench.app.screen.query_one("#button-begin_run").disabled
        await type_in(bench, "layers", "3")
        await bench.pilot.press("f9")
        assert not bench.opener.requests  # the measurement would slow the run down
        measured.set()
        await bench.until_seen("Choose model and schedule for 30 minutes")
        assert field(bench, "layers").value == "3"
        assert not bench.app.screen.query_one("#button-begin_run").disabled


async def test_a_failed_choice_is_one_line_and_changes_nothing(tmp_path: Path):
    def fail(minutes: float, typed: Mapping[str, str], preset_name: str) -> RunRequest:
        raise CorpusError("no text")

    async with set_up(tmp_path, probes=fake_probes(budget=fail), size=(120, 40)) as bench:
        await type_in(bench, "minutes", "30")
        before = bench.app.screen.query_one(SetupForm).texts
        await bench.pilot.press("f8")
        await bench.until_seen("model not chosen: no text")
        assert bench.app.screen.query_one(SetupForm).texts == before


def test_a_preset_counts_as_typed_and_resets_the_others():
    assert typed_after(frozenset(), "layers") == {"layers"}
    assert typed_after(frozenset({"layers", "seed"}), "") == {"seed", "preset"}


def test_a_copied_run_has_its_differences_from_the_preset_typed():
    settings = msgspec.structs.replace(preset("nano"), layers=3, minutes=5.0)
    assert copied_form_state(settings, "nano").typed == {"layers", "preset"}
