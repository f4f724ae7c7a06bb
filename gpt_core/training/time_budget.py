"""Time budget of a run: the setting `minutes`, which ends a run by its training time, and the plan of its steps.

Training time is `elapsed_s` of the state: pauses and the time between sessions do not count, evaluations between steps
do. The evaluation at the end and the last saves, which follow when the budget is used, do not.

A schedule that follows the clock would make every run unique. Instead a plan says at which step the run will end, and
the schedule is a function of the step alone until the next plan is made: after steps 1, 2, 4, 8 and so on, and later
whenever an eighth of the rest is over, in steps or in time, so that the end is met within a step. A plan is part of the
training state, with which a resume continues unless it has other limits, and is logged (`PlanMade`). The plans of two
runs differ, as their times do: only the steps between two plans are repeatable.
"""

from __future__ import annotations

import msgspec

from gpt_core.config.settings import MAX_COUNT
from gpt_core.formats.training_state import Plan
from gpt_core.training.events import PlanMade
from gpt_core.training.run import Run

END_STEPS = 3  # before the planned end, of which each may be the last


class TimeBudget:
    """Makes the plans of one run and says how far the run is.

    A run without a budget has the limits of its steps and epochs as its only plan.

    Args:
        run: The run; its state holds the plan.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._state = run, run.state
        self._eval_every = run.settings.eval_every_steps
        self._budget_s = 60 * run.settings.minutes
        if not self._budget_s:
            run.state.plan = None
        elif run.state.plan is None or self._has_other_limits(run.state.plan):
            run.state.plan = self._first_plan()
        self._unreported = run.state.plan is not None

    @property
    def last_step(self) -> int:
        """Step at which the run ends, as far as it is known; 0 before the first step of a run with a budget."""
        plan = self._state.plan
        return self._run.step_limit if plan is None else plan.last_step if plan.step_s else 0

    @property
    def progress(self) -> float:
        """Fraction of the run that is over at the present step."""
        state = self._state
        return state.plan.progress_at(state.step) if state.plan else state.step / max(1, self._run.step_limit)

    @property
    def is_used(self) -> bool:
        """True once the budget is used by the steps so far: the plan of the next boundary says so."""
        return 0 < self._budget_s <= self._state.elapsed_s

    @property
    def may_end(self) -> bool:
        """True if the next step may be the last one: the plan ends within a few steps, as steps differ in time."""
        plan = self._state.plan
        return plan is not None and plan.last_step <= self._state.step + END_STEPS

    def revise(self) -> PlanMade | None:
        """Make the plan that is due at this step, if one is. Report it, and once that of the start of the session."""
        state = self._state
        if state.plan is None:
            return None
        plan = self._next_plan(state.plan) if self._is_due(state.plan) else state.plan
        if plan == state.plan and not self._unreported:
            return None
        state.plan, self._unreported = plan, False
        return PlanMade(**msgspec.structs.asdict(plan))

    def _is_due(self, plan: Plan) -> bool:
        """Return True at the step that the plan names, or before it if an eighth of the time left has passed."""
        state, passed_s = self._state, self._state.elapsed_s - plan.elapsed_s
        is_late = state.step > plan.step and 8 * passed_s >= plan.budget_s - plan.elapsed_s
        return not plan.is_over and (state.step >= plan.next_step or is_late or state.elapsed_s >= self._budget_s)

    def _has_other_limits(self, plan: Plan) -> bool:
        """Return True if the run has another budget than when the plan was made, or another limit on its steps."""
        limit = self._run.step_limit
        is_limit_raised = limit > plan.last_step and not plan.is_ended_by_time
        return plan.budget_s != self._budget_s or limit < plan.last_step or is_limit_raised

    def _first_plan(self) -> Plan:
        """Return the first plan of a run, or of one that is resumed with other limits."""
        state = self._state
        used = min(1.0, max(state.elapsed_s / self._budget_s, state.step / max(1, self._run.step_limit)))
        return self._plan(used, state.elapsed_s / state.step if state.step else 0.0)

    def _next_plan(self, plan: Plan) -> Plan:
        """Return the plan that follows `plan`, with a moving average of the time per step."""
        state, steps = self._state, self._state.step - plan.step
        step_s, passed_s = plan.step_s, max(0.0, self._state.elapsed_s - plan.elapsed_s)
        if steps > 0:
            # after a doubling of the steps only the last ones; later over half of the time that is left, so that a
            # change of speed is noticed in time, but over no less than one evaluation
            window_s = max(passed_s, (self._budget_s - state.elapsed_s) / 2, self._eval_every * step_s)
            weight = 1.0 if 2 * steps >= state.step or window_s == 0 else passed_s / window_s
            step_s += weight * (passed_s / steps - step_s)
        return self._plan(plan.progress_at(state.step), step_s)

    def _plan(self, progress: float, step_s: float) -> Plan:
        state, left_s = self._state, self._budget_s - self._state.elapsed_s
        last = self._run.step_limit
        if left_s <= 0:
            last = state.step
        elif step_s > 0:
            last = min(last, state.step + max(1, round(min(left_s / step_s, MAX_COUNT / 2))))
        return Plan(state.step, progress, max(state.step, last), state.elapsed_s, step_s, self._budget_s)
