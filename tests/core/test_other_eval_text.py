"""The best score of a run that is resumed with another eval text, part of it or metric."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from gpt_core.formats.checkpoint import peek_checkpoint, read_checkpoint, write_checkpoint
from gpt_core.training import events as ev
from tests.core.training_samples import LATEST, of_kind, open_run, tiny_settings, train


def test_another_eval_text_begins_a_new_best_and_a_new_patience(tmp_path: Path) -> None:
    """An eval text without a single known byte pair has a worse score than any of the first text."""
    changes = {"eval_every_steps": 5, "patience": 4, "improvement_threshold": 0.0}
    train(tiny_settings(tmp_path, max_steps=30, **changes))
    before = read_checkpoint(tmp_path / LATEST).state
    other = tmp_path / "other.en"
    other.write_text("zqxj vkwq jjxz qqkv wvzx.\n\n" * 40)
    settings = tiny_settings(tmp_path, max_steps=36, **changes, eval_file=str(other))
    events = train(settings, tmp_path / LATEST)
    started, scores = of_kind(events, ev.RunStarted)[0], of_kind(events, ev.EvalCompleted)
    assert "another eval text" in started.best_restarted
    assert f"step {before.best_step}" in started.best_restarted
    assert scores[0].is_best
    assert scores[0].accuracy < before.best_accuracy
    best = peek_checkpoint(tmp_path / "models/best_model.safetensors").state
    assert best.step == max(score.step for score in scores if score.is_best) >= 35
    assert best.eval_sha256 == hashlib.sha256(other.read_bytes()).hexdigest() != before.eval_sha256
    again = train(tiny_settings(tmp_path, max_steps=40, **changes, eval_file=str(other)), tmp_path / LATEST)
    assert of_kind(again, ev.RunStarted)[0].best_restarted == ""


def test_a_text_that_changed_in_place_and_another_held_out_part_are_other_eval_texts(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=5)
    train(settings)
    text = Path(settings.eval_file)

    def restarted(**changes: object) -> bool:
        run = open_run(msgspec.structs.replace(settings, **changes), resume=tmp_path / LATEST).run
        run.store.close()
        return bool(run.best_restarted)

    assert not restarted(max_steps=9)
    assert not restarted(eval_file=str(text.rename(tmp_path / "renamed.en")))
    text.write_text("A short text.\n")
    assert restarted()
    held_out = tiny_settings(tmp_path, max_steps=5, eval_file="", val_frac=0.2, models_dir=str(tmp_path / "held_out"))
    text.unlink()
    train(held_out)
    for val_frac, expected in ((0.2, False), (0.4, True)):
        again = msgspec.structs.replace(held_out, val_frac=val_frac)
        run = open_run(again, resume=tmp_path / "held_out/ckpt_latest.safetensors").run
        run.store.close()
        assert bool(run.best_restarted) is expected


def test_another_part_of_the_eval_text_begins_a_new_best(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=5)
    train(settings)
    for eval_tokens, expected in ((0, ""), (10_000, ""), (64, "another part of the eval text")):
        run = open_run(msgspec.structs.replace(settings, eval_tokens=eval_tokens), resume=tmp_path / LATEST).run
        run.store.close()
        assert run.best_restarted.partition(":")[0] == expected


def test_another_eval_text_is_named_as_that_where_its_part_is_another_too(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=5)
    train(settings)
    Path(settings.eval_file).write_text("Another text.\n\n" * 5000)
    run = open_run(msgspec.structs.replace(settings, eval_tokens=64), resume=tmp_path / LATEST).run
    run.store.close()
    assert run.state.eval_windows > 0
    assert run.best_restarted.partition(":")[0] == "another eval text"


@pytest.mark.parametrize(("changed", "expected"), [({}, False), ({"eval_file": "other.en"}, True)])
def test_a_checkpoint_without_the_hash_of_its_eval_text_keeps_its_best_unless_another_text_is_named(
    tmp_path: Path, changed: dict[str, str], expected: bool
) -> None:
    settings = tiny_settings(tmp_path, max_steps=5)
    train(settings)
    checkpoint = read_checkpoint(tmp_path / LATEST)
    checkpoint.state.eval_sha256 = ""
    write_checkpoint(tmp_path / LATEST, checkpoint)
    (tmp_path / "other.en").write_text("Another text, not a long one.\n")
    changes = {name: str(tmp_path / value) for name, value in changed.items()}
    run = open_run(msgspec.structs.replace(settings, **changes), resume=tmp_path / LATEST).run
    run.store.close()
    assert bool(run.best_restarted) is expected


def test_a_resumed_run_with_another_best_metric_needs_a_known_best_loss(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=5)
    train(settings)
    by_loss = msgspec.structs.replace(settings, best_metric="loss")
    run = open_run(by_loss, resume=tmp_path / LATEST).run
    run.store.close()
    assert run.best_restarted == ""
    checkpoint = read_checkpoint(tmp_path / LATEST)
    checkpoint.state.best_loss = None  # as in checkpoints of earlier versions
    write_checkpoint(tmp_path / LATEST, checkpoint)
    run = open_run(by_loss, resume=tmp_path / LATEST).run
    run.store.close()
    assert "unknown" in run.best_restarted
