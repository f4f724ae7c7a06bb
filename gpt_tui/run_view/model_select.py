"""Selector of a model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import Select

from gpt_tui.session.model_options import AUTOMATIC, NO_COMPARISON, AvailableModels, ModelOption, model_options
from gpt_tui.shared.formatting import AGE_INTERVAL_S


class ModelSelect(Select[str], inherit_bindings=False):
    """Selector of a model, or of the one to `compare` with. Its options can change while the selection stays.

    The `extra` options follow those of the models. The arrow keys move between fields, as in the rest of the form, and
    do not open the list.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "show_overlay", "Show menu", show=False)]

    def __init__(self, *, compare: bool, id: str, extra: Sequence[ModelOption] = ()) -> None:
        self._compare = compare
        self._default = NO_COMPARISON if compare else AUTOMATIC
        self._extra = list(extra)
        self._available = AvailableModels()
        self._model_options = self._listed(self._default)
        super().__init__(self._lines(), value=self._default, allow_blank=False, compact=True, id=id)

    def on_mount(self) -> None:
        """Update the ages of the checkpoints at intervals."""
        self.set_interval(AGE_INTERVAL_S, self._show_ages)

    def _show_ages(self) -> None:
        if self.is_on_screen:
            self._available = self._available._replace(now_s=time.time())
            with self.prevent(Select.Changed):  # the selection stays
                self._update(self.selected)

    @property
    def selected(self) -> str:
        """The value of the selected option."""
        return self.value if isinstance(self.value, str) else self._default

    def show(self, available: AvailableModels) -> None:
        """Update the options."""
        self._available = available
        self._update(self.selected)

    def select(self, value: str) -> None:
        """Select a value, which becomes an option if it is none."""
        self._update(value)

    def _update(self, selected: str) -> None:
        options = self._listed(selected)
        if self.expanded and selected == self.selected:
            return  # an open list does not change
        if options == self._model_options and selected == self.value:
            return
        if options != self._model_options:
            self._model_options = options
            self.set_options(self._lines())
        self.value = selected
        self.mutate_reactive(Select.value)  # type: ignore[misc]  # the label of the same value may have changed

    def _listed(self, selected: str) -> list[ModelOption]:
        """Return the options: those of the models, and the extra ones."""
        is_extra = selected in (option.value for option in self._extra)
        found = model_options(self._available, self._default if is_extra else selected, compare=self._compare)
        return [*found, *self._extra]

    def _lines(self) -> list[tuple[Text, str]]:
        return [(Text(option.label, no_wrap=True), option.value) for option in self._model_options]
