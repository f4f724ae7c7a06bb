"""The Chat tab: a conversation with one model or with two side by side, and how their replies are sampled."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input

from gpt_core.errors import ConfigError
from gpt_core.generation.generator import Figures
from gpt_tui.shared.bindings import bindings
from gpt_tui.shared.messages import ChatLeft, ModelsListed, ReplyBegan, ReplyDelayed, ReplyEnded, ReplyGrew
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.chat.loaded_models import ChatModels, MakeGenerator
from gpt_tui.tabs.chat.prompt_history import PromptHistory
from gpt_tui.tabs.chat.reply import drawn_seed, progress, reply, side_by_side
from gpt_tui.tabs.chat.sampling_form import SamplingForm
from gpt_tui.tabs.chat.transcript import Answer, Transcript, Turn

LEAVING = "exit"
GOING_ON = "(going on)"
MOST_PROMPT_CHARACTERS = 1 << 16  # of a text that goes on and on: a model reads the end of it only


class PaneSink:
    """Takes a reply from its thread and posts it to the pane."""

    def __init__(self, pane: ChatTab, number: int) -> None:
        self._pane = pane
        self._number = number

    def delayed(self, words: str) -> None:
        """What it waits for."""
        self._pane.post_message(ReplyDelayed(self._number, words))

    def began(self, model: str) -> None:
        """The model is known."""
        self._pane.post_message(ReplyBegan(self._number, model))

    def grew(self, text: str, figures: Figures) -> None:
        """More text."""
        self._pane.post_message(ReplyGrew(self._number, text, figures.tokens, figures.tokens_per_s))

    def ended(self, summary: str, failed: bool) -> None:
        """The end."""
        self._pane.post_message(ReplyEnded(self._number, summary, failed))


class ChatTab(Horizontal):
    """One prompt at a time. `ChatLeft` goes out when the user types `exit`."""

    BINDINGS = bindings("chat")

    def __init__(self, models: ChatModels, make: MakeGenerator, texts: dict[str, str], *, id: str) -> None:
        super().__init__(id=id)
        self._models = models
        self._make = make
        self._texts = texts
        self._history = PromptHistory()
        self._number = 0
        self._under_way: dict[int, Answer] = {}
        self._stopped = threading.Event()
        self._copied = 0
        self._followed: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        """The conversation and its input, the fields beside them."""
        with Vertical(id="conversation"):
            yield Transcript(id="transcript")
            yield Input(placeholder="Begin a text, press Enter (exit leaves)", select_on_focus=False, id="prompt")
        yield SamplingForm(self._texts, id="sampling")

    def on_mount(self) -> None:
        """Names."""
        self.query_one(Transcript).border_title = "conversation"
        self._prompt.border_title = "prompt"

    def on_unmount(self) -> None:
        """A reply under way ends with the pane."""
        self._stopped.set()

    @property
    def replying(self) -> bool:
        """Whether a reply is under way."""
        return bool(self._under_way)

    @property
    def _prompt(self) -> Input:
        return self.query_one("#prompt", Input)

    @property
    def _form(self) -> SamplingForm:
        return self.query_one(SamplingForm)

    @property
    def _last(self) -> Turn | None:
        return self.query_one(Transcript).last

    # -- the models

    def enter(self) -> None:
        """The user is here: he may type."""
        self._prompt.focus()
        self._look()

    def follow(self, *, live: bool, saved: object) -> None:
        """Whether a run is under way and what it saved last: when that changes, there are other models to choose."""
        followed, self._followed = self._followed, (live, saved)
        if self.display and self._followed != followed:
            self._look()

    def choose(self, path: Path, *, beside: bool = False) -> None:
        """This checkpoint answers from now on, or answers beside the model that does."""
        self._form.choose(str(path), beside=beside)

    def _look(self) -> None:
        self.run_worker(
            lambda: self.post_message(ModelsListed(self._models.listed())),
            group="models", thread=True, exclusive=True, exit_on_error=False,
        )  # fmt: skip

    def on_models_listed(self, message: ModelsListed) -> None:
        """Offers them."""
        self._form.show_models(message.listed)
        self.query_one(Transcript).say_when_empty(message.listed.any)

    # -- the user

    @on(Input.Submitted, "#prompt")
    async def _submitted(self, message: Input.Submitted) -> None:
        message.stop()
        text, last = message.value, self._last
        if text.strip() == LEAVING:
            message.input.value = ""
            self.post_message(ChatLeft())
        elif self.replying:
            self.notify("a reply is under way: escape stops it", severity="warning")
        elif text:
            if await self._ask(text, [text]):
                self._history.add(text)
                message.input.value = ""
        elif last:
            await self._ask(GOING_ON, [answer.prompt + answer.reply for answer in last.answers])

    @on(Input.Submitted)
    def _field_submitted(self, message: Input.Submitted) -> None:
        """Enter in a field goes to the prompt."""
        message.stop()
        self._prompt.focus()

    async def action_retry(self) -> None:
        """The last prompt once more, to the models that are chosen now."""
        if (last := self._last) and not self.replying:
            await self._ask(last.shown_prompt, [answer.prompt for answer in last.answers])

    def action_keep_seed(self) -> None:
        """The last reply's seed goes into its field."""
        if last := self._last:
            self._form.keep_seed(last.seed)
            self.notify(f"seed {last.seed} is used from now on; empty its field for another each time")

    def action_stop_reply(self) -> None:
        """Stops the reply; without one, leaves the chat."""
        if self.replying:
            self._stopped.set()
        else:
            self.post_message(ChatLeft())

    def action_copy_reply(self) -> None:
        """The last reply, as the model gave it, to the clipboard: of two the first, then the second."""
        if last := self._last:
            answer = last.answers[self._copied % len(last.answers)]
            self._copied += 1
            self.app.copy_to_clipboard(answer.reply)
            whose = f" of {one_line(answer.model)}" if answer.model else ""
            again = "; again for the other one" if len(last.answers) > 1 else ""
            self.notify(f"copied the reply{whose}{again}", markup=False)

    async def action_clear_chat(self) -> None:
        """An empty conversation; a reply under way is stopped."""
        self._stopped.set()
        self._under_way = {}
        await self.query_one(Transcript).clear()

    def action_switch_side(self) -> None:
        """From the prompt to the fields, and back."""
        if self._form.has_focus_within:
            self._prompt.focus()
        else:
            self._form.enter()

    def action_move(self, by: int) -> None:
        """Through the prompts that were asked, or through the fields."""
        if self._prompt.has_focus:
            self._prompt.value = self._history.move(by, self._prompt.value)
            self._prompt.cursor_position = len(self._prompt.value)
        elif self._form.has_focus_within:
            (self.screen.focus_next if by > 0 else self.screen.focus_previous)()

    def action_page(self, by: int) -> None:
        """Through the conversation, wherever the cursor is."""
        transcript = self.query_one(Transcript)
        (transcript.scroll_page_down if by > 0 else transcript.scroll_page_up)()

    # -- the reply

    async def _ask(self, shown_prompt: str, prompts: Sequence[str]) -> bool:
        """Begins the replies of the models that are chosen, to a prompt for each (the last one for those beyond).

        False, and nothing happens, if the fields are wrong.
        """
        try:
            sampling, seed = self._form.sampling()
        except ConfigError as error:
            self.notify(one_line(str(error)), severity="error", markup=False)
            return False
        seed = drawn_seed() if seed is None else seed
        models = self._form.models
        prompts = [prompts[min(side, len(prompts) - 1)][-MOST_PROMPT_CHARACTERS:] for side in range(len(models))]
        turn = Turn(shown_prompt, prompts, seed)
        self._stopped, self._copied = threading.Event(), 0
        replies = []
        for model, answer in zip(models, turn.answers, strict=True):
            self._number += 1
            self._under_way[self._number] = answer
            sink, find = PaneSink(self, self._number), partial(self._models.answerer, model)
            replies.append(
                reply(answer.prompt, sampling, seed, find=find, make=self._make, stopped=self._stopped, sink=sink)
            )
        await self.query_one(Transcript).add(turn)
        self.run_worker(partial(side_by_side, replies), group="reply", thread=True, exit_on_error=False)
        return True

    def on_reply_delayed(self, message: ReplyDelayed) -> None:
        """Says what it waits for."""
        if answer := self._under_way.get(message.number):
            answer.note(message.words)

    def on_reply_began(self, message: ReplyBegan) -> None:
        """Names the model."""
        if answer := self._under_way.get(message.number):
            answer.begin(message.model)

    def on_reply_grew(self, message: ReplyGrew) -> None:
        """Shows more text."""
        if answer := self._under_way.get(message.number):
            answer.grow(message.text, progress(message.tokens, message.tokens_per_s))

    def on_reply_ended(self, message: ReplyEnded) -> None:
        """Shows how it ended."""
        if answer := self._under_way.pop(message.number, None):
            answer.end(message.summary, failed=message.failed)
