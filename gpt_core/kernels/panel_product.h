/* y (n,) = x (k,) . W (k, n), with W stored in 8 or 16 bits, on the calling thread.

   W is stored in panels of PANEL columns: a panel holds its part of row 0, then of row 1, and so on, so a product reads
   memory in one direction, and the PANEL sums stay in registers. Columns past n are stored, too. */

#ifndef GPT_PANEL_PRODUCT_H
#define GPT_PANEL_PRODUCT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"

#define PANEL 64
#define PANEL_VECTORS (PANEL / LANES)

/* Bytes ahead that a product prefetches (speed only). Processors with AMX are Intel's: they decode 1.2 to 1.5 times as
   fast with it. A Zen 3, which has AVX2, reads panels 1.2 times as fast. Zen 4 is slower with it. */
#if defined(__AMX_TILE__)
  #define PREFETCHED 8192
#elif LANES == 8
  #define PREFETCHED 2048
#else
  #define PREFETCHED 0
#endif

/* Prefetch `bytes` bytes, `distance` after `from`; a distance of 0 is none. */
INLINE void gpt_prefetch(const void *from, ptrdiff_t bytes, const ptrdiff_t distance) {
    for (ptrdiff_t byte = 0; distance && byte < bytes; byte += 64)
        __builtin_prefetch((const char *)from + distance + byte);
}

/* LANES values of a stored format as float32. */
INLINE vector gpt_widen_int8(const int8_t *from) {
#if LANES == 16
    return (vector)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#elif defined(__AVX2__)
    return (vector)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#else
    vector wide;
    for (int i = 0; i < LANES; i++) wide[i] = from[i];
    return wide;
#endif
}

INLINE vector gpt_widen_bfloat16(const uint16_t *from) {
#if LANES == 16
    return (vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
#elif defined(__AVX2__)
    return (vector)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)), 16);
#else
    lane_bits wide;
    for (int i = 0; i < LANES; i++) wide[i] = (unsigned)from[i] << 16;
    return (vector)wide;
#endif
}

/* y (columns,) = x (rows,) . panel (rows, PANEL), summed in the order of the rows; columns is at most PANEL. */
#define PANEL_PRODUCT(name, type, widen)                                                                               \
    static inline void name(float *y, const float *x, const type *panel, ptrdiff_t rows, ptrdiff_t columns) {          \
        vector sum[PANEL_VECTORS];                                                                                     \
        for (int j = 0; j < PANEL_VECTORS; j++) sum[j] = (vector){0};                                                  \
        for (ptrdiff_t r = 0; r < rows; r++, panel += PANEL) {                                                         \
            gpt_prefetch(panel, PANEL * sizeof(type), PREFETCHED);                                                     \
            for (int j = 0; j < PANEL_VECTORS; j++) sum[j] += x[r] * widen(panel + j * LANES);                         \
        }                                                                                                              \
        float sums[PANEL];                                                                                             \
        for (int j = 0; j < PANEL_VECTORS; j++) gpt_store(sums + j * LANES, sum[j]);                                   \
        memcpy(y, sums, (size_t)columns * sizeof(float));                                                              \
    }

PANEL_PRODUCT(gpt_int8_panel, int8_t, gpt_widen_int8)
PANEL_PRODUCT(gpt_bfloat16_panel, uint16_t, gpt_widen_bfloat16)

#endif
