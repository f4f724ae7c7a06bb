"""Views Heads and Health of the Inside tab, as functions of a history: what they show, and how the cursor moves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpt_core.config.settings import ModelShape
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import initial_parameters
from gpt_core.tokenizers import train as train_tokenizer
from gpt_core.training import events as ev
from gpt_core.training.metrics_log import read_metrics
from gpt_tui.session import checkpoint_history
from gpt_tui.session.checkpoint_history import CheckpointHistories, history_of
from gpt_tui.session.inside.subject import Subject
from gpt_tui.session.run_events import advance_all
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.spans import Line, width_of
from gpt_tui.tabs.inside.views.heads import HeadsView, largest
from gpt_tui.tabs.inside.views.health import HealthView, bar, change_text, health_rows
from gpt_tui.tabs.inside.views.history import StatsHistory, columns_of, history, point_at, steps_range
from gpt_tui.tabs.inside.views.view import Cursor, Extent, Frame, Origin, Size, Task
from tests.tui.inside_samples import history_events
from tests.tui.log_samples import write_log

RUN = advance_all(RunState(), history_events())
RESULT = StatsHistory(RUN, 1000, False)
EXTENT = Extent(64, 2, 3)
SIZES = [Size(76, 16), Size(196, 52)]


def frame(size: Size = SIZES[0], **cursor: int) -> Frame:
    return Frame(EXTENT.clamped(Cursor(**cursor)), size, EXTENT, RUN)


def texts(lines: list[Line]) -> list[str]:
    return ["".join(span.text for span in line) for line in lines]


@pytest.mark.parametrize("view", [HeadsView(), HealthView()])
@pytest.mark.parametrize("size", [*SIZES, Size(30, 6), Size(8, 2)])
@pytest.mark.parametrize("result", [RESULT, StatsHistory(replace(RUN, curve=RunState().curve), 5, True)])
def test_a_view_fits_into_its_area(view: HeadsView | HealthView, size: Size, result: StatsHistory):
    for cursor in ({}, {"layer": 1, "head": 2, "tensor": 4, "step": 300}):
        lines = list(view.lines(result, frame(size, **cursor)))
        assert len(lines) <= size.height
        assert size.width < 60 or max(map(width_of, lines)) <= size.width


@pytest.mark.parametrize("size", SIZES)
def test_a_strip_changes_its_color_where_the_head_becomes_an_induction_head(size: Size):
    lines = list(HeadsView().lines(RESULT, frame(size, layer=1, head=2)))
    strip = next(line for line in lines if line[0].text.startswith("L1 H2"))
    levels = [span.level for span in strip[1:-1] for _ in span.text]
    known = [level for level in levels if level is not None]
    assert {round(level, 2) for level in known} == {0.03, 0.75}
    changed = next(number for number, level in enumerate(levels) if level is not None and level > 0.5)
    assert changed == pytest.approx(0.7 * len(levels), abs=1)  # step 700 of 1000
    assert strip[-1].text.strip() == "75.0%"
    assert strip[0].style == "cursor"


def test_the_line_of_the_scores_names_the_key_that_chooses_the_next_one():
    for keymap, key in (({}, "enter"), ({"inside.enter": "j"}, "j")):
        assert f"  {key}: next  " in texts(HeadsView().lines(RESULT, frame()._replace(keymap=keymap)))[0]


@pytest.mark.parametrize("size", SIZES)
def test_the_numbers_of_all_scores_are_shown_at_the_cursor(size: Size):
    shown = "\n".join(texts(HeadsView().lines(RESULT, frame(size, layer=1, head=2, step=300))))
    assert "step 300, layer 1, head 2: previous token 25.0%" in shown
    assert "induction 3.0%" in shown
    assert "entropy 1.00" in shown
    assert "first induction head: layer 1, head 2, at step 700" in shown


def test_the_loss_is_above_the_strips_with_the_same_steps():
    lines = list(HeadsView().lines(RESULT, frame(SIZES[1], step=500)))
    shown = texts(lines)
    loss = [line for line in shown if line[8:].strip() and any(0x2800 < ord(char) <= 0x28FF for char in line)]
    assert len(loss) > 3
    column = next(line for line in shown if "│" in line).index("│")
    strip = next(line for line in shown if line.startswith("L0 H0"))
    assert strip.index("│") == column


def test_enter_shows_the_next_score_and_the_entropy_is_a_share_of_the_largest():
    view, at = HeadsView(), frame()
    assert at.cursor.score == 2
    assert view.act(RESULT, at, "enter") == at.cursor._replace(score=3)
    assert view.act(RESULT, frame(score=3), "enter") == at.cursor._replace(score=0)
    assert largest(RUN.heads, 3) == 2.0
    strip = next(line for line in view.lines(RESULT, frame(score=3)) if line[0].text.startswith("L1 H2"))
    assert {span.level for span in strip[1:-1] if span.level is not None} == {0.5}


def test_the_cursor_moves_through_evaluations_and_heads():
    view = HeadsView()
    assert view.moved(RESULT, frame(), "left").step == 900
    assert view.moved(RESULT, frame(step=300), "right").step == 400
    assert view.moved(RESULT, frame(step=300), "home").step == 100
    assert view.moved(RESULT, frame(step=300), "end").step == 1000
    assert view.moved(RESULT, frame(step=10**9), "right").step == 1000
    down = view.moved(RESULT, frame(layer=0, head=2), "down")
    assert (down.layer, down.head) == (1, 0)
    assert view.moved(RESULT, frame(layer=1, head=2), "down")[1:3] == (1, 2)
    assert HealthView().moved(RESULT, frame(), "down").tensor == 1
    assert HealthView().moved(RESULT, frame(tensor=5), "down").tensor == 5
    assert HealthView().moved(RESULT, frame(tensor=3, step=300), "left")[5:8] == (300 - 100, 2, 3)


def test_a_cell_that_is_clicked_is_the_head_and_the_evaluation_there():
    strip = next(line for line in HeadsView().lines(RESULT, frame()) if line[0].text.startswith("L0 H1"))
    assert strip[0].at == frame().cursor._replace(layer=0, head=1)
    assert [span.at.step for span in strip[1:-1] if span.at][-1] == 1000


@pytest.mark.parametrize("size", SIZES)
def test_health_has_a_row_per_tensor_with_its_numbers_and_units_after_their_layer(size: Size):
    lines = texts(HealthView().lines(RESULT, frame(size)))
    rows = [line for line in lines if re.match(r"(wte|h\.\d)", line)]
    assert [row.split("  ")[0] for row in rows] == [
        "wte.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_fc.bias", "h.0.mlp dead units", "h.1.mlp.c_fc.bias",
        "h.1.mlp dead units",
    ]  # fmt: skip
    assert rows[0].split()[1:4] == ["10.0", "0.500", "-3.00"]
    assert rows[2].split()[1:4] == ["0.100", "–", "-1.50"]
    assert rows[5].split()[3:6] == ["–", "–", "62.5%"]


def test_unusual_updates_and_dead_layers_are_marked_without_color_alone():
    lines = HealthView().lines(RESULT, frame())
    styles = {line[0].text.strip(): line[2].style for line in lines if len(line) > 3}
    assert styles["wte.weight"] == "bold"
    assert styles["h.0.mlp.c_fc.bias"] == "bad"
    assert styles["h.1.mlp dead units"] == "bad"


def test_a_sparkline_has_the_usual_update_in_its_middle():
    rows = health_rows(RUN.health)
    assert (bar(rows[0], 0), bar(rows[1], 0), bar(rows[4], 0), bar(rows[0], -1)) == ("▅", "▆", " ", " ")


@pytest.mark.parametrize(
    ("log10", "shown"), [(-0.5, "31.6%"), (-1.5, "3.2%"), (-2.5, "0.32%"), (-3.49, "0.032%"), (-4.5, "3.2e-05")]
)
def test_a_small_update_is_not_shown_as_zero(log10: float, shown: str) -> None:
    assert change_text(10.0**log10) == shown


def test_the_chart_of_a_tensor_has_a_line_at_the_usual_update():
    falling = [
        ev.HealthMeasured(at, ("wte.weight",), (1.0,), (1.0,), (-2.0 - at / 400,), ()) for at in range(100, 1001, 100)
    ]
    run = replace(RUN, health=advance_all(RunState(), falling).health)
    shown = texts(HealthView().lines(StatsHistory(run, 1000, False), frame(SIZES[1])))
    assert any("┈┈┈" in line and line.strip().startswith("-3") for line in shown)
    assert "step 1,000, wte.weight: an update changes it by" in "\n".join(shown)


def test_a_cursor_between_columns_is_marked_in_that_of_the_later_evaluation():
    many = [ev.HeadsScored(at, *[((0.1, 0.2),)] * 4) for at in range(1, 401)]
    run = advance_all(RunState(), many)
    result = StatsHistory(run, 400, False)
    for step in (1, 2, 3, 200, 399, 400):
        shown = texts(HeadsView().lines(result, frame(Size(60, 16), step=step)))
        strip = next(line for line in shown if line.startswith("L0 H0"))
        assert strip.count("│") == 1
        assert strip.index("│") - 8 == pytest.approx((step - 1) / 399 * 43, abs=1)


def test_columns_hold_the_last_evaluation_up_to_them():
    x_range = steps_range(RUN, RUN.heads)
    columns = columns_of(RUN.heads, x_range, 100)
    assert columns[0] == -1
    assert columns[-1] == 9
    assert sorted(columns) == columns
    assert set(columns) == set(range(-1, 10))
    assert point_at(RUN.heads, 340) == 2


# ---- where a history comes from


def subject(text: str = "the cat sat on the mat and the dog sat on the log") -> Subject:
    """Return a small model of random weights with a text."""
    tokenizer = train_tokenizer("pieces", [text.encode()], 300)
    gpt = GPT(initial_parameters(ModelShape(16, 32, tokenizer.vocab_size, 2, 32, 2), 0))
    ids = tokenizer.encode(text.encode())[:32]
    return Subject(gpt, tokenizer, ids, len(ids))


def task(origin: Origin, run: RunState = RUN, histories: CheckpointHistories | None = None) -> Task:
    return Task(subject(), Cursor(), SIZES[0], run, origin, histories or CheckpointHistories(), [])


def test_the_model_in_training_has_the_history_of_its_run():
    assert history(task(Origin(None, 1000, True))) == StatsHistory(RUN, 1000, False)


def test_a_checkpoint_has_the_history_in_the_log_of_its_run(tmp_path: Path):
    saved = ev.CheckpointSaved("best", str(tmp_path / "elsewhere/best_model.safetensors"), 800)
    log = write_log(tmp_path, [*history_events(), saved])
    path = log.parent / "best_model.safetensors"
    found = history(task(Origin(path, 800), RunState()))
    assert (found.step, found.is_measured) == (800, False)
    assert [point.place.step for point in found.run.heads] == [point.place.step for point in RUN.heads]
    assert found.run.induction == RUN.induction
    assert history_of(path, 801) is None
    assert history_of(log.parent / "ckpt_latest.safetensors", 800) is None


def test_a_log_is_read_once_per_version_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reads: list[Path] = []
    monkeypatch.setattr(checkpoint_history, "read_metrics", lambda path: reads.append(path) or read_metrics(path))
    path, histories = tmp_path / "best_model.safetensors", CheckpointHistories()
    saved = ev.CheckpointSaved("best", str(path), 800)
    log = write_log(tmp_path, [*history_events(), saved])
    first = histories.of(path, 800)
    assert first is histories.of(path, 800)
    assert len(reads) == 1
    assert histories.of(path, 801) is None
    assert len(reads) == 2
    with log.open("ab") as file:
        file.write(b"\n")
    assert histories.of(path, 800) is not first
    log.unlink()
    assert histories.of(path, 800) is None


def test_a_checkpoint_without_a_log_of_its_own_is_measured(tmp_path: Path):
    write_log(tmp_path, history_events())
    for origin in (Origin(tmp_path / "a.safetensors", 42), Origin()):
        found = history(task(origin))
        assert found.is_measured
        (heads,), (health,) = found.run.heads, found.run.health
        assert heads.place.step == health.place.step == origin.step
        assert np.isfinite(heads.scores).all()
        assert np.isfinite(health.values[0]).all()
        assert np.isnan(health.values[1:]).all()
        shown = "\n".join(texts(HeadsView().lines(found, frame())) + texts(HealthView().lines(found, frame())))
        assert "measured on this text" in shown
        assert "measured on these weights" in shown


def test_a_text_without_enough_tokens_for_a_sequence_uses_all_tokens_of_the_tokenizer():
    used = subject().used_ids()
    few, enough = (replace(subject(), ids=used[:count].astype(np.int32)).repeated()[0] for count in (15, 16))
    assert len(set(few.tolist())) == len(set(enough.tolist())) == 16
    assert set(enough.tolist()) == set(used[:16].tolist())
    assert not set(few.tolist()) <= set(used[:16].tolist())
