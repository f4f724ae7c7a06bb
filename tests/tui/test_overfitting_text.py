"""Words about a text that is used up: once per run, with the gap and what would help."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gpt_core.formats.training_state import TrainingState
from gpt_core.training.events import AnyEvent, BaselinesMeasured, StepCompleted, to_json
from gpt_tui.headless.event_text import news
from gpt_tui.run_view.status import evaluation_rows
from gpt_tui.session.learning_text import gap_text
from gpt_tui.session.log_replay import with_earlier_part
from gpt_tui.session.overfitting_text import UsedUp, used_up_text
from gpt_tui.session.run_events import advance, advance_all
from gpt_tui.session.run_state import Evaluation, RunState
from gpt_tui.session.run_text import advice, gap_at
from tests.tui.samples import LIMITS, scored, started, step


def trained(number: int) -> StepCompleted:
    """Return a step of a run with epochs of 100 steps."""
    return msgspec.structs.replace(step(number, 3.0 if number > 1 else 8.0), epoch=(number - 1) // 100)


def run_of(epochs: int, every: int = 50) -> tuple[RunState, list[str]]:
    """Return a run of epochs of 100 steps with evaluations, and what a headless run prints for these."""
    run, lines = advance(RunState(limits=LIMITS), started()), []
    for number in range(1, epochs * 100 + 1):
        events: list[AnyEvent] = [trained(number)]
        if number % every == 0:
            events.append(scored(number, 0.2, 3.5))
        run = advance_all(run, events)
        lines += [line for event in events for line, _ in news(event, run)]
    return run, lines


def test_a_text_counts_as_used_up_at_the_first_evaluation_after_two_passes():
    assert run_of(1)[0].used_up is None
    assert run_of(2)[0].used_up == UsedUp(200, 2, pytest.approx(3.0), 3.5)
    assert run_of(3, every=75)[0].used_up == UsedUp(225, 2, pytest.approx(3.0), 3.5)


def test_an_evaluation_that_is_worse_than_the_first_steps_does_not_count():
    spiked = advance_all(
        advance(RunState(limits=LIMITS), started()), [step(1, 8.0), step(250, 4.0), scored(250, 0.1, 9.0)]
    )
    assert spiked.used_up is None
    settled = advance_all(spiked, [step(300, 3.0), scored(300, 0.2, 3.5)])
    assert settled.used_up is not None
    assert settled.used_up.step == 300


def test_the_second_evaluation_in_a_row_that_is_worse_than_the_first_steps_is_of_a_model_that_memorizes():
    run = advance_all(
        advance(RunState(limits=LIMITS), started()), [step(1, 8.0), step(250, 0.5), scored(250, 0.1, 9.0)]
    )
    assert run.used_up is None
    run = advance_all(run, [step(300, 0.4), scored(300, 0.1, 9.5)])
    assert run.used_up is not None
    assert "the model memorizes" in run.log[-1].text


def test_it_is_said_once_per_run_in_the_log_and_headless():
    run, lines = run_of(5)
    said = [line for line in lines if "used up" in line]
    assert len(said) == 1
    assert [line.text for line in run.log if "used up" in line.text] == said


def test_a_resumed_run_does_not_say_it_again():
    run = advance(run_of(5)[0], started(step=500, epoch=5, resumed_from="models/ckpt_latest.safetensors"))
    run = advance_all(run, [step(501), scored(501, 0.2, 3.5)])
    assert sum("used up" in line.text for line in run.log) == 1


def test_a_run_resumed_before_the_evaluation_after_that_one_does_not_say_it_again(tmp_path: Path):
    log = tmp_path / "metrics.jsonl"
    events = [started(), *map(trained, range(1, 201)), scored(200, 0.2, 3.5)]
    log.write_bytes(b"".join(to_json(event) + b"\n" for event in events))
    run = with_earlier_part(RunState(limits=LIMITS), log, TrainingState(run_id="r", step=200, epoch=2))
    assert (run.used_up is not None, run.evaluations[-1].passes > 0, run.started) == (True, True, None)
    run = advance(run, started(step=200, epoch=2, resumed_from="models/ckpt_latest.safetensors"))
    run = advance_all(run, [trained(250), scored(250, 0.2, 3.5)])
    assert not [line for line in run.log if "used up" in line.text]


def test_the_words_about_the_gap_are_those_of_each_evaluation():
    assert gap_text(3.0, 3.5, 2) in used_up_text(UsedUp(200, 2, 3.0, 3.5), 1_206_000, 1_190_000)


@pytest.mark.parametrize(
    ("train_tokens", "parameters", "dropout", "listed"),
    [
        (1_206_000, 1_190_000, 0.0, "more text, dropout (0.1 to 0.3) with more weight decay, or a smaller model"),
        (100_000_000, 1_190_000, 0.2, "more text, or more weight decay"),
        (1_206_000, 1_190_000, 0.3, "more text, or a smaller model"),
        (2000, 267_000, 0.3, "more text"),
    ],
)
def test_only_what_can_be_changed_is_said_to_help(train_tokens: int, parameters: int, dropout: float, listed: str):
    text = used_up_text(UsedUp(200, 2, 3.0, 3.5), train_tokens, parameters, dropout)
    assert text.endswith(f"What would help: {listed}")


def test_the_advice_knows_the_dropout_of_the_run():
    event = msgspec.structs.replace(started(), dropout=0.3)
    run = advance_all(advance(RunState(limits=LIMITS), event), [trained(1), trained(200), scored(200, 0.2, 3.5)])
    assert "used up" in advice(run)
    assert "dropout" not in advice(run)


def untrained(loss: float, **changes: object) -> tuple[RunState, list[str]]:
    """Return a run of three short epochs that ends with an evaluation, and what a headless run prints for that."""
    run = advance(RunState(limits=LIMITS._replace(vocab_size=3072)), started(**changes))
    event = scored(300, 0.0, loss)
    run = advance_all(run, [trained(1), trained(300), event])
    return run, [line for line, _ in news(event, run)]


def test_nothing_is_said_about_losses_near_guessing():
    run, lines = untrained(7.8)  # ln 3072 is 8.03
    assert (run.used_up, len(lines)) == (None, 1)
    assert "eval - train" not in [row.label for row in evaluation_rows(run, 60)]
    run, lines = untrained(3.2)
    assert (run.used_up is not None, "about equal" in lines[1]) == (True, True)


def test_nothing_is_said_above_the_entropy_of_token_frequencies():
    run = advance(untrained(7.8)[0], BaselinesMeasured(1, 8.03, 5.5, 3.0, {}))
    for train, loss, is_said in ((6.0, 6.1, False), (3.0, 7.0, True), (4.0, 4.1, True)):
        point = Evaluation(400, 0, 0.0, loss, 0.1, 2.5, train, 4.0)
        assert (gap_at(run, point) is not None) == is_said


def test_a_short_eval_text_has_no_verdict_but_the_text_is_used_up():
    _, lines = untrained(3.2, eval_tokens=999)
    assert "it was read 3 times. What would help: more text" in lines[1]
    assert not [line for line in lines if "about equal" in line]


def test_a_text_that_is_too_small_to_learn_from_is_named_once():
    event = started(train_tokens=480)
    assert sum("only 480 tokens" in line for line, _ in news(event, RunState())) == 1
    log = advance(RunState(), event).log
    assert sum("only 480 tokens" in line.text for line in log) == 1
    assert not any("best model" in line.text for line in log)
    held_out = msgspec.structs.replace(event, eval_file=event.train_file)
    assert any("no best model is kept" in line.text for line in advance(RunState(), held_out).log)
    assert "only" not in str(
        news(started(), RunState()) + news(started(train_tokens=480, resumed_from="m"), RunState())
    )


def test_advice_is_for_later_while_the_eval_loss_equals_the_train_loss():
    text = used_up_text(UsedUp(200, 2, 3.0, 3.1), 1_206_000, 1_190_000)
    assert "generalizes to new text. What helps once the eval loss stops falling: more text" in text
    assert "memorize. What would help: more text" in used_up_text(UsedUp(200, 2, 3.0, 3.5), 1_206_000, 1_190_000)
