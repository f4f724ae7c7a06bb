"""Architectures of other programs: which models of this one they can hold.

Formats know complete models alone. A model with all layers of GPT-2 is a `gpt2`, one with all layers of Qwen3 a
`qwen3`. Any other choice of layers has no counterpart.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from gpt_core.config.settings import GPT2, QWEN3, ModelShape, layers_text
from gpt_core.errors import ExportError

LAYERS: Mapping[str, Mapping[str, object]] = MappingProxyType({"gpt2": GPT2, "qwen3": QWEN3})
"""Settings of the layers of each architecture."""


def architecture_of(shape: ModelShape, known: Mapping[str, Mapping[str, object]] = LAYERS) -> str:
    """Return the architecture that has the layers of a model.

    Args:
        shape: Shape of the model.
        known: Architectures that a format can hold, with the settings of their layers.

    Raises:
        ExportError: There is none; names the settings in which the nearest one differs.
    """
    values = msgspec.structs.asdict(shape)

    def differing(name: str) -> list[str]:
        return [key for key, value in known[name].items() if values[key] != value]

    nearest = min(known, key=lambda name: len(differing(name)))
    names = differing(nearest)
    if names:
        got, expected = ({key: source[key] for key in names} for source in (values, known[nearest]))
        raise ExportError(
            f"a model with {layers_text(got)} has no counterpart in this format, which holds {' or '.join(known)}: "
            f"expected {layers_text(expected)} for {nearest}"
        )
    return nearest
