"""The rule that chooses the settings of a run by its time budget, with fixed measurements."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpt_core.bench.budget_rule import (
    COOLDOWN,
    FIRST_MEASURED,
    MODELS,
    SOURCE,
    Measurements,
    Model,
    budget_request,
    with_choice,
)
from gpt_core.bench.estimate import CorpusStats, StepTime, estimate_memory, step_tokens
from gpt_core.bridges.architecture import architecture_of
from gpt_core.config.presets import preset
from gpt_core.config.resolve import Overrides, read_overrides
from gpt_core.config.settings import GROUP_RATES, SIZES, ModelShape, Settings
from gpt_core.errors import ConfigError, CorpusError
from gpt_core.model.flops import step_flops
from gpt_core.model.parameters import parameter_count
from gpt_core.training.fine_tuning import resolve_new
from gpt_core.training.gradient_sum import check_ranks
from tests.core.training_samples import LATEST, tiny_settings, train

GIB = 1 << 30


def measurements(gflop_per_s: float = 250.0, text_tokens: int = 1_200_000, free: int | None = 8 * GIB) -> Measurements:
    """Return measurements of a machine of this speed, with a text of this size."""

    def time(settings: Settings) -> StepTime:
        return StepTime(step_flops(settings.shape, settings.batch_size, settings.seq_len).total / gflop_per_s / 1e9, 0)

    def texts(_settings: Settings) -> CorpusStats:
        return CorpusStats("train.en", 3 * text_tokens, "", text_tokens, 100_000, True)

    return Measurements(texts, time, lambda: free)


SMALLEST = resolve_new(Overrides(None, ((SOURCE, dict(MODELS[0].settings)),))).settings


def requested(minutes: float, *assignments: str, preset: str | None = None, **options: object) -> Overrides:
    return read_overrides(preset, assignments=assignments, options={"minutes": minutes, **options})


def chosen(overrides: Overrides, found: Measurements | None = None) -> tuple[Settings, str]:
    with_rule, reason = with_choice(overrides, found or measurements())
    return resolve_new(with_rule).settings, reason


def shape_of(model: Model) -> ModelShape:
    return resolve_new(Overrides(None, ((SOURCE, dict(model.settings)),))).settings.shape


def test_each_model_is_valid_and_larger_than_the_one_before() -> None:
    sizes = [parameter_count(shape_of(model)) for model in MODELS]
    assert sizes == sorted(set(sizes))


def test_the_model_that_is_measured_first_has_the_size_of_nano() -> None:
    shape, nano = shape_of(MODELS[FIRST_MEASURED]), preset("nano").shape
    assert (shape.d_model, shape.layers, shape.vocab_size) == (nano.d_model, nano.layers, nano.vocab_size)
    assert parameter_count(shape) == pytest.approx(parameter_count(nano), rel=0.02)


@pytest.mark.parametrize(
    ("gflop_per_s", "expected"), [(10.0, [2, 1, 0]), (600.0, [2, 3]), (1e9, list(range(2, len(MODELS))))]
)
def test_only_models_near_the_chosen_one_are_measured(gflop_per_s: float, expected: list[int]) -> None:
    found, timed = measurements(gflop_per_s, text_tokens=1_000_000_000), []

    def time(settings: Settings) -> StepTime:
        timed.append(settings.shape)
        return found.time(settings)

    settings, _ = chosen(requested(1), found._replace(time=time))
    assert timed[-1] == settings.shape, "measured again with its dropout"
    assert timed[:-1] == [shape_of(MODELS[number]) for number in expected]


def test_models_that_requested_settings_do_not_fit_are_left_out() -> None:
    settings, _ = chosen(requested(0.001, "num_heads=24"))  # divides only a width of 96, 192 or 768
    assert settings.d_model == 96
    with pytest.raises(ConfigError, match="num_heads"):
        chosen(requested(1, "num_heads=7"))


@pytest.mark.parametrize("minutes", [0.01, 1000])
@pytest.mark.parametrize("number", range(6))  # with the layers of Qwen3
def test_a_requested_shape_has_the_rates_of_the_model_of_that_size(number: int, minutes: float) -> None:
    shape = shape_of(MODELS[number])
    sizes = [f"{name}={getattr(shape, name)}" for name in SIZES]
    settings, reason = chosen(requested(minutes, *sizes))
    assert settings.shape == shape
    assert not re.search("smallest|next larger", reason)  # nothing else was possible
    assert {name: getattr(settings, name) for name in GROUP_RATES} == {
        name: MODELS[number].settings[name] for name in GROUP_RATES
    }


def test_every_model_exports_to_other_programs() -> None:
    homes = [architecture_of(shape_of(model)) for model in MODELS]
    assert homes == ["qwen3"] * (len(MODELS) - 1) + ["gpt2"]


def test_a_longer_budget_and_a_faster_machine_have_larger_models() -> None:
    text = measurements(text_tokens=1_000_000_000)
    by_time = [parameter_count(chosen(requested(minutes), text)[0].shape) for minutes in (1, 30, 480, 50_000)]
    assert by_time == sorted(by_time)
    assert by_time[0] < by_time[2] < by_time[3] == parameter_count(Settings().shape)
    fast = measurements(gflop_per_s=5_000, text_tokens=1_000_000_000)
    assert parameter_count(chosen(requested(30), fast)[0].shape) > by_time[1]


def test_a_model_larger_than_the_smallest_reads_enough_tokens_per_parameter() -> None:
    for minutes in (5, 30, 120, 480):
        found = measurements(text_tokens=1_000_000_000)
        settings, _ = chosen(requested(minutes), found)
        steps = 60 * minutes / found.time(settings).step_s
        per_parameter = steps * settings.batch_size * settings.seq_len / parameter_count(settings.shape)
        needed = next(model.tokens_per_parameter for model in MODELS if model.settings["d_model"] == settings.d_model)
        assert per_parameter >= needed


def test_a_small_text_limits_the_model_and_the_reason_says_so() -> None:
    settings, reason = chosen(requested(2000), measurements(text_tokens=50_000))
    assert settings.shape == shape_of(MODELS[FIRST_MEASURED])  # the smaller ones are for little time, not little text
    assert "would need more text: 20 passes have fewer than 1 per parameter" in reason


def test_a_short_text_has_a_small_vocabulary_unless_one_is_requested() -> None:
    def of_bytes(size: int) -> Measurements:
        texts = CorpusStats("my.txt", size, "", size // 4, 1_000, True, bytes_per_token=4.0)
        return measurements()._replace(texts=lambda _settings: texts)

    for size, vocabulary in ((99_996, 1024), (100_000, 2048), (399_996, 2048)):
        settings, reason = chosen(requested(5), of_bytes(size))
        assert settings.vocab_size == vocabulary
        assert f"; a vocabulary of {vocabulary:,}, because the text is short; dropout" in reason
    settings, reason = chosen(requested(5), of_bytes(400_000))
    assert settings.vocab_size == preset("nano").vocab_size
    assert "vocabulary" not in reason
    settings, reason = chosen(requested(5, "vocab_size=2000"), of_bytes(20_000))
    assert settings.vocab_size == 2000
    assert "vocabulary" not in reason
    assert chosen(requested(5, preset="micro"), of_bytes(20_000))[0].vocab_size == preset("micro").vocab_size


def test_a_text_that_is_read_once_is_not_memorized() -> None:
    settings, reason = chosen(requested(0.0001), measurements(text_tokens=60_000))
    assert (settings.dropout, settings.weight_decay) == (0.0, 0.1)
    assert "repeated" not in reason


def test_a_model_that_is_just_too_large_has_fewer_tokens_in_the_reason_too() -> None:
    minutes = 60.0
    settings = resolve_new(Overrides(None, ((SOURCE, dict(MODELS[1].settings)),))).settings
    parameters, needed = parameter_count(settings.shape), MODELS[1].tokens_per_parameter
    batch = settings.batch_size * settings.seq_len
    step_s = 60 * minutes * batch / (0.999 * needed * parameters)
    found = measurements(text_tokens=1_000_000_000)._replace(time=lambda _: StepTime(step_s, 0))
    _, reason = chosen(requested(minutes), found)
    assert reason.endswith(f"would have {needed - 0.01:g} per parameter, fewer than {needed:g}")


def test_the_free_memory_limits_the_model() -> None:
    needed = estimate_memory(SMALLEST, 2).total
    _, reason = chosen(requested(2000), measurements(text_tokens=1_000_000_000, free=2 * needed))
    assert reason.endswith("needs more than half of the free memory")


def test_the_reason_names_size_speed_and_passes() -> None:
    settings, reason = chosen(requested(5))
    assert reason.startswith(f"{parameter_count(settings.shape) / 1e6:.1f}M parameters, because 5 minutes at ")
    assert " tokens per second, without evaluations, are " in reason
    assert " passes over the text and " in reason
    assert "; the next larger model, " in reason


def test_the_reason_says_that_the_smallest_model_is_the_smallest() -> None:
    settings, reason = chosen(requested(0.001))
    assert settings.shape == SMALLEST.shape
    assert "; this is the smallest model; the next larger model, " in reason
    assert not re.search(r"\b0\.0 ", reason)  # small ratios have two significant digits
    assert "smallest" not in chosen(requested(2000))[1]
    assert "smallest" not in chosen(requested(0.001, preset="nano"))[1]


def test_tokens_per_parameter_of_the_next_model_are_never_named_0() -> None:
    reason = chosen(requested(0.001))[1]
    assert re.search(r"would have 0\.00\d+ per parameter, fewer than 2$", reason)


@pytest.mark.parametrize("text_tokens", [3, 70, 9_000, 2_000_000_000])
@pytest.mark.parametrize("minutes", [0.001, 1, 7, 480])
def test_no_number_of_the_reason_has_more_than_three_significant_digits(minutes: float, text_tokens: int) -> None:
    reason = chosen(requested(minutes), measurements(text_tokens=text_tokens))[1]
    numbers = re.findall(r"[\d.,]*\d", reason)
    assert len(numbers) >= 6
    assert all(len(number.replace(".", "").lstrip("0").rstrip("0")) <= 3 for number in numbers), reason


def test_the_schedule_follows_the_budget_and_nothing_else_ends_the_run() -> None:
    settings, _ = chosen(requested(1))
    steps = 60 / measurements().time(settings).step_s
    assert 0.02 * steps < settings.warmup_steps == 100
    assert (settings.cooldown, settings.min_lr_share, settings.patience) == (COOLDOWN, 0.0, 0)
    assert settings.max_epochs * 1000 > 100 * steps
    assert settings.save_epoch_number == 0
    assert steps / settings.eval_every_steps <= 21


@pytest.mark.parametrize(
    ("limit", "text_tokens", "steps"), [("max_steps=80", 1_200_000, 80), ("max_epochs=2", 10_000, 20)]
)
def test_a_requested_limit_below_the_budget_gives_the_run_its_length(limit: str, text_tokens: int, steps: int) -> None:
    settings, reason = chosen(requested(60, limit), measurements(text_tokens=text_tokens))
    assert settings.warmup_steps == steps // 4
    assert settings.shape == SMALLEST.shape or text_tokens < 100_000
    tokens = steps * step_tokens(settings, text_tokens)
    assert f" because {steps} steps are {tokens / 1000:.3g}k tokens, " in reason
    assert chosen(requested(60, "max_steps=100000000"))[1] == chosen(requested(60))[1]


@pytest.mark.parametrize(("minutes", "warmup"), [(0.001, 0.25), (0.1, 0.25), (1, 100), (10, 200)])
def test_the_warm_up_is_at_least_100_steps_and_at_most_a_quarter_of_the_run(minutes: float, warmup: float) -> None:
    settings, _ = chosen(requested(minutes, preset="nano"))
    steps = 60 * minutes / measurements().time(settings).step_s
    assert settings.warmup_steps == max(1, round(warmup * steps if warmup < 1 else warmup))


@pytest.mark.parametrize(
    ("text_tokens", "dropout", "weight_decay"),
    [
        (10_000_000, 0.0, 0.1),
        (1_100_000, 0.0, 0.1),
        (700_000, 0.1, 0.6),
        (400_000, 0.1, 1.1),
        (190_000, 0.1, 2.3),
        (120_000, 0.2, 3.6),
        (50_000, 0.3, 8.0),
        (10_000, 0.3, 8.0),
        (1_000, 0.3, 8.0),
        (999, 0.3, 0.5),
    ],
)
def test_a_text_that_is_repeated_has_dropout_and_more_weight_decay(
    text_tokens: int, dropout: float, weight_decay: float
) -> None:
    settings, reason = chosen(requested(5), measurements(text_tokens=text_tokens))
    assert (settings.dropout, settings.weight_decay) == (dropout, weight_decay)
    why = f"; dropout {dropout:g} and weight decay {weight_decay:g}, because the text is repeated"
    assert (why in reason) == (dropout > 0)


def test_the_speed_in_the_reason_is_that_with_the_chosen_dropout() -> None:
    def time(settings: Settings) -> StepTime:
        return StepTime(0.2 if settings.dropout else 0.1, 0)

    settings, reason = chosen(requested(5), measurements(text_tokens=50_000)._replace(time=time))
    assert settings.dropout > 0
    assert f" at {step_tokens(settings, 50_000) / 200:.3g}k tokens per second" in reason


def test_a_text_of_less_than_one_batch_has_its_own_tokens_per_step() -> None:
    settings, reason = chosen(requested(5), measurements(text_tokens=50))
    assert settings.batch_size * settings.seq_len > 50
    steps = 5 * 60 / measurements().time(settings).step_s
    assert f"{steps * 50 / 1e6:.3g}M tokens, {steps / 1000:.3g}k passes over the text" in reason


def test_requested_dropout_wins_and_is_not_explained() -> None:
    settings, reason = chosen(requested(5, "dropout=0.05"), measurements(text_tokens=200_000))
    assert (settings.dropout, settings.weight_decay) == (0.05, 2.2)
    assert "dropout" not in reason
    assert reason.endswith("; weight decay 2.2, because the text is repeated")


def test_all_models_but_the_largest_are_trained_by_muon() -> None:
    text = measurements(text_tokens=1_000_000_000)
    assert {dict(model.settings)["optimizer"] for model in MODELS[:-1]} == {"muon"}
    assert chosen(requested(1), text)[0].optimizer == "muon"
    assert chosen(requested(50_000), text)[0].optimizer == "adamw"
    assert chosen(requested(1, "optimizer=adamw"), text)[0].optimizer == "adamw"


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("cooldown=0.2", 0.2),
        ("layers=3", 3),
        ("warmup_steps=7", 7),
        ("patience=2", 2),
        ("batch_size=4", 4),
        ("save_epoch_number=5", 5),
    ],
)
def test_a_requested_setting_wins(assignment: str, value: float) -> None:
    settings, _ = chosen(requested(5, assignment))
    assert getattr(settings, assignment.partition("=")[0]) == value


def test_a_config_file_wins(tmp_path: Path) -> None:
    config = tmp_path / "own.toml"
    config.write_text("minutes = 5\ncooldown = 0.3\nd_model = 64\n")
    settings, reason = chosen(read_overrides(config_file=config))
    assert (settings.minutes, settings.cooldown, settings.d_model) == (5, 0.3, 64)
    assert reason


def test_a_requested_preset_fixes_the_model_but_not_the_schedule() -> None:
    settings, reason = chosen(requested(1, preset="micro"))
    micro = preset("micro")
    for name in (*ModelShape.__struct_fields__, "batch_size", "mlp_lr"):
        assert getattr(settings, name) == getattr(micro, name)
    assert (micro.dropout, settings.dropout) == (0.2, 0.0)  # the text is read once
    assert settings.cooldown == COOLDOWN
    assert "next larger" not in reason


def test_a_run_that_starts_from_a_checkpoint_keeps_its_model(tmp_path: Path) -> None:
    train(tiny_settings(tmp_path, max_steps=2))
    settings, _ = chosen(requested(30, init_from=str(tmp_path / LATEST)))
    assert (settings.d_model, settings.layers) == (16, 2)
    assert settings.cooldown == COOLDOWN
    assert settings.mlp_lr == pytest.approx(0.3 * preset("nano").mlp_lr)
    assert (settings.dropout, settings.weight_decay) == (0.0, preset("nano").weight_decay)


def test_without_minutes_nothing_is_measured() -> None:
    def fail(*_: object) -> object:
        raise AssertionError("measured")

    silent = Measurements(fail, fail, fail)  # type: ignore[arg-type]
    for overrides in (read_overrides(), requested(5, overfit_tiny=True)):
        assert with_choice(overrides, silent) == (overrides, "")


def test_the_request_of_a_run_holds_the_reason_and_the_settings() -> None:
    request = budget_request(requested(5), measurements=measurements())
    assert request.model_reason
    assert request.settings.minutes == 5
    assert budget_request(read_overrides(), measurements=measurements()).model_reason == ""


def test_a_missing_text_is_found_before_anything_is_measured() -> None:
    def fail(*_: object) -> StepTime:
        raise AssertionError("measured")

    with pytest.raises(CorpusError, match="missing"):
        with_choice(requested(5, train_file="missing.txt"), Measurements(time=fail))


@pytest.mark.parametrize(("minutes", "preset_name"), [(0, None), (1, None), (30, None), (0, "mini"), (600, "mini")])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_rank_has_a_micro_batch_of_a_new_run(minutes: float, preset_name: str | None, ranks: int):
    overrides = requested(minutes, preset=preset_name)
    alone = budget_request(overrides, measurements=measurements()).settings
    settings = budget_request(overrides, ranks=ranks, measurements=measurements()).settings
    check_ranks(ranks, settings.batch_size, settings.micro_batch)
    assert settings.batch_size == alone.batch_size
    if ranks <= alone.micro_batches:
        assert settings == alone


@pytest.mark.parametrize("minutes", [0, 1])
def test_a_requested_micro_batch_is_kept_with_several_ranks(minutes: float):
    overrides = requested(minutes, "micro_batch_size=8")
    settings = budget_request(overrides, ranks=4, measurements=measurements()).settings
    assert settings.micro_batch_size == 8
    with pytest.raises(ConfigError, match="4 ranks need as many micro-batches per step"):
        check_ranks(4, settings.batch_size, settings.micro_batch)


def test_with_more_ranks_than_sequences_the_micro_batch_stays_and_the_run_is_refused():
    settings = budget_request(requested(0, preset="mini"), ranks=5, measurements=measurements()).settings
    assert settings.micro_batch_size == preset("mini").micro_batch_size
    with pytest.raises(ConfigError, match=r"got 2 .*start at most 4 ranks"):
        check_ranks(5, settings.batch_size, settings.micro_batch)
