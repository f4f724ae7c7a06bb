"""Settings of the chat: model, model to compare with, sampling."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Label, Select, Static

from gpt_core.errors import ConfigError
from gpt_tui.shared.pasting import LineInput
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.chat.presenter import (
    AUTOMATIC,
    FIELDS,
    NO_COMPARISON,
    AvailableModels,
    ReplySettings,
    model_options,
    parse_field,
    parse_fields,
)  # fmt: skip


class ModelSelect(Select[str], inherit_bindings=False):
    """Selector of a model, or of the one to `compare` with. Its options can change while the selection stays.

    The arrow keys move between fields, as in the rest of the form, and do not open the list.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "show_overlay", "Show menu", show=False)]

    def __init__(self, *, compare: bool, id: str) -> None:
        self._compare = compare
        self._default = NO_COMPARISON if compare else AUTOMATIC
        self._available = AvailableModels()
        self._model_options = model_options(self._available, self._default, compare=compare)
        super().__init__(self._lines(), value=self._default, allow_blank=False, compact=True, id=id)

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
        options = model_options(self._available, selected, compare=self._compare)
        if self.expanded and selected == self.selected:
            return  # an open list does not change
        if options == self._model_options and selected == self.value:
            return
        if options != self._model_options:
            self._model_options = options
            self.set_options(self._lines())
        self.value = selected
        self.mutate_reactive(Select.value)  # type: ignore[misc]  # the label of the same value may have changed

    def _lines(self) -> list[tuple[Text, str]]:
        return [(Text(option.label, no_wrap=True), option.value) for option in self._model_options]


class SamplingForm(VerticalScroll):
    """Model selectors and sampling fields; each field is validated as it is typed."""

    can_focus = False

    def __init__(self, texts: dict[str, str], *, id: str) -> None:
        super().__init__(id=id)
        self._texts = texts

    def compose(self) -> ComposeResult:
        """Lay out the selectors, the fields and the line for a problem."""
        yield Label("Model", markup=False)
        yield ModelSelect(compare=False, id="model-select")
        yield Label("Compare with", markup=False)
        yield ModelSelect(compare=True, id="compare-select")
        for field in FIELDS:
            with Horizontal(classes="field"):
                yield Label(field.label, markup=False)
                yield LineInput(
                    self._texts[field.name], id=f"field-{field.name}", compact=True, select_on_focus=True,
                    placeholder="random" if field.name == "seed" else "", tooltip=field.hint,
                )  # fmt: skip
            yield Label(field.hint, classes="hint", markup=False)
        yield Static("", id="field-problem", markup=False)

    def on_mount(self) -> None:
        """Set the title."""
        self.border_title = "settings"

    def reply_settings(self) -> ReplySettings:
        """Return the settings of the fields. Raises ConfigError."""
        return parse_fields({field.name: self._input(field.name).value for field in FIELDS})

    def set_seed(self, seed: int) -> None:
        """Set the seed field."""
        self._input("seed").value = str(seed)

    # -- models

    @property
    def models(self) -> list[str]:
        """The values of the selected model and, if there is one, of the model to compare with."""
        compared = self._select(compare=True).selected
        return [self._select(compare=False).selected, *([] if compared == NO_COMPARISON else [compared])]

    def show_models(self, available: AvailableModels) -> None:
        """Update the options of both selectors."""
        for select in self.query(ModelSelect):
            select.show(available)

    def choose(self, value: str, *, compare: bool) -> None:
        """Select a model, or the one to compare with; the other selector is reset if it has the same value."""
        self._select(compare=compare).select(value)
        other = self._select(compare=not compare)
        if other.selected == value:
            other.select(AUTOMATIC if compare else NO_COMPARISON)

    def _select(self, *, compare: bool) -> ModelSelect:
        return self.query_one("#compare-select" if compare else "#model-select", ModelSelect)

    # -- fields

    def focus_first(self) -> None:
        """Focus the model selector."""
        self._select(compare=False).focus()

    @on(Input.Changed)
    def _validate(self, message: Input.Changed) -> None:
        message.stop()
        problems = []
        for field in FIELDS:
            box = self._input(field.name)
            try:
                parse_field(field, box.value)
                box.remove_class("-wrong")
            except ConfigError as error:
                box.add_class("-wrong")
                problems.append(str(error))
        text = f"✗ {one_line(problems[0])}" if problems else ""
        self.query_one("#field-problem", Static).update(Content(text))

    def _input(self, name: str) -> Input:
        return self.query_one(f"#field-{name}", Input)
