import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float32]

class Block:
    def __init__(
        self,
        ln_1: tuple[_Array, _Array],
        c_attn: tuple[_Array, _Array],
        attn_proj: tuple[_Array, _Array],
        ln_2: tuple[_Array, _Array],
        c_fc: tuple[_Array, _Array],
        mlp_proj: tuple[_Array, _Array],
        keys: _Array,
        values: _Array,
        heads: int,
    ) -> None: ...
    def read(self, x: _Array, position: int) -> None: ...

def logits(out: _Array, ln_out: _Array, x: _Array, norm_weight: _Array, norm_bias: _Array, wte: _Array) -> None: ...
