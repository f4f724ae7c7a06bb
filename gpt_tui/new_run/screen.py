"""The set-up screen: every setting of a run as a field, what the run would take, and its start."""

from __future__ import annotations

from dataclasses import dataclass

from textual import events, on, work
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from gpt_core.config.presets import DEFAULT_PRESET
from gpt_core.config.settings import Settings
from gpt_core.errors import ConfigError
from gpt_core.home import expand_home
from gpt_tui.new_run.estimate import RunEstimate, asking_first, ready_words, text_still_holds
from gpt_tui.new_run.fields import Checked, changed, check, explanation, named_preset, texts_of, with_preset
from gpt_tui.new_run.files import DEFAULT_NAME, config_exists, path_problem, save_config
from gpt_tui.new_run.form import SetupForm
from gpt_tui.new_run.panel import SetupPanel
from gpt_tui.new_run.probe import FolderSeen, Prober, Probes, StepTimed, TextsRead, threads_of
from gpt_tui.shared.bindings import bindings
from gpt_tui.shared.button_row import ButtonRow
from gpt_tui.shared.dialogs import Choice, ChoiceScreen
from gpt_tui.shared.file_name_dialog import FileNameScreen
from gpt_tui.shared.footer import FooterBar
from gpt_tui.shared.sanitize import one_line


@dataclass(frozen=True)
class FormState:
    """What is typed: the preset that it began with, and the text of every field."""

    preset_name: str
    texts: dict[str, str]


@dataclass(frozen=True)
class SetupResult:
    """How the screen was left: what is typed there and, if a run is to start, its settings and their preset."""

    draft: FormState
    settings: Settings | None = None
    preset_name: str = ""


def first_draft(settings: Settings, preset_name: str) -> FormState:
    """The settings in force, as they are typed."""
    return FormState(preset_name or DEFAULT_PRESET, texts_of(settings))


class SetupScreen(Screen[SetupResult]):
    """Shows a draft, checks it with each key, and looks at what it would take once the typing has come to rest."""

    AUTO_FOCUS = "#setting-preset"
    BINDINGS = bindings("setup")

    def __init__(self, draft: FormState, probes: Probes) -> None:
        super().__init__()
        self._draft = draft
        self._probes = probes
        self._prober = Prober(probes, self.post_message)
        self._asked = 0
        self._asks = ""  # what a start would ask about
        self._checked = Checked(None, {})

    def compose(self) -> ComposeResult:
        """Title, form and panel, the field that has the focus, the buttons."""
        with Horizontal(id="setup-header"):
            yield Static(" gpt-tui ", id="program", markup=False)
            yield Static(" Set up a run", id="setup-title", markup=False)
            yield Static("", id="setup-state", markup=False)
        with Horizontal(id="setup-body"):
            yield SetupForm(self._draft.preset_name, self._draft.texts, id="setup-form")
            yield SetupPanel(id="setup-panel")
        yield Static("", id="setup-asks", markup=False)
        yield Static("", id="setup-field", markup=False)
        yield Static("", id="setup-hint", markup=False)
        yield ButtonRow("setup", id="setup-controls")
        yield FooterBar()

    def on_mount(self) -> None:
        """The first check."""
        self._check()

    def on_unmount(self) -> None:
        """Nobody waits for a timing any more."""
        self._prober.cancel()

    @property
    def form(self) -> SetupForm:
        """The fields."""
        return self.query_one(SetupForm)

    @property
    def panel(self) -> SetupPanel:
        """What it takes."""
        return self.query_one(SetupPanel)

    @property
    def draft(self) -> FormState:
        """What is typed now."""
        return FormState(self.form.preset_name, self.form.texts)

    # -- what is typed

    @on(SetupForm.Changed)
    def _fields_changed(self, message: SetupForm.Changed) -> None:
        message.stop()
        if message.preset_chosen:
            self.form.fill(with_preset(self.form.texts, message.preset_chosen))
        self._check()

    def _check(self) -> None:
        """Marks the fields, and asks what the run would take."""
        draft, before = self.draft, self._checked
        self._checked = check(draft.texts, path_problem)
        differing = changed(draft.texts, draft.preset_name)
        self.form.mark(self._checked.problems.keys(), differing)
        self.form.border_subtitle = f"• {len(differing)} not as in {draft.preset_name}" if differing else ""
        self._show_field()
        allowed = {"begin_run", "save_config", "leave_setup"} if self._checked.settings else {"leave_setup"}
        self.query_one(ButtonRow).allow(allowed)
        if self._checked.settings is None:
            self._prober.cancel()
            self.panel.prospect = RunEstimate()
        elif self._checked.settings != before.settings:
            self._ask(self._checked.settings)

    def _ask(self, settings: Settings) -> None:
        self._asked = self._prober.ask(settings)
        before = self.panel.prospect
        self.panel.prospect = RunEstimate(
            settings, threads_of(settings), self._probes.free_memory(),
            texts=before.texts if text_still_holds(before, settings) else None,
            time=self._prober.known_time(settings),
        )  # fmt: skip

    def on_descendant_focus(self, _event: events.DescendantFocus) -> None:
        """Another field is explained."""
        self._show_field()

    def _show_field(self) -> None:
        """The field that has the focus, what it may be or else what is wrong, and whether all is right."""
        name, problems = self.form.focused, self._checked.problems
        meaning, may_be = explanation(name, self.form.preset_name) if name else ("", "")
        words = problems.get(name) or next(iter(problems.values()), "")
        self.query_one("#setup-field", Static).update(Content(meaning), layout=False)
        hint = self.query_one("#setup-hint", Static)
        hint.set_class(bool(words), "-bad")
        hint.update(Content(f"✗ {one_line(words)}" if words else may_be), layout=False)
        shown = self.query_one("#setup-state", Static)
        shown.set_class(bool(problems), "-bad")
        shown.update(Content(f"{ready_words(len(problems), asks=bool(self._asks))} "), layout=False)

    @on(ButtonRow.Pressed)
    async def _button_pressed(self, message: ButtonRow.Pressed) -> None:
        message.stop()
        await self.run_action(message.action)

    # -- what was found out

    def on_folder_seen(self, message: FolderSeen) -> None:
        """What a start would ask about."""
        if message.number != self._asked:
            return
        self._asks = asking_first(message.models_dir, message.in_the_way)
        line = self.query_one("#setup-asks", Static)
        line.display = bool(self._asks)
        line.update(Content(self._asks))
        self._show_field()

    def on_texts_read(self, message: TextsRead) -> None:
        """The text, or what is wrong with it."""
        if message.number == self._asked:
            self.panel.prospect = self.panel.prospect._replace(texts=message.texts, texts_words=message.problem)

    def on_step_timed(self, message: StepTimed) -> None:
        """The speed, or why it is not known."""
        if message.number == self._asked:
            self.panel.prospect = self.panel.prospect._replace(time=message.step_time, time_words=message.problem)

    # -- what can be done

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Nothing can be started or saved while a field is wrong."""
        if action in ("begin_run", "save_config") and self._checked.settings is None:
            return None
        return True

    def action_next_field(self) -> None:
        """Down."""
        self.focus_next()

    def action_previous_field(self) -> None:
        """Up."""
        self.focus_previous()

    def action_leave_setup(self) -> None:
        """Back to the Train tab."""
        self.dismiss(SetupResult(self.draft))

    def action_begin_run(self) -> None:
        """The run starts."""
        if (settings := self._checked.settings) is not None:
            self._prober.cancel()
            self.dismiss(SetupResult(self.draft, settings, named_preset(settings, self.form.preset_name)))

    @work
    async def action_save_config(self) -> None:
        """Asks for a name, and before another file is replaced."""
        settings, preset_name = self._checked.settings, self.form.preset_name
        if settings is None:
            return
        words = (
            "The preset and what differs from it, as TOML. `gpt-tui --config FILE` starts the same run. Enter saves."
        )
        name = await self.app.push_screen_wait(FileNameScreen("Save as a config file", words, DEFAULT_NAME))
        if not name:
            return
        try:
            path = expand_home(name)
        except ConfigError as error:
            self._not_saved(error)
            return
        overwrite = config_exists(path)
        if overwrite:
            replace = Choice("r", "Replace it", "replace")
            question = ChoiceScreen("Replace the file?", f"{one_line(name)} is there already.", (replace,))
            if await self.app.push_screen_wait(question) != "replace":
                return
        try:
            save_config(path, preset_name, settings, overwrite=overwrite)
        except ConfigError as error:
            self._not_saved(error)
        else:
            self.notify(f"`gpt-tui --config {one_line(name)}` starts this run", title="saved", markup=False)

    def _not_saved(self, error: ConfigError) -> None:
        self.notify(one_line(str(error)), title="not saved", severity="error", timeout=15, markup=False)
