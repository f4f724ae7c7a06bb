"""Checkpoints tab: listing, verification, keys, deletion and snapshots."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.widgets import Static

from gpt_core.bridges.export import export_model
from gpt_core.formats.checkpoint import write_checkpoint
from gpt_core.model.parameters import initial_parameters
from gpt_core.tokenizers.pieces import PieceTokenizer
from gpt_tui.shared.dialogs import ChoiceScreen
from gpt_tui.shared.file_name_dialog import FileNameScreen
from gpt_tui.tabs.checkpoints import export as checkpoint_export
from gpt_tui.tabs.checkpoints import files as checkpoint_files
from gpt_tui.tabs.checkpoints import pane as checkpoints_pane
from gpt_tui.tabs.checkpoints.checkpoint_list import Rows
from gpt_tui.tabs.checkpoints.files import FolderScanner, VerificationThread
from gpt_tui.tabs.checkpoints.pane import CheckpointsTab
from gpt_tui.tabs.train.pane import TrainTab
from tests.core.checkpoint_samples import sample
from tests.tui.app_bench import DEADLINE_S, AppBench, running_app
from tests.tui.conftest import Snapshot
from tests.tui.log_samples import run_events, write_log
from tests.tui.stored_files import NOW_S, SMALL, fill, flip, save

pytestmark = pytest.mark.slow

MODELS = Path("models")
SIZES = [(80, 24), (120, 40)]


@pytest.fixture(autouse=True)
def _in_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def pane(bench: AppBench) -> CheckpointsTab:
    return bench.app.main.query_one(CheckpointsTab)


@asynccontextmanager
async def tab(size: tuple[int, int] = (120, 40), **options: object) -> AsyncIterator[AppBench]:
    """Run the app on its Checkpoints tab, at a fixed time, with all files verified."""
    async with running_app(MODELS, size=size, **options) as bench:  # type: ignore[arg-type]
        pane(bench).clock = lambda: NOW_S
        await bench.pilot.press("f4")
        await bench.until(lambda: not pane(bench)._scanning)
        await bench.until(lambda: pane(bench)._thread is None)
        yield bench


async def until_notified(bench: AppBench, text: str) -> None:
    """Let the app run until a notification contains `text`."""
    await bench.until(lambda: any(text in notice.message for notice in bench.app._notifications))


def listed() -> set[str]:
    return {str(path.relative_to(MODELS)) for path in MODELS.rglob("*.safetensors")}


async def to(bench: AppBench, name: str) -> None:
    """Move the cursor to a file."""
    await bench.pilot.press("home")
    while (file := pane(bench).selected) and file.name != name:
        await bench.pilot.press("down")


# -- listing


@pytest.mark.parametrize("size", SIZES)
async def test_every_file_is_listed_and_verified(size: tuple[int, int], snapshot: Snapshot):
    fill(MODELS)
    async with tab(size) as bench:
        shown = bench.text()
        assert shown.count("✓ OK") == 5  # four rows and the details
        assert shown.count("✗ damaged") == 2
        assert shown.count("✗ not gpt-tui") == 1
        await bench.settled()
        snapshot(bench.app, f"checkpoints-{size[0]}x{size[1]}")
        await to(bench, "epoch_010")
        await bench.until_seen("✗ damaged: ")
        await bench.settled()
        snapshot(bench.app, f"checkpoints-damaged-{size[0]}x{size[1]}")


async def test_the_light_theme_looks_as_in_the_snapshot(snapshot: Snapshot):
    fill(MODELS)
    async with tab((80, 24)) as bench:
        bench.app.theme = "gpt-day"
        await bench.pilot.pause()
        assert "✗ damaged" in bench.text()
        await bench.settled()
        snapshot(bench.app, "checkpoints-light-80x24")


@pytest.mark.parametrize("size", SIZES)
async def test_an_empty_folder_names_the_next_step(size: tuple[int, int], snapshot: Snapshot):
    async with tab(size) as bench:
        await bench.until_seen("To train a model: F2, then s.")
        await bench.settled()
        snapshot(bench.app, f"checkpoints-empty-{size[0]}x{size[1]}")
        await bench.pilot.press("d", "r", "v")  # no effect without a file
        assert not bench.app.screen.is_modal
        assert "Delete" not in bench.text()


async def test_a_folder_that_is_still_being_read_is_not_called_empty(monkeypatch: pytest.MonkeyPatch):
    fill(MODELS)
    go_on, scan = threading.Event(), FolderScanner.scan
    monkeypatch.setattr(FolderScanner, "scan", lambda self: go_on.wait(DEADLINE_S) and scan(self))
    async with running_app(MODELS) as bench:
        await bench.pilot.press("f4")
        await bench.until_seen("reading models/…")
        assert "There are no checkpoints" not in bench.text()
        go_on.set()
        await bench.until_seen("ckpt_latest")
        assert "reading" not in bench.text()


async def test_brackets_in_the_names_of_folder_and_file_are_shown_in_the_titles():
    folder = Path("models[red]")
    save(folder / "run[b].safetensors", 1)
    async with running_app(folder, size=(120, 40)) as bench:
        await bench.pilot.press("f4")
        await bench.until_seen("╭─ models[red]/ ─")
        await bench.until_seen("╭─ run[b] ─")


async def test_the_keys_are_shown_only_while_there_are_files(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints_pane, "SCAN_INTERVAL_S", 0.1)
    async with tab() as bench:
        path = save(MODELS / "ckpt_latest.safetensors", 1)
        await bench.until_seen("d Delete")
        await bench.until_seen("✓ OK")
        await bench.pilot.press("d")
        await bench.until(lambda: bench.app.screen.is_modal)
        await bench.pilot.press("d")
        await bench.until_seen("To train a model")
        await bench.until(lambda: "d Delete" not in bench.text())
        assert not path.exists()


async def test_an_unreadable_folder_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch):
    MODELS.mkdir()
    scan = os.scandir

    def refuse(path):  # type: ignore[no-untyped-def]
        if Path(path) == MODELS:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    async with tab() as bench:
        await bench.until_seen("✗ models cannot be read: Permission denied")


@pytest.mark.parametrize("size", [(1, 1), (20, 5), (79, 10), (300, 100)])
async def test_extreme_terminal_sizes_are_survived(size: tuple[int, int]):
    fill(MODELS)
    async with tab((80, 24)) as bench:
        await bench.pilot.resize_terminal(*size)
        await bench.pilot.press("down", "v", "up")
        await bench.pilot.pause(0.1)
        await bench.pilot.resize_terminal(80, 24)
        await bench.until_seen("ckpt_latest")


async def test_added_and_removed_files_are_shown_and_the_cursor_stays_on_its_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints_pane, "SCAN_INTERVAL_S", 0.1)
    fill(MODELS)
    async with tab() as bench:
        await to(bench, "transformer")
        save(MODELS / "epoch_030.safetensors", 1, step=20_000)
        await bench.until_seen("20,000")
        assert pane(bench).selected.name == "transformer"  # type: ignore[union-attr]
        (MODELS / "best_model.safetensors").unlink()
        await bench.until(lambda: "best_model" not in bench.text())
        assert pane(bench).selected.name == "transformer"  # type: ignore[union-attr]
        (MODELS / "transformer.safetensors").unlink()
        await bench.until(lambda: "transformer" not in bench.text())
        assert pane(bench).selected is not None


# -- verification


async def test_a_file_is_verified_once_until_it_changes_or_on_request(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints_pane, "SCAN_INTERVAL_S", 0.1)
    begun: list[str] = []
    start = VerificationThread.start
    monkeypatch.setattr(VerificationThread, "start", lambda self: begun.append(self.stamp.path.stem) or start(self))
    save(MODELS / "ckpt_latest.safetensors", 60)
    save(MODELS / "best_model.safetensors", 70)
    async with tab() as bench:
        await bench.until_seen("2 files")
        await bench.until(lambda: len(begun) == 2 and pane(bench)._thread is None)
        await bench.pilot.pause(0.3)
        assert begun == ["ckpt_latest", "best_model"]
        await bench.pilot.press("v")
        await until_notified(bench, "ckpt_latest.safetensors: OK")
        assert begun == ["ckpt_latest", "best_model", "ckpt_latest"]
        os.utime(flip(MODELS / "best_model.safetensors", -50), (NOW_S, NOW_S))
        await bench.until_seen("✗ damaged")
        assert begun[3:] == ["best_model"]


async def test_nothing_is_verified_while_the_tab_is_hidden(monkeypatch: pytest.MonkeyPatch):
    def endless(path: Path, progress: Callable[[float], None]) -> None:
        while True:
            progress(0.5)
            time.sleep(0.001)

    monkeypatch.setattr(checkpoint_files, "verify_checkpoint", endless)
    fill(MODELS)
    async with running_app(MODELS) as bench:
        await bench.pilot.pause(0.1)
        assert pane(bench)._thread is None
        await bench.pilot.press("f4")
        await bench.until_seen("… 50%")
        thread = pane(bench)._thread
        assert thread is not None
        await bench.pilot.press("f2")
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
        assert pane(bench)._thread is None
        await bench.pilot.press("f4")
        await bench.until_seen("… 50%")
        last = pane(bench)._thread
    assert last is not None
    last.join(DEADLINE_S)  # ends with the app
    assert not last.is_alive()


# -- keys


async def test_keys_act_on_the_file_under_the_cursor(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, str, bool]] = []
    monkeypatch.setattr(TrainTab, "resume_from", lambda self, path, _info: asked.append(("resume", path.stem, False)))

    def chosen(self: object, model: str, *, compare: bool = False) -> None:
        asked.append(("chat", Path(model).stem, compare))

    monkeypatch.setattr("gpt_tui.tabs.chat.pane.ChatTab.choose", chosen)
    fill(MODELS)
    async with tab() as bench:
        await to(bench, "best_model")
        await bench.pilot.press("r", "enter")
        await bench.until(lambda: len(asked) == 2)
        await bench.pilot.press("c")
        await bench.until(lambda: bench.app.main.tab == "chat")
        await bench.pilot.press("f4", "b")
        await bench.until(lambda: len(asked) == 4)
    assert asked == [("resume", "best_model", False)] * 2 + [
        ("chat", "best_model", False),
        ("chat", "best_model", True),
    ]


async def test_a_click_only_moves_the_cursor():
    fill(MODELS)
    async with tab() as bench:
        for _ in range(2):
            await bench.pilot.click(Rows, offset=(5, 1))
            assert pane(bench).selected.name == "best_model"  # type: ignore[union-attr]
        assert not bench.app.controller.alive
        assert bench.app.main.tab == "checkpoints"


@pytest.mark.essential
async def test_a_resumed_run_uses_the_folder_of_its_checkpoint():
    fill(MODELS)
    async with tab() as bench:
        await to(bench, "long/ckpt_latest")
        await bench.pilot.press("r")
        await bench.until(lambda: bench.app.main.tab == "train")
        (request,) = bench.opener.requests
        assert request.resume == MODELS / "long" / "ckpt_latest.safetensors"
        assert request.settings.models_dir == "models/long"
        assert request.as_saved


async def test_an_unusable_file_is_refused_with_the_reason():
    fill(MODELS)
    async with tab() as bench:
        for name, key, text in (
            ("transformer", "r", "cannot resume from transformer.safetensors"),
            ("epoch_010", "r", "cannot resume from epoch_010.safetensors"),
            ("bert", "c", "cannot chat with bert.safetensors"),
            ("bert", "e", "cannot export bert.safetensors"),
        ):
            await to(bench, name)
            await bench.pilot.press(key)
            await until_notified(bench, text)
        assert bench.app.main.tab == "checkpoints"
        assert bench.opener.requests == []


async def test_a_run_in_progress_is_not_replaced():
    fill(MODELS)
    async with tab(autostart=True) as bench:
        await bench.until_step(3)
        await bench.pilot.press("f4", "r")
        await until_notified(bench, "a run is in progress")
        assert len(bench.opener.requests) == 1


# -- export


def save_model(name: str = "best_model") -> Path:
    """Save a checkpoint with usable weights and a tokenizer."""
    path = MODELS / f"{name}.safetensors"
    MODELS.mkdir(exist_ok=True)
    checkpoint = sample(SMALL, tokenizer=PieceTokenizer([], SMALL.vocab_size).to_bytes(), step=12_000)
    write_checkpoint(path, checkpoint._replace(parameters=initial_parameters(SMALL.shape, 1)), saved_at=NOW_S - 60)
    return path


async def export_to(bench: AppBench, key: str, name: str = "") -> None:
    """Press `e` and the key of a format; type a name, or take the proposed one."""
    await bench.pilot.press("e")
    await bench.until(lambda: isinstance(bench.app.screen, ChoiceScreen))
    await bench.pilot.press(key)
    await bench.until(lambda: isinstance(bench.app.screen, FileNameScreen))
    await bench.until_seen("press Enter to export (Esc: cancel)")
    await bench.pilot.press(*name, "enter")


async def test_e_exports_the_file_under_the_cursor_to_a_new_path(snapshot: Snapshot):
    save_model()
    async with tab((80, 24)) as bench:
        await bench.until_seen("scores     not evaluated at this step")
        await bench.pilot.press("e")
        await bench.until_seen("Export best_model.safetensors, step 12,000")
        await bench.settled()
        snapshot(bench.app, "checkpoints-export-80x24")
        await bench.pilot.press("escape")
        await export_to(bench, "g")
        await until_notified(bench, "best_model-step12000.gguf")
        assert Path("best_model-step12000.gguf").is_file()
        await export_to(bench, "g")  # the proposed name is another one now
        await until_notified(bench, "best_model-step12000-2.gguf")
        await export_to(bench, "h")
        await until_notified(bench, "best_model-step12000-hf")
        assert Path("best_model-step12000-hf", "model.safetensors").is_file()
        await export_to(bench, "w")
        await until_notified(bench, "best_model-step12000.html")
        assert Path("best_model-step12000.html").is_file()
        await bench.until(lambda: pane(bench)._export is None)


async def test_an_export_shows_its_progress_and_only_one_runs(monkeypatch: pytest.MonkeyPatch):
    save_model()
    go_on = threading.Event()

    def held(bundle, format_name, path, *, progress):  # type: ignore[no-untyped-def]
        progress("writing", 0.42)
        go_on.wait(DEADLINE_S)
        return export_model(bundle, format_name, path)

    monkeypatch.setattr(checkpoint_export, "export_model", held)
    async with tab() as bench:
        await export_to(bench, "g", "out.gguf")
        await bench.until_seen("exporting out.gguf 42%")
        await bench.pilot.press("e")
        await until_notified(bench, "an export is in progress: out.gguf")
        go_on.set()
        await until_notified(bench, "out.gguf, ")
        await bench.until(lambda: "exporting" not in bench.text())


async def test_an_export_that_fails_is_reported_in_one_line():
    save_model()
    Path("taken").write_text("mine")
    async with tab() as bench:
        await export_to(bench, "h", "taken")
        await until_notified(bench, "taken exists already; remove it, or export to another path")
        await export_to(bench, "g", "taken/such")
        await until_notified(bench, "taken/such was not written: Not a directory; choose another path")
        await export_to(bench, "g", "~nobody-here/x")
        await until_notified(bench, "unknown home folder")
    assert Path("taken").read_text() == "mine"


async def test_quitting_stops_an_export_which_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    save_model()
    writing, go_on = threading.Event(), threading.Event()

    def held(bundle, format_name, path, *, progress):  # type: ignore[no-untyped-def]
        def report(activity: str, fraction: float) -> None:
            writing.set()
            go_on.wait(DEADLINE_S)
            progress(activity, fraction)

        return export_model(bundle, format_name, path, progress=report)

    monkeypatch.setattr(checkpoint_export, "export_model", held)
    async with tab() as bench:
        await export_to(bench, "g", "out.gguf")
        await bench.until(writing.is_set)
        thread = pane(bench)._export
    go_on.set()
    assert thread is not None
    thread.join(DEADLINE_S)
    assert sorted(path.name for path in Path().iterdir()) == ["models"]


# -- deletion


@pytest.mark.parametrize("size", SIZES)
async def test_a_deletion_asks_first_and_deletes_only_one_file(size: tuple[int, int], snapshot: Snapshot):
    fill(MODELS)
    before = listed()
    async with tab(size) as bench:
        await bench.until(lambda: bench.app.main.train.preview.stored.for_chat is not None)
        chat = bench.app.main.train.preview.stored.for_chat
        await to(bench, "best_model")
        await bench.pilot.press("d")
        await bench.until(lambda: isinstance(bench.app.screen, ChoiceScreen))
        await bench.pilot.pause()
        question = str(bench.app.screen.query_one("#dialog-question", Static).render())
        assert "best checkpoint at step 12,000" in question
        await bench.settled()
        snapshot(bench.app, f"checkpoints-delete-{size[0]}x{size[1]}")
        await bench.pilot.press("enter")  # Cancel has the focus
        await bench.pilot.pause()
        assert listed() == before
        read = {file.name: file.found for file in pane(bench)._contents.files}
        await bench.pilot.press("d", "d")
        await until_notified(bench, "deleted best_model.safetensors")
        assert before - listed() == {"best_model.safetensors"}
        await bench.until(lambda: all(file.name != "best_model" for file in pane(bench)._contents.files))
        assert all(file.found is read[file.name] for file in pane(bench)._contents.files), "no header is read again"
        await bench.until(lambda: bench.app.main.train.preview.stored.for_chat != chat)  # the other tabs are updated


async def test_a_failed_deletion_is_reported(monkeypatch: pytest.MonkeyPatch):
    fill(MODELS)

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    async with tab() as bench:
        monkeypatch.setattr(Path, "unlink", refuse)
        await bench.pilot.press("d", "d")
        await until_notified(bench, "was not deleted: Permission denied")
        await bench.until_seen("ckpt_latest")


async def test_the_question_mentions_a_run_that_saves_in_the_folder():
    fill(MODELS)
    async with tab(autostart=True) as bench:
        await bench.until_step(3)
        await bench.pilot.press("f4", "d")
        await bench.until_seen("The current run saves in this folder.")
        await bench.pilot.press("escape")


async def test_the_files_of_a_resumed_run_in_another_folder_are_listed():
    save(Path("models-2", "ckpt_latest.safetensors"), 65, step=12_480)
    write_log(Path("models-2"), run_events(3))
    async with tab() as bench:
        await bench.until_seen("There are no checkpoints in models/ yet.")
        await bench.pilot.press("f2", "r")
        await bench.until_step(3)
        await bench.pilot.press("f4")
        await bench.until_seen("models-2/ckpt_latest.safetensors")


async def test_the_list_keeps_all_files_when_a_run_of_a_subfolder_is_resumed():
    fill(MODELS)
    async with tab() as bench:
        await to(bench, "long/ckpt_latest")
        await bench.pilot.press("enter")
        await bench.until_step(3)
        await bench.pilot.press("f4")
        await bench.until_seen("epoch_010")


async def test_the_scan_of_a_folder_that_is_no_longer_shown_is_ignored():
    async with tab() as bench:
        shown = pane(bench)
        stale = CheckpointsTab.Scanned(shown._scanner, shown._contents)
        shown.show_folder("elsewhere")
        shown.post_message(stale)
        await bench.until(lambda: not shown._scanning and shown._is_read)
        assert shown._contents.files == ()
        shown.on_checkpoints_tab_scanned(stale)
        assert shown._contents.files == ()
