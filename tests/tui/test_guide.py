"""Notes of a first run: when each appears, that it covers nothing and takes no focus, how it is closed and stored."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gpt_core.training.events import BaselinesMeasured, LossDiverged, RunFinished, RunStarted
from gpt_tui.app.preferences import Preferences
from gpt_tui.charts.chart import Chart
from gpt_tui.run_view.samples_panel import SamplesPanel
from gpt_tui.session.run_events import advance, advance_all
from gpt_tui.session.run_state import RunState
from gpt_tui.tabs.train.guide import MIN_SHOWN_S, OFF, Guide, is_spaced, next_note, values_of
from gpt_tui.tabs.train.guide_strip import GuideStrip
from gpt_tui.tabs.train.guide_texts import TEXTS
from tests.tui.app_bench import running_app
from tests.tui.fake_trainer import FakeOpen
from tests.tui.samples import LIMITS, sampled, scored, started, step
from tests.tui.samples import TEXTS as SAMPLES
from tests.tui.snapshots import screen_text

BASELINES = BaselinesMeasured(1, 8.03, 6.289, 2.9, {"xz": 2.47})
NAMES = tuple(TEXTS)


def state(*events: object, start: RunStarted | None = None) -> RunState:
    return advance_all(advance(RunState(limits=LIMITS), start or started()), events)  # type: ignore[arg-type]


def at_loss(loss: float, text: str = SAMPLES[2], *, baselines: bool = True) -> RunState:
    """Return a run whose newest sample has this eval loss."""
    known = [BASELINES] if baselines else []
    start = [sampled(0, SAMPLES[0]), step(1, 8.03), *known]
    return state(*start, step(50, loss), scored(50, 0.2, loss), sampled(50, text))


def names_of(run: RunState) -> list[str]:
    """Return the names of all notes that are true of a run, in order."""
    found: list[str] = []
    while (note := next_note(run, found)) is not None:
        found.append(note.name)
    return found


def test_there_is_no_note_before_a_run_and_none_in_a_self_test():
    assert next_note(RunState(), ()) is None
    assert next_note(state(sampled(0, "x"), step(1), start=started(kind="overfit-tiny")), ()) is None


def test_the_first_sample_and_the_first_loss_are_explained_as_they_appear():
    assert names_of(state()) == []
    assert names_of(state(sampled(0, SAMPLES[0]))) == ["sample"]
    assert names_of(state(sampled(0, SAMPLES[0]), step(1, 8.03))) == ["sample", "first_loss"]


def test_a_run_that_starts_from_trained_weights_has_no_first_loss_of_guessing():
    start = started(init_from="models/best_model.safetensors")
    assert names_of(state(sampled(0, SAMPLES[2]), step(1, 3.0), start=start)) == []
    assert "first_loss" not in names_of(state(step(101, 3.0), start=started(step=100)))


@pytest.mark.parametrize("baselines", [True, False])
def test_spaces_are_explained_near_the_loss_of_token_frequencies_and_words_far_below(baselines: bool):
    assert names_of(at_loss(7.5, baselines=baselines)) == ["first_loss"]
    assert names_of(at_loss(6.4, baselines=baselines)) == ["first_loss", "spaces"]
    assert names_of(at_loss(4.5, baselines=baselines)) == ["words"]


def test_spaces_are_not_explained_once_the_train_loss_is_far_below_that_of_token_frequencies():
    run = at_loss(6.4)
    assert "spaces" in names_of(run)
    later = advance_all(run, [step(number, 3.5) for number in range(51, 200)])
    assert "spaces" not in names_of(later)


def test_words_are_not_explained_while_the_run_diverges():
    found = LossDiverged(51, 99.0, 8.03)
    assert "words" not in names_of(advance_all(at_loss(4.5), [step(51, 99.0), found]))


def test_the_first_loss_is_not_explained_after_the_end():
    assert "first_loss" in names_of(at_loss(7.5))
    assert "first_loss" not in names_of(advance(at_loss(7.5), RunFinished("max_steps", 50)))


@pytest.mark.parametrize("text", [SAMPLES[0].replace(" ", ""), "planetsplanetsplanetsplanets", "", "ab " * 20])
def test_a_text_that_is_not_prose_has_no_note_about_spaces_and_words(text: str):
    assert names_of(at_loss(4.5, text)) == ["first_loss"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SAMPLES[2], True),
        (SAMPLES[4], True),
        ("a b c d e f g h i j k l m n o p", False),
        ("osed2seaaretpounritysitrtyfeatshamappeppylibesilescar", False),
        ("the the the the the the the the the the", False),
        ("", False),
        (" " * 100, False),
    ],
)
def test_a_text_is_spaced_if_its_words_are_as_long_as_in_prose(text: str, expected: bool):
    assert is_spaced(text) == expected


def evaluated(losses: list[float], train: float, passes: int = 0) -> RunState:
    events: list[object] = []
    for number, loss in enumerate(losses, 1):
        at = passes * 100 + number
        events += [step(at, train), scored(at, 0.2, loss)]
    return state(*events)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (evaluated([4.0, 3.5, 3.2], 3.1), False),
        (evaluated([4.0, 3.2, 3.3, 3.4], 3.0), True),  # rises
        (evaluated([4.0, 3.2, 3.3, 3.19], 3.0), False),  # rose, but not twice
        (evaluated([3.2, 3.2], 2.7, passes=1), True),  # a large gap in the second pass
        (evaluated([3.2, 3.2], 2.7), False),  # in the first pass it is the train text that is easier
        (evaluated([3.2, 3.2], 3.1, passes=1), False),
        (evaluated([3.2], 2.0, passes=1), False),
        (evaluated([3.3, 3.2], 2.7, passes=1), False),  # each evaluation is a new best
    ],
)
def test_overfitting_is_explained_when_the_eval_loss_rises_or_stays_far_above(run: RunState, expected: bool):
    assert ("overfitting" in names_of(run)) == expected


def test_a_gap_in_the_first_pass_is_not_explained_in_the_second():
    run = advance(evaluated([3.2, 3.2], 2.7), step(150, 2.7))
    assert run.last is not None
    assert run.last.epoch == 1
    assert "overfitting" not in names_of(run)


def test_a_rise_in_the_first_pass_is_not_explained_by_memorized_text():
    run = evaluated([4.0, 3.2, 3.3, 3.4], 2.7)
    assert "overfitting" in names_of(run)
    assert values_of(run)["gap"] == "The eval loss has risen above its lowest value"


def test_a_rise_at_equal_losses_is_not_said_to_hold_for_new_text():
    run = evaluated([4.0, 3.0, 3.1, 3.1], 3.0)
    assert "overfitting" in names_of(run)
    assert values_of(run)["gap"] == "The eval loss has risen above its lowest value"


def test_every_text_is_complete_and_fits_on_four_lines_of_a_narrow_terminal():
    run = evaluated([4.0, 3.2, 3.3, 3.4], 3.0)
    run = advance(run, sampled(4, SAMPLES[2], "It was\nnight\x1b[31m " * 9))
    for name in NAMES:
        others = [other for other in NAMES if other != name]
        runs = (at_loss(4.5), at_loss(6.4), run, state(sampled(0, "x")))
        note = next((note for run in runs if (note := next_note(run, others)) is not None), None)
        assert note is not None, name
        assert "{" not in note.text + note.title
        assert "\x1b" not in note.text
        assert "nan" not in note.text
        assert len(note.text) <= 4 * 76


def test_a_note_stays_until_it_is_closed_or_has_been_shown_long_enough():
    stored: list[str] = []
    guide, run = Guide("", stored.append), state(sampled(0, SAMPLES[0]), step(1, 8.03))
    shown = [guide.follow(run, at_s) for at_s in (0.0, MIN_SHOWN_S - 1, MIN_SHOWN_S)]
    assert [note.name for note in shown if note] == ["sample", "sample", "first_loss"]
    guide.close()
    assert guide.follow(run, 100.0) is None
    assert stored == ["sample", "sample,first_loss"]


def test_a_note_is_dropped_once_its_stage_has_passed_and_the_next_one_is_that_of_the_present_stage():
    guide, begun = Guide("", lambda _value: None), state(sampled(0, SAMPLES[0]), step(1, 8.03), BASELINES)
    first = guide.follow(begun, 0.0)
    assert first is not None
    assert first.name == "sample"
    spaced = advance_all(begun, [step(50, 6.4), scored(50, 0.2, 6.4), sampled(50, SAMPLES[2])])
    shown = [guide.follow(spaced, at_s) for at_s in (1.0, 1.0 + MIN_SHOWN_S)]
    assert [note.name for note in shown if note] == ["first_loss", "spaces"]
    learned = advance_all(spaced, [step(100, 4.5), scored(100, 0.3, 4.5), sampled(100, SAMPLES[2])])
    now = guide.follow(learned, 2.0 + MIN_SHOWN_S)
    assert now is not None
    assert now.name == "words"
    assert guide.follow(advance(RunState(), started()), 3.0 + MIN_SHOWN_S) is None


def test_the_values_in_a_note_are_those_of_the_present():
    guide, run = Guide("sample,first_loss", lambda _value: None), evaluated([3.2, 3.2], 2.7, passes=1)
    shown = [guide.follow(state, 0.0) for state in (run, advance_all(run, [step(300, 2.7), scored(300, 0.2, 3.9)]))]
    texts = [note.text for note in shown if note]
    assert [text.partition(":")[0] for text in texts] == [
        "Train loss 0.5 below eval loss",
        "Train loss 1.2 below eval loss",
    ]


def test_a_note_is_shown_once_per_user_and_never_after_it_was_switched_off():
    run = state(sampled(0, SAMPLES[0]), step(1, 8.03))
    note = Guide("sample,unknown", lambda _value: None).follow(run, 0.0)
    assert note is not None
    assert note.name == "first_loss"
    assert Guide(",".join(NAMES), lambda _value: None).follow(run, 0.0) is None
    assert Guide(OFF, lambda _value: None).follow(run, 0.0) is None
    assert Guide("", None).follow(run, 0.0) is None


def test_switching_off_is_stored_and_switching_on_again_shows_all_notes():
    stored: list[str] = []
    guide, run = Guide("sample", stored.append), state(sampled(0, SAMPLES[0]), step(1, 8.03))
    guide.switch()
    assert (stored, guide.follow(run, 0.0)) == ([OFF], None)
    guide.switch()
    note = guide.follow(run, 1.0)
    assert note is not None
    assert (note.name, stored) == ("sample", [OFF, "", "sample"])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_a_note_covers_neither_charts_nor_samples_and_its_keys_close_it(tmp_path: Path, size: tuple[int, int]):
    stored: list[str] = []
    preferences = Preferences(guide="sample,spaces,words,overfitting")
    opener = FakeOpen(hold_at=3)  # before the note's stage has passed
    async with running_app(
        tmp_path, size=size, opener=opener, preferences=preferences, remember_guide=stored.append
    ) as bench:
        await bench.pilot.press("s")
        await bench.until(lambda: bench.app.main.query_one(GuideStrip).display)
        await bench.settled()
        strip, charts = bench.app.main.query_one(GuideStrip), bench.app.main.train.charts.query(Chart)
        visible = [chart for chart in charts if chart.display]
        others = [*visible, bench.app.main.query_one(SamplesPanel)]
        assert all(not strip.region.overlaps(other.region) for other in others)
        assert min(chart.size.height for chart in visible) >= 5
        assert bench.app.focused is not strip
        assert "The first loss" in screen_text(bench.app)
        assert "z close" in screen_text(bench.app)
        await bench.pilot.press("z")
        await bench.until(lambda: not strip.display)
        await bench.pilot.press("j")
        assert stored[-1] == OFF
        assert math.isfinite(bench.app.controller.run.elapsed_s)
