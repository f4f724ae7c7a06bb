import numpy as np
from numpy.typing import NDArray

def forward(
    y: NDArray[np.float32],
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    residual: NDArray[np.float32] | None = None,
    bfloat16: bool = False,
) -> None: ...
def backward(
    d_x: NDArray[np.float32],
    d_weight: NDArray[np.float32],
    d_bias: NDArray[np.float32] | None,
    d_y: NDArray[np.float32],
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bfloat16: bool = False,
) -> None: ...
def product(
    c: NDArray[np.float32],
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
    bfloat16: bool = False,
) -> None: ...
