"""Parts of the model that Chat leaves out, as chosen in the Inside tab: one object, which the main screen owns."""

from __future__ import annotations

from gpt_core.interpret import Part
from gpt_tui.shared.formatting import part_name


class RemovedParts:
    """The parts that are left out until they are put back. Used in the event loop only.

    Attributes:
        parts: The parts, in the order in which they were removed.
    """

    def __init__(self) -> None:
        self.parts: tuple[Part, ...] = ()

    def toggle(self, part: Part) -> None:
        """Remove a part, or put it back."""
        if part in self.parts:
            self.parts = tuple(other for other in self.parts if other != part)
        else:
            self.parts = (*self.parts, part)


def without(parts: tuple[Part, ...]) -> str:
    """Return the removed parts in words: `without layer 1 head 2, layer 0 MLP`; "" if there are none."""
    return f"without {', '.join(map(part_name, parts))}" if parts else ""
