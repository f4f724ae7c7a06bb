import numpy as np
from numpy.typing import NDArray

from gpt_core.kernels.arrays import Activations

_Array = NDArray[np.float32]

def forward(y: Activations, rstd: _Array, x: _Array, weight: _Array) -> None: ...
def backward(d_x: _Array, d_weight: _Array, d_y: _Array, x: _Array, rstd: _Array, weight: _Array) -> None: ...
def heads_forward(y: Activations, rstd: _Array, x: Activations, q_weight: _Array, k_weight: _Array) -> None: ...
def heads_backward(
    d_x: Activations,
    d_q_weight: _Array,
    d_k_weight: _Array,
    d_y: Activations,
    x: Activations,
    rstd: _Array,
    q_weight: _Array,
    k_weight: _Array,
) -> None: ...
