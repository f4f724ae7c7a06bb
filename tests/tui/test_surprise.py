"""Texts coloured by surprise: scores, layout, and the screen in Chat and over the samples."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core import interpret
from gpt_core.errors import ConfigError
from gpt_core.model.bundle import gpt_of
from gpt_core.model.parameters import initial_parameters
from gpt_core.model.stored_weights import StoredWeights, WeightFormat
from gpt_core.tokenizers.pieces import PieceTokenizer
from gpt_core.training.events import RunPaused
from gpt_tui.run_view.surprise.presenter import (
    Piece,
    alternative_lines,
    column_of,
    layout,
    level,
    moved_by_lines,
    source_note,
    token_at,
    token_line,
)
from gpt_tui.run_view.surprise.scoring import Alternative, ScoredText, ScoredToken, score
from gpt_tui.run_view.surprise.screen import Alternatives, ScoredTextView, SurpriseScreen
from gpt_tui.session.phase import Phase
from gpt_tui.session.run_state import advance
from gpt_tui.tabs.chat.transcript import Transcript
from tests.tui.app_bench import AppBench, running_app, settled
from tests.tui.conftest import Snapshot
from tests.tui.fake_trainer import SMALL
from tests.tui.samples import learnt
from tests.tui.still_app import still_app
from tests.tui.test_app_chat import ask, chat
from tests.tui.test_app_chat_models import BEST, LATEST, choose, two_models

SHAPE = msgspec.structs.replace(SMALL, d_model=8, hidden_size=8, num_heads=2, seq_len=16)
TOKENIZER = PieceTokenizer.train([b"abc"], SHAPE.vocab_size)
WEIGHTS = initial_parameters(SHAPE, 3)


def scored(prompt: str, text: str, weights: WeightFormat = "float32") -> ScoredText:
    stored = WEIGHTS if weights == "float32" else StoredWeights(WEIGHTS, weights)
    return score(stored, TOKENIZER, "best_model, step 50", prompt, text)


def token(text: str, **changes: object) -> ScoredToken:
    return ScoredToken(text, text, 0)._replace(**changes)  # type: ignore[arg-type]


# -- scores


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_the_scores_are_the_predictions_of_the_weights_that_replied(weights: WeightFormat):
    found = scored("ab", "cab", weights)
    model = gpt_of(WEIGHTS if weights == "float32" else StoredWeights(WEIGHTS, weights))
    ids = np.array([TOKENIZER.BOS, *TOKENIZER.encode(b"abcab")], np.int32)
    expected = interpret.next_tokens(model, ids[None], 8)
    assert [part.probability for part in found.tokens] == expected.target_probabilities[0].tolist()
    assert [part.rank for part in found.tokens] == expected.ranks[0].tolist()
    assert [[other.name for other in part.alternatives] for part in found.tokens] == [
        [TOKENIZER.describe(int(id)) for id in ids] for ids in expected.ids[0, :-1]
    ]
    losses = interpret.token_losses(model, ids[None])[0] / np.log(2)
    np.testing.assert_allclose([part.bits for part in found.tokens], losses, rtol=1e-4)


def test_tokens_that_end_in_the_prompt_belong_to_it_and_the_cursor_begins_after_them():
    found = scored("ab\n", "cd")
    assert [part.in_prompt for part in found.tokens] == [True, True, True, False, False]
    assert found.first_of_reply == 3
    assert scored("ab", "").first_of_reply == 1


def test_a_continued_text_ends_with_the_alternative():
    found = scored("ab", "cab")
    number = next(n for n, other in enumerate(found.tokens[3].alternatives) if other.data)
    continued = found.continued(3, number)
    assert continued.encode("utf-8", "surrogateescape") == b"abc" + found.tokens[3].alternatives[number].data


def test_a_special_token_has_no_text_to_continue_and_part_of_a_character_stays_as_it_is():
    others = (Alternative("<eos>", 0.5, b""), Alternative("\\xc3", 0.2, b"\xc3"))
    found = ScoredText(b"ab", (token("a"), token("b", start=1, alternatives=others)), "model", 260)
    assert found.continued(1, 0) == ""
    assert found.continued(1, 1).encode("utf-8", "surrogateescape") == b"a\xc3"


def test_a_part_of_a_character_is_shown_by_its_name():
    assert [part.text for part in scored("", "aé").tokens] == ["a", "\\xc3", "\\xa9"]


def test_a_long_text_is_scored_at_its_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gpt_tui.run_view.surprise.scoring.MAX_TOKENS", 20)
    found = scored("ab" * 20, "cd")
    assert len(found.tokens) == 20
    assert found.skipped == 43 - 20
    assert found.tokens[-1].start == 41
    assert found.tokens[0].probability is None
    assert "the first 23 tokens are not shown" in source_note("", found.model, found.skipped)


def test_a_text_without_tokens_is_refused():
    with pytest.raises(ConfigError, match="nothing to score"):
        scored("", "")


# -- layout


def test_lines_hold_every_character_and_show_line_feeds():
    parts = [token("the "), token("old man\n"), token("was "), token("here")]
    found = layout(parts, 9)
    assert ["".join(piece.text for piece in line) for line in found.lines] == ["the old ", "man↵", "was here"]
    assert found.line_of == (0, 0, 2, 2)
    assert found.lines[1] == (Piece(1, "man↵"),)


def test_columns_count_cells_and_find_the_token():
    line = (Piece(0, "漢字"), Piece(1, "ab"))
    assert [token_at(line, column) for column in (0, 3, 4, 5, 60)] == [0, 0, 1, 1, 1]
    assert column_of(line, 1) == 4
    assert token_at((), 3) is None


def test_moving_by_lines_keeps_the_column_and_skips_empty_lines():
    found = layout([token("abcd "), token("efgh"), token("\n\n"), token("ij"), token("kl")], 20)
    assert moved_by_lines(found, 1, 1) == 2
    assert moved_by_lines(found, 1, 9) == 4
    assert moved_by_lines(found, 4, -9) == 0


def test_the_colour_grows_with_the_surprise():
    levels = [level(token("a", probability=p)) for p in (1.0, 0.5, 1 / 4096, 1e-9)]
    assert levels == [0.0, pytest.approx(1 / 12), 1.0, 1.0]
    assert level(token("a")) == level(token("a", probability=float("nan"))) == 0.0


def test_the_line_of_a_token_has_its_numbers():
    text = ScoredText(b"", (token("the", probability=0.25, rank=3), token("a")), "model", 2048)
    assert token_line(text, 0) == "the  2.00 bits · 25.0% · rank 3 of 2,048"
    assert token_line(text, 1) == "a  first token: nothing precedes it"


def test_the_lines_of_the_alternatives_mark_the_chosen_one_and_the_token_itself():
    others = (Alternative("漢" * 9, 0.75, b"x"), Alternative("b", 0.25, b"b"))
    lines = alternative_lines(token("b", rank=2, alternatives=others), 0, 60)
    assert [line.text for line in lines] == [f"▸  {'漢' * 6}…   75.0% {'█' * 15}", f" • b{' ' * 14} 25.0% █████"]
    assert alternative_lines(token("b", alternatives=others), 1, 10)[1].bar == ""


def test_the_note_names_another_model_only_where_it_is_another():
    assert source_note("best, step 1", "best, step 1", 0) == "scored by best, step 1"
    assert source_note("best, step 1", "latest, step 2", 0) == "scored by latest, step 2 (written by best, step 1)"


# -- the screen


async def coloured(bench: AppBench) -> SurpriseScreen:
    await bench.pilot.press("f8")
    await bench.until(lambda: isinstance(bench.app.screen, SurpriseScreen))
    screen = bench.app.screen
    assert isinstance(screen, SurpriseScreen)
    await bench.until(lambda: all(view.scored is not None for view in screen.query(ScoredTextView)))
    return screen


@pytest.mark.slow
async def test_a_reply_is_continued_from_an_alternative(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(80, 24), max_tokens=8) as bench:
        await bench.pilot.press("c")
        await ask(bench, "Once")
        await bench.until_seen("max length")
        screen = await coloured(bench)
        view = screen.query_one(ScoredTextView)
        await bench.pilot.press("right", "right", "left", "down", "down", "up")
        assert view.scored is not None
        assert (view.cursor, view.chosen) == (view.scored.first_of_reply + 1, 1)
        chosen = next(n for n, other in enumerate(view.scored.tokens[view.cursor].alternatives) if other.data)
        view.choose(chosen)
        expected = view.scored.continued(view.cursor, chosen)
        await bench.pilot.press("enter")
        await bench.until(lambda: len(bench.app.main.query_one(Transcript).turns) == 2)
        await bench.until(lambda: not chat(bench).replying)
        last = bench.app.main.query_one(Transcript).last
        assert last is not None
        assert last.answers[0].prompt == expected
        assert expected.startswith("Once ")


@pytest.mark.slow
async def test_two_replies_are_scored_by_their_own_models_and_tab_moves_between_them(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), max_tokens=8) as bench:
        await bench.pilot.press("c")
        await choose(bench, tmp_path / LATEST, compare=True)
        await ask(bench, "Once")
        await bench.until(lambda: not chat(bench).replying)
        screen = await coloured(bench)
        first, second = screen.query(ScoredTextView)
        assert first.scored is not None
        assert second.scored is not None
        assert [view.scored.model for view in (first, second)] == ["best_model, step 50", "ckpt_latest, step 60"]
        assert first.scored.tokens != second.scored.tokens
        assert bench.app.focused is first
        await bench.pilot.press("tab")
        assert bench.app.focused is second
        await bench.pilot.press("escape")
        assert bench.app.screen is bench.app.main


@pytest.mark.slow
async def test_the_mouse_moves_the_cursor_and_chooses_an_alternative(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(80, 24), max_tokens=8) as bench:
        await bench.pilot.press("c")
        await ask(bench, "Once")
        await bench.until_seen("max length")
        view = (await coloured(bench)).query_one(ScoredTextView)
        await bench.pilot.click(ScoredTextView, offset=(3, 1))
        assert view.cursor == 2
        await bench.pilot.click(Alternatives, offset=(4, 4))
        assert view.chosen == 2


@pytest.mark.slow
async def test_without_a_reply_the_key_says_so(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("c", "f8")
        await bench.until(lambda: "no reply to colour yet" in str(list(bench.app._notifications)))
        assert bench.app.screen is bench.app.main


@pytest.mark.slow
async def test_a_model_that_is_gone_is_a_line_of_the_screen(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), max_tokens=8) as bench:
        await bench.pilot.press("c")
        await ask(bench, "Once")
        await bench.until_seen("max length")
        for name in (BEST, LATEST):
            (tmp_path / name).unlink()
        await bench.pilot.press("f8")
        await bench.until_seen("✗ no model yet")
        await bench.pilot.press("enter", "right", "f8")
        assert bench.app.screen is bench.app.main


@pytest.mark.slow
async def test_a_sample_is_scored_by_the_checkpoint_of_its_step_and_continued_in_chat(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(80, 24), max_tokens=8) as bench:
        bench.app.controller.run = advance(learnt(), RunPaused(650))
        bench.app.main.show(at_once=True)
        await bench.pilot.pause()
        screen = await coloured(bench)
        view = screen.query_one(ScoredTextView)
        assert view.to_score.title == "sample at step 600"
        assert "scored by best_model, step 50" in bench.text()
        assert view.scored is not None
        view.choose(next(n for n, other in enumerate(view.scored.tokens[view.cursor].alternatives) if other.data))
        expected = view.scored.continued(view.cursor, view.chosen)
        await bench.pilot.press("enter")
        await bench.until_seen("max length")
        assert bench.app.main.tab == "chat"
        last = bench.app.main.query_one(Transcript).last
        assert last is not None
        assert last.answers[0].prompt == expected


@pytest.mark.slow
async def test_other_tabs_are_not_reached_from_the_screen_and_f1_explains_it(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(80, 24), max_tokens=8) as bench:
        await bench.pilot.press("c")
        await ask(bench, "Once")
        await bench.until_seen("max length")
        screen = await coloured(bench)
        await bench.pilot.press("f4", "k")
        assert bench.app.screen is screen
        assert bench.app.main.tab == "chat"
        await bench.pilot.press("f1")
        await bench.until_seen("-log2 of its probability")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "theme"), [((80, 24), "gpt-night"), ((200, 60), "gpt-night"), ((120, 40), "gpt-day")])
async def test_two_replies_look_as_in_the_snapshot(
    tmp_path: Path, size: tuple[int, int], theme: str, snapshot: Snapshot
):
    two_models(tmp_path)
    async with running_app(tmp_path, size=size, max_tokens=30) as bench:
        bench.app.theme = theme
        await bench.pilot.press("c")
        await choose(bench, tmp_path / LATEST, compare=True)
        await ask(bench, "Once")
        await bench.until(lambda: not chat(bench).replying)
        await coloured(bench)
        await bench.pilot.press("right", "down")
        await bench.settled()
        snapshot(bench.app, f"surprise-two-{size[0]}{'-day' * (theme == 'gpt-day')}")


@pytest.mark.slow
async def test_the_untrained_sample_can_be_chosen_by_scrolling(monkeypatch: pytest.MonkeyPatch):
    async with still_app(monkeypatch, advance(learnt(), RunPaused(650)), Phase.PAUSED, (80, 24)) as (app, pilot):
        await pilot.press("home")
        await settled(app, pilot)
        await pilot.press("f8")
        await pilot.pause()
        assert isinstance(app.screen, SurpriseScreen)
        assert app.screen.query_one(ScoredTextView).to_score.title == "sample at step 0"
