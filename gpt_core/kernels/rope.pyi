import numpy as np
from numpy.typing import NDArray

from gpt_core.kernels.arrays import Activations

def rotate(
    x: Activations,
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    channels: int,
    time: int,
    first_position: int = 0,
    inverse: bool = False,
) -> None: ...
