"""Set-up screen: a field per setting, an estimate of the run, and its start."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Callable
from functools import partial

from textual import events, on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from gpt_core.config.presets import PRESETS
from gpt_core.config.settings import Settings
from gpt_core.errors import ConfigError, GptError
from gpt_core.home import expand_home
from gpt_core.training.fine_tuning import nearest_preset
from gpt_tui.new_run.estimate import existing_run_note, ready_note
from gpt_tui.new_run.fields import (
    INDEPENDENT,
    Validated,
    changed,
    changed_note,
    explanation,
    start_settings,
    texts_of,
    title,
    validate,
    with_preset,
    with_start,
)
from gpt_tui.new_run.files import DEFAULT_NAME, path_problem, save_config
from gpt_tui.new_run.form import SetupForm
from gpt_tui.new_run.form_state import FormState, SetupResult, typed_after
from gpt_tui.new_run.panel import EstimatePanel, FieldPanel
from gpt_tui.new_run.probe import MEASURING, BudgetChosen, EstimateChanged, Prober, Probes, choose_in_thread
from gpt_tui.shared.bindings import bindings, keymap_of
from gpt_tui.shared.button_row import ButtonRow
from gpt_tui.shared.dialogs import Choice, ChoiceScreen
from gpt_tui.shared.file_name_dialog import FileNameScreen
from gpt_tui.shared.footer import FooterBar
from gpt_tui.shared.formatting import minutes_text
from gpt_tui.shared.keymap import action_of, shown_keys
from gpt_tui.shared.ordered_keys import OpeningScreen, OrderedEvent
from gpt_tui.shared.sanitize import one_line

CHOOSE = "Choose model and schedule"
DECISIVE = {"minutes", "train_file"}  # fields from which a model for a time budget follows


class TimeLine(Static):
    """Line about the time budget. A click chooses the model."""


class SetupScreen(OpeningScreen[SetupResult | None]):
    """Form that is validated with each key. Once typing pauses, the run is estimated in a thread.

    The screen is shown before its fields. The result is None if the form was left as it was, or could not be filled,
    which a notification explains.

    Args:
        read: Returns the initial state of the form, in a thread; raises GptError if there is none.
        probes: Measurements.
        focus: Name of the field that has the focus at first.
    """

    AUTO_FOCUS = ""
    BINDINGS = bindings("setup")

    def __init__(self, read: Callable[[], FormState], probes: Probes, *, focus: str = "preset") -> None:
        super().__init__()
        self._read = read
        self._focus_first = focus
        self._initial: FormState | None = None
        self._probes = probes
        self._prober = Prober(probes, self.post_message)
        self._existing_run_note = ""
        self._validated = Validated(None, {})
        self._typed: frozenset[str] = frozenset()
        self._model_reason = ""
        self._measured_for: FormState | None = None
        """State of the form for whose time budget this machine is measured, None without a measurement."""

    def compose(self) -> ComposeResult:
        """Lay out header, form and estimate, explanation of the focused field, buttons."""
        with Horizontal(id="setup-header"):
            yield Static(" gpt-tui ", id="program", markup=False)
            yield Static("", id="setup-title", markup=False)
            yield Static("opening … ", id="setup-state", markup=False)
        with Horizontal(id="setup-body"):
            yield SetupForm(id="setup-form")
            with Vertical(id="setup-side"):
                yield EstimatePanel(id="setup-panel")
                yield FieldPanel("", id="setup-explanation", markup=False)
        yield Static("", id="setup-asks", markup=False)
        yield TimeLine("", id="setup-time", markup=False)
        yield Static("", id="setup-field", markup=False)
        yield Static("", id="setup-hint", markup=False)
        yield ButtonRow("setup", id="setup-controls")
        yield FooterBar()

    def on_mount(self) -> None:
        """Show the screen without its fields, then open the form."""
        self._show_actions()
        self.call_after_refresh(self._open)

    @work
    async def _open(self) -> None:
        """Fill the form, validate it, and give the first field the focus."""
        form = self.form
        try:
            initial = await asyncio.to_thread(self._read)
        except GptError as error:
            if self.app.screen_stack[-1:] == [self]:  # else it was left meanwhile, or the app is ending
                self.dismiss(None)
                self.app.notify(one_line(error.reason), severity="error", markup=False)
            return
        await form.show_fields(initial.preset_name, initial.texts)
        first = next(iter(self.query(f"#setting-{self._focus_first}")), None)
        if first is None or not self.is_attached or self not in self.app.screen_stack:
            return  # it was left meanwhile, or the app is ending
        self._initial, self._typed, self._model_reason = initial, initial.typed, initial.model_reason
        self.set_focus(first)  # at once, unlike Widget.focus
        self.is_open = True
        self._validate()

    def acts_at_once(self, event: OrderedEvent) -> bool:
        """Return True for the keys that leave the screen or the app."""
        if not isinstance(event, events.Key):
            return False
        keymap = keymap_of(self.app)
        leaves = action_of(event.key, "setup", keymap) == "leave_setup"
        return leaves or action_of(event.key, "everywhere", keymap) == "interrupt"

    def on_unmount(self) -> None:
        """Stop the probe."""
        self._prober.cancel()

    @property
    def form(self) -> SetupForm:
        """The form."""
        return self.query_one(SetupForm)

    @property
    def panel(self) -> EstimatePanel:
        """The estimate."""
        return self.query_one(EstimatePanel)

    @property
    def form_state(self) -> FormState:
        """The state of the form."""
        return FormState(self.form.preset_name, self.form.texts, self._typed, self._model_reason)

    # -- form

    @on(SetupForm.Changed)
    def _fields_changed(self, message: SetupForm.Changed) -> None:
        message.stop()
        self._typed = typed_after(self._typed, message.typed)
        self._model_reason = ""
        if message.preset_chosen:
            self.form.fill(with_preset(self.form.texts, message.preset_chosen, self._read_start(), self._probes.ranks))
        elif message.typed == "init_from":
            self._start_chosen()
        self._validate()

    def _read_start(self) -> Settings | None:
        """Return the settings of the checkpoint that the run starts from, None without one or if it is not valid."""
        path = self.form.texts["init_from"].strip()
        try:
            return start_settings(str(expand_home(path))) if path else None
        except GptError:
            return None

    def _start_chosen(self) -> None:
        """Fill the fields that depend on the checkpoint that the run starts from."""
        start = self._read_start()
        if start is not None:
            self.form.use_preset(nearest_preset(start.shape))
        elif self.form.texts["init_from"].strip():
            return  # not valid, or not typed to its end
        self.form.fill(with_start(self.form.texts, self.form.preset_name, start))

    def _validate(self) -> None:
        """Mark the fields, and update the estimate."""
        form_state = self.form_state
        self._validated = validate(form_state.texts, path_problem, self._probes.ranks)
        if self._validated.settings is None:
            self._prober.clear()
        elif self._measured_for is None:
            self._prober.start(self._validated.settings)
        self.panel.estimate = self._prober.estimate
        self.query_one("#setup-title", Static).update(Content(f" {title(form_state.texts)}"), layout=False)
        self.form.border_subtitle = changed_note(form_state.texts, form_state.preset_name)
        self._show_problems()
        self._show_time()

    @property
    def _problems(self) -> dict[str, str]:
        """Error message of each field that keeps the run from starting."""
        return self._validated.problems | self._prober.estimate.problems

    @property
    def _startable(self) -> Settings | None:
        """Settings of the run, None while a field keeps it from starting."""
        return None if self._prober.estimate.problems else self._validated.settings

    def _show_problems(self) -> None:
        """Mark the invalid fields, and show what they keep from being done."""
        self.form.mark(self._problems.keys(), changed(self.form.texts, self.form.preset_name))
        self._show_field()
        self._show_actions()

    def _show_actions(self) -> None:
        """Show which actions are enabled."""
        actions = ("begin_run", "save_config", "leave_setup")
        self.query_one(ButtonRow).allow({action for action in actions if self.check_action(action, ())})
        self.refresh_bindings()

    def on_descendant_focus(self, _event: events.DescendantFocus) -> None:
        """Explain the focused field."""
        if self.is_open:
            self._show_field()

    def _show_field(self) -> None:
        """Show the meaning of the focused field or its error, and if the run can start."""
        name, problems = self.form.focused, self._problems
        init_from = self.form.texts["init_from"].strip()
        meaning, valid_values = explanation(name, self.form.preset_name, init_from) if name else ("", "")
        problem = problems.get(name) or next(iter(problems.values()), "")
        self.query_one("#setup-field", Static).update(Content(meaning))
        self.query_one(FieldPanel).explain(name, meaning, valid_values)
        hint = self.query_one("#setup-hint", Static)
        hint.set_class(bool(problem), "-bad")
        hint.update(Content(f"✗ {one_line(problem)}" if problem else valid_values))
        shown = self.query_one("#setup-state", Static)
        shown.set_class(bool(problems), "-bad")
        shown.update(Content(f"{ready_note(len(problems), asks=bool(self._existing_run_note))} "), layout=False)

    @on(ButtonRow.Pressed)
    async def _button_pressed(self, message: ButtonRow.Pressed) -> None:
        message.stop()
        await self.run_action(message.action)

    @on(EstimateChanged)
    def _estimate_changed(self) -> None:
        """Show the estimate, a text that cannot be used, and that starting asks because of an existing run."""
        before, estimate = self.panel.estimate, self._prober.estimate
        self.panel.estimate = estimate
        if before is None or estimate.problems != before.problems:
            self._show_problems()
            self._show_time()
        if estimate.settings is not None:
            self._show_existing_run(existing_run_note(estimate.settings.models_dir, estimate.existing_run))

    def _show_existing_run(self, note: str) -> None:
        if note != self._existing_run_note:
            self._existing_run_note = note
            line = self.query_one("#setup-asks", Static)
            line.display = bool(note)
            line.update(Content(note))
            self._show_field()

    # -- time budget

    def _can_choose(self) -> bool:
        """Return True if the model can follow from the time that was typed."""
        settings = self._startable
        return (
            self._probes.budget is not None and self._measured_for is None and settings is not None
            and settings.minutes > 0 and not settings.overfit_tiny
        )  # fmt: skip

    def _show_time(self, problem: str = "") -> None:
        """Show how to choose the model for the time that was typed, or why it was chosen."""
        text = self._model_reason
        if problem:
            text = f"model not chosen: {problem}"
        elif self._measured_for is not None:
            text = MEASURING
        elif not text and self._typed & DECISIVE and (settings := self._startable) and self._can_choose():
            key = shown_keys(keymap_of(self.app))["choose_model"]
            text = f"{key} {CHOOSE} for {minutes_text(settings.minutes)}"
        line = self.query_one(TimeLine)
        line.display = bool(text)
        line.update(Content(f"• {one_line(text)}"))

    def action_choose_model(self) -> None:
        """Measure this machine, in a thread, and fill the form with what follows from the time that was typed."""
        settings, budget = self._startable, self._probes.budget
        if settings is None or budget is None or not self._can_choose():
            return
        self._prober.cancel()
        form_state = self._measured_for = self.form_state
        self._show_time()
        self._show_actions()
        typed = {name: form_state.texts[name] for name in (*INDEPENDENT, *sorted(form_state.typed - {"preset"}))}
        preset_name = form_state.preset_name if "preset" in form_state.typed else ""
        choose_in_thread(partial(budget, settings.minutes, typed, preset_name), self.post_message)

    def on_budget_chosen(self, message: BudgetChosen) -> None:
        """Fill the fields that were not typed, unless others were typed meanwhile."""
        measured_for, self._measured_for = self._measured_for, None
        if message.request is not None and measured_for == self.form_state:
            settings, before = message.request.settings, self.form.texts
            kept = {name: before[name] for name in (*INDEPENDENT, *self._typed) if name in before}
            if message.request.preset_name in PRESETS:
                self.form.use_preset(message.request.preset_name)
            self.form.fill(texts_of(settings) | kept)
            self._model_reason = message.request.model_reason
        self._validate()
        if message.problem:
            self._show_time(message.problem)

    @on(events.Click, "#setup-time")
    def _time_clicked(self) -> None:
        self.action_choose_model()

    # -- actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable starting and saving while a field is invalid, and starting while the model is chosen."""
        if action in ("begin_run", "save_config") and self._startable is None:
            return None
        if action == "begin_run" and self._measured_for is not None:
            return None
        return None if action == "choose_model" and not self._can_choose() else True

    def action_next_field(self) -> None:
        """Focus the next field."""
        self.focus_next()

    def action_previous_field(self) -> None:
        """Focus the previous field."""
        self.focus_previous()

    def action_leave_setup(self) -> None:
        """Return to the tab below without a start."""
        is_changed = self._initial is not None and self.form_state != self._initial
        self.dismiss(SetupResult(self.form_state, self._validated) if is_changed else None)

    def action_begin_run(self) -> None:
        """Start the run."""
        if self._startable is not None:
            self._prober.cancel()
            self.dismiss(SetupResult(self.form_state, self._validated, starts=True))

    @work
    async def action_save_config(self) -> None:
        """Save the settings as a config file; ask for a name, and before replacing a file."""
        settings, preset_name = self._startable, self.form.preset_name
        if settings is None:
            return
        text = (
            "Name the file, and press Enter to save (Esc: cancel). It holds the preset and the changed settings as "
            "TOML; `gpt-tui --config FILE` starts the same run."
        )
        name = await self.app.push_screen_wait(FileNameScreen("Save as a config file", text, DEFAULT_NAME))
        if not name:
            return
        try:
            path = expand_home(name)
        except ConfigError as error:
            self._not_saved(error)
            return
        overwrite = os.path.lexists(path)
        if overwrite:
            replace = Choice("r", "Replace it", "replace")
            question = ChoiceScreen("Replace the file?", f"{one_line(name)} already exists.", (replace,))
            if await self.app.push_screen_wait(question) != "replace":
                return
        try:
            save_config(path, preset_name, settings, overwrite=overwrite)
        except ConfigError as error:
            self._not_saved(error)
        else:
            self.notify(
                f"`gpt-tui --config {one_line(shlex.quote(name))}` starts this run", title="saved", markup=False
            )

    def _not_saved(self, error: ConfigError) -> None:
        self.notify(one_line(str(error)), title="not saved", severity="error", timeout=15, markup=False)
