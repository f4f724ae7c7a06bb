"""Rounds of local steps: the ranks exchange once per round what they exchange in each step of a synchronous run.

DiLoCo (Douillard et al. 2023, arXiv 2311.08105), for slow networks. A step has `batch_size` sequences on all ranks
together, as in a synchronous run, so that equal steps are equal tokens. But each rank updates its weights with the
gradient of its own sequences alone. At the end of a round, the mean over the ranks of the changes of the weights is
applied by an outer optimizer (`gpt_core.optim.outer`), and what the optimizer has per parameter, and the average of the
weights, are replaced by their means. All ranks then have one state again: that of an ordinary checkpoint, with the
outer momentum as one more tensor per parameter. Within a round the weights of a rank are its own: a run is evaluated,
saved, sampled, paused and stopped between two rounds only.

A round ends where the number of the step is a multiple of `sync_every_steps`, at the end of an epoch, at the last step
and at the deadline: where it ends does not depend on where the run was stopped and resumed.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import NamedTuple

from gpt_core.distributed.communicator import SINGLE_PROCESS
from gpt_core.distributed.tree import Node, leaves_of_rank
from gpt_core.model.parameters import Parameters, frozen_names
from gpt_core.optim import OuterOptimizer
from gpt_core.training.agreement import Agreement
from gpt_core.training.gradient_sum import (
    Exchange,
    ExchangeTotals,
    GradientSum,
    MicroBatch,
    chunks_of,
    round_to_bfloat16,
)
from gpt_core.training.run import Run


class StepTotals(NamedTuple):
    """Figures of a step: the sum of its losses in nats, its targets, and the norm of its gradient."""

    loss_sum: float
    targets: int
    norm: float

    @property
    def loss(self) -> float:
        """Loss in nats per token."""
        return self.loss_sum / self.targets

    @property
    def is_finite(self) -> bool:
        """True if loss and norm are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class RoundEnds:
    """Steps at which the rounds of a run end. In a synchronous run every step is a round."""

    def __init__(self, run: Run) -> None:
        self._run, self._every = run, run.settings.sync_every_steps
        self._batch_size, self._windows = run.settings.batch_size, run.texts.windows.windows_per_epoch

    def is_end(self, step: int, window: int) -> bool:
        """Return True if a round ends after a step, for another reason than the deadline.

        Args:
            step: The step.
            window: Windows of the epoch that were trained on after it.
        """
        return not self._every or step % self._every == 0 or window >= self._windows or step >= self._run.step_limit

    def next_end(self, step: int, window: int) -> int:
        """Return the step after which the round of the next step ends; the arguments are those of `is_end`."""
        if not self._every:
            return step + 1
        end_of_epoch = step + math.ceil((self._windows - window) / self._batch_size)
        end = min((step // self._every + 1) * self._every, end_of_epoch)
        return min(end, self._run.step_limit) if step < self._run.step_limit else end

    def has_multiple(self, every: int, step: int, window: int) -> bool:
        """Return True if a round ends after a step, and one of its steps is a multiple of `every`; False for 0."""
        if not every or not self.is_end(step, window):
            return False
        return step // every > self._start(step, window) // every

    def _start(self, step: int, window: int) -> int:
        """Return the step before the round that ends after a step."""
        if not self._every:
            return step - 1
        start_of_epoch = step - math.ceil(min(window, self._windows) / self._batch_size)
        return max((step - 1) // self._every * self._every, start_of_epoch)


class RankMean:
    """Mean over all ranks of one value per parameter, with the same bits on all of them."""

    def __init__(self, values: Parameters, run: Run, *, rounded: bool = False) -> None:
        """Prepare the mean.

        Args:
            values: Values of this rank, replaced by the mean. Those of frozen parameters are the same on all ranks.
            run: The run.
            rounded: Exchange bfloat16: the values and their sums are rounded to it, those of a single rank, too.
        """
        ranks, frozen = run.communicator, frozen_names(values.shape, run.settings.freeze)
        self._values, self._size, self._is_rounded = values, len(ranks.hosts), rounded
        self._chunks = chunks_of(values, frozen)
        self._exchange = Exchange(values, self._size, ranks, rounded, self._chunks) if self._size > 1 else None

    def take(self, totals: ExchangeTotals) -> ExchangeTotals:
        """Replace the values by their mean, and return the totals with those of this exchange added. Collective."""
        parts = [part for chunk in self._chunks for part in chunk.ranges]
        if self._exchange is None:
            for part in parts:
                self._complete(part)
            return totals
        self._exchange.start(self._complete, [self._values])
        totals = self._exchange.finish(totals)
        for part in parts:
            self._values.flat[part] *= 1.0 / self._size
        return totals

    def _complete(self, part: slice) -> None:
        if self._is_rounded:
            round_to_bfloat16(self._values.flat[part])


class RoundExchange:
    """Exchange at the end of each round of local steps.

    With `exchange` bfloat16 the changes of the weights are rounded. The means of the optimizer's state and of the
    average are never: a change that is smaller than the precision of bfloat16 would be lost.

    Attributes:
        totals: Totals of the exchange so far.
    """

    def __init__(self, run: Run, outer: OuterOptimizer, scratch: Parameters) -> None:
        """Begin the first round.

        Args:
            run: The run.
            outer: Its outer optimizer.
            scratch: One value per parameter, overwritten at the end of each round.
        """
        self.totals = ExchangeTotals()
        self._outer, self._average, self._scratch = outer, run.optimizer.average, scratch
        self._state = [RankMean(values, run) for values in run.optimizer.state.values()]
        self._mean = RankMean(scratch, run)
        self._mean_change = RankMean(scratch, run, rounded=run.settings.exchange == "bfloat16")
        outer.begin_round()

    def end_round(self, weights_lock: AbstractContextManager[object]) -> None:
        """Give all ranks the same weights, optimizer state and average. Collective.

        Args:
            weights_lock: Held while weights and average change, which other threads may read.

        Raises:
            RankError: A rank has failed or is lost. This rank holds no state of the run.
        """
        for mean in self._state:
            self.totals = mean.take(self.totals)
        if self._average is not None:
            self._scratch.copy_from(self._average)
            self.totals = self._mean.take(self.totals)
            with weights_lock:
                self._average.copy_from(self._scratch)
        self._outer.change(self._scratch)
        self.totals = self._mean_change.take(self.totals)
        with weights_lock:
            self._outer.update(self._scratch)


class Rounds:
    """Computes the gradient of each step and, at the end of a round of local steps, one state of all ranks.

    A synchronous run has the same weights on all ranks after every step, and nothing to exchange at the end of it.

    Attributes:
        is_complete: False within an update, and within a round of local steps, where the weights are those of this rank
            alone: what it holds is then no state of the run.
        ends: Steps at which rounds end.
        micro_batches: Numbers of the micro-batches that this rank reads: its own, or all in a synchronous run.
    """

    def __init__(self, run: Run, gradients: Parameters, agreement: Agreement) -> None:
        """Begin the first round.

        Args:
            run: The run.
            gradients: Receives the gradients of each step, and is overwritten at the end of a round of local steps.
            agreement: Agreement of the ranks.
        """
        settings, ranks = run.settings, run.communicator
        frozen = frozen_names(run.parameters.shape, settings.freeze)
        self.is_complete = True
        self._run, self._agreement, self.ends = run, agreement, RoundEnds(run)
        if run.outer is None:
            owned, self._exchange = Node(0, settings.micro_batches), None
            self._sum = GradientSum(gradients, settings.micro_batches, ranks, settings.exchange, frozen)
        else:
            owned = leaves_of_rank(ranks.rank, len(ranks.hosts), settings.micro_batches)
            self._exchange = RoundExchange(run, run.outer, gradients)
            self._sum = GradientSum(gradients, owned.stop - owned.first, SINGLE_PROCESS, frozen=frozen)
        self.micro_batches = range(*owned)

    @property
    def totals(self) -> ExchangeTotals:
        """Totals of the exchange so far."""
        return self._sum.totals if self._exchange is None else self._exchange.totals

    @property
    def next_end(self) -> int:
        """Step after which the round of the next step ends, unless the deadline is before it."""
        return self.ends.next_end(self._run.state.step, self._run.state.window)

    def has_multiple(self, every: int) -> bool:
        """Return True if a round ends at this step, and one of its steps is a multiple of `every`; False for 0."""
        return self.ends.has_multiple(every, self._run.state.step, self._run.state.window)

    def gradient_sum(self, micro_batch: MicroBatch) -> float | None:
        """Sum the gradients of a step; see `GradientSum.of_step`. Micro-batches are counted as in `micro_batches`."""
        return self._sum.of_step(micro_batch)

    def agreed(self, own: StepTotals) -> StepTotals:
        """Agree on requests and time, and return the figures of a step on all ranks. Collective.

        Args:
            own: Figures of this rank; in a synchronous run they are those of all.
        """
        if self._exchange is None:
            self._agreement.update()
            return own
        rows = self._agreement.update(own)
        norms = [norm for _, targets, norm in rows if targets]  # at the end of an epoch a rank may have no sequence
        return StepTotals(sum(row[0] for row in rows), int(sum(row[1] for row in rows)), sum(norms) / len(norms))

    def begin_update(self) -> None:
        """Note that there is no state to save from now on, up to the end of the step, or of a round of local steps."""
        self.is_complete = False

    def end_step(self, weights_lock: AbstractContextManager[object], *, is_last: bool) -> None:
        """Exchange, if a round of local steps ends at this step. Collective.

        Args:
            weights_lock: Held while weights and average change.
            is_last: The round ends at this step in any case.

        Raises:
            RankError: A rank has failed or is lost. This rank holds no state of the run.
        """
        state = self._run.state
        if self._exchange is None:
            self.is_complete = True
            return
        if not (is_last or self.ends.is_end(state.step, state.window)):
            return
        self._exchange.end_round(weights_lock)
        self.is_complete = True
        self._agreement.update()
        state.elapsed_s = self._agreement.elapsed_s
