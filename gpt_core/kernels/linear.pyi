import numpy as np
from numpy.typing import NDArray

def forward(
    y: NDArray[np.float32],
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    residual: NDArray[np.float32] | None = None,
) -> None: ...
def backward(
    d_x: NDArray[np.float32],
    d_weight: NDArray[np.float32],
    d_bias: NDArray[np.float32],
    d_y: NDArray[np.float32],
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
) -> None: ...
def product(
    c: NDArray[np.float32],
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
) -> None: ...
