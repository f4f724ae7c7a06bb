import numpy as np
from numpy.typing import NDArray

def workspace_size(keys: int, head_size: int) -> int: ...
def forward(
    out: NDArray[np.float32],
    lse: NDArray[np.float32],
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    workspace: NDArray[np.float32],
    bfloat16: bool = False,
    dropout: float = 0.0,
    dropout_key: int = 0,
    first_sequence: int = 0,
) -> None: ...
def backward(
    d_q: NDArray[np.float32],
    d_k: NDArray[np.float32],
    d_v: NDArray[np.float32],
    d_out: NDArray[np.float32],
    out: NDArray[np.float32],
    lse: NDArray[np.float32],
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    workspace: NDArray[np.float32],
    bfloat16: bool = False,
    dropout: float = 0.0,
    dropout_key: int = 0,
    first_sequence: int = 0,
) -> None: ...
