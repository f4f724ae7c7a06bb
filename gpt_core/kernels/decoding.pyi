import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float32]
_Matrix = NDArray[np.float32] | NDArray[np.uint16] | tuple[NDArray[np.int8], NDArray[np.float32]]

class Block:
    def __init__(
        self,
        ln_1: tuple[_Array, _Array],
        c_attn: tuple[_Matrix, _Array],
        attn_proj: tuple[_Matrix, _Array],
        ln_2: tuple[_Array, _Array],
        c_fc: tuple[_Matrix, _Array],
        mlp_proj: tuple[_Matrix, _Array],
        keys: _Array | NDArray[np.uint16],
        values: _Array | NDArray[np.uint16],
        *,
        rms_norm: bool = False,
        mlp: str = "gelu",
        q_norm: _Array | None = None,
        k_norm: _Array | None = None,
        cos: _Array | None = None,
        sin: _Array | None = None,
    ) -> None: ...
    def read(self, x: _Array, position: int) -> None: ...

def logits(
    out: _Array,
    ln_out: _Array,
    x: _Array,
    norm_weight: _Array,
    norm_bias: _Array,
    head: _Matrix,
    rms_norm: bool = False,
) -> None: ...
def total(values: _Array) -> float: ...
