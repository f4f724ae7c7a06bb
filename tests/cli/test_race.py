"""`gpt-tui race`: runs in one folder, resumed by the same command, compared in a table or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt_core.bench import race as comparison
from gpt_core.training.events import RunStarted
from gpt_core.training.metrics_log import read_metrics
from gpt_core.training.trainer import Trainer
from gpt_tui.cli import main as cli
from gpt_tui.cli import race as command
from gpt_tui.session.run_finder import log_folders
from tests.program import tiny, write_texts

pytestmark = pytest.mark.slow

RACE = [
    "race",
    "--steps",
    "8",
    "--seeds",
    "2",
    "--vary",
    "learning_rate=0.01,0.0001",
    *tiny("threads=1", "eval_every_steps=4"),
]


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)


def race(*more: str) -> int:
    return cli.main([*RACE, *more])


def test_a_race_trains_each_case_with_each_seed_and_prints_the_differences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "step_seconds", lambda *_, follows_step: 0.1)
    assert race() == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == (
        "8 steps per run, 2 paired seeds: bits per byte of the held-out end of the training text, lower is better"
    )
    assert lines[1].split() == ["case", "bits/byte", "at", "equal", "time", "at", "equal", "tokens", "tokens/s"]
    assert lines[2].startswith("learning_rate=0.01 ")
    assert lines[2].count("baseline") == 2
    assert lines[3].startswith("learning_rate=0.0001 ")
    assert lines[3].count(" ± ") == 2
    assert lines[4] == "± is the standard error of the mean of the paired differences"
    assert lines[5] == "time and tokens/s are of the training steps, without evaluations; runs in race/"
    assert "–" not in out
    assert [line.split(",")[0] for line in err.splitlines()] == [f"run {number} of 4" for number in range(1, 5)]
    assert len(log_folders([tmp_path])) == 4  # which the Runs tab lists


def test_the_folder_of_a_race_may_be_a_setting_and_steps_may_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert race("--set", "models_dir=elsewhere") == 0
    assert "runs in elsewhere/" in capsys.readouterr().out
    assert not (tmp_path / "race").exists()
    assert race("--set", "max_steps=5") == 2
    assert "--max-steps and --overfit-tiny have no effect here" in capsys.readouterr().err


def test_a_race_with_one_seed_has_no_standard_error_and_explains_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert race("--seeds", "1") == 0
    assert "±" not in capsys.readouterr().out


def test_a_race_scored_on_a_part_of_a_long_held_out_text_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert race("--set", "eval_tokens=20", "--json") == 0
    part_tokens = json.loads(capsys.readouterr().out)["part_tokens"]
    assert part_tokens > 0
    assert race("--set", "eval_tokens=20") == 0  # the same race: nothing is trained
    first = capsys.readouterr().out.splitlines()[0]
    assert f"bits per byte of {part_tokens} tokens of the held-out end of the training text" in first


def test_the_runs_of_one_seed_begin_with_the_same_loss_and_those_of_two_seeds_do_not() -> None:
    race()
    first = {
        path.name: next(event.loss for event in read_metrics(path / "metrics.jsonl") if hasattr(event, "grad_norm"))
        for path in Path("race").iterdir()
        if path.is_dir()
    }
    assert first["learning_rate=0.01,seed=0"] == first["learning_rate=0.0001,seed=0"]
    assert first["learning_rate=0.01,seed=0"] != first["learning_rate=0.01,seed=1"]


def test_the_runs_are_scored_on_the_end_of_the_training_text_though_there_is_an_eval_text() -> None:
    race()
    started = next(read_metrics(next(Path("race").glob("*/metrics.jsonl"))))
    assert isinstance(started, RunStarted)
    assert started.eval_file == started.train_file == "data/raw/train.en"


def test_json_has_every_score_and_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert race("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["seeds"], found["held_out"]) == (8, [0, 1], True)
    baseline, other = found["cases"]
    assert baseline["equal_time"] is None
    pairs = zip(other["bits_per_byte"], baseline["bits_per_byte"], strict=True)
    assert other["equal_tokens"]["values"] == pytest.approx([right - left for right, left in pairs])
    assert other["equal_tokens"]["mean"] > 0  # a rate that is too low


def test_a_dash_in_the_table_is_explained(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = comparison.Difference(None, None, [None, None])
    monkeypatch.setattr(comparison, "difference", lambda *_: unknown)
    assert race() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].count(" – ") == 2
    assert lines[4].startswith("–: ")


def test_the_same_command_repeats_no_finished_run_and_prints_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    race()
    first = capsys.readouterr().out

    def fail(*_: object) -> int:
        raise AssertionError("trained again")

    monkeypatch.setattr(command, "train", fail)
    assert race() == 0
    assert capsys.readouterr().out == first


def test_more_seeds_train_only_the_missing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    race()
    trained = []
    original = command.train
    monkeypatch.setattr(command, "train", lambda run, which: trained.append((run.seed, which)) or original(run, which))
    assert cli.main([*RACE[:4], "3", *RACE[5:]]) == 0
    assert trained == [(2, "run 5 of 6"), (2, "run 6 of 6")]


def test_an_interrupted_run_is_resumed_and_equals_an_uninterrupted_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    race("--models-dir", "whole", "--json")
    whole = json.loads(capsys.readouterr().out)["cases"]

    def stop_at_3(trainer: Trainer, _request: object, _reporter: object) -> None:
        for _ in trainer.events():
            if trainer.step >= 3:
                trainer.requests.stop()

    with monkeypatch.context() as stopped:
        stopped.setattr(command, "follow", stop_at_3)
        stopped.setattr(command.RunSignals, "exit_code", 130)
        assert race() == 130
    assert "stopped; 0 of 4 runs are finished; the same command continues the race" in capsys.readouterr().err
    assert race("--json") == 0
    again = json.loads(capsys.readouterr().out)["cases"]
    assert [case["bits_per_byte"] for case in again] == [case["bits_per_byte"] for case in whole]


def train_on(folder: str, *words: str) -> None:
    assert cli.main(["train", *tiny("threads=1"), f"--models-dir={folder}", "--resume", *words]) == 0


def test_a_run_that_was_trained_on_is_compared_as_it_was_in_the_race(capsys: pytest.CaptureFixture[str]) -> None:
    race()
    first = capsys.readouterr().out
    train_on("race/learning_rate=0.01,seed=0", "--max-steps", "16", "--set", "eval_every_steps=4")
    capsys.readouterr()
    assert race() == 0
    assert capsys.readouterr() == (first, "")


def test_a_run_that_was_resumed_with_another_limit_before_its_end_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    race()
    folder = "race/learning_rate=0.01,seed=0"
    log = Path(folder, "metrics.jsonl")
    log.write_text("".join(line for line in log.read_text().splitlines(True) if '"finished"' not in line))
    train_on(folder, "--max-steps", "16")
    capsys.readouterr()
    assert race() == 2
    assert capsys.readouterr().err == (
        f"gpt-tui: {folder}: got a run with max_steps=16, expected max_steps=8, as in the race; move or delete this "
        "folder, and the same command trains the run again\n"
    )


def test_a_run_that_lost_its_log_is_trained_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert race("--json") == 0
    whole = json.loads(capsys.readouterr().out)
    Path("race/learning_rate=0.0001,seed=1/metrics.jsonl").unlink()
    assert race("--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert [case["bits_per_byte"] for case in again["cases"]] == [case["bits_per_byte"] for case in whole["cases"]]


def test_another_race_in_the_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    race()
    capsys.readouterr()
    assert race("--set", "layers=2") == 2
    assert "race has another race, with other settings; choose another folder" in capsys.readouterr().err
    assert cli.main([*RACE[:2], "9", *RACE[3:]]) == 2
    assert "race has another race, with other steps; choose another folder" in capsys.readouterr().err


def test_a_race_reads_its_text_once_per_command(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    digest = command.text_sha256
    monkeypatch.setattr(
        command, "text_sha256", lambda source, progress: read.append(source) or digest(source, progress)
    )
    race()
    assert len(read) == 1
    race()  # nothing is trained
    assert len(read) == 1
    cli.main([*RACE[:4], "3", *RACE[5:]])
    assert len(read) == 2


def test_the_text_of_a_race_may_not_change_while_runs_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    race()
    text = Path("data/raw/train.en").read_bytes()
    Path("data/raw/train.en").write_bytes(text + b"one more line\n")
    assert race() == 0  # nothing is trained
    capsys.readouterr()
    assert cli.main([*RACE[:4], "3", *RACE[5:]]) == 2
    assert capsys.readouterr().err == (
        "gpt-tui: race: the text has changed since this race began; restore it, or start another race with "
        "--models-dir\n"
    )
    Path("data/raw/train.en").write_bytes(text)
    assert cli.main([*RACE[:4], "3", *RACE[5:]]) == 0


def test_the_checkpoint_that_a_race_starts_from_may_not_change_while_runs_are_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = ["--train-only", "--max-steps", "2", *tiny(), "--overwrite"]
    file = "models/ckpt_latest.safetensors"
    fine_tuned = ["race", "--steps", "4", "--vary", "dropout=0,0.1", "--set", f"init_from={file}"]
    assert cli.main(start) == 0
    assert cli.main([*fine_tuned, "--seeds", "1"]) == 0
    assert cli.main([*start, "--seed", "9"]) == 0
    capsys.readouterr()
    assert cli.main([*fine_tuned, "--seeds", "1"]) == 0  # its runs are finished
    assert cli.main([*fine_tuned, "--seeds", "2"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "gpt-tui: race: the text or the file of init_from has changed since this race began; restore it, or start "
        "another race with --models-dir"
    )


def test_a_file_in_the_place_of_the_folder_of_a_race_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("race").write_text("")
    assert race() == 2
    assert "race is a file, expected a folder; choose another --models-dir" in capsys.readouterr().err


@pytest.mark.essential
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vary", "layers=1,2"], "got neither of --minutes and --steps, expected one"),
        (["--vary", "layers=1,2", "--minutes", "1", "--steps", "3"], "got both of --minutes and --steps"),
        (["--minutes", "1"], "such as --vary weight_decay=0.1,0.3\n"),
        (
            [],
            "got no --vary, expected what to compare, such as --vary weight_decay=0.1,0.3, and the length of each run",
        ),
        (["--vary", "layers=1,2", "--steps", "3", "--seeds", "0"], "got --seeds 0, expected 1 to 1000"),
        (["--vary", "layers=1,2", "--steps", "0"], "got --steps 0, expected at least 1"),
        (["--vary", "layers=1,2", "--max-steps", "3"], "--max-steps and --overfit-tiny have no effect here"),
        (["--vary", "sample_prompt=a/b,a-b", "--steps", "3"], "--vary: got two cases with the same folder"),
        (["--vary", "layers=1", "--steps", "3"], "expected KEY=A,B with two or more different values"),
        (["--vary", "layers=1,\udcff", "--steps", "3"], "layers: got '\\udcff', expected a whole number"),
        (
            ["--vary", "layers=1,2", "--steps", "3", "--seed", str(2**63 - 1)],
            f"seed: got {2**63 + 1}, expected a",
        ),
    ],
)
def test_invalid_options_are_one_line_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["race", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not Path("race").exists()


@pytest.mark.parametrize("damaged", ["{}", '{"requested": {"seed": ' + "[" * 100_000])
def test_a_damaged_manifest_is_a_one_line_error(capsys: pytest.CaptureFixture[str], damaged: str) -> None:
    Path("race").mkdir()
    Path("race/race.json").write_text(damaged)
    assert race() == 2
    assert "race/race.json is not of a race" in capsys.readouterr().err
