"""Estimate of a run: equal to the bytes and counts of real runs."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core.bench import hardware as machine
from gpt_core.bench import step_timing
from gpt_core.bench.estimate import (
    FORWARD_SHARE,
    CorpusStats,
    StepTime,
    checkpoint_tensor_bytes,
    count_epoch_steps,
    estimate_memory,
    estimate_run_length,
    read_corpus_stats,
)
from gpt_core.bench.step_timing import (
    MAX_PROBE_FLOPS,
    MAX_S,
    MEASURE_S,
    MIN_PASSES,
    enough,
    measure_step_time,
    probe_workload,
)
from gpt_core.config.presets import preset
from gpt_core.config.settings import Settings
from gpt_core.errors import CorpusError
from gpt_core.formats.checkpoint import write_checkpoint
from gpt_core.kernels import threads
from gpt_core.model.flops import step_flops
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import frozen_names, parameter_count, trained_count
from gpt_core.optim import create_optimizer
from gpt_core.text.data_loader import DataLoader
from gpt_core.text.token_stream import MemorySource, TokenStream
from gpt_core.tokenizers import BOS
from gpt_core.training import precision
from gpt_core.training.events import RunStarted, StepCompleted
from gpt_core.training.precision import PrecisionChoice
from gpt_core.training.setup import OVERFIT_SEQ_LEN, window_length
from gpt_core.training.trainer import Trainer
from tests.core.checkpoint_samples import sample
from tests.core.training_samples import open_run, tiny_settings

TEXTS = CorpusStats("train.en", 3_000_000, "eval.en", 1_000_001, 100_000, True)
MEDIUM = {"d_model": 96, "hidden_size": 384, "vocab_size": 1000, "num_heads": 4, "seq_len": 64, "layers": 3}


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def opened(settings: Settings) -> Trainer:
    return open_run(msgspec.structs.replace(settings, sample_tokens=0))


# ---- memory and disk


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema": 0.9}, {"sync_every_steps": 4}, {"optimizer": "muon", "micro_batch_size": 2}],
    ids=["plain", "averaged", "local steps", "muon, four micro-batches"],
)
def test_a_run_allocates_the_estimated_memory(tmp_path: Path, changes: dict[str, object]) -> None:
    settings = tiny_settings(tmp_path, **MEDIUM, sample_tokens=0, eval_every_steps=0, **changes)
    opened(settings).run.store.close()  # pieces and tokens are in the cache now
    tracemalloc.start()
    try:
        trainer = open_run(msgspec.structs.replace(settings, models_dir=str(tmp_path / "other")))
        with contextlib.closing(trainer.events()) as events:
            next(event for event in events if isinstance(event, StepCompleted))
            held = tracemalloc.get_traced_memory()[0]
            trainer.requests.stop(save=False)
    finally:
        tracemalloc.stop()
    memory = estimate_memory(settings, threads.get_threads())
    assert memory.kv_cache == 0
    assert held == pytest.approx(memory.state + memory.activations, rel=0.05)


def test_shuffled_documents_take_the_estimated_memory() -> None:
    count = 200_000
    ids = np.tile(np.array([BOS, 10, 11], np.int32), count)
    text = TokenStream(MemorySource(ids), 0, len(ids), len(ids), np.ones(1000, np.uint8), "", "", count)
    tracemalloc.start()
    try:
        loader = DataLoader(text, 8, seed=0, documents=True)
        for epoch in range(3):
            loader.text_of(epoch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    texts = TEXTS._replace(documents=count)
    memory = estimate_memory(Settings(shuffle="documents"), 2, texts)
    assert memory.documents == pytest.approx(peak, rel=0.2)  # without its stack, NumPy reuses no temporary array
    assert memory.total == estimate_memory(Settings(), 2, texts).total + memory.documents
    assert estimate_memory(Settings(shuffle="documents", overfit_tiny=True), 2, texts).documents == 0


def test_a_checkpoint_has_the_estimated_size(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, **MEDIUM)
    write_checkpoint(tmp_path / "some.safetensors", sample(settings))
    assert (tmp_path / "some.safetensors").stat().st_size == pytest.approx(checkpoint_tensor_bytes(settings), rel=0.02)


def test_mini_takes_690_mb_on_disk_and_995_mb_of_training_state() -> None:
    settings = preset("mini")
    assert checkpoint_tensor_bytes(settings) == pytest.approx(690e6, rel=0.002)
    assert estimate_memory(settings, 2).state == pytest.approx(995e6, rel=0.002)


def test_free_memory_is_bounded_by_the_containers_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {"/proc/meminfo": ["MemTotal:  999 kB", "MemAvailable:  500 kB"]}
    monkeypatch.setattr(machine, "read_lines", lambda path: files.get(path, []))
    monkeypatch.setattr(machine.cgroups, "free_memory", lambda: None)
    assert machine.free_memory() == 500 * 1024
    monkeypatch.setattr(machine.cgroups, "free_memory", lambda: 200_000)
    assert machine.free_memory() == 200_000
    monkeypatch.setattr(machine.cgroups, "free_memory", lambda: None)
    assert machine.free_memory() == 500 * 1024
    files.clear()
    assert machine.free_memory() is None


# ---- text and steps


def test_tokens_are_counted_in_the_cache_and_estimated_without_one(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    guess = read_corpus_stats(settings)
    trainer = opened(settings)
    trainer.run.store.close()
    found = read_corpus_stats(settings)
    assert (guess.counted, found.counted) == (False, True)
    assert found.train_tokens == len(trainer.run.texts.train)
    assert trainer.run.texts.held_out is not None
    assert found.eval_tokens == pytest.approx(len(trainer.run.texts.held_out), rel=0.1)
    assert 0.3 < guess.train_tokens / found.train_tokens < 3  # a few sentences over and over are not English prose


def test_a_cache_of_another_text_or_vocabulary_is_ignored(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    opened(settings).run.store.close()
    assert not read_corpus_stats(msgspec.structs.replace(settings, vocab_size=310)).counted
    assert not read_corpus_stats(msgspec.structs.replace(settings, document="line")).counted
    Path(settings.train_file).write_text("Another text.\n")
    assert not read_corpus_stats(settings).counted


def test_held_out_tokens_are_not_trained_on(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, eval_file="", val_frac=0.25)
    found = read_corpus_stats(settings)
    assert found.eval_title == ""
    assert found.eval_tokens / (found.train_tokens + found.eval_tokens) == pytest.approx(0.25, abs=0.01)


def test_no_more_tokens_are_held_out_of_a_long_text_than_by_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt_core.text.token_stream.MAX_HELD_OUT_TOKENS", 40)
    settings = tiny_settings(tmp_path, eval_file="", val_frac=0.25)
    trainer = opened(settings)
    trainer.run.store.close()
    assert trainer.run.texts.held_out is not None
    assert len(trainer.run.texts.held_out) <= 40
    assert read_corpus_stats(settings).eval_tokens == 40


def test_an_unreadable_text_raises_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere\.en"):
        read_corpus_stats(tiny_settings(tmp_path, train_file=str(tmp_path / "nowhere.en")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"the folder .* has no text files"):
        read_corpus_stats(tiny_settings(tmp_path, train_file=str(tmp_path / "empty")))


def test_the_statistics_of_a_text_of_several_files_are_those_of_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_bytes("Über die Brücke.\n\nZwei.\n\n".encode("utf-16"))
    (folder / "b.jsonl").write_text('{"text": "One record of the text."}\n' * 40)
    settings = tiny_settings(tmp_path, train_file=str(folder), eval_file="", val_frac=0.1)
    guess = read_corpus_stats(settings)
    assert (guess.train_title, guess.files, guess.documents, guess.documents_counted) == ("texts", 2, 42, False)
    assert (guess.words, guess.counted) == ("Über die Brücke. / Zwei.", False)
    trainer = opened(settings)
    trainer.run.store.close()
    text, held_out = trainer.run.texts.train, trainer.run.texts.held_out
    assert held_out is not None
    found = read_corpus_stats(settings)
    assert not found.counted  # the run alone divides the text
    assert found.train_tokens + found.eval_tokens == len(text) + len(held_out)
    assert found.documents == text.documents + held_out.documents
    assert found.bytes_per_token == pytest.approx((text.bytes + held_out.bytes) / (len(text) + len(held_out)))


def test_an_epoch_has_the_steps_of_a_real_run(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_epochs=3)
    trainer = opened(settings)
    with contextlib.closing(trainer.events()) as events:
        started = next(events)
        trainer.requests.stop(save=False)
    assert isinstance(started, RunStarted)
    texts = read_corpus_stats(settings)
    assert count_epoch_steps(settings, texts.train_tokens) == started.steps_per_epoch
    assert estimate_run_length(settings, texts, StepTime(1.0, 0.0)).max_steps == started.max_steps


def test_epoch_time_includes_evaluations() -> None:
    settings = Settings(seq_len=100, batch_size=10, eval_every_steps=300, max_epochs=7)
    length = estimate_run_length(settings, TEXTS, StepTime(passes_s=3.0, update_s=0.5))
    assert length.epoch_steps == 1000
    evaluations, forward_s = 1 + 3, 3.0 * FORWARD_SHARE / 1000  # at the end of the epoch, at 300, 600, 900
    assert length.epoch_s == pytest.approx(3500 + evaluations * 100_000 * forward_s)
    part = estimate_run_length(msgspec.structs.replace(settings, eval_tokens=2000), TEXTS, StepTime(3.0, 0.5))
    assert part.epoch_s == pytest.approx(3500 + (100_000 + 3 * 2000) * forward_s)
    long = estimate_run_length(msgspec.structs.replace(settings, eval_tokens=10**9), TEXTS, StepTime(3.0, 0.5))
    assert long.epoch_s == length.epoch_s
    assert length.max_steps == 7000
    assert length.max_s == pytest.approx(7 * length.epoch_s)


def test_max_steps_and_tiny_overfit_bound_a_run() -> None:
    time = StepTime(1.0, 0.0)
    assert estimate_run_length(Settings(max_steps=50), TEXTS, time).max_steps == 50
    overfit = Settings(overfit_tiny=True, overfit_steps=40, seq_len=1024)
    assert estimate_run_length(overfit, TEXTS, time) == (0, 40, 0.0, 40.0)
    assert window_length(overfit) == OVERFIT_SEQ_LEN


# ---- timing


def test_a_small_model_is_timed_in_full_and_a_large_one_in_part() -> None:
    nano, mini = preset("nano"), preset("mini")
    assert probe_workload(nano) == (nano.shape, 16, 64, "adamw", False)
    part = probe_workload(mini)
    assert part.flops <= MAX_PROBE_FLOPS
    assert (part.batch, part.time) == (1, 1024)
    assert part.shape.layers < mini.layers


@pytest.mark.parametrize(
    "changes",
    [
        {"seq_len": 1 << 20},
        {"layers": 1024},
        {"batch_size": 1 << 20, "micro_batch_size": 0},
        {"d_model": 65536, "num_heads": 1, "hidden_size": 262144},
    ],
)
def test_every_configuration_has_a_workload_within_the_limit(changes: dict[str, int]) -> None:
    part = probe_workload(Settings(**changes))  # type: ignore[arg-type]
    assert part.flops <= MAX_PROBE_FLOPS or (part.batch, part.shape.layers, part.time) == (1, 1, 1)


def test_the_time_of_a_part_is_scaled_by_flops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, layers=4, batch_size=16, micro_batch_size=8)
    whole = step_timing.Workload(settings.shape, 16, settings.seq_len, "adamw").flops
    monkeypatch.setattr(step_timing, "MAX_PROBE_FLOPS", whole / 7)
    part = probe_workload(settings)
    assert part.flops < whole / 7
    seconds = {"forward_and_backward": part.flops * 1e-9, "update": 0.25}
    monkeypatch.setattr(step_timing, "seconds_of", lambda action: (action(), seconds[action.__name__])[1])
    monkeypatch.setattr(step_timing, "enough", lambda passes, elapsed_s: len(passes) == 3)
    time = measure_step_time(settings)
    assert time is not None
    assert time.passes_s == pytest.approx(whole * 1e-9)
    assert time.update_s >= 0.25


def test_the_step_time_has_the_format_of_the_products_that_were_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(step_timing, "enough", lambda passes, elapsed_s: len(passes) == 2)
    timed: list[str] = []
    monkeypatch.setattr(
        step_timing, "GPT", lambda weights, products: (timed.append(products), GPT(weights, products))[1]
    )
    for products in ("float32", "bfloat16"):
        time = measure_step_time(tiny_settings(tmp_path, precision=products))
        assert time is not None
        assert time.precision.products == products
    assert timed == ["float32", "bfloat16"]


def test_an_update_is_timed_in_the_format_that_was_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The products of Muon, too, have the format of the run."""
    monkeypatch.setattr(step_timing, "enough", lambda passes, elapsed_s: len(passes) == 2)
    chosen = PrecisionChoice("bfloat16", "2.0 times as fast as float32")
    monkeypatch.setattr(precision, "choose_precision", lambda settings: chosen)
    formats: list[str] = []
    monkeypatch.setattr(
        step_timing, "create_optimizer",
        lambda weights, settings: (formats.append(settings.precision), create_optimizer(weights, settings))[1],
    )  # fmt: skip
    measure_step_time(tiny_settings(tmp_path, precision="auto", optimizer="muon"))
    assert formats == ["bfloat16"]


def test_timing_writes_no_file_and_stops_between_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(tmp_path)
    before, taken = sorted(tmp_path.rglob("*")), []
    monkeypatch.setattr(step_timing, "seconds_of", lambda action: (action(), taken.append(action.__name__), 0.001)[2])
    assert measure_step_time(settings, stopped=lambda: len(taken) >= 4) is None
    assert taken == ["forward_and_backward", "update"] * 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("count", [1, 2])
def test_a_step_is_timed_on_the_threads_of_the_run(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(step_timing, "seconds_of", lambda _action: (seen.append(threads.get_threads()), 0.001)[1])
    threads.set_threads(3 - count)
    measure_step_time(tiny_settings(tmp_path, threads=count), stopped=lambda: len(seen) >= 2)
    assert seen == [count, count]


def test_timing_ends_after_a_second_of_passes_or_its_time_limit() -> None:
    assert not enough([], 100.0)
    assert not enough([MAX_S + 1], MAX_S + 1)  # never the first alone
    assert enough([0.5, MAX_S], MAX_S + 0.5)
    assert not enough([0.5, *[MEASURE_S] * (MIN_PASSES - 1)], MAX_S)
    assert enough([0.5, *[MEASURE_S] * MIN_PASSES], MAX_S)
    assert not enough([0.1] * 9, 0.9)


def test_timed_passes_stay_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinities and denormals would be timed in place of normal numbers."""
    seen = []
    real = step_timing.GPT.loss_and_gradients

    def noted(self, *arguments):  # type: ignore[no-untyped-def]
        found = real(self, *arguments)
        seen.append((found[0] / found[1], float(np.abs(arguments[2].flat).max())))
        return found

    monkeypatch.setattr(step_timing.GPT, "loss_and_gradients", noted)
    monkeypatch.setattr(step_timing, "enough", lambda passes, elapsed_s: len(passes) == 3)
    measure_step_time(tiny_settings(tmp_path))
    assert len(seen) == 3
    assert all(0.1 < loss < 20 and 1e-6 < largest < 1e3 for loss, largest in seen)


def test_the_statistics_of_the_texts_name_texts_that_are_not_used_and_refuse_binary_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_corpus_stats(preset("nano")).note == ""
    book = tmp_path / "data" / "book.txt"
    book.parent.mkdir()
    book.write_text("It was.\n" * 50)
    assert read_corpus_stats(preset("nano")).note.startswith("data/ has book.txt, but not named")
    named = msgspec.structs.replace(preset("nano"), train_file=str(book))
    assert read_corpus_stats(named).note == ""
    book.write_bytes("It was.\n".encode("utf-16-le") * 50)
    with pytest.raises(CorpusError, match="is not plain text: got UTF-16 text"):
        read_corpus_stats(named)
    assert read_corpus_stats(msgspec.structs.replace(named, allow_binary=True)).train_bytes == book.stat().st_size


def test_the_step_time_counts_what_frozen_parts_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_timing, "seconds_of", lambda action: 1.0)
    freeze = "embedding, layers 0"
    full, part = (measure_step_time(tiny_settings(tmp_path, freeze=value)) for value in ("", freeze))
    assert full is not None
    assert part is not None
    shape, frozen = tiny_settings(tmp_path).shape, frozen_names(tiny_settings(tmp_path).shape, freeze)
    saved = step_flops(shape, 8, 32, frozen).total / step_flops(shape, 8, 32).total
    assert part.passes_s == pytest.approx(saved * full.passes_s)
    assert part.update_s == pytest.approx(trained_count(shape, freeze) / parameter_count(shape) * full.update_s)
