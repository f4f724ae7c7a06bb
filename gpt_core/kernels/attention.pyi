import numpy as np
from numpy.typing import NDArray

from gpt_core.kernels.arrays import Activations

def workspace_size(keys: int, head_size: int) -> int: ...
def forward(
    out: Activations,
    lse: NDArray[np.float32],
    q: Activations,
    k: Activations,
    v: Activations,
    workspace: NDArray[np.float32],
    bfloat16: bool = False,
    dropout: float = 0,
    dropout_key: int = 0,
    first_sequence: int = 0,
) -> None: ...
def backward(
    d_q: Activations,
    d_k: Activations,
    d_v: Activations,
    d_out: Activations,
    out: Activations,
    lse: NDArray[np.float32],
    q: Activations,
    k: Activations,
    v: Activations,
    workspace: NDArray[np.float32],
    bfloat16: bool = False,
    dropout: float = 0,
    dropout_key: int = 0,
    first_sequence: int = 0,
) -> None: ...
