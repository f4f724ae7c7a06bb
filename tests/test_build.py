"""The build says in one line what is missing to compile."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import ROOT, TIMEOUT_S

pytest.importorskip("Cython", reason="setup.py needs Cython, which pip installs for a build only")

needs_setup = pytest.mark.skipif(not (ROOT / "setup.py").exists() or os.name != "posix", reason="no source tree")


def build(folder: Path, compiler: str) -> "subprocess.CompletedProcess[str]":
    """Run the build until it fails, with an empty folder as its PATH: no compiler of the machine is found."""
    programs = folder / "programs"
    programs.mkdir()
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext"], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
        env={**os.environ, "PATH": str(programs), "CC": compiler}, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip


@needs_setup
@pytest.mark.slow
def test_a_build_without_a_compiler_says_what_to_install_in_one_line(tmp_path: Path) -> None:
    done = build(tmp_path, "gcc")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gpt-tui: no C compiler: got 'gcc', which is not installed; install one (")
    assert done.stderr.count("\n") == 1


@needs_setup
@pytest.mark.slow
def test_a_build_without_the_headers_of_python_says_what_to_install(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "sources = [open(word).read() for word in sys.argv[1:] if word.endswith('.c')]\n"
        "sys.exit(any('Python.h' in source for source in sources))\n"
    )
    compiler.chmod(0o755)
    done = build(tmp_path, str(compiler))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gpt-tui: cannot compile; install the headers of Python (")
    assert done.stderr.count("\n") == 1


@needs_setup
@pytest.mark.slow
def test_a_build_with_a_compiler_that_fails_says_which_one(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!{sys.executable}\nraise SystemExit(1)\n")
    compiler.chmod(0o755)
    done = build(tmp_path, str(compiler))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"gpt-tui: cannot compile; install a C compiler that works ({str(compiler)!r} does not"
    )
    assert done.stderr.count("\n") == 1


@needs_setup
@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the levels are those of x86-64")
def test_levels_that_the_compiler_does_not_know_are_left_out(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "is_probe = any(word.endswith('probe.c') for word in sys.argv)\n"
        "sys.exit(not is_probe or '-march=x86-64-v4' in sys.argv)\n"
    )
    compiler.chmod(0o755)
    done = build(tmp_path, str(compiler))
    assert done.returncode != 0  # it fails at the first module
    left_out = [line.split(":")[1] for line in done.stderr.splitlines() if "no kernels for" in line]
    assert left_out[:2] == [" no kernels for x86_64_v4", " no kernels for x86_64_v4_bf16"]
