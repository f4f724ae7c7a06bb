"""Shortcut with a learned scale: y = x + scale * x0."""

from cython.parallel cimport prange

from gpt_core.kernels.shapes cimport check_equal, check_positive
from gpt_core.kernels.threads cimport threads_for


def forward(
    float[:, ::1] y,
    const float[:, ::1] x,
    const float[:, ::1] x0,
    const float[::1] scale,
):
    """Compute y = x + scale * x0.

    Shape:
        y, x, x0 (N, C); scale (1,).

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = x.shape[0], C = x.shape[1], n
    _check(N, C, y.shape, x0.shape, scale.shape[0])
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(N * C)):
        _add_row(&y[n, 0], &x[n, 0], &x0[n, 0], scale[0], C)


def backward(
    float[:, ::1] d_x0,
    float[::1] d_scale,
    float[::1] row_sums,
    const float[:, ::1] d_y,
    const float[:, ::1] x0,
    const float[::1] scale,
):
    """Compute d_x0 += scale * d_y and d_scale += sum(d_y * x0). The gradient of x is d_y itself.

    d_x0 accumulates, unlike other gradients of activations: x0 has a shortcut to every block.

    Args:
        row_sums: Scratch, overwritten. The sums of rows are added in order, so the result does not depend on the
            number of threads.

    Shape:
        d_x0, d_y, x0 (N, C); d_scale, scale (1,); row_sums (N,).

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = d_y.shape[0], C = d_y.shape[1], n
    cdef double total = 0
    _check(N, C, d_x0.shape, x0.shape, scale.shape[0])
    check_equal("shortcut: length of d_scale", d_scale.shape[0], 1)
    check_equal("shortcut: length of row_sums", row_sums.shape[0], N)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(2 * N * C)):
        row_sums[n] = _backward_row(&d_x0[n, 0], &d_y[n, 0], &x0[n, 0], scale[0], C)
    for n in range(N):
        total += row_sums[n]
    d_scale[0] += <float>total


cdef int _check(
    Py_ssize_t N,
    Py_ssize_t C,
    const Py_ssize_t *y,
    const Py_ssize_t *x0,
    Py_ssize_t scale,
) except -1:
    check_positive("shortcut: rows", N)
    check_positive("shortcut: channels", C)
    check_equal("shortcut: rows of the result", y[0], N)
    check_equal("shortcut: channels of the result", y[1], C)
    check_equal("shortcut: rows of x0", x0[0], N)
    check_equal("shortcut: channels of x0", x0[1], C)
    check_equal("shortcut: length of scale", scale, 1)
    return 0


cdef void _add_row(float *y, const float *x, const float *x0, float scale, Py_ssize_t C) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(C):
        y[c] = x[c] + scale * x0[c]


cdef float _backward_row(float *d_x0, const float *d_y, const float *x0, float scale, Py_ssize_t C) noexcept nogil:
    """Add scale * d_y to a row of d_x0; return the sum of d_y * x0."""
    cdef Py_ssize_t c
    cdef float total = 0
    for c in range(C):
        d_x0[c] += scale * d_y[c]
        total += d_y[c] * x0[c]
    return total
