/* c (m, n) = alpha * op(a) (m, k) . op(b) (k, n) + addend (m, n) + bias (n,), on the calling thread alone.

   Goto and van de Geijn (2008), "Anatomy of high-performance matrix multiplication", in vectors of the compiler:

       for each BLOCK_N columns of c
           for each BLOCK_K of the inner length        pack b: panels of WIDTH columns, k by k         (cache level 3)
               for each BLOCK_M rows of c               pack a: rows at a distance without conflicts    (cache level 2)
                   for each panel, for each HEIGHT rows     one tile of c in registers                  (cache level 1)

   Faster than OpenBLAS's where its choice of kernel is not the machine's best (measured on Zen 5: 250 against 130 GFLOP/s
   a core where OpenBLAS is told to be Haswell, 225 to 250 as it is where it chooses AVX-512 itself), on small products
   (64 x 64 by 32: 146 against 90), and what is added to c costs no pass of its own.

   Each element of c is summed over k in order, whatever tile it lies in: its bits depend neither on the number of
   threads nor on how they share c. */

#ifndef GPT_MATRIX_PRODUCT_H
#define GPT_MATRIX_PRODUCT_H

#include <stddef.h>
#include <string.h>

#if defined(__AVX512F__)
  #define LANES 16   /* floats in a vector */
  #define HEIGHT 14  /* 14 rows of 2 vectors: 28 of the 32 registers hold sums */
#else
  #define LANES 8
  #define HEIGHT 6   /* 12 of 16 registers */
#endif
#define WIDTH (2 * LANES)
#define BLOCK_M 112
#define BLOCK_N 1024
#define BLOCK_K 768
#define PITCH (BLOCK_K + 16)  /* rows of packed a: HEIGHT of them never meet in one set of the first-level cache */

#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int lanes __attribute__((vector_size(4 * LANES)));
typedef float unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    float *c;
    const float *addend;  /* NULL: none; c itself: accumulate */
    const float *bias;    /* NULL: none */
    ptrdiff_t ldc, ld_addend;
    float alpha;
} gpt_result;

static __thread float packed_a[BLOCK_M * PITCH + LANES] __attribute__((aligned(64)));
static __thread float packed_b[BLOCK_K * BLOCK_N] __attribute__((aligned(64)));

INLINE vector gpt_load(const float *from) { return *(const unaligned *)from; }
INLINE void gpt_store(float *to, vector v) { *(unaligned *)to = v; }

/* Where a tile of c goes, and what is added to it. */
typedef struct {
    float *c;
    const float *addend, *bias;  /* bias: WIDTH values */
    ptrdiff_t ldc, ld_addend;
    float alpha;
} gpt_place;

static const float no_addition[WIDTH] __attribute__((aligned(64)));  /* zeros, as an addend of distance 0 and as a bias */

/* A tile of `rows` of `vectors` each (constants), from a packed panel of b. */
INLINE void gpt_tile(const int rows, const int vectors, ptrdiff_t k, const float *a, const ptrdiff_t a_row,
                     const ptrdiff_t a_step, const float *b, const gpt_place *to) {
    vector sum[HEIGHT][2];
    #pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
        #pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) sum[i][j] = (vector){0};
    for (ptrdiff_t p = 0; p < k; p++, a += a_step, b += WIDTH) {
        #pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
            #pragma GCC unroll 2
            for (int j = 0; j < vectors; j++) sum[i][j] += a[i * a_row] * gpt_load(b + j * LANES);
    }
    const float *addend = to->addend;
    float *c = to->c;
    #pragma GCC unroll 16
    for (int i = 0; i < rows; i++, addend += to->ld_addend, c += to->ldc)
        #pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            gpt_store(c + j * LANES, sum[i][j] * to->alpha + gpt_load(addend + j * LANES) + gpt_load(to->bias + j * LANES));
}

/* The same for numbers that are not constant: rows are rounded up to even. */
#define GPT_CASE(rows) case rows / 2: \
    if (columns > LANES) gpt_tile(rows, 2, k, a, a_row, a_step, b, to); \
    else gpt_tile(rows, 1, k, a, a_row, a_step, b, to); \
    break;

INLINE void gpt_any_tile(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a, const ptrdiff_t a_row,
                         const ptrdiff_t a_step, const float *b, const gpt_place *to) {
    switch ((rows + 1) / 2) {
        GPT_CASE(2) GPT_CASE(4) GPT_CASE(6)
#if HEIGHT > 6
        GPT_CASE(8) GPT_CASE(10) GPT_CASE(12) GPT_CASE(14)
#endif
    }
}

/* The two layouts of packed a: row by row, PITCH apart; or k by k, the HEIGHT values of a tile side by side. */
static __attribute__((noinline)) void gpt_tile_by_rows(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a,
                                                       const float *b, const gpt_place *to) {
    gpt_any_tile(rows, columns, k, a, PITCH, 1, b, to);
}

static __attribute__((noinline)) void gpt_tile_by_steps(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a,
                                                        const float *b, const gpt_place *to) {
    gpt_any_tile(rows, columns, k, a, 1, HEIGHT, b, to);
}

/* And a as it lies in memory, op(a) being a or a^T. */
static __attribute__((noinline)) void gpt_tile_of_rows(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a,
                                                       ptrdiff_t lda, const float *b, const gpt_place *to) {
    gpt_any_tile(rows, columns, k, a, lda, 1, b, to);
}

static __attribute__((noinline)) void gpt_tile_of_columns(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a,
                                                          ptrdiff_t lda, const float *b, const gpt_place *to) {
    gpt_any_tile(rows, columns, k, a, 1, lda, b, to);
}

/* A tile straight into c, which is brought to the cache meanwhile; one that is cut at the edge of c by a detour. */
INLINE void gpt_tile_of_c(int by_steps, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a, const float *b,
                          const gpt_place *place) {
    const int whole = columns == WIDTH && rows % 2 == 0;
    float detour[HEIGHT * WIDTH] __attribute__((aligned(64)));
    const gpt_place aside = {detour, no_addition, no_addition, WIDTH, 0, place->alpha};
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < WIDTH; j += 16) {
            __builtin_prefetch(place->c + i * place->ldc + j, 1);
            __builtin_prefetch(place->addend + i * place->ld_addend + j, 0);
        }
    (by_steps ? gpt_tile_by_steps : gpt_tile_by_rows)(rows, columns, k, a, b, whole ? place : &aside);
    if (whole) return;
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++)
            place->c[i * place->ldc + j] =
                detour[i * WIDTH + j] + place->addend[i * place->ld_addend + j] + place->bias[j];
}

/* LANES rows of LANES values turned about their diagonal, by exchanging ever smaller squares beside it. */
INLINE void gpt_transpose(vector r[LANES]) {
    lanes count = {0};
    for (int i = 0; i < LANES; i++) count[i] = i;
    #pragma GCC unroll 4
    for (int half = LANES / 2; half > 0; half /= 2) {
        const lanes second = (count & half) != 0;  /* -1 in the second half of each square */
        const lanes first_of = count + (second & (LANES - half)), second_of = count + (LANES & second) + (~second & half);
        #pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (!(i & half)) {
                vector above = r[i], below = r[i + half];
                r[i] = __builtin_shuffle(above, below, first_of);
                r[i + half] = __builtin_shuffle(above, below, second_of);
            }
    }
}

/* Panels of WIDTH columns of op(b) (k, n), k by k; what is missing of the last panel is 0. */
static void gpt_pack_b(int transposed, ptrdiff_t k, ptrdiff_t n, const float *b, ptrdiff_t ldb, float *panel) {
    for (ptrdiff_t first = 0; first < n; first += WIDTH, panel += WIDTH * k) {
        const ptrdiff_t columns = n - first < WIDTH ? n - first : WIDTH;
        if (columns < WIDTH) memset(panel, 0, sizeof(float) * WIDTH * k);
        if (!transposed) {
            for (ptrdiff_t p = 0; p < k; p++) {
                const float *from = b + p * ldb + first;
                float *to = panel + p * WIDTH;
                if (columns == WIDTH) {
                    gpt_store(to, gpt_load(from));
                    gpt_store(to + LANES, gpt_load(from + LANES));
                } else {
                    for (ptrdiff_t j = 0; j < columns; j++) to[j] = from[j];
                }
            }
            continue;
        }
        for (ptrdiff_t left = 0; left < columns; left += LANES) {
            const float *from = b + (first + left) * ldb;
            ptrdiff_t p = 0;
            if (left + LANES <= columns)
                for (; p + LANES <= k; p += LANES) {
                    vector r[LANES];
                    #pragma GCC unroll 16
                    for (int j = 0; j < LANES; j++) r[j] = gpt_load(from + j * ldb + p);
                    gpt_transpose(r);
                    #pragma GCC unroll 16
                    for (int j = 0; j < LANES; j++) gpt_store(panel + (p + j) * WIDTH + left, r[j]);
                }
            for (; p < k; p++)
                for (ptrdiff_t j = 0; j < LANES && left + j < columns; j++)
                    panel[p * WIDTH + left + j] = from[j * ldb + p];
        }
    }
}

static void gpt_pack_a(int transposed, ptrdiff_t m, ptrdiff_t k, const float *a, ptrdiff_t lda) {
    if (!transposed) {
        for (ptrdiff_t i = 0; i < m; i++) memcpy(packed_a + i * PITCH, a + i * lda, sizeof(float) * k);
        return;
    }
    for (ptrdiff_t first = 0; first < m; first += HEIGHT) {
        const ptrdiff_t rows = m - first < HEIGHT ? m - first : HEIGHT;
        float *to = packed_a + first * k;
        const float *from = a + first;
        if (first + LANES <= m) {  /* a whole vector, of which the next one overwrites what is too much */
            for (ptrdiff_t p = 0; p < k; p++) gpt_store(to + p * HEIGHT, gpt_load(from + p * lda));
            continue;
        }
        for (ptrdiff_t p = 0; p < k; p++)
            for (ptrdiff_t i = 0; i < rows; i++) to[p * HEIGHT + i] = from[p * lda + i];
    }
}

static void gpt_product(int transpose_a, int transpose_b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *a,
                        ptrdiff_t lda, const float *b, ptrdiff_t ldb, gpt_result out) {
    for (ptrdiff_t column = 0; column < n; column += BLOCK_N) {
        const ptrdiff_t columns = n - column < BLOCK_N ? n - column : BLOCK_N;
        gpt_result part = out;
        for (ptrdiff_t step = 0; step < k; step += BLOCK_K) {
            const ptrdiff_t steps = k - step < BLOCK_K ? k - step : BLOCK_K;
            gpt_pack_b(transpose_b, steps, columns, transpose_b ? b + column * ldb + step : b + step * ldb + column, ldb,
                       packed_b);
            for (ptrdiff_t row = 0; row < m; row += BLOCK_M) {
                const ptrdiff_t rows = m - row < BLOCK_M ? m - row : BLOCK_M;
                gpt_pack_a(transpose_a, rows, steps, transpose_a ? a + step * lda + row : a + row * lda + step, lda);
                for (ptrdiff_t j = 0; j < columns; j += WIDTH) {
                    const ptrdiff_t width = columns - j < WIDTH ? columns - j : WIDTH, at = column + j;
                    for (ptrdiff_t i = 0; i < rows; i += HEIGHT) {
                        const ptrdiff_t height = rows - i < HEIGHT ? rows - i : HEIGHT, top = row + i;
                        const gpt_place place = {
                            part.c + top * part.ldc + at,
                            part.addend ? part.addend + top * part.ld_addend + at : no_addition,
                            part.bias ? part.bias + at : no_addition,
                            part.ldc, part.addend ? part.ld_addend : 0, part.alpha,
                        };
                        gpt_tile_of_c(transpose_a, height, width, steps,
                                      packed_a + i * (transpose_a ? steps : PITCH), packed_b + j * steps, &place);
                    }
                }
            }
            part.addend = out.c;  /* the further steps are added */
            part.ld_addend = out.ldc;
            part.bias = NULL;
        }
    }
}

/* c (m, n) = alpha * op(a) (m, k) . b (k, n), added to c if `accumulate`, with panels of b from gpt_pack_b at a distance,
   and a read where it lies: nothing is packed, which pays when the same b meets many a that are small. */
static void gpt_packed_product(int transpose_a, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, float alpha, const float *a,
                               ptrdiff_t lda, const float *panels, ptrdiff_t distance, float *c, ptrdiff_t ldc,
                               int accumulate) {
    float detour[HEIGHT * WIDTH] __attribute__((aligned(64)));
    for (ptrdiff_t j = 0; j < n; j += WIDTH, panels += distance)
        for (ptrdiff_t i = 0; i < m; i += HEIGHT) {
            const ptrdiff_t rows = m - i < HEIGHT ? m - i : HEIGHT, columns = n - j < WIDTH ? n - j : WIDTH;
            const int whole = columns % LANES == 0 && rows % 2 == 0;
            float *to = c + i * ldc + j;
            const gpt_place place = {whole ? to : detour, whole && accumulate ? to : no_addition, no_addition,
                                     whole ? ldc : WIDTH, whole && accumulate ? ldc : 0, alpha};
            for (ptrdiff_t r = 0; r < rows; r++)
                for (ptrdiff_t s = 0; s < WIDTH; s += 16) __builtin_prefetch(to + r * ldc + s, 1);
            if (transpose_a) gpt_tile_of_columns(rows, columns, k, a + i, lda, panels, &place);
            else gpt_tile_of_rows(rows, columns, k, a + i * lda, lda, panels, &place);
            if (whole) continue;
            for (ptrdiff_t r = 0; r < rows; r++)
                for (ptrdiff_t s = 0; s < columns; s++)
                    to[r * ldc + s] = detour[r * WIDTH + s] + (accumulate ? to[r * ldc + s] : 0);
        }
}

#endif
