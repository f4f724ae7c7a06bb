"""Evaluations of a run, between its steps and at its end, with the samples and the verdicts of a self-test."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator

from gpt_core.model.gpt import GPT
from gpt_core.model.scores import EvalScores
from gpt_core.text.overfit_data import OverfitLoader
from gpt_core.training import events as ev
from gpt_core.training.agreement import Agreement
from gpt_core.training.early_stopping import record_evaluation
from gpt_core.training.evaluation import EvalResult, EvalText, RunScores, epochs_per_evaluation, max_part_tokens
from gpt_core.training.rounds import Rounds
from gpt_core.training.run import Run
from gpt_core.training.samples import SampleWriter
from gpt_core.training.saving import Saver
from gpt_core.training.self_test import MIN_REPRODUCED, reproduced


class Evaluator:
    """Evaluates a run at step boundaries. Its iterators end early if a stop is requested."""

    def __init__(self, run: Run, gpt: GPT, rounds: Rounds, saver: Saver, agreement: Agreement) -> None:
        self._run, self._gpt, self._rounds = run, gpt, rounds
        self._saver, self._requests, self._agreement = saver, agreement.requests, agreement
        self._state, self._settings = run.state, run.settings
        self._samples = SampleWriter(run.evaluated, run.tokenizer, run.settings, run.texts.train)
        self._text: EvalText | None = None
        if run.texts.held_out is not None:
            self._text = EvalText(run.texts.held_out, run.texts.windows.seq_len, max_part_tokens(run.settings))
        self._epochs = epochs_per_evaluation(run.settings.eval_every_steps, run.steps_per_epoch)
        self._training_from_s = run.state.elapsed_s  # later by the time of the evaluations
        self._fully_scored_step = self._sampled_step = self._exchanged_step = -1

    @property
    def part_tokens(self) -> int:
        """Tokens of the eval text that every evaluation scores, 0 for all of it."""
        return self._text.part_tokens if self._text and self._text.part is not None else 0

    @property
    def is_scheduled(self) -> bool:
        """True if an evaluation is scheduled at this step: at the end of epochs, and every `eval_every_steps`.

        One that is scheduled within a round of local steps takes place at the end of the round. The weights that a
        fine-tuning starts from have one, too.
        """
        return self._is_scheduled_at(self._state.step, self._state.window)

    @property
    def follows_next_step(self) -> bool:
        """True if an evaluation is scheduled after the next step, or that is the last one."""
        step, window = self._state.step + 1, self._state.window + self._settings.batch_size
        return step >= self._run.step_limit or self._is_scheduled_at(step, window)

    @property
    def is_at_limit(self) -> bool:
        """True at the last step, as the limits on steps and epochs set it."""
        return self._state.step >= self._run.step_limit

    def _is_scheduled_at(self, step: int, window: int) -> bool:
        if step == 0:
            return self._state.origin is not None
        is_at_end = window >= self._run.texts.windows.windows_per_epoch
        epochs = self._state.epoch + is_at_end
        if (is_at_end or window == 0) and epochs % self._epochs == 0:
            return True
        return self._rounds.ends.has_multiple(self._settings.eval_every_steps, step, window)

    def evaluate(self, *, is_last: bool = False) -> Iterator[ev.AnyEvent]:
        """Evaluate: the complete text at the end of an epoch and of the run, else the fixed part of it.

        If a stop is requested meanwhile, the evaluation remains pending. A run without an eval text has none.

        Args:
            is_last: The run ends at this step. The evaluation does not count as training time.
        """
        state, text = self._state, self._text
        if text is None:
            state.evaluation_due = False
            return
        is_complete = is_last or state.window >= self._run.texts.windows.windows_per_epoch
        scores = yield from self._scores(text, complete=is_complete)
        if scores is None:
            return
        trained_until_s = state.elapsed_s
        self._agreement.update()  # may raise: the evaluation is then still pending
        if not is_last:  # as in the time of the last step, which the log and the app show
            state.elapsed_s = self._agreement.elapsed_s
        state.evaluation_due = False
        self._training_from_s += state.elapsed_s - trained_until_s
        result, full = scores
        is_scheduled = self.is_scheduled
        is_best = self._run.texts.has_best and record_evaluation(
            state, result.loss, result.accuracy, self._settings, is_scheduled=is_scheduled
        )
        state.last_eval = scores_of(state.step, result)
        if state.step == 0 and state.origin is not None:
            state.start_scores = state.last_eval
        if is_best:
            self._saver.pending.add("best")
        yield ev.EvalCompleted(
            state.step, result.loss, result.perplexity, result.accuracy, result.bits_per_byte, is_best,
            state.evaluations_without_improvement, is_scheduled,
        )  # fmt: skip
        if text.part is None or full is not None:
            self._fully_scored_step = state.step
        if full is not None:
            yield full_scores(state.step, full)
        yield from self.exchange()
        yield from self.sample()

    def score_at_end(self) -> Iterator[ev.AnyEvent]:
        """Report the exchange, and unless this step has them, the scores of the complete eval text and a sample.

        They change nothing in the state: the step was evaluated by the part.
        """
        step, text = self._state.step, self._text
        yield from self.exchange()
        is_scored = self._run.is_at_start or step == self._fully_scored_step
        if text is None or is_scored or self._agreement.controls.stopping:
            return
        scores = yield from self._scores(text, complete=True)
        if scores is not None:
            yield full_scores(step, scores.full or scores.part)
            yield from self.sample()

    def check_lines(self, *, at_end: bool) -> Iterator[ev.AnyEvent]:
        """Report how many lines of the self-test are reproduced, and a sample, unless a stop is requested."""
        lines = self._run.texts.windows
        if not isinstance(lines, OverfitLoader) or not self._run.is_reported:
            return
        found = []
        with self._gpt.using(self._run.evaluated):
            for is_reproduced in reproduced(self._gpt, lines):
                if self._is_stopping():
                    return
                found.append(is_reproduced)
        works = sum(found) >= MIN_REPRODUCED * len(found)
        yield ev.LinesReproduced(self._state.step, sum(found), len(found), works, at_end)
        yield from self.sample()

    def exchange(self) -> Iterator[ev.AnyEvent]:
        """Report the exchange so far, unless this step's was; none on one process and before a step."""
        step, run = self._state.step, self._run
        is_shared = run.is_reported and len(run.communicator.hosts) > 1
        if not is_shared or self._run.is_at_start or step == self._exchanged_step:
            return
        self._exchanged_step = step
        training_s = self._state.elapsed_s - self._training_from_s
        yield ev.ExchangeMeasured(step, step - run.first_step, *self._rounds.totals, training_s)

    def sample(self) -> Iterator[ev.AnyEvent]:
        """Write the sample of this step, unless it has been written."""
        step = self._state.step
        if step == self._sampled_step or not self._run.is_reported:
            return
        if (written := self._samples.write(step, self._is_stopping)) is not None:
            self._sampled_step = step
            yield written

    def _is_stopping(self) -> bool:
        """Return True if a stop is requested. Raises RankError if a rank is lost: no collective finds it meanwhile."""
        self._run.communicator.check()
        return self._requests.stopping

    def _scores(self, text: EvalText, *, complete: bool) -> Generator[ev.AnyEvent, None, RunScores | None]:
        """Score the eval text or its part, yielding the progress; returns None if a stop is requested meanwhile."""
        total = text.tokens if complete else text.part_tokens
        steps = text.scores(self._gpt, self._settings.micro_batch, complete=complete, ranks=self._run.communicator)
        while True:
            try:
                with self._gpt.using(self._run.evaluated):
                    done = next(steps)
            except StopIteration as end:
                scores: RunScores = end.value
                return scores
            yield ev.EvalProgressed(self._state.step, done, total)
            yield from self._saver.poll_results()
            self._agreement.update()
            if self._agreement.controls.stopping:
                return None


def scores_of(step: int, result: EvalResult) -> EvalScores | None:
    """Return the scores to keep in the state, which holds finite numbers only: None for a loss that is not."""
    scores = EvalScores(step, result.loss, result.accuracy, result.bits_per_byte)
    return scores if math.isfinite(result.loss) else None


def full_scores(step: int, result: EvalResult) -> ev.FullEvalCompleted:
    """Return the event of an evaluation of the complete eval text."""
    return ev.FullEvalCompleted(step, *result)
