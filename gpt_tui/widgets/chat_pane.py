"""The Chat tab: a conversation with the model in training, or with a checkpoint, and how its replies are sampled."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input

from gpt_core.errors import ConfigError
from gpt_core.generation.generator import Figures
from gpt_tui.bindings import bindings
from gpt_tui.chat_model import ChatModels, MakeGenerator, reply
from gpt_tui.messages import ChatLeft, ReplyBegan, ReplyEnded, ReplyGrew
from gpt_tui.plain_text import one_line
from gpt_tui.quantities import short
from gpt_tui.widgets.sampling_form import SamplingForm
from gpt_tui.widgets.transcript import Transcript, Turn

LEAVING = "exit"
GOING_ON = "(going on)"


class PaneSink:
    """Takes a reply from its thread and posts it to the pane."""

    def __init__(self, pane: ChatPane, number: int) -> None:
        self._pane = pane
        self._number = number

    def began(self, model: str) -> None:
        """The model is known."""
        self._pane.post_message(ReplyBegan(self._number, model))

    def grew(self, text: str, figures: Figures) -> None:
        """More text."""
        self._pane.post_message(ReplyGrew(self._number, text, figures.tokens, figures.tokens_per_s))

    def ended(self, summary: str, failed: bool) -> None:
        """The end."""
        self._pane.post_message(ReplyEnded(self._number, summary, failed))


class ChatPane(Horizontal):
    """One reply at a time. `ChatLeft` goes out when the user types `exit`."""

    BINDINGS = bindings("chat")

    def __init__(self, models: ChatModels, make: MakeGenerator, texts: dict[str, str], *, id: str) -> None:
        super().__init__(id=id)
        self._models = models
        self._make = make
        self._texts = texts
        self._number = 0
        self._stopped = threading.Event()
        self._turn: Turn | None = None
        self._model = ""

    def compose(self) -> ComposeResult:
        """The conversation and its input, the fields beside them."""
        with Vertical(id="conversation"):
            yield Transcript(id="transcript")
            yield Input(placeholder="Begin a text, press Enter (exit leaves)", id="prompt")
        yield SamplingForm(self._texts, id="sampling")

    def on_unmount(self) -> None:
        """A reply under way ends with the pane."""
        self._stopped.set()

    @property
    def replying(self) -> bool:
        """Whether a reply is under way."""
        return self._turn is not None

    def show_model(self, name: str) -> None:
        """Which model would answer now; "" if there is none."""
        self.query_one(SamplingForm).show_model(name or "none yet")
        self.query_one(Transcript).say_when_empty(bool(name))

    def enter(self) -> None:
        """The user is here: he may type."""
        self.query_one("#prompt", Input).focus()

    def choose(self, path: Path, *, beside: bool = False) -> None:
        """This checkpoint answers from now on, or answers beside the model that does."""

    # -- the user

    @on(Input.Submitted, "#prompt")
    async def _submitted(self, message: Input.Submitted) -> None:
        message.stop()
        text = message.value
        if text.strip() == LEAVING:
            message.input.value = ""
            self.post_message(ChatLeft())
            return
        last = self.query_one(Transcript).last
        if not text and last is None:
            return
        if self.replying:
            self.notify("a reply is under way: escape stops it", severity="warning")
            return
        if not text and last:
            asked = await self._ask(last.prompt + last.reply, GOING_ON)
        else:
            asked = await self._ask(text, text)
        if asked:
            message.input.value = ""

    @on(Input.Submitted)
    def _field_submitted(self, message: Input.Submitted) -> None:
        """Enter in a field goes to the prompt."""
        message.stop()
        self.enter()

    async def action_retry(self) -> None:
        """The last prompt once more."""
        last = self.query_one(Transcript).last
        if last and not self.replying:
            await self._ask(last.prompt, one_line(last.prompt))

    def action_stop_reply(self) -> None:
        """Stops the reply; without one, leaves the chat."""
        if self.replying:
            self._stopped.set()
        else:
            self.post_message(ChatLeft())

    def action_copy_reply(self) -> None:
        """The last reply, as the model gave it, to the clipboard."""
        if last := self.query_one(Transcript).last:
            self.app.copy_to_clipboard(last.reply)
            self.notify("reply copied")

    async def action_clear_chat(self) -> None:
        """An empty conversation; a reply under way is stopped."""
        self._stopped.set()
        self._turn = None
        await self.query_one(Transcript).clear()

    # -- the reply

    async def _ask(self, prompt: str, shown_prompt: str) -> bool:
        """Begins a reply; False if the fields are wrong."""
        try:
            sampling, seed = self.query_one(SamplingForm).sampling()
        except ConfigError as error:
            self.notify(one_line(str(error)), severity="error", markup=False)
            return False
        self._number += 1
        self._stopped = threading.Event()
        self._turn = await self.query_one(Transcript).add(prompt, shown_prompt)
        self._turn.note("waiting for a consistent set of weights")
        run = partial(
            reply, prompt, sampling, seed, find=self._models.answerer, make=self._make, stopped=self._stopped,
            sink=PaneSink(self, self._number),
        )  # fmt: skip
        self.run_worker(run, group="reply", thread=True, exit_on_error=False)
        return True

    def on_reply_began(self, message: ReplyBegan) -> None:
        """Names the model."""
        if self._turn and message.number == self._number:
            self._model = message.model
            self._turn.note(message.model)

    def on_reply_grew(self, message: ReplyGrew) -> None:
        """Shows more text."""
        if self._turn and message.number == self._number:
            speed = f" · {short(message.tokens_per_s)} tokens/s" if message.tokens_per_s else ""
            self._turn.grow(message.text, f"{self._model} · {message.tokens} tokens{speed}")

    def on_reply_ended(self, message: ReplyEnded) -> None:
        """Shows how it ended."""
        if self._turn and message.number == self._number:
            named = message.summary if message.failed else f"{self._model} · {message.summary}"
            self._turn.end(named, failed=message.failed)
            self._turn = None
