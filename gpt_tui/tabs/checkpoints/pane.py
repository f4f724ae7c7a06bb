"""Checkpoints tab: the files under the models folder, their verification, and actions on them."""

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
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static

from gpt_core.bridges.export import ExportResult
from gpt_core.errors import ConfigError
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.home import expand_home
from gpt_tui.shared.bindings import bindings, keymap_of
from gpt_tui.shared.dialogs import delete_question
from gpt_tui.shared.file_name_dialog import FileNameScreen
from gpt_tui.shared.keymap import keys_of, with_keys
from gpt_tui.shared.sanitize import one_line, title_markup
from gpt_tui.tabs.checkpoints.checkpoint_list import CheckpointList, Rows
from gpt_tui.tabs.checkpoints.export import ExportThread, exported_text, format_question, proposed_path
from gpt_tui.tabs.checkpoints.files import (
    CheckpointFile,
    FolderContents,
    FolderScanner,
    Stamp,
    VerificationThread,
    delete_file,
)  # fmt: skip
from gpt_tui.tabs.checkpoints.presenter import (
    Use,
    Verification,
    deletion_question,
    details,
    empty_text,
    next_pending,
    refusal,
    summary_text,
    table,
    verification_of,
    verification_result,
)  # fmt: skip

SCAN_INTERVAL_S = 2.0
LABEL_WIDTH = 11


class Body(Container):
    """Table and details. Posts `Resized`, as another width has room for other columns."""

    class Resized(Message):
        """The body has another size, or is visible again."""

    def on_resize(self) -> None:
        """Report the new size."""
        self.post_message(self.Resized())


class CheckpointsTab(Vertical):
    """Table of checkpoints and details of the selected one.

    While visible, it scans the models folder at intervals and verifies one file at a time in a thread of low priority.
    Posts `ResumeRequested`, `FineTuneRequested`, `ChatRequested` and `Deleted`.
    """

    BINDINGS = bindings("checkpoints")

    class ResumeRequested(Message):
        """Request to resume from a checkpoint; `info` is its header."""

        def __init__(self, path: Path, info: CheckpointInfo | None) -> None:
            super().__init__()
            self.path = path
            self.info = info

    class FineTuneRequested(Message):
        """Request to start a new run from a checkpoint."""

        def __init__(self, path: Path) -> None:
            super().__init__()
            self.path = path

    class ChatRequested(Message):
        """Request to chat with a checkpoint, or to `compare` it with the chat's model."""

        def __init__(self, path: Path, *, compare: bool = False) -> None:
            super().__init__()
            self.path = path
            self.compare = compare

    class Deleted(Message):
        """A deletion has ended, in a thread; `error` is why it failed, "" if it succeeded."""

        def __init__(self, path: Path, error: str) -> None:
            super().__init__()
            self.path = path
            self.error = error

    class Exporting(Message, bubble=False):
        """An export has progressed or ended, in its thread: `outcome` is the result, the error, or None before that."""

        def __init__(self, outcome: ExportResult | str | None = None) -> None:
            super().__init__()
            self.outcome = outcome

    class Scanned(Message, bubble=False):
        """The models folder was scanned, in a thread."""

        def __init__(self, scanner: FolderScanner, contents: FolderContents) -> None:
            super().__init__()
            self.scanner = scanner
            self.contents = contents

    class Verified(Message, bubble=False):
        """The verification of a file has progressed or ended, in its thread."""

        def __init__(self, stamp: Stamp, verification: Verification) -> None:
            super().__init__()
            self.stamp = stamp
            self.verification = verification

    def __init__(self, models_dir: str, *, id: str) -> None:
        super().__init__(id=id)
        self.clock: Callable[[], float] = time.time
        self._models_dir = models_dir
        self._scanner = FolderScanner(models_dir)
        self._contents = FolderContents()
        self._is_read = False  # the contents are those of the folder
        self._verifications: dict[Stamp, Verification] = {}
        self._thread: VerificationThread | None = None
        self._export: ExportThread | None = None
        self._requested: Stamp | None = None  # verified at the user's request, who is notified of the result
        self._scanning = False
        self._running_in: Path | None = None

    def compose(self) -> ComposeResult:
        """Lay out the text of an empty folder, or the table and the details."""
        yield Static("", id="checkpoints-empty", markup=False)
        with Body(id="checkpoints-body"):
            yield CheckpointList(id="checkpoint-list")
            with VerticalScroll(id="checkpoint-details", can_focus=False):
                yield Static("", id="checkpoint-facts", markup=False)

    def on_mount(self) -> None:
        """Start the interval of scans."""
        self.set_interval(SCAN_INTERVAL_S, self._scan_if_visible)
        self.query_one("#checkpoints-body").display = False

    # -- visibility

    def enter(self) -> Widget | None:
        """Scan the folder, and return the widget to focus, None without rows; called when the tab is shown."""
        self._scan()
        self._show()
        return self._list.rows if self._contents.files else None

    def on_hide(self) -> None:
        """Stop reading files."""
        self._stop_verification()

    def on_unmount(self) -> None:
        """Stop reading and writing files."""
        self._stop_verification()
        if self._export:
            self._export.stop()

    @on(Body.Resized)
    def _body_resized(self, message: Body.Resized) -> None:
        message.stop()
        self._show()

    def show_running(self, folder: Path | None) -> None:
        """Set the folder that the run in progress saves in, None without a run."""
        self._running_in = folder
        self._show()

    def show_folder(self, models_dir: str) -> None:
        """Change the models folder."""
        if models_dir != self._models_dir:
            self._stop_verification()
            self._models_dir = models_dir
            self._contents, self._is_read = FolderContents(), False
            self._scanner, self._scanning = FolderScanner(models_dir), False

    def include_folder(self, folder: str) -> None:
        """Change the models folder, unless the files in `folder` are already listed."""
        if Path(self._models_dir) not in (Path(folder), Path(folder).parent):
            self.show_folder(folder)

    # -- scanning and verification

    def _scan_if_visible(self) -> None:
        if self.display:
            self._scan()

    def _scan(self) -> None:
        if not self._scanning:
            self._scanning = True
            scan = partial(self._scan_in_thread, self._scanner)
            self.run_worker(scan, thread=True, group="scan", exit_on_error=False)

    def _forget_scan(self) -> None:
        """Ignore the result of a scan in progress."""
        self._scanner, self._scanning = self._scanner.successor(), False

    def _scan_in_thread(self, scanner: FolderScanner) -> None:
        try:
            contents = scanner.scan()
        except Exception as error:  # the next scan may succeed
            problem = f"{self._models_dir} cannot be read: {type(error).__name__}: {error}"
            contents = FolderContents(problems=(problem,))
        self.post_message(self.Scanned(scanner, contents))

    def on_checkpoints_tab_scanned(self, message: Scanned) -> None:
        """Show the files and verify the new ones."""
        if message.scanner is not self._scanner:
            return  # of another folder, or begun before a file was deleted
        self._scanning = False
        self._contents, self._is_read = message.contents, True
        stamps = {file.stamp for file in message.contents.files}
        self._verifications = {stamp: known for stamp, known in self._verifications.items() if stamp in stamps}
        self._show()
        self._verify_next()

    def _verify_next(self) -> None:
        if self._thread is None and self.display and (file := next_pending(self._contents.files, self._verifications)):
            self._start_verification(file.stamp)

    def _start_verification(self, stamp: Stamp) -> None:
        self._stop_verification()
        self._verifications[stamp] = Verification("running")
        self._thread = VerificationThread(
            stamp,
            lambda stamp, progress: self.post_message(self.Verified(stamp, Verification("running", progress))),
            lambda stamp, found: self.post_message(self.Verified(stamp, verification_result(found))),
        )
        self._thread.start()

    def _stop_verification(self) -> None:
        if self._thread:
            self._thread.stop()
            self._verifications.pop(self._thread.stamp, None)
            self._thread = None

    def on_checkpoints_tab_verified(self, message: Verified) -> None:
        """Show progress or result, and verify the next file."""
        if not self._thread or message.stamp != self._thread.stamp:
            return
        self._verifications[message.stamp] = message.verification
        if message.verification.state != "running":
            self._thread = None
            if self._requested == message.stamp:
                self._requested = None
                self._notify_verified(message.stamp.path, message.verification.error)
        self._show()
        self._verify_next()

    def _notify_verified(self, path: Path, error: str) -> None:
        if error:
            self.app.notify(one_line(error), severity="error", markup=False)
        else:
            self.app.notify(f"{one_line(path.name)}: OK (checksums match)", markup=False)

    # -- display

    @property
    def _list(self) -> CheckpointList:
        return self.query_one(CheckpointList)

    @property
    def selected(self) -> CheckpointFile | None:
        """The file under the cursor."""
        key = self._list.key
        return next((file for file in self._contents.files if str(file.stamp.path) == key), None)

    def _show(self) -> None:
        if not self.display or not self.is_mounted:
            return
        files = self._contents.files
        empty, body = self.query_one("#checkpoints-empty", Static), self.query_one("#checkpoints-body")
        empty.display = not files
        if not files:
            running = self._running_in is not None
            text = empty_text(self._models_dir, self._contents.problems, running=running)
            text = with_keys(text, keymap_of(self.app)) if self._is_read else f"reading {one_line(self._models_dir)}/…"
            empty.update(Content(text))
        if body.display != bool(files):
            body.display = bool(files)
            self._focus_rows()
        elif files and self._list.room > 0:  # a body that was hidden has no size yet; it posts `Resized` later
            now_s = self.clock()
            shown = table(files, self._verifications, now_s, self._list.room)
            self._list.show(shown, [str(file.stamp.path) for file in files])
            self._list.border_title = title_markup(f"{self._models_dir}/")
            exporting = (self._export.target.name, self._export.progress) if self._export else None
            self._list.border_subtitle = title_markup(summary_text(self._contents, self._verifications, exporting))
            self._show_details(now_s)

    def _focus_rows(self) -> None:
        """Focus the rows if there are any, as the keys act on them."""
        if self._contents.files and self.screen.focused is None:
            self._list.rows.focus()
        elif not self._contents.files and self._list.rows.has_focus:
            self.screen.set_focus(None)

    @on(Rows.OptionHighlighted)
    def _cursor_moved(self, message: Rows.OptionHighlighted) -> None:
        message.stop()
        self._list.mark()
        self._show_details(self.clock())

    def _show_details(self, now_s: float) -> None:
        file = self.selected
        if file is None:
            return
        frame = self.query_one("#checkpoint-details")
        frame.border_title = title_markup(file.name)
        width = max(frame.scrollable_content_region.width - LABEL_WIDTH, 10)
        lines = []
        for label, text in details(file, verification_of(file, self._verifications), now_s):
            for part in textwrap.wrap(one_line(text), width):
                lines.append(Content.assemble((label.ljust(LABEL_WIDTH), "$muted"), part))
                label = ""
        self.query_one("#checkpoint-facts", Static).update(Content("\n").join(lines))

    # -- keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable the keys of the table while it is empty or hidden."""
        if action in {key.action for key in keys_of("checkpoints")} and not (self.display and self._contents.files):
            return None
        return True

    def _is_usable(self, file: CheckpointFile, use: Use = "chat with") -> bool:
        """Return True if a file can be used, else notify the user of the reason."""
        running = self._running_in is not None
        why_not = refusal(file, verification_of(file, self._verifications), use, running=running)
        if why_not:
            self.app.notify(with_keys(one_line(why_not), keymap_of(self.app)), severity="warning", markup=False)
        return not why_not

    def action_resume_from(self) -> None:
        """Resume training from the selected checkpoint."""
        if (file := self.selected) and self._is_usable(file, "resume from"):
            self.post_message(self.ResumeRequested(file.stamp.path, file.info))

    def action_fine_tune(self) -> None:
        """Set up a new run that starts from the weights of the selected checkpoint."""
        if (file := self.selected) and self._is_usable(file, "fine-tune"):
            self.post_message(self.FineTuneRequested(file.stamp.path))

    def action_chat_with(self) -> None:
        """Chat with the selected checkpoint."""
        if (file := self.selected) and self._is_usable(file):
            self.post_message(self.ChatRequested(file.stamp.path))

    def action_compare_in_chat(self) -> None:
        """Compare the selected checkpoint with the chat's model."""
        if (file := self.selected) and self._is_usable(file):
            self.post_message(self.ChatRequested(file.stamp.path, compare=True))

    def action_verify(self) -> None:
        """Verify the selected checkpoint again, before all others."""
        if file := self.selected:
            self._requested = file.stamp
            self._start_verification(file.stamp)
            self._show()

    def action_export(self) -> None:
        """Export the selected checkpoint; ask for a format and a path."""
        file = self.selected
        if not file or not self._is_usable(file, "export") or not file.info:
            return
        if self._export:
            text = f"an export is in progress: {one_line(self._export.target.name)}"
            self.app.notify(text, severity="warning", markup=False)
            return
        self.app.push_screen(format_question(file.info), partial(self._ask_path, file.info))

    def _ask_path(self, info: CheckpointInfo, format_name: str | None) -> None:
        if format_name:
            text = (
                "Name a file or folder, and press Enter to export (Esc: cancel). A relative path starts at the folder "
                "that gpt-tui was started in. An existing file is not replaced."
            )
            dialog = FileNameScreen("Export to", text, proposed_path(info, format_name))
            self.app.push_screen(dialog, partial(self._start_export, info.path, format_name))

    def _start_export(self, checkpoint: Path, format_name: str, name: str | None) -> None:
        if not name:
            return
        try:
            target = expand_home(name)
        except ConfigError as error:
            self._export_failed(str(error))
            return
        self._export = ExportThread(
            checkpoint, format_name, target,
            lambda _: self.post_message(self.Exporting()),
            lambda outcome: self.post_message(self.Exporting(outcome)),
        )  # fmt: skip
        self._export.start()
        self._show()

    def on_checkpoints_tab_exporting(self, message: Exporting) -> None:
        """Show the progress of the export, or notify the user of its outcome."""
        if message.outcome is not None:
            self._export = None
        if isinstance(message.outcome, str):
            self._export_failed(message.outcome)
        elif message.outcome:
            text = one_line(exported_text(message.outcome), 300)
            self.app.notify(text, title="exported", timeout=15, markup=False)
        self._show()

    def _export_failed(self, error: str) -> None:
        self.app.notify(one_line(error), title="not exported", severity="error", timeout=15, markup=False)

    def action_delete(self) -> None:
        """Delete the selected checkpoint after a confirmation."""
        if file := self.selected:
            stamp = file.stamp
            question = deletion_question(file, self._contents.files, self._verifications, running_in=self._running_in)
            self.app.push_screen(delete_question(stamp.path.name, question), partial(self._delete_if_confirmed, stamp))

    def _delete_if_confirmed(self, stamp: Stamp, answer: str | None) -> None:
        if answer != "delete":
            return
        if self._thread and self._thread.stamp.path == stamp.path:
            self._stop_verification()
        self.run_worker(partial(self._delete_in_thread, stamp), thread=True, group="delete", exit_on_error=False)

    def _delete_in_thread(self, stamp: Stamp) -> None:
        self.post_message(self.Deleted(stamp.path, delete_file(stamp)))

    def on_checkpoints_tab_deleted(self, message: Deleted) -> None:
        """Notify the user of the result and scan again; the message also goes to the screen."""
        if message.error:
            self.app.notify(one_line(message.error), title="not deleted", severity="error", markup=False)
        else:
            self.app.notify(f"deleted {one_line(message.path.name)}", markup=False)
        self._forget_scan()  # one that began before the deletion may list the file
        self._scan()
