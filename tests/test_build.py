"""The build says in one line what is missing to compile."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import ROOT, TIMEOUT_S

needs_setup = pytest.mark.skipif(not (ROOT / "setup.py").exists() or os.name != "posix", reason="no source tree")


def build(**changes: str) -> "subprocess.CompletedProcess[str]":
    """Run the build until it fails."""
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext"], cwd=ROOT, env={**os.environ, **changes}, capture_output=True,
        text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip


@needs_setup
@pytest.mark.slow
def test_a_build_without_a_compiler_says_what_to_install_in_one_line(tmp_path: Path) -> None:
    done = build(PATH=str(tmp_path), CC="gcc")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("gpt-tui: no C compiler: got 'gcc', which is not installed; install one (")
    assert done.stderr.count("\n") == 1


@needs_setup
@pytest.mark.slow
def test_a_build_without_the_headers_of_python_says_what_to_install(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nfor word; do grep -qs Python.h "$word" && exit 1; done; exit 0\n')
    compiler.chmod(0o755)
    done = build(CC=str(compiler))
    assert done.returncode == 1
    assert done.stderr.startswith("gpt-tui: cannot compile; install the headers of Python (")
    assert done.stderr.count("\n") == 1
