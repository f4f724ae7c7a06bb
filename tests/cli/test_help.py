"""Help, version and the modules that the command line imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gpt_core import __version__
from gpt_tui.cli import main as cli
from tests.program import environment

COMMANDS = ("train", "generate", "evaluate", "chat", "inspect", "verify", "gradcheck", "tokenize", "config")
TRAINING_OPTIONS = (
    "--train-only", "--preset", "--config", "--set", "--seed", "--threads", "--train-file", "--eval-file",
    "--models-dir", "--resume", "--max-steps", "--overfit-tiny", "--overwrite", "--json", "--version",
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
        "from gpt_tui.cli import config, evaluate, generate, inspect, train\n"
        "print([name for name in sys.modules if name.startswith('textual')])"
    )
    run = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_version_prints_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"gpt-tui {__version__}\n"
