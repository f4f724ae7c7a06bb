import numpy as np
from numpy.typing import NDArray

def rotate(
    x: NDArray[np.float32],
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    channels: int,
    time: int,
    first_position: int = 0,
    inverse: bool = False,
) -> None: ...
