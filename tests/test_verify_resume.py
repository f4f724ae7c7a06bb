"""`gpt-tui verify-resume`: equal runs compare equal, and every kind of difference is reported."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gpt_core.formats.checkpoint import Checkpoint
from gpt_core.training import events as ev
from gpt_core.training.metrics_log import MetricsLog
from gpt_tui.cli import main as cli
from gpt_tui.cli import verify_resume
from gpt_tui.cli.verify_resume import Row, compared_checkpoints, compared_logs
from tests.core.checkpoint_samples import sample
from tests.program import run_program, tiny, write_texts

NAMES = ["losses", "evaluations", "weights", "adam_m", "adam_v", "data position"]


def different(right: Checkpoint) -> list[str]:
    """Return a line per difference between a checkpoint and the sample."""
    return [f"{row.what}: {row.detail}" for row in compared_checkpoints(sample(), right) if not row.equal]


def test_a_resumed_run_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    write_texts(tmp_path)
    run = run_program(
        "verify-resume",
        "--json",
        "--steps",
        "6",
        "--cut",
        "3",
        *tiny("eval_every_steps=2", "cooldown=0.5"),
        cwd=tmp_path,
    )
    assert (run.returncode, run.stderr) == (0, "")
    found = json.loads(run.stdout)
    assert (found["equal"], found["steps"], found["cut"]) == (True, 6, 3)
    assert [row["what"] for row in found["rows"]] == [*NAMES, "epoch and best score"]
    assert [row["detail"] for row in found["rows"][:2]] == ["6 events", "3 events"]
    assert all(re.fullmatch(r"[a-z_]+ [-+.e0-9]+", part) for part in found["rows"][-1]["detail"].split(", "))
    assert not (tmp_path / "models").exists()


def test_a_difference_is_printed_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    rows = [Row("losses", True, "2 events"), Row("weights", False, "wte.weight: 1 of 9 values differ")]
    monkeypatch.setattr(verify_resume, "compared_runs", lambda *_: rows)
    assert cli.main(["verify-resume"]) == 1
    assert "weights  DIFFERENT  wte.weight: 1 of 9 values differ\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_with_local_steps_is_cut_at_the_end_of_a_round(tmp_path: Path) -> None:
    write_texts(tmp_path)
    options = ("verify-resume", "--json", "--cut", "3", *tiny("sync_every_steps=4"))
    run = run_program(*options, "--steps", "6", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    found = json.loads(run.stdout)
    assert (found["equal"], found["cut"]) == (True, 4)
    assert "outer_momentum" in [row["what"] for row in found["rows"]]
    refused = run_program(*options, "--steps", "4", cwd=tmp_path)
    assert refused.returncode == 2
    assert "got --steps 4 and --cut 3 with sync_every_steps 4, which stops at step 4" in refused.stderr


def test_run_id_and_elapsed_time_are_not_compared() -> None:
    assert different(sample(run_id="run-b", elapsed_s=99.0)) == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bit_of_a_weight_or_of_optimizer_state_is_a_difference(place: int) -> None:
    right = sample()
    assert right.optimizer_state is not None
    tensor = (right.parameters, *right.optimizer_state.values())[place]["wpe.weight"]
    tensor[0, 0] = 0.0  # was -0.0
    what = ("weights", "adam_m", "adam_v")[place]
    assert different(right) == [f"{what}: wpe.weight: 1 of {tensor.size} values differ"]


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("window", 1, "data position"),
        ("tokens", 1, "data position"),
        ("random_state", "{}", "epoch and best score"),
        ("best_accuracy", 0.5, "epoch and best score"),
        ("loss_sum", 0.3, "epoch and best score"),
        ("evaluation_due", True, "epoch and best score"),
    ],
)
def test_every_value_of_the_state_is_compared(field: str, value: object, what: str) -> None:
    old = getattr(sample().state, field)
    assert different(sample(**{field: value})) == [f"{what}: {field}: {old!r} and {value!r}"]


def logged(folder: Path, *losses: float) -> Path:
    """Create a folder with a log of an evaluation per loss."""
    folder.mkdir()
    log = MetricsLog(folder / "metrics.jsonl")
    for number, loss in enumerate(losses, 1):
        log.append(ev.EvalCompleted(number, loss, 2.0, 0.5, 1.0))
    log.close()
    return folder


def test_logs_are_compared_event_by_event(tmp_path: Path) -> None:
    one = logged(tmp_path / "one", 1.0, 2.0)
    longer = logged(tmp_path / "longer", 1.0, 2.0, 3.0)
    other = logged(tmp_path / "other", 1.0, 2.0000000000000004)
    kinds, names = (ev.EvalCompleted,), ("step", "loss")
    assert compared_logs("e", one, one, kinds, names) == Row("e", True, "2 events")
    assert compared_logs("e", one, longer, kinds, names) == Row("e", False, "2 and 3 events")
    assert compared_logs("e", one, other, kinds, names) == Row("e", False, "step 2: loss 2.0 and 2.0000000000000004")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cut", "20"], "got --steps 20 and --cut 20, expected 1 <= --cut < --steps"),
        (["--steps", "x"], "--steps: got 'x', expected a whole number"),
        (["--models-dir", "x"], "--models-dir, --max-steps and --minutes have no effect here"),
        (["--train-file", "nowhere"], "nowhere"),
        ([*tiny("max_epochs=1"), "--steps", "100"], "the run ended at step 44 of 100 (max_epochs)"),
    ],
)
def test_invalid_arguments_and_short_runs_are_one_line_errors(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[2]))
    assert cli.main(["verify-resume", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
