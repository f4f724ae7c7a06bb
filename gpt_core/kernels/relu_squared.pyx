"""Squared ReLU: y = max(x, 0)^2 (So et al. 2021, "Primer")."""

from cython.parallel cimport prange

from gpt_core.kernels.bfloat16 cimport map_gradient_row, map_row, stored
from gpt_core.kernels.shapes cimport check_equal
from gpt_core.kernels.threads cimport threads_for


def forward(
    stored[:, ::1] y,
    const stored[:, ::1] x,
):
    """Compute y = max(x, 0)^2. y may be x itself.

    Shape:
        x, y (N, F), both float32 or both bfloat16 (as uint16).

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = x.shape[0], F = x.shape[1], n
    check_equal("relu_squared: rows of y", y.shape[0], N)
    check_equal("relu_squared: channels of y", y.shape[1], F)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(N * F)):
        map_row(_forward, &y[n, 0], &x[n, 0], F)


def backward(
    stored[:, ::1] d_x,
    const stored[:, ::1] d_y,
    const stored[:, ::1] x,
):
    """Compute d_x = d_y * 2 max(x, 0). d_x may be d_y itself.

    Shape:
        d_x, d_y, x (N, F), all float32 or all bfloat16.

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = x.shape[0], F = x.shape[1], n
    check_equal("relu_squared: rows of d_x", d_x.shape[0], N)
    check_equal("relu_squared: channels of d_x", d_x.shape[1], F)
    check_equal("relu_squared: rows of d_y", d_y.shape[0], N)
    check_equal("relu_squared: channels of d_y", d_y.shape[1], F)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(N * F)):
        map_gradient_row(_backward, &d_x[n, 0], &d_y[n, 0], &x[n, 0], F)


cdef void _forward(float *y, const float *x, Py_ssize_t F) noexcept nogil:
    cdef Py_ssize_t f
    cdef float positive
    for f in range(F):
        positive = max(x[f], <float>0.0)
        y[f] = positive * positive


cdef void _backward(float *d_x, const float *d_y, const float *x, Py_ssize_t F) noexcept nogil:
    cdef Py_ssize_t f
    for f in range(F):
        d_x[f] = d_y[f] * <float>2.0 * max(x[f], <float>0.0)
