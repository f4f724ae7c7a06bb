"""Headless training: output on standard output and standard error, signals, and exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from gpt_core.config.settings import GROUP_RATES
from gpt_core.formats.checkpoint import peek_checkpoint, verify_checkpoint
from gpt_core.training import events as ev
from gpt_core.training.controls import TrainingControls
from gpt_core.training.trainer import Trainer
from gpt_tui.cli import main as cli
from gpt_tui.headless import signals as run_signals
from gpt_tui.headless.event_text import news
from gpt_tui.headless.reporters import BarsReporter, JsonReporter, PlainReporter, Reporter
from gpt_tui.headless.runner import batched
from gpt_tui.headless.signals import Interrupted, RunSignals
from gpt_tui.session.run_state import Limits, RunState, advance_all
from gpt_tui.shared.formatting import percent
from tests.program import TIMEOUT_S, Terminal, run_program, start_program, tiny, write_texts

LATEST = Path("models/ckpt_latest.safetensors")
KEYS = {
    "step": {"event", "step", "epoch", "loss", "ppl", "lr", "grad_norm", "tokens", "tokens_per_s", "elapsed_s"},
    "eval": {"event", "step", "loss", "ppl", "accuracy", "bits_per_byte", "is_best", "without_improvement"},
    "saved": {"event", "kind", "path", "step"},
    "finished": {"event", "reason", "step"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a training text and an evaluation text."""
    write_texts(tmp_path)
    return tmp_path


def started(max_steps: int = 20, kind: str = "train") -> ev.RunStarted:
    return ev.RunStarted(
        step=0, epoch=0, kind=kind, preset="nano", parameters=1000, train_tokens=5000, eval_tokens=500,
        batch_tokens=64, steps_per_epoch=10, max_steps=max_steps, threads=2, seed=0,
        train_file="data/\x1b[31mtrain.en", eval_file="eval.en", resumed_from="", elapsed_s=0.0,
    )  # fmt: skip


def step(number: int, loss: float = 2.0) -> ev.StepCompleted:
    return ev.StepCompleted(
        step=number, epoch=(number - 1) // 10, loss=loss, ppl=7.4, lr=1e-3, grad_norm=1.0, tokens=64 * number,
        tokens_per_s=640.0, elapsed_s=0.1 * number,
    )  # fmt: skip


def show_all(reporter: Reporter, batches: Sequence[Sequence[ev.AnyEvent]]) -> None:
    history = RunState(limits=Limits(2))
    for batch in batches:
        history = advance_all(history, batch)
        reporter.show(batch, history)
    reporter.close()


# -- output


def test_json_output_equals_the_metrics_log_and_has_the_documented_keys(folder: Path) -> None:
    run = run_program(
        "--train-only", "--json", "--max-steps", "12", *tiny("eval_every_steps=5", "save_every_steps=4"), cwd=folder
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == (folder / "models" / "metrics.jsonl").read_text()
    events = [json.loads(line) for line in run.stdout.splitlines()]
    for name, keys in KEYS.items():
        found = [set(event) for event in events if event["event"] == name]
        assert found, name
        assert all(event == keys for event in found), name
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, 13))
    assert events[0]["event"] == "started"
    assert events[-1] == {"event": "finished", "reason": "max_steps", "step": 12}
    assert "finished: 12 steps" in run.stderr


def test_plain_output_ends_with_the_result_and_the_next_commands(folder: Path) -> None:
    run = run_program(
        "--train-only", "--max-steps", "8", "--models-dir", "my models", *tiny("eval_every_steps=8"), cwd=folder
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert any(line.startswith("step 8/8  epoch 1  train loss ") for line in lines)
    assert any(line.startswith("eval at step 8: eval loss ") for line in lines)
    assert any(line.startswith("finished: 8 steps in ") for line in lines)
    assert lines[-1].startswith("next: gpt-tui generate ")
    assert "--models-dir 'my models'" in lines[-1]
    assert "\x1b" not in run.stdout
    assert "encoding train.en" in run.stderr


def test_texts_under_data_that_are_not_used_are_named_on_standard_error(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "book.txt").write_text("It was.\n")
    note = "data/ has book.txt, but no file named train.en, train.txt, input.txt"
    for command in (("train", "--max-steps", "1"), ("bench", "--steps", "1"), ("tokenize", "data/book.txt")):
        run = run_program(*command, *tiny(), cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        assert run.stderr.count(note) == 1
        assert "add --train-file data/book.txt" in run.stderr
    config = run_program("config", cwd=tmp_path)
    assert f"# note: {note}" in config.stdout
    named = run_program("train", *tiny("max_steps=1", "train_file=data/book.txt", "models_dir=m"), cwd=tmp_path)
    assert note not in named.stderr


def test_plain_output_has_a_line_every_two_seconds_with_the_train_loss(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def batches() -> Iterator[list[ev.AnyEvent]]:
        yield [started(1000)]
        for number in range(1, 301):
            now[0] += 1 / 64
            yield [step(number, loss=1.0 if number % 2 else 3.0)]
        yield [ev.RunFinished("stopped", 300)]

    show_all(PlainReporter(), batches())  # type: ignore[arg-type]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ") and "loss" in line]
    assert [line.split()[1] for line in lines] == ["1/1,000", "129/1,000", "257/1,000", "300/1,000"]
    assert " train loss 1.000 " in lines[0]
    assert 1.9 < float(lines[2].partition(" train loss ")[2].split()[0]) < 2.1  # between the losses of 1 and 3


def test_a_headless_resume_knows_the_best_score_and_the_losses_from_before(folder: Path) -> None:
    """The rates of the resumed part ruin the model, so none of its scores is the best one."""
    settings = tiny("eval_every_steps=20", "max_epochs=1000", "best_metric=accuracy")
    first = run_program("--train-only", "--max-steps", "60", *settings, cwd=folder)
    assert first.returncode == 0, first.stderr
    best = peek_checkpoint(folder / "models/best_model.safetensors").state
    rates = [part for name in GROUP_RATES for part in ("--set", f"{name}=1.0")]
    second = run_program("--train-only", "--resume", "--max-steps", "80", *rates, cwd=folder)
    (scored,) = [line for line in second.stdout.splitlines() if line.startswith("eval at step 80: eval loss ")]
    assert "best" not in scored
    (ended,) = [line for line in second.stdout.splitlines() if line.startswith("finished: 80 steps")]
    assert f"best eval accuracy {percent(best.best_accuracy)} at step {best.best_step}" in ended


def test_a_resume_with_another_eval_text_says_that_a_new_best_begins(folder: Path) -> None:
    settings = tiny("eval_every_steps=5")
    run_program("--train-only", "--max-steps", "10", *settings, cwd=folder)
    (folder / "other.en").write_text("zqxj vkwq jjxz qqkv wvzx.\n\n" * 20)
    run = run_program("--train-only", "--resume", "--max-steps", "15", "--eval-file", "other.en", cwd=folder)
    assert run.returncode == 0, run.stderr
    assert any(line.startswith("another eval text: a new best score") for line in run.stdout.splitlines())
    assert "best " in next(line for line in run.stdout.splitlines() if line.startswith("eval at step 15"))


def test_a_resume_with_another_training_text_says_that_its_tokenizer_is_that_of_the_earlier_text(folder: Path) -> None:
    run_program("--train-only", "--max-steps", "3", *tiny(), cwd=folder)
    (folder / "zh.txt").write_text("老人慢慢地走过旧桥，没有说话。\n\n" * 60, encoding="utf-8")
    run = run_program("--train-only", "--resume", "--max-steps", "4", "--train-file", "zh.txt", cwd=folder)
    assert run.returncode == 0, run.stderr
    assert "another training text: the tokenizer is still that of the earlier text (1." in run.stderr
    same = run_program("--train-only", "--resume", "--max-steps", "5", cwd=folder)
    assert "another training text" not in same.stderr


def test_the_summary_of_a_resume_with_another_eval_text_has_no_score_of_the_old_one(folder: Path) -> None:
    run_program("--train-only", "--max-steps", "10", *tiny("eval_every_steps=5"), cwd=folder)
    (folder / "other.en").write_text("zqxj vkwq jjxz qqkv wvzx.\n\n" * 20)
    run = run_program("--train-only", "--resume", "--max-steps", "10", "--eval-file", "other.en", cwd=folder)
    assert run.returncode == 0, run.stderr
    summary = next(line for line in run.stdout.splitlines() if line.startswith("finished: "))
    assert "eval loss" not in summary


def test_a_run_without_an_eval_file_says_that_it_is_evaluated_on_the_held_out_end_of_its_text(folder: Path) -> None:
    shutil.rmtree(folder / "data")
    (folder / "buch.txt").write_text("Über allen Gipfeln ist Ruh, in allen Wipfeln.\n\n" * 60, encoding="utf-8")
    run = run_program("--train-only", "--max-steps", "1", *tiny(), "--train-file", "buch.txt", cwd=folder)
    assert re.search(
        r"^text buch.txt: .* tokens, evaluated on its last .* tokens, which are held out", run.stdout, re.M
    )
    assert "finished: 1 step in" in run.stdout


def test_a_text_that_is_not_utf8_is_named_with_the_command_that_converts_it(folder: Path) -> None:
    (folder / "alt.txt").write_bytes("Über der Brücke läuten die Glocken für Jörg.\n\n".encode("latin-1") * 60)
    run = run_program("--train-only", "--max-steps", "1", *tiny(), "--train-file", "alt.txt", cwd=folder)
    assert run.returncode == 0, run.stderr
    assert "gpt-tui: alt.txt is not UTF-8: " in run.stderr
    assert "iconv -f LATIN1 -t UTF-8" in run.stderr


def test_a_run_whose_epochs_end_within_the_warm_up_says_how_to_reach_the_full_rate(folder: Path) -> None:
    limits = tiny("max_epochs=1", "warmup_steps=500")
    run = run_program("--train-only", *limits, cwd=folder)
    assert run.returncode == 0, run.stderr
    assert "a short run: 1 epochs are " in run.stderr
    assert "add --set warmup_steps=" in run.stderr
    assert "or gpt-tui --train-only --resume" in run.stdout


def test_a_resume_of_a_finished_run_says_which_limit_it_raises(folder: Path) -> None:
    run_program("--train-only", *tiny("max_epochs=1", "warmup_steps=1"), cwd=folder)
    more = run_program("--train-only", "--resume", cwd=folder)
    assert "gpt-tui: the run had reached max_epochs=1: max_epochs is now 2; set it with" in more.stderr
    named = run_program("--train-only", "--resume", "--set", "max_epochs=5", cwd=folder)
    assert "had reached" not in named.stderr
    run_program("--train-only", "--max-steps", "5", *tiny(), "--models-dir", "other", cwd=folder)
    lifted = run_program("--train-only", "--resume", "--models-dir", "other", cwd=folder)
    assert "the run had reached max_steps=5: it is lifted; set it with --set max_steps=N" in lifted.stderr


def test_a_resume_of_a_finished_run_without_a_larger_limit_says_how_to_give_it_more(folder: Path) -> None:
    run_program("--train-only", "--max-steps", "5", *tiny(), cwd=folder)
    same = run_program("--train-only", "--resume", "--max-steps", "5", cwd=folder)
    assert "no step left to train (max_steps is 5); to train longer, resume with a larger max_steps" in same.stdout
    more = run_program("--train-only", "--resume", "--max-steps", "8", cwd=folder)
    assert "finished: 8 steps" in more.stdout


def test_a_step_is_printed_before_the_events_that_follow_it(capsys: pytest.CaptureFixture[str]) -> None:
    saved = ev.CheckpointSaved("latest", "models/\x1b[2Jx", 3)
    show_all(PlainReporter(), [[started()], [step(1)], [step(2), step(3), saved]])
    printed = capsys.readouterr().out
    assert printed.index("step 3/20") < printed.index("saved models/")
    assert "\x1b" not in printed


def test_json_output_has_only_logged_events(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = JsonReporter()
    reporter.preparing("encoding", 0.5)
    show_all(
        reporter, [[started(), step(1), ev.EvalProgressed(1, 1, 2), ev.RunPaused(1), ev.RunFinished("stopped", 1)]]
    )
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == [
        "started",
        "step",
        "finished",
    ]


def test_a_sample_without_a_token_says_that_the_text_ended_at_once() -> None:
    assert news(ev.SampleWritten(5, "It was", ""), RunState()) == [
        ("sample at step 5: It was (end of text at once)", "dim")
    ]


def test_the_next_commands_name_a_prompt_of_the_language_of_the_text(folder: Path) -> None:
    for name in ("raw/train.en", "test/eval.en"):
        (folder / "data" / name).write_text("Über allen Gipfeln ist Ruh, in allen Wipfeln.\n\n" * 40, encoding="utf-8")
    run = run_program("--train-only", "--max-steps", "2", *tiny(), cwd=folder)
    assert "next: gpt-tui generate 'Über allen Gipfeln', gpt-tui chat" in run.stdout


def test_scores_of_a_part_and_of_all_of_the_eval_text_are_named_at_the_start_in_their_lines_and_at_the_end(
    folder: Path,
) -> None:
    run = run_program(
        "--train-only", "--max-steps", "5", *tiny("eval_tokens=40", "eval_every_steps=2", "seq_len=16"), cwd=folder
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"of its [0-9.k]+ tokens; all after each epoch and at the end", run.stdout)
    assert "eval at step 4: eval loss " in run.stdout
    assert len(re.findall("eval at step 5: full eval loss ", run.stdout)) == 1
    assert re.search("^finished: 5 steps .*, full eval loss ", run.stdout, re.MULTILINE)


@pytest.mark.parametrize(("width", "stopping"), [(40, False), (80, True), (120, False)])
def test_progress_bars_fit_the_terminal_and_restore_the_cursor(width: int, stopping: bool) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, height=24, color_system=None)
    reporter = BarsReporter(lambda: stopping, console)
    reporter.preparing("encoding train.en", 0.5)
    steps = [step(number) for number in range(1, 21)]
    scoring, scored = ev.EvalProgressed(20, 1, 2), ev.EvalCompleted(20, 2.0, 7.4, 0.25, 2.5)
    show_all(reporter, [[started()], steps, [scoring], [scored], [ev.RunFinished("max_steps", 20)]])
    shown = screen.getvalue()
    assert "step 20 of 20" in shown
    assert ("stopping and saving" in shown) == stopping
    assert "100%" in shown
    assert "eval at step 20: eval loss 2.000" in " ".join(shown.split())
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "\x1b[31m" not in shown
    lines = [line for line in shown.replace("\r", "\n").splitlines() if "━" in line]
    assert lines
    assert all(len(line.partition("\x1b")[0]) <= width for line in lines)


def test_tiny_overfit_prints_token_loss_and_ppl_and_saves_only_the_latest(folder: Path) -> None:
    run = run_program(
        "--train-only", *tiny("overfit_lines=2", "overfit_steps=30", "attn_lr=0.01"), cwd=folder, OVERFIT_TINY="1"
    )
    assert run.returncode == 0, run.stderr
    assert "  tokLoss " in run.stdout
    assert "  ppl " in run.stdout
    assert "eval at" not in run.stdout
    assert re.search("^self-test (works|does not work): [0-2] of 2 lines reproduced$", run.stdout, re.MULTILINE)
    assert re.search("^finished: 30 steps .*self-test (works|does not work): ", run.stdout, re.MULTILINE)
    assert [path.name for path in (folder / "models").glob("*.safetensors")] == [LATEST.name]


def test_steps_are_batched_and_other_events_are_passed_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def events() -> Iterator[ev.AnyEvent]:
        yield started()
        for number in range(1, 8):
            now[0] += 0.04
            yield step(number)
        yield ev.RunFinished("stopped", 7)

    assert [len(batch) for batch in batched(events())] == [1, 3, 3, 2]


# -- checkpoints of other runs, resume


def test_the_checkpoints_of_another_run_are_kept_without_overwrite(folder: Path) -> None:
    first = ["--train-only", "--max-steps", "2", *tiny()]
    assert run_program(*first, cwd=folder).returncode == 0
    before = (folder / LATEST).read_bytes()
    refused = run_program(*first, "--seed", "1", cwd=folder)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert all(option in refused.stderr for option in ("--resume", "--models-dir models-2", "--overwrite"))
    assert (folder / LATEST).read_bytes() == before
    assert run_program(*first, "--seed", "1", "--overwrite", cwd=folder).returncode == 0
    assert (folder / LATEST).read_bytes() != before


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder except the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("which", ["--train-file", "--eval-file"])
def test_overwrite_with_an_invalid_text_removes_no_checkpoint(folder: Path, which: str) -> None:
    assert run_program("--train-only", "--max-steps", "20", *tiny(), cwd=folder).returncode == 0
    before = files_in(folder / "models")
    (folder / "blank.txt").write_text("\n\n \n")
    refused = run_program("--train-only", "--overwrite", which, "blank.txt", *tiny(), cwd=folder)
    assert refused.returncode == 2
    assert "blank.txt" in refused.stderr
    assert files_in(folder / "models") == before
    assert run_program("--train-only", "--resume", "--max-steps", "21", cwd=folder).returncode == 0


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("is_prepared", "message"),
    [
        pytest.param(False, "stopped before training: all files in models were kept", id="while preparing"),
        pytest.param(True, "no checkpoint saved: the earlier run's files in models were kept", id="at step 0"),
    ],
)
def test_overwrite_interrupted_before_the_first_step_reports_that_the_earlier_run_was_kept(
    is_prepared: bool, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert cli.main(["--train-only", "--max-steps", "2", *tiny()]) == 0
    before = files_in(folder / "models")
    capsys.readouterr()
    watch = RunSignals.watch

    def interrupt(signals: RunSignals, trainer: Trainer) -> None:
        if is_prepared:
            watch(signals, trainer)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunSignals, "watch", interrupt)
    assert cli.main(["--train-only", "--max-steps", "2", "--seed", "1", "--overwrite", *tiny()]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "kept" in line] == [f"gpt-tui: {message}"]
    after = files_in(folder / "models")
    assert {name: after.get(name) for name in before} == before


@pytest.mark.parametrize("max_steps", ["2", "3"])
def test_overwrite_reports_kept_files_only_if_it_ends_without_a_step(
    max_steps: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for models_dir in ("models", "other"):
        assert cli.main(["--train-only", "--max-steps", "2", "--models-dir", models_dir, *tiny()]) == 0
    before = (folder / LATEST).read_bytes()
    capsys.readouterr()
    resume = ["--resume", "other/ckpt_latest.safetensors", "--models-dir", "models", "--overwrite"]
    assert cli.main(["--train-only", "--max-steps", max_steps, *resume]) == 0
    is_kept = max_steps == "2"
    assert ((folder / LATEST).read_bytes() == before) == is_kept
    assert ("the earlier run's files in models were kept" in capsys.readouterr().err) == is_kept


def test_a_models_folder_moved_during_a_run_is_recreated_by_the_last_save(folder: Path) -> None:
    with start_program("--train-only", "--json", *tiny("max_epochs=1000000", "patience=0"), cwd=folder) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"step":5' in line:
                break
        (folder / "models").rename(folder / "moved")
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    last = json.loads(rest.splitlines()[-1])["step"]
    assert peek_checkpoint(folder / LATEST).step == last
    resumed = run_program("--train-only", "--resume", "--max-steps", str(last + 1), cwd=folder)
    assert resumed.returncode == 0, resumed.stderr


def test_a_run_that_cannot_be_saved_in_its_folder_is_saved_beside_it_and_exits_with_1(folder: Path) -> None:
    with start_program("--train-only", "--json", *tiny("max_epochs=1000000", "patience=0"), cwd=folder) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"step":5' in line:
                break
        (folder / "models").rename(folder / "moved")
        (folder / "models").write_text("not a folder")
        process.send_signal(signal.SIGINT)
        rest = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert process.returncode == 1
    assert [event["event"] for event in rest[-3:]] == ["save_failed", "saved", "finished"]
    assert peek_checkpoint(folder / rest[-2]["path"]).step == rest[-1]["step"]
    resumed = run_program(
        "--train-only", "--resume", rest[-2]["path"], "--max-steps", str(rest[-1]["step"] + 1), cwd=folder
    )
    assert resumed.returncode == 0, resumed.stderr


def test_resume_keeps_the_settings_and_the_step_count(folder: Path) -> None:
    assert run_program("--train-only", "--max-steps", "3", *tiny(), cwd=folder).returncode == 0
    resumed = run_program("--train-only", "--resume", "--max-steps", "5", "--json", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    steps = [json.loads(line)["step"] for line in resumed.stdout.splitlines() if '"event":"step"' in line]
    assert steps == [4, 5]
    moved = folder / "elsewhere"
    (folder / "models").rename(moved)
    again = run_program(
        "--train-only", "--resume", str(moved / LATEST.name), "--max-steps", "6", "--threads", "1", cwd=folder
    )
    assert again.returncode == 0, again.stderr
    assert verify_checkpoint(moved / LATEST.name).step == 6
    assert not (folder / "models").exists()


def test_resume_without_max_steps_trains_past_the_earlier_limit(folder: Path) -> None:
    assert run_program("--train-only", "--max-steps", "3", *tiny(), cwd=folder).returncode == 0
    with start_program("--train-only", "--resume", "--json", cwd=folder) as process:
        run_until(process, lambda event: step_of(event) == 6)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130


# -- signals


def run_until(process: subprocess.Popen[str], condition: Callable[[dict[str, object]], bool]) -> dict[str, object]:
    """Return the first event of a --json run that meets the condition."""
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, object] = json.loads(line)
        if condition(event):
            return event
    raise AssertionError(f"the run ended first: {process.communicate()[1]}")


def step_of(event: dict[str, object]) -> int:
    """Return the number of the completed step; -1 for other events."""
    return int(str(event["step"])) if event["event"] == "step" else -1


def endless(folder: Path) -> subprocess.Popen[str]:
    """Start a --json run that ends only when it is stopped."""
    settings = tiny("max_epochs=1000000", "patience=0", "epsilon=0")
    return start_program("--train-only", "--json", *settings, cwd=folder)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_saves_and_stops_the_run_and_sets_the_exit_code(name: str, code: int, folder: Path) -> None:
    with endless(folder) as process:
        run_until(process, lambda event: step_of(event) == 5)
        process.send_signal(signal.Signals[name])
        process.send_signal(signal.Signals[name])
        saved = run_until(process, lambda event: event.get("kind") == "latest")
        finished = run_until(process, lambda event: event["event"] == "finished")
        assert process.wait(TIMEOUT_S) == code
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert (finished["reason"], finished["step"]) == ("stopped", saved["step"])
    assert verify_checkpoint(folder / LATEST).step == saved["step"]


def test_sigusr1_saves_and_training_continues(folder: Path) -> None:
    with endless(folder) as process:
        run_until(process, lambda event: event["event"] == "step")
        process.send_signal(signal.SIGUSR1)
        saved = run_until(process, lambda event: event.get("kind") == "latest")
        assert verify_checkpoint(folder / LATEST).step >= int(str(saved["step"]))
        run_until(process, lambda event: step_of(event) > int(str(saved["step"])))
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(name: str, folder: Path) -> None:
    """nohup ignores SIGHUP in the program; a shell without job control ignores SIGINT in background programs."""
    number = signal.Signals[name]
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        process = endless(folder)
    finally:
        signal.signal(number, previous)
    with process:
        at = run_until(process, lambda event: event["event"] == "step")
        process.send_signal(number)
        run_until(
            process, lambda event: event["event"] == "step" and int(str(event["step"])) > int(str(at["step"])) + 50
        )
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 143


def test_a_closed_output_pipe_saves_and_stops_the_run_without_an_error_message(folder: Path) -> None:
    with endless(folder) as process:
        run_until(process, lambda event: event["event"] == "step")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(TIMEOUT_S) == 1
        assert process.stderr.read() == ""
    assert verify_checkpoint(folder / LATEST).step >= 1


class FakeTrainer:
    def __init__(self) -> None:
        self.requests = TrainingControls()
        self.saving = self.ending = False


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the signal handlers of this process after the test."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_later_second_signal_exits_at_once_after_any_save_in_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, left, trainer = [100.0], [], FakeTrainer()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run_signals, "leave_now", left.append)
    with RunSignals() as signals:
        signals.watch(trainer)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGTERM)
        assert (trainer.requests.stopping, trainer.requests.discarding, left) == (True, False, [])
        now[0] += 0.1
        signal.raise_signal(signal.SIGTERM)
        assert left == []
        now[0] += 5.0
        trainer.saving, waited = True, []

        def write_for(seconds: float) -> None:
            waited.append(seconds)
            trainer.saving = len(waited) < 3

        monkeypatch.setattr(time, "sleep", write_for)
        trainer.ending = True  # no step is left to wait for
        signal.raise_signal(signal.SIGINT)
        assert (len(waited), left, trainer.requests.discarding) == (3, [], True)
        trainer.ending = False
        signal.raise_signal(signal.SIGINT)
        assert left == [143]
        assert signals.exit_code == 143


@pytest.mark.usefixtures("handlers")
def test_signal_handlers_are_restored_and_signals_after_a_stop_are_ignored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with RunSignals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Interrupted), RunSignals():
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("handlers")
def test_a_signal_before_the_trainer_exists_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    with RunSignals():
        signal.raise_signal(signal.SIGUSR1)  # no run to save yet; does not interrupt
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGTERM)
    assert caught.value.exit_code == 143


@pytest.mark.usefixtures("handlers")
def test_a_lost_signal_before_the_trainer_exists_still_ends_the_run() -> None:
    with RunSignals() as signals:
        with contextlib.suppress(Interrupted):  # as if raised in a destructor, where exceptions are ignored
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted) as caught:
            signals.watch(FakeTrainer())  # type: ignore[arg-type]
    assert caught.value.exit_code == 143


# -- on a terminal


def test_a_terminal_gets_progress_bars_and_a_restored_cursor(folder: Path) -> None:
    terminal = Terminal("--train-only", *tiny("max_epochs=1000000", "patience=0", "epsilon=0"), cwd=folder)
    terminal.read_until("tokens/s")
    bars = terminal.shown
    terminal.type("\x03")
    terminal.read_until("next: gpt-tui generate")
    assert terminal.end() == 130
    assert "━" in bars
    assert "\x1b[?25h" in terminal.shown
    assert "\x1b[?25l" not in terminal.shown
    assert verify_checkpoint(folder / LATEST).step >= 1


def test_a_dumb_terminal_gets_plain_lines(folder: Path) -> None:
    terminal = Terminal("--train-only", "--max-steps", "3", *tiny(), cwd=folder, TERM="dumb")
    assert terminal.end() == 0
    assert "step 3/3" in terminal.shown
    assert "\x1b" not in terminal.shown


def test_tiny_overfit_ends_with_the_chat_on_a_terminal(folder: Path) -> None:
    terminal = Terminal("--train-only", "--overfit-tiny", *tiny("overfit_steps=3"), cwd=folder)
    terminal.read_until("Type `exit` to quit")
    terminal.read_until("> ")
    terminal.type("The cat\n")
    terminal.read_until("> ")
    terminal.type("exit\n")
    assert terminal.end() == 0


def test_a_diverged_run_reports_it_on_standard_error_and_exits_with_1(folder: Path) -> None:
    rates = [f"{name}_lr=10" for name in ("attn", "mlp", "norm", "pos", "unembed")]
    run = run_program("--train-only", "--max-steps", "40", *tiny(*rates, "warmup_steps=0"), cwd=folder)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    (going,) = [line for line in run.stderr.splitlines() if "diverging: median step loss" in line]
    (ended,) = [line for line in run.stderr.splitlines() if " diverged: median step loss" in line]
    for line in (going, ended):
        assert "times the loss of uniform guessing (5.704)" in line
        assert "lower learning rates" in line
    assert "generate" not in run.stdout.splitlines()[-1]
