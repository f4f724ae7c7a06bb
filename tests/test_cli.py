"""Command line: output of each command, error messages, exit codes, and imported modules."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from gpt_core import __version__, gradcheck
from gpt_core.config.presets import preset
from gpt_core.config.resolve import resolve
from gpt_core.errors import SaveError
from gpt_core.training.request import RunRequest
from gpt_tui.app import launch
from gpt_tui.cli import generate, train
from gpt_tui.cli import main as cli
from gpt_tui.cli.options import PREFERENCES
from tests.program import PROGRAM, TIMEOUT_S, Terminal, environment, run_program, tiny, write_texts

COMMANDS = ("train", "generate", "evaluate", "chat", "verify", "gradcheck", "tokenize", "config")
TRAINING_OPTIONS = (
    "--train-only", "--preset", "--config", "--set", "--seed", "--threads", "--train-file", "--eval-file",
    "--models-dir", "--resume", "--max-steps", "--overfit-tiny", "--overwrite", "--json", "--version",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny model, trained for six steps and then evaluated."""
    folder = tmp_path_factory.mktemp("trained")
    write_texts(folder)
    run = run_program("--train-only", "--max-steps", "6", *tiny("eval_every_steps=6"), cwd=folder)
    assert run.returncode == 0, run.stderr
    return folder


class Result(NamedTuple):
    """Exit code and output of a run of the program in this process."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def program(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run the program in this process, in the folder with the trained model.

    This saves the start of a process, about a quarter of a second per run.
    """

    def run(*arguments: str, cwd: Path = trained, input: str = "") -> Result:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input.encode("utf-8", "surrogateescape"))))
        code = cli.main(arguments)
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OVERFIT_TINY", raising=False)
    return tmp_path


# -- help


def test_help_lists_every_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert [option for option in TRAINING_OPTIONS if f"  {option}" not in printed] == []
    assert [command for command in COMMANDS if f"gpt-tui {command} " not in printed] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: gpt-tui {command}")


def test_parsing_arguments_imports_no_textual_numpy_or_gpt_core() -> None:
    script = (
        "import sys; from gpt_tui.cli.main import main; main(['--help'])\n"
        "heavy = {'numpy', 'textual', 'rich', 'msgspec', 'gpt_core'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert run.stderr == "[]\n"


def test_commands_without_the_app_import_no_textual() -> None:
    script = (
        "import sys, gpt_tui.headless.runner\n"
        "from gpt_tui.cli import generate, inspect, train\n"
        "print([name for name in sys.modules if name.startswith('textual')])"
    )
    run = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_version_prints_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"gpt-tui {__version__}\n"


# -- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generat", "x"], "unknown command 'generat' (did you mean generate?)"),
        (["--max-stpes", "3"], "did you mean --max-steps?"),
        (["--d-model", "64"], "did you mean --set d_model=VALUE?"),
        (["--train-only", "--preset", "nan"], "did you mean nano?"),
        (["--train-only", "--set", "batchsize=3"], "did you mean batch_size?"),
        (["--train-only", "--set", "batch_size"], "expected KEY=VALUE"),
        (["--train-only", "--set", "batch_size=0"], "batch_size: got 0, expected a whole number of at least 1"),
        (["--train-only", "--set", "lr=0.01"], "unknown setting 'lr': did you mean learning_rate?"),
        (["--train-only", "--set", "n_layer=2"], "did you mean layers?"),
        (["--train-only", "--seed", "x"], "seed: got 'x', expected a whole number"),
        (["--train-only", "--max-steps", "-1"], "max_steps: got -1"),
        (["--train-only", "--config", "nowhere.toml"], "nowhere.toml: No such file"),
        (["--train-only", "--train-file", "nowhere.txt"], "nowhere.txt"),
        (["serve", "--train-file", "nowhere.txt"], "cannot read the text nowhere.txt: No such file"),
        (["--train-only", "--resume", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--train-only", "--resume", "."], "."),
        (["--train-only", "--resume"], "nothing to resume in models"),
        (["--train-only", "extra"], "unknown argument 'extra'"),
        (["--json"], "--json needs --train-only"),
        (["generate"], "got no prompt, expected PROMPT, - for standard input, or --prompt-file FILE"),
        (["generate", "x", "--prompt-file", "y"], "got PROMPT and --prompt-file, expected one of them"),
        (["generate", "--prompt-file", "absent.txt"], "absent.txt"),
        (["generate", "x"], "no checkpoint in models"),
        (["generate", "x", "--model", "nowhere"], "nowhere"),
        (["chat", "--models-dir", "other"], "no checkpoint in other"),
        (["evaluate", "--top-k", "3"], "unknown option '--top-k'"),
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
    ("arguments", "message"),
    [
        (["--train-file", "nowhere.txt"], "cannot read the text nowhere.txt: No such file or directory; name a text"),
        (["--eval-file", "."], "cannot read the text .: it is a folder; name a text file"),
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
        (KeyboardInterrupt(), 130, "\n"),
    ],
)
def test_every_error_has_its_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_options: object) -> int:
        raise error

    monkeypatch.setattr("gpt_tui.cli.inspect.config", fail)
    assert cli.main(["config"]) == code
    assert capsys.readouterr().err.endswith(message)


def test_an_unexpected_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_options: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("gpt_tui.cli.inspect.config", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["config"])


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
    "arguments", [["config"], ["--help"], ["bench", "--steps", "1", *tiny()], ["gradcheck"]], ids=lambda words: words[0]
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


# -- no terminal


def test_the_app_without_a_terminal_suggests_train(tmp_path: Path) -> None:
    run = run_program(cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("gpt-tui: the app needs a terminal, but standard input is not one")
    assert "use `gpt-tui train` without a terminal" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_app_on_a_dumb_terminal_suggests_train(tmp_path: Path) -> None:
    terminal = Terminal(cwd=tmp_path, TERM="dumb")
    assert terminal.end() == 2
    assert "TERM is dumb; use `gpt-tui train` without one" in terminal.shown


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        ([], False),
        (["--preset", "micro"], False),
        (["--overfit-tiny"], True),
        (["--overwrite"], True),
        (["--resume", "models/ckpt_latest.safetensors"], True),
    ],
)
def test_the_app_starts_the_requested_run(
    arguments: list[str], starts: bool, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[RunRequest, dict[str, object]]] = []
    monkeypatch.chdir(trained)
    monkeypatch.delenv("OVERFIT_TINY", raising=False)
    monkeypatch.setattr(train, "require_terminal", lambda: None)
    monkeypatch.setattr("gpt_tui.app.launch.run_app", lambda request, **options: calls.append((request, options)) or 7)
    assert cli.main(arguments) == 7
    ((request, options),) = calls
    assert options["autostart"] == starts
    assert request.overwrite == ("--overwrite" in arguments)
    assert request.settings.d_model == (16 if "--resume" in arguments else 320 if "micro" in arguments else 128)


# -- config


def test_the_output_of_config_is_a_config_file_with_the_same_settings(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["config", "--preset", "micro", "--set", "layers=3", "--seed", "5", "--models-dir", 'a "b"']) == 0
    printed = capsys.readouterr().out
    values = tomllib.loads(printed)
    assert values.pop("keys") == {}
    assert "# model: custom" in printed
    assert "preset" not in values  # the shape is not that of micro
    expected = msgspec.structs.replace(preset("micro"), layers=3, seed=5, models_dir=str(Path.cwd() / 'a "b"'))
    (empty_folder / "run.toml").write_text(printed)
    assert resolve(config_file=Path("run.toml"), foreign=PREFERENCES).settings == expected
    assert "layers = 3" in printed
    assert "[--set]" in next(line for line in printed.splitlines() if line.startswith("layers ="))
    assert "[--seed]" in next(line for line in printed.splitlines() if line.startswith("seed ="))
    assert "[preset micro]" in next(line for line in printed.splitlines() if line.startswith("d_model ="))
    assert cli.main(["config", "--config", "run.toml"]) == 0
    again = tomllib.loads(capsys.readouterr().out)
    assert again == values | {"keys": {}}
    assert cli.main(["config", "--preset", "micro"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["preset"] == "micro"


def test_options_override_the_config_file_and_the_environment_is_read(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty_folder / "run.toml").write_text("seed = 1\nlayers = 2\n")
    monkeypatch.setenv("OVERFIT_TINY", "1")
    assert cli.main(["config", "--config", "run.toml", "--seed", "9"]) == 0
    values = tomllib.loads(capsys.readouterr().out)
    assert (values["seed"], values["layers"], values["overfit_tiny"]) == (9, 2, True)


# -- verify


def test_verify_reports_valid_and_damaged_files(program: Callable[..., Result], trained: Path, tmp_path: Path) -> None:
    valid = trained / "models" / "ckpt_latest.safetensors"
    damaged = tmp_path / "damaged.safetensors"
    data = bytearray(valid.read_bytes())
    data[-1000] ^= 1
    damaged.write_bytes(data)
    good = program("verify", str(valid), cwd=tmp_path)
    assert (good.returncode, good.stdout.count("\n"), good.stderr) == (0, 1, "")
    assert "OK, latest, step 6" in good.stdout
    best = program("verify", str(valid.with_name("best_model.safetensors")), cwd=tmp_path).stdout
    assert re.search(r"OK, best, step \d+, eval loss \d\.\d{3}, accuracy \d+\.\d%, \d\.\d{3} bits per byte, ", best)
    bad = program("verify", str(valid), str(damaged), "nowhere", str(tmp_path), cwd=tmp_path)
    assert (bad.returncode, bad.stderr) == (1, "")
    lines = bad.stdout.splitlines()
    assert len(lines) == 4
    assert "OK, latest, step 6" in lines[0]
    assert "damaged.safetensors is damaged" in lines[1]
    assert "nowhere: No such file" in lines[2]
    (tmp_path / "notes.txt").write_text("no checkpoint")
    other = program("verify", "notes.txt", cwd=tmp_path)
    assert (other.returncode, other.stdout) == (
        1,
        "notes.txt: is not a checkpoint; name files that end in .safetensors\n",
    )


# -- gradcheck


def test_gradcheck_checks_every_gradient_and_reports_the_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gradcheck", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [row["tensor"] for row in found["tensors"]]
    assert found["passed"]
    assert {"wte.weight", "wpe.weight", "h.0.attn.c_attn.bias", "ln_f.weight"} <= set(names)
    assert all(row["reference_error"] < 1e-6 and row["kernel_error"] < 1e-4 for row in found["tensors"])


def test_gradcheck_fails_on_one_wrong_gradient(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = gradcheck.GradcheckRow("wpe.weight", (9, 6), 54, 1e-9, 1e-6, True)
    wrong = gradcheck.GradcheckRow("wte.weight", (13, 6), 78, 1e-9, float("nan"), False)
    monkeypatch.setattr(gradcheck, "run_gradcheck", lambda: [right, wrong])
    assert cli.main(["gradcheck"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if line.endswith("WRONG")] == ["wte.weight", "1"]


# -- tokenize


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


def test_tokenize_refuses_a_file_that_is_not_text_in_one_line(program: Callable[..., Result], trained: Path) -> None:
    (trained / "wide.txt").write_bytes("It was\n".encode("utf-16") * 50)
    for model in ((), ("--model", "models/ckpt_latest.safetensors")):
        run = program("tokenize", "wide.txt", *tiny(), *model)
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr.startswith("gpt-tui: wide.txt is not plain text: got UTF-16 text, expected UTF-8; convert it")
        assert run.stderr.count("\n") == 1


def test_tokenize_fails_if_the_round_trip_changes_bytes(program: Callable[..., Result], trained: Path) -> None:
    (trained / "upper.txt").write_text("The Cat")
    run = program("tokenize", "upper.txt", *tiny("tokenizer=ascii"))
    assert run.returncode == 1
    assert "DIFFERENT bytes" in run.stdout


# -- generate and chat


def test_generate_prints_only_the_prompt_and_its_continuation(program: Callable[..., Result], trained: Path) -> None:
    run = program("generate", "The cat", "--seed", "3")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("The cat")
    assert len(run.stdout) > len("The cat\n")
    assert run.stdout.endswith("\n")


def test_generate_is_reproducible_only_with_a_seed(program: Callable[..., Result], trained: Path) -> None:
    first, second, other = (program("generate", "The", "--seed", seed).stdout for seed in "112")
    assert first == second
    assert first != other
    unseeded = {program("generate", "The").stdout for _ in range(2)}
    assert len(unseeded) == 2


def test_generate_applies_the_sampling_options(program: Callable[..., Result], trained: Path) -> None:
    def reply(*options: str) -> str:
        return program("generate", "The", *options).stdout

    greedy = reply("--temperature", "0")
    assert {greedy, reply("--top-k", "1"), reply("--top-p", "0.000001")} == {greedy}
    assert greedy.startswith(reply("--temperature", "0", "--max-tokens", "3").rstrip("\n"))
    assert reply("--temperature", "0", "--repetition-penalty", "5") != greedy
    refused = program("generate", "The", "--top-p", "0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "top_p: got 0.0, expected" in refused.stderr


@pytest.mark.parametrize("prompt", [b"", b"\xff\xfe\x80 raw", "é東\U0001f600\n".encode() + b"\x1b[m"])
def test_any_bytes_are_a_valid_prompt(prompt: bytes, trained: Path) -> None:
    run = run_program("generate", "--seed", "1", "--max-tokens", "4", "--", prompt, cwd=trained)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(prompt.decode("utf-8", "replace"))


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        (b"The cat", "The cat"),
        (b"The cat\n", "The cat"),
        (b"\xef\xbb\xbfThe\r\n cat\r\n", "The\r\n cat"),
        ("Ein Käfer\n\n".encode(), "Ein Käfer\n"),
        (b"", ""),
    ],
)
def test_a_prompt_is_read_from_standard_input_and_from_a_file(
    given: bytes, prompt: str, program: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "prompt.txt").write_bytes(given)
    options = ["--seed", "1", "--max-tokens", "4"]
    expected = program("generate", *options, "--", prompt)
    assert expected.returncode == 0
    assert expected.stdout.startswith(prompt)
    for arguments in (["--prompt-file", str(tmp_path / "prompt.txt")], ["-"], ["--prompt-file", "-"]):
        run = program("generate", *arguments, *options, input=given.decode())
        assert (run.returncode, run.stdout, run.stderr) == (0, expected.stdout, "")


@pytest.mark.parametrize("data", ["The cat".encode("utf-16"), b"The\0cat", "\u6771".encode("utf-16")])
def test_a_prompt_file_that_is_not_text_is_refused(data: bytes, program: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(data)
    run = program("generate", "--prompt-file", str(tmp_path / "prompt.txt"))
    assert (run.returncode, run.stdout) == (2, "")
    assert re.search(r"prompt.txt: got .+, expected text; ", run.stderr), run.stderr


def test_generate_and_chat_say_how_much_of_a_long_prompt_is_read(program: Callable[..., Result]) -> None:
    prompt = "The cat sat on the mat. " * 200
    for run in (
        program("generate", prompt, "--max-tokens", "4"),
        program("generate", "-", "--max-tokens", "4", input=prompt),
        program("chat", "--max-tokens", "4", input=prompt),
    ):
        assert run.returncode == 0
        assert re.fullmatch(
            r"gpt-tui: the model reads only the last [\d,]+ of the prompt's [\d,]+ tokens\n", run.stderr
        ), run.stderr


def test_one_new_token_adds_text_to_a_prompt(program: Callable[..., Result]) -> None:
    for prompt in ("The cat", "The", "It was"):
        run = program("generate", prompt, "--max-tokens", "1", "--temperature", "0")
        assert run.stderr == ""
        assert len(run.stdout.removesuffix("\n")) > len(prompt)


def test_generate_replaces_characters_that_the_locale_cannot_encode(trained: Path) -> None:
    run = run_program("generate", "é — 東", "--max-tokens", "4", cwd=trained, PYTHONIOENCODING="ascii")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("? ? ?")


def test_a_damaged_best_model_is_skipped_with_a_warning(
    program: Callable[..., Result], trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "models", tmp_path / "models")
    (tmp_path / "models" / "best_model.safetensors").write_bytes(b"not a checkpoint")
    run = program("generate", "The", "--max-tokens", "4", cwd=tmp_path)
    assert run.returncode == 0
    assert run.stderr.startswith("gpt-tui: skipped: ")
    assert "best_model.safetensors" in run.stderr


def test_chat_generates_a_reply_per_line_until_exit(program: Callable[..., Result], trained: Path) -> None:
    run = program("chat", "--seed", "1", "--max-tokens", "6", input="The cat\n\nThe bat\nexit\nThe rat\n")
    assert (run.returncode, run.stderr) == (0, "")
    model = ["--seed", "1", "--max-tokens", "6"]
    first = program("generate", "The cat", *model).stdout.removeprefix("The cat")
    assert run.stdout.startswith(first)
    assert len(run.stdout) > len(first)


@pytest.mark.parametrize("lines", ["", "exit\n", " exit \n", "\n\n"])
def test_chat_ends_at_exit_and_at_end_of_input(program: Callable[..., Result], lines: str, trained: Path) -> None:
    run = program("chat", input=lines)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_ctrl_c_stops_the_reply_and_at_the_prompt_the_chat(trained: Path) -> None:
    # the most probable token is never <eos> here, so generation would take minutes
    terminal = Terminal("chat", "--max-tokens", "1000000", "--temperature", "0", cwd=trained)
    terminal.read_until("> ")
    terminal.type("The cat\n")
    terminal.read_some(500)
    terminal.type("\x03")
    terminal.read_until("> ")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown


def test_control_characters_of_a_reply_are_escaped_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    generate.write("a\x1b[31mb\x07[bold]\n")
    assert screen.getvalue() == "a\u241b[31mb\u2407[bold]\n"


def test_carriage_returns_at_line_ends_are_not_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    for piece in ("one\r\ntwo", "\r", "\nthree\r", "\n", "fo\rur"):
        generate.write(piece)
    assert screen.getvalue() == "one\ntwo\nthree\nfo\u240dur"


def test_lines_pasted_together_into_the_terminal_chat_are_one_prompt(trained: Path) -> None:
    readline = pytest.importorskip("readline")
    if "libedit" in (readline.__doc__ or ""):
        pytest.skip("libedit has no bracketed paste")
    terminal = Terminal("chat", "--max-tokens", "4", "--temperature", "0", cwd=trained, TERM="xterm")
    terminal.read_until("> ")
    terminal.type("\x1b[200~The cat\nThe bat\nThe rat\x1b[201~")
    terminal.read_until("The rat")
    terminal.type("\r")
    terminal.read_until("> ")
    assert terminal.shown.count("> ") == 1, "one reply, then the next prompt"
    terminal.type("exit\r")
    assert terminal.end() == 0


# -- evaluate


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


def test_evaluate_of_a_self_test_asks_for_a_text(folder_of_self_test: Path, program: Callable[..., Result]) -> None:
    run = program("evaluate", cwd=folder_of_self_test)
    assert (run.returncode, run.stdout) == (2, "")
    assert "is of a self-test, which has no eval text; name a text with --eval-file" in run.stderr
    run = program("evaluate", "--json", "--eval-file", "data/test/eval.en", cwd=folder_of_self_test)
    assert json.loads(run.stdout)["text"] == "other"


def test_train_is_equivalent_to_train_only(trained: Path, program: Callable[..., Result]) -> None:
    run = program("train", "--resume", "--json", "--max-steps", "6", "--models-dir", "models")
    assert run.returncode == 0, run.stderr
    assert '"event":"finished"' in run.stdout
