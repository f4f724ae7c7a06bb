import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float32]

def forward(y: _Array, x: _Array, x0: _Array, scale: _Array) -> None: ...
def backward(d_x0: _Array, d_scale: _Array, row_sums: _Array, d_y: _Array, x0: _Array, scale: _Array) -> None: ...
