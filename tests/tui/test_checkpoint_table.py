"""Checkpoints tab without a terminal: scans, verification, columns, and the text about a file."""

from __future__ import annotations

import errno
import os
import re
import threading
from pathlib import Path

import msgspec
import pytest
from rich.cells import cell_len

from gpt_core.checkpoints import store
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.errors import CheckpointError
from gpt_core.formats.checkpoint_header import CheckpointInfo, peek_checkpoint
from gpt_core.thread_priority import MAX_NICE, lower_priority
from gpt_tui.shared.formatting import size
from gpt_tui.shared.thread_priority import CHECKING
from gpt_tui.tabs.checkpoints.files import (
    CheckpointFile,
    FolderContents,
    FolderScanner,
    Stamp,
    VerificationThread,
    delete_file,
    stamp_of,
)  # fmt: skip
from gpt_tui.tabs.checkpoints.presenter import (
    Verification,
    deletion_question,
    details,
    empty_text,
    imported_rows,
    next_pending,
    refusal,
    run_rows,
    schedule_text,
    status_cell,
    summary_text,
    table,
    verification_of,
    verification_result,
)  # fmt: skip
from tests.tui.app_bench import DEADLINE_S
from tests.tui.stored_files import NOW_S, SMALL, fill, flip, save

VALID, DAMAGED = Verification("valid"), Verification("damaged", error="m/x.safetensors is damaged: w does not match")
NEWEST_FIRST = [
    "ckpt_latest", "best_model", "epoch_010", "transformer", "long/ckpt_latest", "bert", "epoch_020",
]  # fmt: skip


@pytest.fixture
def contents(tmp_path: Path) -> FolderContents:
    fill(tmp_path)
    return FolderScanner(str(tmp_path)).scan()


def named(contents: FolderContents, name: str) -> CheckpointFile:
    return next(file for file in contents.files if file.name == name)


def stamped(path: Path) -> Stamp:
    return stamp_of(path, path.stat())


def verified(path: Path) -> tuple[list[float], Verification]:
    """Verify a file and return the reported fractions and the result."""
    fractions: list[float] = []
    ends: list[Verification] = []
    thread = VerificationThread(
        Stamp(path, 0, 0),
        lambda _, fraction: fractions.append(fraction),
        lambda _, found: ends.append(verification_result(found)),
    )
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    (end,) = ends
    return fractions, end


# -- scans


def test_files_are_sorted_newest_first_and_those_without_a_header_last(contents: FolderContents):
    assert [file.name for file in contents.files] == NEWEST_FIRST
    assert contents.problems == ()


def test_a_folder_with_the_name_of_a_checkpoint_is_no_file(tmp_path: Path):
    for name in ("parts.safetensors", "ckpt_latest.safetensors"):
        (tmp_path / name).mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "parts.safetensors")
    assert FolderScanner(str(tmp_path)).scan() == FolderContents()
    assert [found.path.name for found in CheckpointStore(tmp_path).list()] == ["ckpt_latest.safetensors"]


def test_only_the_headers_of_new_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill(tmp_path)
    scanner = FolderScanner(str(tmp_path))
    first = scanner.scan()
    read: list[Path] = []
    peek = store.peek_checkpoint
    monkeypatch.setattr(store, "peek_checkpoint", lambda path: read.append(path) or peek(path))
    assert scanner.scan() == first
    assert read == []
    new = tmp_path / "long" / "epoch_001.safetensors"
    save(new, 1, step=3)
    assert named(scanner.scan(), "long/epoch_001").info.step == 3  # type: ignore[union-attr]
    assert read == [new]
    new.unlink()
    assert scanner.successor().scan() == first
    assert read == [new]


def test_a_missing_folder_is_empty_and_an_unreadable_one_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert FolderScanner(str(tmp_path / "none")).scan() == FolderContents()
    (tmp_path / "file").touch()
    assert FolderScanner(str(tmp_path / "file")).scan().problems == (
        f"{tmp_path}/file cannot be read: Not a directory",
    )
    fill(tmp_path)
    scan = os.scandir

    def refuse(path):  # type: ignore[no-untyped-def]
        if Path(path).name == "long":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    contents = FolderScanner(str(tmp_path)).scan()
    assert contents.problems == (f"{tmp_path}/long cannot be read: Permission denied",)
    assert len(contents.files) == len(NEWEST_FIRST) - 1
    assert "Permission denied" in summary_text(contents, {})


def test_a_broken_link_is_listed_with_the_reason(tmp_path: Path):
    (tmp_path / "best_model.safetensors").symlink_to(tmp_path / "gone")
    (file,) = FolderScanner(str(tmp_path)).scan().files
    assert "No such file" in verification_of(file, {}).error


def test_a_file_that_could_not_be_read_is_read_again_in_the_next_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path / "ckpt_latest.safetensors", 1)
    path = save(tmp_path / "best_model.safetensors", 1)
    scanner, begun = FolderScanner(str(tmp_path)), []

    def refuse(file: Path) -> CheckpointInfo:
        begun.append(file.name)
        if file == path:
            raise CheckpointError(f"{file} cannot be read: Permission denied")
        return peek_checkpoint(file)

    monkeypatch.setattr(store, "peek_checkpoint", refuse)
    assert [file.info is None for file in scanner.scan().files] == [False, True]
    monkeypatch.setattr(store, "peek_checkpoint", lambda file: begun.append(file.name) or peek_checkpoint(file))
    assert [file.info is None for file in scanner.scan().files] == [False, False]
    scanner.scan()
    assert sorted(begun) == ["best_model.safetensors", "best_model.safetensors", "ckpt_latest.safetensors"]


# -- verification and deletion


def test_a_verification_reports_its_progress(tmp_path: Path):
    fractions, end = verified(save(tmp_path / "ckpt_latest.safetensors", 1))
    assert end == Verification("valid")
    assert fractions == sorted(fractions)
    assert len(fractions) > 10
    assert all(0 < fraction < 1 for fraction in fractions)


def test_a_verification_finds_one_flipped_bit(tmp_path: Path):
    end = verified(flip(save(tmp_path / "ckpt_latest.safetensors", 1), -500))[1]
    assert end.state == "damaged"
    assert "does not match its checksum" in end.error


def test_a_file_that_can_no_longer_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(tmp_path / "ckpt_latest.safetensors", 1)
    (file,) = FolderScanner(str(tmp_path)).scan().files

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("gpt_core.formats.safetensors.read_tensor", fail)
        end = verified(path)[1]
    assert end.state == "unusable"
    assert "cannot be read: Input/output error" in end.error
    assert dict(details(file, end, NOW_S))["use"] == "none while it cannot be read"
    path.unlink()
    end = verified(path)[1]
    assert end.state == "unusable"
    assert "No such file" in end.error


def test_an_unexpected_error_of_a_verification_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("gpt_tui.tabs.checkpoints.files.verify_checkpoint", fail)
    path = save(tmp_path / "ckpt_latest.safetensors", 1)
    assert verified(path)[1] == Verification("unusable", error=f"{path} could not be verified: RuntimeError: broken")


def test_a_stopped_verification_ends_without_a_report(tmp_path: Path):
    path = save(tmp_path / "ckpt_latest.safetensors", 1)
    ends: list[str] = []
    reached, released = threading.Event(), threading.Event()

    def reported(_stamp: Stamp, _fraction: float) -> None:
        reached.set()
        released.wait(DEADLINE_S)

    thread = VerificationThread(Stamp(path, 0, 0), reported, lambda _, error: ends.append(error))
    thread.start()
    assert reached.wait(DEADLINE_S)
    thread.stop()
    released.set()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert ends == []


def test_a_verification_lowers_only_its_own_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if not hasattr(os, "getpriority") or not os.path.exists("/proc/self/task"):
        pytest.skip("threads have no individual priority on this system")
    monkeypatch.setattr("gpt_tui.tabs.checkpoints.file_thread.lower_priority", lower_priority)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    seen: list[int] = []
    path = save(tmp_path / "ckpt_latest.safetensors", 1)
    note = lambda *_: seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))  # noqa: E731
    thread = VerificationThread(Stamp(path, 0, 0), lambda *_: None, note)
    thread.start()
    thread.join(DEADLINE_S)
    assert seen[0] == min(before + CHECKING, MAX_NICE)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_only_the_named_file_is_deleted_and_a_failure_is_reported(tmp_path: Path):
    fill(tmp_path)
    before = set(tmp_path.rglob("*.safetensors"))
    stamp = stamped(tmp_path / "best_model.safetensors")
    assert delete_file(stamp) == ""
    assert before - set(tmp_path.rglob("*.safetensors")) == {stamp.path}
    assert delete_file(stamp) == ""  # already gone
    assert "was not deleted" in delete_file(stamped(tmp_path / "long"))


def test_a_file_that_was_saved_again_after_the_question_is_not_deleted(tmp_path: Path):
    path = tmp_path / "ckpt_latest.safetensors"
    path.write_bytes(b"old")
    stamp = stamped(path)
    path.write_bytes(b"newer")
    assert "was saved again" in delete_file(stamp)
    assert path.read_bytes() == b"newer"
    assert delete_file(stamped(path)) == ""
    assert not path.exists()


def test_each_readable_file_is_verified_once_in_order(contents: FolderContents):
    known: dict[Stamp, Verification] = {}
    order = []
    while file := next_pending(contents.files, known):
        order.append(file.name)
        known[file.stamp] = VALID
    assert order == [name for name in NEWEST_FIRST if name not in ("bert", "epoch_020")]


# -- the table


@pytest.mark.parametrize("width", [40, 60, 75, 100, 116, 200])
def test_rows_are_aligned_and_fit_the_width(contents: FolderContents, width: int):
    shown = table(contents.files, {contents.files[0].stamp: Verification("running", 0.421)}, NOW_S, width)
    texts = {len(row.text) for row in shown.rows}
    assert len(texts) == 1
    assert all(len(row.text + row.status) <= width for row in shown.rows)
    assert len(shown.titles) <= width
    assert shown.rows[0].status == "… 42%"


def test_columns_are_dropped_by_rank(contents: FolderContents):
    titles = {width: table(contents.files, {}, NOW_S, width).titles for width in (44, 61, 77, 90, 130)}
    names = {width: re.split("  +", text) for width, text in titles.items()}
    assert names[130] == [
        "name", "kind", "step", "train loss", "eval loss", "accuracy", "shape", "size", "age", "status",
    ]  # fmt: skip
    assert names[90] == ["name", "step", "train loss", "eval loss", "accuracy", "age", "status"]
    assert names[77] == ["name", "step", "eval loss", "accuracy", "age", "status"]
    assert names[61] == ["name", "step", "eval loss", "age", "status"]
    assert names[44] == ["name", "step", "status"]


def test_a_row_shows_the_values_that_its_header_has(contents: FolderContents):
    lines = [(row.text + row.status).split() for row in table(contents.files, {}, NOW_S, 200).rows]
    assert lines[0] == [
        "ckpt_latest", "latest", "12,480", "3.210", "–", "–", "2", "×", "8,", "3.19k",
        *size(contents.files[0].stamp.size).split(), "1", "min", "·", "pending",
    ]  # fmt: skip
    assert lines[1][2:6] == ["12,000", "3.210", "3.456", "31.2%"]  # evaluated at this very step
    assert lines[2][2:6] == ["9,000", "–", "–", "–"]
    assert lines[5] == ["bert", "other", "16", "B", "2", "h", "✗", "not", "gpt-tui"]
    assert lines[6] == ["epoch_020", "epoch", "3.0", "kB", "2", "h", "✗", "damaged"]


def test_a_file_is_damaged_or_not_gpt_tuis_by_its_content_not_by_its_name(tmp_path: Path):
    cut = save(tmp_path / "mine.safetensors", 1)
    cut.write_bytes(cut.read_bytes()[:3000])
    (tmp_path / "best_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    contents = FolderScanner(str(tmp_path)).scan()
    status = {file.name: status_cell(verification_of(file, {}))[0] for file in contents.files}
    assert status == {"mine": "✗ damaged", "best_model": "✗ not gpt-tui", "empty": "✗ damaged"}


def test_names_are_escaped_and_long_ones_are_cut(tmp_path: Path):
    save(tmp_path / ("x" * 200 + ".safetensors"), 1)
    save(tmp_path / "\x1b[31m[red].safetensors", 2)
    shown = table(FolderScanner(str(tmp_path)).scan().files, {}, NOW_S, 60)
    assert "…xxx" in shown.rows[0].text
    assert "␛[31m[red]" in shown.rows[1].text


def test_files_of_one_folder_with_a_long_name_stay_unlike(tmp_path: Path):
    folder = tmp_path / "learning_rate_0.003_batch_size_128_seed_1"
    folder.mkdir()
    for step in (10, 20):
        save(folder / f"epoch_0{step}.safetensors", 1, step=step)
    shown = table(FolderScanner(str(tmp_path)).scan().files, {}, NOW_S, 60)
    assert sorted(row.text.split()[0][-10:] for row in shown.rows) == ["/epoch_010", "/epoch_020"]


@pytest.mark.parametrize("width", [40, 116])
def test_rows_with_wide_characters_are_aligned(tmp_path: Path, width: int):
    save(tmp_path / "模型一.safetensors", 1)
    save(tmp_path / ("模" * 60 + ".safetensors"), 2)
    save(tmp_path / "plain.safetensors", 3)
    shown = table(FolderScanner(str(tmp_path)).scan().files, {}, NOW_S, width)
    assert len({cell_len(row.text) for row in shown.rows}) == 1
    assert all(cell_len(row.text + row.status) <= width for row in shown.rows)


# -- text


def test_scores_of_a_part_of_the_eval_text_are_marked(tmp_path: Path) -> None:
    save(tmp_path / "best_model.safetensors", 0, step=12_000)
    save(tmp_path / "ckpt_latest.safetensors", 0, step=12_000, eval_windows=8)
    found = {file.name: file for file in FolderScanner(str(tmp_path)).scan().files}
    shown = {name: dict(details(file, VALID, NOW_S))["scores"] for name, file in found.items()}
    scores = "eval loss 3.456, accuracy 31.2%, 2.468 bits per byte"
    assert f"{scores}; " in shown["best_model"]
    assert f"{scores} (~: of a part of the eval text); " in shown["ckpt_latest"]
    rows = {row.text.split()[0]: row.text for row in table(list(found.values()), {}, NOW_S, 120).rows}
    assert ("~3.456" in rows["best_model"], "~3.456" in rows["ckpt_latest"]) == (False, True)
    assert ("~31.2%" in rows["best_model"], "~31.2%" in rows["ckpt_latest"]) == (False, True)


def test_details_name_the_damage_and_the_run(contents: FolderContents):
    text = dict(details(named(contents, "epoch_020"), verification_of(named(contents, "epoch_020"), {}), NOW_S))
    assert text["status"].startswith("✗ damaged: got 3,000 bytes")
    text = dict(details(named(contents, "epoch_010"), DAMAGED, NOW_S))
    assert text["use"] == "none: delete it, or replace it with a valid copy"
    text = dict(details(named(contents, "ckpt_latest"), VALID, NOW_S))
    assert text["trained"] == "step 12,480, 13 epochs, 12.8M tokens, 21 min 40 s"
    assert text["scores"] == (
        "train loss 3.210, step loss 3.250; not evaluated at this step; best accuracy so far 31.2% at step 12,000"
    )
    assert text["saved"].endswith("1 min ago")
    text = dict(details(named(contents, "best_model"), VALID, NOW_S))
    assert "; eval loss 3.456, accuracy 31.2%, 2.468 bits per byte; " in text["scores"]


def test_layers_other_than_those_of_gpt2_are_named(contents: FolderContents):
    file = named(contents, "ckpt_latest")
    assert file.info is not None
    assert "layers" not in dict(run_rows(file.info))
    settings = msgspec.structs.replace(file.info.settings, norm="rms_norm", qk_norm=True, tied_head=False)
    info = msgspec.structs.replace(file.info, settings=settings)
    for rows in (run_rows(info), imported_rows(info)):
        assert dict(rows)["layers"] == "norm rms_norm, qk_norm true, tied_head false"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"warmup_steps": 100, "decay_steps": 4000}, "warmup 100, decay 4,000 steps"),
        ({"warmup_steps": 1, "decay_steps": 1}, "warmup 1, decay 1 step"),
        ({"warmup_steps": 50, "decay_steps": 0}, "warmup 50 steps, then constant"),
        ({"warmup_steps": 50, "cooldown": 0.5}, "warmup 50 steps, cooldown over the last 50.0%"),
    ],
)
def test_the_schedule_of_a_run_is_described(changes: dict[str, float], text: str) -> None:
    assert schedule_text(msgspec.structs.replace(SMALL, **changes)) == text


def test_an_unusable_file_is_refused_with_the_reason(contents: FolderContents):
    latest, final, other = (named(contents, name) for name in ("ckpt_latest", "transformer", "bert"))
    assert refusal(latest, Verification(), "resume from", running=False) == ""
    assert refusal(latest, VALID, "chat with", running=True) == ""
    assert "a run is in progress" in refusal(latest, VALID, "resume from", running=True)
    assert "it holds weights only" in refusal(final, VALID, "resume from", running=False)
    assert refusal(final, VALID, "chat with", running=False) == ""
    assert refusal(final, VALID, "fine-tune", running=False) == ""
    assert "then fine-tune from here" in refusal(latest, VALID, "fine-tune", running=True)
    assert refusal(latest, VALID, "export", running=True) == ""
    assert "cannot export ckpt_latest" in refusal(latest, DAMAGED, "export", running=False)
    assert "cannot fine-tune ckpt_latest" in refusal(latest, DAMAGED, "fine-tune", running=False)
    assert "cannot resume from ckpt_latest" in refusal(latest, DAMAGED, "resume from", running=False)
    assert "not a gpt-tui checkpoint" in refusal(other, verification_of(other, {}), "chat with", running=False)


def test_the_question_before_a_deletion_names_what_is_lost(contents: FolderContents):
    def asked(name: str, known: dict[Stamp, Verification] | None = None, running_in: Path | None = None) -> str:
        return deletion_question(named(contents, name), contents.files, known or {}, running_in=running_in)

    folder = named(contents, "ckpt_latest").stamp.path.parent
    assert "latest checkpoint at step 12,480" in asked("ckpt_latest")
    assert "newest checkpoint to resume from; the next one is at step 12,000" in asked("ckpt_latest")
    broken = {named(contents, "best_model").stamp: DAMAGED, named(contents, "epoch_010").stamp: DAMAGED}
    assert "newest checkpoint to resume from; there is no other one" in asked("ckpt_latest", broken)
    assert "best model" in asked("best_model")
    assert "newest" not in asked("best_model")
    assert "there is no other one" in asked("long/ckpt_latest")
    broken = {file.stamp: DAMAGED for file in contents.files if file.name != "transformer"}
    assert "only usable model" in asked("transformer", broken)
    assert "!" not in asked("epoch_010")
    assert "!" not in asked("epoch_020")
    assert "current run saves in this folder" in asked("epoch_010", running_in=folder)
    assert "current run" not in asked("long/ckpt_latest", running_in=folder)


def test_a_checkpoint_with_another_of_its_step_is_deleted_without_a_warning(contents: FolderContents):
    latest, best = named(contents, "ckpt_latest"), named(contents, "best_model")
    assert latest.info is not None
    twin = best._replace(found=msgspec.structs.replace(best.found, state=latest.info.state))
    for other, warns in ((best, True), (twin, False)):
        assert (
            "newest checkpoint to resume" in deletion_question(latest, [latest, other], {}, running_in=None)
        ) is warns


def test_an_empty_folder_names_the_next_step():
    assert "{go.train}, then {train.start}" in empty_text("models", (), running=False)
    assert "{go.train}, then {train.save}" in empty_text("models", (), running=True)
    assert "✗ models cannot be read" in empty_text("models", ("models cannot be read: no",), running=False)
