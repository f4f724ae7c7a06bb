"""The fields beside the chat: which model answers, and how its replies are sampled."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Label, Static

from gpt_core.errors import ConfigError
from gpt_core.generation.sampler import Sampling
from gpt_tui.plain_text import one_line
from gpt_tui.sampling_fields import FIELDS, parse_field, parse_sampling


class SamplingForm(VerticalScroll):
    """Each field is checked as it is typed."""

    can_focus = False

    def __init__(self, texts: dict[str, str], *, id: str) -> None:
        super().__init__(id=id)
        self._texts = texts

    def compose(self) -> ComposeResult:
        """The model, then a line for each field, then what is wrong."""
        yield Static("", id="answers", markup=False)
        for field in FIELDS:
            with Horizontal(classes="field"):
                yield Label(field.label, markup=False)
                yield Input(
                    self._texts[field.name], id=f"field-{field.name}", compact=True, select_on_focus=True,
                    placeholder="random" if field.name == "seed" else "", tooltip=field.hint,
                )  # fmt: skip
            yield Label(field.hint, classes="hint", markup=False)
        yield Static("", id="field-problem", markup=False)

    def on_mount(self) -> None:
        """Its name."""
        self.border_title = "sampling"

    def sampling(self) -> tuple[Sampling, int | None]:
        """What the fields say. Raises ConfigError."""
        return parse_sampling({field.name: self._input(field.name).value for field in FIELDS})

    def show_model(self, text: str) -> None:
        """Which model would answer now."""
        self.query_one("#answers", Static).update(Content.assemble(("model  ", "$foreground 60%"), one_line(text)))

    @on(Input.Changed)
    def _check(self, message: Input.Changed) -> None:
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
        words = f"✗ {one_line(problems[0])}" if problems else ""
        self.query_one("#field-problem", Static).update(Content(words))

    def _input(self, name: str) -> Input:
        return self.query_one(f"#field-{name}", Input)
