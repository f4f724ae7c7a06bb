"""Standard output that is closed, full, a closed pipe, or of a limited encoding."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from gpt_core.training.events import CheckpointSaved, RunFinished
from gpt_core.training.metrics_log import read_metrics
from tests.program import PROGRAM, TIMEOUT_S, environment, run_program, tiny, write_texts


@pytest.mark.parametrize("arguments", [["config"], ["--help"]])
def test_a_closed_output_pipe_exits_with_1_and_prints_no_error(arguments: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # before the program writes
    try:
        done = subprocess.run(
            [*PROGRAM, *arguments], cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [
        ["config"],
        ["--help"],
        pytest.param(["bench", "--steps", "1", *tiny()], marks=pytest.mark.slow),
        pytest.param(["gradcheck"], marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0],
)
def test_a_full_output_device_is_an_error_that_names_standard_output(arguments: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, env=environment(), check=False
        )
    assert run.returncode == 1
    assert run.stderr == b"gpt-tui: cannot write to standard output: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["plain", "json"])
def test_a_run_whose_output_device_is_full_names_its_checkpoint(options: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [*PROGRAM, "train", *options, *tiny()], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path,
            env=environment(), check=False, timeout=TIMEOUT_S,
        )  # fmt: skip
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1].decode()
    assert last == (
        "gpt-tui: cannot write to standard output: No space left on device; the run is saved in "
        "models/ckpt_latest.safetensors"
    )
    assert (tmp_path / "models/ckpt_latest.safetensors").exists()


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["plain", "json"])
def test_the_log_of_a_run_whose_output_pipe_is_closed_ends_with_its_save(options: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        run = subprocess.run(
            [*PROGRAM, "train", *options, *tiny()], stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path,
            env=environment(), check=False, timeout=TIMEOUT_S,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert run.returncode == 1
    assert run.stderr.decode().splitlines()[-1] == (
        "gpt-tui: the reader of standard output closed it, so training stopped; the run is saved in "
        "models/ckpt_latest.safetensors"
    )
    *_, saved, finished = read_metrics(tmp_path / "models/metrics.jsonl")
    assert isinstance(saved, CheckpointSaved)
    assert finished == RunFinished("stopped", saved.step)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_standard_error_does_not_end_a_run(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [*PROGRAM, "train", *tiny("max_steps=2")], stdout=subprocess.PIPE, stderr=full, cwd=tmp_path,
            env=environment(), check=False, timeout=TIMEOUT_S,
        )  # fmt: skip
    assert run.returncode == 0
    assert b"finished: 2 steps" in run.stdout


def test_a_command_whose_standard_output_is_closed_is_an_error(tmp_path: Path) -> None:
    run = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, "config"], stderr=subprocess.PIPE, cwd=tmp_path,
        env=environment(), check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (1, b"gpt-tui: cannot write to standard output: it is closed\n")


def test_messages_to_a_closed_standard_error_do_not_become_output(tmp_path: Path) -> None:
    run = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *PROGRAM, "generate", "It was"], stdout=subprocess.PIPE, cwd=tmp_path,
        env=environment(), check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (2, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_json_and_toml_are_utf8_whatever_the_encoding_of_standard_output(encoding: str, tmp_path: Path) -> None:
    write_texts(tmp_path)
    path = tmp_path / "größe Ω.txt"
    (tmp_path / "data/raw/train.en").rename(path)
    texts = ["--train-file", path.name]
    run = run_program("train", "--json", "--max-steps", "1", *texts, *tiny(), cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert json.loads(run.stdout.splitlines()[0])["train_file"] == path.name
    tokens = run_program("tokenize", "--json", path.name, cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert json.loads(tokens.stdout)["file"] == path.name
    config = run_program("config", *texts, cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert tomllib.loads(config.stdout)["train_file"] == str(path)
    plain = run_program("tokenize", path.name, cwd=tmp_path, PYTHONIOENCODING=encoding)  # for a reader in this locale
    assert plain.stdout.encode("utf-8", "surrogateescape").startswith("größe ?.txt".encode(encoding, "replace"))
