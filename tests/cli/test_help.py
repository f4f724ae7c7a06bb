"""Help, version and the modules that the command line imports."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gpt_core import __version__
from gpt_core.distributed.launch import RANK_VARIABLES
from gpt_tui.cli import main as cli
from tests.program import ROOT, environment

COMMANDS = (
    "train", "watch", "generate", "chat", "evaluate", "inspect", "export", "verify", "verify-resume", "gradcheck",
    "bench", "race", "tokenize", "import", "serve", "config",
)  # fmt: skip
TRAINING_OPTIONS = (
    "--train-only", "--preset", "--config", "--set", "--seed", "--threads", "--train-file", "--eval-file",
    "--models-dir", "--resume", "--max-steps", "--minutes", "--overfit-tiny", "--overwrite", "--json", "--version",
)  # fmt: skip


def test_help_lists_every_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert [option for option in TRAINING_OPTIONS if f"  {option}" not in printed] == []
    assert [command for command in COMMANDS if f"gpt-tui {command} " not in printed] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: gpt-tui {command}")


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        ("bench", ("--models-dir", "--max-steps", "--minutes")),
        ("verify-resume", ("--models-dir", "--max-steps", "--minutes")),
        ("race", ("--max-steps", "--overfit-tiny")),
    ],
)
def test_help_leaves_out_the_options_that_a_command_refuses(
    command: str, refused: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert [option for option in refused if f"  {option}" in printed] == []
    assert cli.main([command, *([refused[-1]] if refused[-1] == "--overfit-tiny" else [refused[-1], "1"])]) == 2
    assert f"{refused[-1]} have no effect here" in capsys.readouterr().err


def test_the_default_folder_of_a_race_is_not_that_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["race", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "(default: race)" in printed
    assert "(default: models)" not in printed


def test_what_users_read_has_the_spelling_of_the_options_and_views() -> None:
    other = re.compile(r"(?i)colour|neighbour|behaviour|favour|licence|grey\b")  # --view neighbors, NO_COLOR
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for package in ("gpt_core", "gpt_tui")
        for path in (ROOT / package).rglob("*.py")
        for node in strings_shown(ast.parse(path.read_text()))
        if other.search(node.value)
    ]
    found += [str(path) for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")) if other.search(path.read_text())]
    assert found == []


def strings_shown(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the strings of a module, without docstrings and other strings that are statements."""
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements:
            yield node


def packages_loaded_by(statement: str) -> set[str]:
    """Return the names of the packages and top-level modules that a new process has loaded after a statement."""
    script = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    return set(run.stderr.split())


def test_parsing_arguments_imports_no_textual_numpy_or_gpt_core() -> None:
    loaded = packages_loaded_by("from gpt_tui.cli.main import main; main(['--help'])")
    assert "gpt_tui" in loaded
    assert loaded & {"numpy", "textual", "rich", "msgspec", "gpt_core"} == set()


def test_commands_without_the_app_import_no_textual() -> None:
    modules = "bench, config, evaluate, export, generate, gradcheck, import_model, inspect, tokenize, train, verify"
    loaded = packages_loaded_by(f"import gpt_tui.headless.runner; from gpt_tui.cli import {modules}, verify_resume")
    assert "numpy" in loaded
    assert "textual" not in loaded


def test_the_command_line_recognizes_every_launcher_of_mpi_that_the_core_knows() -> None:
    assert set(RANK_VARIABLES) == cli.LAUNCHED


def value_in_the_program(own: dict[str, str], then: str) -> str:
    """Return what a new process prints that runs the program and then a statement, with variables of its own."""
    inherited = {name: value for name, value in environment().items() if not name.endswith("_NUM_THREADS")}
    script = f"import os\nfrom gpt_tui.cli.main import main\nmain(['config', '--help'])\n{then}"
    run = subprocess.run(
        [sys.executable, "-c", script], env=inherited | own, capture_output=True, text=True, check=True
    )  # fmt: skip
    return run.stdout.splitlines()[-1]


@pytest.mark.parametrize("own", ["", "3"])
def test_the_program_keeps_numpy_on_one_thread_unless_another_number_is_set(own: str) -> None:
    then = "print(os.environ['OPENBLAS_NUM_THREADS'])"
    assert value_in_the_program({"OPENBLAS_NUM_THREADS": own} if own else {}, then) == (own or "1")


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the threads of a process on Linux")
def test_numpy_starts_no_threads_in_the_program() -> None:
    assert value_in_the_program({}, "import numpy\nprint(len(os.listdir('/proc/self/task')))") == "1"


def test_version_prints_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"gpt-tui {__version__}\n"
