"""Last save of a run: its final state as `ckpt_latest`, in another folder if the run's own is not writable."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gpt_core.training.agreement import Agreement
from gpt_core.training.controls import POLL_S
from gpt_core.training.events import AnyEvent
from gpt_core.training.rounds import Rounds
from gpt_core.training.run import Run
from gpt_core.training.saving import Saver


class LastSave:
    """Saves the final state of a run, and what is pending, and waits for the user's decision if that fails.

    Within a round of local steps there is no state of the run to save: the last checkpoint is kept.

    Attributes:
        unsaved: Number of failed attempts while the run waits for a decision about them; else 0.
    """

    def __init__(self, run: Run, saver: Saver, agreement: Agreement, rounds: Rounds) -> None:
        self.unsaved = 0
        self._run, self._saver, self._rounds = run, saver, rounds
        self._agreed, self._requests = agreement.controls, agreement.requests
        self._failed = 0

    @property
    def is_possible(self) -> bool:
        """True if the state is a finite one of the run, not to be discarded, and replaces no other without a step."""
        has_no_step = self._run.store.is_replacing and self._run.is_at_start
        return not has_no_step and self._rounds.is_complete and not self._is_discarding and self._run.is_finite

    @property
    def was_asked(self) -> bool:
        """True if a save has failed and the user was asked what to do."""
        return self._failed > 0

    def save(self, *, may_wait: bool = True) -> Iterator[AnyEvent]:
        """Complete the save in progress, and save the current state as `ckpt_latest` unless it is to be discarded.

        If that fails, wait for the user's decision where there is a user to ask; else save in another folder.
        """
        yield from self._saver.finish()
        while self.is_possible:
            yield from self._saver.save_present()
            if self._saver.is_saved:
                return
            if not may_wait or not self._requests.can_ask:
                yield from self._saver.save_elsewhere(self._other_folders())
                return
            self._wait_for_answer()

    @property
    def _is_discarding(self) -> bool:
        """True if a rank is not to save: this one, or any if they have agreed on it."""
        return self._requests.discarding or self._agreed.discarding

    def _wait_for_answer(self) -> None:
        """Wait until the user requests another save or discards the state, or can no longer be asked."""
        requests = self._requests
        for take in (requests.take_save, requests.take_evaluate, requests.take_single_step):
            take()
        self._failed += 1
        self.unsaved = self._failed
        while requests.can_ask and not self._is_discarding and not requests.anything_pending:
            self._run.communicator.check()
            time.sleep(POLL_S)
        requests.take_save()  # the answer
        self.unsaved = 0

    def _other_folders(self) -> list[Path]:
        """Return the folders to try if the run's own is not writable: beside it, and in the temporary folder."""
        own, name = Path(self._run.settings.models_dir), f"gpt-tui-{self._run.state.run_id}"
        places = []
        with contextlib.suppress(FileNotFoundError):  # a relative path, and the working folder was deleted
            places.append(own.absolute().parent)
        with contextlib.suppress(FileNotFoundError):  # every folder for temporary files is on a full disk
            places.append(Path(tempfile.gettempdir()))
        return [place / name for place in places]
