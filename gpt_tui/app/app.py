"""The application: owns the training controller, drains it, announces its events, and shuts down in order."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePath
from typing import ClassVar

from textual import events, on
from textual.app import SystemCommand
from textual.binding import BindingType
from textual.driver import Driver
from textual.screen import Screen
from textual.widgets import Input, TextArea
from textual.widgets.input import Selection as InputSelection
from textual.widgets.text_area import Selection as TextSelection

from gpt_core.config.settings import Settings
from gpt_core.distributed.communicator import RankError
from gpt_core.errors import EXIT_FAILED, EXIT_HANGUP, EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED, ConfigError
from gpt_core.files import reason as cause_of
from gpt_core.training.events import (
    AnyEvent,
    CheckpointSaved,
    EvalCompleted,
    LogFailed,
    LossDiverged,
    RunFinished,
    SaveFailed,
)
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_tui.app.key_sequences import add_key_sequences
from gpt_tui.app.main_screen import MainScreen
from gpt_tui.app.paste_parser import add_paste_parser
from gpt_tui.app.preferences import NO_PREFERENCES, Preferences
from gpt_tui.headless.signals import SAME_PRESS_S
from gpt_tui.new_run.probe import Probes
from gpt_tui.new_run.screen import SetupScreen
from gpt_tui.run_view.surprise.screen import SurpriseScreen
from gpt_tui.session.controller import OpenRun, TrainingController
from gpt_tui.session.models import MakeGenerator, make_generator
from gpt_tui.session.outcome_text import divergence, ending, log_failure, verdict
from gpt_tui.session.run_state import is_unsaved
from gpt_tui.session.run_text import advice, divergence_so_far
from gpt_tui.shared.bindings import bindings, keymap_of
from gpt_tui.shared.dialogs import quit_question
from gpt_tui.shared.error_log import log_path
from gpt_tui.shared.formatting import integer
from gpt_tui.shared.keymap import KEYS, other_names, shown_keys
from gpt_tui.shared.ordered_keys import OrderedEvent, OrderedKeysApp
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.standard_streams import is_terminal
from gpt_tui.shared.theme import NIGHT, OWN_THEMES, own_variables
from gpt_tui.shell.help import HelpScreen
from gpt_tui.shell.palette import Palette
from gpt_tui.tabs.train.guide import Guide
from gpt_tui.tabs.train.presenter import next_steps

DRAIN_INTERVAL_S = 0.25
COLLECT_INTERVAL_S = 60.0
NOT_SAVED = "not saved"
LEFT_OUT = ("Quit", "Keys", "Maximize", "Minimize")
"""Textual's commands that the palette lacks: the key table has the first two, and one widget alone has no tabs"""
NEVER = 1_000_000  # collections of the young generations per full collection
PACKAGE = Path(__file__).parents[1]
STYLES: list[str | PurePath] = [PACKAGE / name for name in (
    "shell/base.tcss", "tabs/train/train.tcss", "tabs/chat/chat.tcss", "tabs/checkpoints/checkpoints.tcss",
    "tabs/runs/runs.tcss", "tabs/inside/inside.tcss", "new_run/new_run.tcss", "run_view/surprise/surprise.tcss",
    "shared/dialogs.tcss",
)]  # fmt: skip
SCREENS = {SetupScreen: "setup", SurpriseScreen: "tokens"}  # as in the key table
WIDTHS = [
    (0, "-narrow"),
    (100, "-wide"),
    (140, "-very-wide"),
]  # minimum columns, and the class that the style sheets use from there
HEIGHTS = [(0, "-low"), (32, "-tall")]


class GptApp(OrderedKeysApp):
    """The gpt-tui application.

    Args:
        settings: Settings of the next run.
        preset_name: Preset that the settings began with, "" for none.
        request: Run to start at once.
        watched: Folder of a run in another process, which the Runs tab follows.
        open_run: Opens a requested run.
        make: Makes the generator of a loaded model.
        preferences: Theme and keys.
        probes: Measurements of the set-up screen.
        countdown_s: Seconds after which a first run starts, 0 for no countdown.
        first_minutes: Time budget of the first run of the session, 0 for the settings as they are.
        remember_theme: Saves the name of a theme that is picked.
        remember_guide: Saves which notes of the guide were shown; None for no notes.
        owns_process: True to adjust the garbage collector of the process.
        end_run: Called after the last event of a run on several ranks (`TrainingController`).
        check_ranks: Raises RankError if another rank has failed or is lost.
    """

    CSS_PATH = STYLES
    TITLE = "gpt-tui"
    BINDINGS: ClassVar[list[BindingType]] = bindings("everywhere")
    HORIZONTAL_BREAKPOINTS = WIDTHS
    VERTICAL_BREAKPOINTS = HEIGHTS

    def __init__(
        self,
        settings: Settings,
        preset_name: str = "",
        *,
        request: RunRequest | None = None,
        watched: Path | None = None,
        open_run: OpenRun = open_run,
        make: MakeGenerator = make_generator,
        preferences: Preferences = NO_PREFERENCES,
        probes: Probes | None = None,
        countdown_s: float = 0.0,
        first_minutes: float = 0.0,
        remember_theme: Callable[[str], None] | None = None,
        remember_guide: Callable[[str], None] | None = None,
        owns_process: bool = False,
        end_run: Callable[[], int] | None = None,
        check_ranks: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        add_key_sequences()
        add_paste_parser()
        for theme in OWN_THEMES:
            self.register_theme(theme)
        self._remember_theme = remember_theme
        self._reported: set[str] = set()
        self._remembered_theme = preferences.theme or NIGHT.name
        self.theme = self._remembered_theme
        self.set_keymap(preferences.keys)
        self.controller = TrainingController(
            open_run, self.post_message, log_path(settings.models_dir), end_run=end_run
        )
        self._check_ranks = check_ranks
        self.lost: RankError | None = None
        """Failure or loss of another rank, None without one."""
        self.main = MainScreen(
            self.controller,
            settings,
            preset_name,
            make,
            probes or Probes(),
            watched=watched,
            countdown_s=countdown_s,
            first_minutes=first_minutes,
            guide=Guide(preferences.guide, remember_guide and self._guide_rememberer(remember_guide)),
        )
        self._request = request
        self._owns_process = owns_process
        self._exit_code: int | None = None
        self._quit_requested_s = 0.0
        self._questioned_save = 0  # number of the failed last save that a dialog asked about
        self.forced = False
        """True after quitting twice: only a save in progress is waited for"""
        self.exit_message = ""
        self._layout_hinted = False

    def get_default_screen(self) -> Screen[None]:
        """Return the main screen."""
        return self.main

    def on_mount(self) -> None:
        """Start the drain timer, the signal handlers and the requested run."""
        self.set_interval(DRAIN_INTERVAL_S, self.tick)
        self._handle_signals()
        self.call_after_refresh(self.watch_sub_title, self.sub_title)
        if self._owns_process:
            self.call_after_refresh(self._collect_rarely)
        if self._request:
            self.call_after_refresh(self.main.train.request_run, self._request)

    def _collect_rarely(self) -> None:
        """Collect garbage once per minute, without the modules and widgets that exist now.

        A full collection that visits them takes 50 ms, which would delay a key. Young generations are collected as
        usual.
        """
        gc.freeze()
        gc.set_threshold(*gc.get_threshold()[:2], NEVER)
        self.set_interval(COLLECT_INTERVAL_S, self._collect)

    def _collect(self) -> None:
        gc.collect()

    def get_css_variables(self) -> dict[str, str]:
        """Return Textual's variables of the theme, with those that it lacks and text of enough contrast."""
        self.theme_variables = super().get_css_variables() | own_variables(self.current_theme)
        return self.theme_variables

    def get_driver_class(self) -> type[Driver]:
        """Return Textual's driver, on Linux and macOS those for terminals that may hang up."""
        chosen = super().get_driver_class()
        if chosen.__name__ == "LinuxDriver":
            if is_terminal(sys.__stdin__):
                from gpt_tui.app.driver import HangupSafeDriver

                return HangupSafeDriver
            from gpt_tui.app.launcher_driver import LauncherDriver

            return LauncherDriver
        return chosen

    def deliver_screenshot(
        self, filename: str | None = None, path: str | None = None, time_format: str | None = None
    ) -> str | None:
        """Save a screenshot beside the run, or in the working folder where that is not possible."""
        models_dir = self.main.models_dir
        folder = models_dir if os.access(models_dir, os.W_OK | os.X_OK) else Path()
        return super().deliver_screenshot(filename, path or str(folder), time_format)

    @on(events.DeliveryComplete)
    def _name_screenshot(self, event: events.DeliveryComplete) -> None:
        """Name the file of a screenshot as it is: the handler of `App` takes [brackets] in it for markup."""
        if event.name == "screenshot" and event.path is not None:
            event.prevent_default()
            self.notify(f"saved {one_line(str(event.path))}", title="Screenshot", markup=False)

    @on(events.DeliveryFailed)
    def _explain_screenshot(self, event: events.DeliveryFailed) -> None:
        """Say why a screenshot was not saved, which the handler of `App` does not."""
        if event.name == "screenshot":
            event.prevent_default()
            error = event.exception
            cause = cause_of(error) if isinstance(error, OSError) else str(error)
            self.notify(f"not saved: {one_line(cause)}", title="Screenshot", severity="error", markup=False)

    def watch_theme(self, theme: str) -> None:
        """Remember a theme that was picked in the palette."""
        if self._remember_theme is None or not self.is_running or theme == self._remembered_theme:
            return
        self._remembered_theme = theme
        self._save_preference("theme", self._remember_theme, theme)

    def _save_preference(self, name: str, remember: Callable[[str], None], value: str) -> None:
        """Save a preference; report a failure once per cause."""
        try:
            remember(value)
        except (ConfigError, OSError) as error:
            cause = cause_of(error) if isinstance(error, OSError) else str(error)
            text = f"{name} not remembered: {one_line(cause)}"
            if text not in self._reported:
                self._reported.add(text)
                self.notify(text, severity="warning", markup=False)

    def _guide_rememberer(self, remember: Callable[[str], None]) -> Callable[[str], None]:
        return partial(self._save_preference, "guide", remember)

    # -- draining the controller

    def tick(self) -> None:
        """Check the terminal and drain the controller. Called a few times per second."""
        is_lost = getattr(self._driver, "is_lost", None)
        if self._exit_code is None and is_lost and is_lost():
            self.quit(EXIT_HANGUP)
        if follow_size := getattr(self._driver, "follow_size", None):
            follow_size()
        if self._check_ranks is not None and self.lost is None:
            try:
                self._check_ranks()
            except RankError as error:
                self._rank_lost(error)
        self.drain()

    def _rank_lost(self, error: RankError) -> None:
        """End the app because a rank is lost. A run in progress, which detects the loss as well, is saved first."""
        self.lost = error
        if self.controller.alive:
            self.controller.stop(may_ask=False)  # it may wait for an answer, or prepare a text
        else:
            self.exit(return_code=error.exit_code)

    def on_training_controller_updated(self, _message: TrainingController.Updated) -> None:
        """Drain before the next tick."""
        self.drain()

    def drain(self) -> None:
        """Drain the controller, show its state, and announce ends and errors."""
        if not self.controller.alive or not self.is_running or not self.main.is_mounted:
            return
        drained = self.controller.drain()
        self.main.show()
        if self.controller.run.diverging is None:
            self.main.banner.withdraw("divergence")
        ends = any(isinstance(event, RunFinished) for event in drained.notable)
        for event in drained.notable:
            if not (ends and isinstance(event, CheckpointSaved)):  # the end of the run is announced with its checkpoint
                self._announce(event)
        if self.controller.unsaved not in (0, self._questioned_save):
            self._ask_about_unsaved_run()
        if not self.controller.alive:
            self._run_ended()

    def _announce(self, event: AnyEvent) -> None:
        match event:
            case CheckpointSaved(path=path, step=step):
                self.main.banner.withdraw("save")
                if self.controller.take_requested_save(event):
                    self.notify(f"saved {one_line(PurePath(path).stem)} at step {integer(step)}", markup=False)
            case SaveFailed(error=error):
                self.notify(one_line(error), title=NOT_SAVED, severity="error", timeout=15, markup=False)
                self.main.banner.say(f"{NOT_SAVED}: {error}", "bad", about="save")
            case LogFailed():
                self.notify(one_line(log_failure(event)), severity="warning", timeout=15, markup=False)
            case EvalCompleted(step=step) if (found := self.controller.run.used_up) and found.step == step:
                self.notify(advice(self.controller.run), title="text used up", timeout=30, markup=False)
            case LossDiverged(step=step):
                text = f"step {integer(step)}: {divergence(event)}"
                self.main.banner.say(text, "bad", about="divergence")
                if self.main.tab != "train":
                    self.notify(text, title="training is diverging", severity="error", timeout=15, markup=False)
            case RunFinished(reason=reason, step=step) if self._exit_code is None:
                outcome, lines = ending(event), self.controller.run.lines_reproduced
                if reason == "overfit_done" and lines is not None:
                    outcome = f"self-test {verdict(lines)}"
                self.main.banner.say(
                    f"step {integer(step)}: {outcome}. {next_steps(reason, shown_keys(keymap_of(self)))}",
                    "bad" if reason == "diverged" or (lines is not None and not lines.works) else "good",
                )
                if self.main.tab != "train":  # which has the banner
                    self.notify(f"step {integer(step)}: {outcome}", title="run ended", markup=False)

    def _run_ended(self) -> None:
        failure = self.controller.failure
        asking = self._exit_code is None and failure is not None and failure.has_remedy
        self.main.show_end(asks=asking)
        if self.lost is not None or self.controller.fatal is not None:
            self.exit(return_code=EXIT_FAILED)
        elif self._exit_code is not None or self.controller.exit_code:
            self._end(self._exit_code or self.controller.exit_code)
        elif failure and not (asking and failure.run_exists):
            self.main.banner.say(failure.message, "bad")
            if not asking:
                self.notify(failure.message, title="run failed", severity="error", timeout=15, markup=False)

    def watch_sub_title(self, state: str) -> None:
        """Show the state of the run in the title of the browser page, where there is one."""
        show_title = getattr(self._driver, "show_title", None)
        if show_title:
            show_title(f"{state} · {self.title}" if state else self.title)

    # -- quitting

    def _handle_signals(self) -> None:
        """Handle signals: SIGINT, SIGTERM and SIGHUP save and quit; SIGUSR1 saves. Ignored signals stay ignored.

        On Windows the event loop supports no signal handlers.
        """
        loop = asyncio.get_running_loop()
        handlers: dict[str, Callable[[], None]] = {
            "SIGINT": partial(self.quit, EXIT_INTERRUPTED),
            "SIGTERM": partial(self.quit, EXIT_TERMINATED),
            "SIGHUP": partial(self.quit, EXIT_HANGUP),  # see also `tick`
            "SIGUSR1": self.controller.save,
        }
        for name, handler in handlers.items():
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) != signal.SIG_IGN:
                try:
                    loop.add_signal_handler(number, handler)
                except (NotImplementedError, RuntimeError, ValueError):
                    return

    def quit(self, code: int, *, save: bool = True) -> None:
        """Quit after the run has stopped. A second call exits at once, after any save in progress.

        Args:
            code: Exit code.
            save: Save the run first.
        """
        if not self.controller.alive:
            self._end(code)
            return
        again = self._exit_code is not None
        if again and time.monotonic() - self._quit_requested_s > SAME_PRESS_S:
            self.forced = True
            self.controller.stop(save=False)
            self.exit(return_code=code)
            return
        if not again:
            self._quit_requested_s = time.monotonic()
        self._exit_code = code
        self.controller.stop(save=save, may_ask=code in (EXIT_OK, EXIT_INTERRUPTED))
        if save and self.controller.unsaved:
            self.controller.save()
        activity = "saving" if save else "stopping after this step"
        self.main.banner.say(f"{'still ' if again else ''}{activity}, then quitting", "plain")
        self.main.show(at_once=True)

    def _ask_about_unsaved_run(self) -> None:
        """Ask what to do with a run that could not be saved; quitting waits for the answer."""
        self._questioned_save = self.controller.unsaved
        exit_code, self._exit_code = self._exit_code, None

        def answered(answer: str | None) -> None:
            if answer and exit_code is not None:
                self.quit(exit_code, save=answer == "again")
            elif answer == "again":
                self.controller.save()
            elif answer == "discard":
                self.controller.stop(save=False, may_ask=True)
            else:
                keys = shown_keys(keymap_of(self))
                choices = f"({keys['train']}, then {keys['save']}: try again; {keys['request_quit']}: quit)"
                self.main.banner.say(f"{NOT_SAVED} {choices}", "bad", about="save")

        self.main.ask_about_unsaved_run(answered)

    def _end(self, code: int) -> None:
        run = self.controller.run
        if run.save_error:
            self.exit_message = f"not saved: {one_line(run.save_error)}"
        elif run.saved and run.finished:
            self.exit_message = f"saved {one_line(run.saved.path)} at step {integer(run.saved.step)}"
        parts = (self.exit_message, self.controller.kept, divergence_so_far(run))
        self.exit_message = "; ".join(part for part in parts if part)
        request, failure = self.controller.request, self.controller.failure
        was_begun = request is not None and not (failure and failure.run_exists)
        if request and was_begun and is_unsaved(run, request.settings.models_dir):
            code = EXIT_FAILED
        self.exit(return_code=code)

    def action_interrupt(self) -> None:
        """Copy the selected text, else save and quit."""
        field = self.screen.focused
        if selected := self.screen.get_selected_text():
            self.screen.clear_selection()
        elif isinstance(field, Input):
            selected = field.selected_text
            field.selection = InputSelection.cursor(field.selection.end)
        elif isinstance(field, TextArea):
            selected = field.selected_text
            field.selection = TextSelection.cursor(field.selection.end)
        if selected:
            self.copy_to_clipboard(selected)
            self.notify("copied (Ctrl+C again: save and quit)")
        else:
            self.quit(EXIT_INTERRUPTED)

    def action_request_quit(self) -> None:
        """Quit; while a run is in progress, ask for confirmation first."""
        if not self.controller.alive or self._exit_code is not None:
            self.quit(EXIT_OK)
            return

        def answered(answer: str | None) -> None:
            if answer:
                self.quit(EXIT_OK, save=answer == "save")

        if not self.screen.is_modal:
            self.push_screen(quit_question(f"A run is in progress ({self.controller.phase.value})."), answered)

    async def action_quit(self) -> None:
        """Quit from the command palette, with the same confirmation."""
        self.action_request_quit()

    # -- keys

    async def deliver(self, event: OrderedEvent) -> None:
        """Give a letter key that is not bound its name in the other case, or on a Latin layout."""
        if isinstance(event, events.Key) and (others := other_names(event.key)):
            bound = self.screen.active_bindings
            if event.key not in bound:
                other = event.key if event.key.isascii() else others[0]  # not bound: it may be an answer of a dialog
                event.key = next((name for name in others if name in bound), other)
        await super().deliver(event)

    def on_key(self, event: events.Key) -> None:
        """Hint once that the keys are Latin letters, when another letter does nothing."""
        if len(event.key) == 1 and event.key.isalpha() and not event.key.isascii() and not self._layout_hinted:
            self._layout_hinted = True
            self.notify("Keys are Latin letters: switch the keyboard layout", severity="warning")

    # -- navigation

    def action_command_palette(self) -> None:
        """Open the command palette."""
        if not isinstance(self.screen, Palette):
            self.push_screen(Palette(id="--command-palette"))

    def action_help(self) -> None:
        """Show the keys of the visible tab or screen."""
        if not self.screen.is_modal:
            view = next((name for kind, name in SCREENS.items() if isinstance(self.screen, kind)), self.main.tab)
            about = self.main.inside.help_text if view == "inside" else ""
            self.push_screen(HelpScreen(view, keymap_of(self), about))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the key of the visible tab, and those of all tabs on other screens."""
        if action == "go":
            return not isinstance(self.screen, tuple(SCREENS)) and not (
                parameters and self.main.is_mounted and parameters[0] == self.main.tab
            )
        return True

    def action_go(self, tab: str) -> None:
        """Show a tab."""
        self.main.go(tab)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Return the keys that work now as commands, after Textual's that are of use."""
        others = super().get_system_commands(screen)
        yield from (command for command in others if command.title not in LEFT_OUT)
        active = {found.binding.id: found for found in screen.active_bindings.values() if found.enabled}
        for key in KEYS:
            if found := active.get(key.id):
                yield SystemCommand(key.label, key.help, partial(self.run_action, key.action, found.node))
