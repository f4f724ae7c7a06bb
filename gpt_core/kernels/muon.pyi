import numpy as np
from numpy.typing import NDArray

ORTHOGONALIZATION_STEPS: int

def workspace_size(rows: int, columns: int) -> int: ...
def update(
    values: NDArray[np.float32],
    gradients: NDArray[np.float32],
    m: NDArray[np.float32],
    matrices: NDArray[np.intp],
    workspace: NDArray[np.float32],
    lr: float,
    beta: float,
    weight_decay: float,
    gradient_scale: float = 1.0,
    bfloat16: bool = False,
) -> None: ...
