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
