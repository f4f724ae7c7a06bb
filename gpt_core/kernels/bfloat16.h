/* bfloat16: the upper 16 bits of a float32, rounded to nearest, ties to even. NaN stays NaN. */

#ifndef GPT_BFLOAT16_H
#define GPT_BFLOAT16_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
  #include <immintrin.h>
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  #include <arm_neon.h>
#endif

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

/* the 16 bits of x rounded, and the value of 16 bits */
static inline uint16_t gpt_bfloat16_bits_of(float x) { return (uint16_t)(gpt_bfloat16_word(x) >> 16); }
static inline float gpt_bfloat16_value(uint16_t bits) { return gpt_from_word((unsigned)bits << 16); }

/* to (n,) = the values of n bfloat16, and n values rounded. The instruction that rounds replaces numbers below 1.2e-38 by
   0. Speed only: in vectors of 16, because rows of heads are short. */
static inline void gpt_widen(const uint16_t *from, float *to, ptrdiff_t n) {
    ptrdiff_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) {
        const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from + i)));
        _mm512_storeu_si512(to + i, _mm512_slli_epi32(bits, 16));
    }
#endif
    for (; i < n; i++) to[i] = gpt_bfloat16_value(from[i]);
}
static inline void gpt_round_row(const float *from, uint16_t *to, ptrdiff_t n) {
    ptrdiff_t i = 0;
#if defined(__AVX512BF16__)
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    for (; i + 8 <= n; i += 8) {
        const bfloat16x8_t lower = vcvtq_low_bf16_f32(vld1q_f32(from + i));
        vst1q_u16(to + i, vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(lower, vld1q_f32(from + i + 4))));
    }
#endif
    for (; i < n; i++) to[i] = gpt_bfloat16_bits_of(from[i]);
}

#endif
