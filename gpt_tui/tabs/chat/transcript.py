"""The conversation: prompts and replies, which are text and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from gpt_tui.shared.sanitize import one_line, printable
from gpt_tui.tabs.chat.reply import shown_reply

MOST_TURNS = 50

EMPTY = """\
Type the beginning of a text below: the model goes on with it.
It knows nothing but the text it was trained on, so begin as that text might.

Enter on an empty line goes on from the last reply; up has earlier prompts.
F6 goes to the fields beside: the model, a second one beside it, the sampling.
The word exit goes back to training."""

NO_MODEL = """\
There is no model to chat with yet.

Go to the Train tab (F2) and press s to train one: after a minute it makes words,
and you can chat with it here while it learns."""


class GrowingText(Static):
    """Text that changes often: the screen is laid out anew only when its height changes, which costs most."""

    def show(self, text: str) -> None:
        """In place of what was shown."""
        self.update(Content(text), layout=False)
        width, height = self.content_size
        if not width or self.get_content_height(self.container_size, self.screen.size, width) != height:
            self.refresh(layout=True)


class Answer(Vertical):
    """One model's reply: the model's name where it is `titled`, the text, a line on how it went."""

    def __init__(self, prompt: str, *, titled: bool) -> None:
        super().__init__(classes="answer")
        self.prompt = prompt
        self._titled = titled
        self._model = ""
        self._pieces: list[str] = []

    @property
    def reply(self) -> str:
        """The reply so far, as the model gave it."""
        return "".join(self._pieces)

    @property
    def model(self) -> str:
        """The model that answers, "" while it is not known."""
        return self._model

    def compose(self) -> ComposeResult:
        """Name, reply, footnote."""
        if self._titled:
            yield Static("…", classes="model", markup=False)
        yield GrowingText(Content("…"), classes="reply", markup=False)
        yield GrowingText("", classes="note", markup=False)

    def begin(self, model: str) -> None:
        """The model is known."""
        self._model = model
        if self._titled:
            self.query_one(".model", Static).update(Content(one_line(model)))
        self.note("")

    def grow(self, text: str, note: str) -> None:
        """More of the reply."""
        self._pieces.append(text)
        self.query_one(".reply", GrowingText).show(shown_reply(self.prompt, self.reply))
        self.note(note)

    def note(self, text: str, *, failed: bool = False) -> None:
        """The line under the reply, with the model where that has no line of its own."""
        parts = [self._model] if self._model and not self._titled and not failed else []
        line = one_line(" · ".join([*parts, text] if text else parts))
        note = self.query_one(".note", GrowingText)
        note.set_class(failed, "-failed")
        note.show(f"✗ {line}" if failed else line)

    def end(self, summary: str, *, failed: bool) -> None:
        """The reply is complete."""
        if not self._pieces:
            self.query_one(".reply", GrowingText).show("(the model said nothing)")
            self.query_one(".reply").display = not failed
        self.note(summary, failed=failed)


class Turn(Vertical):
    """One prompt and what one or two models made of it with one `seed`."""

    def __init__(self, shown_prompt: str, prompts: Sequence[str], seed: int) -> None:
        super().__init__(classes="turn")
        self.shown_prompt = shown_prompt
        self.seed = seed
        self.answers = [Answer(prompt, titled=len(prompts) > 1) for prompt in prompts]
        for answer in self.answers[1:]:
            answer.add_class("-second")

    def compose(self) -> ComposeResult:
        """The prompt above, the answers under it, beside each other where there is room."""
        yield Static(Content(printable(self.shown_prompt)), classes="prompt", markup=False)
        with Container(classes="answers"):
            yield from self.answers


class Transcript(VerticalScroll):
    """The turns, the newest at the bottom and in view."""

    _said = ""

    def compose(self) -> ComposeResult:
        """What to do first."""
        yield Static("", id="chat-empty", markup=False)

    def say_when_empty(self, has_model: bool) -> None:
        """What an empty conversation tells the user."""
        words = EMPTY if has_model else NO_MODEL
        if words != self._said:
            self._said = words
            self.query_one("#chat-empty", Static).update(Content(words))

    @property
    def turns(self) -> list[Turn]:
        """All of them, the oldest first."""
        return list(self.query(Turn))

    @property
    def last(self) -> Turn | None:
        """The newest turn."""
        return self.turns[-1] if self.turns else None

    async def add(self, turn: Turn) -> None:
        """A new turn; the oldest one goes when there are too many."""
        self.query_one("#chat-empty", Static).display = False
        for old in self.turns[: max(0, len(self.turns) + 1 - MOST_TURNS)]:
            await old.remove()
        await self.mount(turn)
        self.anchor()

    async def clear(self) -> None:
        """Forgets all turns."""
        await self.query(Turn).remove()
        self.query_one("#chat-empty", Static).display = True
