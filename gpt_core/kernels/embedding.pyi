import numpy as np
from numpy.typing import NDArray

def forward(
    x: NDArray[np.float32],
    tokens: NDArray[np.int32],
    wte: NDArray[np.float32],
    wpe: NDArray[np.float32] | None,
    time: int,
    first_position: int = 0,
) -> None: ...
def backward(
    d_wte: NDArray[np.float32],
    d_wpe: NDArray[np.float32] | None,
    tokens: NDArray[np.int32],
    d_x: NDArray[np.float32],
    time: int,
) -> None: ...
