"""Views of the Inside tab: what they compute, and what they show of it, without Textual."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpt_core import interpret
from gpt_core.generation.generator import prompt_bytes
from gpt_tui.session.checkpoint_history import CheckpointHistories
from gpt_tui.session.inside.predictions import token_predictions
from gpt_tui.session.inside.subject import Subject
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.keymap import KEYS
from gpt_tui.shared.passage import Passage, passage_rows
from gpt_tui.shared.spans import Span, fitted, joined, width_of
from gpt_tui.tabs.inside.help_texts import HELP
from gpt_tui.tabs.inside.presenter import message_lines, title, view_bar
from gpt_tui.tabs.inside.registry import VIEWS
from gpt_tui.tabs.inside.views.attention import AttentionView, enlarged, layout_of
from gpt_tui.tabs.inside.views.knock_out import KnockOutView
from gpt_tui.tabs.inside.views.lens import LensView, columns_of
from gpt_tui.tabs.inside.views.pixels import pixel_rows, pooled
from gpt_tui.tabs.inside.views.tokens import TokensView
from gpt_tui.tabs.inside.views.view import (
    Continuation,
    Cursor,
    Extent,
    Frame,
    InsideView,
    Move,
    Origin,
    Size,
    Task,
    moved,
)
from tests.tui.inside_samples import fixed_attention, fixed_knock_out, fixed_lens, fixed_tokens, small_subject

SIZES = [Size(20, 4), Size(40, 9), Size(78, 9), Size(78, 18), Size(118, 30), Size(198, 54)]
EXTENT = Extent(60, 4, 4)
SIZE, START = Size(78, 18), Cursor()


def frame_of(cursor: Cursor, size: Size = SIZE, extent: Extent = EXTENT) -> Frame:
    return Frame(cursor, size, extent, RunState())


def task_of(subject: Subject, cursor: Cursor = START, size: Size = SIZE) -> Task:
    return Task(subject, cursor, size, RunState(), Origin(), CheckpointHistories(), [])


def shown(view: InsideView[Any], result: object, cursor: Cursor, size: Size = SIZE) -> str:
    lines = view.lines(result, frame_of(cursor, size))
    return "\n".join("".join(span.text for span in line) for line in lines)


def test_each_view_has_a_key_and_a_help_text_that_says_what_to_try():
    keys = {key.action: key.keys for key in KEYS}
    for number, view in enumerate(VIEWS, 1):
        assert keys[f"view('{view.name}')"] == str(number)
        assert HELP[view.name].startswith(f"{view.title}: ")
        assert "Try: " in HELP[view.name]
    assert HELP.keys() == {view.name for view in VIEWS}


def test_the_bar_of_the_views_fits_into_80_columns_and_a_click_selects_a_view():
    line = view_bar(VIEWS, "lens")
    assert width_of(line) <= 80
    assert {span.at for span in line} == {view.name for view in VIEWS}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("token", [0, 1, 30, 59, 60])
@pytest.mark.parametrize(
    ("view", "result"),
    [
        (TokensView(), fixed_tokens()), (LensView(), fixed_lens(first=28)), (AttentionView(), fixed_attention()),
        (AttentionView(), fixed_attention(layers=12, heads=12, side=4)), (TokensView(), fixed_tokens(1)),
        (AttentionView(), fixed_attention(tokens=1, side=1)),
    ],
    ids=["tokens", "lens", "attention", "attention of many heads", "tokens of one", "attention of one"],
)  # fmt: skip
def test_a_view_never_exceeds_its_area(view: InsideView[Any], result: Any, token: int, size: Size):
    layers, heads = result.probabilities.shape[:2] if isinstance(view, AttentionView) else (4, 4)
    tokens = 60 if isinstance(view, LensView) else len(result.names) + (view.name == "tokens")
    extent = Extent(tokens, layers, heads)
    cursor = extent.clamped(Cursor(token, 2, 1, 6))
    lines = view.lines(result, frame_of(cursor, size, extent))
    assert 0 < len(lines) <= size.height
    assert max(map(width_of, lines)) <= size.width


# ---- Tokens


def test_tokens_lists_the_alternatives_in_the_place_of_the_token_and_marks_the_true_one():
    text = shown(TokensView(), fixed_tokens(), Cursor(token=3))
    assert "␣a  position 3 of 60" in text
    assert "surprise 1.00 bits · p 50.0% · rank 11 of 3,072" in text  # bits of token 3: 2 * 7 % 13
    rows = [line for line in text.split("\n") if "█" in line]
    assert len(rows) == 8
    assert rows[0].split()[:3] == ["1", "␣a", "50.0%"]
    assert [row.rstrip().endswith("✓") for row in rows] == [True] + [False] * 7


def test_the_first_token_has_no_prediction_and_the_position_after_the_text_has_one():
    result = fixed_tokens(20)
    assert "the first token: no prediction" in shown(TokensView(), result, Cursor(token=0))
    text = shown(TokensView(), result, Cursor(token=20))
    assert "what follows the text" in text
    assert "surprise 1" not in text
    assert text.count("█") > 8


def test_enter_moves_into_the_list_and_then_asks_to_generate_from_the_chosen_token():
    view, result = TokensView(), fixed_tokens()
    at = Cursor(token=4)
    in_list = view.act(result, frame_of(at), "enter")
    assert in_list == at._replace(choice=0)
    assert isinstance(in_list, Cursor)
    second = view.moved(result, frame_of(in_list), "down")
    assert second.choice == 1
    assert view.moved(result, frame_of(in_list), "up").choice == 7
    expected = (b"".join(result.data[:4]) + result.expected[3][1].data).decode()
    assert view.act(result, frame_of(second), "enter") == Continuation(expected)
    assert view.moved(result, frame_of(second), "right") == Cursor(token=5)
    assert view.act(result, frame_of(Cursor(token=0)), "enter") is None


def test_up_and_down_are_the_tokens_above_and_below():
    view, result = TokensView(), fixed_tokens()
    frame = frame_of(Cursor(token=2), Size(40, 18))
    below = view.moved(result, frame, "down")
    assert below.token > 5
    assert view.moved(result, frame._replace(cursor=below), "up").token == pytest.approx(2, abs=1)
    assert view.moved(result, frame, "up").token == 2


def test_the_colors_of_tokens_are_their_surprise():
    result = fixed_tokens()
    spans = [span for line in TokensView().lines(result, frame_of(Cursor(token=50))) for span in line]
    tokens = [span for span in spans if isinstance(span.at, Cursor) and span.at.choice is None]
    assert [span.level for span in tokens[1:60]] == [float(bits) / 12 for bits in result.bits]
    assert [span.at.token for span in tokens if isinstance(span.at, Cursor)] == list(range(61))


def test_a_passage_shows_the_lines_around_the_cursor():
    passage = Passage(tuple(f"{number:04}" for number in range(100)), [None] * 100)
    lines = passage_rows(passage, 50, 21, 3)
    assert ["".join(span.text for span in line) for line in lines] == [
        "00450046004700480049", "00500051005200530054", "00550056005700580059",
    ]  # fmt: skip
    assert [span.style for span in lines[1]] == ["cursor", "", "", "", ""]


# ---- Lens


def test_lens_computes_the_visible_positions_only(monkeypatch: pytest.MonkeyPatch):
    asked = []
    real = interpret.logit_lens

    def recorded(*arguments: Any) -> Any:
        asked.append(list(arguments[3]))
        return real(*arguments)

    monkeypatch.setattr(interpret, "logit_lens", recorded)
    size, subject = Size(40, 18), small_subject()
    [result] = LensView().compute(task_of(subject, Cursor(token=5), size))
    assert columns_of(size) == 3
    assert asked == [[3, 4, 5]]
    assert result.first == 3
    view = LensView()
    assert view.needs(Cursor(token=3), size) == view.needs(Cursor(token=5, layer=2, head=1), size)
    assert view.needs(Cursor(token=5), size) != view.needs(Cursor(token=6), size)


def test_the_text_with_a_part_of_a_character_keeps_its_bytes_and_a_special_token_gives_none():
    found = fixed_tokens()
    first, second, *others = found.expected[1]
    options = [first._replace(data="é".encode()[:1]), second._replace(data=b""), *others]
    found = replace(found, expected=[found.expected[0], options, *found.expected[2:]])
    assert prompt_bytes(found.text_with(2, 0)) == b"".join(found.data[:2]) + b"\xc3"
    assert found.text_with(2, 1) == ""
    assert TokensView().act(found, frame_of(Cursor(token=2, choice=1)), "enter") is None


def test_the_text_with_an_alternative_begins_with_the_document_of_the_token():
    found = fixed_tokens()
    data = [b"", b"It was.", b"", b"", *found.data[4:]]
    found = replace(found, data=data)
    assert prompt_bytes(found.text_with(2, 0)) == b"It was." + found.expected[1][0].data
    assert prompt_bytes(found.text_with(6, 0)) == data[4] + data[5] + found.expected[5][0].data


def test_the_last_row_of_lens_is_the_prediction_of_the_model():
    subject = small_subject()
    [result] = LensView().compute(task_of(subject))
    found = token_predictions(subject, 8)
    for column, options in enumerate(result.predictions[-1]):
        assert options[0].id == found.expected[column][0].id
        assert options[0].probability == pytest.approx(found.expected[column][0].probability, rel=1e-4)
    assert result.places == ["embedding", "attn 0", "mlp 0", "attn 1", "mlp 1", "attn 2", "mlp 2"]


def test_lens_moves_through_the_places_and_keeps_the_layer_with_them():
    view, result = LensView(), fixed_lens()
    frame = frame_of(Cursor(token=3))
    down = view.moved(result, frame, "down")
    assert (down.place, down.layer) == (1, 0)
    last = view.moved(result, frame_of(Cursor(place=8, layer=3)), "down")
    assert (last.place, last.layer) == (8, 3)
    assert "after mlp 1, at position 3 ␣a" in shown(view, result, Cursor(token=3, layer=1, place=4))


def test_a_tick_marks_a_prediction_that_came_true():
    lines = shown(LensView(), fixed_lens(), Cursor(token=3)).split("\n")
    by_label = {line[:10].strip(): line for line in lines}
    assert "✓" not in by_label["attn 0"]
    assert by_label["mlp 3"].count("✓") == 7


def test_the_columns_of_lens_are_aligned_with_wide_tokens():
    result = fixed_lens()
    result = replace(result, names=["名前はまだ", "ab", "🎉🎈", "。", "無い", "cde", "猫", "f"])
    starts = set()
    for line in LensView().lines(result, frame_of(Cursor(token=3)))[1:]:
        cells = [span for span in line if isinstance(span.at, Cursor)]
        if cells:
            starts.add(tuple(width_of(line[: line.index(cell)]) for cell in cells))
    assert starts == {tuple(10 + 9 * column for column in range(7))}


def test_facts_of_wide_characters_are_joined_by_their_width():
    assert joined(["名前はまだ無い", "どこで生れたか"], 30) == ["名前はまだ無い", "どこで生れたか"]
    assert joined(["名前はまだ無い", "どこで生れたか"], 31) == ["名前はまだ無い · どこで生れたか"]


# ---- Attention


def test_attention_holds_the_probabilities_of_all_heads():
    subject = small_subject()
    [result] = AttentionView().compute(task_of(subject))
    T = len(subject.ids)
    assert result.probabilities.shape == (3, 2, T, T)
    np.testing.assert_allclose(result.probabilities.astype(np.float64).sum(-1), 1, atol=5e-3)
    assert not np.triu(result.probabilities[0, 0].astype(np.float32), 1).any()


def test_attention_names_the_tokens_that_a_head_reads():
    result = fixed_attention()
    text = shown(AttentionView(), result, Cursor(token=10, layer=1, head=2))
    assert "L1 H2, row: from, column: to" in text
    assert "position 10 ␣sea → ␣n@5 75.0%  <bos>@0 25.0%" in text


def test_a_click_on_a_thumbnail_selects_its_head_and_keeps_the_token():
    lines = AttentionView().lines(fixed_attention(), frame_of(Cursor(token=10)))
    targets = {span.at for line in lines[1:13] for span in line if isinstance(span.at, Cursor)}
    heads = {(at.layer, at.head) for at in targets if at.token == 10}
    assert heads == {(layer, head) for layer in range(4) for head in range(4)}
    assert {at.token for at in targets if (at.layer, at.head) == (0, 0)} > {10}


@pytest.mark.parametrize("tokens", [3, 60, 250])
@pytest.mark.parametrize("size", SIZES)
def test_a_click_on_a_row_of_the_enlarged_head_marks_this_row(size: Size, tokens: int):
    result = fixed_attention(tokens)
    layout = layout_of(size, 4, 4, tokens)
    rows = enlarged(result, Cursor(), layout, size.width)[1:]
    for number, row in enumerate(rows):
        target = row[1].at
        assert isinstance(target, Cursor)
        marks = [line[0].text.strip() for line in enlarged(result, target, layout, size.width)[1:]]
        assert [at for at, mark in enumerate(marks) if mark] == [number]


def test_a_pooled_picture_keeps_the_largest_values_and_never_enlarges():
    matrix = np.zeros((9, 9), np.float32)
    matrix[4, 1] = 0.5
    small = pooled(matrix, 3)
    assert small.shape == (3, 3)
    assert small[1, 0] == 0.5
    assert small.sum() == 0.5
    assert pooled(matrix, 50).shape == (9, 9)


def test_a_picture_has_two_rows_of_pixels_per_line_and_nothing_where_there_is_no_level():
    [first, second] = pixel_rows(np.array([[1, 0, 0], [0.5, 0, 0], [0, 0, 1]], np.float32), ["a", "b"])
    assert [(span.text, span.level, span.lower) for span in first] == [("▀", 1, 0.5), ("  ", None, None)]
    assert [(span.text, span.level, span.lower) for span in second] == [("  ", None, None), ("▀", 1, 0)]
    assert {span.at for span in (*first, *second)} == {"a", "b"}


# ---- cursor and lines


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        ("left", Cursor(0, 1, 2, 4)), ("right", Cursor(2, 1, 2, 4)), ("up", Cursor(1, 0, 2, 2)),
        ("down", Cursor(1, 2, 2, 6)), ("home", Cursor(0, 1, 2, 4)), ("end", Cursor(59, 1, 2, 4)),
        ("previous_head", Cursor(1, 1, 1, 4)), ("next_head", Cursor(1, 1, 3, 4)), ("page_down", Cursor(11, 1, 2, 4)),
    ],
)  # fmt: skip
def test_moves_stay_inside_the_model_and_the_text(move: Move, expected: Cursor):
    start = Cursor(1, 1, 2, 4)
    assert moved(start, EXTENT, move) == expected
    assert moved(Cursor(), Extent(1, 1, 1), move) in (Cursor(), Cursor(place=2))


def test_a_line_is_cut_or_filled_to_its_width_in_cells():
    assert "".join(span.text for span in fitted([Span("猫猫"), Span("b")], 3)) == "猫 "
    assert width_of(fitted([Span("a")], 5)) == 5


def test_the_title_says_how_much_of_a_long_text_is_read():
    assert title("m", "typed", Extent(64, 1, 1), 200, "") == "m · typed, first 64 of 200 tokens"
    assert title("m", "probe", Extent(1, 1, 1), 1, "loading") == "m · probe, 1 token · loading"


def test_the_title_of_knock_out_says_how_much_of_the_text_its_loss_is_of():
    view, extent = KnockOutView(), Extent(64, 1, 1)
    long, short = (fixed_knock_out()._replace(tokens=tokens) for tokens in (256, 63))
    assert [view.read_tokens(result, extent) for result in (long, short)] == [256, 64]
    assert title("m", "typed", Extent(256, 1, 1), 271, "") == "m · typed, first 256 of 271 tokens"
    assert title("m", "probe", Extent(4032, 1, 1), 64, "") == "m · probe, 64 tokens"


def test_a_problem_is_wrapped_so_that_nothing_of_it_is_lost():
    problem = "models/ckpt_latest.safetensors is not a checkpoint: got 12 bytes, expected a safetensors file"
    lines = ["".join(span.text for span in line) for line in message_lines(problem, "", 40)]
    assert max(map(len, lines)) <= 40
    assert " ".join(lines).split() == ["✗", *problem.split()]
    assert message_lines("", "reading the text 40%", 40)[1][0].text == "reading the text 40%…"
