"""The Checkpoints tab."""

from __future__ import annotations

from textual.containers import Vertical


class CheckpointsPane(Vertical):
    """What is under the models folder."""

    def enter(self) -> None:
        """The user has come here."""
