"""Learning or copying in words: the gap between the losses, and passages from the training text."""

from __future__ import annotations

import math

import pytest

from gpt_core.training.events import EvalCompleted, SampleWritten, from_json, to_json
from gpt_tui.headless.event_text import news
from gpt_tui.run_view.samples_layout import timeline
from gpt_tui.run_view.status import evaluation_rows
from gpt_tui.session.learning_text import copied_text, gap_text
from gpt_tui.session.run_events import advance, advance_all
from gpt_tui.session.run_state import RunState
from tests.tui.samples import LIMITS, sampled, scored, started, step


@pytest.mark.parametrize(
    ("train", "evaluated", "passes", "words"),
    [
        (3.0, 3.1, 5.0, "about equal: it generalizes to new text"),
        (3.0, 2.9, 5.0, "about equal"),
        (3.0, 3.5, 5.0, "train loss 0.5 below eval loss: the model begins to memorize"),
        (3.0, 4.2, 5.0, "train loss 1.2 below eval loss: the model memorizes (training tokens 3.3 times as probable)"),
        (3.0, 4.2, 0.5, "train loss 1.2 below eval loss in the first pass: the eval text differs"),
        (3.0, 2.0, 5.0, "train loss 1.0 above eval loss: the eval text is easier"),
        (math.nan, 3.0, 0.0, ""),
        (3.0, math.inf, 1.0, ""),
    ],
)
def test_the_gap_is_told_in_words(train: float, evaluated: float, passes: float, words: str):
    assert gap_text(train, evaluated, passes).startswith(words) or words in gap_text(train, evaluated, passes)
    assert bool(gap_text(train, evaluated, passes)) == bool(words)


@pytest.mark.parametrize(
    ("passage", "words"),
    [
        (" of the young man,", "longest passage from the training text: 4 words: “of the young man,”"),
        ("man", "longest passage from the training text: 3 characters: “man”"),
        ("a", "longest passage from the training text: 1 character: “a”"),
        ("。\n张昆", "longest passage from the training text: 3 characters: “。 张昆”"),
        ("", "no passage from the training text"),
        (" \n", "no passage from the training text"),
        (None, ""),
        ("a\x1b[31m b", "longest passage from the training text: 2 words: “a␛[31m b”"),
    ],
)
def test_a_passage_is_counted_in_words_or_characters(passage: str | None, words: str):
    assert copied_text(passage) == words


@pytest.mark.parametrize(
    ("passage", "sample", "found"),
    [
        ("ive of other dela", "the driive of other delay he", "2 words: “of other”"),
        ("his gratitud", "think his gratitude, and", "11 characters: “his gratitud”"),
        (" of the young man,", "It was of the young man, and", "4 words: “of the young man,”"),
        ("of the", "It was of the", "2 words: “of the”"),
        ("of the y", "It was of the, or of the young", "2 words: “of the”"),
        ("ab", "cabd", "2 characters: “ab”"),
    ],
)
def test_a_passage_is_counted_in_whole_words(passage: str, sample: str, found: str):
    assert copied_text(passage, sample=sample) == f"longest passage from the training text: {found}"


def test_a_part_of_a_long_text_is_named():
    assert "from the first 33.6M tokens of the training text: 2 words" in copied_text("a b", 1 << 25)


def memorizing() -> RunState:
    """Return a run of two passes whose train loss is 1.5 below the eval loss."""
    history = advance(RunState(limits=LIMITS), started(train_tokens=102_400))
    steps = [step(number, 2.0) for number in range(1, 201)]
    return advance_all(history, [*steps, scored(200, 0.3, 3.5), SampleWritten(200, "It", " was a", " was a")])


def test_the_gap_is_of_the_train_loss_at_the_evaluation_and_stays_while_training_goes_on():
    run = memorizing()
    later = advance_all(run, [step(number, 0.5) for number in range(201, 900)])
    for state in (run, later):
        point = state.evaluation
        assert point is not None
        assert (point.train_loss, point.passes) == (pytest.approx(2.0), 2.0)
        assert "1.50: the model memorizes" in [row.value for row in evaluation_rows(state, 40)]
        assert "1.50" in [row.value for row in evaluation_rows(state, 12)]


def test_headless_has_a_line_for_the_gap_and_for_the_passage():
    run = memorizing()
    [_, (gap, _)] = news(scored(200, 0.3, 3.5), run)
    assert gap.startswith("train loss 1.5 below eval loss: the model memorizes")
    [_, (copied, _)] = news(SampleWritten(200, "It", " was a", " was a"), run)
    assert copied == "longest passage from the training text: 2 words: “was a”"
    assert len(news(sampled(200, " was a"), run)) == 1


def test_an_evaluation_before_the_first_step_has_no_gap():
    run = advance_all(RunState(), [started(), scored(0, 0.1, 8.0)])
    assert len(news(EvalCompleted(0, 8.0, 2980.0, 0.1, 2.5), run)) == 1


def test_the_passage_is_a_line_under_the_sample_cut_to_its_width():
    run = memorizing()
    line = "".join(span.text for span in timeline(run.samples, 0, 80).lines[-1])
    assert line == "│ longest passage from the training text: 2 words: “was a”"
    narrow = "".join(span.text for span in timeline(run.samples, 0, 30).lines[-1])
    assert len(narrow) <= 30
    assert narrow.endswith("…")


def test_a_sample_of_an_earlier_log_has_no_passage_and_a_new_one_keeps_it():
    assert from_json('{"event":"sample","step":1,"prompt":"a","text":"b"}') == SampleWritten(1, "a", "b")
    event = SampleWritten(1, "a", "b", "b", 7)
    assert from_json(to_json(event)) == event
