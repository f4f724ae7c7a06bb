"""Rounding to bfloat16: the upper 16 bits of a float32, rounded to nearest, ties to even. NaN stays NaN."""

cdef extern from *:
    """
    #include <string.h>
    static inline unsigned gpt_bfloat16_word(float x) {
        unsigned bits;
        memcpy(&bits, &x, sizeof bits);
        return x == x ? bits + 0x7fff + ((bits >> 16) & 1) : bits | 0x400000;
    }
    static inline float gpt_from_word(unsigned bits) {
        float x;
        memcpy(&x, &bits, sizeof x);
        return x;
    }
    /* x rounded */
    static inline float gpt_round(float x) { return gpt_from_word(gpt_bfloat16_word(x) & 0xffff0000u); }
    /* a slot of `matrix_types.h`: `first` in the lower half, `second` in the upper half */
    static inline float gpt_slot_of(float first, float second) {
        return gpt_from_word((gpt_bfloat16_word(first) >> 16) | (gpt_bfloat16_word(second) & 0xffff0000u));
    }
    """
    float round_to_bfloat16 "gpt_round"(float x) noexcept nogil
    float slot "gpt_slot_of"(float first, float second) noexcept nogil
