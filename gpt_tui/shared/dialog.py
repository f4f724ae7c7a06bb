"""Base class of dialogs: notifications never cover them."""

from __future__ import annotations

from textual.screen import ModalScreen, ScreenResultType
from textual.widgets._toast import ToastRack

MIN_TOAST_ROWS = 4  # of a notification of one line, with the margin above it


class Dialog(ModalScreen[ScreenResultType]):
    """Modal screen whose `#dialog` stays readable: notifications have the rows below it, or wait until it is closed."""

    def on_mount(self) -> None:
        """Limit the notifications once the dialog has its height."""
        self.call_after_refresh(self._limit_toasts)

    def on_resize(self) -> None:
        """Limit the notifications to the room at another size."""
        self.call_after_refresh(self._limit_toasts)

    def _limit_toasts(self) -> None:
        free = self.size.height - self.query_one("#dialog").region.bottom
        for rack in self.query(ToastRack):
            rack.styles.margin = 0
            rack.styles.max_height = free if free >= MIN_TOAST_ROWS else 0
