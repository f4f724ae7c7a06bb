import numpy as np
from numpy.typing import NDArray

from gpt_core.kernels.arrays import Activations

def forward(
    y: Activations,
    x: Activations,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    residual: NDArray[np.float32] | None = None,
    bfloat16: bool = False,
) -> None: ...
def backward(
    d_x: Activations,
    d_weight: NDArray[np.float32],
    d_bias: NDArray[np.float32] | None,
    d_y: Activations,
    x: Activations,
    weight: NDArray[np.float32],
    bfloat16: bool = False,
) -> None: ...
def product(
    c: NDArray[np.float32],
    a: Activations,
    b: Activations,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
    bfloat16: bool = False,
) -> None: ...
