"""Training loop: yields one event per step; can be paused, saved or stopped at step boundaries.

`TrainingState`, the weights and the optimizer's state determine the rest of a run exactly. Pending work at a boundary
(an evaluation, the end of an epoch) is part of that state: a run that is stopped during an evaluation repeats it when
it is resumed. Checkpoints are written while training continues (`gpt_core.training.saving`).

Within a round of local steps (`gpt_core.training.rounds`) a boundary has no such work: it waits for the round's end.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import threads
from gpt_core.kernels.arrays import not_finite_is_expected
from gpt_core.model.gpt import GPT, Gradients
from gpt_core.model.layers.dropout import dropout_of
from gpt_core.model.parameters import Parameters, frozen_names, parameter_count, trained_count
from gpt_core.model.precision import product_format
from gpt_core.optim import schedule_of
from gpt_core.text.token_stream import TokenStream
from gpt_core.training import events as ev
from gpt_core.training.agreement import COMPARE_EVERY, Agreement
from gpt_core.training.baselines import BaselineMeter
from gpt_core.training.controls import POLL_S, TrainingControls
from gpt_core.training.early_stopping import end_epoch, patience_is_over
from gpt_core.training.evaluator import Evaluator
from gpt_core.training.gradient_sum import LayerDone
from gpt_core.training.last_save import LastSave
from gpt_core.training.losses import DivergenceMonitor, perplexity
from gpt_core.training.metrics import smooth
from gpt_core.training.metrics_log import NO_LOG, MetricsLog, open_log
from gpt_core.training.model_stats import ModelStats
from gpt_core.training.rounds import Rounds, StepTotals
from gpt_core.training.run import Run
from gpt_core.training.saving import NoSaver, Saver
from gpt_core.training.time_budget import TimeBudget
from gpt_core.training.timing import RunClock, TokenRate

MAX_SKIPPED_IN_A_ROW = 5


class Trainer:
    """Trains one run. Iterating `events` drives it; `requests` controls it from other threads and signal handlers."""

    def __init__(self, run: Run) -> None:
        self.requests = TrainingControls()
        self.settings = run.settings
        self.tokenizer = run.tokenizer
        self.parameters = run.parameters
        self.state = run.state
        self.run = run
        self.ending = False
        """True once no more steps are taken and only the last saves remain."""
        self._frozen = frozen_names(run.parameters.shape, self.settings.freeze)
        self._gpt = GPT(run.parameters, product_format(self.settings.precision), self._frozen)
        self._gradients = Parameters(run.parameters.shape)
        self._schedule = schedule_of(run.settings)
        self._budget = TimeBudget(run)
        self._weights_lock = threading.Lock()
        self._saver = Saver(run) if run.is_reported else NoSaver(run)
        self._divergence = DivergenceMonitor(run.state, self.shape.vocab_size)
        self._saved_steps = saved_before(run)
        self._debug: ev.GradientNorms | None = None
        self._is_below_epsilon = False
        self._clock = RunClock(run.state.elapsed_s)
        self._agreement = Agreement(self.requests, self._clock, run.communicator)
        self._rounds = Rounds(run, self._gradients, self._agreement)
        self._last_save = LastSave(run, self._saver, self._agreement, self._rounds)
        self._awaited: set[str] = set()
        self._evaluator = Evaluator(run, self._gpt, self._rounds, self._saver, self._agreement)
        self._stats = ModelStats(run, self._gradients)
        self._rate = TokenRate()
        self._baselines = BaselineMeter(run)

    @property
    def shape(self) -> ModelShape:
        """Shape of the model."""
        return self.parameters.shape

    @property
    def step(self) -> int:
        """Optimizer steps since the start of the run."""
        return self.state.step

    @property
    def saving(self) -> bool:
        """True while a checkpoint is being written; read it before ending the process."""
        return self._saver.is_saving

    @property
    def newest_checkpoint(self) -> Path | None:
        """Last saved checkpoint that holds the last state of the run, at first the one resumed; None without one."""
        path, _ = self._saver.newest
        return Path(path) if path else None

    @property
    def unsaved(self) -> int:
        """Number of failed last saves while the run waits for a decision about them; else 0."""
        return self._last_save.unsaved

    @property
    def probe_text(self) -> TokenStream:
        """Text to look at the model with: the eval text, or the training text of a run without one."""
        return self.run.texts.train if self.run.texts.held_out is None else self.run.texts.held_out

    def weights_snapshot(self) -> tuple[Parameters, int]:
        """Return a copy of the weights that are evaluated, and their step; within a round, those of this rank.

        May be called from any thread; waits for an update to end.
        """
        with self._weights_lock:
            return self.run.evaluated.copy(), self.state.step

    @property
    def earlier_log(self) -> Path | None:
        """Log of the steps so far, if the run is resumed in the folder it was saved in."""
        return self.run.store.metrics_path if self.run.store.has_own_log else None

    def events(self) -> Generator[ev.AnyEvent]:
        """Yield the events of the run, from RunStarted to RunFinished.

        Closing the iterator saves and ends the log, as `stop` does. An error saves, and leaves the log without an end.
        Within a round of local steps, and while updates are skipped, both keep the last checkpoint instead. Before the
        first step of a new run, an error saves nothing.
        """
        finished = closed = has_log_failed = False
        try:
            log = NO_LOG
            if self.run.is_reported:
                log = open_log(self.run.store, self.state.run_id, self.state.step, evaluates=self.state.evaluation_due)
        except BaseException:
            self.run.store.close()
            raise
        try:
            self._clock.start()
            for event in self._all_events():
                _log(log, event)
                if isinstance(event, ev.CheckpointSaved) and event.kind != "final":
                    self._saved_steps[event.path] = event.step
                finished = isinstance(event, ev.RunFinished)
                with self._clock.stopped():  # what is done with an event is not training
                    if log.failure and not has_log_failed and not isinstance(event, ev.RunStarted):
                        has_log_failed = True
                        yield ev.LogFailed(self.state.step, log.failure)
                    yield event
        except GeneratorExit:
            closed = True
            raise
        finally:
            self._baselines.close()
            try:
                for outcome in () if finished else self._stop(may_wait=False, has_failed=not closed):
                    if closed or not isinstance(outcome, ev.RunFinished):
                        _log(log, outcome)
            finally:
                log.close()
                self.run.store.close()

    # ---- Loop

    def _all_events(self) -> Iterator[ev.AnyEvent]:
        yield self._started()
        yield from self._baselines.poll()
        if self.state.step == 0 and not self.state.evaluation_due and self.state.last_eval is None:
            yield from self._evaluator.sample()  # else it follows, or followed, the evaluation
        if self.state.step == 0 and self.state.evaluation_due:
            yield from self._stats.measure()
        self._agreement.update()
        controls = self._agreement.controls
        while True:
            yield from self._boundary() if self._rounds.is_complete else self._within_round()
            reason = self._reason_to_end()
            if reason:
                break
            if self._rounds.is_complete and controls.pausing and not controls.take_single_step():
                yield from self._pause()
                continue
            if (event := self._take_step()) is not None:
                yield event
                if self._debug is not None:
                    yield self._debug
                if self.state.evaluation_due:
                    yield from self._stats.measure()
                if self._divergence.take_report():
                    yield self._diverged()
                if self._rounds.has_multiple(COMPARE_EVERY):
                    self._agreement.compare(self.state.step, self.parameters)
        self.ending = True
        if self._rounds.is_complete:
            self._agreement.compare(self.state.step, self.parameters)
        yield from self._finish(reason)

    def _reason_to_end(self) -> str:
        """Return the reason to end the run at this boundary, "" for none."""
        settings, state = self.settings, self.state
        if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            return "diverged"
        if not self._rounds.is_complete:
            return "stopped" if self._stops_at_once else ""
        if state.evaluation_due:
            return "stopped"  # during the evaluation, which remains pending
        if settings.overfit_tiny and state.step >= settings.overfit_steps:
            return "overfit_done"
        if self._is_below_epsilon:
            return "epsilon"
        if state.epoch >= settings.max_epochs and not settings.overfit_tiny:
            return "max_epochs"
        if self._evaluator.is_scheduled and patience_is_over(state, settings):
            return "early_stopping"
        if 0 < settings.max_steps <= state.step:
            return "max_steps"
        if self._budget.is_used:
            return "deadline"
        return "stopped" if self._agreement.controls.stopping else ""

    @property
    def _stops_at_once(self) -> bool:
        """True if a stop was requested that does not wait for the end of the round."""
        controls = self._agreement.controls
        return controls.stopping and (self._rounds.is_complete or controls.discarding)

    def _within_round(self) -> Iterator[ev.AnyEvent]:
        """Do what needs no common weights, and report once per round that a stop or a pause waits for its end."""
        yield from self._saver.poll_results()
        yield from self._baselines.poll()
        if (plan := self._budget.revise()) is not None:
            yield plan
        controls = self._agreement.controls
        for request, is_pending in (("stop", controls.stopping), ("pause", controls.pausing)):
            if is_pending and request not in self._awaited:
                self._awaited.add(request)
                yield ev.RoundAwaited(self.state.step, request, self._rounds.next_end)

    def _boundary(self) -> Iterator[ev.AnyEvent]:
        """Do the pending work between two steps: an evaluation, the end of an epoch, saves."""
        state, settings = self.state, self.settings
        self._awaited.clear()
        yield from self._saver.poll_results()
        yield from self._baselines.poll()
        if self._agreement.controls.take_evaluate():
            state.evaluation_due = True
            yield from self._stats.measure()
            yield from self._evaluator.check_lines(at_end=False)
        if state.evaluation_due:
            yield from self._evaluate()
        if not state.evaluation_due:
            yield from self._plan()
        if state.evaluation_due:
            return  # stopped before its end: it remains pending
        if state.window >= self.run.texts.windows.windows_per_epoch:
            self._is_below_epsilon = end_epoch(state) < settings.epsilon
            every = settings.save_epoch_number
            if every and state.epoch % every == 0 and not settings.overfit_tiny:
                self._saver.pending.add("epoch")
        is_requested = self._agreement.controls.take_save()
        if is_requested or self._saver.interval_elapsed:
            self._saver.pending.add("latest")
        # After skipped updates or a divergence the weights may be unusable: the last good checkpoint is then replaced
        # only on request.
        is_bad = state.skipped_in_a_row > 0 or self._divergence.since is not None
        yield from self._saver.start_pending(is_bad=is_bad and not is_requested)

    def _plan(self) -> Iterator[ev.AnyEvent]:
        """Make the plan of a time budget that is due. A run that has used its budget is evaluated at this step."""
        if (plan := self._budget.revise()) is not None:
            yield plan
        if self._budget.is_used and self.state.scores is None and not self._divergence.has_diverged:
            self.state.evaluation_due = True
            yield from self._stats.measure()
            yield from self._evaluate()

    def _evaluate(self) -> Iterator[ev.AnyEvent]:
        """Make the pending evaluation.

        That of the last step is a complete one, which may take long: the step is saved before it. A resume after a stop
        or a kill during the evaluation repeats it. Like other last saves, this one does not count as training time: it
        may wait for an answer of the user.
        """
        is_last = self._budget.is_used or self._evaluator.is_at_limit
        is_saved = self.run.is_at_start  # in the checkpoint that was resumed
        if is_last and not is_saved and self.run.texts.held_out is not None and not self._divergence.has_diverged:
            self._agreement.compare(self.state.step, self.parameters)
            with self._clock.stopped():
                yield from self._last_save.save()
        yield from self._evaluator.evaluate(is_last=is_last)

    def _pause(self) -> Iterator[ev.AnyEvent]:
        """Wait until the run continues or something is requested; saves in progress are completed first."""
        controls = self._agreement.controls
        yield from self._saver.finish()
        yield ev.RunPaused(self.state.step)
        with self._clock.stopped():
            while controls.pausing and not controls.stopping and not controls.anything_pending:
                time.sleep(POLL_S)
                self._agreement.update()
        if not controls.pausing:
            yield ev.RunContinued(self.state.step)

    # ---- One step

    def _take_step(self) -> ev.StepCompleted | ev.UpdateSkipped | None:
        """Take one optimizer step; return None if a stop was requested meanwhile, in which case nothing has changed."""
        settings, state, started = self.settings, self.state, time.perf_counter()
        own = self._own_gradient()
        if own is None:
            return None
        share = self._schedule.share(state.step + 1, self._budget.progress)
        debugging = settings.debug and (state.step + 1) % settings.debug_every == 0
        before = self.parameters.copy() if debugging else None
        self._stats.before_update(is_measured=self._evaluator.follows_next_step or self._budget.may_end)
        self._saver.wait_for_tensors()
        step = self._rounds.agreed(own)  # may raise: nothing of the state has changed yet
        self._rounds.begin_update()
        with self._weights_lock:
            if step.is_finite and own.targets:
                scale = self.run.optimizer.clip_scale(own.norm)
                self.run.optimizer.update(self._gradients, state.step + 1, share, scale)
                self.run.optimizer.update_average(state.step + 1)
            state.step += 1
        state.window += settings.batch_size
        state.elapsed_s = self._agreement.elapsed_s
        self._record(step)
        self._debug = gradient_norms(state.step, self._gradients, before, self.parameters) if before else None
        self._stats.after_update()
        self._rounds.end_step(self._weights_lock, is_last=self._budget.is_used)
        self._mark_pending()
        if not step.is_finite:
            finite = math.isfinite(step.loss)
            what = f"the gradient norm was {step.norm}" if finite else f"the loss was {step.loss}"
            return ev.UpdateSkipped(state.step, state.skipped_in_a_row, what)
        rate = self._rate.after(time.perf_counter() - started, step.targets)
        return ev.StepCompleted(
            step=state.step, epoch=state.epoch, loss=step.loss, ppl=perplexity(step.loss),
            lr=self.run.optimizer.learning_rates["mlp"] * share, grad_norm=step.norm, tokens=state.tokens,
            tokens_per_s=rate, elapsed_s=state.elapsed_s,
        )  # fmt: skip

    def _own_gradient(self) -> StepTotals | None:
        """Compute the gradient that this rank's update applies; None if a stop was requested meanwhile."""
        settings, state, numbers = self.settings, self.state, self._rounds.micro_batches
        micro_batches = [
            self.run.texts.windows.read(state.epoch, state.window + number * settings.micro_batch, settings.micro_batch)
            for number in numbers
        ]
        n_targets = sum(int(np.count_nonzero(targets >= 0)) for _, targets in micro_batches)

        def micro_batch(number: int, gradients: Gradients, layer_done: LayerDone | None) -> float | None:
            self.run.communicator.check()  # the state is saved as soon as a rank is lost, not after the step
            if self._stops_at_once:
                return None
            tokens, targets = micro_batches[number]
            first_sequence = numbers[number] * settings.micro_batch
            dropout = dropout_of(settings, state.step + 1, first_sequence, tokens.shape[1])
            weight = 1.0 / max(1, n_targets)
            return self._gpt.loss_and_gradients(tokens, targets, gradients, weight, dropout, layer_done)[0]

        loss_sum = self._rounds.gradient_sum(micro_batch)
        if loss_sum is None:
            return None
        for name in self._frozen:  # so that norm and clipping are of what is trained
            self._gradients[name].fill(0.0)
        return StepTotals(loss_sum, n_targets, self.run.optimizer.gradient_norm(self._gradients))

    def _record(self, step: StepTotals) -> None:
        """Add the figures of the step just taken to the state."""
        state = self.state
        state.skipped_in_a_row = 0 if step.is_finite else state.skipped_in_a_row + 1
        state.step_loss = step.loss if step.is_finite else None
        if step.is_finite:
            state.tokens += step.targets
            state.train_loss = smooth(state.train_loss or 0.0, step.loss, state.averaged_steps)
            state.averaged_steps += 1
            state.loss_sum += step.loss_sum
            state.loss_count += step.targets
            self._divergence.add(step.loss)

    def _mark_pending(self) -> None:
        """Mark the evaluation and the save that are pending after the step just taken.

        The last step is evaluated, too, unless the run has diverged: it may be the best model.
        """
        state, settings = self.state, self.settings
        is_last = self._evaluator.is_at_limit and not self._divergence.has_diverged
        state.evaluation_due = self._evaluator.is_scheduled or is_last
        if self._rounds.has_multiple(settings.save_every_steps):
            self._saver.pending.add("latest")

    # ---- Start and end

    def _started(self) -> ev.RunStarted:
        run, settings, state, origin = self.run, self.settings, self.state, self.state.origin
        steps_per_epoch = run.steps_per_epoch
        return ev.RunStarted(
            step=state.step, epoch=state.epoch, kind="overfit-tiny" if settings.overfit_tiny else "train",
            preset=run.preset, parameters=parameter_count(self.shape), train_tokens=len(run.texts.train),
            eval_tokens=len(run.texts.held_out) if run.texts.held_out else 0,
            batch_tokens=settings.batch_size * run.texts.windows.seq_len, steps_per_epoch=steps_per_epoch,
            max_steps=self._budget.last_step, minutes=settings.minutes, model_reason=run.model_reason,
            threads=threads.get_threads(), seed=settings.seed, train_file=run.texts.train.name,
            eval_file=run.texts.eval_name, resumed_from=str(run.resumed_from or ""), elapsed_s=state.elapsed_s,
            ema=settings.ema, dropout=settings.dropout,
            precision=settings.precision, precision_reason=run.precision_reason, warnings=run.warnings,
            eval_part_tokens=self._evaluator.part_tokens,
            best_metric=settings.best_metric, best_restarted=run.best_restarted,
            epoch_offset=run.epoch_start % steps_per_epoch,
            trained_parameters=trained_count(self.shape, settings.freeze) if settings.freeze else 0,
            init_from=origin.path if origin else "", init_sha256=origin.sha256 if origin else "",
            init_step=origin.step if origin else 0,
            train_files=run.texts.files, documents=run.texts.train.documents, train_bytes=run.texts.train.bytes,
            first_words=run.first_words, hosts=tuple(run.communicator.hosts) if len(run.communicator.hosts) > 1 else (),
            sync_every_steps=settings.sync_every_steps,
        )  # fmt: skip

    def _finish(self, reason: str) -> Iterator[ev.AnyEvent]:
        """Make the last saves and yield the last event.

        A run that was not stopped is completed: it also saves `transformer`, its best weights, and scores the complete
        eval text; a self-test has its verdict. `ckpt_latest` says that the run has ended once nothing else is missing.
        A run whose updates were skipped, or whose weights are not finite, saves nothing more: the checkpoint from
        before that is the one to resume.
        """
        if reason == "diverged" or not self.run.is_finite:
            yield from self._keep_last_checkpoint()
        elif reason == "stopped":
            yield from self._stop()
        elif self._divergence.has_diverged:
            yield from self._finish_diverged()
        else:
            yield from self._complete(reason)

    def _keep_last_checkpoint(self) -> Iterator[ev.AnyEvent]:
        """End a run whose state cannot be used, as one that diverged."""
        yield from self._saver.finish()
        yield ev.RunFinished("diverged", self.state.step, *self._saver.newest)

    def _stop(self, *, may_wait: bool = True, has_failed: bool = False) -> Iterator[ev.AnyEvent]:
        """Save the current state and end the run; after a reported divergence, as a run that diverged.

        While updates are skipped the weights may be unusable: unless the user has requested the stop, they do not
        replace a checkpoint of the run. Weights that are not finite never do. After an error before the first step
        nothing is saved: the next start in the folder may have another model.

        Args:
            may_wait: False where no answer of the user can be waited for if the save fails: the user has not requested
                the stop.
            has_failed: The run ends with an error.
        """
        if not self.run.is_finite:
            yield from self._keep_last_checkpoint()
            return
        if self._divergence.is_reported:
            yield from self._finish_diverged(may_wait=may_wait)
            return
        yield from self._saver.finish()
        has_checkpoint = bool(self._saver.newest[0])
        is_unusable = has_checkpoint and self.state.skipped_in_a_row > 0
        is_untrained = has_failed and not has_checkpoint and self.state.step == 0
        if may_wait or not (is_unusable or is_untrained):
            yield from self._last_save.save(may_wait=may_wait)
        yield ev.RunFinished("stopped", self.state.step, saved=self._saver.is_saved)

    def _complete(self, reason: str) -> Iterator[ev.AnyEvent]:
        """Complete a run: `transformer`, then the last state that says so, then the scores of the end.

        A run that is killed before that state is on disk is completed when it is resumed.
        """
        has_model = reason == "overfit_done" or not self._last_save.is_possible
        if not has_model:
            has_model = yield from self._saver.save_final(reason)
        self.state.finished = reason
        yield from self._last_save.save()
        if not has_model and self._last_save.was_asked and self._saver.is_saved:
            yield from self._saver.save_final(reason)  # the user has made room
        yield from self._evaluator.score_at_end()
        yield from self._evaluator.check_lines(at_end=True)
        yield ev.RunFinished(reason, self.state.step, saved=self._saver.is_saved)

    def _finish_diverged(self, *, may_wait: bool = True) -> Iterator[ev.AnyEvent]:
        """End a run whose loss is far above that of guessing.

        A good checkpoint is not replaced; if there is none, the current state is saved.
        """
        yield from self._saver.finish()
        if not self._diverged().good_checkpoint:
            yield from self._last_save.save(may_wait=may_wait)
        found = self._diverged()
        yield ev.RunFinished(
            "diverged", found.step, found.good_checkpoint, found.good_step, found.loss, found.guessing_loss
        )

    def _diverged(self) -> ev.LossDiverged:
        """Return the current divergence, with the newest checkpoint from before it.

        The first loss that is too high was computed with the weights of the step before it.
        """
        since = self._divergence.since or self.state.step
        good = [(step, path) for path, step in self._saved_steps.items() if step < since - 1]
        step, path = max(good, default=(0, ""))
        return ev.LossDiverged(self.state.step, self._divergence.loss, self._divergence.guessing_loss, path, step)


def _log(log: MetricsLog, event: ev.AnyEvent) -> None:
    """Log an event. A save recreates a folder that was removed; then the log is written again, too."""
    if isinstance(event, ev.CheckpointSaved):
        log.restore()
    log.append(event)


def saved_before(run: Run) -> dict[str, int]:
    """Return the step of each known checkpoint of the run's earlier sessions, by path."""
    if run.resumed_from is None:
        return {}
    saved = {str(run.resumed_from): run.state.step}
    best = run.store.path_of("best")
    if run.state.is_scored and best.exists():
        saved.setdefault(str(best), run.state.best_step)
    return saved


@not_finite_is_expected
def gradient_norms(step: int, gradients: Parameters, before: Parameters, after: Parameters) -> ev.GradientNorms:
    """Return the norms of each tensor's gradient before clipping and of its update."""
    return ev.GradientNorms(
        step,
        {name: float(np.linalg.norm(tensor)) for name, tensor in gradients.tensors.items()},
        {name: float(np.linalg.norm(after[name] - tensor)) for name, tensor in before.tensors.items()},
    )
