"""The Checkpoints tab: what is under the models folder, whether it is whole, and what can be done with it."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from gpt_tui.shared.bindings import bindings
from gpt_tui.shared.keymap import KEYS, keys_of, shown_key
from gpt_tui.shared.messages import (
    ChatWanted,
    CheckEnded,
    CheckpointDeleted,
    CheckpointsSeen,
    CheckProgressed,
    DeleteWanted,
    ResumeWanted,
    RoomChanged,
)
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.checkpoints.files import Check, FolderReader, FolderView, Stamp, StoredFile, delete_file
from gpt_tui.tabs.checkpoints.list import CheckpointList, Rows
from gpt_tui.tabs.checkpoints.presenter import deletion_question, details, nothing_there, refusal, summary_words
from gpt_tui.tabs.checkpoints.table import Verdict, next_unchecked, table, verdict_of

LOOK_INTERVAL_S = 2.0
LABEL_WIDTH = 11


class Body(Container):
    """Table and details; tells when there is more or less room for them."""

    def on_resize(self) -> None:
        """The terminal has another size, or the body is seen again."""
        self.post_message(RoomChanged())


class CheckpointsTab(Vertical):
    """While it is seen it looks every few seconds, and checks one file after the other in a thread of low priority.

    `ResumeWanted`, `ChatWanted`, `DeleteWanted` and `CheckpointDeleted` go out to the screen.
    """

    BINDINGS = bindings("checkpoints")

    def __init__(self, models_dir: str, *, id: str) -> None:
        super().__init__(id=id)
        self.clock: Callable[[], float] = time.time
        self._models_dir = models_dir
        self._reader = FolderReader(models_dir)
        self._view = FolderView()
        self._verdicts: dict[Stamp, Verdict] = {}
        self._check: Check | None = None
        self._asked: Stamp | None = None  # the user asked for this check, and is told how it ended
        self._asked_to_delete: Stamp | None = None
        self._looking = False
        self._running_in: Path | None = None

    def compose(self) -> ComposeResult:
        """A text for an empty folder; else the table and the details of its row."""
        yield Static("", id="checkpoints-empty", markup=False)
        with Body(id="checkpoints-body"):
            yield CheckpointList(id="checkpoint-list")
            with VerticalScroll(id="checkpoint-details", can_focus=False):
                yield Static("", id="checkpoint-facts", markup=False)

    def on_mount(self) -> None:
        """Nothing is known yet."""
        self.set_interval(LOOK_INTERVAL_S, self._look_if_seen)
        self.query_one("#checkpoints-body").display = False

    # -- when it is seen

    def enter(self) -> None:
        """The user is here: what is there is looked at, and the keys work on it."""
        self._look()
        self._show()
        self._take_focus()

    def on_hide(self) -> None:
        """The user is elsewhere: nothing is read any more."""
        self._stop_check()

    def on_unmount(self) -> None:
        """The app ends."""
        self._stop_check()

    @on(RoomChanged)
    def _room_changed(self, message: RoomChanged) -> None:
        """Other columns fit."""
        message.stop()
        self._show()

    def show_running(self, folder: Path | None) -> None:
        """Where the run under way saves; None without one."""
        self._running_in = folder
        self._show()

    def show_folder(self, models_dir: str) -> None:
        """Another folder is looked at from now on."""
        if models_dir != self._models_dir:
            self._stop_check()
            self._models_dir, self._reader, self._view = models_dir, FolderReader(models_dir), FolderView()

    # -- looking and checking

    def _look_if_seen(self) -> None:
        if self.display:
            self._look()

    def _look(self) -> None:
        if not self._looking:
            self._looking = True
            self.run_worker(self._read, thread=True, group="look", exit_on_error=False)

    def _read(self) -> None:
        try:
            view = self._reader.look()
        except Exception as error:  # whatever it is, the next look may do better
            view = FolderView(problems=(f"{self._models_dir} cannot be read: {type(error).__name__}: {error}",))
        self.post_message(CheckpointsSeen(view))

    def on_checkpoints_seen(self, message: CheckpointsSeen) -> None:
        """Shows what is there, and checks what is new."""
        self._looking = False
        self._view = message.view
        stamps = {file.stamp for file in message.view.files}
        self._verdicts = {stamp: verdict for stamp, verdict in self._verdicts.items() if stamp in stamps}
        self._show()
        self._check_next()

    def _check_next(self) -> None:
        if self._check is None and self.display and (file := next_unchecked(self._view.files, self._verdicts)):
            self._begin_check(file.stamp)

    def _begin_check(self, stamp: Stamp) -> None:
        self._stop_check()
        self._verdicts[stamp] = Verdict("checking")
        self._check = Check(
            stamp,
            lambda stamp, share: self.post_message(CheckProgressed(stamp, share)),
            lambda stamp, error: self.post_message(CheckEnded(stamp, error)),
        )
        self._check.start()

    def _stop_check(self) -> None:
        if self._check:
            self._check.stop()
            self._verdicts.pop(self._check.stamp, None)
            self._check = None

    def on_check_progressed(self, message: CheckProgressed) -> None:
        """Shows how far it is."""
        if self._check and message.stamp == self._check.stamp:
            self._verdicts[message.stamp] = Verdict("checking", message.share)
            self._show()

    def on_check_ended(self, message: CheckEnded) -> None:
        """Shows how it ended, and goes on to the next file."""
        if not self._check or message.stamp != self._check.stamp:
            return
        self._check = None
        self._verdicts[message.stamp] = Verdict("damaged" if message.error else "whole", error=message.error)
        if self._asked == message.stamp:
            self._asked = None
            name = one_line(message.stamp.path.name)
            words, severity = (message.error, "error") if message.error else (f"{name} is whole", "information")
            self.app.notify(one_line(words), severity=severity, markup=False)  # type: ignore[arg-type]
        self._show()
        self._check_next()

    # -- what is shown

    @property
    def _list(self) -> CheckpointList:
        return self.query_one(CheckpointList)

    @property
    def chosen(self) -> StoredFile | None:
        """The file that the cursor is on."""
        on = self._list.key
        return next((file for file in self._view.files if str(file.stamp.path) == on), None)

    def _show(self) -> None:
        if not self.display or not self.is_mounted:
            return
        files = self._view.files
        empty, body = self.query_one("#checkpoints-empty", Static), self.query_one("#checkpoints-body")
        empty.display = not files
        if not files:
            keys = {key.id: shown_key(key, dict(self.app._keymap)) for key in KEYS}
            running = self._running_in is not None
            empty.update(Content(nothing_there(self._models_dir, self._view.problems, keys, running=running)))
        if body.display != bool(files):
            body.display = bool(files)
            self._take_focus()
        elif files and self._list.room > 0:  # a body that was hidden has no room yet; it tells when it has
            now_s = self.clock()
            shown = table(files, self._verdicts, now_s, self._list.room)
            self._list.show(shown, [str(file.stamp.path) for file in files])
            self._list.border_title = f"under {one_line(self._models_dir)}/"
            self._list.border_subtitle = summary_words(self._view, self._verdicts)
            self._show_details(now_s)

    def _take_focus(self) -> None:
        """The rows have the keys while there are rows."""
        if self._view.files and self.screen.focused is None:
            self._list.rows.focus()
        elif not self._view.files and self._list.rows.has_focus:
            self.screen.set_focus(None)

    @on(Rows.OptionHighlighted)
    def _moved(self, message: Rows.OptionHighlighted) -> None:
        message.stop()
        self._list.mark()
        self._show_details(self.clock())

    def _show_details(self, now_s: float) -> None:
        file = self.chosen
        if file is None:
            return
        frame = self.query_one("#checkpoint-details")
        frame.border_title = one_line(file.name)
        width = max(frame.scrollable_content_region.width - LABEL_WIDTH, 10)
        lines = []
        for label, text in details(file, verdict_of(file, self._verdicts), now_s):
            for part in textwrap.wrap(one_line(text), width):
                lines.append(Content.assemble((label.ljust(LABEL_WIDTH), "$foreground 60%"), part))
                label = ""
        self.query_one("#checkpoint-facts", Static).update(Content("\n").join(lines))

    # -- the user

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What is done to a row needs one that is seen."""
        if action in {key.action for key in keys_of("checkpoints")} and not (self.display and self._view.files):
            return None
        return True

    def _may(self, file: StoredFile, *, resume: bool = False) -> bool:
        """Whether one can go on from a file, or chat with it; the user is told why not."""
        running = self._running_in is not None
        why_not = refusal(file, verdict_of(file, self._verdicts), resume=resume, running=running)
        if why_not:
            self.app.notify(one_line(why_not), severity="warning", markup=False)
        return not why_not

    def action_resume_from(self) -> None:
        """Training goes on from this file."""
        if (file := self.chosen) and self._may(file, resume=True):
            self.post_message(ResumeWanted(file.stamp.path))

    def action_chat_with(self) -> None:
        """This file answers in the chat."""
        if (file := self.chosen) and self._may(file):
            self.post_message(ChatWanted(file.stamp.path))

    def action_chat_beside(self) -> None:
        """This file answers beside the model that does now."""
        if (file := self.chosen) and self._may(file):
            self.post_message(ChatWanted(file.stamp.path, beside=True))

    def action_verify(self) -> None:
        """This file is read through once more, before all others."""
        if file := self.chosen:
            self._asked = file.stamp
            self._begin_check(file.stamp)
            self._show()

    def action_delete(self) -> None:
        """The user is asked about this file."""
        if file := self.chosen:
            question = deletion_question(file, self._view.files, self._verdicts, running_in=self._running_in)
            self._asked_to_delete = file.stamp
            self.post_message(DeleteWanted(file.stamp.path, question))

    def delete(self, path: Path) -> None:
        """Deletes a file, and tells the screen."""
        if self._check and self._check.stamp.path == path:
            self._stop_check()
        stamp = self._asked_to_delete if self._asked_to_delete and self._asked_to_delete.path == path else None
        self.run_worker(partial(self._delete, path, stamp), thread=True, group="delete", exit_on_error=False)

    def _delete(self, path: Path, stamp: Stamp | None) -> None:
        self.post_message(CheckpointDeleted(path, delete_file(path, stamp)))

    def on_checkpoint_deleted(self, message: CheckpointDeleted) -> None:
        """Says how it went; the screen hears of it, too."""
        if message.error:
            self.app.notify(one_line(message.error), title="not deleted", severity="error", markup=False)
        else:
            self.app.notify(f"deleted {one_line(message.path.name)}", markup=False)
        self._looking = False  # a look that began before the deletion may not know of it
        self._look()
