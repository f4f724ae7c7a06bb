import numpy as np
from numpy.typing import NDArray

def norm(values: NDArray[np.float32]) -> float: ...
def update(
    values: NDArray[np.float32],
    gradients: NDArray[np.float32],
    m: NDArray[np.float32],
    v: NDArray[np.float32],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    gradient_scale: float = 1.0,
) -> None: ...
def average(averages: NDArray[np.float32], values: NDArray[np.float32], decay: float) -> None: ...
