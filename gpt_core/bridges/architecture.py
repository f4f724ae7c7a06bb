"""Architectures of other programs: which models of this one they can hold.

Formats know complete models alone. A model with all layers of GPT-2 is a `gpt2`, one with all layers of Qwen3 a
`qwen3`; the head of both may be tied or not. Any other choice of layers has no counterpart.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from gpt_core.config.settings import GPT2, QWEN3, ModelShape, layers_text
from gpt_core.errors import ExportError

LAYERS: Mapping[str, Mapping[str, object]] = MappingProxyType({
    "gpt2": {name: value for name, value in GPT2.items() if name != "tied_head"}, "qwen3": QWEN3,
})  # fmt: skip
"""Settings of the layers of each architecture."""


def architecture_of(shape: ModelShape) -> str:
    """Return the architecture that has the layers of a model.

    Raises:
        ExportError: There is none; names the settings in which the nearest one differs.
    """
    values = msgspec.structs.asdict(shape)

    def differing(name: str) -> list[str]:
        return [key for key, value in LAYERS[name].items() if values[key] != value]

    nearest = min(LAYERS, key=lambda name: len(differing(name)))
    names = differing(nearest)
    if names:
        got, expected = ({key: source[key] for key in names} for source in (values, LAYERS[nearest]))
        raise ExportError(
            f"a model with {layers_text(got)} has no counterpart in this format, which holds {' or '.join(LAYERS)}: "
            f"expected {layers_text(expected)} for {nearest}; a page of `gpt-tui export html` holds any layers"
        )
    return nearest
