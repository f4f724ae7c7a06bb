/* Products with the cached keys and values of one head, stored as float32 or bfloat16, on the calling thread.

   A cache (rows, columns) has a row per position. Both products read it row after row, in one direction, and keep their
   sums in registers. */

#ifndef GPT_CACHE_PRODUCT_H
#define GPT_CACHE_PRODUCT_H

#include <stddef.h>
#include <stdint.h>

#include "bfloat16.h"
#include "panel_product.h"

#define MAX_SUMS 4 /* vectors of columns at a time; each has two sums, of even and of odd rows */

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
            vector sum = {0};                                                                                          \
            ptrdiff_t c = 0;                                                                                           \
            for (; c + LANES <= columns; c += LANES) sum += gpt_load(x + c) * gpt_widen_##format(cache + c);           \
            y[r] = gpt_sum_of_lanes(sum);                                                                              \
            for (; c < columns; c++) y[r] += x[c] * gpt_##format##_value(cache[c]);                                      \
        }                                                                                                              \
    }                                                                                                                  \
    /* y (n * LANES,) = x (rows,) . n vectors of the columns of cache */                                               \
    INLINE void gpt_##format##_columns(float *y, const float *x, const type *cache, ptrdiff_t rows, ptrdiff_t columns, \
                                       int n) {                                                                        \
        vector sum[2][MAX_SUMS] = {0};                                                                                 \
        ptrdiff_t r = 0;                                                                                               \
        for (; r + 2 <= rows; r += 2, cache += 2 * columns) {                                                          \
            for (int j = 0; j < n; j++) sum[0][j] += x[r] * gpt_widen_##format(cache + j * LANES);                     \
            for (int j = 0; j < n; j++) sum[1][j] += x[r + 1] * gpt_widen_##format(cache + columns + j * LANES);       \
        }                                                                                                              \
        for (int j = 0; j < n; j++) {                                                                                  \
            if (r < rows) sum[0][j] += x[r] * gpt_widen_##format(cache + j * LANES);                                   \
            gpt_store(y + j * LANES, sum[0][j] + sum[1][j]);                                                           \
        }                                                                                                              \
    }                                                                                                                  \
    /* y (columns,) = x (rows,) . cache (rows, columns) */                                                             \
    static inline void gpt_##format##_weighted_sum(float *y, const float *x, const type *cache, ptrdiff_t rows,        \
                                                   ptrdiff_t columns) {                                                \
        ptrdiff_t c = 0;                                                                                               \
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
