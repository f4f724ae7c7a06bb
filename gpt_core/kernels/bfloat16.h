/* bfloat16: the upper 16 bits of a float32, rounded to nearest, ties to even. NaN stays NaN. */

#ifndef GPT_BFLOAT16_H
#define GPT_BFLOAT16_H

#include <stdint.h>
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

/* the 16 bits of x rounded, and the value of 16 bits */
static inline uint16_t gpt_bfloat16_bits_of(float x) { return (uint16_t)(gpt_bfloat16_word(x) >> 16); }
static inline float gpt_bfloat16_value(uint16_t bits) { return gpt_from_word((unsigned)bits << 16); }

#endif
