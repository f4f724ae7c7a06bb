"""Text of the Train tab, the header and the countdown: pure functions."""

import msgspec
import pytest
from rich.cells import cell_len
from textual.content import Content

from gpt_core.config.presets import preset
from gpt_tui.charts.labels import legend, readout, title
from gpt_tui.charts.raster import EVAL_LINE, READ, READ_CHARACTER, raster
from gpt_tui.charts.series import chart_series, full_range, second_metrics
from gpt_tui.charts.view import ChartView
from gpt_tui.session.run_preview import RunPreview, StoredCheckpoints
from gpt_tui.shell.header_text import fitted_model, fitted_step, room_beside_tabs, tab_labels, tabs_width
from gpt_tui.tabs.train.presenter import (
    Countdown,
    countdown_line,
    next_notes,
    next_steps,
    notes_title,
    preview_rows,
    starts_automatically,
)
from tests.tui.samples import learned, trained

SETUP = RunPreview(preset("nano"), "nano", train_file="data/raw/train.en")
KEYS = {"start_now": "enter", "cursor_off": "esc", "chat": "c", "train": "t", "resume": "r", "start": "s"}


def test_the_welcome_names_texts_that_are_not_used():
    assert ("note", "data/ has book.txt") in preview_rows(SETUP._replace(note="data/ has book.txt"), {})
    assert "note" not in dict(preview_rows(SETUP, {}))


@pytest.mark.parametrize(
    ("changes", "when"),
    [
        ({}, "every 5 minutes, every 10 epochs and when it stops"),
        ({"save_epoch_number": 0}, "every 5 minutes and when it stops"),
        ({"save_epoch_number": 0, "save_every_minutes": 0, "save_every_steps": 0}, "when it stops"),
        (
            {"save_every_minutes": 0, "save_every_steps": 1, "save_epoch_number": 1},
            "every step, every epoch and when it stops",
        ),
    ],
)
def test_the_welcome_says_when_files_are_saved(changes: dict[str, float], when: str):
    settings = msgspec.structs.replace(SETUP.settings, **changes)
    assert dict(preview_rows(SETUP._replace(settings=settings), {}))["saves"] == f"models/, {when}"


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({}, "up to 20 epochs"),
        ({"max_steps": 1500}, "up to 1,500 steps or 20 epochs"),
        ({"max_steps": 1500, "max_epochs": 1_000_000}, "up to 1,500 steps"),
        ({"max_epochs": 1_000_000}, "no limit of steps or epochs"),
        ({"max_epochs": 1_000_000, "minutes": 5.0}, "5 minutes"),
    ],
)
def test_the_welcome_says_how_long_a_run_is(changes: dict[str, float], length: str):
    settings = msgspec.structs.replace(SETUP.settings, **changes)
    assert dict(preview_rows(SETUP._replace(settings=settings), {}))["batch"].endswith(f" per step, {length}")


def test_the_welcome_names_a_problem_in_place_of_the_texts():
    problem = "init_from: x.safetensors: No such file or directory"
    rows = dict(preview_rows(SETUP._replace(problem=problem, note="data/ has book.txt"), {}))
    assert rows["problem"] == problem
    assert not rows.keys() & {"text", "eval text", "note"}
    assert "problem" not in dict(preview_rows(SETUP, {}))


def plain(markup: str) -> str:
    return Content.from_markup(markup).plain


def test_a_readout_has_step_smoothed_and_eval_values():
    words = plain(readout(learned(), "train_loss", ChartView(cursor=310.0), 120))
    assert words.startswith("step 310  ⣿ step loss ")
    assert "⠒⠒ train loss " in words
    assert "◆ eval loss " in words
    assert words.endswith(" at 300")
    words = plain(readout(learned(), "perplexity", ChartView(cursor=310.0), 120))
    assert [name in words for name in ("step perplexity ", "train perplexity ", "eval perplexity ")] == [True] * 3
    assert plain(readout(learned(), "train_loss", ChartView(axis="time", cursor=31.0), 120)).startswith(
        "step 310, 0:31  "
    )


@pytest.mark.parametrize("width", [0, 10, 20, 30, 44, 60, 100])
def test_legend_and_readout_keep_to_their_room_and_cut_no_word(width):
    history = learned()
    for metric in ("train_loss", *second_metrics()):
        for words in (legend(history, metric, width), readout(history, metric, ChartView(cursor=310.0), width)):
            assert cell_len(plain(words)) <= width
    assert readout(history, "train_loss", ChartView(), width) == ""


def test_a_title_says_how_its_axis_differs_from_what_is_usual():
    history = trained(100, lambda n: 3.0)
    assert plain(title(history, "train_loss", ChartView())) == "train loss 3.000"
    assert plain(title(history, "perplexity", ChartView(), max_above=8751.0)) == "perplexity 20.09 ▲ up to 8,751"
    assert plain(title(history, "throughput", ChartView())) == "throughput 10.2k tokens/s"
    assert (
        plain(title(history, "perplexity", ChartView(log=True, y_range="tight"))) == "perplexity 20.09 log scale, tight"
    )
    assert plain(title(trained(0), "train_loss", ChartView())) == "train loss"


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        ("learning_rate", "step 310  ⠒⠒ learning rate 1.00e-3"),
        ("grad_norm", "step 310  ⣿ grad norm 0.500  ⠒⠒ smoothed 0.500"),
        ("throughput", "step 310  ⣿ throughput 10.2k  ⠒⠒ smoothed 10.2k"),
        ("accuracy", "step 310  ◆ accuracy 23.3% at 300"),
    ],
)
def test_the_readout_names_the_chosen_metric(metric, shown):
    assert plain(readout(learned(), metric, ChartView(cursor=310.0), 80)) == shown


def test_the_legend_names_the_three_losses():
    assert plain(legend(learned(), "train_loss", 100)) == (
        "⣿ step loss  ⠒⠒ train loss (smoothed)  ⠐⠶⠂ eval loss  ★ best accuracy"
    )
    assert plain(legend(learned(), "perplexity", 100)).startswith("⣿ step perplexity  ⠒⠒ train perplexity (smoothed)")
    assert plain(legend(learned(), "grad_norm", 100)) == "⣿ step  ⠒⠒ smoothed"


def test_the_cursor_comes_from_the_right_edge_and_stays_in_the_part_shown():
    whole = full_range(trained(1000), "steps")
    view = ChartView().with_cursor_moved(-0.1, whole)
    assert view.cursor == whole.high
    assert view.with_cursor_moved(-0.1, whole).cursor == pytest.approx(whole.high - 0.1 * whole.span)
    assert view.with_cursor_moved(-5, whole).cursor == whole.low
    zoomed = ChartView(span=0.5, cursor=whole.low).with_cursor_moved(0.1, whole)
    assert zoomed.cursor == zoomed.window(whole).low


def test_the_y_axis_shows_what_suits_all_or_a_close_up_of_both_metrics():
    views = [ChartView(), ChartView().with_next_y_range(), ChartView().with_next_y_range().with_next_y_range()]
    assert [view.is_tight("train_loss") for view in views] == [False, False, True]
    assert [view.is_tight("perplexity") for view in views] == [True, False, True]
    assert views[2].with_next_y_range() == ChartView()
    tops = [
        chart_series(trained(900), "train_loss", "steps", columns=90, tight=tight).y_range.high
        for tight in (False, True)
    ]
    assert tops[0] > 6.9
    assert tops[1] < 4.5


@pytest.mark.parametrize("log", [False, True])
def test_evaluations_are_joined_and_the_cursor_sits_on_the_smoothed_line(log):
    series = chart_series(learned(), "train_loss", "steps", columns=120, log=log)
    picture = raster(series, 60, 12, cursor=310.0)
    assert (picture.layers == EVAL_LINE).sum() > 10
    read = [chr(c) for c in picture.characters[picture.layers == READ]]
    assert read == [READ_CHARACTER]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_header_has_the_keys_of_the_tabs_also_at_80_columns(columns):
    assert [key for key, _ in tab_labels(columns, {}).values()] == ["F2", "F3", "F4", "F5", "F6"]


def test_the_keys_of_the_tabs_follow_the_users_keymap_and_leave_room_for_the_phase():
    assert [key for key, _ in tab_labels(120, {"go.chat": "ctrl+t"}).values()] == ["F2", "^t", "F4", "F5", "F6"]
    narrow = tab_labels(70, {})
    assert [key for key, _ in narrow.values()] == [""] * len(narrow)
    assert tabs_width(narrow) == len(" Train  Chat  Checkpoints  Runs  Inside ")
    assert all(room_beside_tabs(columns, tab_labels(columns, {})) >= 20 for columns in range(64, 200))


@pytest.mark.parametrize(("room", "shown"), [(11, "step 12,345"), (10, "step 12.3k"), (9, ""), (-5, "")])
def test_a_step_is_shortened_where_the_phase_needs_the_room(room, shown):
    assert fitted_step(12_345, room) == shown
    assert fitted_step(None, room) == ""


@pytest.mark.parametrize(
    ("room", "shown"), [(30, "nano · 1.19M parameters"), (22, "nano · 1.19M"), (11, "nano"), (3, "")]
)
def test_a_model_name_is_shortened_at_words(room, shown):
    assert fitted_model("nano · 1.19M parameters", room) == shown


def test_the_size_of_a_custom_model_is_kept_before_its_name():
    assert fitted_model("custom · 1.19M parameters", 14) == "custom · 1.19M"
    assert fitted_model("custom · 1.19M parameters", 13) == "1.19M"


def test_a_countdown_needs_a_readable_text_and_no_checkpoint():
    assert starts_automatically(SETUP)
    assert not starts_automatically(SETUP._replace(problem="data/raw/train.en cannot be read"))
    assert not starts_automatically(SETUP._replace(train_file=""))
    assert not starts_automatically(SETUP._replace(note="data/ has book.txt, which is not used"))
    assert not starts_automatically(SETUP._replace(stored=StoredCheckpoints(for_chat=object())))  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [40, 60, 70, 84, 120])
def test_the_countdown_line_has_a_bar_where_there_is_room(width):
    countdown = Countdown(100.0, 10.0)
    line = countdown_line(SETUP, countdown, 104.5, KEYS, width)
    what = "training nano on train.en " if width > 65 else "training " if width > 48 else ""
    assert line.endswith(f"{what}starts in 6 s (Enter: now, Esc: cancel)")
    assert len(line) <= width
    assert ("━" in line) == (width in (60, 84, 120))
    assert (countdown.remaining_s(104.5), countdown.fraction(105.0), countdown.remaining_s(999.0)) == (5.5, 0.5, 0.0)


@pytest.mark.parametrize("width", range(40, 121))
def test_the_countdown_line_keeps_its_form_while_the_seconds_lose_a_digit(width):
    countdown = Countdown(100.0, 10.0)
    ten, nine = (countdown_line(SETUP, countdown, now_s, KEYS, width) for now_s in (100.5, 101.5))
    assert (ten.count("━") + ten.count("╸") + ten.count("─")) == (nine.count("━") + nine.count("╸") + nine.count("─"))
    assert ten.lstrip("━╸─").replace("10 s", "9 s") == nine.lstrip("━╸─")


def test_a_stopped_run_can_be_resumed_and_a_finished_one_trained_longer():
    assert next_steps("stopped", KEYS) == "c: chat; t, then r: resume, s: new run."
    assert next_steps("max_steps", KEYS) == "c: chat; t, then r: train longer, s: new run."


def test_the_panels_key_cycles_samples_log_and_samples_only():
    seen, notes = [], "samples"
    for _ in range(3):
        notes = next_notes(notes, both_seen=False)
        seen.append(notes)
    assert seen == ["log", "alone", "samples"]
    assert next_notes("samples", both_seen=True) == "alone"
    assert next_notes("log", both_seen=True) == "samples"
    assert plain(notes_title("samples", "samples", both_seen=False, key="v")) == "samples  v log"
    assert plain(notes_title("samples", "log", both_seen=True, key="v")) == "log"
