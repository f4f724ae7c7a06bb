/* Products with the cached keys and values of one head, stored as float32 or bfloat16, on the calling thread.

   A cache (rows, columns) has a row per position. Both products read it row after row, in one direction, and keep their
   sums in registers. */

#ifndef GPT_CACHE_PRODUCT_H
#define GPT_CACHE_PRODUCT_H

#include <stddef.h>
#include <stdint.h>

#include "bfloat16.h"
#include "panel_product.h"

#define SUMS 8  /* vectors that hold sums: of 8 vectors of columns, or of even and of odd rows for at most 4 */
#define CACHE_PREFETCHED (LANES == 8 ? 2048 : 0)  /* bytes ahead (speed only), as PREFETCHED in panel_product.h */

INLINE vector gpt_widen_float32(const float *from) { return gpt_load(from); }
INLINE float gpt_float32_value(float from) { return from; }

INLINE float gpt_sum_of_lanes(vector v) {
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += v[lane];
    return sum;
}

#define CACHE_PRODUCTS(format, type)                                                                                   \
    /* y (rows,) = cache (rows, columns) . x (columns,) */                                                             \
    static inline void gpt_##format##_dots(float *y, const float *x, const type *cache, ptrdiff_t rows,                \
                                           ptrdiff_t columns) {                                                        \
        for (ptrdiff_t r = 0; r < rows; r++, cache += columns) {                                                       \
            gpt_prefetch(cache, columns * (ptrdiff_t)sizeof(type), CACHE_PREFETCHED);                                  \
            vector sum = {0};                                                                                          \
            ptrdiff_t c = 0;                                                                                           \
            for (; c + LANES <= columns; c += LANES) sum += gpt_load(x + c) * gpt_widen_##format(cache + c);           \
            y[r] = gpt_sum_of_lanes(sum);                                                                              \
            for (; c < columns; c++) y[r] += x[c] * gpt_##format##_value(cache[c]);                                      \
        }                                                                                                              \
    }                                                                                                                  \
    /* y (n * LANES,) = x (rows,) . n vectors of the columns of cache; n is a compile-time constant */                 \
    INLINE void gpt_##format##_columns(float *y, const float *x, const type *cache, ptrdiff_t rows, ptrdiff_t columns, \
                                       const int n) {                                                                  \
        const int at_once = n == SUMS ? 1 : 2;                                                                         \
        vector sum[2][SUMS] = {0};                                                                                     \
        ptrdiff_t r = 0;                                                                                               \
        for (; r + at_once <= rows; r += at_once, cache += at_once * columns)                                          \
            for (int i = 0; i < at_once; i++) {                                                                        \
                const type *row = cache + i * columns;                                                                 \
                gpt_prefetch(row, n * LANES * (ptrdiff_t)sizeof(type), CACHE_PREFETCHED);                              \
                for (int j = 0; j < n; j++) sum[i][j] += x[r + i] * gpt_widen_##format(row + j * LANES);               \
            }                                                                                                          \
        for (int j = 0; j < n; j++) {                                                                                  \
            if (r < rows) sum[0][j] += x[r] * gpt_widen_##format(cache + j * LANES);                                   \
            gpt_store(y + j * LANES, sum[0][j] + sum[1][j]);                                                           \
        }                                                                                                              \
    }                                                                                                                  \
    /* y (columns,) = x (rows,) . cache (rows, columns) */                                                             \
    static inline void gpt_##format##_weighted_sum(float *y, const float *x, const type *cache, ptrdiff_t rows,        \
                                                   ptrdiff_t columns) {                                                \
        ptrdiff_t c = 0;                                                                                               \
        for (; c + 8 * LANES <= columns; c += 8 * LANES) gpt_##format##_columns(y + c, x, cache + c, rows, columns, 8);\
        for (; c + 4 * LANES <= columns; c += 4 * LANES) gpt_##format##_columns(y + c, x, cache + c, rows, columns, 4);\
        for (; c + 2 * LANES <= columns; c += 2 * LANES) gpt_##format##_columns(y + c, x, cache + c, rows, columns, 2);\
        for (; c + LANES <= columns; c += LANES) gpt_##format##_columns(y + c, x, cache + c, rows, columns, 1);        \
        for (; c < columns; c++) {                                                                                     \
            y[c] = 0;                                                                                                  \
            for (ptrdiff_t r = 0; r < rows; r++) y[c] += x[r] * gpt_##format##_value(cache[r * columns + c]);            \
        }                                                                                                              \
    }

CACHE_PRODUCTS(float32, float)
CACHE_PRODUCTS(bfloat16, uint16_t)

#endif
