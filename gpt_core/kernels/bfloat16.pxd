"""bfloat16: the upper 16 bits of a float32, rounded to nearest, ties to even. NaN stays NaN."""

from libc.stdint cimport uint16_t

cdef extern from "bfloat16.h":
    float round_to_bfloat16 "gpt_round"(float x) noexcept nogil
    uint16_t bfloat16_bits "gpt_bfloat16_bits_of"(float x) noexcept nogil
    float bfloat16_value "gpt_bfloat16_value"(uint16_t bits) noexcept nogil
    void widen "gpt_widen"(const uint16_t *bits, float *to, Py_ssize_t n) noexcept nogil
    void round_row "gpt_round_row"(const float *values, uint16_t *to, Py_ssize_t n) noexcept nogil

# Values of activations in memory: float32, or the bits of bfloat16.
ctypedef fused stored:
    float
    uint16_t

cdef enum:
    CHUNK = 256  # values that a kernel widens, computes with, and rounds at once

ctypedef void (*Map)(float *y, const float *x, Py_ssize_t n) noexcept nogil
ctypedef void (*MapGradient)(float *d_x, const float *d_y, const float *x, Py_ssize_t n) noexcept nogil


cdef inline void map_row(Map f, stored *y, const stored *x, Py_ssize_t n) noexcept nogil:
    """y (n,) = f(x), value by value. f must allow y to be x."""
    cdef Py_ssize_t first = 0, count
    cdef float[CHUNK] chunk
    if stored is float:
        f(y, x, n)
    else:
        while first < n:
            count = min(<Py_ssize_t>CHUNK, n - first)
            widen(x + first, chunk, count)
            f(chunk, chunk, count)
            round_row(chunk, y + first, count)
            first += count


cdef inline void map_gradient_row(
    MapGradient f, stored *d_x, const stored *d_y, const stored *x, Py_ssize_t n,
) noexcept nogil:
    """d_x (n,) = f(d_y, x), value by value. f must allow d_x to be d_y."""
    cdef Py_ssize_t first = 0, count
    cdef float[CHUNK] gradient
    cdef float[CHUNK] chunk
    if stored is float:
        f(d_x, d_y, x, n)
    else:
        while first < n:
            count = min(<Py_ssize_t>CHUNK, n - first)
            widen(d_y + first, gradient, count)
            widen(x + first, chunk, count)
            f(gradient, gradient, chunk, count)
            round_row(gradient, d_x + first, count)
            first += count
