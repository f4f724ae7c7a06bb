"""A run that replaces another one, killed before its n-th system call that changes or syncs files, for every n.

`python -m tests.reliability.one_replacement save FOLDER`: for each n a process of its own begins with a copy of
`FOLDER/before`, in `FOLDER/<n>`, and is ended there by `os._exit`, which runs no clean-up. With `stop` in place of
`save` the run ends without a save, and with `back` it is resumed from an earlier checkpoint. Prints how many n there
were.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.training.events import StepCompleted
from gpt_core.training.metrics_log import open_log
from tests.core.checkpoint_samples import sample

CALLS = ("open", "write", "fsync", "close", "link", "replace", "unlink", "mkdir")
KILLED = 9


def step(number: int, loss: float) -> StepCompleted:
    """Return a step's event; the loss shows whose it is."""
    return StepCompleted(number, 0, loss, 1.0, 0.1, 1.0, number, 1.0, 1.0)


def replace_run(folder: Path, how: str) -> None:
    """Make run-b replace what is in the folder, or run-a go back to step 3."""
    run_id, first_step = ("run-a", 3) if how == "back" else ("run-b", 0)
    store = CheckpointStore(folder)
    store.prepare(run_id, new_run=how != "back", overwrite=how != "back")
    log = open_log(store, run_id, first_step)
    log.append(step(first_step + 1, 2.0))
    if how != "stop":
        store.save("best", sample(run_id=run_id, step=first_step + 1, best_accuracy=0.9))
        log.append(step(first_step + 2, 2.0))
        store.save("latest", sample(run_id=run_id, step=first_step + 2))
    log.close()
    store.close()


def kill_at(nth: int) -> None:
    """End this process in place of its nth call."""
    left = nth

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(KILLED)
            return real(*arguments, **named)

        return call

    links = os.supports_follow_symlinks
    for name in CALLS:
        real = getattr(os, name)
        setattr(os, name, counted(real))
        if real in links:
            links.add(getattr(os, name))


def main(how: str, folder: Path) -> int:
    """Try every n until the run is not killed any more; return the last n."""
    for nth in range(1, 1000):
        shutil.copytree(folder / "before", folder / str(nth))
        process = os.fork()
        if not process:
            kill_at(nth)
            replace_run(folder / str(nth), how)
            os._exit(0)
        if not os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
            return nth
    raise AssertionError("it does not end")


if __name__ == "__main__":
    print(main(sys.argv[1], Path(sys.argv[2])))
