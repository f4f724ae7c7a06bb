"""Command-line options of the test run and fixtures of all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest


def pytest_configure() -> None:
    """Let signals reach the programs that tests start, even if the test run itself ignores these signals.

    A shell starts background jobs with SIGINT ignored, and nohup ignores SIGHUP. Child processes inherit that, but not
    a handler: with an empty one, only the test run itself ignores the signal.
    """
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _do_nothing)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    pass


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="replace the snapshots of the app's screens")


@pytest.fixture(autouse=True, scope="session")
def default_preferences(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use default preferences, not the theme and keys of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("preferences")))
        yield
