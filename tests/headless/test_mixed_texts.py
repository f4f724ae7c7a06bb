"""Runs on texts as people have them: folders of several files, other encodings, compressed files, JSON Lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.program import run_program, tiny

LINES = ("Über allen Gipfeln ist Ruh, in allen Wipfeln.", "Die Vögelein schweigen im Walde, warte nur.")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Working folder with a folder `texte` of a text in UTF-16, a compressed one and JSON Lines."""
    folder = tmp_path / "texte"
    (folder / "mehr").mkdir(parents=True)
    (folder / "a.txt").write_bytes((f"{LINES[0]}\r\n\r\n" * 20).encode("utf-16"))
    (folder / "b.txt.gz").write_bytes(gzip.compress(f"{LINES[1]}\n\n".encode() * 20))
    (folder / "mehr/c.jsonl").write_text("".join(json.dumps({"text": f"{line}\n\nEnde."}) + "\n" for line in LINES * 9))
    return tmp_path


def events(folder: Path, models: str = "models") -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / models / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "names",
    [
        ["texte"],
        pytest.param(["texte/**/*"], marks=pytest.mark.slow),
        pytest.param(["texte/a.txt", "texte/b.txt.gz", "texte/mehr/*.jsonl"], marks=pytest.mark.slow),
    ],
)
def test_a_folder_of_mixed_files_is_trained_on_resumed_and_evaluated(mixed: Path, names: list[str]) -> None:
    options = [*tiny("eval_every_steps=2", "sample_tokens=4"), "--train-file", *names]
    run = run_program("train", "--max-steps", "2", *options, cwd=mixed)
    assert run.returncode == 0, run.stderr
    assert "3 files, " in run.stdout
    assert "bytes per token; the text begins: Über allen Gipfeln ist Ruh" in run.stdout
    assert "which are held out" in run.stdout
    started, *others = events(mixed)
    assert started["train_files"] == 3
    assert 40 <= int(str(started["documents"])) <= 58
    prompts = {event["prompt"] for event in others if event["event"] == "sample"}
    assert prompts <= {"Über allen Gipfeln", "Die Vögelein"}, "words of a held-out document"
    assert prompts
    again = run_program("train", "--resume", "--max-steps", "4", *options, cwd=mixed)
    assert again.returncode == 0, again.stderr
    scores = run_program("evaluate", "--json", cwd=mixed)
    assert json.loads(scores.stdout)["text"] == "run"
    (mixed / "texte/d.txt").write_text("One more.\n")
    changed = run_program("train", "--resume", *options, cwd=mixed)
    if names[0].startswith("texte/a"):
        assert changed.returncode == 0
    else:
        assert changed.returncode == 2
        assert "was trained on another text" in changed.stderr


@pytest.mark.slow
def test_files_given_by_a_config_file_count_from_its_folder(mixed: Path) -> None:
    (mixed / "texte/run.toml").write_text('train_file = ["a.txt", "mehr/c.jsonl"]\nmax_steps = 1\n')
    run = run_program("train", "--config", "texte/run.toml", *tiny(), cwd=mixed)
    assert run.returncode == 0, run.stderr
    assert events(mixed)[0]["train_files"] == 2
    printed = run_program("config", "--config", "texte/run.toml", cwd=mixed)
    paths = [str(mixed / "texte" / name) for name in ("a.txt", "mehr/c.jsonl")]
    assert f"train_file = {json.dumps(paths)}" in printed.stdout


@pytest.mark.parametrize("option", ["--train-file", pytest.param("--eval-file", marks=pytest.mark.slow)])
def test_a_text_in_another_encoding_is_refused_and_read_when_it_is_named(mixed: Path, option: str) -> None:
    (mixed / "alt.txt").write_bytes(f"{LINES[0]}\n\n".encode("latin-1") * 60)
    other = ["--train-file", "texte"] if option == "--eval-file" else []
    options = ["train", "--max-steps", "1", *tiny("eval_every_steps=1", "sample_tokens=4"), *other, option, "alt.txt"]
    run = run_program(*options, cwd=mixed)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.count("\n") == 1
    assert "alt.txt is not UTF-8: got 0xdc at byte 0 (line 1); it looks like cp1252 ('Über allen" in run.stderr
    assert "add --encoding=cp1252" in run.stderr
    assert not list((mixed / "models").glob("*.safetensors"))
    run = run_program(*options, "--encoding", "cp1252", cwd=mixed)
    assert run.returncode == 0, run.stderr
    assert any(event.get("prompt") == "Über allen Gipfeln" for event in events(mixed))


@pytest.mark.slow
def test_bytes_that_are_no_text_give_a_prompt_of_words_that_are(mixed: Path) -> None:
    (mixed / "alt.txt").write_bytes("Jörg und Anna gehen über die Brücke und in den Wald.\n\n".encode("latin-1") * 60)
    options = tiny("eval_every_steps=1", "sample_tokens=4", "allow_binary=true")
    run = run_program("train", "--max-steps", "1", *options, "--train-file", "alt.txt", cwd=mixed)
    assert run.returncode == 0, run.stderr
    prompts = {event["prompt"] for event in events(mixed) if event["event"] == "sample"}
    assert prompts == {"und in"}


def test_a_folder_with_a_file_that_is_no_text_is_refused_in_one_line(mixed: Path) -> None:
    (mixed / "texte/mehr/d.pdf").write_bytes(b"%PDF-1.7\n" + bytes(99))
    run = run_program("train", *tiny(), "--train-file", "texte", cwd=mixed)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        "gpt-tui: texte/mehr/d.pdf is not plain text: got a PDF document, expected UTF-8; extract its text, for "
        "example with `pdftotext`, or add --set allow_binary=true to use its bytes as they are; to leave it out, name "
        "the texts by a pattern such as 'texte/**/*.txt'\n"
    )


def test_a_run_on_its_own_folder_is_resumed_and_evaluated_on_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("".join(f"{line}\n" for line in LINES * 20))
    on_folder = (*tiny(), "--train-file", ".", "--models-dir", ".")
    assert run_program("train", "--max-steps", "3", *on_folder, cwd=tmp_path).returncode == 0
    resumed = run_program("train", "--resume", "./ckpt_latest.safetensors", "--max-steps", "4", cwd=tmp_path)
    assert (resumed.returncode, "text" in resumed.stderr) == (0, False), resumed.stderr
    for command in (
        ("evaluate", "--model", "transformer.safetensors"),
        ("train", "--max-steps", "1", "--overwrite", *on_folder),
    ):
        run = run_program(*command, cwd=tmp_path)
        assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_a_run_on_one_file_of_a_folder_equals_a_run_on_the_file(mixed: Path) -> None:
    text = "".join(f"{line}\n\n" for line in LINES * 20)
    (mixed / "one").mkdir()
    (mixed / "one/text.txt").write_text(text, encoding="utf-8")
    losses = []
    for name in ("one", "one/text.txt", "one/*.txt"):
        run = run_program(
            "train", "--max-steps", "3", "--models-dir", "m", "--overwrite", *tiny(), "--train-file", name, cwd=mixed
        )
        assert run.returncode == 0, run.stderr
        losses.append([event["loss"] for event in events(mixed, "m") if event["event"] == "step"])
    assert losses[0] == losses[1] == losses[2]
