"""Processes that a test leaves are ended after it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.distributed.processes import DEADLINE_S, end_all, is_running, started_by

SCRIPT = "setsid sleep 600 & sleep 600 & kill -9 $$"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_processes_in_sessions_of_their_own_and_without_their_parent_are_ended(test_id: str) -> None:
    subprocess.run(["sh", "-c", SCRIPT], check=False, start_new_session=True, stdout=subprocess.DEVNULL)
    expires_s = time.monotonic() + DEADLINE_S
    while len(left := started_by(test_id)) < 2:
        assert time.monotonic() < expires_s
    end_all(test_id)
    assert not any(map(is_running, left))
    assert started_by(test_id) == []
