"""Which model answers: a list that opens, and can be told anew what there is without forgetting what was chosen."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import Select

from gpt_tui.tabs.chat.model_options import AUTOMATIC, NOBODY, Listed, offers


class ModelSelect(Select[str], inherit_bindings=False):
    """The model that answers, or, `beside` it, a second one or nobody. Its value is one of `model_options`.

    The arrows go on to the next field, as everywhere in the form, so that they open nothing.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "show_overlay", "Show menu", show=False)]

    def __init__(self, *, beside: bool, id: str) -> None:
        self._beside = beside
        self._listed = Listed()
        self._offers = offers(self._listed, self._first, beside=beside)
        super().__init__(self._lines(), value=self._first, allow_blank=False, compact=True, id=id)

    @property
    def _first(self) -> str:
        return NOBODY if self._beside else AUTOMATIC

    @property
    def chosen(self) -> str:
        """The choice."""
        return self.value if isinstance(self.value, str) else self._first

    def show(self, listed: Listed) -> None:
        """What there is to choose from now."""
        self._listed = listed
        self._offer(self.chosen)

    def choose(self, value: str) -> None:
        """Chooses, also what is not in the list."""
        self._offer(value)

    def _offer(self, chosen: str) -> None:
        wanted = offers(self._listed, chosen, beside=self._beside)
        if self.expanded and chosen == self.chosen:
            return  # nobody's list changes under his hand
        if wanted == self._offers and chosen == self.value:
            return
        if wanted != self._offers:
            self._offers = wanted
            self.set_options(self._lines())
        self.value = chosen
        self.mutate_reactive(Select.value)  # type: ignore[misc]  # the same value may have other words now

    def _lines(self) -> list[tuple[Text, str]]:
        return [(Text(offer.words, no_wrap=True), offer.value) for offer in self._offers]
