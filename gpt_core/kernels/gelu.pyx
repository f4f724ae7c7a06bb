"""GELU in its tanh form: y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel 2016)."""

from cython.parallel cimport prange

from gpt_core.kernels.bfloat16 cimport map_gradient_row, map_row, stored
from gpt_core.kernels.fast_math cimport fast_tanh
from gpt_core.kernels.shapes cimport check_equal
from gpt_core.kernels.threads cimport threads_for

cdef extern from *:
    """
    #define SQRT_2_OVER_PI 0.7978845608028654f
    #define CUBIC 0.044715f
    """
    const float SQRT_2_OVER_PI
    const float CUBIC


def forward(
    stored[:, ::1] y,
    const stored[:, ::1] x,
):
    """Compute y = gelu(x).

    Shape:
        x, y (N, F), both float32 or both bfloat16 (as uint16).

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = x.shape[0], F = x.shape[1], n
    check_equal("gelu: rows of y", y.shape[0], N)
    check_equal("gelu: channels of y", y.shape[1], F)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(N * F)):
        map_row(_forward, &y[n, 0], &x[n, 0], F)


def backward(
    stored[:, ::1] d_x,
    const stored[:, ::1] d_y,
    const stored[:, ::1] x,
):
    """Compute d_x = d_y * gelu'(x). d_x may be d_y itself.

    With u = sqrt(2/pi) (x + 0.044715 x^3):

        gelu'(x) = (1 + tanh u)/2 + x/2 (1 - tanh^2 u) sqrt(2/pi) (1 + 3 * 0.044715 x^2)

    Shape:
        d_x, d_y, x (N, F), all float32 or all bfloat16.

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = x.shape[0], F = x.shape[1], n
    check_equal("gelu: rows of d_x", d_x.shape[0], N)
    check_equal("gelu: channels of d_x", d_x.shape[1], F)
    check_equal("gelu: rows of d_y", d_y.shape[0], N)
    check_equal("gelu: channels of d_y", d_y.shape[1], F)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(N * F)):
        map_gradient_row(_backward, &d_x[n, 0], &d_y[n, 0], &x[n, 0], F)


cdef void _forward(float *y, const float *x, Py_ssize_t F) noexcept nogil:
    cdef Py_ssize_t f
    cdef float u
    for f in range(F):
        u = SQRT_2_OVER_PI * (x[f] + CUBIC * x[f] * x[f] * x[f])
        y[f] = <float>0.5 * x[f] * (<float>1.0 + fast_tanh(u))


cdef void _backward(float *d_x, const float *d_y, const float *x, Py_ssize_t F) noexcept nogil:
    cdef Py_ssize_t f
    cdef float t, d_u
    for f in range(F):
        t = fast_tanh(SQRT_2_OVER_PI * (x[f] + CUBIC * x[f] * x[f] * x[f]))
        d_u = SQRT_2_OVER_PI * (<float>1.0 + <float>3.0 * CUBIC * x[f] * x[f])
        d_x[f] = d_y[f] * <float>0.5 * (<float>1.0 + t + x[f] * (<float>1.0 - t * t) * d_u)
