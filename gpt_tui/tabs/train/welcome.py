"""What the Train tab shows before a run: what would be trained, and which key starts it."""

from __future__ import annotations

import textwrap
from pathlib import PurePath

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from gpt_tui.session.run_preview import Setup, checkpoint_words, setup_rows
from gpt_tui.shared.formatting import bar, percent
from gpt_tui.shared.sanitize import one_line

LABEL_WIDTH = 11
BAR_WIDTH = 30
MOST_WIDTH, MARGIN = 84, 8


class Welcome(VerticalScroll):
    """`show_setup` fills it; `show_opening` turns it into the progress of getting ready."""

    can_focus = False

    def compose(self) -> ComposeResult:
        """What would be trained, and the countdown of the first start."""
        yield Static("", id="welcome-text", markup=False)
        yield Static("", id="welcome-countdown", markup=False)

    @property
    def text_width(self) -> int:
        """Cells that a line of text may take."""
        columns = self.app.size.width
        return max(MOST_WIDTH if columns > MOST_WIDTH + MARGIN else columns - MARGIN, 30)

    def show_countdown(self, line: str, hint: str) -> None:
        """What begins by itself, and when; "" for nothing."""
        text = Content.assemble((line, "$primary"), "\n", (hint, "$foreground 60%")) if line else Content("")
        countdown = self.query_one("#welcome-countdown", Static)
        countdown.display = bool(line)
        countdown.update(text)

    def show_setup(self, setup: Setup, keys: dict[str, str]) -> None:
        """What a start would train, and what else can be done; `keys` maps an action to its key as shown."""
        lines = [Content.styled("Train a GPT from scratch, watch it learn, chat with it.", "bold"), Content("")]
        for label, text in setup_rows(setup):
            style = "bold $error" if label == "text" and setup.problem else ""
            for part in textwrap.wrap(one_line(text), self.text_width - LABEL_WIDTH):
                lines.append(Content.assemble((label.ljust(LABEL_WIDTH), "$foreground 60%"), (part, style)))
                label = ""
        lines.append(Content(""))
        lines += [action_line(keys[action], words) for action, words in possible_actions(setup)]
        self.query_one("#welcome-text", Static).update(Content("\n").join(lines))

    def show_opening(self, words: str, share: float) -> None:
        """What is being made ready, and how far it is."""
        self.show_countdown("", "")
        self.query_one("#welcome-text", Static).update(
            Content.assemble(
                ("Getting ready\n\n", "bold"), f"{one_line(words)}\n",
                (bar(share, BAR_WIDTH), "$primary"), f" {percent(share)}\n\n",
                ("The first start makes tokens of the text; the next one finds them in the cache.", "$foreground 60%"),
            )
        )  # fmt: skip


def possible_actions(setup: Setup) -> list[tuple[str, str]]:
    """What can be done before a run, as (action, "to ..."), most useful first."""
    actions = []
    if not setup.problem:
        what = f"the {setup.preset_name} preset" if setup.preset_name else "this model"
        actions.append(("start", f"to start training {what} on {PurePath(setup.train_file).name}"))
    if resumable := setup.stored.resumable:
        actions.append(("resume", f"to go on from {checkpoint_words(resumable, setup.now_s)}"))
    if not setup.problem:
        actions.append(("overfit", f"to learn {setup.settings.overfit_lines} lines by heart, a check that all works"))
    actions.append(("setup", "to set up another model, text or rates first"))
    if chat := setup.stored.for_chat:
        actions.append(("chat", f"to chat with {checkpoint_words(chat, setup.now_s)}"))
    return [*actions, ("help", "for all keys")]


def action_line(key: str, words: str) -> Content:
    """`Press s to ...`."""
    return Content.assemble("Press ", (f" {key} ", "bold reverse"), f" {words}")
