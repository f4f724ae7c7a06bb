"""SwiGLU: y = silu(gate) * up, with silu(x) = x / (1 + exp(-x)) (Shazeer 2020, "GLU Variants Improve Transformer")."""

from cython.parallel cimport prange

from gpt_core.kernels.bfloat16 cimport CHUNK, round_row, stored, widen
from gpt_core.kernels.fast_math cimport fast_exp
from gpt_core.kernels.shapes cimport check_equal
from gpt_core.kernels.threads cimport threads_for

cdef enum:
    WORK = 2  # cost of one output, in units of that of GELU


def forward(
    stored[:, ::1] y,
    const stored[:, ::1] x,
):
    """Compute y = silu(gate) * up for x = gate | up.

    Shape:
        y (N, F); x (N, 2F). Both are float32 or both bfloat16 (as uint16).

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = y.shape[0], F = y.shape[1], n
    check_equal("swiglu: rows of x", x.shape[0], N)
    check_equal("swiglu: channels of x", x.shape[1], 2 * F)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(WORK * N * F)):
        _forward_row(&y[n, 0], &x[n, 0], &x[n, F], F)


def backward(
    stored[:, ::1] d_x,
    const stored[:, ::1] d_y,
    const stored[:, ::1] x,
):
    """Compute the gradients of gate | up. With s = 1 / (1 + exp(-gate)):

        d_gate = d_y * up * s (1 + gate (1 - s));  d_up = d_y * gate * s

    Shape:
        d_x, x (N, 2F); d_y (N, F). All are float32 or all bfloat16.

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = d_y.shape[0], F = d_y.shape[1], n
    check_equal("swiglu: rows of d_x", d_x.shape[0], N)
    check_equal("swiglu: channels of d_x", d_x.shape[1], 2 * F)
    check_equal("swiglu: rows of x", x.shape[0], N)
    check_equal("swiglu: channels of x", x.shape[1], 2 * F)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(WORK * N * F)):
        _backward_row(&d_x[n, 0], &d_x[n, F], &d_y[n, 0], &x[n, 0], &x[n, F], F)


cdef void _forward_row(stored *y, const stored *gate, const stored *up, Py_ssize_t F) noexcept nogil:
    """Compute one row."""
    cdef Py_ssize_t first, n
    cdef float[CHUNK] gate_chunk
    cdef float[CHUNK] up_chunk
    if stored is float:
        _forward(y, gate, up, F)
    else:
        first = 0
        while first < F:
            n = min(<Py_ssize_t>CHUNK, F - first)
            widen(gate + first, gate_chunk, n)
            widen(up + first, up_chunk, n)
            _forward(gate_chunk, gate_chunk, up_chunk, n)
            round_row(gate_chunk, y + first, n)
            first += n


cdef void _backward_row(
    stored *d_gate,
    stored *d_up,
    const stored *d_y,
    const stored *gate,
    const stored *up,
    Py_ssize_t F,
) noexcept nogil:
    """Compute the gradients of one row."""
    cdef Py_ssize_t first, n
    cdef float[CHUNK] d_chunk
    cdef float[CHUNK] gate_chunk
    cdef float[CHUNK] up_chunk
    if stored is float:
        _backward(d_gate, d_up, d_y, gate, up, F)
    else:
        first = 0
        while first < F:
            n = min(<Py_ssize_t>CHUNK, F - first)
            widen(d_y + first, d_chunk, n)
            widen(gate + first, gate_chunk, n)
            widen(up + first, up_chunk, n)
            _backward(gate_chunk, up_chunk, d_chunk, gate_chunk, up_chunk, n)
            round_row(gate_chunk, d_gate + first, n)
            round_row(up_chunk, d_up + first, n)
            first += n


cdef void _forward(float *y, const float *gate, const float *up, Py_ssize_t F) noexcept nogil:
    cdef Py_ssize_t f
    for f in range(F):
        y[f] = gate[f] / (<float>1.0 + fast_exp(-gate[f])) * up[f]


cdef void _backward(
    float *d_gate,
    float *d_up,
    const float *d_y,
    const float *gate,
    const float *up,
    Py_ssize_t F,
) noexcept nogil:
    """d_gate may be gate itself, and d_up may be up."""
    cdef Py_ssize_t f
    cdef float g, s, d_up_f
    for f in range(F):
        g = gate[f]
        s = <float>1.0 / (<float>1.0 + fast_exp(-g))
        d_up_f = d_y[f] * g * s
        d_gate[f] = d_y[f] * up[f] * s * (<float>1.0 + g * (<float>1.0 - s))
        d_up[f] = d_up_f
