"""The setting `freeze`: parts of the model that keep their weights while the rest is trained.

A part is the token embedding, the position embedding, one layer (a transformer block, counted from 0), the norm after
the last layer, or a head that is not tied to the embedding. The name `embedding` stands for both embeddings.
`gpt_core.model.parameters` maps parts to tensors.
"""

from __future__ import annotations

import difflib
import re

from gpt_core.config.settings import ModelShape
from gpt_core.errors import ConfigError, shown

TOKENS, POSITIONS, FINAL_NORM, HEAD = "tokens", "positions", "final norm", "head"
PARTS_OF_NAME = {
    "embedding": {TOKENS, POSITIONS}, POSITIONS: {POSITIONS}, FINAL_NORM: {FINAL_NORM}, HEAD: {HEAD},
}  # fmt: skip
EXPECTED = "embedding, positions, layers N, layers N-M, final norm or head, separated by commas"

_ABSENT = {POSITIONS: "with positions rope there is no embedding of them", HEAD: "its head is tied to the embedding"}
_LAYERS = re.compile(r"layers? *(\d{1,9})(?: *- *(\d{1,9}))?")


def layer_part(number: int) -> str:
    """Return the name of the part that a layer is."""
    return f"layer {number}"


def model_parts(shape: ModelShape) -> tuple[str, ...]:
    """Return the parts of a model of this shape, in the order of the forward pass."""
    positions = (POSITIONS,) if shape.positions == "learned" else ()
    head = () if shape.tied_head else (HEAD,)
    return (TOKENS, *positions, *map(layer_part, range(shape.layers)), FINAL_NORM, *head)


def frozen_parts(freeze: str, shape: ModelShape) -> frozenset[str]:
    """Return the parts that a value of the setting names, as `model_parts` names them.

    Args:
        freeze: Value of the setting, such as "embedding, layers 0-5"; "" for nothing.
        shape: Shape of the model.

    Raises:
        ConfigError: A name is unknown, a part is not one of the model, or nothing is left to train.
    """
    found: set[str] = set()
    parts = set(model_parts(shape))
    for word in filter(None, (word.strip() for word in freeze.split(","))):
        named = _named(" ".join(word.lower().split()), word, shape.layers)
        if not named & parts:
            raise ConfigError(f"freeze: got {shown(word)}, which this model does not have: {_ABSENT[min(named)]}")
        found |= named & parts
    if found >= parts:
        raise ConfigError(f"freeze: got {shown(freeze)}, which is the complete model; expected a part of it to train")
    return frozenset(found)


def _named(name: str, typed: str, layers: int) -> set[str]:
    """Return the parts of one name. Raises ConfigError."""
    if name in PARTS_OF_NAME:
        return PARTS_OF_NAME[name]
    if (match := _LAYERS.fullmatch(name)) is None:
        near = difflib.get_close_matches(name, PARTS_OF_NAME, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"freeze: got {shown(typed)}, expected {EXPECTED}{hint}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < layers:
        raise ConfigError(f"freeze: got {shown(typed)}, expected layers from 0 to {layers - 1} in ascending order")
    return set(map(layer_part, range(first, last + 1)))
