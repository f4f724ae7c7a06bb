"""The app: owns the controller, drains it, leaves in good order. What is seen is in the screens."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePath
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.dom import DOMNode
from textual.driver import Driver
from textual.screen import Screen

from gpt_core.config.settings import Settings
from gpt_core.errors import EXIT_FAILED, EXIT_HANGUP, EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED
from gpt_core.home import home_folder
from gpt_core.training.events import AnyEvent, CheckpointSaved, LossDiverged, RunFinished, SaveFailed
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_tui.app.preferences import NO_PREFERENCES, Preferences
from gpt_tui.app.theme import NIGHT, OWN_THEMES, own_variables
from gpt_tui.headless.signals import SAME_PRESS_S
from gpt_tui.new_run.probe import Probes
from gpt_tui.new_run.screen import SetupScreen
from gpt_tui.run_view.status import next_steps
from gpt_tui.session.controller import OpenRun, TrainingController
from gpt_tui.session.run_state import divergence, divergence_so_far, ending, is_unsaved
from gpt_tui.shared.bindings import bindings
from gpt_tui.shared.dialogs import quit_question
from gpt_tui.shared.error_log import log_path
from gpt_tui.shared.formatting import whole
from gpt_tui.shared.keymap import KEYS, Key
from gpt_tui.shared.messages import ControllerUpdated
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shell.help import HelpScreen
from gpt_tui.shell.main_screen import MainScreen
from gpt_tui.shell.palette import Palette
from gpt_tui.tabs.chat.models import MakeGenerator, make_generator

DRAIN_INTERVAL_S = 0.25
COLLECT_INTERVAL_S = 60.0
NEVER = 1_000_000  # younger collections to one of everything
PACKAGE = Path(__file__).parents[1]
STYLES: list[str | PurePath] = [PACKAGE / name for name in (
    "shell/base.tcss", "tabs/train/train.tcss", "tabs/chat/chat.tcss", "tabs/checkpoints/checkpoints.tcss",
    "tabs/runs/runs.tcss", "new_run/new_run.tcss", "shared/dialogs.tcss",
)]  # fmt: skip
WIDTHS = [(0, "-narrow"), (100, "-wide"), (140, "-very-wide")]  # from so many columns on, this class for the styles
HEIGHTS = [(0, "-low"), (32, "-tall")]


class GptApp(App[None]):
    """One controller, one main screen. `request` is begun at once if it is given; `watched` is followed from the start.

    A first start begins a run by itself after `lead_s` seconds (0: never). Where the process is the app's own, its
    garbage is collected when that disturbs least.
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
        lead_s: float = 0.0,
        owns_process: bool = False,
    ) -> None:
        super().__init__()
        for theme in OWN_THEMES:
            self.register_theme(theme)
        self.theme = preferences.theme or NIGHT.name
        self.set_keymap(preferences.keys)
        self.controller = TrainingController(open_run, self.post_message, log_path(settings.models_dir))
        self.main = MainScreen(
            self.controller, settings, preset_name, make, probes or Probes(), watched=watched, lead_s=lead_s
        )
        self._request = request
        self._owns_process = owns_process
        self._leaving: int | None = None
        self._asked_to_leave_s = 0.0
        self._asked_about = 0  # the failed last save that the user was asked about
        self.forced = False
        """Whether leaving was asked for twice: nothing is waited for then but a save that is on its way."""
        self.exit_message = ""

    def get_default_screen(self) -> Screen[None]:
        """The main screen, for good."""
        return self.main

    def on_mount(self) -> None:
        """The pulse, the signals, and the run that was asked for."""
        self.set_interval(DRAIN_INTERVAL_S, self.tick)
        self._listen_to_signals()
        if self._owns_process:
            self.call_after_refresh(self._collect_seldom)
        if self._request:
            self.call_after_refresh(self.main.begin, self._request)

    def _collect_seldom(self) -> None:
        """Modules and widgets stay to the end, and a collection that visits them takes 50 ms from whoever pressed a key
        just then: it visits only what was made since, once a minute. Young garbage goes as ever."""
        gc.freeze()
        gc.set_threshold(*gc.get_threshold()[:2], NEVER)
        self.set_interval(COLLECT_INTERVAL_S, self._collect)

    def _collect(self) -> None:
        gc.collect()

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """The colours that the styles name beside Textual's own."""
        return own_variables(self.current_theme)

    def get_driver_class(self) -> type[Driver]:
        """Textual's choice, but for a terminal that may hang up."""
        chosen = super().get_driver_class()
        if chosen.__name__ == "LinuxDriver":
            from gpt_tui.app.driver import HangupSafeDriver

            return HangupSafeDriver
        return chosen

    def deliver_screenshot(
        self, filename: str | None = None, path: str | None = None, time_format: str | None = None
    ) -> str | None:
        """Save a screenshot in the downloads folder, or in the working folder where there is no home folder."""
        without_home = os.curdir if home_folder() is None else None
        return super().deliver_screenshot(filename, path or without_home, time_format)

    # -- the controller's pulse

    def tick(self) -> None:
        """A few times a second: is the terminal still there, and what has the controller done?"""
        is_lost = getattr(self._driver, "is_lost", None)
        if self._leaving is None and is_lost and is_lost():
            self.leave(EXIT_HANGUP)
        self.drain()

    def on_controller_updated(self, _message: ControllerUpdated) -> None:
        """Something that cannot wait for the timer."""
        self.drain()

    def drain(self) -> None:
        """Takes what the controller has, shows it, and acts on ends and errors."""
        if not self.controller.alive or not self.is_running or not self.main.is_mounted:
            return
        drained = self.controller.drain()
        self.main.show()
        ends = any(isinstance(event, RunFinished) for event in drained.notable)
        for event in drained.notable:
            if not (ends and isinstance(event, CheckpointSaved)):  # one notification at the end is enough
                self._announce(event)
        if self.controller.unsaved not in (0, self._asked_about):
            self._ask_about_unsaved_run()
        if not self.controller.alive:
            self._run_ended()

    def _announce(self, event: AnyEvent) -> None:
        match event:
            case CheckpointSaved(kind=kind, path=path, step=step) if kind != "best":
                self.notify(f"saved {one_line(PurePath(path).stem)} at step {whole(step)}", markup=False)
            case SaveFailed(error=error):
                self.notify(one_line(error), title="not saved", severity="error", timeout=15, markup=False)
                self.main.banner.say(f"not saved: {error}", "bad")
            case LossDiverged(step=step):
                words = f"step {whole(step)}: {divergence(event)}"
                self.main.banner.say(words, "bad")
                if self.main.tab != "train":
                    self.notify(words, title="training diverges", severity="error", timeout=15, markup=False)
            case RunFinished(reason=reason, step=step) if self._leaving is None:
                words = ending(event)
                self.main.banner.say(
                    f"step {whole(step)}: {words}. {next_steps(reason, self.main.shown_keys())}",
                    "bad" if reason == "diverged" else "good",
                )
                if self.main.tab != "train":  # there the banner is enough, and a notification would lie over it
                    self.notify(f"step {whole(step)}: {words}", title="training has ended", markup=False)

    def _run_ended(self) -> None:
        failure = self.controller.failure
        asking = self._leaving is None and failure is not None and failure.run_exists
        self.main.ended(failure.message if failure else "", run_exists=asking)
        if self._leaving is not None:
            self._end(self._leaving)
        elif failure and not asking:
            self.main.banner.say(failure.message, "bad")
            self.notify(failure.message, title="training could not go on", severity="error", timeout=15, markup=False)

    # -- leaving

    def _listen_to_signals(self) -> None:
        """SIGINT, SIGTERM and SIGHUP stop, save and leave; SIGUSR1 saves; one that is ignored at the start stays so.

        Not on Windows, whose loop cannot listen.
        """
        loop = asyncio.get_running_loop()
        handlers: dict[str, Callable[[], None]] = {
            "SIGINT": partial(self.leave, EXIT_INTERRUPTED),
            "SIGTERM": partial(self.leave, EXIT_TERMINATED),
            "SIGHUP": partial(self.leave, EXIT_HANGUP),  # see also `tick`
            "SIGUSR1": self.controller.save,
        }
        for name, handler in handlers.items():
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) != signal.SIG_IGN:
                try:
                    loop.add_signal_handler(number, handler)
                except (NotImplementedError, RuntimeError, ValueError):
                    return

    def leave(self, code: int, *, save: bool = True) -> None:
        """Ends the app with an exit code, after the run has stopped and, unless told otherwise, saved."""
        if not self.controller.alive:
            self._end(code)
            return
        again = self._leaving is not None
        if again and time.monotonic() - self._asked_to_leave_s > SAME_PRESS_S:
            self.forced = True
            self.controller.stop(save=False)
            self.exit(return_code=code)
            return
        if not again:
            self._asked_to_leave_s = time.monotonic()
        self._leaving = code
        self.controller.stop(save=save, may_ask=code in (EXIT_OK, EXIT_INTERRUPTED))
        if save and self.controller.unsaved:
            self.controller.save()
        words = "saving, then" if save else "stopping after this step, then"
        self.main.banner.say(f"{'still ' if again else ''}{words} gpt-tui ends", "plain")
        self.main.show(at_once=True)

    def _ask_about_unsaved_run(self) -> None:
        """Nobody leaves before the user has said what is to become of a run that could not be saved."""
        self._asked_about = self.controller.unsaved
        leaving, self._leaving = self._leaving, None

        def answered(answer: str | None) -> None:
            if answer and leaving is not None:
                self.leave(leaving, save=answer == "again")
            elif answer == "again":
                self.controller.save()
            elif answer == "discard":
                self.controller.stop(save=False, may_ask=True)
            else:
                self.main.banner.say("not saved: w tries again, q leaves", "bad")

        self.main.ask_about_unsaved_run(answered)

    def _end(self, code: int) -> None:
        history = self.controller.history
        if history.save_error:
            self.exit_message = f"not saved: {one_line(history.save_error)}"
        elif history.saved and history.finished:
            self.exit_message = f"saved {one_line(history.saved.path)} at step {whole(history.saved.step)}"
        parts = (self.exit_message, divergence_so_far(history))
        self.exit_message = "; ".join(part for part in parts if part)
        request, failure = self.controller.request, self.controller.failure
        was_begun = request is not None and not (failure and failure.run_exists)
        if request and was_begun and is_unsaved(history, request.settings.models_dir):
            code = EXIT_FAILED
        self.exit(return_code=code)

    def action_interrupt(self) -> None:
        """Ctrl+C: copies what is selected, else stops, saves and leaves."""
        if selected := self.screen.get_selected_text():
            self.copy_to_clipboard(selected)
            self.screen.clear_selection()
            self.notify("copied; press ctrl+c again to save and quit")
        else:
            self.leave(EXIT_INTERRUPTED)

    def action_request_quit(self) -> None:
        """Leaves at once, or asks when a run is under way."""
        if not self.controller.alive or self._leaving is not None:
            self.leave(EXIT_OK)
            return

        def answered(answer: str | None) -> None:
            if answer:
                self.leave(EXIT_OK, save=answer == "save")

        if not self.screen.is_modal:
            phase, history = self.controller.phase, self.controller.history
            where = f" at step {whole(history.step)}" if history.started else ""
            self.push_screen(quit_question(f"A run is under way ({phase.value}{where})."), answered)

    async def action_quit(self) -> None:
        """The palette's Quit asks, too."""
        self.action_request_quit()

    # -- going about

    def action_command_palette(self) -> None:
        """Every command that makes sense now."""
        if not isinstance(self.screen, Palette):
            self.push_screen(Palette(id="--command-palette"))

    def action_help(self) -> None:
        """The keys of what is seen."""
        if not self.screen.is_modal:
            view = "setup" if isinstance(self.screen, SetupScreen) else self.main.tab
            self.push_screen(HelpScreen(view, dict(self._keymap)))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The footer names the tab one can go to, not the one that is there; set-up has to be left first."""
        if action == "go":
            return not isinstance(self.screen, SetupScreen) and not (
                parameters and self.main.is_mounted and parameters[0] == self.main.tab
            )
        return True

    def action_go(self, tab: str) -> None:
        """Shows a tab."""
        self.main.go(tab)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Every command of the key table that makes sense now, beside those of Textual's that the table lacks."""
        others = super().get_system_commands(screen)
        yield from (command for command in others if command.title not in ("Quit", "Keys"))
        for key in KEYS:
            namespace = self._owner_of(key, screen)
            if namespace is not None and namespace.check_action(key.action.partition("(")[0], ()) is not None:
                run = partial(self.run_action, key.action, namespace)
                yield SystemCommand(key.label, key.help, run)

    def _owner_of(self, key: Key, screen: Screen[object]) -> DOMNode | None:
        """What runs the action of a key when this screen is seen; None if nothing there does."""
        if key.place == "everywhere":
            return self
        if (key.place == "setup") != isinstance(screen, SetupScreen):
            return None
        if key.place in ("chat", "checkpoints", "runs"):
            return self.main.query_one(f"#{key.place}") if key.place == self.main.tab else None
        return screen if key.place == "setup" else self.main
