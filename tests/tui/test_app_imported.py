"""An imported model in the app: listed and described on the Checkpoints tab, and chatted with."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_core.bridges.importing import import_checkpoint
from gpt_core.errors import ConfigError
from gpt_core.formats.bundle import load_bundle
from gpt_tui.session.models import make_generator
from gpt_tui.tabs.checkpoints.pane import CheckpointsTab
from gpt_tui.tabs.inside.subjects import Held, initial_model
from tests.bridges.hf_samples import write_folder
from tests.tui.app_bench import running_app
from tests.tui.test_app_chat import ask, chat

pytestmark = pytest.mark.slow
pytest.importorskip("tokenizers")


async def test_an_imported_model_is_listed_described_and_chats(tmp_path: Path) -> None:
    write_folder(tmp_path / "gpt2")
    models = tmp_path / "models"
    import_checkpoint(tmp_path / "gpt2", models / "gpt2.safetensors")
    async with running_app(models, size=(120, 40), make=make_generator, max_tokens=12) as bench:
        await bench.pilot.press("f4")
        await bench.until_seen("not here: imported weights")
        tab = bench.app.main.query_one(CheckpointsTab)
        await bench.until(lambda: tab._thread is None)
        assert "bpe, 400 tokens" in bench.text()
        assert "no resume" in bench.text()
        await bench.pilot.press("c")
        await ask(bench, "It was")
        await bench.until(lambda: not chat(bench).replying)
        assert "12 tokens" in bench.text() or "end of text" in bench.text()
        assert "gpt2, step 0" in bench.text()


def test_the_weights_of_an_imported_model_before_its_first_step_are_unknown(tmp_path: Path) -> None:
    write_folder(tmp_path / "gpt2")
    bundle = load_bundle(import_checkpoint(tmp_path / "gpt2", tmp_path / "gpt2.safetensors").path)
    with pytest.raises(ConfigError, match="were imported: those before its first step are unknown"):
        initial_model(Held(0, "gpt2", bundle, bundle.gpt(), 0))
