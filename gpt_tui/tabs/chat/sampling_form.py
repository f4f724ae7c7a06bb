"""The fields beside the chat: which models answer, and how their replies are sampled."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Label, Static

from gpt_core.errors import ConfigError
from gpt_core.generation.sampler import Sampling
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.chat.model_options import AUTOMATIC, NOBODY, Listed
from gpt_tui.tabs.chat.model_select import ModelSelect
from gpt_tui.tabs.chat.sampling_fields import FIELDS, parse_field, parse_sampling


class SamplingForm(VerticalScroll):
    """Each field is checked as it is typed."""

    can_focus = False

    def __init__(self, texts: dict[str, str], *, id: str) -> None:
        super().__init__(id=id)
        self._texts = texts

    def compose(self) -> ComposeResult:
        """The models, then a line for each field, then what is wrong."""
        yield Label("model that answers", markup=False)
        yield ModelSelect(beside=False, id="model-choice")
        yield Label("another beside it", markup=False)
        yield ModelSelect(beside=True, id="beside-choice")
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
        self.border_title = "model and sampling"

    def sampling(self) -> tuple[Sampling, int | None]:
        """What the fields say. Raises ConfigError."""
        return parse_sampling({field.name: self._input(field.name).value for field in FIELDS})

    def keep_seed(self, seed: int) -> None:
        """Every reply takes this seed, until the field says otherwise."""
        self._input("seed").value = str(seed)

    # -- the models

    @property
    def models(self) -> list[str]:
        """The choice of the model that answers, then, if there is one, of the model beside it."""
        beside = self._chooser(beside=True).chosen
        return [self._chooser(beside=False).chosen, *([] if beside == NOBODY else [beside])]

    def show_models(self, listed: Listed) -> None:
        """What there is to choose from."""
        for chooser in self.query(ModelSelect):
            chooser.show(listed)

    def choose(self, value: str, *, beside: bool) -> None:
        """Chooses a model. The same one twice, other than by the user's own hand, is not meant."""
        self._chooser(beside=beside).choose(value)
        other = self._chooser(beside=not beside)
        if other.chosen == value:
            other.choose(AUTOMATIC if beside else NOBODY)

    def _chooser(self, *, beside: bool) -> ModelSelect:
        return self.query_one("#beside-choice" if beside else "#model-choice", ModelSelect)

    # -- the fields

    def enter(self) -> None:
        """The user wants to change something."""
        self._chooser(beside=False).focus()

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
