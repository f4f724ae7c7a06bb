"""Baselines of a text: their values against independent ones, their bounds, their cache and their thread."""

from __future__ import annotations

import lzma
import math
import threading
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gpt_core.text import baselines
from gpt_core.text.baselines import (
    Baselines,
    baselines_key,
    counted_blocks,
    entropy,
    measure_baselines,
    read_baselines,
    write_baselines,
)
from gpt_core.text.token_stream import TokenStream, tokens_of_documents
from gpt_core.tokenizers.pieces import PieceTokenizer
from gpt_core.training import baselines as meter
from gpt_core.training import events as ev
from gpt_core.training.trainer import Trainer
from tests.core.training_samples import losses, of_kind, open_run, tiny_settings, train

TEXTS = [b"It was a truth that nobody doubted.", b"She walked to the gate.", b"It was kind."] * 40
TOKENIZER = PieceTokenizer.train(TEXTS, 300)
STREAM = tokens_of_documents(TEXTS, TOKENIZER)
MEASURED = Baselines(5.7, 4.1, 2.5, {"xz": 2.4})


def measured(train_text: TokenStream = STREAM, held_out: TokenStream = STREAM) -> Baselines:
    found = measure_baselines(train_text, held_out, TOKENIZER)
    assert found is not None
    return found


def with_own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "caches"))


def test_the_entropy_of_equal_counts_is_the_logarithm_of_their_number():
    assert entropy(np.full(8, 5)) == pytest.approx(math.log(8))
    assert entropy(np.array([7, 0, 0])) == 0.0


def test_the_baselines_of_tokens_equal_those_of_their_definition():
    found, ids = measured(), STREAM.read(0, len(STREAM)).tolist()
    shares = [count / len(ids) for count in Counter(ids).values()]
    assert found.uniform == pytest.approx(math.log(300))
    assert found.unigram == pytest.approx(-sum(share * math.log(share) for share in shares))
    assert found.bytes_per_token == pytest.approx(sum(map(len, TEXTS)) / (len(ids) - 1))


def test_the_bytes_per_token_are_those_of_the_tokens_to_predict():
    text = replace(STREAM, start=1, count=len(STREAM) - 1)  # begins with a token of text
    first = len(TOKENIZER.token_bytes(int(text.read(0, 1)[0])))
    assert first > 0
    assert measured(held_out=text).bytes_per_token == (text.bytes - first) / (len(text) - 1)


def test_a_text_without_bytes_to_predict_is_not_compressed():
    piece = TOKENIZER.token_bytes(int(STREAM.read(len(STREAM) - 2, 1)[0]))
    end = replace(STREAM, start=len(STREAM) - 2, count=2, bytes=len(piece))  # the last piece of a document, and its end
    assert end.target_bytes == 0
    assert measured(held_out=end).compressed == {}


def test_a_compressor_that_does_not_make_the_text_smaller_is_left_out():
    assert measured(held_out=tokens_of_documents(TEXTS[:1], TOKENIZER)).compressed == {}


def test_a_compressor_gets_every_document_and_is_scored_per_byte_of_the_text():
    data = b"".join(text + b"\n" for text in TEXTS)
    expected = 8 * len(lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9}])) / STREAM.bytes
    assert measured().compressed["xz"] == pytest.approx(expected, rel=0.05)
    assert measured().compressed_bytes == 0


def test_ppmd_predicts_a_text_better_than_xz():
    pytest.importorskip("pyppmd")
    assert measured().compressed["ppmd"] < measured().compressed["xz"]


def test_without_the_package_there_is_only_xz(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pyppmd", None)
    assert list(measured().compressed) == ["xz"]


def test_a_long_eval_text_is_compressed_from_its_start_to_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(baselines, "MAX_COMPRESSED_BYTES", 4096)
    found = measured(STREAM, tokens_of_documents(TEXTS * 3, TOKENIZER))
    assert found.compressed_bytes == 4096
    assert found.compressed["xz"] > 8 * 60 / 4096


def test_the_tokens_of_a_long_training_text_are_counted_at_regular_intervals():
    blocks = list(counted_blocks(10 * baselines.MAX_COUNTED_TOKENS))
    starts = [start for start, _ in blocks]
    assert sum(count for _, count in blocks) <= baselines.MAX_COUNTED_TOKENS + baselines.BLOCK_TOKENS
    assert len({later - earlier for earlier, later in pairwise(starts)}) == 1
    assert starts[-1] > 9 * baselines.MAX_COUNTED_TOKENS


def test_measuring_ends_early_when_it_is_stopped():
    assert measure_baselines(STREAM, STREAM, TOKENIZER, lambda: True) is None


def test_a_cache_holds_what_was_written_and_other_texts_have_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with_own_cache(tmp_path, monkeypatch)
    path, other = tmp_path / "eval.en", tokens_of_documents(TEXTS[:50], TOKENIZER)
    key = baselines_key(STREAM, STREAM, TOKENIZER)
    write_baselines(path, key, "ab" * 32, MEASURED)
    assert read_baselines(path, key) == MEASURED
    assert read_baselines(path, baselines_key(STREAM, other, TOKENIZER)) is None
    assert read_baselines(path, baselines_key(other, STREAM, TOKENIZER)) is None


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b'{"format":"x"}', b"[" * 10_000])
def test_a_damaged_cache_counts_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes):
    with_own_cache(tmp_path, monkeypatch)
    key = baselines_key(STREAM, STREAM, TOKENIZER)
    write_baselines(tmp_path / "eval.en", key, "ab" * 32, MEASURED)
    next(tmp_path.glob("eval.en.baselines-*")).write_bytes(damage)
    assert read_baselines(tmp_path / "eval.en", key) is None


def test_a_new_version_of_the_eval_text_removes_the_baselines_of_the_old_one(tmp_path: Path):
    settings = tiny_settings(tmp_path, max_steps=3)
    complete(open_run(settings))
    assert len(list(tmp_path.glob("eval.en.baselines-*"))) == 1
    Path(settings.eval_file).write_text("She walked to the gate, and there she waited.\n\nHe said little.\n")
    train(settings, overwrite=True)
    names = {path.name for path in tmp_path.glob("eval.en.baselines-*")}
    assert len(names) <= 1  # that of the new text, if it was measured before the end of the run


def complete(trainer: Trainer) -> list[ev.AnyEvent]:
    """Return the events of a run that waits for its baselines after each step."""
    events = []
    for event in trainer.events():
        events.append(event)
        thread = trainer._baselines._thread
        if thread is not None and thread.ident is not None:
            thread.join()
    return events


def test_a_run_measures_its_baselines_once_and_the_next_one_reads_them_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = tiny_settings(tmp_path, max_steps=4)
    events = complete(open_run(settings))
    (first,) = of_kind(events, ev.BaselinesMeasured)
    assert 1 <= first.step <= 2

    def fail(*_arguments: object) -> Baselines:
        raise AssertionError("measured again")

    monkeypatch.setattr(meter, "measure_baselines", fail)
    again = train(settings, overwrite=True)
    assert [type(event) for event in again[:2]] == [ev.RunStarted, ev.BaselinesMeasured]
    assert again[1] == ev.BaselinesMeasured(0, *[getattr(first, name) for name in first.__struct_fields__[1:]])
    resumed = train(tiny_settings(tmp_path, max_steps=8), tmp_path / "models" / "ckpt_latest.safetensors")
    assert isinstance(resumed[1], ev.BaselinesMeasured)


def test_the_first_step_does_not_wait_for_the_baselines_and_its_losses_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = losses(train(tiny_settings(tmp_path, max_steps=4)))
    for cache in tmp_path.glob("*.baselines-*"):
        cache.unlink()
    seen: list[str] = []
    original = meter.BaselineMeter._measure

    def measure(self: meter.BaselineMeter) -> None:
        seen.append(f"measured after step {self._run.state.step}")
        original(self)

    monkeypatch.setattr(meter.BaselineMeter, "_measure", measure)
    assert losses(complete(open_run(tiny_settings(tmp_path, max_steps=4), overwrite=True))) == expected
    assert seen == ["measured after step 1"]


def test_a_run_that_ends_stops_the_measurement_and_leaves_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def wait(_train: object, _held_out: object, _tokenizer: object, is_stopping: object) -> None:
        assert callable(is_stopping)
        while not is_stopping():
            pass

    monkeypatch.setattr(meter, "measure_baselines", wait)
    assert not of_kind(train(tiny_settings(tmp_path, max_steps=3)), ev.BaselinesMeasured)
    assert "baselines" not in {thread.name for thread in threading.enumerate()}


def test_a_self_test_has_no_baselines(tmp_path: Path):
    settings = tiny_settings(tmp_path, overfit_tiny=True, overfit_lines=4, overfit_steps=2)
    assert not of_kind(complete(open_run(settings)), ev.BaselinesMeasured)
