"""What the app and the log show of a run that starts from trained weights. Without an app."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest

from gpt_core.config.fine_tuning import fine_tuning_defaults
from gpt_core.config.presets import preset
from gpt_core.config.settings import Settings
from gpt_core.formats.checkpoint import peek_checkpoint, write_checkpoint
from gpt_core.formats.training_state import Origin, TrainingState
from gpt_core.training.events import (
    CheckpointSaved,
    FullEvalCompleted,
    RunFinished,
    RunStarted,
    from_json,
    to_json,
)
from gpt_tui.charts.series import chart_series, full_range
from gpt_tui.headless.runner import say_how_it_ended
from gpt_tui.new_run.fields import changed, explanation, texts_of, title, validate, with_preset, with_start
from gpt_tui.run_view.figures import evaluation_figures
from gpt_tui.run_view.samples_layout import timeline
from gpt_tui.run_view.status import evaluation_rows, model_row, origin_rows
from gpt_tui.session.log_replay import with_earlier_part
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_events import advance, advance_all
from gpt_tui.session.run_preview import RunPreview
from gpt_tui.session.run_state import RunState
from gpt_tui.session.run_text import gain_text
from gpt_tui.tabs.checkpoints.presenter import run_rows
from gpt_tui.tabs.train.next_run import NextRun
from gpt_tui.tabs.train.presenter import labeled_actions, preview_rows
from tests.core.checkpoint_samples import sample
from tests.tui.samples import LIMITS, sampled, scored, started, step, trained
from tests.tui.stored_files import SMALL, save

PATH = "/home/user/gpt2/best_model.safetensors"
START = {"init_from": PATH, "init_sha256": "ab" * 32, "init_step": 300}
TUNED = msgspec.structs.replace(SMALL, **fine_tuning_defaults("nano"))


def tuned(*, best_at: int = 200) -> RunState:
    """Return a fine-tuning run of 250 steps, evaluated before the first and at step 200."""
    run = advance(RunState(limits=LIMITS), started(**START))
    run = advance_all(run, [scored(0, 0.3, 3.21, is_best=True), sampled(0, " before")])
    run = advance_all(run, [step(number) for number in range(1, 201)])
    run = advance_all(run, [scored(200, 0.4, 2.704, is_best=best_at == 200), sampled(200, " after")])
    return advance_all(run, [step(number) for number in range(201, 251)])


def test_the_log_names_the_weights_and_the_scores_before_fine_tuning() -> None:
    texts = [line.text for line in tuned().log]
    assert texts[0] == "nano: 1.07M parameters, 102k tokens, weights of best_model.safetensors (step 300)"
    assert texts[1] == "before fine-tuning: eval loss 3.210, accuracy 30.0%, 2.500 bits per byte"


def test_the_gain_is_that_of_the_best_evaluation() -> None:
    assert gain_text(tuned()) == "eval loss 3.210 before fine-tuning, 2.704 at step 200"
    assert gain_text(tuned(best_at=0)) == "eval loss 3.210 before fine-tuning, which no evaluation improved"
    assert gain_text(trained(5)) == ""
    from_random = advance_all(advance(RunState(), started()), [scored(0, 0.1, 8.0), step(1), scored(1, 0.2)])
    assert gain_text(from_random) == ""


def test_the_score_at_the_end_counts_if_it_is_of_the_same_text() -> None:
    def ended(**more: object) -> RunState:
        run = advance_all(RunState(), [started(**START, **more), scored(0, 0.3, 3.21, is_best=True), step(1)])
        return advance(run, FullEvalCompleted(1, 2.5, 12.0, 0.4, 1.9, 9_000))

    assert gain_text(ended()) == "eval loss 3.210 before fine-tuning, 2.500 at step 1"
    assert gain_text(ended(eval_part_tokens=4_000)) == "eval loss 3.210 before fine-tuning (of 4.00k tokens)"
    assert {row.label for row in evaluation_rows(ended(), 40)} >= {"before tuning", "full eval"}


@pytest.mark.parametrize(
    ("best_at", "last_step", "expected"),
    [
        (200, 250, "eval loss 3.210 before fine-tuning, 2.704 at step 200, saved in"),
        (
            200,
            200,
            "eval loss 2.704, 2.500 bits per byte, accuracy 40.0%, eval loss 3.210 before fine-tuning, saved in",
        ),
        (0, 250, "eval loss 3.210 before fine-tuning, which no evaluation improved, saved in"),
    ],
)
def test_the_line_at_the_end_names_each_eval_loss_once(best_at: int, last_step: int, expected: str) -> None:
    start = advance(RunState(), started(**START, best_metric="loss"))
    run = advance_all(start, [scored(0, 0.3, 3.21, is_best=True), step(200)])
    run = advance_all(run, [scored(200, 0.4, 2.704 if best_at else 3.5, is_best=best_at == 200)])
    if last_step > 200:
        run = advance_all(run, [step(250), scored(250, 0.4, 3.0 if best_at else 3.6, is_best=False)])
    ends = [CheckpointSaved("final", "tuned/transformer.safetensors", last_step), RunFinished("max_steps", last_step)]
    output = io.StringIO()
    say_how_it_ended(advance_all(run, ends), TUNED, output)
    finished = output.getvalue().splitlines()[0]
    assert expected in finished
    assert "best eval" not in finished


def test_the_scores_before_fine_tuning_are_forgotten_with_another_eval_text() -> None:
    again = advance(tuned(), started(**START, step=250, resumed_from="x", best_restarted="another eval text"))
    assert gain_text(again) == ""


def test_a_run_resumed_with_another_eval_text_does_not_show_the_scores_of_the_earlier_one() -> None:
    full = FullEvalCompleted(250, 4.431, 84.0, 0.3, 2.0, 33_400)
    again = advance(
        advance(tuned(), full), started(**START, step=250, resumed_from="x", best_restarted="another eval text")
    )
    output = io.StringIO()
    say_how_it_ended(advance(again, RunFinished("max_steps", 250)), TUNED, output)
    assert "eval" not in output.getvalue().splitlines()[0]
    assert [row.value for row in evaluation_rows(again, 40) if "4.431" in row.value or "2.704" in row.value] == []
    third = advance(again, started(**START, step=250, resumed_from="x"))
    assert third.evaluation is None
    assert advance_all(third, [step(300), scored(300, 0.4, 2.9)]).evaluation is not None
    assert "eval loss" not in {figure.label for figure in evaluation_figures(again, SessionStatus(Phase.TRAINING))}


def test_a_resumed_run_has_the_scores_before_fine_tuning_from_its_checkpoint(tmp_path: Path) -> None:
    state = TrainingState(run_id="a", step=9, start_scores=tuned().start_scores)
    assert with_earlier_part(RunState(), None, state).first_scores == tuned().start_scores


def test_status_and_figures_show_the_scores_before_and_where_the_weights_came_from() -> None:
    run = tuned()
    rows = {row.label: row.value for row in [*evaluation_rows(run, 40), *origin_rows(run, 40)]}
    assert rows["before tuning"] == "3.210, 2.500 bits/byte"
    assert rows["started from"] == "gpt2/best_model (step 300)"
    figures = [figure.text for figure in evaluation_figures(run, SessionStatus(Phase.TRAINING))]
    assert figures[0] == "eval loss 2.704 (before 3.210)"
    assert "before tuning" not in {row.label for row in evaluation_rows(trained(5), 40)}


def test_the_number_of_trained_parameters_is_shown_where_some_are_frozen() -> None:
    run = advance(RunState(), started(trained_parameters=120_000))
    assert model_row(run, 40).value == "120k of 1.07M parameters, 2 threads"
    assert "1.07M parameters, 120k of them trained" in run.log[0].text


def test_the_first_sample_is_that_before_fine_tuning() -> None:
    run = tuned()
    lines = ["".join(span.text for span in line) for line in timeline(run.samples, 200, 90, fine_tunes=True).lines]
    assert lines[0] == "◆ step 0   before fine-tuning   eval loss 3.210   2.500 bits per byte"
    without_scores = advance_all(RunState(), [started(**START, kind="overfit-tiny"), sampled(0, " x")])
    (head, *_) = timeline(without_scores.samples, 0, 90, fine_tunes=True).lines
    assert head[1].text == "step 0   before fine-tuning"


def test_the_charts_begin_at_the_evaluation_before_the_first_step() -> None:
    run = tuned()
    assert full_range(run, "steps") == (0.0, 250.0)
    series = chart_series(run, "train_loss", "steps", columns=80)
    assert series is not None
    assert [(mark.x, mark.y) for mark in series.marks] == [(0.0, 3.21), (200.0, 2.704)]
    assert full_range(trained(5), "steps").low == 1.0


def test_the_details_of_a_checkpoint_name_its_origin_and_what_is_frozen(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SMALL, freeze="embedding")
    path = save(tmp_path / "a.safetensors", 1, settings=settings, origin=Origin(PATH, "ab" * 32, 300))
    rows = dict(run_rows(peek_checkpoint(path)))
    assert rows["origin"] == f"{PATH}, step 300, SHA-256 abababababab…"
    assert rows["frozen"] == "embedding"


# -- the set-up form


def start(tmp_path: Path) -> Path:
    path = tmp_path / "start.safetensors"
    write_checkpoint(path, sample(SMALL))
    return path


def no_problem(_name: str, _path: str) -> str:
    return ""


def test_choosing_a_checkpoint_fills_shape_tokenizer_and_rates_and_clearing_it_restores_the_preset(tmp_path: Path):
    typed = texts_of(preset("nano")) | {"init_from": str(start(tmp_path)), "seed": "7", "max_epochs": "9"}
    filled = with_start(typed, "nano", SMALL)
    settings = validate(filled, no_problem).settings
    assert settings == msgspec.structs.replace(TUNED, init_from=typed["init_from"], seed=7, max_epochs=9)
    assert changed(filled, "nano") == {"max_epochs"}
    assert filled["learning_rate"] == "0.0009"
    restored = with_start(filled | {"init_from": ""}, "nano", None)
    assert restored == texts_of(preset("nano")) | {"seed": "7", "max_epochs": "9"}


def test_choosing_a_checkpoint_with_a_very_long_context_fills_in_a_part_of_it(tmp_path: Path):
    file = msgspec.structs.replace(SMALL, seq_len=32_768)
    filled = with_start(texts_of(preset("nano")) | {"init_from": str(start(tmp_path))}, "nano", file)
    assert filled["seq_len"] == "2048"


def test_the_title_of_the_form_names_the_checkpoint():
    assert title(texts_of(preset("nano"))) == "Set up a run"
    assert title({"init_from": "models/best_model.safetensors"}) == "Set up fine-tuning of best_model"


def test_another_preset_keeps_the_shape_of_the_checkpoint(tmp_path: Path):
    typed = texts_of(preset("nano")) | {"init_from": str(start(tmp_path)), "freeze": "embedding"}
    settings = validate(with_preset(typed, "mini", SMALL), no_problem).settings
    assert settings is not None
    assert (settings.shape, settings.batch_size, settings.freeze) == (SMALL.shape, 4, "embedding")


def test_a_field_that_contradicts_the_checkpoint_is_marked(tmp_path: Path):
    filled = with_start(texts_of(preset("nano")) | {"init_from": str(start(tmp_path))}, "nano", SMALL)
    problems = validate(filled | {"layers": "5"}, no_problem).problems
    assert problems == {"layers": "layers: got 5, expected 2 as in init_from"}
    assert validate(filled | {"seq_len": "3"}, no_problem).settings is not None
    assert "No such file" in validate(filled | {"init_from": "gone"}, no_problem).problems["init_from"]
    assert explanation("layers", "nano", "x")[1].endswith("; set by init_from")
    assert explanation("seq_len", "nano", "x")[1].endswith("; at most that of init_from")
    assert explanation("mlp_lr", "nano", "x")[1].endswith("nano: 0.0009")


def test_the_changes_of_the_next_run_are_those_from_the_defaults_of_fine_tuning(tmp_path: Path):
    path = str(start(tmp_path))
    following = NextRun(Settings(), "mini")
    following.settings = msgspec.structs.replace(TUNED, init_from=path, seed=3)
    assert following.changes == {"init_from": path, "seed": "3"}


def test_the_preview_names_the_weights(tmp_path: Path):
    info = peek_checkpoint(start(tmp_path))
    preview = RunPreview(TUNED, "", train_file="my.txt", train_bytes=1000, start=info)
    rows = preview_rows(preview, {})
    assert rows[0] == ("weights", f"{info.path}, step 7, and its tokenizer")
    assert [label for label, _ in rows].index("eval text") == [label for label, _ in rows].index("text") + 1
    assert ("start", "Start fine-tuning start on my.txt") in labeled_actions(preview, {"start"}, 0.0)


def test_the_log_of_other_runs_has_no_new_fields() -> None:
    new = {"init_from", "init_sha256", "init_step", "trained_parameters"}
    assert new <= set(RunStarted.__struct_fields__)
    assert json.loads(to_json(started())).keys().isdisjoint(new)
    assert from_json(to_json(started(**START))) == started(**START)
