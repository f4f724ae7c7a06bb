"""Phases of the training session, and the session values shown beside the run state."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Phase(Enum):
    """State of the training session; the value is the label shown on screen."""

    IDLE = "ready"
    OPENING = "getting ready"
    TRAINING = "training"
    PAUSING = "pausing"
    PAUSED = "paused"
    EVALUATING = "evaluating"
    STOPPING = "stopping"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def alive(self) -> bool:
        """True while a run is open: from opening to stopping."""
        return self not in (Phase.IDLE, Phase.FINISHED, Phase.STOPPED, Phase.FAILED)


class SessionStatus(NamedTuple):
    """Phase, time and memory of the session.

    Attributes:
        phase: What the session is doing.
        now_s: Seconds on the clock that `advance` receives.
        memory_bytes: Resident memory of the process; 0 where unknown.
    """

    phase: Phase
    now_s: float = 0.0
    memory_bytes: int = 0
