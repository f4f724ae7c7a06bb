"""What the Train tab shows before a run: what would be trained, and which key starts it."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from gpt_tui.plain_text import one_line
from gpt_tui.quantities import bar, percent
from gpt_tui.run_setup import Setup, checkpoint_words, setup_rows

LABEL_WIDTH = 11
BAR_WIDTH = 30


class Welcome(VerticalScroll):
    """`show_setup` fills it; `show_opening` turns it into the progress of getting ready."""

    can_focus = False

    def compose(self) -> ComposeResult:
        """One text."""
        yield Static("", id="welcome-text", markup=False)

    def show_setup(self, setup: Setup, keys: dict[str, str]) -> None:
        """What a start would train, and what else can be done; `keys` maps an action to its key as shown."""
        lines = [Content.styled("Train a GPT from scratch, watch it learn, chat with it.", "bold"), Content("")]
        for label, text in setup_rows(setup):
            style = "bold $text-error" if label == "text" and setup.problem else ""
            lines.append(Content.assemble((label.ljust(LABEL_WIDTH), "$foreground 60%"), (one_line(text), style)))
        lines.append(Content(""))
        what = f"the {setup.preset_name} preset" if setup.preset_name else "this model"
        if setup.problem:
            lines.append(Content.styled("Put a text there and start gpt-tui again.", "bold"))
        else:
            lines.append(action_line(keys["start"], f"to start training {what} on {setup.train_file}"))
        if resumable := setup.stored.resumable:
            lines.append(action_line(keys["resume"], f"to go on from {checkpoint_words(resumable, setup.now_s)}"))
        if not setup.problem:
            lines_count = setup.settings.overfit_lines
            lines.append(action_line(keys["overfit"], f"to learn {lines_count} lines by heart, a check that all works"))
        if chat := setup.stored.for_chat:
            lines.append(action_line(keys["chat"], f"to chat with {checkpoint_words(chat, setup.now_s)}"))
        lines.append(action_line(keys["help"], "for all keys"))
        self.query_one("#welcome-text", Static).update(Content("\n").join(lines))

    def show_opening(self, words: str, share: float) -> None:
        """What is being made ready, and how far it is."""
        self.query_one("#welcome-text", Static).update(
            Content.assemble(
                ("Getting ready\n\n", "bold"), f"{one_line(words)}\n",
                (bar(share, BAR_WIDTH), "$primary"), f" {percent(share)}\n\n",
                ("The first start makes tokens of the text; the next one finds them in the cache.", "$foreground 60%"),
            )
        )  # fmt: skip


def action_line(key: str, words: str) -> Content:
    """`Press s to ...`."""
    return Content.assemble("Press ", (f" {key} ", "bold reverse"), f" {words}")
