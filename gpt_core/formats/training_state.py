"""Training state: the values of a run, besides tensors and settings, that an exact resume needs."""

from __future__ import annotations

import secrets
from typing import Annotated

import msgspec
from msgspec import Meta

from gpt_core.config.settings import MAX_COUNT
from gpt_core.model.scores import EvalScores

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e12)]


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Checkpoint whose weights a run started with.

    Attributes:
        path: Its absolute path at that time.
        sha256: SHA-256 of the file, in hexadecimal.
        step: Optimizer steps that its weights were trained for.
    """

    path: Annotated[str, Meta(max_length=1 << 16)]
    sha256: Annotated[str, Meta(max_length=64)]
    step: Count = 0


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Plan of the rest of a run that has a time budget, made at a step (`gpt_core.training.time_budget`).

    Attributes:
        step: Step at which it was made.
        progress: Fraction of the run that was over at that step, from 0 to 1.
        last_step: Step at which the run is expected to end.
        elapsed_s: Training time at that step.
        step_s: Time per step, evaluations included; 0 if unknown.
        budget_s: Training time that the run has in all.
    """

    step: Count
    progress: Annotated[float, Meta(ge=0.0, le=1.0)]
    last_step: Count
    elapsed_s: Seconds
    step_s: Seconds
    budget_s: Seconds

    @property
    def is_over(self) -> bool:
        """True if the budget was used when the plan was made."""
        return self.elapsed_s >= self.budget_s

    @property
    def is_ended_by_time(self) -> bool:
        """True if the run is expected to use its budget before a limit on its steps ends it."""
        # within a step: a plan ends the run at a whole step
        return self.elapsed_s + (self.last_step - self.step + 1) * self.step_s >= self.budget_s

    @property
    def next_step(self) -> int:
        """Step at which the next plan is made: after a doubling of the steps, or an eighth of the rest if less."""
        return self.step + max(1, min(self.step, (self.last_step - self.step) // 8))

    def progress_at(self, step: int) -> float:
        """Return the fraction of the run that is over at a step: the rest is spread evenly up to `last_step`."""
        if step >= self.last_step:
            return 1.0
        return self.progress + (1.0 - self.progress) * (step - self.step) / (self.last_step - self.step)


class InductionHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First attention head of a run whose induction score reached the threshold.

    Attributes:
        step: Step at which it was measured.
        layer: Its layer, from 0.
        head: Its number in the layer, from 0.
        score: Its induction score (`gpt_core.interpret.induction_scores`).
    """

    step: Count
    layer: Count
    head: Count
    score: Annotated[float, Meta(ge=0.0, le=1.0)]


class BestScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores of an evaluation that later ones are compared with.

    Attributes:
        accuracy: Eval token accuracy, -1 before the first evaluation.
        loss: Eval loss, None if unknown.
    """

    accuracy: Annotated[float, Meta(ge=-1.0, le=1.0)] = -1.0
    loss: float | None = None


class TrainingState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """State of a run at a step boundary. All numbers are finite.

    Attributes:
        run_id: Identifier of the run, the same in all its checkpoints.
        step: Optimizer steps taken.
        epoch: Epochs completed.
        window: Index of the next training window in the current epoch.
        tokens: Targets trained on.
        elapsed_s: Training time without pauses.
        best_accuracy: Eval token accuracy of the best evaluation by `best_metric`, -1 before the first one.
        best_loss: Eval loss of the best evaluation, None if unknown.
        best_step: Step of the best evaluation.
        best_scheduled: Scores of the best scheduled evaluation, with which early stopping compares; None if those are
            the scores of the best evaluation.
        evaluations_without_improvement: Scheduled evaluations since then that count towards `patience`.
        patience_from: Step from which early stopping counts: that of the best scheduled evaluation, or of a later
            resume.
        eval_sha256: Digest of the eval text, "" if unknown; scores of different texts cannot be compared.
        eval_windows: Windows of the part of the eval text that every evaluation scores, 0 for the complete text.
        step_loss: Loss of the last step in nats per token; None before the first, and where the step was skipped.
        train_loss: Moving average of the step losses (`gpt_core.training.metrics.smooth`), None without one.
        averaged_steps: Number of losses in that average.
        last_losses: Losses of the last steps, by which a divergence is detected (`gpt_core.training.losses`).
        high_loss_since: Step since which losses have been too high, None while they are not.
        last_eval: Scores of the last evaluation, None without one.
        loss_sum: Sum of the losses of all targets in the current epoch, in nats.
        loss_count: Number of these targets.
        skipped_in_a_row: Updates skipped in a row because the loss or the gradient was not finite.
        evaluation_due: True if an evaluation is pending at this step.
        random_state: Unused: "" in every file. It remains because files of all versions have the field. Random numbers
            are computed from the seed and the step.
        finished: Reason why the run ended, "" for one that has not.
        origin: The checkpoint that the run started from, None for random weights.
        start_scores: Scores before the first step of such a run, on the same part of the same eval text as later ones;
            None if unknown.
        plan: Plan of the rest of a run that has a time budget, None without one.
        induction_head: The first induction head of the run, None before it was found.
    """

    run_id: Annotated[str, Meta(min_length=1, max_length=64)]
    step: Count = 0
    epoch: Count = 0
    window: Count = 0
    tokens: Count = 0
    elapsed_s: Seconds = 0.0
    best_accuracy: Annotated[float, Meta(ge=-1.0, le=1.0)] = -1.0
    best_loss: float | None = None
    best_step: Count = 0
    best_scheduled: BestScores | None = None
    # earlier versions counted epochs, and saved the counter under this name
    evaluations_without_improvement: Count = msgspec.field(default=0, name="epochs_without_improvement")
    patience_from: Count = 0
    eval_sha256: Annotated[str, Meta(max_length=64)] = ""
    eval_windows: Count = 0
    step_loss: float | None = None
    train_loss: float | None = None
    averaged_steps: Count = 0
    last_losses: Annotated[tuple[float, ...], Meta(max_length=64)] = ()
    high_loss_since: Count | None = None
    last_eval: EvalScores | None = None
    loss_sum: float = 0.0
    loss_count: Count = 0
    skipped_in_a_row: Count = 0
    evaluation_due: bool = False
    random_state: Annotated[str, Meta(max_length=1 << 20)] = ""
    finished: Annotated[str, Meta(max_length=64)] = ""
    origin: Origin | None = None
    start_scores: EvalScores | None = None
    plan: Plan | None = None
    induction_head: InductionHead | None = None

    @property
    def scores(self) -> EvalScores | None:
        """Scores of this very step, None if it was not evaluated."""
        return self.last_eval if self.last_eval is not None and self.last_eval.step == self.step else None

    @property
    def is_scored(self) -> bool:
        """True if there is a best evaluation."""
        return self.best_accuracy >= 0

    @property
    def best(self) -> BestScores:
        """Scores of the best evaluation."""
        return BestScores(self.best_accuracy, self.best_loss)

    def forget_best(self) -> None:
        """Begin a new best score and a new patience at this step."""
        self.best_accuracy, self.best_loss, self.best_step, self.best_scheduled = -1.0, None, 0, None
        self.restart_patience()

    def restart_patience(self) -> None:
        """Begin a new patience at this step."""
        self.evaluations_without_improvement, self.patience_from = 0, self.step


def new_run_id() -> str:
    """Return a unique identifier for a new run."""
    return secrets.token_hex(8)
