"""Form of the set-up screen: a row per setting, in groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Select, Static

from gpt_core.config.presets import PRESETS
from gpt_tui.new_run.fields import SetupField, note, setup_fields, with_linked
from gpt_tui.shared.bindings import release_keys
from gpt_tui.shared.pasting import LineInput

PRESET = SetupField("preset", "", tuple(PRESETS))
MIN_WIDTH_OF_NOTES = 120
SIGNS = {"invalid": ("✗", "bold $text-error"), "changed": ("•", "bold $text-accent"), "default": (" ", "")}


class Dropdown(Select[str], inherit_bindings=False):
    """Field with a few values. Arrow keys move between fields, so they do not open the menu."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "show_overlay", "Show menu", show=False)]


class FieldNames(Static):
    """Names of all fields, one per line. A single widget, as a widget per name would slow down every key."""

    _marks: tuple[frozenset[str], frozenset[str]] | None = None

    def mark(self, fields: Sequence[SetupField], invalid: Set[str], changed: Set[str]) -> None:
        """Write the names and group titles, and mark invalid and changed fields."""
        if (marks := (frozenset(invalid), frozenset(changed))) == self._marks:
            return
        self._marks = marks
        lines = []
        for field in fields:
            if field.group:
                lines.append(Content.styled(f"  {field.group}", "bold $text-primary"))
            state = "invalid" if field.name in invalid else "changed" if field.name in changed else "default"
            sign, style = SIGNS[state]
            lines.append(Content.styled(f"{sign} {field.name}", style))
        self.update(Content("\n").join(lines))


class FieldNotes(Static):
    """Meanings of all fields, one per line, in step with `FieldNames`."""

    def show(self, fields: Sequence[SetupField]) -> None:
        """Write the lines."""
        lines = []
        for field in fields:
            lines += [""] if field.group else []
            lines.append(note(field.name))
        self.update(Content("\n".join(lines)))


class SetupForm(VerticalScroll, can_focus=False, inherit_bindings=False):
    """Form with a field per setting. Posts `Changed` when something is typed or selected.

    Mounting the fields takes most of the time to open the screen, so they follow the rest of it (`show_fields`).
    """

    class Changed(Message):
        """A field has changed.

        Attributes:
            preset_chosen: Preset to fill the form with, "" for none.
            typed: Name of the setting whose field was changed, "" for none.
        """

        def __init__(self, preset_chosen: str = "", typed: str = "") -> None:
            super().__init__()
            self.preset_chosen = preset_chosen
            self.typed = typed

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._fields = (PRESET, *setup_fields())
        self._preset_name = ""
        self._texts: dict[str, str] = {}
        self._boxes = Vertical(id="setup-fields")

    def compose(self) -> ComposeResult:
        """Lay out the names of all fields, with room for the fields."""
        with Horizontal(id="setup-rows"):
            yield FieldNames(id="setup-names", markup=False)
            yield self._boxes
            yield FieldNotes(id="setup-notes", markup=False)

    async def show_fields(self, preset_name: str, texts: Mapping[str, str]) -> None:
        """Mount the fields with their values, the preset and then all settings; none if the app is ending."""
        self._preset_name, self._texts = preset_name, dict(texts)
        boxes = [self._box(field) for field in self._fields]
        await self._boxes.mount_all(boxes)
        for box in boxes:
            if isinstance(box, LineInput) and box.is_attached:
                release_keys(box, "setup", "everywhere")

    def _box(self, field: SetupField) -> Input | Dropdown:
        text = self._preset_name if field is PRESET else self._texts[field.name]
        place = {"compact": True, "id": f"setting-{field.name}", "classes": "-first" if field.group else ""}
        if not field.choices:
            return LineInput(text, select_on_focus=True, **place)  # type: ignore[arg-type]
        options = [(choice, choice) for choice in field.choices]
        return Dropdown(options, value=text, allow_blank=False, **place)  # type: ignore[arg-type]

    def on_mount(self) -> None:
        """Set the title, and write names and notes."""
        self.border_title = "settings"
        self.mark(frozenset(), frozenset())
        self.query_one(FieldNotes).show(self._fields)

    def on_resize(self) -> None:
        """Show the notes where there is room for them."""
        self.set_class(self.size.width >= MIN_WIDTH_OF_NOTES, "-notes")

    @property
    def texts(self) -> dict[str, str]:
        """The text of each field."""
        return dict(self._texts)

    @property
    def preset_name(self) -> str:
        """The selected preset."""
        return self._preset_name

    @property
    def focused(self) -> str:
        """The setting whose field has the focus, "" if none has."""
        path = self.screen.focused.ancestors_with_self if self.screen.focused else []
        ids = (node.id or "" for node in path)
        return next((id.removeprefix("setting-") for id in ids if id.startswith("setting-")), "")

    def use_preset(self, name: str) -> None:
        """Select a preset without filling the form with it."""
        self._preset_name = name
        self._field(PRESET.name).value = name

    def fill(self, texts: Mapping[str, str]) -> None:
        """Replace the texts that differ. The other fields keep what is being typed into them."""
        before, self._texts = self._texts, dict(texts)
        for field in self._fields:
            if field is not PRESET and texts[field.name] != before[field.name]:
                self._field(field.name).value = texts[field.name]

    def mark(self, invalid: Set[str], changed: Set[str]) -> None:
        """Mark invalid and changed fields."""
        self.query_one(FieldNames).mark(self._fields, invalid, changed)

    @on(Input.Changed)
    @on(Select.Changed)
    def _typed(self, message: Input.Changed | Select.Changed) -> None:
        message.stop()
        name = (message.control.id or "").removeprefix("setting-")
        text = str(message.control.value)  # the message may be older than the field
        if name == PRESET.name:
            if text != self._preset_name:
                self._preset_name = text
                self.post_message(self.Changed(preset_chosen=text))
        elif self._texts[name] != text:
            self.fill(with_linked(self._texts | {name: text}, name))
            self.post_message(self.Changed(typed=name))

    def _field(self, name: str) -> Input | Dropdown:
        found = self.query_one(f"#setting-{name}")
        assert isinstance(found, Input | Dropdown)
        return found
