"""Agreement of all ranks at step boundaries: requests, training time, and that the weights are the same."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from gpt_core.distributed.communicator import Communicator, RankError, described
from gpt_core.model.parameters import Parameters
from gpt_core.training.controls import TrainingControls
from gpt_core.training.timing import RunClock

COMPARE_EVERY = 100
"""Steps between two comparisons of the weights of all ranks."""


class Agreement:
    """Agreement of the ranks of a run on requests, training time and weights.

    Attributes:
        requests: The requests made to this rank.
        controls: The requests in force, the same on all ranks. On one process, the requests themselves.
    """

    def __init__(self, requests: TrainingControls, clock: RunClock, communicator: Communicator) -> None:
        self.requests = requests
        self._clock, self._communicator = clock, communicator
        self._is_alone = len(communicator.hosts) == 1
        self.controls = requests if self._is_alone else TrainingControls()
        self._elapsed_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Training time: that of rank 0 at the last update, or on one process the present one."""
        return self._clock.elapsed_s if self._is_alone else self._elapsed_s

    def update(self, values: Sequence[float] = ()) -> list[list[float]]:
        """Agree on the requests made to any rank, and on the training time. Collective.

        Args:
            values: More numbers of this rank; as many on all ranks.

        Returns:
            These numbers of each rank.
        """
        if self._is_alone:
            return [list(values)]
        own, agreed = self.requests, self.controls
        flags = (
            own.stopping, own.discarding, own.pausing, own.take_save(), own.take_evaluate(), own.take_single_step()
        )  # fmt: skip
        own_row = np.array([self._clock.elapsed_s, *flags, *values], np.float64)
        rows: list[list[float]] = self._communicator.gather(own_row).tolist()
        stop, discard, agreed.pausing, save, evaluate, single_step = (
            any(flag) for flag in list(zip(*rows, strict=True))[1 : 1 + len(flags)]
        )
        if stop:
            agreed.stop(save=not discard)
        if save:
            agreed.save()
        if evaluate:
            agreed.evaluate()
        if single_step:
            agreed.single_step()
        self._elapsed_s = rows[0][0]
        return [row[1 + len(flags) :] for row in rows]

    def compare(self, step: int, weights: Parameters) -> None:
        """Check that all ranks have the same weights. Collective.

        Raises:
            RankError: They differ. The run must not be saved.
        """
        if self._is_alone:
            return
        digest = np.array([zlib.crc32(weights.flat.data)], np.float64)
        try:
            found = self._communicator.gather(digest)[:, 0]
        except RankError:  # another rank may have found the difference first
            self.requests.stop(save=False)
            raise
        for rank, digest in enumerate(found):
            if digest != found[0]:
                self.requests.stop(save=False)
                raise RankError(
                    f"the weights of {described(rank, self._communicator.hosts)} differ from those of rank 0 at step "
                    f"{step:,}: a fault of its memory or processor; resume the last checkpoint without it"
                )
