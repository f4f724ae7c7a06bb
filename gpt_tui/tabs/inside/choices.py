"""Selectors at the top of the Inside tab: the model, one to compare it with, and the text."""

from __future__ import annotations

from typing import ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input, Label, Select

from gpt_tui.run_view.model_select import ModelSelect
from gpt_tui.session.model_options import NO_COMPARISON, AvailableModels
from gpt_tui.shared.pasting import MAX_LINE_CHARACTERS, LineInput
from gpt_tui.tabs.inside.presenter import INITIAL_OPTION, TEXT_LABELS, TextKind


class TextSelect(Select[str], inherit_bindings=False):
    """Selector of the text. The arrow keys do not open the list."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "show_overlay", "Show menu", show=False)]

    def __init__(self, *, id: str) -> None:
        options = [(label, kind) for kind, label in TEXT_LABELS.items()]
        super().__init__(options, value="probe", allow_blank=False, compact=True, id=id)


class Choices(Vertical):
    """The selectors in a line, and the line for a typed text. Posts `Changed` and `Submitted`."""

    typed = ""
    """the text that was submitted last"""

    class Changed(Message):
        """Another model or text was selected."""

    class Submitted(Message):
        """A text was typed."""

    def compose(self) -> ComposeResult:
        """Lay out the selectors."""
        with Horizontal():
            yield Label("Model", markup=False)
            yield ModelSelect(compare=False, id="inside-model")
            yield Label("Compare with", markup=False)
            yield ModelSelect(compare=True, extra=(INITIAL_OPTION,), id="inside-compare")
            yield Label("Text", markup=False)
            yield TextSelect(id="inside-text")
        yield LineInput(
            id="inside-typed", compact=True, placeholder="a text to look at, then Enter",
            max_length=MAX_LINE_CHARACTERS,
        )  # fmt: skip

    def on_mount(self) -> None:
        """Hide the line of a typed text."""
        self._field.display = False

    # -- values

    @property
    def models(self) -> tuple[str, ...]:
        """Values of the selected model and of the one to compare it with, if that is another one."""
        model, other = self._select("model").selected, self._select("compare").selected
        return (model,) if other in (NO_COMPARISON, model) else (model, other)

    @property
    def kind(self) -> TextKind:
        """The selected text."""
        return cast(TextKind, self._text.value)

    def show_models(self, available: AvailableModels) -> None:
        """Update the options."""
        for select in self.query(ModelSelect):
            select.show(available)

    def choose(self, model: str) -> None:
        """Select a model, and none to compare it with."""
        self._select("model").select(model)
        self._select("compare").select(NO_COMPARISON)

    # -- keys

    def open(self, name: str) -> None:
        """Open a selector: model, compare or text."""
        select = self.query_one(f"#inside-{name}", Select)
        select.focus()
        select.action_show_overlay()

    def type_text(self) -> None:
        """Select the typed text, and focus its line."""
        self._text.value = "typed"
        self._field.display = True
        self._field.focus()

    @property
    def _field(self) -> LineInput:
        return self.query_one("#inside-typed", LineInput)

    @property
    def _text(self) -> TextSelect:
        return self.query_one(TextSelect)

    def _select(self, name: str) -> ModelSelect:
        return self.query_one(f"#inside-{name}", ModelSelect)

    @on(Select.Changed)
    def _selected(self, message: Select.Changed) -> None:
        message.stop()
        if message.select is self._text:
            self._field.display = self.kind == "typed"
            if self.kind == "typed" and not self.typed:
                self._field.focus()
        self.post_message(self.Changed())

    @on(Input.Changed)
    def _edited(self, message: Input.Changed) -> None:
        message.stop()

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        message.stop()
        self.typed = message.value
        self.post_message(self.Submitted())
