import numpy as np
from numpy.typing import NDArray

def forward(
    losses: NDArray[np.float32],
    predictions: NDArray[np.int32],
    logits: NDArray[np.float32],
    targets: NDArray[np.int32],
) -> None: ...
def forward_backward(
    losses: NDArray[np.float32], logits: NDArray[np.float32], targets: NDArray[np.int32], weight: float
) -> None: ...
