"""Gradient check: the reference against central differences, and the kernels against the reference.

Every tensor of the model is checked in two steps, for the layers of GPT-2 and for those that settings can choose
instead. float32 is too coarse for finite differences, so they are taken of the float64 reference
(`gpt_core.reference`). The kernels compute in float32 and are compared with the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt_core import reference
from gpt_core.config.settings import QWEN3, ModelShape
from gpt_core.model.gpt import GPT
from gpt_core.model.layers.dropout import Dropout
from gpt_core.model.parameters import Parameters
from gpt_core.reference import Array, Ids, Tensors

REFERENCE_LIMIT = 1e-6
KERNEL_LIMIT = 1e-4

# No dimension is a multiple of the SIMD width, and no two are equal.
SMALL_SHAPE = ModelShape(d_model=6, hidden_size=11, vocab_size=13, num_heads=2, seq_len=9, layers=2)
SMALL_BATCH, SMALL_TIME = 3, 7
# Longer than a tile of attention, and with more rows than one slice of logits of this vocabulary.
LARGE_SHAPE = ModelShape(d_model=36, hidden_size=75, vocab_size=16411, num_heads=3, seq_len=150, layers=2)
LARGE_BATCH, LARGE_TIME = 2, 147

ARCHITECTURES: dict[str, dict[str, object]] = {
    "gpt2": {},
    "qwen3": QWEN3 | {"d_model": 12, "tied_head": False},  # an even head size, which rotary positions need
    "no biases, relu_squared": {"bias": False, "mlp": "relu_squared"},
    "rms_norm, swiglu, x0": {"norm": "rms_norm", "mlp": "swiglu", "x0_shortcut": True},
}
"""Layers that are checked: settings that differ from the two shapes, by a name. Every value of each occurs."""

DROPOUT = 0.25  # of the checks with dropout
MASK_STEP, MASK_SEQUENCE = 1_000_003, 5  # step and first sequence of its masks

ELEMENTS = 256  # checked by differences per tensor, a random choice of larger tensors
STEP = 1e-4  # h of the differences


class GradcheckRow(msgspec.Struct, frozen=True):
    """Result for one tensor. Errors are the `relative_error` of the complete tensor."""

    tensor: str
    shape: tuple[int, ...]
    elements: int
    """number of elements checked by central differences"""
    reference_error: float
    """of the reference against central differences: the larger of those without and with dropout"""
    kernel_error: float
    """of the kernels against the reference: the largest on two shapes, without and with dropout"""
    passed: bool
    """both errors are below `REFERENCE_LIMIT` and `KERNEL_LIMIT`"""
    architecture: str = "gpt2"
    """a name of `ARCHITECTURES`"""


def relative_error(got: ArrayLike, expected: ArrayLike) -> float:
    """Return |got - expected| / max(|got|, |expected|) in the Euclidean norm; 0 if both are 0, NaN for a NaN.

    The error is relative to the norm of the complete tensor, not per element: an element that is 0 except for rounding
    (the bias of the keys has no effect on the loss) would otherwise be compared with its own noise.
    """
    a, b = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    scale = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)))
    difference = float(np.linalg.norm(a - b))
    return difference / scale if scale != 0.0 else difference


def central_differences(loss: Callable[[], float], tensor: Array, elements: Sequence[int] | NDArray[np.int64]) -> Array:
    """Return d loss / d tensor for the given elements of its flat view.

    Uses (8 (f(+h) - f(-h)) - (f(+2h) - f(-2h))) / 12h. Its truncation error is O(h^4), so h can be large enough that
    rounding does not matter. `loss` must read `tensor`, which is contiguous; its values are restored.
    """
    flat = tensor.reshape(-1)
    slopes = np.empty(len(elements))
    for i, element in enumerate(elements):
        original = flat[element]
        values = {}
        for steps in (-2, -1, 1, 2):
            flat[element] = original + steps * STEP
            values[steps] = loss()
        flat[element] = original
        slopes[i] = (8.0 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12.0 * STEP)
    return slopes


def scattered_parameters(shape: ModelShape, seed: int) -> Tensors:
    """Return weights at which no gradient is close to 0: no bias is 0, and no norm weight is 1.

    The values are rounded to float32, so that kernels and reference get exactly the same.
    """
    random = np.random.default_rng(seed)
    parameters: Tensors = {}
    for name, size in reference.parameter_shapes(shape).items():
        std = 0.5 / math.sqrt(size[0]) if name.startswith("h.") and len(size) == 2 else 0.3
        center = 1.0 if len(size) == 1 and name.endswith(".weight") else 0.0
        parameters[name] = random.normal(center, std, size).astype(np.float32).astype(np.float64)
    return parameters


def random_batch(shape: ModelShape, batch: int, time: int, seed: int) -> tuple[Ids, Ids]:
    """Return tokens and targets (B, T); tokens repeat, and about an eighth of the positions have no target."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, max(1, 3 * shape.vocab_size // 4), (batch, time), dtype=np.int32)
    targets = random.integers(0, shape.vocab_size, (batch, time), dtype=np.int32)
    targets[random.random((batch, time)) < 0.125] = reference.NO_TARGET
    return tokens, targets


def reference_errors(
    shape: ModelShape, batch: int, time: int, seed: int, dropout: float = 0.0
) -> dict[str, tuple[int, float]]:
    """Return per tensor the number of checked elements and the error of the reference against central differences."""
    parameters = scattered_parameters(shape, seed)
    tokens, targets = random_batch(shape, batch, time, seed)
    masks = _masks(shape, batch, time, seed, dropout)
    _, gradients = reference.loss_and_gradients(parameters, tokens, targets, shape, masks)
    random = np.random.default_rng(seed)

    def loss() -> float:
        logits, _, _ = reference.model_forward(parameters, tokens, shape, masks)
        return reference.cross_entropy_forward(logits, targets)

    errors = {}
    for name, tensor in parameters.items():
        elements = random.choice(tensor.size, min(tensor.size, ELEMENTS), replace=False)
        slopes = central_differences(loss, tensor, elements)
        errors[name] = (len(elements), relative_error(gradients[name].reshape(-1)[elements], slopes))
    return errors


def kernel_errors(shape: ModelShape, batch: int, time: int, seed: int, dropout: float = 0.0) -> dict[str, float]:
    """Return per tensor the error of the compiled model's gradient against the reference's."""
    parameters = scattered_parameters(shape, seed)
    tokens, targets = random_batch(shape, batch, time, seed)
    masks = _masks(shape, batch, time, seed, dropout)
    _, expected = reference.loss_and_gradients(parameters, tokens, targets, shape, masks)
    got = Parameters(shape)
    model = GPT(as_parameters(shape, parameters))
    drop = Dropout(dropout, seed, MASK_STEP, MASK_SEQUENCE, time) if dropout else None
    model.loss_and_gradients(tokens, targets, got, 1.0 / int((targets != reference.NO_TARGET).sum()), drop)
    return {name: relative_error(got[name], expected[name]) for name in expected}


def _masks(shape: ModelShape, batch: int, time: int, seed: int, dropout: float) -> reference.Masks | None:
    if not dropout:
        return None
    return reference.dropout_masks(
        shape, batch, time, rate=dropout, seed=seed, step=MASK_STEP, first_sequence=MASK_SEQUENCE
    )


def as_parameters(shape: ModelShape, tensors: Mapping[str, Array]) -> Parameters:
    """Return the same values as `Parameters` of the compiled model, in float32."""
    parameters = Parameters(shape)
    for name, tensor in parameters.tensors.items():
        tensor[...] = tensors[name]
    return parameters


def run_gradcheck(seed: int = 0, architectures: Iterable[str] = tuple(ARCHITECTURES)) -> list[GradcheckRow]:
    """Return one row per tensor and architecture, in the order of the parameter table. Takes about 12 seconds.

    Each check is made without and with dropout.
    """
    return [row for name in architectures for row in _rows(name, seed)]


def _rows(architecture: str, seed: int) -> list[GradcheckRow]:
    """Return the rows of one architecture."""
    small, large = shapes_of(architecture)
    rates = (0.0, DROPOUT)
    differences = [reference_errors(small, SMALL_BATCH, SMALL_TIME, seed, rate) for rate in rates]
    kernels = [kernel_errors(small, SMALL_BATCH, SMALL_TIME, seed, rate) for rate in rates]
    kernels += [kernel_errors(large, LARGE_BATCH, LARGE_TIME, seed, rate) for rate in rates]
    rows = []
    for name, size in reference.parameter_shapes(small).items():
        elements = differences[0][name][0]
        reference_error = _largest(errors[name][1] for errors in differences)
        kernel_error = _largest(errors[name] for errors in kernels)
        passed = reference_error < REFERENCE_LIMIT and kernel_error < KERNEL_LIMIT
        rows.append(GradcheckRow(name, size, elements, reference_error, kernel_error, passed, architecture))
    return rows


def shapes_of(architecture: str) -> tuple[ModelShape, ModelShape]:
    """Return the small and the large shape with the layers of one of `ARCHITECTURES`."""
    changes = ARCHITECTURES[architecture]
    layers = {name: value for name, value in changes.items() if name != "d_model"}
    return msgspec.structs.replace(SMALL_SHAPE, **changes), msgspec.structs.replace(LARGE_SHAPE, **layers)


def _largest(errors: Iterable[float]) -> float:
    """Return the largest error; NaN is larger than any."""
    return max(errors, key=lambda error: math.inf if math.isnan(error) else error)
