"""Options of the test run, and what all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest


def pytest_configure() -> None:
    """Lets the programs that tests start be interrupted and hung up, however the test run itself was started.

    A shell starts a job in the background with SIGINT ignored, and nohup with SIGHUP: a program inherits that, but not
    a handler. The test run itself still does nothing at these signals.
    """
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _do_nothing)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    pass


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="make the snapshots of the app's screen anew")


@pytest.fixture(autouse=True, scope="session")
def nobodys_preferences(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever runs the tests, his own theme and keys are left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("preferences")))
        yield
