"""A race: paired differences from the logs of runs, and its cases."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from gpt_core.bench.budget_rule import COOLDOWN, Measurements
from gpt_core.bench.estimate import CorpusStats, StepTime
from gpt_core.bench.race import Curve, Point, curve_of, difference, events_in_race, race_cases, race_results
from gpt_core.config.presets import preset
from gpt_core.config.resolve import read_overrides
from gpt_core.errors import ConfigError
from gpt_core.training import events as ev
from tests.core.training_samples import LATEST, tiny_settings, train


def curve(*scores: float, every_s: float = 10.0, every_tokens: int = 1000, reason: str = "max_steps") -> Curve:
    """Return a curve with an evaluation every few seconds."""
    points = tuple(Point(n * every_tokens, n * every_s, score) for n, score in enumerate(scores, start=1))
    return Curve(points, 100.0, reason)


def measurements() -> Measurements:
    def time(settings: object) -> StepTime:
        return StepTime(0.025, 0.0)

    return Measurements(lambda _: CorpusStats("a", 1, "", 1_200_000, 1, True), time, lambda: None)


def test_a_curve_has_the_place_of_each_evaluation_and_the_reason_for_the_end() -> None:
    step = ev.StepCompleted(1, 0, 5.0, 150.0, 1e-3, 1.0, 64, 640.0, 0.1)
    events = [step, ev.EvalCompleted(1, 5.0, 150.0, 0.1, 2.5), ev.EvalCompleted(1, math.nan, 1.0, 0.0, math.nan)]
    assert curve_of(events) == Curve((Point(64, 0.1, 2.5),), pytest.approx(640), "")
    assert not curve_of(events).is_finished
    assert not curve_of([*events, ev.RunFinished("stopped", 1)]).is_finished
    assert curve_of([*events, ev.RunFinished("deadline", 1)]).is_finished
    resumed = [*events, ev.RunFinished("deadline", 1), step]
    assert not curve_of(resumed).is_finished


def started(max_steps: int, minutes: float = 0.0) -> ev.RunStarted:
    return ev.RunStarted(
        0, 0, "train", "nano", 1, 1, 1, 1, 1, max_steps, 1, 0, "a", "b", "", 0.0, minutes=minutes
    )  # fmt: skip


def test_a_curve_says_how_much_of_a_long_eval_text_its_evaluations_scored() -> None:
    begun = msgspec.structs.replace(started(8), eval_part_tokens=2048)
    step = ev.StepCompleted(1, 0, 5.0, 150.0, 1e-3, 1.0, 64, 640.0, 0.1)
    assert curve_of([begun, step, ev.EvalCompleted(1, 5.0, 150.0, 0.1, 2.5)]).part_tokens == 2048
    assert curve_of([begun, step, ev.FullEvalCompleted(1, 5.0, 150.0, 0.1, 2.5, 9000)]).part_tokens == 0
    assert curve_of([started(8), step, ev.EvalCompleted(1, 5.0, 150.0, 0.1, 2.5)]).part_tokens == 0


@pytest.mark.parametrize(("steps", "minutes", "reason"), [(8, 0.0, "max_steps"), (0, 5.0, "deadline")])
def test_what_a_resume_adds_after_the_end_of_a_run_is_left_out(steps: int, minutes: float, reason: str) -> None:
    settings = msgspec.structs.replace(preset("nano"), max_steps=steps, minutes=minutes)
    stopped = [started(steps, minutes), ev.RunFinished("stopped", 4)]
    own = [*stopped, started(steps, minutes), ev.RunFinished(reason, 8)]
    assert list(events_in_race([*own, started(100, 2 * minutes), ev.RunFinished("max_steps", 100)], settings)) == own


@pytest.mark.parametrize(
    ("steps", "minutes", "event", "got", "expected"),
    [
        (8, 0.0, started(100), "max_steps=100", "max_steps=8"),
        (8, 0.0, started(100, 1.5), "minutes=1.5", "max_steps=8"),
        (8, 0.0, ev.RunFinished("max_steps", 6), "max_steps=6", "max_steps=8"),
        (0, 5.0, started(100, 10.0), "minutes=10", "minutes=5"),
        (0, 5.0, started(100), "max_steps=100", "minutes=5"),
    ],
)
def test_a_run_with_another_limit_than_the_race_is_refused(
    steps: int, minutes: float, event: ev.AnyEvent, got: str, expected: str
) -> None:
    settings = msgspec.structs.replace(preset("nano"), max_steps=steps, minutes=minutes, models_dir="race/a,seed=0")
    with pytest.raises(ConfigError, match=f"^race/a,seed=0: got a run with {got}, expected {expected}, as in the race"):
        list(events_in_race([event], settings))


def timed_step(number: int, elapsed_s: float) -> ev.StepCompleted:
    """Return a step of 100 tokens at 1,000 tokens per second."""
    return ev.StepCompleted(number, 0, 5.0, 150.0, 1e-3, 1.0, 100 * number, 1000.0, elapsed_s)


def test_the_time_of_evaluations_does_not_count_in_time_and_throughput() -> None:
    score = ev.EvalCompleted(2, 5.0, 150.0, 0.1, 2.5)
    events = [
        timed_step(1, 0.4), timed_step(2, 0.5), score, ev.CheckpointSaved("latest", "l", 2), timed_step(3, 60.1),
        timed_step(4, 60.2), ev.CheckpointSaved("latest", "l", 4), timed_step(5, 60.3), ev.RunFinished("stopped", 5),
        timed_step(6, 60.9), score,
    ]  # fmt: skip
    found = curve_of(events)
    assert [point.train_s for point in found.points] == pytest.approx([0.2, 0.6])
    assert found.tokens_per_s == pytest.approx(1000)


def test_the_best_score_within_a_limit_is_interpolated_between_evaluations() -> None:
    run = curve(3.0, 2.0, 2.5)
    assert run.best_within("train_s", 10) == 3.0
    assert run.best_within("train_s", 15) == pytest.approx(2.5)
    assert run.best_within("train_s", 30) == run.best_within("tokens", 3000) == 2.0
    assert math.isnan(run.best_within("train_s", 5))


def test_differences_are_paired_and_their_spread_is_that_of_the_pairs() -> None:
    baseline = [curve(2.0, 1.8), curve(3.0, 2.8), curve(2.5, 2.3)]
    other = [curve(2.0, 1.7), curve(3.0, 2.71), curve(2.5, 2.19)]
    found = difference(baseline, other, "train_s")
    assert found.values == pytest.approx([-0.1, -0.09, -0.11])
    assert found.mean == pytest.approx(-0.1)
    assert found.standard_error == pytest.approx(0.01 / math.sqrt(3))


def test_a_slower_run_is_behind_at_equal_time_and_not_at_equal_tokens() -> None:
    fast = curve(3.0, 2.0, 1.5, 1.2)
    slow = curve(3.0, 2.0, 1.5, 1.2, every_s=20.0)
    assert difference([fast], [slow], "train_s").mean == pytest.approx(2.0 - 1.2)
    assert difference([fast], [slow], "tokens").mean == 0.0


def test_two_runs_with_one_deadline_are_compared_at_their_ends() -> None:
    early = Curve((Point(1000, 50.0, 2.0), Point(2000, 100.0, 1.0)), 20.0, "deadline")
    late = Curve((Point(1000, 50.0, 2.0), Point(2000, 110.0, 1.0)), 20.0, "deadline")
    assert difference([early], [late], "train_s").mean == 0.0
    stopped = late._replace(reason="max_steps")
    assert difference([early], [stopped], "train_s").mean == pytest.approx(2.0 - 50 / 60 - 1.0)


def test_one_seed_has_no_spread_and_a_run_without_evaluation_no_difference() -> None:
    assert difference([curve(2.0)], [curve(1.9)], "tokens").standard_error is None
    missing = difference([curve(2.0), curve(2.0)], [curve(), curve(1.5)], "tokens")
    assert (missing.mean, missing.values) == (-0.5, [None, -0.5])
    assert difference([curve(2.0)], [curve()], "tokens").mean is None


def test_the_first_case_is_the_baseline() -> None:
    first, second = race_results({"a": [curve(2.0, 1.5)], "b": [curve(2.0, 1.4)]})
    assert (first.name, first.bits_per_byte, first.equal_time) == ("a", [1.5], None)
    assert second.equal_time is not None
    assert second.equal_time.mean == pytest.approx(-0.1)


def test_the_cases_are_all_combinations_with_the_baseline_first() -> None:
    cases = race_cases(read_overrides(), ["weight_decay=0.1,0.3", "layers=4,2"], steps=200)
    assert [case.name for case in cases] == [
        "weight_decay=0.1 layers=4", "weight_decay=0.1 layers=2", "weight_decay=0.3 layers=4",
        "weight_decay=0.3 layers=2",
    ]  # fmt: skip
    assert [(case.settings.weight_decay, case.settings.layers) for case in cases][-1] == (0.3, 2)
    assert {case.settings.precision for case in cases} <= {"float32", "bfloat16"}


def test_settings_that_change_together_are_one_choice() -> None:
    cases = race_cases(read_overrides(), ["seq_len+batch_size=64+16,128+8", "dropout=0,0.1"], steps=200)
    assert [case.name for case in cases] == [
        "seq_len=64 batch_size=16 dropout=0", "seq_len=64 batch_size=16 dropout=0.1",
        "seq_len=128 batch_size=8 dropout=0", "seq_len=128 batch_size=8 dropout=0.1",
    ]  # fmt: skip
    assert [(case.settings.seq_len, case.settings.batch_size) for case in cases] == [(64, 16)] * 2 + [(128, 8)] * 2
    rates = race_cases(read_overrides(), ["learning_rate=1e-3,1e+0"], steps=200)
    assert [case.settings.learning_rate for case in rates] == [1e-3, 1.0]


def test_nothing_but_the_steps_ends_a_run_and_the_last_step_is_evaluated() -> None:
    settings = race_cases(read_overrides(), ["seq_len=64,32"], steps=130)[0].settings
    assert (settings.max_steps, settings.patience, settings.epsilon) == (130, 0, 0.0)


@pytest.mark.parametrize("limit", [0, 7])
def test_the_steps_of_a_race_replace_the_limit_of_a_configuration_file(tmp_path: Path, limit: int) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"max_steps = {limit}\npatience = 3\n")
    settings = race_cases(read_overrides(config_file=file), ["seq_len=64,32"], steps=130)[0].settings
    assert (settings.max_steps, settings.patience) == (130, 3)


def test_the_minutes_of_a_race_replace_the_steps_of_a_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("max_steps = 7\n")
    options = {"minutes": 1.0}
    overrides = read_overrides("nano", config_file=file, options=options)
    settings = race_cases(overrides, ["dropout=0,0.1"], measurements=measurements())[0].settings
    assert (settings.max_steps, settings.minutes) == (0, 1.0)


@pytest.mark.parametrize(
    ("steps", "every"),
    [
        (1, 1),
        (8, 2),
        (23, 23),
        (60, 15),
        (130, 26),
        (200, 50),
        (1000, 50),
        (1500, 75),
        (10_000, 500),
        (10**9, 5 * 10**7),
    ],
)
def test_a_run_of_so_many_steps_has_4_to_20_evaluations_and_its_last_step_is_one(steps: int, every: int) -> None:
    assert race_cases(read_overrides(), ["seq_len=64,32"], steps=steps)[0].settings.eval_every_steps == every


def test_the_runs_are_scored_on_the_end_of_the_training_text_unless_an_eval_text_is_named() -> None:
    settings = race_cases(read_overrides(), ["layers=1,2"], steps=10)[0].settings
    assert (settings.hold_out, settings.save_epoch_number) == (True, 0)
    named = read_overrides(options={"eval_file": "own.txt"})
    assert not race_cases(named, ["layers=1,2"], steps=10)[0].settings.hold_out


def test_a_time_budget_chooses_once_for_all_cases_of_a_preset() -> None:
    overrides = read_overrides(options={"minutes": 1})
    cases = race_cases(overrides, ["cooldown=0.5,0.2"], measurements=measurements())
    assert [case.settings.cooldown for case in cases] == [0.5, 0.2]
    assert cases[0].settings.warmup_steps == cases[1].settings.warmup_steps
    by_preset = race_cases(overrides, ["preset=nano,micro"], measurements=measurements())
    assert [case.settings.shape for case in by_preset] == [preset("nano").shape, preset("micro").shape]
    assert {case.settings.cooldown for case in by_preset} == {COOLDOWN}


def test_a_time_budget_keeps_the_models_of_checkpoints_that_are_varied(tmp_path: Path) -> None:
    train(tiny_settings(tmp_path, max_steps=2))
    paths = [str(tmp_path / name) for name in (LATEST, "models/transformer.safetensors")]
    overrides = read_overrides(options={"minutes": 1})
    cases = race_cases(overrides, [f"init_from={','.join(paths)}"], measurements=measurements())
    assert [case.settings.init_from for case in cases] == paths
    assert {(case.settings.d_model, case.settings.cooldown) for case in cases} == {(16, COOLDOWN)}


@pytest.mark.parametrize("together", [False, True], ids=["alone", "with learning rate"])
@pytest.mark.parametrize("steps", [0, 10], ids=["time budget", "steps"])
def test_a_run_from_a_checkpoint_can_be_compared_with_one_from_random_weights(
    steps: int, together: bool, tmp_path: Path
) -> None:
    train(tiny_settings(tmp_path, max_steps=2))
    path = str(tmp_path / LATEST)
    overrides = read_overrides(options={} if steps else {"minutes": 1})
    vary = f"init_from+learning_rate=+1e-3,{path}+1e-4" if together else f"init_from=,{path}"
    cases = race_cases(overrides, [vary], steps=steps, measurements=measurements())
    assert [case.settings.init_from for case in cases] == ["", path]
    assert [case.settings.d_model == 16 for case in cases] == [False, True]
    if together:
        assert [case.settings.learning_rate for case in cases] == [1e-3, 1e-4]


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (["init_from="], "expected KEY=A,B with two or more different values"),
        (["init_from=,"], "different values"),
        (["layers=2"], "expected KEY=A,B with two or more different values"),
        (["layers"], "expected KEY=A,B"),
        (["layers=2,2"], "different values"),
        (["seed=1,2"], "expected a setting that changes how a run learns"),
        (["minutes=1,2"], "expected a setting that changes how a run learns"),
        (["layers=2,3", "layers=4,5"], "got it twice"),
        (["layers=2,3", "seq_len+layers=32+4,64+5"], "--vary layers: got it twice"),
        (["dropout+dropout=0+0.1,0.2+0.3"], r"dropout\+dropout: got dropout twice, expected different settings"),
        (["seq_len+seed=32+1,64+2"], "--vary seed: expected a setting that changes how a run learns"),
        (["seq_len+batch_size=64+16,128"], r"got .128., expected 2 values, joined by \+"),
        (["layers+preset=2+nano,3+huge"], "unknown preset"),
        (["layer=2,3"], "unknown setting"),
        (["layers=2,x"], "layers: got"),
        (["preset=nano,huge"], "unknown preset"),
        (
            ["preset=nano,induction"],
            "got preset=nano and preset=induction, one of which is trained on a generated text",
        ),
        (["dropout=0.1,1e-1"], "got dropout=0.1 and dropout=1e-1, expected different settings"),
    ],
)
def test_what_cannot_be_varied_is_refused(vary: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        race_cases(read_overrides(), vary, steps=10)
