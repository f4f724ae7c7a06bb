"""`gpt-tui tokenize`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_core.formats.bundle import load_bundle
from tests.cli.conftest import Result
from tests.program import tiny


def test_tokenize_reports_counts_and_an_exact_round_trip(program: Callable[..., Result], trained: Path) -> None:
    (trained / "odd.bin").write_bytes(bytes(range(256)) * 3 + b"the cat" * 50)
    run = program("tokenize", "odd.bin", "--json", *tiny("allow_binary=true"))
    found = json.loads(run.stdout)
    assert run.returncode == 0
    assert (found["bytes"], found["round_trip"], found["vocab_size"]) == (256 * 3 + 350, True, 300)
    assert found["bytes_per_token"] == pytest.approx(found["bytes"] / found["tokens"])
    assert 256 * 3 < found["tokens"] < found["bytes"]
    assert found["tokenizer_from"] == "data/raw/train.en"
    plain = program("tokenize", "odd.bin", *tiny("allow_binary=true")).stdout
    assert plain.startswith("odd.bin, with the tokenizer trained on data/raw/train.en\n")
    model = ("--model", "models/ckpt_latest.safetensors")
    by_model = program("tokenize", "odd.bin", "--json", *model, "--set", "allow_binary=true")
    assert json.loads(by_model.stdout)["tokens"] == found["tokens"]
    assert json.loads(by_model.stdout)["tokenizer_from"] == "models/ckpt_latest.safetensors"


def test_tokenize_takes_the_tokenizer_of_the_run_in_the_folder(
    program: Callable[..., Result], trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "my.txt").write_text("The cat sat on the mat.")
    (tmp_path / "empty").mkdir()

    def origin(*options: str, cwd: Path) -> str:
        run = program("tokenize", str(tmp_path / "my.txt"), "--json", *options, cwd=cwd)
        assert (run.returncode, run.stderr) == (0, "")
        return str(json.loads(run.stdout)["tokenizer_from"])

    assert origin(cwd=trained) == "models/best_model.safetensors"
    assert origin("--text-field", "body", "--seed", "3", cwd=trained) == "models/best_model.safetensors"
    folder = trained / "models"
    assert origin("--models-dir", str(folder), cwd=tmp_path) == str(folder / "best_model.safetensors")
    assert origin("--set", "vocab_size=300", cwd=trained) == "data/raw/train.en"
    assert origin("--train-file", str(tmp_path / "my.txt"), cwd=trained) == str(tmp_path / "my.txt")
    missing = program("tokenize", "my.txt", "--models-dir", "empty", cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("gpt-tui: no checkpoint in empty; ")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(("--preset", "micro"), "--preset"), (("--set", "vocab_size=300"), "vocab_size"), (("--minutes", "1"), "minutes")],
)
def test_a_model_and_a_tokenizer_to_train_are_not_both_requested(
    arguments: tuple[str, ...], name: str, program: Callable[..., Result], trained: Path
) -> None:
    run = program("tokenize", "train.en", "--model", "models/best_model.safetensors", *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"gpt-tui: got --model and {name}, expected one of them: a model has its own tokenizer\n"


def test_tokenize_shows_the_text_cut_into_tokens(program: Callable[..., Result], tmp_path: Path, trained: Path) -> None:
    text = "The cat sat on the mat.\n\nThe bat\x1b sat "
    (tmp_path / "my.txt").write_text(text)
    model = str(trained / "models" / "ckpt_latest.safetensors")
    tokenizer = load_bundle(Path(model)).tokenizer
    tokens = [tokenizer.describe(token) for token in tokenizer.encode(text.encode()).tolist()]
    assert len(tokens) > 5
    command = ("tokenize", "my.txt", "--model", model, "--set", "allow_binary=true")
    plain = program(*command, "--show-tokens", cwd=tmp_path)
    summary, _, shown = plain.stdout.partition("round trip: identical\n\n")
    assert "tokens, vocabulary 300" in summary
    lines = shown.splitlines()
    assert [token for line in lines for token in line.split("|")] == tokens
    assert [line.endswith("\\n") for line in lines] == [True] * (len(lines) - 1) + [False]
    assert all(line.isprintable() for line in lines)
    assert json.loads(program(*command, "--show-tokens", "--json", cwd=tmp_path).stdout)["texts"] == tokens
    assert "texts" not in json.loads(program(*command, "--json", cwd=tmp_path).stdout)


def test_tokenize_refuses_a_file_that_is_not_text_in_one_line(program: Callable[..., Result], trained: Path) -> None:
    (trained / "wide.txt").write_bytes("It was\n".encode("utf-16-le") * 50)
    for tokenizer in (tiny(), ("--model", "models/ckpt_latest.safetensors")):
        run = program("tokenize", "wide.txt", *tokenizer)
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr.startswith(
            "gpt-tui: wide.txt is not plain text: got UTF-16 text, expected UTF-8; add --encoding="
        )
        assert run.stderr.count("\n") == 1


def test_tokenize_reads_several_texts_of_several_kinds(program: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Über".encode("latin-1"))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("Brücke".encode()))
    (tmp_path / "c.jsonl").write_text('{"body": "läuft"}')
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt.gz", "c.jsonl")]
    reading = ("--encoding", "latin-1", "--text-field", "body")
    for given in (files, [str(tmp_path)], [f"{tmp_path}/*"]):
        run = program("tokenize", "--json", *tiny(), *reading, *given)
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["bytes"] == len("ÜberBrückeläuft".encode())
    run = program("tokenize", *tiny(), *files)
    assert (run.returncode, run.stdout) == (2, "")
    assert "a.txt is not UTF-8: got 0xdc at byte 0 (line 1); it looks like cp1252 ('Über')" in run.stderr


def test_tokenize_fails_if_the_round_trip_changes_bytes(program: Callable[..., Result], trained: Path) -> None:
    (trained / "upper.txt").write_text("The Cat")
    run = program("tokenize", "upper.txt", *tiny("tokenizer=ascii"))
    assert run.returncode == 1
    assert "DIFFERENT bytes" in run.stdout
