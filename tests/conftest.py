"""Options of the test run, and what all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="make the snapshots of the app's screen anew")


@pytest.fixture(autouse=True, scope="session")
def nobodys_preferences(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever runs the tests, his own theme and keys are left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("preferences")))
        yield
