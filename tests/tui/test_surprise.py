"""Texts colored by surprise: scores, layout, and the screen in Chat and over the samples."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core import interpret
from gpt_core.errors import ConfigError
from gpt_core.model.bundle import gpt_of
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import initial_parameters
from gpt_core.model.stored_weights import StoredWeights, WeightFormat
from gpt_core.tokenizers.pieces import AsciiTokenizer, PieceTokenizer
from gpt_core.training.events import RunPaused
from gpt_tui.run_view.surprise.presenter import panel_lines, passage_of, source_note
from gpt_tui.run_view.surprise.screen import ScoredTextView, SurpriseScreen, TextToScore
from gpt_tui.session.inside.predictions import Alternative, TokenPredictions, reply_predictions
from gpt_tui.session.models import LoadedModel
from gpt_tui.session.phase import Phase
from gpt_tui.session.run_events import advance
from gpt_tui.shared.passage import Piece, layout, moved_by_lines, passage_rows, starts
from gpt_tui.tabs.chat.transcript import Transcript
from tests.tui.app_bench import AppBench, running_app, settled
from tests.tui.conftest import Snapshot
from tests.tui.fake_trainer import SMALL
from tests.tui.log_samples import run_events, write_log
from tests.tui.samples import learned
from tests.tui.still_app import still_app
from tests.tui.test_app_chat import ask, chat
from tests.tui.test_app_chat_models import BEST, LATEST, choose, two_models
from tests.tui.test_chat_model import saved_model

SHAPE = msgspec.structs.replace(SMALL, d_model=8, hidden_size=8, num_heads=2, seq_len=16)
TOKENIZER = PieceTokenizer.train([b"abc"], SHAPE.vocab_size)
WEIGHTS = initial_parameters(SHAPE, 3)


def scored(prompt: str, text: str, weights: WeightFormat = "float32") -> TokenPredictions:
    stored = WEIGHTS if weights == "float32" else StoredWeights(WEIGHTS, weights)
    return reply_predictions(gpt_of(stored), TOKENIZER, prompt, text)


def with_text(predictions: TokenPredictions, token: int) -> int:
    """Return the first alternative of a token that has text."""
    return next(number for number, other in enumerate(predictions.alternatives(token)) if other.data)


def panel(predictions: TokenPredictions, token: int, choice: int = 0, width: int = 60, rows: int = 20) -> list[str]:
    lines = panel_lines(predictions, token, choice, width, rows, lambda row: row)
    return ["".join(span.text for span in line) for line in lines]


# -- scores


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_the_scores_are_the_predictions_of_the_weights_that_replied(weights: WeightFormat):
    found = scored("ab", "cab", weights)
    model = gpt_of(WEIGHTS if weights == "float32" else StoredWeights(WEIGHTS, weights))
    ids = np.array([TOKENIZER.BOS, *TOKENIZER.encode(b"abcab")], np.int32)
    expected = interpret.next_tokens(model, ids[None], 8)
    assert (2.0**-found.bits).tolist() == pytest.approx(expected.target_probabilities[0].tolist())
    assert found.ranks.tolist() == expected.ranks[0].tolist()
    assert [[other.id for other in others] for others in found.expected] == expected.ids[0].tolist()
    losses = interpret.token_losses(model, ids[None])[0] / np.log(2)
    np.testing.assert_allclose(found.bits, losses, rtol=1e-4)


def test_a_text_runs_through_the_model_once(monkeypatch: pytest.MonkeyPatch):
    passes: list[int] = []
    forward = GPT.forward
    monkeypatch.setattr(GPT, "forward", lambda model, ids: passes.append(ids.size) or forward(model, ids))
    monkeypatch.setattr(GPT, "evaluate", lambda *_: passes.append(-1))
    scored("ab", "cab")
    assert passes == [6]


def test_tokens_that_end_in_the_prompt_belong_to_it_and_the_cursor_begins_after_them():
    found = scored("ab\n", "cd")
    assert found.prompt == found.first_of_reply == 4  # with <bos>
    assert scored("ab", "").first_of_reply == 2


def test_a_continued_text_ends_with_the_alternative():
    found = scored("ab", "cab")
    number = with_text(found, 4)
    continued = found.text_with(4, number)
    assert continued.encode("utf-8", "surrogateescape") == b"abc" + found.alternatives(4)[number].data


def test_a_part_of_a_character_is_shown_by_its_name():
    assert scored("", "aé\n").texts == ("<bos>", "a", "\\xc3", "\\xa9", "\n")


def test_a_long_text_is_scored_at_its_end_and_continued_with_its_beginning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gpt_tui.session.inside.predictions.MAX_TOKENS", 20)
    found = scored("ab" * 20, "cd")
    assert len(found.ids) == 20
    assert found.skipped == 43 - 20
    assert found.prompt == 18
    number = with_text(found, 19)
    text = found.text_with(19, number).encode("utf-8", "surrogateescape")
    assert text == b"ab" * 20 + b"c" + found.alternatives(19)[number].data
    assert "the first 23 tokens are not shown" in source_note("", "model", found.skipped)


def test_a_text_without_tokens_is_refused():
    with pytest.raises(ConfigError, match="nothing to score"):
        scored("", "")


def test_a_text_of_a_lossy_tokenizer_is_refused_because_its_tokens_are_unknown():
    with pytest.raises(ConfigError, match="unknown with the lossy tokenizer ascii; train with a lossless one"):
        reply_predictions(gpt_of(WEIGHTS), AsciiTokenizer([], SHAPE.vocab_size), "The old ", "manandthesea")


# -- layout


def test_lines_hold_every_character_and_show_line_feeds():
    found = layout(("the ", "old man\n", "was ", "here"), 9)
    assert ["".join(piece.text for piece in line) for line in found.lines] == ["the old ", "man↵", "was here"]
    assert found.line_of == (0, 0, 2, 2)
    assert found.lines[1] == (Piece(1, "man↵"),)


def test_a_token_is_on_the_line_of_its_word_not_of_the_space_before_it():
    found = layout(("the", " old", " man", " "), 8)
    assert ["".join(piece.text for piece in line) for line in found.lines] == ["the old ", "man "]
    assert found.line_of == (0, 0, 1, 1)


def test_columns_count_cells():
    assert starts((Piece(0, "漢字"), Piece(1, "ab"), Piece(2, "c"))) == [(0, 0), (4, 1), (6, 2)]
    assert starts(()) == []


def test_moving_by_lines_keeps_the_column_and_skips_empty_lines():
    found = layout(("abcd ", "efgh", "\n\n", "ij", "kl"), 20)
    assert moved_by_lines(found, 1, 1) == 2
    assert moved_by_lines(found, 1, 9) == 4
    assert moved_by_lines(found, 4, -9) == 0


def test_the_color_grows_with_the_surprise_and_the_prompt_is_bold():
    found = replace(scored("a", "bcd"), bits=-np.log2(np.array([1.0, 0.5, 1 / 4096, np.nan], np.float32)))
    passage = passage_of(found)
    assert passage.levels[:4] == [None, 0.0, pytest.approx(1 / 12), 1.0]
    [line] = passage_rows(passage, 5, 40, 1)
    assert [span.style for span in line] == ["bold", "bold", "", "", "", "cursor"]


def test_the_panel_has_the_numbers_of_the_token():
    found = replace(
        scored("", "ab"), bits=np.array([2, 1], np.float32), ranks=np.array([3, 1], np.int32),
        entropy=np.array([1, 2, 3], np.float32),
    )  # fmt: skip
    assert panel(found, 1, width=100)[:2] == [
        "a  position 1 of 3 tokens",
        "surprise 2.00 bits · p 25.0% · rank 3 of 260 · entropy 1.00 bits, as of 2 equal tokens",
    ]
    assert panel(found, 0) == ["<bos>  position 0 of 3 tokens", "the first token: no prediction"]
    assert panel(found, 3)[:2] == ["what follows the text  ", "entropy 3.00 bits, as of 8 equal tokens"]
    noted = replace(found, end_note="note on the end")
    assert panel(noted, 3, width=12)[2:4] == ["note on the", "end"]
    assert panel(noted, 2) == panel(found, 2)


def test_the_lines_of_the_alternatives_mark_the_chosen_one_and_the_token_itself():
    found = scored("", "b")
    others = [Alternative(7, "漢" * 9, b"x", 0.75), Alternative(found.ids[1], "b", b"b", 0.25)]
    lines = panel(replace(found, expected=[others, others]), 1, choice=0)[-2:]
    assert lines == [f"▸ 1 {'漢' * 6} … 75.0% {'█' * 24}", f"  2 b{' ' * 14}25.0% {'█' * 8} ✓"]


def test_a_low_panel_scrolls_to_the_chosen_alternative():
    found = scored("", "ab")
    assert [line[:3] for line in panel(found, 1, choice=7, rows=6)[-3:]] == ["  6", "  7", "▸ 8"]


def test_the_note_names_another_model_only_where_it_is_another():
    assert source_note("best, step 1", "best, step 1", 0) == "scored by best, step 1"
    live = "in training, step 27"
    assert source_note("", live, 0) == "scored by the model in training, step 27"
    assert source_note(live, "latest", 0) == "scored by latest (written by the model in training, step 27)"
    assert source_note("best, step 1", "latest, step 2", 0) == "scored by latest, step 2 (written by best, step 1)"


# -- the screen


async def colored(bench: AppBench) -> SurpriseScreen:
    await bench.pilot.press("f8")
    await bench.until(lambda: isinstance(bench.app.screen, SurpriseScreen))
    screen = bench.app.screen
    assert isinstance(screen, SurpriseScreen)
    await bench.until(lambda: all(view.scored is not None for view in screen.query(ScoredTextView)))
    return screen


async def reply_colored(bench: AppBench) -> SurpriseScreen:
    await bench.pilot.press("c")
    await ask(bench, "Once")
    await bench.until_seen("max length")
    return await colored(bench)


async def continued(bench: AppBench, expected: str) -> None:
    """Wait for a reply whose prompt is the expected text."""
    await bench.until(lambda: not chat(bench).replying)
    last = bench.app.main.query_one(Transcript).last
    assert last is not None
    assert last.answers[0].prompt == expected


@pytest.mark.slow
async def test_a_reply_is_continued_from_an_alternative(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(80, 24), max_tokens=8) as bench:
        screen = await reply_colored(bench)
        view = screen.query_one(ScoredTextView)
        await bench.pilot.press("right", "right", "left", "down", "down", "up")
        assert view.scored is not None
        assert (view.cursor, view.chosen) == (view.scored.first_of_reply + 1, 1)
        chosen = with_text(view.scored, view.cursor)
        view.choose(chosen)
        expected = view.scored.text_with(view.cursor, chosen)
        await bench.pilot.press("enter")
        await bench.until(lambda: len(bench.app.main.query_one(Transcript).turns) == 2)
        await continued(bench, expected)
        assert expected.startswith("Once ")


@pytest.mark.slow
async def test_two_replies_are_scored_by_their_own_models_and_tab_moves_between_them(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(120, 40), max_tokens=8) as bench:
        await bench.pilot.press("c")
        await choose(bench, tmp_path / LATEST, compare=True)
        await ask(bench, "Once")
        await bench.until(lambda: not chat(bench).replying)
        screen = await colored(bench)
        first, second = screen.query(ScoredTextView)
        assert first.scored is not None
        assert second.scored is not None
        names = [str(view.border_subtitle) for view in (first, second)]
        assert names == ["scored by best_model, step 50", "scored by ckpt_latest, step 60"]
        assert first.scored.bits.tolist() != second.scored.bits.tolist()
        assert bench.app.focused is first
        assert "tab Other text" in bench.text()
        await bench.pilot.press("tab")
        assert bench.app.focused is second
        await bench.pilot.press("escape")
        assert bench.app.screen is bench.app.main


@pytest.mark.slow
async def test_the_mouse_moves_the_cursor_and_chooses_an_alternative(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(80, 24), max_tokens=8) as bench:
        view = (await reply_colored(bench)).query_one(ScoredTextView)
        assert "other_text" not in {key.binding.action for key in bench.app.screen.active_bindings.values()}
        await bench.pilot.click(ScoredTextView, offset=(8, 2))  # column 7 of the text, after <bos>
        assert view.cursor == 3
        await bench.pilot.click("#alternatives", offset=(4, 6))
        assert view.chosen == 2


@pytest.mark.slow
async def test_without_a_reply_the_key_says_so(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("c", "f8")
        await bench.until(lambda: "no reply to color yet" in str(list(bench.app._notifications)))
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
        bench.app.controller.run = advance(learned(), RunPaused(650))
        bench.app.main.show(at_once=True)
        await bench.pilot.pause()
        screen = await colored(bench)
        view = screen.query_one(ScoredTextView)
        assert view.to_score.title == "sample at step 600"
        assert "─ sample at step 600 ─" in bench.text()
        assert "─ scored by best_model, step 50 ─" in bench.text()
        assert view.scored is not None
        view.choose(with_text(view.scored, view.cursor))
        expected = view.scored.text_with(view.cursor, view.chosen)
        await bench.pilot.press("enter")
        await bench.until_seen("max length")
        assert bench.app.main.tab == "chat"
        await continued(bench, expected)


@pytest.mark.slow
@pytest.mark.parametrize("is_watched", [False, True])
async def test_a_sample_in_the_runs_tab_is_scored_and_continued_by_the_model_of_its_run(
    tmp_path: Path, is_watched: bool
):
    run = tmp_path / "run"
    own = run if is_watched else tmp_path / "own"
    saved_model(tmp_path / "own", "best", 40, seed=3)
    saved_model(run, "best", 50, seed=1)
    saved_model(run, "latest", 100, seed=2)
    write_log(run, run_events(100))
    async with running_app(own, size=(80, 24), watched=own if is_watched else None, max_tokens=8) as bench:
        if not is_watched:
            bench.app.main.runs.include_folder(tmp_path)
            await bench.pilot.press("f5")
        await bench.until_seen("100 of 100")
        screen = await colored(bench)
        view = screen.query_one(ScoredTextView)
        assert view.to_score.title == "sample at step 100"
        assert (view.to_score.prompt, view.to_score.text) == ("It was", " the 100 cats that sat")
        assert str(view.border_subtitle).strip().endswith("ckpt_latest, step 100")
        assert view.scored is not None
        view.choose(with_text(view.scored, view.cursor))
        expected = view.scored.text_with(view.cursor, view.chosen)
        await bench.pilot.press("enter")
        await bench.until_seen("max length")
        assert bench.app.main.chat._form.models == [str(run / LATEST)]
        await continued(bench, expected)


@pytest.mark.slow
async def test_the_cursor_of_the_charts_chooses_the_sample_in_the_runs_tab_also_while_samples_are_hidden(
    tmp_path: Path,
):
    write_log(tmp_path, run_events(100))
    saved_model(tmp_path, "best", 100, seed=1)
    async with running_app(tmp_path, size=(80, 24), max_tokens=8) as bench:
        await bench.pilot.press("f5")
        await bench.until_seen("100 of 100")
        await bench.pilot.press("v", "v", *["comma"] * 16)
        screen = await colored(bench)
        assert screen.query_one(ScoredTextView).to_score.title == "sample at step 50"
        assert str(screen.query_one(ScoredTextView).border_subtitle).strip() == "scored by best_model, step 100"


@pytest.mark.slow
async def test_a_sample_of_a_run_without_a_checkpoint_is_a_line_of_the_screen(tmp_path: Path):
    write_log(tmp_path, run_events(100))
    async with running_app(tmp_path, size=(80, 24)) as bench:
        await bench.pilot.press("f5")
        await bench.until_seen("100 of 100")
        await bench.pilot.press("f8")
        await bench.until_seen("✗ no valid checkpoint in")


@pytest.mark.slow
async def test_other_tabs_are_not_reached_from_the_screen_and_f1_explains_it(tmp_path: Path):
    two_models(tmp_path)
    async with running_app(tmp_path, size=(80, 24), max_tokens=8) as bench:
        screen = await reply_colored(bench)
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
        await colored(bench)
        await bench.pilot.press("right", "down")
        await bench.settled()
        snapshot(bench.app, f"surprise-two-{size[0]}{'-day' * (theme == 'gpt-day')}")


@pytest.mark.slow
async def test_closing_the_screen_ends_the_scoring(tmp_path: Path):
    loading, closed, ended = (threading.Event() for _ in range(3))
    loaded: list[int] = []

    def load(side: int, report: Callable[[str], object]) -> LoadedModel:
        loaded.append(side)
        loading.set()
        assert closed.wait(60)
        try:
            report("loading the model")
        finally:
            ended.set()
        raise AssertionError("the work continues")

    texts = [TextToScore("reply", "a", "b", "", partial(load, side)) for side in range(2)]
    async with running_app(tmp_path, size=(80, 24)) as bench:
        screen = SurpriseScreen(texts)
        bench.app.push_screen(screen)
        await bench.until(loading.is_set)
        await bench.pilot.press("escape")
        await bench.until(lambda: not screen.is_attached)
        closed.set()
        await bench.until(ended.is_set)
        await bench.app.workers.wait_for_complete()
        assert loaded == [0]


def test_the_windows_of_a_long_text_report_progress_and_may_end_the_work():
    done: list[float] = []

    def progress(_words: str, fraction: float) -> None:
        done.append(fraction)
        if len(done) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        reply_predictions(gpt_of(WEIGHTS), TOKENIZER, "ab" * 40, "", progress)
    assert done == sorted(set(done))


@pytest.mark.slow
async def test_the_untrained_sample_can_be_chosen_by_scrolling(monkeypatch: pytest.MonkeyPatch):
    async with still_app(monkeypatch, advance(learned(), RunPaused(650)), Phase.PAUSED, (80, 24)) as (app, pilot):
        await pilot.press("home")
        await settled(app, pilot)
        await pilot.press("f8")
        await pilot.pause()
        assert isinstance(app.screen, SurpriseScreen)
        assert app.screen.query_one(ScoredTextView).to_score.title == "sample at step 0"
