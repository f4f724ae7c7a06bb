import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

class Block:
    def __init__(
        self,
        ln_1: tuple[Array, Array],
        c_attn: tuple[Array, Array],
        attn_proj: tuple[Array, Array],
        ln_2: tuple[Array, Array],
        c_fc: tuple[Array, Array],
        mlp_proj: tuple[Array, Array],
        keys: Array,
        values: Array,
        heads: int,
    ) -> None: ...
    def read(self, x: Array, position: int) -> None: ...

def logits(out: Array, normed: Array, x: Array, norm_weight: Array, norm_bias: Array, wte: Array) -> None: ...
