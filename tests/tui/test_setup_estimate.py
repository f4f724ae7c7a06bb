"""Estimate of a run on the set-up screen, without an app."""

from __future__ import annotations

import msgspec
import pytest

from gpt_core.bench.estimate import StepTime, estimate_memory
from gpt_core.config.presets import preset
from gpt_core.training.precision import PrecisionChoice
from gpt_tui.new_run.estimate import (
    OPTIONAL,
    READING,
    REASON,
    TIMING,
    RunEstimate,
    estimate_after,
    estimate_rows,
    step_time,
)
from gpt_tui.new_run.panel import wrapped_rows
from gpt_tui.shared.formatting import short, size
from gpt_tui.shared.rows import Row, fit_rows
from tests.tui.fake_probes import fake_texts

NANO = preset("nano")


def shown(estimate: RunEstimate) -> dict[str, str]:
    rows: dict[str, str] = {}
    for row in estimate_rows(estimate):
        label = row.label.strip() or f"{list(rows)[-1].split('/')[0]}/{len(rows)}" if rows else row.label
        rows[label] = row.value
    return rows


@pytest.mark.usefixtures("fixed_activation_memory")
def test_the_estimate_has_size_text_and_time():
    rows = shown(RunEstimate(NANO, 2, 4_000_000_000, fake_texts(NANO), "", StepTime(0.05, 0.001)))
    assert rows["parameters"] == "1,194,752"
    assert rows["memory"] == "139 MB, 4.0 GB free"
    assert rows["checkpoint"] == "14.3 MB"
    assert rows["text"] == "train.en, 3.6 MB"
    assert rows["epoch"] == "1.21M tokens"
    assert rows["throughput"] == "20.1k tokens/s"
    assert rows["per step"] == "51.0 ms"
    assert rows["per epoch"].startswith("1 min")
    assert "1,178 steps" in rows.values()
    assert "23,560 steps" in rows.values()


def test_the_estimate_names_the_number_format_and_the_reason_for_it():
    chosen = PrecisionChoice("bfloat16", "1.5 times as fast as float32")
    rows = estimate_rows(RunEstimate(NANO, time=StepTime(0.05, 0.001, chosen)))
    at = next(index for index, row in enumerate(rows) if row.label == "precision")
    assert [row.value for row in rows[at : at + 2]] == ["bfloat16 products", "1.5 times as fast as float32"]
    named = estimate_rows(RunEstimate(NANO, time=StepTime(0.05, 0.001, PrecisionChoice("bfloat16", ""))))
    assert len(named) == len(rows) - 1
    assert rows[at + 1] not in fit_rows(rows, len(rows) - 3, OPTIONAL)


def test_unknown_values_are_replaced_by_the_reason():
    assert shown(RunEstimate(NANO))["throughput"] == TIMING
    assert shown(RunEstimate(NANO))["text"] == READING
    rows = {
        row.label: row
        for row in estimate_rows(RunEstimate(NANO, texts_problem="cannot be read", time_problem="not timed"))
    }
    assert (rows["text"].value, rows["text"].tone) == ("cannot be read", "bad")
    assert (rows["throughput"].value, rows["throughput"].tone) == ("not timed", "bad")
    assert estimate_rows(RunEstimate())[0].label.startswith("Fix the fields marked ✗")
    guess = fake_texts(NANO)._replace(counted=False)
    assert shown(RunEstimate(NANO, texts=guess))["epoch"] == "about 1.21M tokens"


def test_the_estimate_shows_a_sample_of_the_text():
    rows = shown(RunEstimate(NANO, texts=fake_texts(NANO)))
    assert rows["begins"] == "It is a truth universally acknowledged"
    assert rows["documents"] == "11.4k"
    assert "2.95 bytes per token" in rows.values()
    several = fake_texts(NANO)._replace(train_title="texts", files=12, counted=False, documents_counted=False)
    rows = shown(RunEstimate(NANO, texts=several))
    assert rows["text"] == "texts, 12 files, 3.6 MB"
    assert rows["documents"] == "about 11.4k"
    assert "about 2.95 bytes per token" in rows.values()


def test_text_statistics_are_reused_until_a_text_setting_changes():
    estimate = RunEstimate(NANO, texts=fake_texts(NANO))
    assert estimate_after(estimate, msgspec.structs.replace(NANO, layers=6, attn_lr=0.1)).texts == estimate.texts
    assert estimate_after(estimate, msgspec.structs.replace(NANO, vocab_size=4096)).texts is None
    assert estimate_after(RunEstimate(texts=estimate.texts), NANO) == RunEstimate(NANO)


def test_an_existing_run_is_that_of_its_folder_only():
    estimate = RunEstimate(NANO, existing_run="a run at step 1,200")
    assert estimate_after(estimate, msgspec.structs.replace(NANO, layers=6)).existing_run == estimate.existing_run
    assert estimate_after(estimate, msgspec.structs.replace(NANO, models_dir="other")).existing_run == ""


def test_insufficient_memory_is_marked():
    rows = {row.label: row for row in estimate_rows(RunEstimate(preset("mini"), 2, 1_000_000_000))}
    assert rows["memory"].tone == "bad"
    needed = size(estimate_memory(preset("mini"), 2).total)  # with AMX more logits at once
    assert rows["memory"].value.startswith(f"✗ {needed}, 1.0 GB free")


def test_the_self_test_has_lines_instead_of_epochs():
    settings = msgspec.structs.replace(NANO, overfit_tiny=True)
    rows = shown(RunEstimate(settings, texts=fake_texts(settings), time=StepTime(0.1, 0.0)))
    assert rows["lines"] == "the first 100"
    assert rows["total"] == "up to 4 min 10 s"
    assert not {"epoch", "per epoch"} & rows.keys()


@pytest.mark.parametrize("height", [40, 15, 12, 3])
def test_rules_and_details_are_dropped_in_a_low_panel(height: int):
    rows = fit_rows(
        estimate_rows(RunEstimate(NANO, 2, None, fake_texts(NANO), "", StepTime(0.05, 0.001))), height, OPTIONAL
    )
    assert {"parameters", "memory", "throughput", "per epoch", "total"} <= {row.label for row in rows}
    assert len(rows) <= max(height, 12)


def test_all_lines_of_a_long_reason_are_dropped_together():
    rows = [
        Row("precision", "float32"),
        Row(REASON, "this processor has no bfloat16 instructions"),
        Row("total", "1 h"),
    ]
    lines = wrapped_rows(rows, 20)
    assert [line.value for line in lines] == ["float32", "this processor has", "no bfloat16", "instructions", "1 h"]
    assert fit_rows(lines, 4, OPTIONAL) == [rows[0], rows[2]]
    assert fit_rows(lines, 5, OPTIONAL) == lines


def test_step_times_have_fixed_decimals():
    assert [step_time(s) for s in (0.0523, 0.9, 1.0, 8.34, 71)] == [
        "52.3 ms",
        "900.0 ms",
        "1.0 s",
        "8.3 s",
        "1 min 11 s",
    ]


def test_a_time_budget_has_its_tokens_passes_and_tokens_per_parameter():
    settings = msgspec.structs.replace(NANO, minutes=5.0, max_epochs=1000, eval_every_steps=0)
    found = shown(RunEstimate(settings, 2, 4_000_000_000, fake_texts(NANO), "", StepTime(0.05, 0.0)))
    assert found["budget"] == "5.88M tokens, 4.88 passes"
    assert {"4.92 tokens per parameter", "evaluations included"} <= set(found.values())
    assert found["total"] == "up to 5 min 00 s"
    assert "budget" not in shown(RunEstimate(NANO, 2, None, fake_texts(NANO), "", StepTime(0.05, 0.0)))


def test_the_steps_on_a_text_of_less_than_one_batch_have_its_tokens_alone():
    settings = msgspec.structs.replace(NANO, minutes=5.0, max_epochs=100, eval_every_steps=0)
    texts = fake_texts(NANO)._replace(train_tokens=50, eval_tokens=10)
    found = shown(RunEstimate(settings, 2, 4_000_000_000, texts, "", StepTime(0.05, 0.0)))
    assert found["budget"] == f"{short(100 * 50)} tokens, 100 passes"


@pytest.mark.parametrize(("warmup", "is_noted"), [(10**6, True), (1, False)])
def test_a_run_that_ends_within_its_warm_up_is_noted(warmup: int, is_noted: bool):
    settings = msgspec.structs.replace(NANO, warmup_steps=warmup, max_epochs=1)
    rows = estimate_rows(RunEstimate(settings, texts=fake_texts(settings), time=StepTime(0.1, 0.0)))
    assert ("fewer than warmup_steps" in " ".join(row.value for row in rows)) == is_noted


def test_the_estimate_says_how_many_ranks_a_step_is_enough_for():
    rows = shown(RunEstimate(msgspec.structs.replace(NANO, micro_batch_size=2)))
    assert rows["ranks"] == "up to 8, by mpiexec"
    assert "4.8 MB sent per step with 2 ranks" in rows.values()
    halved = shown(RunEstimate(msgspec.structs.replace(NANO, micro_batch_size=2, exchange="bfloat16")))
    assert "2.4 MB sent per step with 2 ranks" in halved.values()


def test_a_rank_that_owns_several_sums_of_micro_batches_sends_them_all() -> None:
    rows = shown(RunEstimate(msgspec.structs.replace(NANO, batch_size=12, micro_batch_size=2)))
    assert rows["ranks"] == "up to 6, by mpiexec"
    assert "7.2 MB sent per step with 2 ranks" in rows.values()


def test_a_step_of_one_micro_batch_has_no_row_of_ranks():
    assert "ranks" not in shown(RunEstimate(NANO))
