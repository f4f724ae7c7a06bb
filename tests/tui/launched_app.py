"""A launcher that gives the app with a fake trainer pipes and a session of its own, as `mpiexec` does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from gpt_core.errors import InputError
from gpt_tui.app.launcher_terminal import attach_terminal
from tests.tui import terminal_app

LAUNCHED = "GPT_TUI_TEST_LAUNCHED"


def main() -> int:
    """`python -m tests.tui.launched_app FOLDER STEP_S`: launch the app, or be it."""
    if os.environ.get(LAUNCHED):
        try:
            attach_terminal()
        except InputError as error:
            print(error)
            return error.exit_code
        return terminal_app.main()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tui.launched_app", *sys.argv[1:]], env=os.environ | {LAUNCHED: "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    threading.Thread(target=pass_on, args=(0, process.stdin.fileno()), daemon=True).start()
    pass_on(process.stdout.fileno(), 1)
    return process.wait()


def pass_on(source: int, target: int) -> None:
    """Copy what can be read to its end."""
    try:
        while data := os.read(source, 4096):
            os.write(target, data)
    except OSError:
        return


if __name__ == "__main__":
    raise SystemExit(main())
