"""`gpt-tui evaluate`: the eval text of a run, other texts, and stored weights."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Result
from tests.program import run_program, tiny, write_texts


@pytest.fixture
def folder_of_self_test(tmp_path: Path) -> Path:
    """Folder with a model of the self-test."""
    write_texts(tmp_path)
    run = run_program("--train-only", "--overfit-tiny", *tiny("overfit_lines=2", "overfit_steps=2"), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    return tmp_path


def test_evaluate_equals_the_evaluation_during_training(program: Callable[..., Result], trained: Path) -> None:
    run = program("evaluate", "--json", "--model", "models/ckpt_latest.safetensors")
    assert (run.returncode, run.stderr) == (0, "")
    found = json.loads(run.stdout)
    events = [json.loads(line) for line in (trained / "models" / "metrics.jsonl").read_text().splitlines()]
    logged = next(event for event in events if event["event"] == "eval" and event["step"] == 6)
    scores = ("step", "loss", "ppl", "accuracy", "bits_per_byte")
    assert [found[name] for name in scores] == [logged[name] for name in scores]
    assert found["text"] == "run"
    assert found["ppl"] == pytest.approx(math.exp(found["loss"]))


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_weights_of_fewer_bits_generate_and_score(program: Callable[..., Result], trained: Path, weights: str) -> None:
    run = program("generate", "It was", "--weights", weights, "--max-tokens", "5", "--temperature", "0")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("It was")
    scores = [
        json.loads(program("evaluate", "--json", *options).stdout)["bits_per_byte"]
        for options in ([], ["--weights", weights])
    ]
    assert scores[1] == pytest.approx(scores[0], abs=0.01)
    assert scores[1] != scores[0]


def test_an_unknown_format_of_weights_names_the_formats(program: Callable[..., Result], trained: Path) -> None:
    run = program("generate", "It was", "--weights", "int4")
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert all(name in run.stderr for name in ("float32", "bfloat16", "int8"))


def test_evaluate_reads_another_text_and_prints_a_sentence(
    program: Callable[..., Result], trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("The bat was at the cat.\n" * 30)
    run = program("evaluate", "--eval-file", str(tmp_path / "other.txt"))
    assert run.returncode == 0
    assert "other.txt" in run.stdout
    assert "another text than the eval text of its run" in run.stdout
    assert "bits per byte" in run.stdout
    run = program("evaluate", "--json", "--eval-file", str(tmp_path / "other.txt"))
    assert json.loads(run.stdout)["text"] == "other"


def test_evaluate_scores_texts_of_several_kinds_like_one_plain_text(
    program: Callable[..., Result], tmp_path: Path
) -> None:
    documents = ["The bat was at the cat.", "It was a dark night; the rat sat on the hat.", "The cat was at it again."]
    (tmp_path / "plain.txt").write_text("\n\n".join(documents))
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "a.txt").write_bytes(documents[0].encode("utf-16"))
    (folder / "b.txt.gz").write_bytes(gzip.compress(documents[1].encode()))
    (folder / "c.jsonl").write_text(json.dumps({"body": documents[2]}))
    names = ([str(folder)], [f"{folder}/*"], [f"{folder}/{name}" for name in ("a.txt", "b.txt.gz", "c.jsonl")])
    plain = json.loads(program("evaluate", "--json", "--eval-file", str(tmp_path / "plain.txt")).stdout)
    for given in names:
        run = program("evaluate", "--json", "--text-field", "body", "--eval-file", *given)
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["loss"] == plain["loss"]
    run = program("evaluate", "--eval-file", str(folder))
    assert (run.returncode, run.stdout) == (2, "")
    assert "c.jsonl: line 1 has no field 'text': got body; set --text-field to the one with the text" in run.stderr
    (folder / "b.txt").write_bytes(b"%PDF-1.7")
    run = program("evaluate", "--text-field", "body", "--eval-file", str(folder))
    assert run.returncode == 2
    assert "b.txt is not plain text: got a PDF document" in run.stderr
    assert run.stderr.count("\n") == 1


def test_evaluate_follows_the_advice_of_its_messages_about_a_text(
    program: Callable[..., Result], trained: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    for data in ("The café at night.\n".encode("cp1252") * 40, bytes(range(256)) * 4):
        text.write_bytes(data)
        run = program("evaluate", "--eval-file", str(text))
        assert (run.returncode, run.stdout) == (2, "")
        assert "set allow_binary=true" in run.stderr
        run = program("evaluate", "--eval-file", str(text), "--set", "allow_binary=true")
        assert run.returncode == 0, run.stderr
    run = program("evaluate", "--set", "seq_len=8")
    expected = "gpt-tui: --set: got 'seq_len', expected one of text_field, encoding, allow_binary, document\n"
    assert (run.returncode, run.stderr) == (2, expected)
    run = program("evaluate", "--set", "encoding")
    assert (run.returncode, run.stderr) == (2, "gpt-tui: --set encoding: got no '=', expected KEY=VALUE\n")


def test_evaluate_can_cut_a_text_into_other_documents(
    program: Callable[..., Result], trained: Path, tmp_path: Path
) -> None:
    text = tmp_path / "lines.txt"
    text.write_text("The old man was here.\n" * 40)
    command = ("evaluate", "--json", "--eval-file", str(text))
    paragraph = json.loads(program(*command).stdout)
    lines = json.loads(program(*command, "--set", "document=line").stdout)
    assert lines["tokens"] > paragraph["tokens"]  # each line ends with the token of the end of a document
    assert lines["loss"] != paragraph["loss"]
    own = ("evaluate", "--eval-file", str(trained / "data/test/eval.en"))
    for kind, is_other in (("line", True), ("paragraph", False)):
        printed = program(*own, "--set", f"document={kind}").stdout
        assert ("other documents than those of the eval text of its run" in printed) == is_other
        assert "another text" not in printed


def test_evaluate_without_a_text_names_no_option_of_training(
    program: Callable[..., Result], trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/train.en").symlink_to("absent")
    run = program("evaluate", "--models-dir", str(trained / "models"), cwd=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert "is a broken link to absent; repair or remove it; it is the text of the run of" in run.stderr
    assert "--train-file" not in run.stderr


def test_evaluate_in_another_folder_refuses_its_text_and_names_both(
    program: Callable[..., Result], trained: Path, tmp_path: Path
) -> None:
    write_texts(tmp_path)
    for name in ("raw/train.en", "test/eval.en"):
        (tmp_path / "data" / name).write_text("Another text.\n\n" * 90)
    folder = str(trained / "models")
    run = program("evaluate", "--models-dir", folder, cwd=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert re.search(r"the text of its run was not found: expected SHA-256 \w{12}…, got data/\S+ with", run.stderr)
    assert "--eval-file" in run.stderr
    eval_file = str(trained / "data/test/eval.en")
    run = program("evaluate", "--models-dir", folder, "--eval-file", eval_file, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_evaluate_where_the_text_of_the_run_is_missing_says_how_to_name_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "buch.txt").write_text("The cat sat on the mat.\n\n" * 60)
    first = run_program("--train-only", *tiny(), "--train-file", "buch.txt", "--max-steps", "2", "--models-dir", "m",
                        cwd=folder)  # fmt: skip
    assert first.returncode == 0, first.stderr
    run = run_program("evaluate", "--models-dir", "run/m", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert "cannot read the text buch.txt: No such file" in run.stderr
    assert "it is the text of the run of run/m/" in run.stderr
    assert "name a text with --eval-file" in run.stderr


def test_evaluate_refuses_a_text_that_has_changed_since_the_run(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    with (tmp_path / "copy/data/raw/train.en").open("a") as file:
        file.write("One more line.\n")
    assert run_program("evaluate", cwd=tmp_path / "copy").returncode == 0, "the eval text is another file"
    with (tmp_path / "copy/data/test/eval.en").open("a") as file:
        file.write("One more line.\n")
    run = run_program("evaluate", cwd=tmp_path / "copy")
    assert run.returncode == 2
    assert "the text of its run was not found" in run.stderr
    run = run_program("evaluate", "--json", "--eval-file", str(trained / "data/test/eval.en"), cwd=tmp_path / "copy")
    assert json.loads(run.stdout)["text"] == "run"


@pytest.mark.parametrize(
    "given", [("--encoding", "cp1252"), ("--set", "encoding=latin_1"), ("--set", "text_field=body")]
)
def test_evaluate_reads_the_text_of_the_run_as_in_its_training(
    program: Callable[..., Result], given: tuple[str, str]
) -> None:
    run = program("evaluate", *given)
    assert (run.returncode, run.stdout) == (2, "")
    option = given[0] if given[0] != "--set" else " ".join(given)
    assert f"got {option} without --eval-file: the eval text of the run is read as it was in training" in run.stderr


@pytest.mark.slow
def test_evaluate_names_the_digests_of_the_files_where_the_end_of_the_text_was_held_out(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("The cat sat on the mat.\n\n" * 60)
    before = hashlib.sha256(text.read_bytes()).hexdigest()[:12]
    run = run_program("--train-only", *tiny(), "--train-file", "t.txt", "--max-steps", "1", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    with text.open("a") as file:
        file.write("One more line.\n")
    after = hashlib.sha256(text.read_bytes()).hexdigest()[:12]
    run = run_program("evaluate", cwd=tmp_path)
    assert run.returncode == 2
    assert f"expected SHA-256 {before}…, got t.txt with {after}…" in run.stderr


@pytest.mark.slow
def test_evaluate_does_not_score_an_eval_file_that_was_added_after_a_run_on_held_out_text(tmp_path: Path) -> None:
    write_texts(tmp_path)
    eval_file = tmp_path / "data/test/eval.en"
    text = eval_file.read_text()
    eval_file.unlink()
    run = run_program("--train-only", "--max-steps", "1", *tiny(), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(run_program("evaluate", "--json", cwd=tmp_path).stdout)
    assert (found["text"], found["eval_file"]) == ("run", "data/raw/train.en")
    run = run_program("evaluate", "--json", "--eval-file", "data/raw/train.en", cwd=tmp_path)
    assert json.loads(run.stdout)["text"] == "other", "all of the text is not its held-out part"
    eval_file.write_text(text)
    run = run_program("evaluate", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert "got data/test/eval.en with" in run.stderr


@pytest.mark.slow
def test_evaluate_of_a_self_test_asks_for_a_text(folder_of_self_test: Path, program: Callable[..., Result]) -> None:
    run = program("evaluate", cwd=folder_of_self_test)
    assert (run.returncode, run.stdout) == (2, "")
    assert "is of a self-test, which has no eval text; name a text with --eval-file" in run.stderr
    run = program("evaluate", "--json", "--eval-file", "data/test/eval.en", cwd=folder_of_self_test)
    assert json.loads(run.stdout)["text"] == "other"


def test_a_model_of_a_run_with_a_held_out_end_is_scored_on_a_named_text(tmp_path: Path) -> None:
    write_texts(tmp_path)
    run = run_program("--train-only", "--max-steps", "2", *tiny("hold_out=true"), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    (tmp_path / "final.txt").write_text("The bat was at the cat.\n" * 30)
    run = run_program("evaluate", "--json", "--eval-file", "final.txt", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["eval_file"] == "final.txt"
