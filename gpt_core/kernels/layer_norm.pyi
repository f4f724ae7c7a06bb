import numpy as np
from numpy.typing import NDArray

from gpt_core.kernels.arrays import Activations

def forward(
    y: Activations,
    mean: NDArray[np.float32],
    rstd: NDArray[np.float32],
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
) -> None: ...
def backward(
    d_x: NDArray[np.float32],
    d_weight: NDArray[np.float32],
    d_bias: NDArray[np.float32] | None,
    d_y: NDArray[np.float32],
    x: NDArray[np.float32],
    mean: NDArray[np.float32],
    rstd: NDArray[np.float32],
    weight: NDArray[np.float32],
) -> None: ...
