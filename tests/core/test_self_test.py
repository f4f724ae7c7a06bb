"""Verdict of the self-test: how many of its lines greedy decoding reproduces."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gpt_core import tokenizers
from gpt_core.config.settings import Settings
from gpt_core.errors import CorpusError
from gpt_core.generation.generator import Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.model.gpt import GPT
from gpt_core.text.overfit_data import OverfitLoader
from gpt_core.text.token_stream import tokens_of_documents
from gpt_core.tokenizers import BOS, EOS
from gpt_core.training import events as ev
from gpt_core.training.metrics_log import read_metrics
from gpt_core.training.run import Run
from gpt_core.training.self_test import reproduced
from gpt_core.training.trainer import Trainer
from tests.core.training_samples import events_with, losses, of_kind, open_run, tiny_settings

LINES = [
    "The cat sat on the mat.", "The cat ran home.", "A dog barked all night long.", "Rain fell on the old roof.",
    "She read a letter.", "No one answered the door.",
]  # fmt: skip


def overfit(folder: Path, steps: int, **changes: object) -> Settings:
    settings = tiny_settings(
        folder, overfit_tiny=True, overfit_lines=len(LINES), overfit_steps=steps, d_model=32, hidden_size=64,
        sample_tokens=8, batch_size=6, micro_batch_size=0, **changes,
    )  # fmt: skip
    Path(settings.train_file).write_text("\n".join(LINES) + "\n")
    return settings


def verdict_of(events: list[ev.AnyEvent]) -> ev.LinesReproduced:
    (found,) = of_kind(events, ev.LinesReproduced)
    return found


def greedily_reproduced(trainer: Trainer) -> list[bool]:
    """Decode the rest of each line token by token."""
    generator = Generator(trainer.parameters, trainer.tokenizer)
    greedy = Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=200)
    lines = trainer.run.texts.windows
    assert isinstance(lines, OverfitLoader)
    found = []
    for number in range(lines.windows_per_epoch):
        ids, given = lines.line(number)
        rest = [*generator.tokens(ids[:given].tolist(), greedy)]
        found.append([*rest, EOS] == ids[given:].tolist())
    return found


@pytest.mark.parametrize("steps", [1, 60, pytest.param(250, marks=pytest.mark.slow)])
def test_the_verdict_counts_the_lines_that_greedy_decoding_reproduces(tmp_path: Path, steps: int) -> None:
    trainer = open_run(overfit(tmp_path, steps))
    events = list(trainer.events())
    expected = greedily_reproduced(trainer)
    lines = trainer.run.texts.windows
    assert isinstance(lines, OverfitLoader)
    assert list(reproduced(GPT(trainer.parameters), lines)) == expected
    found = verdict_of(events)
    assert (found.step, found.reproduced, found.lines) == (steps, sum(expected), len(LINES))
    assert found.works == (sum(expected) >= 0.9 * len(LINES))
    if steps == 1:
        assert not found.works
    if steps == 250:
        assert found.reproduced == len(LINES)
    assert list(read_metrics(tmp_path / "models/metrics.jsonl"))[-3] == found


def test_after_the_verdict_a_sample_begins_one_of_the_lines(tmp_path: Path) -> None:
    events = list(open_run(overfit(tmp_path, 2)).events())
    sample = events[-2]
    assert isinstance(events[-3], ev.LinesReproduced)
    assert isinstance(sample, ev.SampleWritten)
    assert sample.step == 2
    assert any(line.startswith(sample.prompt) for line in LINES)


def test_an_evaluation_requested_during_a_self_test_checks_its_lines(tmp_path: Path) -> None:
    (tmp_path / "checked").mkdir()
    (tmp_path / "plain").mkdir()
    trainer, plain = open_run(overfit(tmp_path / "checked", 4)), open_run(overfit(tmp_path / "plain", 4))
    events = events_with(trainer, 2, trainer.requests.evaluate)
    during, at_end = of_kind(events, ev.LinesReproduced)
    assert (during.step, during.lines, during.at_end) == (2, len(LINES), False)
    assert (at_end.step, at_end.at_end) == (4, True)
    assert [sample.step for sample in of_kind(events, ev.SampleWritten)] == [0, 2, 4]
    losses = [event.loss for event in of_kind(events, ev.StepCompleted)]
    assert losses == [event.loss for event in of_kind(list(plain.events()), ev.StepCompleted)]


def test_an_evaluation_requested_after_the_last_step_of_a_self_test_adds_no_second_sample(tmp_path: Path) -> None:
    trainer = open_run(overfit(tmp_path, 2))
    events = events_with(trainer, 2, trainer.requests.evaluate)
    assert [(found.step, found.at_end) for found in of_kind(events, ev.LinesReproduced)] == [(2, False), (2, True)]
    assert [sample.step for sample in of_kind(events, ev.SampleWritten)] == [0, 2]


def test_a_stopped_self_test_has_no_verdict(tmp_path: Path) -> None:
    trainer = open_run(overfit(tmp_path, 100))
    events = []
    for event in trainer.events():
        events.append(event)
        if event.step == 2:
            trainer.requests.stop()
    assert isinstance(events[-1], ev.RunFinished)
    assert not of_kind(events, ev.LinesReproduced)


def test_a_text_without_a_document_is_refused() -> None:
    text = tokens_of_documents([b"abc"], tokenizers.train("pieces", [b"q"], 300))
    without_bos = dataclasses.replace(text, start=text.start + 1, count=text.count - 1)
    with pytest.raises(CorpusError, match="got no line with text"):
        OverfitLoader(without_bos, 8, 0)


def test_a_line_is_given_up_to_the_token_that_no_other_line_has_there() -> None:
    documents = [b"abc", b"abd", b"xyz", b"xyz", b"ab"]
    tokenizer = tokenizers.train("pieces", [b"q"], 300)  # one token per byte
    loader = OverfitLoader(tokens_of_documents(documents, tokenizer), 8, 0)
    a, b, c, d, x, y, z = (int(tokenizer.encode(bytes([letter]))[0]) for letter in b"abcdxyz")
    expected = [
        ([BOS, a, b, c, EOS], 4), ([BOS, a, b, d, EOS], 4), ([BOS, x, y, z, EOS], 2), ([BOS, x, y, z, EOS], 2),
        ([BOS, a, b, EOS], 3),
    ]  # fmt: skip
    for number, (ids, given) in enumerate(expected):
        found = loader.line(number)
        assert (found[0].tolist(), found[1]) == (ids, given)


@pytest.mark.slow
def test_the_self_test_memorizes_its_lines(tmp_path: Path) -> None:
    settings = tiny_settings(
        tmp_path, overfit_tiny=True, overfit_lines=12, overfit_steps=250, d_model=48, hidden_size=96, seq_len=128,
        layers=2, vocab_size=400, document="paragraph",
    )  # fmt: skip
    lines = [f"{name} had {count} horses and a {color} coach." for count, (name, color) in enumerate(
        zip(["Ann", "Bess", "Cato", "Dora", "Edward", "Fanny", "George", "Henry", "Isabella", "Jane", "Kitty", "Lydia"],
            ["red", "blue", "green", "black", "white", "grey", "brown", "pink", "small", "large", "old", "new"],
            strict=True), start=3)]  # fmt: skip
    Path(settings.train_file).write_text("\n".join(lines) + "\n")
    trainer = open_run(settings)
    events = list(trainer.events())
    assert isinstance(trainer.run, Run)
    assert events[-1] == ev.RunFinished("overfit_done", 250)
    assert [event.kind for event in of_kind(events, ev.CheckpointSaved)] == ["latest"]
    assert not of_kind(events, ev.EvalCompleted)
    assert np.mean(losses(events)[-10:]) < 0.1
    greedy = Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=100)
    generator = Generator(trainer.parameters, trainer.tokenizer)
    for line in lines:
        beginning = line.split(" ")[0]
        assert beginning + "".join(generator.generate(beginning, greedy)) == line
