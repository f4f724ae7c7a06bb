"""Chat tab: a conversation with one model or two side by side, and the settings of their replies."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input

from gpt_core.errors import ConfigError
from gpt_core.generation.generator import readable
from gpt_tui.run_view.model_list import ModelList, ModelsListed
from gpt_tui.run_view.surprise.screen import SurpriseScreen
from gpt_tui.session.model_options import checkpoint_name
from gpt_tui.session.models import MakeGenerator, ModelLoader
from gpt_tui.session.removed_parts import RemovedParts, without
from gpt_tui.shared.bindings import bindings, keymap_of
from gpt_tui.shared.keymap import with_keys
from gpt_tui.shared.sanitize import one_line, title_markup
from gpt_tui.tabs.chat.presenter import CONTINUED, hint
from gpt_tui.tabs.chat.prompt_area import MAX_PROMPT_CHARACTERS, PromptArea
from gpt_tui.tabs.chat.prompt_history import PromptHistory
from gpt_tui.tabs.chat.reply import generate_reply, interleave, random_seed
from gpt_tui.tabs.chat.sampling_form import SamplingForm
from gpt_tui.tabs.chat.transcript import Transcript, Turn

EXIT_COMMAND = "exit"


class ChatTab(Horizontal):
    """Transcript, prompt and settings. Posts `ExitRequested`."""

    BINDINGS = bindings("chat")

    class ExitRequested(Message):
        """Request to leave the chat."""

    def __init__(
        self, models: ModelLoader, make: MakeGenerator, texts: dict[str, str], removed: RemovedParts, *, id: str
    ) -> None:
        super().__init__(id=id)
        self._removed = removed
        self._models = models
        self._model_list = ModelList(self, models)
        self._make = make
        self._texts = texts
        self._history = PromptHistory()
        self._stopped = threading.Event()
        self._copies = 0
        self._is_compared_now = False  # a model to compare with was chosen in another tab
        self._followed: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        """Lay out the conversation above the prompt, with the settings on the right."""
        with Vertical(id="conversation"):
            yield Transcript(id="transcript")
            yield PromptArea("Start a text, press Enter (exit: leave)", id="prompt")
        yield SamplingForm(self._texts, id="sampling")

    def on_mount(self) -> None:
        """Set the titles, and list the models at intervals."""
        self.query_one(Transcript).border_title = "conversation"
        self._prompt.border_title = "prompt"
        keymap = keymap_of(self.app)
        names = "{chat.newline}" if "chat.newline" in keymap else "Alt+Enter or Ctrl+J"  # not all terminals have both
        self._prompt.border_subtitle = title_markup(with_keys(f"{names}: new line", keymap))
        self._model_list.list_at_intervals()

    def on_unmount(self) -> None:
        """Stop replies under way."""
        self._stopped.set()

    @property
    def replying(self) -> bool:
        """True while a reply is being generated."""
        return (last := self._last) is not None and any(answer.generating for answer in last.answers)

    @property
    def _prompt(self) -> PromptArea:
        return self.query_one("#prompt", PromptArea)

    @property
    def _form(self) -> SamplingForm:
        return self.query_one(SamplingForm)

    @property
    def _last(self) -> Turn | None:
        return self.query_one(Transcript).last

    # -- models

    def enter(self) -> Widget:
        """List the models, and return the widget to focus, the prompt; called when the tab is shown."""
        self._model_list.list_now()
        note = without(self._removed.parts)
        put_back = with_keys(f"{note} ({{go.inside}}, {{inside.remove}}: put back)", keymap_of(self.app))
        self.query_one(Transcript).border_title = title_markup(put_back if note else "conversation")
        return self._prompt

    def follow(self, *, live: bool, saved: object) -> None:
        """List the models again when a run starts, ends or saves a checkpoint."""
        followed, self._followed = self._followed, (live, saved)
        if self.display and self._followed != followed:
            self._model_list.list_now()

    def choose(self, model: str, *, compare: bool = False) -> None:
        """Select the value of an option as the model, or as the one to compare with.

        Whether that is the model which replies already is known once the models are listed.
        """
        self._form.choose(model, compare=compare)
        self._is_compared_now = compare

    @property
    def last_reply(self) -> str:
        """The last finished reply with its prompt, "" without one; of two, the first."""
        if (last := self._last) is None or last.answers[0].generating:
            return ""
        return last.answers[0].prompt + last.answers[0].reply

    async def generate_from(self, prompt: str) -> None:
        """Continue a text from another tab, instead of any reply in progress."""
        self._stopped.set()
        await self._generate(prompt, [prompt])

    def on_models_listed(self, message: ModelsListed) -> None:
        """Show the models."""
        self._form.show_models(message.available)
        if self._is_compared_now:
            self._is_compared_now = False
            if same := self._form.drop_comparison_of_the_same(message.available):
                name = checkpoint_name(Path(same), message.available.folder)
                self.notify(f"{name} is the chat's model already; compare it with another one", markup=False)
        self.query_one(Transcript).show_hint(hint(message.available, keymap_of(self.app)))

    # -- keys

    @on(PromptArea.Submitted)
    async def _prompt_submitted(self, message: PromptArea.Submitted) -> None:
        message.stop()
        text, last = message.text, self._last
        if text.strip() == EXIT_COMMAND:
            self._prompt.show("")
            self.post_message(self.ExitRequested())
        elif self.replying:
            self._notify_replying()
        elif text:
            if await self._generate(text, [text]):
                self._history.add(text)
                self._prompt.show("")
        elif last:
            await self._generate(CONTINUED, [answer.prompt + answer.reply for answer in last.answers])

    @on(PromptArea.LineLeft)
    def _line_left(self, message: PromptArea.LineLeft) -> None:
        message.stop()
        self.action_move(message.by)

    @on(Input.Submitted)
    def _field_submitted(self, message: Input.Submitted) -> None:
        """Move from a settings field to the prompt, unless a field is invalid: then to that."""
        message.stop()
        if problem := self._form.focus_problem():
            self.notify(problem, severity="error", markup=False)
        else:
            self._prompt.focus()

    async def action_retry(self) -> None:
        """Generate again from the last prompt, with the models selected now."""
        if (last := self._last) and not self.replying:
            await self._generate(last.shown_prompt, [answer.prompt for answer in last.answers])

    def action_keep_seed(self) -> None:
        """Copy the last reply's seed into the settings."""
        if last := self._last:
            self._form.set_seed(last.seed)
            self.notify(f"seed {last.seed} is set for the next replies; clear the field for random seeds")

    def action_show_surprise(self) -> None:
        """Color the last replies by the surprise of their tokens, and continue one from a chosen alternative."""
        last = self._last
        texts = [answer.to_score for answer in last.answers if answer.to_score is not None] if last else []
        if self.replying:
            self._notify_replying()
        elif not texts:
            self.notify("no reply to color yet", severity="warning")
        else:
            self.app.push_screen(SurpriseScreen(texts), self._continue_text)

    def _notify_replying(self) -> None:
        text = with_keys("a reply is being generated; press {chat.stop} to stop it", keymap_of(self.app))
        self.notify(text, severity="warning", markup=False)

    async def _continue_text(self, text: str | None) -> None:
        if text:
            await self.generate_from(text)

    def action_stop_reply(self) -> None:
        """Stop the reply; without one, leave the settings for the prompt, or the prompt for the conversation."""
        if self.replying:
            self._stopped.set()
        elif self._form.has_focus_within:
            self._prompt.focus()
        else:
            self.query_one(Transcript).focus()

    def on_key(self, event: events.Key) -> None:
        """Continue the prompt with a character typed elsewhere, which would be a command of another tab.

        The focus moves at once. Keys that were sent to the widget which had it still arrive here; those that the
        prompt handles do not.
        """
        in_form = self._form.has_focus_within
        if event.is_printable and not (in_form and event.key == "space"):
            event.stop()
            self.screen.set_focus(self._prompt)
            self._prompt.insert(event.character or "")
        elif event.key == "enter" and not in_form:
            event.stop()
            self.screen.set_focus(self._prompt)

    def on_paste(self, event: events.Paste) -> None:
        """Paste into the prompt what is pasted outside of a field."""
        if not self._prompt.has_focus:
            event.stop()
            self._prompt.focus()
            self._prompt.post_message(events.Paste(event.text))

    def action_new_line(self) -> None:
        """Insert a line break into the prompt."""
        if self._prompt.has_focus:
            self._prompt.new_line()

    def action_copy_reply(self) -> None:
        """Copy the last reply to the clipboard, as generated; with two replies, each in turn."""
        if last := self._last:
            answer = last.answers[self._copies % len(last.answers)]
            self._copies += 1
            self.app.copy_to_clipboard(readable(answer.reply))
            source = f" of {one_line(answer.model)}" if answer.model else ""
            again = "; press again for the other one" if len(last.answers) > 1 else ""
            self.notify(f"copied the reply{source}{again}", markup=False)

    async def action_clear_chat(self) -> None:
        """Clear the conversation; stops the reply."""
        self._stopped.set()
        await self.query_one(Transcript).clear()

    def action_switch_side(self) -> None:
        """Move the focus between the prompt and the settings."""
        if self._form.has_focus_within:
            self._prompt.focus()
        else:
            self._form.focus_first()

    def action_move(self, by: int) -> None:
        """Move through the prompt history, or through the settings."""
        if self._prompt.has_focus:
            self._prompt.show(self._history.move(by, self._prompt.text))
        elif self._form.has_focus_within:
            (self.screen.focus_next if by > 0 else self.screen.focus_previous)()

    def action_page(self, by: int) -> None:
        """Scroll the conversation by a page."""
        transcript = self.query_one(Transcript)
        (transcript.scroll_page_down if by > 0 else transcript.scroll_page_up)()

    # -- replies

    async def _generate(self, shown_prompt: str, prompts: Sequence[str]) -> bool:
        """Start the replies of the selected models; the last prompt serves the models beyond `prompts`.

        Returns False, and starts nothing, if a sampling field is invalid.
        """
        try:
            sampling, seed, weights = self._form.reply_settings()
        except ConfigError as error:
            self.notify(one_line(str(error)), severity="error", markup=False)
            return False
        seed = random_seed() if seed is None else seed
        models = self._form.models
        prompts = [prompts[min(side, len(prompts) - 1)][-MAX_PROMPT_CHARACTERS:] for side in range(len(models))]
        removed = self._removed.parts
        loads = [partial(self._models.load, model, weights=weights, removed=removed) for model in models]
        turn = Turn(shown_prompt, prompts, seed, loads)
        self._stopped, self._copies = threading.Event(), 0
        replies = [
            generate_reply(
                answer.prompt, sampling, seed, load=answer.load, make=self._make, stopped=self._stopped,
                post=answer.post_message,
            )
            for answer in turn.answers
        ]  # fmt: skip
        await self.query_one(Transcript).add(turn)
        self.run_worker(partial(interleave, replies), group="reply", thread=True, exit_on_error=False)
        return True
