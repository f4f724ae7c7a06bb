"""Weights for inference, stored in 32, 16 or 8 bits per value.

Decoding a token takes as long as reading every weight once, so fewer bits are a higher speed. The matrices are
converted once: those of the blocks, and the token embedding, which is also the matrix of the logits. Vectors and the
position embedding stay float32.

    float32    4 bytes per value; the weights themselves, not copied
    bfloat16   2 bytes: the upper half of the float32, rounded to nearest
    int8       1 byte, and one float32 scale per row: value = scale * integer, with scale = max |row| / 127

A row of a block's matrix holds the weights of one input, so its scale multiplies that input.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import decoding, gemm
from gpt_core.kernels.arrays import Array, empty
from gpt_core.model.layers.embedding import WPE
from gpt_core.model.parameters import Parameters
from gpt_core.model.precision import ProductFormat

WeightFormat = Literal["float32", "bfloat16", "int8"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)

StoredMatrix: TypeAlias = NDArray[Any] | tuple[NDArray[np.int8], Array]
"""float32, uint16 (the bits of bfloat16), or int8 with a scale per row"""

MAX_INT8 = 127


class StoredWeights:
    """Weights of one model in one format. `tensors` has the names of `Parameters.tensors`."""

    def __init__(self, parameters: Parameters, weight_format: WeightFormat = "float32") -> None:
        self.shape: ModelShape = parameters.shape
        self.format: WeightFormat = weight_format
        self.tensors: dict[str, StoredMatrix] = {
            name: stored(tensor, weight_format) if tensor.ndim == 2 and name != WPE else tensor
            for name, tensor in parameters.tensors.items()
        }

    @property
    def products(self) -> ProductFormat:
        """Format of the matrix products of a prefill: bfloat16 for stored weights, if the processor multiplies it."""
        return "bfloat16" if self.format != "float32" and gemm.has_native_bfloat16() else "float32"

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        parts = (tensor if isinstance(tensor, tuple) else (tensor,) for tensor in self.tensors.values())
        return sum(array.nbytes for arrays in parts for array in arrays)

    def expanded(self) -> Parameters:
        """Return the stored values as float32, for evaluation."""
        parameters = Parameters(self.shape)
        for name, tensor in parameters.tensors.items():
            source = self.tensors[name]
            if tensor.ndim == 2:
                decoding.expand(tensor, source)
            else:
                tensor[...] = source
        return parameters


def matrix_bytes(rows: int, columns: int, weight_format: WeightFormat) -> int:
    """Return the bytes of a stored matrix."""
    if weight_format == "int8":
        return rows * columns + 4 * rows
    return rows * columns * (2 if weight_format == "bfloat16" else 4)


def stored(matrix: Array, weight_format: WeightFormat) -> StoredMatrix:
    """Return a matrix (R, C) in a format; float32 is returned as it is.

    Shape:
        values (R, C); scales (R,), for int8.
    """
    if weight_format == "float32":
        return matrix
    if weight_format == "bfloat16":
        bits = empty(*matrix.shape, dtype=np.uint16)
        decoding.to_bfloat16(bits, matrix)
        return bits
    scales, values = empty(matrix.shape[0]), empty(*matrix.shape, dtype=np.int8)
    scales[:] = np.abs(matrix).max(axis=1) / np.float32(MAX_INT8)
    divisors = np.where(scales > 0, scales, np.float32(1))  # a row of zeros has scale 0
    for row, divisor, integers in zip(matrix, divisors, values, strict=True):
        integers[:] = np.rint(row / divisor)
    return values, scales


def rows_of(matrix: StoredMatrix, ids: NDArray[np.int32]) -> Array:
    """Return some rows of a matrix as float32. Shape: (len(ids), C)."""
    if isinstance(matrix, tuple):
        values, scales = matrix
        return values[ids].astype(np.float32) * scales[ids, None]
    if matrix.dtype == np.uint16:
        bits: NDArray[np.uint32] = matrix[ids].astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32)
    rows: Array = matrix[ids]
    return rows
