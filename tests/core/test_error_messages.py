"""Errors of the library name settings, which the library, the command line and the app have, and no options."""

from __future__ import annotations

import ast
import re
from pathlib import Path

CORE = Path(__file__).resolve().parents[2] / "gpt_core"
PARSERS = ("bench/race.py", "config/resolve.py")  # of the options that their messages name
OPTION = re.compile(r"(?<![\w-])--[a-z]")


def test_no_reason_of_an_error_names_an_option_of_the_command_line() -> None:
    checked, found = 0, []
    for path in CORE.rglob("*.py"):
        if path.relative_to(CORE).as_posix() in PARSERS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith("Error"):
                checked += 1
                commands = re.sub("`[^`]*`", "", ast.unparse(node.args[0]))
                found += [f"{path}:{node.lineno}"] if OPTION.search(commands) else []
    assert checked > 200
    assert not found
