"""Screen that colors one or two texts by surprise, with the alternatives to the token at the cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import ClassVar, NamedTuple

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.message import Message
from textual.screen import Screen
from textual.worker import Worker, get_current_worker

from gpt_core.errors import GptError
from gpt_core.model.bundle import gpt_of
from gpt_tui.run_view.surprise.presenter import legend, line_moved, panel_lines, passage_of, source_note
from gpt_tui.session.inside.predictions import TokenPredictions, reply_predictions
from gpt_tui.session.models import LoadedModel, Report
from gpt_tui.shared.bindings import bindings
from gpt_tui.shared.canvas import Canvas
from gpt_tui.shared.footer import FooterBar
from gpt_tui.shared.passage import passage_rows
from gpt_tui.shared.sanitize import one_line, title_markup
from gpt_tui.shared.spans import Span

LoadModel = Callable[[Report], LoadedModel]


class TextToScore(NamedTuple):
    """A text and the model to score it with.

    Attributes:
        title: Name of the text.
        prompt: Its beginning, which a model continued.
        text: The continuation.
        written_by: Name of the model that wrote it, "" if the title says so.
        load: Returns the model; calls its argument with the reason if that takes long.
    """

    title: str
    prompt: str
    text: str
    written_by: str
    load: LoadModel


class ClosedError(Exception):
    """Raised inside the scoring after the screen was closed."""


class ScoredTextView(Canvas):
    """A text in the colors of its surprise, with a cursor on a token. Posts `Moved`."""

    class Moved(Message):
        """The cursor is on another token, or on another alternative."""

    def __init__(self, to_score: TextToScore, side: int) -> None:
        super().__init__(id=f"scored-text-{side}")
        self.add_class("scored-text")
        self.to_score = to_score
        self.side = side
        self.scored: TokenPredictions | None = None
        self.cursor = self.chosen = 0
        self.border_title = title_markup(to_score.title)

    def set_scores(self, scored: TokenPredictions, model: str) -> None:
        """Show the scores that a model gives, with the cursor on the first token after the prompt."""
        self.scored = scored
        self.border_subtitle = title_markup(source_note(self.to_score.written_by, model, scored.skipped))
        self.move_to(scored.first_of_reply)

    def draw(self) -> None:
        """Draw the legend and the lines around the cursor."""
        width, height = self.size
        if self.scored is not None and width > 0:
            rows = passage_rows(passage_of(self.scored), self.cursor, width, max(1, height - 1))
            self.show([legend(self.scored, width), *rows])

    def move_to(self, token: int) -> None:
        """Move the cursor to a token, at most to the place after the text."""
        if self.scored is not None:
            self.cursor, self.chosen = min(max(0, token), len(self.scored.ids)), 0
            self.draw()
            self.post_message(self.Moved())

    def move_lines(self, lines: int) -> None:
        """Move the cursor by a number of lines."""
        if self.scored is not None:
            self.move_to(line_moved(self.scored, self.cursor, self.size.width, lines))

    def choose(self, alternative: int) -> None:
        """Choose an alternative of the token at the cursor."""
        if self.scored is not None:
            count = len(self.scored.alternatives(self.cursor))
            self.chosen = min(max(0, alternative), max(0, count - 1))
            self.post_message(self.Moved())


class SurpriseScreen(Screen[str]):
    """Colors texts by the surprise of their tokens. Returns the text to continue, "" if the screen was only closed.

    Args:
        texts: One text, or two to show side by side.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("tokens")
    AUTO_FOCUS = "ScoredTextView"

    class Scored(Message, bubble=False):
        """A text was scored by the model of this name."""

        def __init__(self, side: int, scored: TokenPredictions, model: str) -> None:
            super().__init__()
            self.side = side
            self.scored = scored
            self.model = model

    class Waiting(Message, bubble=False):
        """Scoring waits for something, or has failed."""

        def __init__(self, side: int, reason: str) -> None:
            super().__init__()
            self.side = side
            self.reason = reason

    def __init__(self, texts: Sequence[TextToScore]) -> None:
        super().__init__()
        self._views = [ScoredTextView(text, side) for side, text in enumerate(texts)]
        self._notes = [""] * len(texts)

    def compose(self) -> ComposeResult:
        """Compose the texts and the alternatives."""
        with Container(id="scored-texts"):
            yield from self._views
        yield Canvas(id="alternatives")
        yield FooterBar()

    def on_mount(self) -> None:
        """Start scoring."""
        self._panel.border_title = "most probable in place of the token"
        self._panel.can_focus = False
        self.run_worker(self._score_all, thread=True, exit_on_error=False)

    # -- scores

    def _score_all(self) -> None:
        """Score the texts one after another, in a thread, until the screen is closed."""
        with suppress(ClosedError):
            for side, view in enumerate(self._views):
                self._score(side, view.to_score, get_current_worker())

    def _score(self, side: int, text: TextToScore, worker: Worker[None]) -> None:
        def report(reason: str) -> None:
            if worker.is_cancelled:
                raise ClosedError
            self.post_message(self.Waiting(side, reason))

        try:
            report("scoring the text")
            model = text.load(report)
            scored = reply_predictions(
                gpt_of(model.weights), model.tokenizer, text.prompt, text.text,
                lambda words, fraction: report(f"{words} {fraction:.0%}"),
            )  # fmt: skip
            self.post_message(self.Scored(side, scored, model.name))
        except ClosedError:
            raise
        except GptError as error:
            self.post_message(self.Waiting(side, f"✗ {one_line(error.reason)}"))
        except Exception as error:
            reason = f"✗ scoring failed: {type(error).__name__}: {one_line(str(error), 200)}"
            self.post_message(self.Waiting(side, reason))

    def on_surprise_screen_scored(self, message: Scored) -> None:
        """Show a text with its scores."""
        self._views[message.side].set_scores(message.scored, message.model)

    def on_surprise_screen_waiting(self, message: Waiting) -> None:
        """Show what scoring waits for."""
        self._say(message.side, message.reason)

    def _say(self, side: int, note: str) -> None:
        self._notes[side] = note
        self._views[side].border_subtitle = title_markup(note)
        self._show_token()

    @property
    def _panel(self) -> Canvas:
        return self.query_one("#alternatives", Canvas)

    @property
    def _view(self) -> ScoredTextView:
        """The text with the focus."""
        return self.focused if isinstance(self.focused, ScoredTextView) else self._views[0]

    @on(ScoredTextView.Moved)
    @on(events.DescendantFocus)
    def _show_token(self) -> None:
        """Show the alternatives to the token at the cursor of the focused text."""
        view, (width, height) = self._view, self._panel.size
        if view.scored is None:
            self._panel.show([[Span(self._notes[view.side], style="muted")]])
        else:
            self._panel.show(panel_lines(view.scored, view.cursor, view.chosen, width, height, lambda row: row))

    @on(Canvas.Resized)
    def _resized(self, message: Canvas.Resized) -> None:
        message.stop()
        for view in self._views:
            view.draw()
        self._show_token()

    @on(Canvas.Chosen)
    def _chosen(self, message: Canvas.Chosen) -> None:
        """Move the cursor to a token, or choose an alternative."""
        message.stop()
        assert isinstance(message.value, int)
        if isinstance(message.canvas, ScoredTextView):
            message.canvas.move_to(message.value)
        else:
            self._view.choose(message.value)

    @on(Canvas.Scrolled)
    def _scrolled(self, message: Canvas.Scrolled) -> None:
        message.stop()
        self._view.move_lines(message.by)

    # -- keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the key of the other text where there is only one."""
        return action != "other_text" or len(self._views) > 1

    def action_token(self, by: int) -> None:
        """Move the cursor by a number of tokens."""
        self._view.move_to(self._view.cursor + by)

    def action_line(self, by: int) -> None:
        """Move the cursor by a number of lines."""
        self._view.move_lines(by)

    def action_alternative(self, by: int) -> None:
        """Choose another alternative."""
        self._view.choose(self._view.chosen + by)

    def action_other_text(self) -> None:
        """Move the cursor to the other text."""
        self._views[(self._view.side + 1) % len(self._views)].focus()

    def action_continue_from(self) -> None:
        """Close the screen with the text up to the cursor and the chosen alternative."""
        view = self._view
        if view.scored is None:
            return
        if not view.scored.alternatives(view.cursor):
            self.notify("nothing precedes this token: there are no alternatives", severity="warning")
        elif text := view.scored.text_with(view.cursor, view.chosen):
            self.dismiss(text)
        else:
            self.notify("this token ends the text: choose another one to continue", severity="warning")

    def action_close(self) -> None:
        """Close the screen."""
        self.dismiss("")
