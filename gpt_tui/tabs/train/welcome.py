"""Welcome view of the Train tab: what a start would train, and the keys that start it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from gpt_tui.session.run_preview import RunPreview
from gpt_tui.shared.formatting import bar, percent
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.train.countdown import CountdownLine
from gpt_tui.tabs.train.presenter import possible_actions, preview_rows

LABEL_WIDTH = 11
BAR_WIDTH = 30
MAX_TEXT_WIDTH, MARGIN = 84, 8


class Welcome(VerticalScroll):
    """Shows the preview of a run, or the progress of opening one."""

    can_focus = False

    def compose(self) -> ComposeResult:
        """Compose the text and the countdown below it."""
        yield Static("", id="welcome-text", markup=False)
        yield CountdownLine(id="welcome-countdown")

    @property
    def countdown(self) -> CountdownLine:
        """The countdown of a first start."""
        return self.query_one(CountdownLine)

    def show_preview(self, preview: RunPreview, changes: Mapping[str, str], keys: Mapping[str, str]) -> None:
        """Show what a start would train, and what else can be done.

        Args:
            preview: The files and checkpoints of the run.
            changes: Settings that were changed in the set-up screen, as text.
            keys: The displayed key of each action.
        """
        columns = self.app.size.width
        width = max(MAX_TEXT_WIDTH if columns > MAX_TEXT_WIDTH + MARGIN else columns - MARGIN, 30)
        lines = [Content.styled("Train a GPT from scratch, watch it learn, chat with it.", "bold"), Content("")]
        for label, text in preview_rows(preview, changes):
            style = "bold $error" if label == "text" and preview.problem else ""
            for part in textwrap.wrap(one_line(text), width - LABEL_WIDTH):
                lines.append(Content.assemble((label.ljust(LABEL_WIDTH), "$muted"), (part, style)))
                label = ""
        lines.append(Content(""))
        actions = possible_actions(preview, is_changed=bool(changes))
        key_width = max(len(keys[action]) for action, _ in actions)
        lines += [
            Content.assemble((f" {keys[action].center(key_width)} ", "bold reverse"), f"  {label}")
            for action, label in actions
        ]
        self.query_one("#welcome-text", Static).update(Content("\n").join(lines))

    def show_opening(self, activity: str, fraction: float) -> None:
        """Show what a starting run does, and its progress from 0 to 1."""
        self.query_one("#welcome-text", Static).update(
            Content.assemble(
                ("Getting ready\n\n", "bold"), f"{one_line(activity)}\n",
                (bar(fraction, BAR_WIDTH), "$primary"), f" {percent(fraction)}\n\n",
                ("Only the first start tokenizes the text; later ones read the token cache.", "$muted"),
            )
        )  # fmt: skip
