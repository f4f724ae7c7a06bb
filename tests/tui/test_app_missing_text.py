"""A run whose text has moved is resumed in the app: it asks for the text."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from textual.widgets import Input

from gpt_core.config.settings import Settings
from gpt_core.errors import ResumeTextError
from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.training.setup import open_run
from gpt_tui.session.phase import Phase
from gpt_tui.shared.file_name_dialog import FileNameScreen
from tests.core.training_samples import tiny_settings, train
from tests.tui.app_bench import AppBench, running_app
from tests.tui.fake_trainer import FakeOpen
from tests.tui.test_chat_model import saved_model

pytestmark = pytest.mark.slow

SIZE = (120, 40)
LATEST = "ckpt_latest.safetensors"


def run_of(folder: Path) -> Settings:
    """Train a run of 20 steps, which has reached its limit, and return its settings."""
    settings = tiny_settings(folder, max_steps=20)
    train(settings)
    return settings


def app_of(settings: Settings):
    """Run the app with real runs; the next one has these settings."""
    values = msgspec.structs.asdict(settings)
    return running_app(Path(values.pop("models_dir")), opener=open_run, size=SIZE, **values)  # type: ignore[arg-type]


async def ask(bench: AppBench) -> Input:
    """Wait for the question, and return the field for the name."""
    await bench.until(lambda: isinstance(bench.app.screen, FileNameScreen))
    await bench.pilot.pause()
    return bench.app.screen.query_one("#file-name", Input)


async def resume_longer(bench: AppBench) -> None:
    """Resume the run of 20 steps up to step 30."""
    await bench.until_seen("Resume (step 20")
    await bench.pilot.press("r")
    await bench.until_seen("Train a finished run longer")
    bench.app.screen.query_one("#limit-max_steps", Input).value = "30"
    await bench.pilot.press("enter")


@pytest.mark.essential
@pytest.mark.parametrize(("setting", "kind"), [("train_file", "training"), ("eval_file", "eval")])
async def test_a_run_whose_text_has_moved_is_resumed_with_the_one_that_is_named(
    tmp_path: Path, setting: str, kind: str
) -> None:
    settings = run_of(tmp_path)
    text = Path(getattr(settings, setting))
    moved = text.rename(tmp_path / "moved.en")
    async with app_of(settings) as bench:
        await resume_longer(bench)
        name = await ask(bench)
        assert name.value == str(text)
        shown = " ".join(bench.text().split())
        assert f"With which {kind} text is this run resumed?" in shown
        assert "No such file or directory" in shown
        assert "--" not in shown
        name.value = str(moved)
        await bench.pilot.press("enter")
        await bench.until_phase(Phase.FINISHED)
    saved = peek_checkpoint(tmp_path / "models" / LATEST)
    assert (saved.step, saved.settings.max_steps, getattr(saved.settings, setting)) == (30, 30, str(moved))


async def test_a_wrong_name_is_asked_about_again_and_cancelling_leaves_the_error(tmp_path: Path) -> None:
    settings = run_of(tmp_path)
    Path(settings.train_file).unlink()
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 20)
    async with app_of(settings) as bench:
        await resume_longer(bench)
        for typed, reason in (("nowhere.en", "cannot read the text nowhere.en"), (str(tmp_path / "binary"), "is not")):
            (await ask(bench)).value = typed
            await bench.pilot.press("enter")
            await bench.until_seen(reason)
            assert (await ask(bench)).value == typed
        await bench.pilot.press("escape")
        await bench.until(lambda: bench.app.screen is bench.app.main)
        assert bench.phase is Phase.FAILED
        assert bench.app.main.banner.display
        assert "is not plain text" in bench.app.main.banner.text


async def test_a_run_whose_text_was_changed_is_not_resumed_with_it_unless_it_is_named(tmp_path: Path) -> None:
    settings = run_of(tmp_path)
    text = Path(settings.train_file)
    text.write_text(text.read_text() + "\nOne more line.\n")
    async with app_of(settings) as bench:
        await resume_longer(bench)
        name = await ask(bench)
        assert "was trained on another text" in " ".join(bench.text().split())
        name.value = str(text.rename(tmp_path / "other.en"))
        await bench.pilot.press("enter")
        await bench.until_phase(Phase.FINISHED)


@pytest.mark.parametrize(("next_text", "proposed"), [("", "gone.en"), ("my.txt", "my.txt")])
async def test_the_text_of_the_next_run_is_proposed_else_that_of_the_run(
    tmp_path: Path, next_text: str, proposed: str
) -> None:
    saved_model(tmp_path, "latest", 100, seed=1, train_file="gone.en")
    error = ResumeTextError("cannot read the text gone.en", ": name it with --train-file")
    async with running_app(tmp_path, opener=FakeOpen(error=error), size=SIZE, train_file=next_text) as bench:
        await bench.until_seen("Resume (step 100")
        await bench.pilot.press("r")
        assert (await ask(bench)).value == proposed
        assert not list(bench.app._notifications)


async def test_every_way_to_resume_asks_for_the_text(tmp_path: Path) -> None:
    saved_model(tmp_path, "latest", 100, seed=1, train_file="gone.en")
    opener = FakeOpen(error=ResumeTextError("cannot read the text gone.en", ": name it with --train-file"))
    async with running_app(tmp_path, opener=opener, size=SIZE) as bench:
        await bench.until_seen("Resume (step 100")
        await bench.pilot.press("f4")
        await bench.until_seen("ckpt_latest")
        await bench.pilot.press("r")
        name = await ask(bench)
        opener.error = None
        name.value = "a.txt; b.txt"
        await bench.pilot.press("enter")
        await bench.until_step(101)
        assert opener.requests[-1].as_saved
        assert opener.requests[-1].changes == {"train_file": ("a.txt", "b.txt")}
