"""The conversation: prompts and replies, which are text and nothing else."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from gpt_tui.plain_text import one_line, printable

MOST_TURNS = 100

EMPTY = """\
Type the beginning of a text below: the model goes on with it.
It knows nothing but the text it was trained on, so begin as that text might.

Enter on an empty line goes on from the last reply.
The word exit goes back to training."""

NO_MODEL = """\
There is no model to chat with yet.

Go to the Train tab (F2) and press s to train one: after a minute it makes words,
and you can chat with it here while it learns."""


class Turn(Vertical):
    """One prompt and its reply, with a line on how the reply went."""

    def __init__(self, prompt: str, shown_prompt: str) -> None:
        super().__init__(classes="turn")
        self.prompt = prompt
        self._shown_prompt = shown_prompt
        self._pieces: list[str] = []

    @property
    def reply(self) -> str:
        """The reply so far, as the model gave it."""
        return "".join(self._pieces)

    def compose(self) -> ComposeResult:
        """Prompt, reply, footnote."""
        yield Static(Content(printable(self._shown_prompt)), classes="prompt", markup=False)
        yield Static(Content("…"), classes="reply", markup=False)
        yield Static("", classes="note", markup=False)

    def grow(self, text: str, note: str) -> None:
        """More of the reply."""
        self._pieces.append(text)
        self.query_one(".reply", Static).update(Content(printable(self.reply).lstrip(" ")))
        self.note(note)

    def note(self, text: str, *, failed: bool = False) -> None:
        """The line under the reply."""
        note = self.query_one(".note", Static)
        note.set_class(failed, "-failed")
        note.update(Content(f"✗ {one_line(text)}" if failed else one_line(text)))

    def end(self, summary: str, *, failed: bool) -> None:
        """The reply is complete."""
        if not self._pieces:
            self.query_one(".reply", Static).update(Content("" if failed else "(the model said nothing)"))
        self.note(summary, failed=failed)


class Transcript(VerticalScroll):
    """The turns, the newest at the bottom and in view."""

    def compose(self) -> ComposeResult:
        """What to do first."""
        yield Static(Content(EMPTY), id="chat-empty", markup=False)

    def say_when_empty(self, has_model: bool) -> None:
        """What an empty conversation tells the user."""
        self.query_one("#chat-empty", Static).update(Content(EMPTY if has_model else NO_MODEL))

    @property
    def turns(self) -> list[Turn]:
        """All of them, the oldest first."""
        return list(self.query(Turn))

    @property
    def last(self) -> Turn | None:
        """The newest turn."""
        return self.turns[-1] if self.turns else None

    async def add(self, prompt: str, shown_prompt: str) -> Turn:
        """A new turn; the oldest one goes when there are too many."""
        self.query_one("#chat-empty", Static).display = False
        for turn in self.turns[: max(0, len(self.turns) + 1 - MOST_TURNS)]:
            await turn.remove()
        new = Turn(prompt, shown_prompt)
        await self.mount(new)
        self.anchor()
        return new

    async def clear(self) -> None:
        """Forgets all turns."""
        await self.query(Turn).remove()
        self.query_one("#chat-empty", Static).display = True
