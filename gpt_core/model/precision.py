"""Number formats of the model: how weights, activations and arithmetic are stored, stated once.

Parameter buffers, activation buffers, estimates of memory and the layout of checkpoints take their element type and
size from `PRECISION`. Separate from these is the format in which the operands of matrix products are multiplied
(`ProductFormat`). With bfloat16 they are rounded as they are packed, and activations that products read are stored in
bfloat16 already; weights, sums and the residual stream stay float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

ProductFormat = Literal["float32", "bfloat16"]
"""Format of the operands of a model's matrix products; their sums are float32."""


def product_format(precision: str) -> ProductFormat:
    """Return the format that the setting `precision` of a checkpoint names."""
    return "bfloat16" if precision == "bfloat16" else "float32"


@dataclass(frozen=True, slots=True)
class DType:
    """Number format of the elements of a tensor."""

    name: str
    storage: np.dtype[Any]
    """NumPy type of the stored bits"""
    safetensors: str
    """name in the header of a safetensors file"""

    @property
    def bytes(self) -> int:
        """Bytes per value."""
        return int(self.storage.itemsize)


FLOAT32 = DType("float32", np.dtype(np.float32), "F32")
BFLOAT16 = DType("bfloat16", np.dtype(np.uint16), "BF16")
INT32 = DType("int32", np.dtype(np.int32), "I32")


@dataclass(frozen=True, slots=True)
class Precision:
    """Number formats of one model."""

    weights: DType = FLOAT32
    activations: DType = FLOAT32
    compute: DType = FLOAT32
    """softmax statistics, losses, gradients of parameters and optimizer state"""


PRECISION = Precision()
"""The number formats that the kernels are compiled for."""
