"""Headless output: JSON lines, plain lines, progress bars, and the line at the end."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from msgspec import structs
from rich.console import Console

from gpt_core.config.settings import Settings
from gpt_core.formats.checkpoint import verify_checkpoint, write_checkpoint
from gpt_core.training import events as ev
from gpt_tui.cli import main as cli
from gpt_tui.headless.event_text import news
from gpt_tui.headless.reporters import BarsReporter, JsonReporter, PlainReporter, Reporter
from gpt_tui.headless.runner import as_saved, batched, next_commands
from gpt_tui.session.run_events import advance_all
from gpt_tui.session.run_state import Limits, RunState
from tests.core.checkpoint_samples import sample
from tests.core.training_samples import lines_are_lost
from tests.headless.conftest import LATEST
from tests.program import Terminal, run_program, tiny

KEYS = {
    "step": {"event", "step", "epoch", "loss", "ppl", "lr", "grad_norm", "tokens", "tokens_per_s", "elapsed_s"},
    "eval": {
        "event",
        "step",
        "loss",
        "ppl",
        "accuracy",
        "bits_per_byte",
        "is_best",
        "without_improvement",
        "is_scheduled",
    },
    "saved": {"event", "kind", "path", "step"},
    "finished": {"event", "reason", "step"},
}


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


@pytest.mark.parametrize("name", ["my models", "my  models of " + "a long time ago " * 10])
def test_plain_output_ends_with_the_result_and_the_next_commands(folder: Path, name: str) -> None:
    run = run_program("--train-only", "--max-steps", "8", "--models-dir", name, *tiny("eval_every_steps=8"), cwd=folder)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert any(line.startswith("step 8/8  epoch 1  train loss ") for line in lines)
    assert any(line.startswith("eval at step 8: eval loss ") for line in lines)
    assert any(line.startswith("finished: 8 steps in ") for line in lines)
    assert lines[-1].startswith("next: gpt-tui generate ")
    assert lines[-1].count(f"--models-dir '{name}'") == 3
    assert "\x1b" not in run.stdout
    assert "encoding train.en" in run.stderr


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


def test_a_step_is_printed_before_the_events_that_follow_it(capsys: pytest.CaptureFixture[str]) -> None:
    saved = ev.CheckpointSaved("latest", "models/\x1b[2Jx", 3)
    show_all(PlainReporter(), [[started()], [step(1)], [step(2), step(3), saved]])
    printed = capsys.readouterr().out
    assert printed.index("step 3/20") < printed.index("saved models/")
    assert "\x1b" not in printed


def test_times_have_units_as_in_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [structs.replace(step(number), elapsed_s=elapsed_s) for number, elapsed_s in ((1, 0.9), (500, 40.9))]
    show_all(PlainReporter(), [[started(1000)], steps])
    assert capsys.readouterr().out.splitlines()[-1].endswith(" 640 tokens/s  41 s  40 s left")
    screen = io.StringIO()
    reporter = BarsReporter(lambda: False, Console(file=screen, force_terminal=True, width=120, color_system=None))
    show_all(reporter, [[started(1000)], [*steps, structs.replace(step(600), elapsed_s=140.9)]])
    assert "1 min 33 s left" in screen.getvalue()
    assert "tokens/s  2 min 21 s" in screen.getvalue()


def test_json_output_has_only_logged_events(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = JsonReporter()
    reporter.preparing("encoding", 0.5)
    displayed = ev.EvalProgressed(1, 1, 2), ev.RoundAwaited(1, "stop", 8)
    show_all(reporter, [[started(), step(1), *displayed, ev.RunFinished("stopped", 1)]])
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == [
        "started",
        "step",
        "finished",
    ]


def test_a_stop_within_a_round_of_local_steps_says_at_which_step_it_takes_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_all(PlainReporter(), [[started(), step(1), ev.RoundAwaited(1, "stop", 1240)]])
    assert "\nstops at step 1,240, the next exchange of the ranks\n" in capsys.readouterr().out
    assert news(ev.RoundAwaited(1, "pause", 8), RunState()) == [
        ("pauses at step 8, the next exchange of the ranks", "plain")
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_log_that_cannot_be_written_is_one_line_on_standard_error(
    as_json: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    lines_are_lost(monkeypatch)
    assert cli.main(["--train-only", *["--json"] * as_json, "--max-steps", "4", *tiny()]) == 0
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if "log of the run" in line]
    assert line.startswith("gpt-tui: the log of the run is incomplete from step ")
    assert line.endswith(" on; training continues: models/metrics.jsonl: No space left on device")
    assert "log of the run" not in printed.out
    assert "log_failed" not in printed.out


def test_a_run_that_ends_early_names_the_folder_beside_its_own_that_it_was_saved_in(
    folder: Path, handlers: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def show(_: PlainReporter, events: Sequence[ev.AnyEvent], history: RunState) -> None:
        if any(isinstance(event, ev.StepCompleted) for event in events):
            Path("models").rename("moved")
            Path("models").touch()  # a file, so that nothing can be saved in it
            raise BrokenPipeError

    monkeypatch.chdir(folder)
    monkeypatch.setattr(PlainReporter, "show", show)
    cli.main(["--train-only", *tiny()])
    (saved,) = folder.glob("gpt-tui-*/ckpt_latest.safetensors")
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"gpt-tui: the reader of standard output closed it, so training stopped; the run is saved in {saved}"
    )


def test_the_checkpoint_of_a_run_is_named_with_its_step_where_the_run_went_further(tmp_path: Path) -> None:
    latest = tmp_path / "ckpt_latest.safetensors"
    assert as_saved(latest, 8) is None
    write_checkpoint(latest, sample(step=8))
    assert as_saved(latest, 8) == str(latest)
    assert as_saved(latest, 11) == f"{latest} as of step 8"


def test_a_sample_without_a_token_says_that_the_text_ended_at_once() -> None:
    assert news(ev.SampleWritten(5, "It was", ""), RunState()) == [
        ("sample at step 5: It was (end of text at once)", "dim")
    ]


def test_a_sample_of_white_space_says_so() -> None:
    for text in (" ", "\n\n", "\t \n"):
        assert news(ev.SampleWritten(5, "It was", text), RunState()) == [
            ("sample at step 5: It was (only white space)", "dim")
        ]


def test_the_next_commands_generate_only_from_a_prompt() -> None:
    finished = ev.RunFinished("max_steps", 9)
    for prompt in ("", " "):
        assert next_commands(finished, Settings(sample_prompt=prompt), "models") == (
            "gpt-tui chat, or gpt-tui --train-only --resume --max-steps 18"
        )
        stopped = ev.RunFinished("stopped", 9)
        assert next_commands(stopped, Settings(sample_prompt=prompt), "models").endswith("--train-only --resume")
    assert next_commands(finished, Settings(sample_prompt="-a b"), "m").startswith(
        "gpt-tui generate --models-dir m -- '-a b', gpt-tui chat --models-dir m, or "
    )


def test_the_next_commands_name_a_prompt_of_the_language_of_the_text(folder: Path) -> None:
    for name in ("raw/train.en", "test/eval.en"):
        (folder / "data" / name).write_text("Über allen Gipfeln ist Ruh, in allen Wipfeln.\n\n" * 40, encoding="utf-8")
    run = run_program("--train-only", "--max-steps", "2", *tiny(), cwd=folder)
    assert "next: gpt-tui generate 'Über allen Gipfeln', gpt-tui chat" in run.stdout
    ascii_output = {"PYTHONIOENCODING": "ascii"}
    again = run_program("--train-only", "--resume", "--max-steps", "3", cwd=folder, **ascii_output)
    assert "next: gpt-tui chat, or gpt-tui --train-only --resume" in again.stdout
    named = run_program("--train-only", "--max-steps", "2", "--models-dir", "é", *tiny(), cwd=folder, **ascii_output)
    assert (named.returncode, "next: " in named.stdout) == (0, False)


def test_scores_of_a_part_and_of_all_of_the_eval_text_are_named_at_the_start_in_their_lines_and_at_the_end(
    folder: Path,
) -> None:
    run = run_program(
        "--train-only", "--max-steps", "5", *tiny("eval_tokens=40", "eval_every_steps=2", "seq_len=16"), cwd=folder
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"of its [0-9.k]+ tokens; all after epochs and at the end", run.stdout)
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


def test_the_progress_bar_of_a_resumed_time_budget_shows_the_share_of_its_training_time() -> None:
    screen = io.StringIO()
    reporter = BarsReporter(lambda: False, Console(file=screen, force_terminal=True, width=80, color_system=None))
    start = structs.replace(started(600), step=600, elapsed_s=60.0, minutes=2.0)
    show_all(reporter, [[start], [ev.PlanMade(600, 0.5, 1300, 60.0, 0.1, 120.0)], [step(900)]])
    [shown] = [line for line in screen.getvalue().splitlines() if "step 900 of 1,300" in line][-1:]
    assert " 75%" in shown


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
