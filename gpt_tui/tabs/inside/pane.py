"""Inside tab: what a model computes on a text, in views that share a cursor; of one model or of two."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.message import Message
from textual.widget import Widget

from gpt_tui.run_view.model_list import ModelList, ModelsListed
from gpt_tui.session.models import ModelLoader
from gpt_tui.session.removed_parts import RemovedParts
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.bindings import bindings, keymap_of
from gpt_tui.shared.canvas import Canvas
from gpt_tui.shared.keymap import with_keys
from gpt_tui.shared.sanitize import title_markup
from gpt_tui.shared.spans import Line
from gpt_tui.tabs.inside.choices import Choices
from gpt_tui.tabs.inside.help_texts import HELP
from gpt_tui.tabs.inside.presenter import MISSING_TEXTS, TextChoice, message_lines, removed_note, title, view_bar
from gpt_tui.tabs.inside.registry import VIEWS, view_named
from gpt_tui.tabs.inside.views.view import Action, Continuation, Cursor, Frame, InsideView, Move, Removal, Size
from gpt_tui.tabs.inside.worker import Computed, InsideWorker, Outcome, Progressed, RemovalMeasured, Removed, Request

SIDES = 2
NOTHING = Removed("", 0, ())


class InsideTab(Vertical):
    """Selectors, bar of views, and the view of one or two models. Posts `Requested`.

    While it is not visible, it computes nothing and holds no model. While a model is in training, it computes again
    after each evaluation.
    """

    BINDINGS = bindings("inside")

    class Requested(Message):
        """Request to another tab, with the model of this value."""

        def __init__(self, request: Continuation, model: str) -> None:
            super().__init__()
            self.request = request
            self.model = model

    def __init__(self, loader: ModelLoader, removed: RemovedParts, *, id: str) -> None:
        super().__init__(id=id)
        self._removed = removed
        self._wanted = NOTHING
        self._measured: float | str | None = None
        self._checksum: int | None = None  # of the weights that are shown
        self._model_list = ModelList(self, loader)
        self._worker = InsideWorker(loader, self.post_message)
        self._view: InsideView[Any] = VIEWS[0]
        self._cursor = Cursor(token=1)
        self._outcomes: list[Outcome | str | None] = [None] * SIDES
        self._progress = ""
        self._number = self._version = 0
        self._asked: tuple[Hashable, ...] | None = None
        self._run = RunState()
        self._reply = ""
        self._followed: Hashable = None
        self._files: dict[str, Hashable] = {}  # by model, as last listed; empty where they are loaded anyway

    def compose(self) -> ComposeResult:
        """Lay out the selectors above the views."""
        yield Choices(id="inside-choices")
        yield Canvas(id="inside-bar")
        with Container(id="inside-sides"):
            for side in range(SIDES):
                yield Canvas(id=f"inside-view-{side}")

    def on_mount(self) -> None:
        """Show the first view, of one model, and list the models at intervals."""
        bar = self.query_one("#inside-bar", Canvas)
        bar.can_focus = False
        bar.show(view_bar_lines(self._view.name))
        self._canvas(1).display = False
        self._model_list.list_at_intervals()

    def on_hide(self) -> None:
        """Compute nothing while another tab is shown."""
        self._worker.cancel()
        self._asked = None

    def on_unmount(self) -> None:
        """End the worker."""
        self._worker.end()

    # -- visibility and the run

    def point_at(self, step: int) -> None:
        """Move the cursor to a step of the run."""
        self._cursor = self._cursor._replace(step=step)

    def look_at(self, path: Path, step: int | None) -> None:
        """Select the model of a checkpoint, alone, and show its heads over time, at a step or at its own."""
        self._choices.choose(str(path))
        self._cursor = self._cursor._replace(step=step)
        self.action_view("heads")

    def enter(self) -> Widget:
        """List the models, compute, and return the widget to focus, the view; called when the tab is shown."""
        self._files.clear()
        self._model_list.list_now()
        self._ask()
        return self._canvas(0)

    def follow(self, run: RunState, *, live: bool, reply: str) -> None:
        """Compute again after an evaluation, and when a run starts or ends. Called while the tab is visible."""
        self._run, self._reply = run, reply
        evaluated = run.evaluation.step if run.evaluation else None
        followed = (live, evaluated, run.started is not None, run.saved)
        if followed != self._followed:
            changed = self._followed is None or followed[:3] != self._followed[:3]  # type: ignore[index]
            self._followed = followed
            if changed:
                self._version += 1
                self._files.clear()
            self._model_list.list_now()
        self._ask()

    @property
    def help_text(self) -> str:
        """Help of the visible view."""
        return HELP.get(self._view.name, "")

    def on_models_listed(self, message: ModelsListed) -> None:
        """Show the models, and compute again if the file of a selected one has been replaced."""
        self._choices.show_models(message.available)
        files = {model: message.available.file_of(model) for model in self._choices.models}
        if any(self._files.get(model, file) != file for model, file in files.items()):
            self._version += 1
            self._ask()
        self._files |= files

    # -- computing

    @property
    def _choices(self) -> Choices:
        return self.query_one(Choices)

    def _canvas(self, side: int) -> Canvas:
        return self.query_one(f"#inside-view-{side}", Canvas)

    def _view_size(self) -> Size:
        return Size(*self._canvas(0).size)

    def _text(self) -> TextChoice:
        match kind := self._choices.kind:
            case "sample":
                last = self._run.samples[-1] if self._run.samples else None
                return TextChoice(kind, last.prompt + last.exact_text if last else "")
            case "reply":
                return TextChoice(kind, self._reply)
            case "typed":
                return TextChoice(kind, self._choices.typed)
            case _:
                return TextChoice(kind)

    def _ask(self) -> None:
        """Request what is shown, unless it has been requested."""
        if not self.is_on_screen or not self._view_size().height:
            return
        models, text, size = self._choices.models, self._text(), self._view_size()
        asked = (self._view.name, models, text, self._view.needs(self._cursor, size), self._version)
        if asked != self._asked and not isinstance(self._measured, float):
            self._wanted = NOTHING  # a measurement that was cancelled or has failed may succeed now
        self._measure()
        if asked == self._asked:
            return
        if self._asked is None or asked[:-1] != self._asked[:-1]:  # a problem may be one of what was asked before
            self._outcomes = [None if isinstance(outcome, str) else outcome for outcome in self._outcomes]
        self._asked, self._progress = asked, ""
        self._canvas(1).display = len(models) > 1
        if self._view.needs_text and text.kind in MISSING_TEXTS and not text.text:
            self._worker.cancel_request()
            self._outcomes = [MISSING_TEXTS[text.kind]] * SIDES
            self._number += 1
            self._show()
            return
        self._number += 1
        self._worker.request(
            Request(self._number, self._view, models, text, self._cursor, size, self._run, self._version)
        )
        self._show()

    def on_computed(self, message: Computed) -> None:
        """Show a result."""
        if message.number == self._number:
            self._outcomes[message.side] = message.outcome
            if message.side == 0 and isinstance(message.outcome, Outcome):
                self._checksum = message.outcome.checksum
                self._measure()
            self._show()

    def _measure(self) -> None:
        """Measure in the background what the loss rises by without the removed parts, unless that is known.

        One part may be a row of the view Knock-out, whose number is shown.
        """
        wanted = Removed(self._choices.models[0], self._version, self._removed.parts, self._checksum)
        if len(wanted.parts) == 1:
            known = self._worker.effect(self._checksum, wanted.parts[0])
            if known is not None:
                self._wanted, self._measured = wanted, known
        if wanted != self._wanted:
            self._wanted, self._measured = wanted, None
            if wanted.parts:
                self._worker.measure(wanted)

    def on_removal_measured(self, message: RemovalMeasured) -> None:
        """Show the change of the loss without the removed parts."""
        if message.removed == self._wanted:
            self._measured = message.outcome
            self._show()

    def on_progressed(self, message: Progressed) -> None:
        """Show the progress, if it has changed: short work has none."""
        if message.number == self._number and message.text != self._progress:
            self._progress = message.text
            self._show()

    # -- display

    def _frame(self, side: int) -> Frame | None:
        """Return cursor, area and state that the result of a side is drawn for, None without a result."""
        outcome = self._outcomes[side]
        if not isinstance(outcome, Outcome):
            return None
        extent = self._view.extent(outcome.result, outcome.extent)
        return Frame(
            extent.clamped(self._cursor), Size(*self._canvas(side).size), extent, self._run, keymap_of(self.app)
        )

    def _show(self) -> None:
        keymap = keymap_of(self.app)
        removed = removed_note(self._removed.parts, self._measured, has_key="remove" in self._view.actions)
        removed = with_keys(removed, keymap)
        for side in range(len(self._choices.models)):
            canvas, outcome, frame = self._canvas(side), self._outcomes[side], self._frame(side)
            if not canvas.size:
                continue  # hidden: the next resize shows it
            note = removed if side == 0 else ""
            if isinstance(outcome, Outcome) and frame is not None:
                text = outcome.text if self._view.reads_text(outcome.result) else ""
                read = outcome.extent._replace(tokens=self._view.read_tokens(outcome.result, outcome.extent))
                shown = title(outcome.name, text, read, outcome.total, self._progress)
                canvas.border_title = title_markup(f"{note} · {shown}" if note else shown)
                canvas.show(self._view.lines(outcome.result, frame))
            else:
                problem = with_keys(outcome, keymap) if isinstance(outcome, str) else ""
                canvas.border_title = title_markup(note)
                canvas.show(message_lines(problem, self._progress, canvas.size.width))

    @on(Canvas.Resized)
    def _resized(self, message: Canvas.Resized) -> None:
        message.stop()
        self._ask()
        self._show()

    @on(Choices.Changed)
    def _choice_changed(self, message: Choices.Changed) -> None:
        message.stop()
        self._ask()

    @on(Choices.Submitted)
    def _text_submitted(self, message: Choices.Submitted) -> None:
        message.stop()
        self._canvas(0).focus()
        self._ask()

    # -- keys and the mouse

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the actions that do nothing in the view."""
        return action != "act" or parameters[0] in self._view.actions

    def action_view(self, name: str) -> None:
        """Show a view."""
        if name == self._view.name:
            return
        self._view = view_named(name)
        self._outcomes, self._progress = [None] * SIDES, ""
        self._cursor = self._cursor._replace(choice=None)
        self.query_one("#inside-bar", Canvas).show(view_bar_lines(name))
        self.refresh_bindings()
        self._ask()
        self._show()

    def action_step_view(self, by: int) -> None:
        """Show the next or the previous view."""
        self.action_view(VIEWS[(VIEWS.index(self._view) + by) % len(VIEWS)].name)

    def action_move(self, move: Move) -> None:
        """Move the cursor."""
        outcome, frame = self._outcomes[0], self._frame(0)
        if isinstance(outcome, Outcome) and frame is not None:
            self._move_to(self._view.moved(outcome.result, frame, move))

    def action_act(self, action: Action) -> None:
        """Do what a key means in the view."""
        self._act(action, 0)

    def _act(self, action: Action, side: int) -> None:
        outcome, frame = self._outcomes[side], self._frame(side)
        if not isinstance(outcome, Outcome) or frame is None:
            return
        done = self._view.act(outcome.result, frame, action)
        if isinstance(done, Cursor):
            self._move_to(done)
        elif isinstance(done, Removal):
            self._removed.toggle(done.part)
            self._measure()
            self._show()
        elif done is not None:
            self.post_message(self.Requested(done, self._choices.models[side]))

    def action_back(self) -> None:
        """Leave a list, or a selector, for the view."""
        if self._canvas(0).has_focus:
            self._move_to(self._cursor._replace(choice=None))
        else:
            self._canvas(0).focus()

    def action_refresh(self) -> None:
        """Load the models again and compute."""
        self._version += 1
        self._files.clear()
        self._model_list.list_now()
        self._ask()

    def action_open(self, name: str) -> None:
        """Open a selector."""
        self._choices.open(name)

    def action_type_text(self) -> None:
        """Type a text to look at."""
        self._choices.type_text()

    def _move_to(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._ask()
        self._show()

    @on(Canvas.Chosen)
    def _chosen(self, message: Canvas.Chosen) -> None:
        message.stop()
        if isinstance(message.value, Cursor):
            side = int(message.canvas is self._canvas(1))
            is_again = message.value == self._cursor and message.value.choice is not None
            self._canvas(0).focus()
            self._move_to(message.value)
            if is_again:
                self._act("enter", side)
        elif isinstance(message.value, str):
            self.action_view(message.value)

    @on(Canvas.Scrolled)
    def _scrolled(self, message: Canvas.Scrolled) -> None:
        message.stop()
        self.action_move("down" if message.by > 0 else "up")


def view_bar_lines(shown: str) -> list[Line]:
    """Return the bar of the views."""
    return [view_bar(VIEWS, shown)]
