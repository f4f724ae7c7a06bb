"""Ranks and hosts on the set-up screen, in the preview, the status panel and the Runs tab: pure functions."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gpt_core.bench.estimate import StepTime
from gpt_core.config.presets import preset
from gpt_core.training import events as ev
from gpt_tui.new_run.estimate import RunEstimate, estimate_rows, memory_here, memory_problem, sent_per_step
from gpt_tui.new_run.fields import texts_of, validate, with_preset
from gpt_tui.run_view.status import status_rows
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_events import advance
from gpt_tui.session.run_finder import RunInfo, RunStatus
from gpt_tui.session.run_preview import RunPreview, read_preview
from gpt_tui.tabs.runs.presenter import log_rows
from gpt_tui.tabs.train.presenter import preview_rows, starts_automatically
from gpt_tui.tabs.train.welcome_text import with_estimate
from tests.tui.fake_probes import fake_texts
from tests.tui.samples import started, trained

NANO = msgspec.structs.replace(preset("nano"), micro_batch_size=2)
HOSTS = ("a", "a", "b", "b")
EXCHANGED = ev.ExchangeMeasured(
    step=300, steps=300, sent_bytes=1_440_000_000, exchange_s=12.0, waited_s=3.0, training_s=60.0
)


def values(width: int, hosts: tuple[str, ...]) -> dict[str, str]:
    run = advance(advance(trained(350), started(hosts=hosts, step=350)), EXCHANGED)
    return {row.label: row.value for row in status_rows(run, SessionStatus(Phase.TRAINING, 0.0, 1), width)}


def test_the_status_panel_names_the_ranks_and_their_hosts() -> None:
    assert values(60, HOSTS)["ranks"] == "4 on 2 hosts: a, b"
    assert values(30, HOSTS)["ranks"] == "4 on 2 hosts"
    assert values(60, HOSTS)["model"].endswith("2 threads per rank")
    assert values(60, ("evil\x1b[31m",) * 2)["ranks"].isprintable()
    assert "ranks" not in values(60, ())


def test_the_runs_tab_names_the_ranks_and_the_exchange_of_a_run_of_another_process() -> None:
    run = advance(advance(trained(350), started(hosts=HOSTS, step=350)), EXCHANGED)
    rows = {row.label: row.value for row in log_rows(RunInfo(Path("models"), status=RunStatus.LIVE), run, 0.0, 80)}
    assert rows["ranks"] == "4 on 2 hosts: a, b"
    assert rows["exchange"] == "4.8 MB sent per step, 20.0% of the time, 75.0% of it hidden"


def estimate(hosts: tuple[str, ...]) -> RunEstimate:
    return RunEstimate(NANO, 2, 4_000_000_000, fake_texts(NANO), "", StepTime(0.05, 0.001), hosts=hosts)


@pytest.mark.usefixtures("fixed_activation_memory")
def test_the_set_up_screen_shows_ranks_bytes_and_memory_per_rank() -> None:
    rows = {row.label: row.value for row in estimate_rows(estimate(HOSTS))}
    found = [row.value for row in estimate_rows(estimate(HOSTS))]
    assert rows["ranks"] == "4 on 2 hosts: a, b"
    assert "7.2 MB sent per step" in found
    assert rows["memory"].startswith("2 × ")
    assert "of rank 0 alone; the ranks share a step" in found
    alone = [row.value for row in estimate_rows(estimate(()))]
    assert "of rank 0 alone; the ranks share a step" not in alone
    assert not any("×" in value for value in alone)


def test_local_steps_send_weights_and_moments_once_per_round() -> None:
    local = msgspec.structs.replace(NANO, sync_every_steps=50)
    assert sent_per_step(local, 2) == pytest.approx(1_194_752 * 12 / 50)
    halved = msgspec.structs.replace(local, exchange="bfloat16", ema=0.99)
    assert sent_per_step(halved, 2) == pytest.approx(1_194_752 * 14 / 50)
    found = [row.value for row in estimate_rows(estimate(("a", "b"))._replace(settings=local))]
    assert "287 kB sent per step" in found


def test_the_memory_of_a_rank_has_the_sums_of_its_own_micro_batches() -> None:
    alone, shared = (memory_here(NANO, 2, None, hosts) for hosts in ((), HOSTS))
    gradients = 4 * 1_194_752
    by_block = 4 * (401_408 + 198_528)  # the embedding, and one of four blocks with the final norm
    assert alone.rank.state - shared.rank.state == gradients + by_block  # 3 sums of 8 micro-batches, 2 sums of 2
    assert (alone.total, shared.total) == (alone.rank.total, 2 * shared.rank.total)
    assert memory_problem(shared.total, shared.rank.total).startswith("not timed: needs ")


def problems_of(ranks: int, **texts: str) -> dict[str, str]:
    return validate(texts_of(preset("nano")) | texts, lambda *_: "", ranks=ranks).problems


def test_more_ranks_than_micro_batches_are_an_error_of_the_field_that_helps() -> None:
    assert problems_of(1) == problems_of(4, micro_batch_size="4") == {}
    found = problems_of(2)
    assert found.keys() == {"micro_batch_size"}
    assert found["micro_batch_size"].startswith("micro_batch_size: 2 ranks need as many micro-batches per step, got 1")
    assert "micro_batch_size=8" in found["micro_batch_size"]
    assert problems_of(3, batch_size="2", micro_batch_size="1").keys() == {"batch_size"}


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("name", ["nano", "micro", "mini"])
def test_a_preset_that_is_chosen_has_a_micro_batch_for_every_rank(name: str, ranks: int) -> None:
    texts = with_preset(texts_of(preset("nano")), name, ranks=ranks)
    settings, problems = validate(texts, lambda *_: "", ranks=ranks)
    assert problems == {}
    assert settings is not None
    assert ranks <= settings.micro_batches
    assert (settings.micro_batch_size == preset(name).micro_batch_size) == (ranks <= preset(name).micro_batches)


def test_the_preview_names_ranks_and_does_not_start_a_run_that_would_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = read_preview(preset("nano"), "nano", "", HOSTS)
    assert dict(preview_rows(refused, {}))["problem"].startswith("4 ranks need as many micro-batches per step, got 1")
    assert not starts_automatically(refused._replace(train_file="data/train.en"))
    found = read_preview(NANO, "nano", "", HOSTS)
    assert found.problem == ""
    rows = dict(with_estimate(preview_rows(found, {}), estimate(HOSTS)))
    assert rows["ranks"] == "4 on 2 hosts: a, b"
    assert rows["time"].startswith("up to 22 min")
    assert "by rank 0 alone" in rows["time"]
    assert rows["memory"].startswith("2 × ")
    assert "ranks" not in dict(preview_rows(RunPreview(NANO, "nano"), {}))
