"""Reading growing logs: incomplete lines, truncated and replaced files, bounded memory; finding runs."""

from __future__ import annotations

import math
import os
from pathlib import Path

import msgspec
import pytest

from gpt_core.checkpoints.lock import LockHolder
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.training.events import (
    EvalCompleted,
    FullEvalCompleted,
    RunContinued,
    RunFinished,
    RunPaused,
    SampleWritten,
    StepCompleted,
)
from gpt_tui.session import log_reader, run_finder
from gpt_tui.session.log_reader import NO_EVALUATION, BestEvaluation, LogFollower, LogSummary, LogTail
from gpt_tui.session.run_events import MAX_EVALUATIONS, advance_all
from gpt_tui.session.run_finder import RunFinder, RunStatus, folder_of_interest, log_folders, run_status
from gpt_tui.session.run_preview import shown_path
from gpt_tui.session.run_state import RunState
from gpt_tui.tabs.runs.presenter import name_of
from tests.tui.log_samples import LOG, lines, run_events, write_log
from tests.tui.samples import scored, started, step


def read_all(follower: LogFollower, max_bytes: int = 1000) -> RunState:
    follower.read(max_bytes)
    while not follower.at_end:
        follower.read(max_bytes)
    return follower.history


def same(one: RunState, other: RunState) -> bool:
    return (
        one.step == other.step and one.evaluations == other.evaluations and one.samples == other.samples
        and one.finished == other.finished and one.log == other.log and one.curve.smoothed == other.curve.smoothed
        and one.curve.rows().tolist() == other.curve.rows().tolist()
    )  # fmt: skip


# -- following


@pytest.mark.parametrize("max_bytes", [300, 1000, 1 << 20])
def test_chunks_of_any_size_give_the_same_history(tmp_path: Path, max_bytes: int) -> None:
    events = run_events(400)
    follower = LogFollower(write_log(tmp_path, events))
    assert same(read_all(follower, max_bytes), advance_all(RunState(), events))  # type: ignore[arg-type]


def test_a_missing_log_is_followed_once_it_exists(tmp_path: Path) -> None:
    follower = LogFollower(tmp_path / LOG)
    assert not follower.read()
    assert follower.at_end
    assert follower.problem == ""
    write_log(tmp_path, run_events(20))
    assert read_all(follower).step == 20


def test_an_incomplete_last_line_is_read_when_complete(tmp_path: Path) -> None:
    whole, last = lines(started(), step(1)), lines(step(2))
    path = tmp_path / LOG
    path.write_bytes(whole + last[:40])
    follower = LogFollower(path)
    assert read_all(follower).step == 1
    with path.open("ab") as log:
        log.write(last[40:])
    assert read_all(follower).step == 2


def test_unknown_and_broken_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / LOG
    path.write_bytes(
        lines(started(), step(1)) + b'\xff\x00{]\n\n{"event":"other"}\n' + b"[" * 5000 + b"\n" + lines(step(2))
    )
    assert read_all(LogFollower(path), 1 << 20).step == 2


def test_a_line_beyond_the_maximum_length_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "MAX_LINE_BYTES", 2000)
    path = tmp_path / LOG
    path.write_bytes(lines(started(), step(1)) + b"x" * 50_000 + b"\n" + lines(step(2)))
    assert read_all(LogFollower(path)).step == 2


def test_only_new_lines_are_read(tmp_path: Path) -> None:
    path = write_log(tmp_path, run_events(50, end=""))
    tail = LogTail(path)
    assert tail.read(1 << 20).lines == path.read_bytes()
    with path.open("ab") as log:
        log.write(lines(step(51)))
    chunk = tail.read(1 << 20)
    assert chunk.lines == lines(step(51))
    assert not chunk.restarted


@pytest.mark.parametrize("in_place", [True, False])
def test_a_truncated_log_is_read_from_its_start(tmp_path: Path, in_place: bool) -> None:
    path = write_log(tmp_path, run_events(100, end=""))
    follower = LogFollower(path)
    assert read_all(follower).step == 100
    cut = path.read_bytes()[: path.read_bytes().index(b'{"event":"step","step":61,')]
    if in_place:
        os.truncate(path, len(cut))
    else:
        (tmp_path / "new").write_bytes(cut)
        (tmp_path / "new").replace(path)
    assert read_all(follower).step == 60
    assert len(follower.history.curve.recent) == 60


def test_a_log_overwritten_by_a_longer_one_is_read_from_its_start(tmp_path: Path) -> None:
    path = write_log(tmp_path, run_events(50, seed=1))
    follower = LogFollower(path)
    read_all(follower)
    with path.open("r+b") as log:
        log.write(lines(*run_events(80, seed=2)))
    assert same(read_all(follower), advance_all(RunState(), run_events(80, seed=2)))  # type: ignore[arg-type]


def test_an_unreadable_log_is_a_problem_in_one_line(tmp_path: Path) -> None:
    (tmp_path / LOG).mkdir()
    follower = LogFollower(tmp_path / LOG)
    assert not follower.read()
    assert follower.problem == "is a folder, expected a file"
    assert follower.at_end


def test_a_resumed_run_has_not_finished(tmp_path: Path) -> None:
    events = [*run_events(20, end="stopped"), started(step=20, resumed_from="models/ckpt_latest.safetensors"), step(21)]
    history = read_all(LogFollower(write_log(tmp_path, events)))
    assert history.finished is None
    assert history.step == 21


@pytest.mark.slow
def test_memory_is_bounded_for_any_log(tmp_path: Path) -> None:
    events = [started(), *(event for n in range(1, 12_000) for event in (step(n), scored(n, 0.1)))]
    history = read_all(LogFollower(write_log(tmp_path, events)), 1 << 16)
    assert history.step == 11_999
    assert len(history.curve.rows()) <= 4096
    assert len(history.evaluations) <= MAX_EVALUATIONS
    assert len(history.log) <= 400


def test_the_best_evaluation_and_its_sample_stay_in_a_long_run() -> None:
    evaluations = (
        event
        for n in range(1, 4 * MAX_EVALUATIONS)
        for event in (step(n), scored(n, 0.5 if n == 9 else 0.1), SampleWritten(n, "It was", "x"))
    )
    history = advance_all(RunState(), [started(), *evaluations])
    assert history.best.step == 9
    assert 9 in {point.step for point in history.evaluations}
    assert 9 in {sample.step for sample in history.samples}
    assert len(history.evaluations) <= MAX_EVALUATIONS


# -- summary


def test_the_summary_agrees_with_the_complete_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_tui.session.log_reader.SCAN_BYTES", 3000)
    summary = LogSummary(LogTail(write_log(tmp_path, run_events(400, end="max_epochs"))))
    summary.scan()
    assert not summary.is_complete
    assert summary.last is not None
    assert (summary.last.step, summary.finished) == (400, RunFinished("max_epochs", 400))  # read from the end
    while not summary.is_complete:
        summary.scan()
    assert summary.started == started(max_steps=400)
    assert summary.last is not None
    assert summary.last.step == 400
    assert summary.best.bits_per_byte == pytest.approx((3.0 + 4.0 * math.exp(-4)) / 2)
    assert summary.finished == RunFinished("max_epochs", 400)


def test_the_summary_follows_appended_lines_and_truncation(tmp_path: Path) -> None:
    path = write_log(tmp_path, run_events(100))
    summary = LogSummary(LogTail(path))
    summary.scan()
    with path.open("ab") as log:
        log.write(lines(started(step=100), step(101)))
    summary.scan()
    assert summary.finished is None
    assert summary.last == step(101)
    path.write_bytes(lines(started()))
    summary.scan()
    assert summary.last is None
    assert summary.best == NO_EVALUATION


def test_the_throughput_of_a_run_is_the_median_of_its_last_steps(tmp_path: Path) -> None:
    def timed(number: int, rate: float) -> StepCompleted:
        return msgspec.structs.replace(step(number), tokens_per_s=rate)

    path = write_log(tmp_path, [started(), *(timed(n, 900.0) for n in range(1, 60))])
    summary = LogSummary(LogTail(path))
    assert math.isnan(summary.tokens_per_s)
    summary.scan()
    assert summary.tokens_per_s == 900.0
    with path.open("ab") as log:
        log.write(lines(timed(60, 3.0)))
    summary.scan()
    assert summary.tokens_per_s == 900.0, "one slow step changes nothing"
    with path.open("ab") as log:
        log.write(lines(started(step=60), timed(61, 400.0)))
    summary.scan()
    assert summary.tokens_per_s == 400.0, "a resumed run has its own throughput"


def test_a_run_is_paused_until_it_continues_or_is_resumed(tmp_path: Path) -> None:
    path = write_log(tmp_path, [started(), step(1)])
    summary = LogSummary(LogTail(path))
    for event, is_paused in ((RunPaused(1), True), (step(2), True), (RunContinued(2), False), (RunPaused(2), True),
                             (started(), False)):  # fmt: skip
        with path.open("ab") as log:
            log.write(lines(event))
        summary.scan()
        assert summary.is_paused is is_paused


def test_a_run_that_ended_before_its_first_evaluation_has_the_scores_of_its_end(tmp_path: Path) -> None:
    full = FullEvalCompleted(3, 5.0, math.exp(5.0), 0.2, 2.5, 1000)
    summary = LogSummary(LogTail(write_log(tmp_path, [started(), step(3), full, RunFinished("max_steps", 3)])))
    summary.scan()
    assert summary.best == BestEvaluation(5.0, 0.2, 2.5, 3)


def test_without_a_best_model_the_lowest_loss_is_the_best_evaluation(tmp_path: Path) -> None:
    scores = ((4.0, False), (3.0, False), (3.5, False), (3.2, True), (3.1, False))
    evaluations = [
        EvalCompleted(step=number, loss=loss, ppl=9.0, accuracy=0.3, bits_per_byte=loss / 2, is_best=is_best)
        for number, (loss, is_best) in enumerate(scores, start=1)
    ]
    summary = LogSummary(LogTail(write_log(tmp_path, [started(), *evaluations[:3]])))
    summary.scan()
    assert summary.best == BestEvaluation(3.0, 0.3, 1.5, 2)
    with (tmp_path / LOG).open("ab") as log:
        log.write(lines(*evaluations[3:]))
    summary.scan()
    assert summary.best.step == 4, "the trainer's best evaluation counts where there is one"


def test_the_scores_of_a_run_are_of_its_best_evaluation_and_of_all_of_the_text_where_there_are_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt_tui.session.log_reader.SCAN_BYTES", 300)
    monkeypatch.setattr("gpt_tui.session.log_reader.END_BYTES", 300)
    evaluations = [
        EvalCompleted(
            step=number, loss=loss, ppl=9.0, accuracy=0.3 - loss / 100, bits_per_byte=loss / 2, is_best=is_best
        )
        for number, loss, is_best in ((1, 4.0, True), (2, 3.0, True), (3, 3.5, False))
    ]
    first = [started(eval_part_tokens=100), *evaluations[:2], FullEvalCompleted(1, 2.0, 7.0, 0.5, 1.0, 900)]
    summary = LogSummary(LogTail(write_log(tmp_path, [*first, evaluations[2], RunFinished("max_steps", 3)])))
    while not summary.is_complete:
        summary.scan()
    assert summary.best == BestEvaluation(3.0, evaluations[1].accuracy, 1.5, 2, 100, is_reported=True)
    assert summary.best.mark
    with (tmp_path / LOG).open("ab") as log:
        log.write(lines(FullEvalCompleted(2, 3.1, 22.0, 0.2, 1.6, 900)))
    summary.is_complete = False
    while not summary.is_complete:
        summary.scan()
    assert summary.best == BestEvaluation(3.1, 0.2, 1.6, 2, is_reported=True)
    assert not summary.best.mark
    with (tmp_path / LOG).open("ab") as log:
        log.write(lines(started(step=3, best_restarted="another eval text"), step(4), scored(4, 0.1)))
    summary.is_complete = False
    while not summary.is_complete:
        summary.scan()
    assert summary.best.step == 4


# -- finding


def test_runs_are_found_under_the_models_folder_and_the_working_folder(tmp_path: Path) -> None:
    for name in ("models", "models/a", "trials/b", "trials/deep/c"):
        write_log(tmp_path / name, run_events(5))
    found = log_folders([tmp_path / "models", tmp_path])
    assert found == [tmp_path / name for name in ("models", "models/a", "trials/b", "trials/deep/c")]


def test_hidden_linked_and_deep_folders_are_skipped(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    write_log(outside, run_events(5))
    write_log(inside / ".hidden", run_events(5))
    write_log(inside / "1" / "2" / "3" / "4", run_events(5))
    (inside / "link").symlink_to(outside)
    (inside / "round").symlink_to(inside)
    assert log_folders([inside]) == []


def test_the_number_of_listed_folders_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        write_log(tmp_path / f"{number:02}", run_events(2))
        os.utime(tmp_path / f"{number:02}" / LOG, (number, number))
    newest = [f"{number:02}" for number in range(20, 30)]
    assert [folder.name for folder in log_folders([tmp_path], limit=10)] == newest
    monkeypatch.setattr(run_finder, "MAX_FOLDERS", 6)
    assert len(log_folders([tmp_path])) == 5


def test_unreadable_entries_do_not_hide_other_runs(tmp_path: Path) -> None:
    write_log(tmp_path / "good", run_events(5))
    os.mkfifo(tmp_path / LOG)
    (tmp_path / "odd" / LOG).mkdir(parents=True)
    (tmp_path / "file").write_text("no folder")
    runs = RunFinder((tmp_path, tmp_path / "absent")).find()
    assert [run.folder.name for run in runs] == ["good"]


def test_a_run_without_an_end_and_without_a_process_has_crashed(tmp_path: Path) -> None:
    write_log(tmp_path / "crashed", run_events(5, end=""))
    (tmp_path / "crashed" / ".lock").write_text(f"{os.getpid()}\n")
    write_log(tmp_path / "done", run_events(5), age_s=60)
    write_log(tmp_path / "stopped", run_events(5, end="stopped"), age_s=90)
    runs = RunFinder((tmp_path, tmp_path)).find()
    assert [(run.folder.name, run.status) for run in runs] == [
        ("crashed", RunStatus.CRASHED), ("done", RunStatus.FINISHED), ("stopped", RunStatus.STOPPED),
    ]  # fmt: skip
    assert runs[0].step == 5


def test_a_run_that_holds_its_folder_is_live_until_its_end() -> None:
    unwritten, begun = LogSummary(LogTail(Path(LOG))), LogSummary(LogTail(Path(LOG)), started=started())
    assert run_status(None, None) is RunStatus.WAITING
    assert run_status(unwritten, None) is RunStatus.WAITING
    assert run_status(unwritten, LockHolder(1)) is RunStatus.LIVE
    assert run_status(begun, LockHolder(1)) is RunStatus.LIVE
    begun.is_paused = True
    assert run_status(begun, LockHolder(1)) is RunStatus.PAUSED
    assert run_status(begun, None) is RunStatus.CRASHED
    begun.finished = RunFinished("diverged", 3)
    assert run_status(begun, LockHolder(1)) is RunStatus.DIVERGED


def test_a_watched_folder_is_listed_first_even_without_a_log(tmp_path: Path) -> None:
    write_log(tmp_path / "models", run_events(5))
    watched = tmp_path / "elsewhere"
    watched.mkdir()
    finder = RunFinder((tmp_path / "models",), watched)
    assert [(run.folder, run.status) for run in finder.find()] == [
        (watched, RunStatus.WAITING), (tmp_path / "models", RunStatus.FINISHED),
    ]  # fmt: skip
    write_log(watched, run_events(7), age_s=1000)
    assert [run.step for run in finder.find()] == [7, 5]


def test_the_default_folder_to_watch_is_in_training_or_was_updated_last(tmp_path: Path) -> None:
    models, events = tmp_path / "models", run_events(3)
    assert folder_of_interest(models, tmp_path) is None
    write_log(models, events, age_s=300)
    assert folder_of_interest(models, tmp_path) == models
    write_log(tmp_path / "trial", events, age_s=200)
    assert folder_of_interest(models, tmp_path) == tmp_path / "trial"
    write_log(models / "overfit", events, age_s=100)
    assert folder_of_interest(models, tmp_path) == models / "overfit"
    with CheckpointStore(tmp_path / "new") as store:
        store.prepare("another run", new_run=True)
        assert folder_of_interest(models, tmp_path) == tmp_path / "new"
        with CheckpointStore(models) as other:
            other.prepare("one more", new_run=True, overwrite=True)
            write_log(tmp_path / "new", events, age_s=50)
            assert folder_of_interest(models, tmp_path) == tmp_path / "new"
            write_log(models, events, age_s=1)
            assert folder_of_interest(models, tmp_path) == models
    assert folder_of_interest(models, tmp_path) == models


def test_names_of_runs_are_known_when_the_working_folder_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(tmp_path / "models", run_events(2))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work").rmdir()
    (run,) = RunFinder((tmp_path / "models", Path())).find()
    assert name_of(run.folder) == shown_path(run.folder) == str(tmp_path / "models")
    assert shown_path(Path("models")) == "models"
