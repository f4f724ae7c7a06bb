"""Base class of dialogs: notifications never cover them."""

from __future__ import annotations

from textual.screen import ModalScreen, ScreenResultType
from textual.widgets._toast import ToastHolder, ToastRack

MIN_TOAST_ROWS = 4  # of a notification of one line, with the margin above it


class Dialog(ModalScreen[ScreenResultType]):
    """Modal screen whose `#dialog` stays readable: notifications have the rows below it, or wait until it is closed.

    They are shown once, not also at another height on the screen below.
    """

    def on_mount(self) -> None:
        """Limit the notifications once the dialog has its height."""
        self.call_after_refresh(self._limit_toasts)

    def on_resize(self) -> None:
        """Limit the notifications to the room at another size."""
        self.call_after_refresh(self._limit_toasts)

    def _limit_toasts(self) -> None:
        if self not in self.app.screen_stack:
            return  # answered meanwhile
        free = self.size.height - self.query_one("#dialog").region.bottom
        if free >= MIN_TOAST_ROWS:  # they are shown here; the screen below mounts the rest again once it is resumed
            for screen in self.app.screen_stack[: self.app.screen_stack.index(self)]:
                screen.query(ToastHolder).remove()
        for rack in self.query(ToastRack):
            rack.styles.margin = 0
            rack.styles.max_height = free if free >= MIN_TOAST_ROWS else 0
