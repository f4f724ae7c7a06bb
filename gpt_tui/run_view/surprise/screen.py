"""Screen that colours one or two texts by surprise, with the alternatives to the token at the cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message
from textual.screen import Screen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from gpt_core.errors import GptError
from gpt_tui.run_view.surprise.presenter import (
    Layout,
    alternative_lines,
    layout,
    level,
    moved_by_lines,
    source_note,
    token_at,
    token_line,
)
from gpt_tui.run_view.surprise.scoring import ScoredText, score
from gpt_tui.session.models import LoadedModel, Report
from gpt_tui.shared.bindings import bindings
from gpt_tui.shared.footer import FooterBar
from gpt_tui.shared.ramp import LEGEND_BITS, MAX_BITS, Shade, shade
from gpt_tui.shared.sanitize import one_line

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


class ScoredTextView(ScrollView, can_focus=True, inherit_bindings=False):
    """A text in the colours of its surprise, with a cursor on a token. Posts `Moved`."""

    class Moved(Message):
        """The cursor is on another token."""

    def __init__(self, to_score: TextToScore, side: int) -> None:
        super().__init__(classes="scored-text")
        self.to_score = to_score
        self.side = side
        self.scored: ScoredText | None = None
        self.cursor = 0
        self.chosen = 0
        self._layout = Layout()
        self.border_title = one_line(to_score.title)

    def show(self, scored: ScoredText) -> None:
        """Show the scores, with the cursor on the first token after the prompt."""
        self.scored, self.cursor = scored, scored.first_of_reply
        self.border_subtitle = one_line(source_note(self.to_score.written_by, scored.model, scored.skipped))
        self._lay_out()
        self._move_to(self.cursor)

    def on_resize(self, event: events.Resize) -> None:
        """Wrap the text at another width."""
        self._lay_out()

    def notify_style_update(self) -> None:
        """Redraw with the colours of another theme."""
        super().notify_style_update()
        self.refresh()

    def _lay_out(self) -> None:
        width = self.scrollable_content_region.width
        if self.scored is not None and width > 3:
            self._layout = layout(self.scored.tokens, width)
            self.virtual_size = Size(width, len(self._layout.lines))
            self._scroll_to_cursor()
            self.refresh()

    # -- cursor

    def move(self, tokens: int) -> None:
        """Move the cursor by a number of tokens."""
        if self.scored is not None:
            self._move_to(self.cursor + tokens)

    def move_lines(self, lines: int) -> None:
        """Move the cursor by a number of lines."""
        if self.scored is not None and self._layout.lines:
            self._move_to(moved_by_lines(self._layout, self.cursor, lines))

    def choose(self, alternative: int) -> None:
        """Choose an alternative of the token at the cursor."""
        if self.scored is not None and self.scored.tokens:
            count = len(self.scored.tokens[self.cursor].alternatives)
            self.chosen = min(max(0, alternative), max(0, count - 1))
            self.post_message(self.Moved())

    def _move_to(self, token: int) -> None:
        assert self.scored is not None
        self.cursor, self.chosen = min(max(0, token), max(0, len(self.scored.tokens) - 1)), 0
        self._scroll_to_cursor()
        self.refresh()
        self.post_message(self.Moved())

    def _scroll_to_cursor(self) -> None:
        if self.cursor < len(self._layout.line_of):
            line = Region(0, self._layout.line_of[self.cursor], 1, 1)
            self.scroll_to_region(line, animate=False, force=True, immediate=True)

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the token under the mouse."""
        place = event.get_content_offset(self)
        line = 0 if place is None else place.y + round(self.scroll_offset.y)
        if place is not None and line < len(self._layout.lines):
            found = token_at(self._layout.lines[line], place.x)
            if found is not None:
                self._move_to(found)

    # -- drawing

    def render_line(self, y: int) -> Strip:
        """Draw a line of tokens."""
        width, base = self.scrollable_content_region.width, self.rich_style
        number = y + round(self.scroll_offset.y)
        if self.scored is None or number >= len(self._layout.lines):
            return Strip.blank(width, base)
        segments = [Segment(text, base + self._style(token)) for token, text in self._layout.lines[number]]
        return Strip(segments).adjust_cell_length(width, base)

    def _style(self, number: int) -> Style:
        assert self.scored is not None
        token = self.scored.tokens[number]
        found = shade(level(token), dark=self.app.current_theme.dark)
        is_cursor = number == self.cursor and self.has_focus
        colours = Style() if found is None else Style(color=found.text, bgcolor=found.background)
        return colours + Style(bold=token.in_prompt or is_cursor, reverse=is_cursor, underline=number == self.cursor)


class Alternatives(Widget):
    """The token at the cursor and the alternatives to it. Posts `Clicked`."""

    class Clicked(Message):
        """The mouse chose an alternative."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._scored: ScoredText | None = None
        self._token = self._chosen = 0
        self._note = ""

    def say(self, note: str) -> None:
        """Show why there is no text yet."""
        self._note, self._scored = note, None
        self.refresh()

    def show(self, scored: ScoredText, token: int, chosen: int) -> None:
        """Show a token."""
        self._scored, self._token, self._chosen = scored, token, chosen
        self.refresh()

    def render(self) -> Content:
        """Draw the token and a line per alternative."""
        if self._scored is None or not self._scored.tokens:
            return Content.styled(self._note, "$muted")
        token = self._scored.tokens[self._token]
        lines = [Content.styled(token_line(self._scored, self._token), "bold")]
        for number, line in enumerate(alternative_lines(token, self._chosen, self.size.width)):
            style = "bold" if number == self._chosen else ""
            lines.append(Content.assemble(
                (line.mark, "bold $key"), " ", (line.name, style), " ", (line.probability, style), " ",
                (line.bar, "$primary"),
            ))  # fmt: skip
        return Content("\n").join(lines)

    def on_click(self, event: events.Click) -> None:
        """Choose the alternative under the mouse."""
        place = event.get_content_offset(self)
        if place is not None and place.y > 0:
            self.post_message(self.Clicked(place.y - 1))


class SurpriseScreen(Screen[str]):
    """Colours texts by the surprise of their tokens. Returns the text to continue, "" if the screen was only closed.

    Args:
        texts: One text, or two to show side by side.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("tokens")
    AUTO_FOCUS = "ScoredTextView"

    class Scored(Message, bubble=False):
        """A text was scored."""

        def __init__(self, side: int, scored: ScoredText) -> None:
            super().__init__()
            self.side = side
            self.scored = scored

    class Waiting(Message, bubble=False):
        """Scoring waits for something, or has failed."""

        def __init__(self, side: int, reason: str) -> None:
            super().__init__()
            self.side = side
            self.reason = reason

    def __init__(self, texts: Sequence[TextToScore]) -> None:
        super().__init__()
        self._views = [ScoredTextView(text, side) for side, text in enumerate(texts)]

    def compose(self) -> ComposeResult:
        """Compose the texts, the legend and the alternatives."""
        with Container(id="scored-texts"):
            yield from self._views
        yield Static(id="surprise-legend", markup=False)
        yield Alternatives(id="alternatives")
        yield FooterBar()

    def on_mount(self) -> None:
        """Start scoring."""
        self.query_one(Alternatives).border_title = "most probable in place of the token"
        self.app.theme_changed_signal.subscribe(self, lambda _theme: self._draw_legend())
        self._draw_legend()
        self._say(0, "scoring the text")
        self.run_worker(self._score_all, thread=True, exit_on_error=False)

    def _draw_legend(self) -> None:
        dark = self.app.current_theme.dark
        parts: list[Content | tuple[str, str]] = [("surprise in bits ", "$muted")]
        for bits in LEGEND_BITS:
            text = f" {bits}{'+' if bits == MAX_BITS else ''} "
            parts.append((text, _colours(shade(bits / MAX_BITS, dark=dark))))
        self.query_one("#surprise-legend", Static).update(Content.assemble(*parts, ("  bold: the prompt", "$muted")))

    # -- scores

    def _score_all(self) -> None:
        """Score the texts one after another, in a thread."""
        for side, view in enumerate(self._views):
            self._score(side, view.to_score)

    def _score(self, side: int, text: TextToScore) -> None:
        try:
            model = text.load(lambda reason: self.post_message(self.Waiting(side, reason)))
            scored = score(model.weights, model.tokenizer, model.name, text.prompt, text.text)
            self.post_message(self.Scored(side, scored))
        except GptError as error:
            self.post_message(self.Waiting(side, f"✗ {one_line(str(error))}"))
        except Exception as error:
            reason = f"✗ scoring failed: {type(error).__name__}: {one_line(str(error), 200)}"
            self.post_message(self.Waiting(side, reason))

    def on_surprise_screen_scored(self, message: Scored) -> None:
        """Show a text with its scores."""
        self._views[message.side].show(message.scored)

    def on_surprise_screen_waiting(self, message: Waiting) -> None:
        """Show what scoring waits for."""
        self._say(message.side, message.reason)

    def _say(self, side: int, note: str) -> None:
        self._views[side].border_subtitle = note
        if self._view.scored is None:
            self.query_one(Alternatives).say(note)

    @property
    def _view(self) -> ScoredTextView:
        """The text with the focus."""
        return self.focused if isinstance(self.focused, ScoredTextView) else self._views[0]

    @on(ScoredTextView.Moved)
    @on(events.DescendantFocus)
    def _show_token(self) -> None:
        """Show the alternatives to the token at the cursor of the focused text."""
        view, panel = self._view, self.query_one(Alternatives)
        if view.scored is None:
            panel.say(str(view.border_subtitle or ""))
        else:
            panel.show(view.scored, view.cursor, view.chosen)

    @on(Alternatives.Clicked)
    def _alternative_clicked(self, message: Alternatives.Clicked) -> None:
        message.stop()
        self._view.choose(message.number)

    # -- keys

    def action_token(self, by: int) -> None:
        """Move the cursor by a number of tokens."""
        self._view.move(by)

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
        if view.scored is None or not view.scored.tokens:
            return
        if not view.scored.tokens[view.cursor].alternatives:
            self.notify("nothing precedes this token: there are no alternatives", severity="warning")
        elif text := view.scored.continued(view.cursor, view.chosen):
            self.dismiss(text)
        else:
            self.notify("this token ends the text: choose another one to continue", severity="warning")

    def action_close(self) -> None:
        """Close the screen."""
        self.dismiss("")


def _colours(found: Shade | None) -> str:
    return "" if found is None else f"{found.text} on {found.background}"
