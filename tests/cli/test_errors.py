"""Errors of the command line: one line and an exit code for invalid arguments and for every kind of error."""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_core.errors import SaveError
from gpt_tui.app import launch
from gpt_tui.cli import main as cli
from gpt_tui.cli import train
from tests.cli.conftest import Result
from tests.program import run_program, tiny, write_texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generat", "x"], "unknown command 'generat' (did you mean generate?)"),
        (["--max-stpes", "3"], "did you mean --max-steps?"),
        (["train", "--lr", "3"], "unknown option '--lr' (did you mean --learning-rate?)"),
        (["--epochs", "3"], "did you mean --set max_epochs=VALUE?"),
        (["--d-model", "64"], "did you mean --set d_model=VALUE?"),
        (["--train-only", "--preset", "nan"], "did you mean nano?"),
        (["--train-only", "--set", "batchsize=3"], "did you mean batch_size?"),
        (["--train-only", "--set", "batch_size"], "expected KEY=VALUE"),
        (["--train-only", "--set", "batch_size=0"], "batch_size: got 0, expected a whole number of at least 1"),
        (["--train-only", "--set", "preset=micro"], "a preset is not a setting; name it by --preset micro"),
        (["--train-only", "--set", "lr=0.01"], "unknown setting 'lr': did you mean learning_rate?"),
        (["--train-only", "--set", "n_layer=2"], "did you mean layers?"),
        (["--train-only", "--seed", "x"], "seed: got 'x', expected a whole number"),
        (["--train-only", "--seed", "\udcff"], "seed: got '\\udcff', expected a whole number"),
        (["--train-only", "--set", "precision=\udcff"], "precision: got '\\udcff', expected one of auto, "),
        (["--train-only", "--max-steps", "-1"], "--max-steps: got -1"),
        (["--train-only", "--config", "nowhere.toml"], "nowhere.toml: No such file"),
        (["--train-only", "--train-file", "nowhere.txt"], "nowhere.txt"),
        (["serve", "--train-file", "nowhere.txt"], "cannot read the text nowhere.txt: No such file"),
        (["--train-only", "--resume", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--train-only", "--resume", "."], "."),
        (["--train-only", "--resume"], "nothing to resume in models"),
        (["--train-only", "extra"], "unknown argument 'extra'"),
        (["--minutes", "1", "train"], "got 'train' after an option: the command comes first, as in `gpt-tui train`;"),
        (["train", "--minutes", "-1"], "minutes: got -1, expected a number of at least 0 and at most "),
        (["bench", "--steps", "nan"], "argument --steps: got 'nan', expected a whole number"),
        (["--json"], "--json needs --train-only"),
        (["generate"], "got no prompt, expected PROMPT, - for standard input, or --prompt-file FILE"),
        (["generate", "x", "--prompt-file", "y"], "got PROMPT and --prompt-file, expected one of them"),
        (["generate", "--prompt-file", "absent.txt"], "absent.txt"),
        (["generate", "x"], "no checkpoint in models"),
        (["generate", "x", "--model", "nowhere"], "nowhere"),
        (["chat", "--models-dir", "other"], "no checkpoint in other; train a model with `gpt-tui --models-dir other`"),
        (["generate", "--", "x", "--model", "y"], "got the option '--model' after `--`, expected it before"),
        (["generate", "x", "--model", "y", "--models-dir", "z"], "got --model and --models-dir, expected one of them"),
        (["tokenize", "x", "--model", "y", "--models-dir", "z"], "got --model and --models-dir, expected one of them"),
        (["evaluate", "--top-k", "3"], "unknown option '--top-k'"),
        (["race", "--overwrite"], "unknown option '--overwrite'; see"),  # not --overfit-tiny, which it refuses
        (["tokenize", "nowhere.txt"], "nowhere.txt"),
        (["verify"], "the following arguments are required: FILE"),
        (["config", "--preset", "big\x1b[31m\nbig"], "unknown preset"),
    ],
)
def test_invalid_arguments_print_one_line_and_exit_with_2(
    arguments: list[str], message: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("gpt-tui: ")
    assert message in err
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()
    assert out == ""
    assert list(empty_folder.iterdir()) in ([], [empty_folder / "models"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["config", "--seed", "-1"], "--seed: got -1, expected a whole number of at least 0 and at most 2^63 - 1"),
        (
            ["config", "--seed", "3", "--set", "seed=-1", "--config", "c.toml"],
            "seed: got -1, expected a whole number of at least 0 and at most 2^63 - 1 (from --set)",
        ),
        (["config", "--init-from", "x"], "--init-from: x: No such file or directory; name a checkpoint (.safetensors)"),
        (
            ["config", "--set", "init_from=x"],
            "init_from: x: No such file or directory; name a checkpoint (.safetensors)",
        ),
        (["export", "hf", "x", "--type", "f16"], "--type: got 'f16', expected f32 for hf"),
        (
            ["train", "--train-file", "a.jsonl"],
            "a.jsonl: line 1 has no field 'text': got body; set --text-field to the one with the text",
        ),
        (
            ["train", "--train-file", "short.txt"],
            "short.txt is not UTF-8: got 0xe9 at byte 3 (line 1), the last byte and the only one beyond ASCII, which "
            "is too little to guess the encoding from; remove it, set --encoding to that of the text, or "
            "add --set allow_binary=true to use its bytes as they are",
        ),
    ],
)
def test_errors_name_options_as_they_are_typed(
    arguments: list[str], line: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty_folder / "c.toml").write_text("seed = 5\n")
    (empty_folder / "a.jsonl").write_text('{"body": "x"}\n')
    (empty_folder / "short.txt").write_bytes(b"caf\xe9")
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == f"gpt-tui: {line}\n"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["generate", "x", "--model", ""], "--model"),
        (["generate", "x", "--models-dir", ""], "--models-dir"),
        (["generate", "--prompt-file", ""], "--prompt-file"),
        (["config", "--config", ""], "--config"),
        (["export", "hf", ""], "PATH"),
        (["import", ""], "DIR|FILE"),
        (["import", "x", "--output", ""], "--output"),
        (["tokenize", ""], "FILE"),
        (["watch", ""], "DIR"),
    ],
)
def test_an_empty_path_is_refused(
    arguments: list[str], name: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == f"gpt-tui: {name}: got '', expected a path\n"


def test_a_folder_of_runs_names_those_below_it(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (empty_folder / "race" / name).mkdir(parents=True)
        (empty_folder / "race" / name / "metrics.jsonl").touch()
    assert cli.main(["generate", "x", "--models-dir", "race"]) == 2
    expected = "gpt-tui: no checkpoint in race; name a folder of a run with --models-dir: race/a and 1 more\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train-file", "nowhere.txt"], "cannot read the text nowhere.txt: No such file or directory; name a text"),
        (["--eval-file", "."], "the folder . has no text files; put some there, or name another folder"),
        (["--set", "train_file=nowhere.txt", "--overwrite"], "nowhere.txt"),
    ],
)
def test_the_app_does_not_start_if_a_text_cannot_be_read(
    arguments: list[str],
    message: str,
    empty_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "require_terminal", lambda: None)
    monkeypatch.setattr(launch, "run_app", lambda *_values, **_named: pytest.fail("the app was opened"))
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SaveError("not saved"), 1, "gpt-tui: not saved\n"),
        (OSError(errno.ENOSPC, "No space left on device", "out"), 1, "gpt-tui: No space left on device: out\n"),
        (MemoryError("9 TB"), 1, "gpt-tui: out of memory (9 TB); try a smaller preset, batch_size or seq_len\n"),
        (
            ModuleNotFoundError("no", name="gpt_core.kernels._runtime.cpu"),
            1,
            "run `pip install -e .` in the source folder first\n",
        ),
        (
            ImportError("libgomp.so.1: cannot open shared object file", name="gpt_core.kernels.adamw"),
            1,
            "gpt-tui: libgomp.so.1: cannot open shared object file\n",
        ),
        (KeyboardInterrupt(), 130, "\n"),
    ],
)
def test_every_error_has_its_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_options: object) -> int:
        raise error

    monkeypatch.setattr("gpt_tui.cli.config.config", fail)
    assert cli.main(["config"]) == code
    assert capsys.readouterr().err.endswith(message)


def test_a_level_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    run = run_program("gradcheck", cwd=tmp_path, GPT_TUI_LEVEL="fast")
    assert (run.returncode, run.stdout) == (2, "")
    assert re.fullmatch(r"gpt-tui: GPT_TUI_LEVEL: got 'fast', expected one of [\w, ]+\n", run.stderr)


@pytest.mark.parametrize(
    ("command", "option"),
    [("config", "--train-file"), ("config", "--eval-file"), ("config", "--init-from"), ("evaluate", "--eval-file")],
)
def test_an_option_with_an_empty_path_is_refused_and_not_taken_as_the_default(
    command: str, option: str, program: Callable[..., Result], trained: Path
) -> None:
    run = program(command, option, "")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"gpt-tui: {option}: got an empty name; name a file, or omit {option}\n"


@pytest.mark.parametrize("found", ["raw\udcff/train.en", "raw/eval\udcff.en"])
def test_a_text_that_is_found_under_a_name_that_is_not_utf8_is_one_line(found: str, tmp_path: Path) -> None:
    write_texts(tmp_path)
    (tmp_path / "data/test/eval.en").unlink()
    path = tmp_path / "data" / found
    path.parent.mkdir(exist_ok=True)
    (tmp_path / "data/raw/train.en").rename(path) if "train" in found else path.write_text("The cat.\n" * 99)
    run = run_program("train", "--max-steps", "1", *tiny(), cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("gpt-tui: " + ("train_file" if "train" in found else "eval_file") + ": got 'data/")
    assert run.stderr.endswith("expected a file name in UTF-8; rename the file\n")


def test_an_unexpected_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_options: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("gpt_tui.cli.config.config", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["config"])


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8")
@pytest.mark.parametrize(
    ("command", "field"), [(("inspect", "It"), "model"), (("evaluate",), "model"), (("tokenize",), "tokenizer_from")]
)
def test_json_escapes_bytes_of_file_names_that_are_not_utf8(
    command: tuple[str, ...], field: str, program: Callable[..., Result], trained: Path, tmp_path: Path
) -> None:
    model, text = tmp_path / "m\udc80.safetensors", tmp_path / "t\udc80.txt"
    model.symlink_to(trained / "models" / "best_model.safetensors")
    text.write_text("It was")
    files = [str(text)] if command == ("tokenize",) else []
    run = program(*command, *files, "--json", "--model", str(model))
    assert (run.returncode, run.stderr) == (0, "")
    found = json.loads(run.stdout)
    assert found[field] == str(tmp_path / r"m\udc80.safetensors")
    assert not files or found["file"] == str(tmp_path / r"t\udc80.txt")
