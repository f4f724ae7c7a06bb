"""Choice of the number format of a run's matrix products: the setting `precision`.

`auto` takes bfloat16 if the processor has instructions for its products, and a short measurement shows that they are
faster for the shape of the model. The choice is saved in the run's checkpoints, so a resumed run does not measure again
and continues to the bit. Processors without these instructions emulate them; with the project's own matrix product
(gcc, AVX2 or AVX-512) each product has the same bits, except in the tiles of AMX.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

import msgspec
import numpy as np

from gpt_core.config.settings import Settings
from gpt_core.kernels import gemm
from gpt_core.kernels.arrays import empty
from gpt_core.model.precision import ProductFormat

MIN_SPEEDUP = 1.1
"""bfloat16 must be this many times as fast: its products are coarser, and close results would vary from run to run"""
MIN_CHANNELS = 64
"""with fewer channels, products are a small part of a step, and float32 is taken without a measurement"""
MAX_ROWS = 256  # of the measured product: a few milliseconds for the largest preset
REPEATS = 9


MEASUREMENT_LOCK = threading.RLock()
"""held by the thread that measures speed: concurrent measurements would slow each other down"""


class PrecisionChoice(NamedTuple):
    """Format of the products of a run, and why: one clause, or "" if the settings name it."""

    products: ProductFormat
    reason: str


def choose_precision(settings: Settings) -> PrecisionChoice:
    """Return the format that the settings name or, for `auto`, the faster one on this machine."""
    if settings.precision == "float32":
        return PrecisionChoice("float32", "")
    if settings.precision == "bfloat16":
        return PrecisionChoice("bfloat16", "" if gemm.has_native_bfloat16() else "emulated on this processor")
    if not gemm.has_native_bfloat16():
        return PrecisionChoice("float32", "this processor has no bfloat16 instructions")
    if settings.d_model < MIN_CHANNELS:
        return PrecisionChoice("float32", f"bfloat16 is not faster with fewer than {MIN_CHANNELS} channels")
    speedup = measure_speedup(settings)
    if speedup < MIN_SPEEDUP:
        return PrecisionChoice("float32", f"bfloat16 would be {speedup:.1f} times as fast")
    return PrecisionChoice("bfloat16", f"{speedup:.1f} times as fast as float32")


def with_precision(settings: Settings) -> tuple[Settings, PrecisionChoice]:
    """Return settings whose `precision` is the chosen format, for the model and the optimizer alike, and the choice."""
    choice = choose_precision(settings)
    return msgspec.structs.replace(settings, precision=choice.products), choice


def emulation_warning(choice: PrecisionChoice) -> str:
    """Return the warning of a run whose bfloat16 products are emulated, "" if they are not."""
    if choice.products == "float32" or gemm.has_native_bfloat16():
        return ""
    return (
        "this processor has no bfloat16 instructions: products are emulated, which is slower than float32; "
        "set precision=float32 to change this run"
    )


def measure_speedup(settings: Settings) -> float:
    """Return how many times as fast the first product of an MLP is in bfloat16 as in float32.

    Both are timed in turn, after other measurements of this process. One thread computes, which need not wait for
    others on a busy machine, and the fastest of several repeats is compared, because other load only adds time: the
    same machine should choose the same format every time.
    """
    rows = min(MAX_ROWS, settings.micro_batch * settings.seq_len)
    x, weight, y = (
        empty(*shape)
        for shape in ((rows, settings.d_model), (settings.d_model, settings.hidden_size), (rows, settings.hidden_size))
    )
    for array in (x, weight):
        array.fill(np.float32(0.5))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with MEASUREMENT_LOCK:
        for _ in range(REPEATS):
            for bfloat16, durations in seconds.items():
                started = time.perf_counter()
                gemm.product(y, x, weight, bfloat16)
                durations.append(time.perf_counter() - started)
    return min(seconds[False]) / min(seconds[True])
