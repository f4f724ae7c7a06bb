"""bfloat16: the upper 16 bits of a float32, rounded to nearest, ties to even. NaN stays NaN."""

from libc.stdint cimport uint16_t

cdef extern from "bfloat16.h":
    float round_to_bfloat16 "gpt_round"(float x) noexcept nogil
    uint16_t bfloat16_bits "gpt_bfloat16_bits_of"(float x) noexcept nogil
    float bfloat16_value "gpt_bfloat16_value"(uint16_t bits) noexcept nogil
