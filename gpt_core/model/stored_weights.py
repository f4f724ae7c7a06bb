"""Weights for inference, stored in 32, 16 or 8 bits per value.

Decoding a token takes as long as reading every weight once, so fewer bits are a higher speed. The matrices are
converted once: those of the blocks, the token embedding, and the matrix of the logits, which it may also be. Vectors
and the position embedding stay float32.

    float32    4 bytes per value; the weights themselves, not copied
    bfloat16   2 bytes: the upper half of the float32, rounded to nearest
    int8       1 byte, and one float32 scale per output: value = scale * integer, with scale = max |column| / 127

In 16 and 8 bits, a matrix (inputs, outputs) is stored in panels of 64 outputs, in the order in which
`gpt_core.kernels.decoding` reads it. The outputs of the matrix of the logits (V, C) are its rows, so the transpose is
stored, and likewise of the token embedding.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import conversion, gemm
from gpt_core.kernels.arrays import Array, empty, not_finite_is_expected, widened
from gpt_core.model.layers.embedding import WPE, WTE
from gpt_core.model.layers.head import LM_HEAD
from gpt_core.model.parameters import Parameters
from gpt_core.model.precision import ProductFormat

WeightFormat = Literal["float32", "bfloat16", "int8"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)

StoredMatrix: TypeAlias = NDArray[Any] | tuple[NDArray[np.int8], Array]
"""(I, O) in float32; panels (P, I, 64) of uint16 (the bits of bfloat16); or panels of int8 with scales (P * 64,)"""

TRANSPOSED = (WTE, LM_HEAD)
"""Matrices (V, C) whose transpose is stored."""
MAX_INT8 = 127
PANEL = 64  # outputs; as in `panel_product.h`
DTYPES = {"bfloat16": np.uint16, "int8": np.int8}


class StoredWeights:
    """Weights of one model in one format.

    `tensors` has the names of `Parameters.tensors`. In 16 and 8 bits, those of `TRANSPOSED` are transposed.
    """

    def __init__(self, parameters: Parameters, weight_format: WeightFormat = "float32") -> None:
        self.shape: ModelShape = parameters.shape
        self.format: WeightFormat = weight_format
        self._shapes = {name: tensor.shape for name, tensor in parameters.tensors.items()}
        self.tensors: dict[str, StoredMatrix] = dict(parameters.tensors)
        if weight_format == "float32":
            return
        matrices = {
            name: tensor.T if name in TRANSPOSED else tensor
            for name, tensor in parameters.tensors.items()
            if name != WPE and tensor.ndim == 2
        }
        # one allocation: Linux maps a large one with large pages, and a core reads these up to 30% faster
        size = sum(math.prod(panels_shape(*matrix.shape)) for matrix in matrices.values())
        values = empty(size, dtype=DTYPES[weight_format])
        for name, matrix in matrices.items():
            shape = panels_shape(*matrix.shape)
            self.tensors[name] = stored(matrix, weight_format, values[: math.prod(shape)].reshape(shape))
            values = values[math.prod(shape) :]

    @property
    def products(self) -> ProductFormat:
        """Format of the matrix products of a prefill: bfloat16 for stored weights, if the processor multiplies it."""
        return "bfloat16" if self.format != "float32" and gemm.has_native_bfloat16() else "float32"

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        parts = (tensor if isinstance(tensor, tuple) else (tensor,) for tensor in self.tensors.values())
        return sum(array.nbytes for arrays in parts for array in arrays)

    def plain(self, name: str) -> tuple[NDArray[Any], Array | None]:
        """Return a tensor as it is stored, but row after row and in the shape of the parameter, and its scales.

        Shape:
            scales: (R, 1) or (1, C), to be multiplied by values (R, C); None if there are none.
        """
        source, shape = self.tensors[name], self._shapes[name]
        panels, scales = source if isinstance(source, tuple) else (source, None)
        if panels.shape == shape:
            return panels, scales
        transposed = name in TRANSPOSED
        outputs = shape[0 if transposed else 1]
        values = panels.transpose(1, 0, 2).reshape(panels.shape[1], -1)[:, :outputs]
        if scales is not None:
            scales = scales[:outputs].reshape((-1, 1) if transposed else (1, -1))
        return (values.T if transposed else values), scales

    @not_finite_is_expected
    def expanded(self) -> Parameters:
        """Return the stored values as float32, for evaluation."""
        parameters = Parameters(self.shape)
        for name, tensor in parameters.tensors.items():
            values, scales = self.plain(name)
            tensor[...] = widened(values)
            if scales is not None:
                tensor *= scales
        return parameters


def matrix_bytes(inputs: int, outputs: int, weight_format: WeightFormat) -> int:
    """Return the bytes of a stored matrix."""
    if weight_format == "float32":
        return 4 * inputs * outputs
    padded = -(-outputs // PANEL) * PANEL
    return 2 * inputs * padded if weight_format == "bfloat16" else (inputs + 4) * padded


def panels_shape(inputs: int, outputs: int) -> tuple[int, int, int]:
    """Return the shape of a matrix (I, O) in panels."""
    return -(-outputs // PANEL), inputs, PANEL


@not_finite_is_expected
def stored(
    matrix: Array, weight_format: Literal["bfloat16", "int8"], panels: NDArray[Any] | None = None
) -> StoredMatrix:
    """Return a matrix (I, O) in panels of bfloat16 or int8, written to `panels` if given.

    Shape:
        panels (P, I, 64), with columns of 0 that fill the last panel; scales (P * 64,), for int8.
    """
    inputs, outputs = matrix.shape
    if panels is None:
        panels = empty(*panels_shape(inputs, outputs), dtype=DTYPES[weight_format])
    scales = empty(panels.shape[0] * PANEL)
    for number, panel in enumerate(panels):
        columns = slice(number * PANEL, (number + 1) * PANEL)
        values = np.zeros((inputs, PANEL), np.float32)
        values[:, : min(PANEL, outputs - columns.start)] = matrix[:, columns]
        if weight_format == "bfloat16":
            conversion.to_bfloat16(panel, values)
        else:
            scales[columns] = np.abs(values).max(axis=0) / np.float32(MAX_INT8)
            divisors = np.where(scales[columns] > 0, scales[columns], np.float32(1))  # a column of zeros has scale 0
            panel[:] = np.rint(values / divisors)
    return panels if weight_format == "bfloat16" else (panels, scales)


@not_finite_is_expected
def columns_of(matrix: StoredMatrix, ids: NDArray[np.int32]) -> Array:
    """Return some columns of a matrix (I, O) in panels, as rows of float32. Shape: (len(ids), I)."""
    if isinstance(matrix, tuple):
        panels, scales = matrix
        return widened(panels[ids // PANEL, :, ids % PANEL]) * scales[ids, None]
    return widened(matrix[ids // PANEL, :, ids % PANEL])
