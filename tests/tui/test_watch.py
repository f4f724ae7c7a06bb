"""Following a headless run of another process to its end, without affecting it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_tui.cli.watch import watched_folder
from tests.program import PROGRAM, TIMEOUT_S, Terminal, environment, run_program, tiny, write_texts
from tests.tui.app_bench import AppBench, running_app

pytestmark = pytest.mark.slow

ENDLESS = ("max_epochs=100000", "patience=0", "epsilon=0.0", "eval_every_steps=200", "sample_tokens=4")


def start_training(folder: Path) -> subprocess.Popen[bytes]:
    write_texts(folder)
    return subprocess.Popen(
        [*PROGRAM, "--train-only", "--json", *tiny(*ENDLESS)], cwd=folder, env=environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def shown_step(bench: AppBench) -> int:
    """Return the step shown in the status panel."""
    text = [line.split("step")[1].split() for line in bench.text().splitlines() if "││ step " in line]
    return int(text[0][0].replace(",", "")) if text and text[0] else 0


async def test_a_headless_run_is_followed_to_its_end(tmp_path: Path) -> None:
    process = start_training(tmp_path)
    try:
        (tmp_path / "models").mkdir(exist_ok=True)
        models = tmp_path / "models"
        async with running_app(models, size=(120, 40), watched=models) as bench:
            await bench.until(lambda: "▶ live" in bench.text())
            assert f"PID {process.pid}" in bench.text()
            await bench.until(lambda: shown_step(bench) > 50)
            before = shown_step(bench)
            await bench.until(lambda: shown_step(bench) > before)
            process.send_signal(signal.SIGINT)
            await bench.until(lambda: "stopped and saved" in bench.text())
            await bench.until(lambda: "▶ training" not in bench.text())
            last = (models / "metrics.jsonl").read_text().splitlines()[-1]
            assert f'"step":{shown_step(bench)}' in last
            assert bench.opener.requests == []
    finally:
        process.kill()
        process.wait()


def test_quitting_watch_leaves_the_other_process_running(tmp_path: Path) -> None:
    process = start_training(tmp_path)
    try:
        (tmp_path / "models").mkdir(exist_ok=True)
        terminal = Terminal("watch", cwd=tmp_path)
        terminal.read_until("▶ live")
        terminal.type("q")
        assert terminal.end() == 0
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 143
    finally:
        process.kill()
        process.wait()


def test_watch_without_a_name_selects_the_folder_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert watched_folder(None) == Path("models")
    with CheckpointStore("trial") as store:
        store.prepare("a run", new_run=True)
        assert watched_folder(None) == Path("trial")
        assert watched_folder("models") == Path("models")


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ("absent", "no folder absent; name the models folder of a run"),
        ("file", "file is a file, expected the models folder of a run"),
        ("here", "the app needs a terminal, but standard input is not one; read here/metrics.jsonl without a terminal"),
        ("empty", "the app needs a terminal, but standard input is not one; run it in one\n"),
    ],
)
def test_an_invalid_folder_to_watch_is_reported_in_one_line(tmp_path: Path, named: str, text: str) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("here", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "here" / "metrics.jsonl").touch()
    result = run_program("watch", named, cwd=tmp_path)
    assert result.returncode == 2
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
