"""The Checkpoints tab without a terminal: what is found, what stands in which column, what is said of a file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_tui.tabs.checkpoints.files import Check, FolderReader, FolderView, Stamp, StoredFile, delete_file
from gpt_tui.tabs.checkpoints.presenter import deletion_question, details, nothing_there, refusal, summary_words
from gpt_tui.tabs.checkpoints.table import Verdict, next_unchecked, table, verdict_of
from tests.tui.stored_files import NOW_S, fill, flip, save

WHOLE, DAMAGED = Verdict("whole"), Verdict("damaged", error="m/x.safetensors is damaged: w does not match")
NEWEST_FIRST = [
    "ckpt_latest", "best_model", "epoch_010", "transformer", "long/ckpt_latest", "bert", "epoch_020",
]  # fmt: skip


@pytest.fixture
def view(tmp_path: Path) -> FolderView:
    fill(tmp_path)
    return FolderReader(str(tmp_path)).look()


def named(view: FolderView, name: str) -> StoredFile:
    return next(file for file in view.files if file.name == name)


def checked(path: Path) -> tuple[list[float], list[str]]:
    """The shares that a check told, and how it ended."""
    shares: list[float] = []
    ends: list[str] = []
    check = Check(Stamp(path, 0, 0), lambda _, share: shares.append(share), lambda _, error: ends.append(error))
    check.start()
    check.join(10)
    assert not check.is_alive()
    return shares, ends


# -- the folder


def test_the_newest_comes_first_and_what_has_no_header_last(view: FolderView):
    assert [file.name for file in view.files] == NEWEST_FIRST
    assert view.problems == ()


def test_headers_are_read_again_only_where_a_file_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill(tmp_path)
    reader = FolderReader(str(tmp_path))
    first = reader.look()
    read: list[Path] = []
    list_folder = CheckpointStore.list
    monkeypatch.setattr(CheckpointStore, "list", lambda self: read.append(self.folder) or list_folder(self))
    assert reader.look() == first
    assert read == []
    save(tmp_path / "long" / "epoch_001.safetensors", 1, step=3)
    assert named(reader.look(), "long/epoch_001").info.step == 3  # type: ignore[union-attr]
    assert read == [tmp_path / "long"]


def test_a_folder_that_is_not_there_is_empty_and_one_that_cannot_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert FolderReader(str(tmp_path / "none")).look() == FolderView()
    (tmp_path / "file").touch()
    assert FolderReader(str(tmp_path / "file")).look().problems == (f"{tmp_path}/file cannot be read: Not a directory",)
    fill(tmp_path)
    scan = os.scandir

    def refuse(path):  # type: ignore[no-untyped-def]
        if Path(path).name == "long":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    view = FolderReader(str(tmp_path)).look()
    assert view.problems == (f"{tmp_path}/long cannot be read: Permission denied",)
    assert len(view.files) == len(NEWEST_FIRST) - 1
    assert "Permission denied" in summary_words(view, {})


def test_a_link_to_nowhere_is_listed_with_its_reason(tmp_path: Path):
    (tmp_path / "best_model.safetensors").symlink_to(tmp_path / "gone")
    (file,) = FolderReader(str(tmp_path)).look().files
    assert "No such file" in verdict_of(file, {}).error


# -- checking and deleting


def test_a_check_reads_the_whole_file_and_tells_how_far_it_is(tmp_path: Path):
    shares, ends = checked(save(tmp_path / "ckpt_latest.safetensors", 1))
    assert ends == [""]
    assert shares == sorted(shares)
    assert len(shares) > 10
    assert all(0 < share < 1 for share in shares)


def test_a_check_finds_one_wrong_bit_and_a_file_that_is_gone(tmp_path: Path):
    path = flip(save(tmp_path / "ckpt_latest.safetensors", 1), -500)
    assert "does not match its checksum" in checked(path)[1][0]
    path.unlink()
    assert "No such file" in checked(path)[1][0]


def test_a_check_that_is_stopped_ends_without_a_word(tmp_path: Path):
    path = save(tmp_path / "ckpt_latest.safetensors", 1)
    ends: list[str] = []
    reached, released = threading.Event(), threading.Event()

    def told(_stamp: Stamp, _share: float) -> None:
        reached.set()
        released.wait(10)

    check = Check(Stamp(path, 0, 0), told, lambda _, error: ends.append(error))
    check.start()
    assert reached.wait(10)
    check.stop()
    released.set()
    check.join(10)
    assert not check.is_alive()
    assert ends == []


def test_a_check_lowers_its_own_priority_alone(tmp_path: Path):
    if not hasattr(os, "getpriority") or not os.path.exists("/proc/self/task"):
        pytest.skip("threads have no priorities of their own here")
    before = os.getpriority(os.PRIO_PROCESS, 0)
    seen: list[int] = []
    path = save(tmp_path / "ckpt_latest.safetensors", 1)
    note = lambda *_: seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))  # noqa: E731
    check = Check(Stamp(path, 0, 0), lambda *_: None, note)
    check.start()
    check.join(10)
    assert seen[0] > before or before >= 10
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_only_the_file_named_is_deleted_and_a_failure_is_told(tmp_path: Path):
    fill(tmp_path)
    before = set(tmp_path.rglob("*.safetensors"))
    assert delete_file(tmp_path / "best_model.safetensors") == ""
    assert before - set(tmp_path.rglob("*.safetensors")) == {tmp_path / "best_model.safetensors"}
    assert delete_file(tmp_path / "best_model.safetensors") == ""  # somebody else was quicker
    assert "was not deleted" in delete_file(tmp_path / "long")


def test_one_after_the_other_is_checked_and_nothing_twice(view: FolderView):
    verdicts: dict[Stamp, Verdict] = {}
    order = []
    while file := next_unchecked(view.files, verdicts):
        order.append(file.name)
        verdicts[file.stamp] = WHOLE
    assert order == [name for name in NEWEST_FIRST if name not in ("bert", "epoch_020")]


# -- the table


@pytest.mark.parametrize("width", [40, 60, 75, 100, 116, 200])
def test_rows_are_of_one_width_and_fit(view: FolderView, width: int):
    shown = table(view.files, {view.files[0].stamp: Verdict("checking", 0.421)}, NOW_S, width)
    texts = {len(line.text) for line in shown.lines}
    assert len(texts) == 1
    assert all(len(line.text + line.check) <= width for line in shown.lines)
    assert len(shown.titles) <= width
    assert shown.lines[0].check == "… 42%"


def test_what_there_is_no_room_for_goes_in_order(view: FolderView):
    titles = {width: table(view.files, {}, NOW_S, width).titles.split() for width in (44, 57, 75, 116)}
    assert titles[116] == ["name", "kind", "step", "loss", "accuracy", "shape", "size", "age", "check"]
    assert titles[75] == ["name", "step", "loss", "accuracy", "size", "age", "check"]
    assert titles[57] == ["name", "step", "accuracy", "age", "check"]
    assert titles[44] == ["name", "step", "check"]


def test_each_row_says_what_its_header_knows_and_nothing_else(view: FolderView):
    lines = [(line.text + line.check).split() for line in table(view.files, {}, NOW_S, 200).lines]
    assert lines[0] == [
        "ckpt_latest", "latest", "12,480", "3.210", "31.2%", "2", "×", "8,", "3.19k", "55.1", "kB", "1", "min",
        "·", "waiting",
    ]  # fmt: skip
    assert "3.210" not in lines[2]  # no step of its epoch was taken yet
    assert lines[3][2:4] == ["500", "3.210"]  # and no evaluation was made
    assert lines[5] == ["bert", "other", "16", "B", "2", "h", "✗", "foreign"]
    assert lines[6] == ["epoch_020", "epoch", "3.0", "kB", "2", "h", "✗", "damaged"]


def test_names_are_harmless_and_long_ones_are_cut(tmp_path: Path):
    save(tmp_path / ("x" * 200 + ".safetensors"), 1)
    save(tmp_path / "\x1b[31m[red].safetensors", 2)
    shown = table(FolderReader(str(tmp_path)).look().files, {}, NOW_S, 60)
    assert "xxx…" in shown.lines[0].text
    assert "␛[31m[red]" in shown.lines[1].text


# -- the words


def test_details_say_why_a_file_is_damaged(view: FolderView):
    words = dict(details(named(view, "epoch_020"), verdict_of(named(view, "epoch_020"), {}), NOW_S))
    assert words["check"].startswith("✗ damaged: got 3,000 bytes")
    words = dict(details(named(view, "epoch_010"), DAMAGED, NOW_S))
    assert words["good for"] == "nothing: delete it, or copy a whole one over it"
    words = dict(details(named(view, "ckpt_latest"), WHOLE, NOW_S))
    assert words["trained"] == "step 12,480, epoch 13 done, 12.8M tokens, 21 min 40 s"
    assert words["scores"] == "loss 3.210 so far in this epoch; best accuracy 31.2% at step 12,000"
    assert words["saved"].endswith("1 min ago")


def test_what_cannot_be_done_is_refused_with_the_reason(view: FolderView):
    latest, final, foreign = (named(view, name) for name in ("ckpt_latest", "transformer", "bert"))
    assert refusal(latest, Verdict(), resume=True, running=False) == ""
    assert refusal(latest, WHOLE, resume=False, running=True) == ""
    assert "a run is under way" in refusal(latest, WHOLE, resume=True, running=True)
    assert "no optimizer state" in refusal(final, WHOLE, resume=True, running=False)
    assert refusal(final, WHOLE, resume=False, running=False) == ""
    assert "cannot resume from ckpt_latest" in refusal(latest, DAMAGED, resume=True, running=False)
    assert "no gpt-tui checkpoint" in refusal(foreign, verdict_of(foreign, {}), resume=False, running=False)


def test_the_question_before_a_deletion_names_what_is_lost(view: FolderView):
    def asked(name: str, verdicts: dict[Stamp, Verdict] | None = None, running_in: Path | None = None) -> str:
        return deletion_question(named(view, name), view.files, verdicts or {}, running_in=running_in)

    folder = named(view, "ckpt_latest").stamp.path.parent
    assert "latest checkpoint at step 12,480" in asked("ckpt_latest")
    assert "newest one to resume from; the next one is at step 12,000" in asked("ckpt_latest")
    broken = {named(view, "best_model").stamp: DAMAGED, named(view, "epoch_010").stamp: DAMAGED}
    assert "newest one to resume from; without it there is none" in asked("ckpt_latest", broken)
    assert "best model" in asked("best_model")
    assert "newest" not in asked("best_model")
    assert "without it there is none" in asked("long/ckpt_latest")
    broken = {file.stamp: DAMAGED for file in view.files if file.name != "transformer"}
    assert "only usable model" in asked("transformer", broken)
    assert "!" not in asked("epoch_010")
    assert "!" not in asked("epoch_020")
    assert "run under way saves in this folder" in asked("epoch_010", running_in=folder)
    assert "run under way" not in asked("long/ckpt_latest", running_in=folder)


def test_an_empty_folder_says_what_to_do_next():
    keys = {"go.train": "F2", "train.start": "s", "train.save": "w"}
    assert "F2, then s" in nothing_there("models", (), keys, running=False)
    assert "F2, then w" in nothing_there("models", (), keys, running=True)
    assert "✗ models cannot be read" in nothing_there("models", ("models cannot be read: no",), keys, running=False)


def test_a_file_that_was_saved_again_after_the_question_is_not_deleted(tmp_path: Path):
    path = tmp_path / "ckpt_latest.safetensors"
    path.write_bytes(b"old")
    status = path.stat()
    stamp = Stamp(path, status.st_size, status.st_mtime_ns)
    path.write_bytes(b"newer")
    assert "was saved again" in delete_file(path, stamp)
    assert path.read_bytes() == b"newer"
    status = path.stat()
    assert delete_file(path, Stamp(path, status.st_size, status.st_mtime_ns)) == ""
    assert not path.exists()
