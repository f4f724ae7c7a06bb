"""Dropout (Srivastava et al. 2014): each element is 0 with probability `rate`, else multiplied by 1 / (1 - rate)."""

from cython.parallel cimport prange
from libc.stdint cimport uint32_t, uint64_t

from gpt_core.kernels.random_masks cimport factor_of, random_bits, row_key, threshold_of
from gpt_core.kernels.shapes cimport check_equal
from gpt_core.kernels.threads cimport threads_for

cdef enum:
    WORK = 4  # cost of one value, in multiply-adds


def apply(
    float[:, ::1] y,
    const float[:, ::1] x,
    double rate,
    uint64_t key,
    Py_ssize_t first_row=0,
    const float[:, ::1] residual=None,
):
    """Compute y = M * x, plus residual if given, with M = 0 with probability `rate`, else 1 / (1 - rate).

    M depends on key, row and channel alone. It is recomputed where it is needed again: the backward pass of
    `apply(y, x, ...)` is `apply(d_x, d_y, ...)`.

    Args:
        y: Overwritten; may be x or residual.
        key: Key of the mask.
        first_row: Number of the first row, where the rows are part of a larger array.

    Shape:
        y, x, residual (N, C).

    Raises:
        ValueError: The shapes do not match, or the rate is not in [0, 1).
    """
    cdef Py_ssize_t N = y.shape[0], C = y.shape[1], n
    cdef int threshold = threshold_of(rate)
    cdef float scale = 1 / (1 - rate) if rate < 1 else 0
    check_equal("dropout: rows of x", x.shape[0], N)
    check_equal("dropout: channels of x", x.shape[1], C)
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: got rate {rate}, expected at least 0 and less than 1")
    if residual is not None:
        check_equal("dropout: rows of residual", residual.shape[0], N)
        check_equal("dropout: channels of residual", residual.shape[1], C)
    cdef bint adds = residual is not None
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(WORK * N * C)):
        _apply_row(&y[n, 0], &x[n, 0], &residual[n, 0] if adds else NULL, C, row_key(key, first_row + n), threshold,
                   scale)


cdef void _apply_row(
    float *y,
    const float *x,
    const float *residual,
    Py_ssize_t C,
    uint64_t key,
    int threshold,
    float scale,
) noexcept nogil:
    cdef Py_ssize_t c
    cdef uint32_t low = <uint32_t>key, high = <uint32_t>(key >> 32)
    if residual is NULL:
        for c in range(C):
            y[c] = x[c] * factor_of(random_bits(low, high, <uint32_t>c), threshold, scale)
    else:
        for c in range(C):
            y[c] = residual[c] + x[c] * factor_of(random_bits(low, high, <uint32_t>c), threshold, scale)
