"""Conversation: prompts and replies, shown as plain text without markup."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.app import ComposeResult
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from gpt_tui.run_view.surprise.screen import LoadModel, TextToScore
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.chat.presenter import EMPTY_REPLY, shown_prompt, shown_reply
from gpt_tui.tabs.chat.reply import ReplyUpdate

MAX_TURNS = 50


class GrowingText(Static):
    """Text that changes often: the screen's layout, the slow part, is refreshed only when the height changes."""

    def show(self, text: str) -> None:
        """Replace the text."""
        self.update(Content(text), layout=False)
        width, height = self.content_size
        if not width or self.get_content_height(self.container_size, self.screen.size, width) != height:
            self.refresh(layout=True)


class Answer(Vertical):
    """One model's reply: the model's name if `titled`, the text, and a note. Receives the updates of its worker."""

    def __init__(self, prompt: str, load: LoadModel, *, titled: bool) -> None:
        super().__init__(classes="answer")
        self.prompt = prompt
        self.load = load
        self.model = ""
        self.generating = True
        self._titled = titled
        self._pieces: list[str] = []

    @property
    def reply(self) -> str:
        """The reply so far, with bytes that are not valid UTF-8 escaped: prompt and reply are a prompt again."""
        return "".join(self._pieces)

    @property
    def to_score(self) -> TextToScore | None:
        """The prompt and the reply, to be scored by the model that was selected for it; None without a reply."""
        if not self._pieces:
            return None
        name = f"the model {self.model}" if self.model.startswith("in training") else self.model
        return TextToScore(f"reply of {name}", self.prompt, self.reply, self.model, self.load)

    def compose(self) -> ComposeResult:
        """Lay out name, reply and note."""
        if self._titled:
            yield Static("…", classes="model", markup=False)
        yield GrowingText(Content("…"), classes="reply", markup=False)
        yield GrowingText("", classes="note", markup=False)

    def on_reply_update(self, update: ReplyUpdate) -> None:
        """Show the model's name, new text and the note."""
        if update.model and update.model != self.model:
            self.model = update.model
            if self._titled:
                self.query_one(".model", Static).update(Content(one_line(self.model)))
        if update.text:
            self._pieces.append(update.text)
            self.query_one(".reply", GrowingText).show(shown_reply(self.prompt, self.reply))
        failed = update.state == "failed"
        if failed or update.state == "finished":
            self.generating = False
            if not self._pieces:
                self.query_one(".reply", GrowingText).show(EMPTY_REPLY)
                self.query_one(".reply").display = not failed
        self._show_note(update.note, failed=failed)

    def _show_note(self, text: str, *, failed: bool) -> None:
        """Show the line under the reply, with the model's name where that has no line of its own."""
        parts = [self.model] if self.model and not self._titled and not failed else []
        line = one_line(" · ".join([*parts, text] if text else parts))
        note = self.query_one(".note", GrowingText)
        note.set_class(failed, "-failed")
        note.show(f"✗ {line}" if failed else line)


class Turn(Vertical):
    """A prompt and the replies of one or two models, generated with one `seed`.

    Args:
        shown_prompt: The prompt as shown above the replies.
        prompts: Text that each model continues.
        seed: Random seed.
        loads: Functions that return the models.
    """

    def __init__(self, shown_prompt: str, prompts: Sequence[str], seed: int, loads: Sequence[LoadModel]) -> None:
        super().__init__(classes="turn")
        self.shown_prompt = shown_prompt
        self.seed = seed
        titled = len(prompts) > 1
        self.answers = [Answer(prompt, load, titled=titled) for prompt, load in zip(prompts, loads, strict=True)]
        for answer in self.answers[1:]:
            answer.add_class("-second")

    def compose(self) -> ComposeResult:
        """Lay out the prompt above the answers, which are side by side if there is room."""
        yield Static(Content(shown_prompt(self.shown_prompt)), classes="prompt", markup=False)
        with Container(classes="answers"):
            yield from self.answers


class Transcript(VerticalScroll):
    """The turns, newest at the bottom and scrolled into view."""

    _hint = ""

    def on_focus(self, _event: events.Focus) -> None:
        """Name the keys."""
        self.border_subtitle = "↑ ↓ scroll · Enter: back to the prompt"

    def on_blur(self, _event: events.Blur) -> None:
        """Remove the names of the keys."""
        self.border_subtitle = ""

    def compose(self) -> ComposeResult:
        """Lay out the hint of an empty conversation."""
        yield Static("", id="chat-empty", markup=False)

    def show_hint(self, hint: str) -> None:
        """Set the hint that an empty conversation shows."""
        if hint != self._hint:
            self._hint = hint
            self.query_one("#chat-empty", Static).update(Content(hint))

    @property
    def turns(self) -> list[Turn]:
        """All turns, oldest first."""
        return list(self.query(Turn))

    @property
    def last(self) -> Turn | None:
        """The newest turn."""
        return self.turns[-1] if self.turns else None

    async def add(self, turn: Turn) -> None:
        """Append a turn; the oldest ones beyond `MAX_TURNS` are removed."""
        self.query_one("#chat-empty", Static).display = False
        for old in self.turns[: max(0, len(self.turns) + 1 - MAX_TURNS)]:
            await old.remove()
        await self.mount(turn)
        self.anchor()

    async def clear(self) -> None:
        """Remove all turns."""
        await self.query(Turn).remove()
        self.query_one("#chat-empty", Static).display = True
