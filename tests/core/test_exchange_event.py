"""Event with the exchange of gradients of a run on several ranks: after evaluations and at the end."""

from __future__ import annotations

from pathlib import Path

from gpt_core.training import events as ev
from gpt_core.training.metrics_log import read_metrics
from tests.core.fake_ranks import on_ranks, settings_of, trainer_of


def exchanges(size: int, folder: Path, **changes: object) -> list[list[ev.ExchangeMeasured]]:
    """Return the events of each rank of a run of seven steps with an evaluation after the fifth."""
    folder.mkdir(exist_ok=True)
    settings = settings_of(folder, **changes)
    events = on_ranks(size, lambda rank: list(trainer_of(rank, settings).events()))
    return [[event for event in found if isinstance(event, ev.ExchangeMeasured)] for found in events]


def test_rank_0_reports_the_exchange_after_each_evaluation_and_at_the_end(tmp_path: Path) -> None:
    found, other = exchanges(2, tmp_path)
    assert [(event.step, event.steps) for event in found] == [(5, 5), (7, 7)]
    assert [event for event in read_metrics(tmp_path / "models" / "metrics.jsonl") if event in found] == found
    assert other == []
    first, last = found
    assert 0 < first.sent_bytes * 7 == last.sent_bytes * 5
    assert 0 < first.exchange_s < last.exchange_s
    assert 0 < first.training_s < last.training_s


def test_bfloat16_halves_the_reported_bytes(tmp_path: Path) -> None:
    full, half = (exchanges(2, tmp_path / name, exchange=name)[0][-1] for name in ("float32", "bfloat16"))
    assert half.sent_bytes * 2 == full.sent_bytes


def test_one_process_reports_no_exchange(tmp_path: Path) -> None:
    assert exchanges(1, tmp_path) == [[]]
