"""Places of parameters in the files of other programs: the tensor that holds a parameter, or a part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from gpt_core.bridges.source import Chunks
from gpt_core.config.settings import ModelShape
from gpt_core.kernels.arrays import Array, empty
from gpt_core.model.parameters import parameter_table


class Place(NamedTuple):
    """Tensor of another program.

    Attributes:
        name: Name of the tensor.
        parameter: Name of the parameter.
        is_transposed: True if the tensor is (out, in), as in PyTorch's `Linear`.
        part: Number of the part of the parameter that it holds.
        parts: Equally wide ranges of columns of the parameter, each in a tensor of its own.
    """

    name: str
    parameter: str
    is_transposed: bool = False
    part: int = 0
    parts: int = 1

    def view(self, parameter: Array) -> Array:
        """Return the values of the tensor as a view of those of the parameter."""
        width = parameter.shape[-1] // self.parts
        part = parameter if self.parts == 1 else parameter[:, self.part * width : (self.part + 1) * width]
        return part.T if self.is_transposed else part

    def shape(self, parameter: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the tensor for that of the parameter."""
        size = (*parameter[:-1], parameter[-1] // self.parts)
        return size[::-1] if self.is_transposed else size


def parameter_chunks(places: Iterable[Place], shape: ModelShape, name: str, read: Callable[[str], Chunks]) -> Chunks:
    """Yield the values of a parameter: the chunks of its tensor, or one chunk if its layout or its tensors differ.

    Args:
        places: All tensors of the model.
        shape: Shape of the model.
        name: Name of the parameter.
        read: Yields the values of a tensor.
    """
    found = [place for place in places if place.parameter == name]
    if len(found) == 1 and not found[0].is_transposed:
        yield from read(found[0].name)
        return
    parameter: Array = empty(*next(spec.shape for spec in parameter_table(shape) if spec.name == name))
    for place in found:
        view = place.view(parameter)
        values, end = np.empty(view.size, np.float32), 0
        for chunk in read(place.name):  # chunks may share one buffer
            start, end = end, end + chunk.size
            values[start:end] = chunk.reshape(-1)
        view[...] = values.reshape(view.shape)
    yield parameter
