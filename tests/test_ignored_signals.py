"""A test run started with ignored signals (in the background, under nohup): signals reach the programs it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.program import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="POSIX signals")]


def ignore_signals() -> None:
    """Ignore SIGINT and SIGHUP, as in a background job and under nohup."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_signal_tests_pass_in_a_test_run_with_ignored_signals() -> None:
    module, claim = "tests/headless/test_signals.py", "test_a_signal_saves_and_stops_the_run_and_sets_the_exit_code"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", module, "-k", claim, "-rA"],
        cwd=ROOT, env=environment(), preexec_fn=ignore_signals, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert run.stdout.count(f"PASSED {module}::{claim}") == 3


def test_an_interrupt_ignored_by_the_test_run_is_not_ignored_by_its_children() -> None:
    script = (
        "import os, signal, subprocess, sys; from tests.conftest import pytest_configure; pytest_configure();"
        "os.kill(os.getpid(), signal.SIGINT);"
        "child = 'import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)';"
        "subprocess.run([sys.executable, '-c', child], check=True)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(), preexec_fn=ignore_signals, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "True\n"), run.stderr
