from typing import Self

from numpy import int32, int64, uint8
from numpy.typing import NDArray

_Bytes = bytes | bytearray | memoryview | NDArray[uint8]

class PieceTrie:
    def __new__(cls, pieces: list[bytes], first_id: int) -> Self: ...
    def encode(self, text: _Bytes, ends: NDArray[int64], ids: NDArray[int32]) -> int: ...
    def encode_documents(
        self, text: _Bytes, ends: NDArray[int64], is_open: bool, ids: NDArray[int32]
    ) -> tuple[int, bool]: ...

def fold_slices(text: _Bytes) -> tuple[bytes, NDArray[int64]]: ...
