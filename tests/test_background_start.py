"""The test run itself, started in the background or under nohup: signals reach the programs that its tests start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.program import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="POSIX signals")]


def ignore_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_tests_that_interrupt_programs_pass_where_signals_are_ignored_at_the_start() -> None:
    claim = "test_a_signal_saves_stops_and_becomes_the_exit_code"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_headless.py", "-k", claim, "-rA"],
        cwd=ROOT, env=environment(), preexec_fn=ignore_signals, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert run.stdout.count(f"PASSED tests/test_headless.py::{claim}") == 3


def test_a_test_run_that_is_started_with_an_ignored_interrupt_ignores_it_and_its_children_do_not() -> None:
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
