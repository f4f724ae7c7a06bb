"""Places of parameters in the files of other programs: the tensor that holds a parameter, or a part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core.kernels.arrays import Array, empty


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


def joined(
    places: Iterable[Place], shape: tuple[int, ...], read: Callable[[str], Iterable[NDArray[np.float32]]]
) -> Array:
    """Return a parameter whose values are in these places.

    Args:
        places: All tensors that hold a part of it.
        shape: Shape of the parameter.
        read: Returns the values of a tensor in pieces.
    """
    parameter: Array = empty(*shape)
    for place in places:
        view = place.view(parameter)
        view[...] = np.concatenate([piece.reshape(-1) for piece in read(place.name)]).reshape(view.shape)
    return parameter
