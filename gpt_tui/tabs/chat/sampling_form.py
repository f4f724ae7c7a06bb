"""Settings of the chat: model, model to compare with, sampling."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Label, Static

from gpt_core.errors import ConfigError
from gpt_tui.run_view.model_select import ModelSelect
from gpt_tui.session.model_options import AUTOMATIC, NO_COMPARISON, AvailableModels
from gpt_tui.shared.pasting import LineInput
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.chat.presenter import FIELDS, ReplySettings, parse_field, parse_fields


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

    def drop_comparison_of_the_same(self, available: AvailableModels) -> str:
        """Compare with no model if that is the one which replies automatically; return its path, else ""."""
        model, other = self._select(compare=False).selected, self._select(compare=True).selected
        if model != AUTOMATIC or available.automatic is None or other != str(available.automatic.path):
            return ""
        self._select(compare=True).select(NO_COMPARISON)
        return other

    def _select(self, *, compare: bool) -> ModelSelect:
        return self.query_one("#compare-select" if compare else "#model-select", ModelSelect)

    # -- fields

    def focus_first(self) -> None:
        """Focus the model selector."""
        self._select(compare=False).focus()

    @on(Input.Changed)
    def _validate(self, message: Input.Changed) -> None:
        message.stop()
        problems = self._problems()
        for field in FIELDS:
            self._input(field.name).set_class(field.name in problems, "-wrong")
        first = next(iter(problems.values()), "")
        self.query_one("#field-problem", Static).update(Content(f"✗ {first}" if first else ""))

    def focus_problem(self) -> str:
        """Focus an invalid field, the focused one if it is, and return its problem; "" if all are valid."""
        problems = self._problems()
        if not problems:
            return ""
        name = next((name for name in problems if self._input(name).has_focus), next(iter(problems)))
        self._input(name).focus()
        return problems[name]

    def _problems(self) -> dict[str, str]:
        """Return the problem of each invalid field, by name."""
        problems = {}
        for field in FIELDS:
            try:
                parse_field(field, self._input(field.name).value)
            except ConfigError as error:
                problems[field.name] = one_line(str(error))
        return problems

    def _input(self, name: str) -> Input:
        return self.query_one(f"#field-{name}", Input)
