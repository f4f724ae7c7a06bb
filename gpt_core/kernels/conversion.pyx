"""Conversion between float32 and the number formats in which weights and KV caches are stored.

bfloat16 is held as its 16 bits (uint16). Weight matrices of 16 and 8 bits are stored in panels (see
`gpt_core.kernels.decoding`).
"""

from cython.parallel cimport prange
from libc.stdint cimport int8_t, uint16_t

from gpt_core.kernels.bfloat16 cimport bfloat16_bits, bfloat16_value
from gpt_core.kernels.shapes cimport check_adjacent, check_equal
from gpt_core.kernels.threads cimport threads_for

cdef extern from "panel_product.h":
    enum: PANEL

ctypedef fused narrow:
    uint16_t
    int8_t


def to_bfloat16(
    uint16_t[:, ::1] out,
    const float[:, :] x,
):
    """Compute out = the bits of x rounded to bfloat16. The rows of x may be apart.

    Shape:
        out, x (R, C).

    Raises:
        ValueError: The shapes do not match, or the columns of x are apart.
    """
    cdef Py_ssize_t R = out.shape[0], C = out.shape[1], r
    check_equal("to_bfloat16: rows", x.shape[0], R)
    check_equal("to_bfloat16: columns", x.shape[1], C)
    check_adjacent("to_bfloat16: bytes between columns of x", C, x.strides[1], sizeof(float))
    if C > 0:
        for r in prange(R, nogil=True, schedule="static", num_threads=threads_for(R * C)):
            _round_row(&out[r, 0], &x[r, 0], C)


def from_bfloat16(
    float[:, ::1] out,
    const uint16_t[:, :] bits,
):
    """Compute out = the values of bfloat16. The rows of bits may be apart.

    Shape:
        out, bits (R, C).

    Raises:
        ValueError: The shapes do not match, or the columns of bits are apart.
    """
    cdef Py_ssize_t R = out.shape[0], C = out.shape[1], r
    check_equal("from_bfloat16: rows", bits.shape[0], R)
    check_equal("from_bfloat16: columns", bits.shape[1], C)
    check_adjacent("from_bfloat16: bytes between columns of bits", C, bits.strides[1], sizeof(uint16_t))
    if C > 0:
        for r in prange(R, nogil=True, schedule="static", num_threads=threads_for(R * C)):
            _widen_row(&out[r, 0], &bits[r, 0], C)


cdef void _round_row(uint16_t *out, const float *x, Py_ssize_t C) noexcept nogil:
    """out (C,) = the bits of x rounded to bfloat16."""
    cdef Py_ssize_t c
    for c in range(C):
        out[c] = bfloat16_bits(x[c])


cdef void _widen_row(float *out, const uint16_t *bits, Py_ssize_t C) noexcept nogil:
    """out (C,) = the values of bfloat16."""
    cdef Py_ssize_t c
    for c in range(C):
        out[c] = bfloat16_value(bits[c])


def expand(
    float[:, ::1] out,
    matrix,
):
    """Compute out = the values of a weight matrix in panels.

    Args:
        matrix: Panels of uint16 (the bits of bfloat16), or (panels of int8, scales).

    Shape:
        out (I, O); panels (P, I, 64), with P * 64 at least O; scales (P * 64,).

    Raises:
        ValueError: The shapes or types do not match.
    """
    cdef const uint16_t[:, :, ::1] bfloat16_panels
    cdef const int8_t[:, :, ::1] int8_panels
    cdef const float[::1] scales
    cdef Py_ssize_t I = out.shape[0], O = out.shape[1], i
    cdef int threads = threads_for(I * O)
    if isinstance(matrix, tuple):
        int8_panels, scales = matrix
        _check_panels(int8_panels.shape, I, O)
        check_equal("expand: length of the scales", scales.shape[0], int8_panels.shape[0] * PANEL)
        for i in prange(I, nogil=True, schedule="static", num_threads=threads):
            _expand_row(&out[i, 0], &int8_panels[0, i, 0], &scales[0], I, O)
    else:
        bfloat16_panels = matrix
        _check_panels(bfloat16_panels.shape, I, O)
        for i in prange(I, nogil=True, schedule="static", num_threads=threads):
            _expand_row(&out[i, 0], &bfloat16_panels[0, i, 0], NULL, I, O)


cdef int _check_panels(const Py_ssize_t *shape, Py_ssize_t I, Py_ssize_t O) except -1:
    check_equal("expand: panels", shape[0], (O + PANEL - 1) // PANEL)
    check_equal("expand: rows", shape[1], I)
    check_equal("expand: columns of a panel", shape[2], PANEL)
    return 0


cdef void _expand_row(float *out, const narrow *row, const float *scales, Py_ssize_t I, Py_ssize_t O) noexcept nogil:
    """out (O,) = a row of a matrix of I rows in panels; `row` is the one of the first panel. bfloat16 has no scales."""
    cdef Py_ssize_t panel, first, o
    for panel in range((O + PANEL - 1) // PANEL):
        first = panel * PANEL
        for o in range(min(<Py_ssize_t>PANEL, O - first)):
            if narrow is int8_t:
                out[first + o] = scales[first + o] * row[o]
            else:
                out[first + o] = bfloat16_value(row[o])
        row += I * PANEL
