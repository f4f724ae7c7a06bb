import numpy as np
from numpy.typing import NDArray

def apply(
    y: NDArray[np.float32],
    x: NDArray[np.float32],
    rate: float,
    key: int,
    first_row: int = 0,
    residual: NDArray[np.float32] | None = None,
) -> None: ...
