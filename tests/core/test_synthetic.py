"""The generated text `induction`, the preset that trains on it, and the induction head that forms there."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec
import pytest

from gpt_core.config.presets import preset
from gpt_core.config.resolve import read_overrides
from gpt_core.errors import CorpusError, ResumeTextError
from gpt_core.text.synthetic import INDUCTION, REPEATS, induction_text, synthetic_file
from gpt_core.training import events as ev
from gpt_core.training import setup
from gpt_core.training.request import RunRequest, resolve_request
from gpt_core.training.setup import text_sources
from tests.core.training_samples import LATEST, losses, of_kind, write_texts

SMALL = {"d_model": 16, "hidden_size": 16, "num_heads": 2, "eval_every_steps": 2, "eval_tokens": 1024}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a cache folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small_run(folder: Path, **changes: object) -> RunRequest:
    """Return a run of the preset with a smaller model."""
    values = {**SMALL, "models_dir": str(folder / "models"), "max_steps": 3} | changes
    return RunRequest(msgspec.structs.replace(preset("induction"), **values), "induction")


def test_each_line_is_a_random_sequence_of_different_letters_that_is_repeated() -> None:
    lines = induction_text().decode().splitlines()
    parts = [line[: len(line) // REPEATS] for line in lines]
    assert all(line == part * REPEATS and len(set(part)) == len(part) for line, part in zip(lines, parts, strict=True))
    assert {len(part) for part in parts} == set(range(4, 21))
    assert len(set(parts)) > 0.99 * len(parts)
    assert re.fullmatch("[a-z]+", "".join(parts[:1000]))


def test_the_text_is_the_same_everywhere() -> None:
    digest = hashlib.sha256(induction_text()).hexdigest()
    assert digest == "4a890eb3234018fb932ddbe005339d17ee1fe4e601b9f8c8191bffef33d4fd67"


def test_the_file_is_in_the_cache_folder_and_written_again_if_it_was_changed(cache: Path) -> None:
    path = synthetic_file(INDUCTION)
    assert path == cache / "gpt-tui/induction.txt"
    written = path.stat().st_mtime_ns
    assert synthetic_file(INDUCTION).stat().st_mtime_ns == written
    path.write_bytes(b"abc")
    assert synthetic_file(INDUCTION).read_bytes() == induction_text()


def test_without_a_folder_for_it_the_error_names_what_to_set(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("a file")
    with pytest.raises(CorpusError, match=r"cannot be written to .*induction\.txt.*; set XDG_CACHE_HOME"):
        synthetic_file(INDUCTION)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "")
    with pytest.raises(CorpusError, match="home folder is unknown; set XDG_CACHE_HOME"):
        synthetic_file(INDUCTION)


def test_the_preset_trains_on_it_unless_a_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    train_file, _ = write_texts(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    text, held_out = text_sources(resolve_request(read_overrides("induction")).settings)
    assert (text.title, held_out) == ("induction.txt", None)
    text, _ = text_sources(
        resolve_request(read_overrides("induction", options={"train_file": str(train_file)})).settings
    )
    assert text.title == "train.en"
    text, _ = text_sources(resolve_request(read_overrides("nano")).settings)
    assert text.title == "train.en"


@pytest.mark.slow
def test_a_resumed_run_generates_the_same_text(tmp_path: Path, cache: Path) -> None:
    events = list(setup.open_run(small_run(tmp_path)).events())
    started = of_kind(events, ev.RunStarted)[0]
    assert (Path(started.train_file).name, started.eval_file) == ("induction.txt", started.train_file)
    for path in (cache / "gpt-tui").iterdir():
        path.unlink()
    request = resolve_request(read_overrides(options={"max_steps": 6}), resume=tmp_path / LATEST)
    assert len(losses(list(setup.open_run(request).events()))) == 3


@pytest.mark.slow
def test_a_resume_with_another_text_is_refused_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(setup.open_run(small_run(tmp_path)).events())
    monkeypatch.setattr("gpt_core.training.setup.synthetic_file", lambda _: write_texts(tmp_path)[0])
    with pytest.raises(ResumeTextError, match="was trained on another text"):
        setup.open_run(resolve_request(read_overrides(options={"max_steps": 6}), resume=tmp_path / LATEST))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_induction_head_appears_in_the_second_layer_as_the_loss_falls(tmp_path: Path, seed: int) -> None:
    request = resolve_request(
        read_overrides("induction", options={"models_dir": str(tmp_path / "models"), "seed": seed})
    )
    trainer = setup.open_run(request)
    evaluations: list[ev.EvalCompleted] = []
    heads: list[ev.HeadsScored] = []
    found: ev.InductionHeadAppeared | None = None
    for event in trainer.events():
        if isinstance(event, ev.EvalCompleted):
            evaluations.append(event)
        elif isinstance(event, ev.HeadsScored):
            heads.append(event)
        elif isinstance(event, ev.InductionHeadAppeared):
            found = event
            trainer.requests.stop(save=False)
    assert found is not None
    assert found.layer == 1
    assert found.step < 0.75 * request.settings.max_steps
    assert max(max(row) for row in heads[0].induction) < 0.1  # type: ignore[type-var]
    assert max(heads[-1].previous_token[0]) > 0.2  # type: ignore[type-var]
    assert evaluations[-1].loss < evaluations[len(evaluations) // 3].loss - 0.3
