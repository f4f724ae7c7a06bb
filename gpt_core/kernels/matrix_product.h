/* C (m, n) = alpha * op(A) (m, k) . op(B) (k, n) + addend (m, n) + bias (n,), on the calling thread.

   The algorithm and its names are those of BLIS (Van Zee and van de Geijn 2015; Goto and van de Geijn 2008):

       for jc in 0, NC .. n                                              columns of C
           for pc in 0, KC .. k          pack B (KC, NC): panels of NR columns     -> level-3 cache
               for ic in 0, MC .. m      pack A (MC, KC): rows or panels of MR rows -> level-2 cache
                   for jr in 0, NR .. NC                                one panel of B
                       for ir in 0, MR .. MC                            MR rows of A
                           micro-kernel: C (MR, NR) += A (MR, KC) . B (KC, NR), summed in registers

   Each element of C is summed over k in ascending order, whichever tile it is in, so its bits depend neither on the
   number of threads nor on how they divide C. Notes on speed are at the end of this file. */

#ifndef GPT_MATRIX_PRODUCT_H
#define GPT_MATRIX_PRODUCT_H

#include <string.h>

#include "matrix_types.h"

#if defined(__AVX512F__)
  #define LANES 16        /* floats per vector */
  #define MR 14           /* 14 rows of 2 vectors: 28 of the 32 vector registers hold sums */
#else
  #define LANES 8
  #define MR 6            /* 6 rows of 2 vectors: 12 of 16 registers */
#endif
#define NR (2 * LANES)
#define MC 112
#define NC 1024
#define KC 768
#define PACKED_A_LD (KC + 16)  /* speed only: MR rows at this distance never share a set of the level-1 cache */

#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int lane_indices __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static __thread float packed_a[MC * PACKED_A_LD + LANES] __attribute__((aligned(64)));
static __thread float packed_b[KC * NC] __attribute__((aligned(64)));

static const float zeros[NR] __attribute__((aligned(64)));  /* as an addend with ld 0, and as a bias */

INLINE vector gpt_load(const float *from) { return *(const unaligned_vector *)from; }
INLINE void gpt_store(float *to, vector v) { *(unaligned_vector *)to = v; }

/* ---- Micro-kernel: one tile of C in registers */

/* C (rows, vectors * LANES) = alpha * A (rows, k) . B (k, NR) + addend + bias, with B one panel of packed B.
   Element (i, p) of A is a[i * row_stride + p * k_stride]. rows and vectors are compile-time constants; addend and bias
   are not NULL. */
INLINE void gpt_microkernel(const int rows, const int vectors, ptrdiff_t k, const float *a, const ptrdiff_t row_stride,
                            const ptrdiff_t k_stride, const float *b, const gpt_output *out) {
    vector sum[MR][2];
    #pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
        #pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) sum[i][j] = (vector){0};
    for (ptrdiff_t p = 0; p < k; p++, a += k_stride, b += NR) {
        #pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
            #pragma GCC unroll 2
            for (int j = 0; j < vectors; j++) sum[i][j] += a[i * row_stride] * gpt_load(b + j * LANES);
    }
    const float *addend = out->addend;
    float *c = out->c;
    #pragma GCC unroll 16
    for (int i = 0; i < rows; i++, addend += out->ld_addend, c += out->ldc)
        #pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            gpt_store(c + j * LANES,
                      sum[i][j] * out->alpha + gpt_load(addend + j * LANES) + gpt_load(out->bias + j * LANES));
}

/* Call the micro-kernel with constants for a tile of any size: rows are rounded up to even, columns to vectors. */
#define GPT_CASE(even_rows) case even_rows / 2: \
    if (columns > LANES) gpt_microkernel(even_rows, 2, k, a, row_stride, k_stride, b, out); \
    else gpt_microkernel(even_rows, 1, k, a, row_stride, k_stride, b, out); \
    break;

INLINE void gpt_any_microkernel(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a,
                                const ptrdiff_t row_stride, const ptrdiff_t k_stride, const float *b,
                                const gpt_output *out) {
    switch ((rows + 1) / 2) {
        GPT_CASE(2) GPT_CASE(4) GPT_CASE(6)
#if MR > 6
        GPT_CASE(8) GPT_CASE(10) GPT_CASE(12) GPT_CASE(14)
#endif
    }
}

/* The four layouts of A, one compiled function for each: packed A as rows, packed A as panels of MR rows, and A or A^T
   in place, with its own leading dimension. */
#define GPT_LAYOUT(name, row_stride, k_stride) \
    static __attribute__((noinline)) void name(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a, \
                                               ptrdiff_t lda, const float *b, const gpt_output *out) { \
        (void)lda; \
        gpt_any_microkernel(rows, columns, k, a, row_stride, k_stride, b, out); \
    }

GPT_LAYOUT(gpt_tile_packed_rows, PACKED_A_LD, 1)
GPT_LAYOUT(gpt_tile_packed_panels, 1, MR)
GPT_LAYOUT(gpt_tile_in_place, lda, 1)
GPT_LAYOUT(gpt_tile_in_place_transposed, 1, lda)

typedef void gpt_tile(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a, ptrdiff_t lda, const float *b,
                      const gpt_output *out);

/* The view of `out` from (row, column) on, with zeros in place of NULL. */
INLINE gpt_output gpt_output_at(const gpt_output *out, ptrdiff_t row, ptrdiff_t column) {
    return (gpt_output){
        out->c + row * out->ldc + column,
        out->ldc,
        out->addend ? out->addend + row * out->ld_addend + column : zeros,
        out->addend ? out->ld_addend : 0,
        out->bias ? out->bias + column : zeros,
        out->alpha,
    };
}

/* Store one tile: directly if it has full vectors and an even number of rows, else through a buffer. */
INLINE void gpt_store_tile(gpt_tile *tile, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a, ptrdiff_t lda,
                           const float *b, const gpt_output *out) {
    if (columns % LANES == 0 && rows % 2 == 0) {
        tile(rows, columns, k, a, lda, b, out);
        return;
    }
    float buffer[MR * NR] __attribute__((aligned(64)));
    const gpt_output buffered = {buffer, NR, zeros, 0, zeros, out->alpha};
    tile(rows, columns, k, a, lda, b, &buffered);
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++)
            out->c[i * out->ldc + j] = buffer[i * NR + j] + out->addend[i * out->ld_addend + j] + out->bias[j];
}

/* ---- Packing */

/* Transpose LANES rows of LANES values: exchange the off-diagonal squares, then those of each quarter, and so on. */
INLINE void gpt_transpose(vector r[LANES]) {
    lane_indices lane = {0};
    for (int i = 0; i < LANES; i++) lane[i] = i;
    #pragma GCC unroll 4
    for (int half = LANES / 2; half > 0; half /= 2) {
        const lane_indices upper = (lane & half) != 0;  /* -1 in the upper half of each square */
        const lane_indices from_first = lane + (upper & (LANES - half));
        const lane_indices from_second = lane + (LANES & upper) + (~upper & half);
        #pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (!(i & half)) {
                vector first = r[i], second = r[i + half];
                r[i] = __builtin_shuffle(first, second, from_first);
                r[i + half] = __builtin_shuffle(first, second, from_second);
            }
    }
}

/* One panel (k, NR) of packed B from columns of b (k, columns); missing columns are 0. */
INLINE void gpt_pack_panel(ptrdiff_t k, ptrdiff_t columns, const float *b, ptrdiff_t ldb, float *panel) {
    for (ptrdiff_t p = 0; p < k; p++, b += ldb, panel += NR) {
        if (columns == NR) {
            gpt_store(panel, gpt_load(b));
            gpt_store(panel + LANES, gpt_load(b + LANES));
        } else {
            for (ptrdiff_t j = 0; j < columns; j++) panel[j] = b[j];
        }
    }
}

/* The same from b^T: rows of b (columns, k). LANES rows at a time are transposed in registers (speed only). */
INLINE void gpt_pack_panel_transposed(ptrdiff_t k, ptrdiff_t columns, const float *b, ptrdiff_t ldb, float *panel) {
    for (ptrdiff_t first = 0; first < columns; first += LANES, b += LANES * ldb, panel += LANES) {
        ptrdiff_t p = 0;
        if (first + LANES <= columns)
            for (; p + LANES <= k; p += LANES) {
                vector r[LANES];
                #pragma GCC unroll 16
                for (int j = 0; j < LANES; j++) r[j] = gpt_load(b + j * ldb + p);
                gpt_transpose(r);
                #pragma GCC unroll 16
                for (int j = 0; j < LANES; j++) gpt_store(panel + (p + j) * NR, r[j]);
            }
        for (; p < k; p++)
            for (ptrdiff_t j = 0; j < LANES && first + j < columns; j++) panel[p * NR + j] = b[j * ldb + p];
    }
}

/* Packed B: panels of NR columns of op(B) (k, n), one after the other, each stored row by row. */
static void gpt_pack_b(int transposed, ptrdiff_t k, ptrdiff_t n, const float *b, ptrdiff_t ldb, float *packed) {
    for (ptrdiff_t jr = 0; jr < n; jr += NR, packed += NR * k) {
        const ptrdiff_t columns = MIN(NR, n - jr);
        if (columns < NR) memset(packed, 0, sizeof(float) * NR * k);
        if (transposed) gpt_pack_panel_transposed(k, columns, b + jr * ldb, ldb, packed);
        else gpt_pack_panel(k, columns, b + jr, ldb, packed);
    }
}

/* Packed A: the rows of A (m, k), PACKED_A_LD apart; from A^T, panels of MR rows, each stored column by column. */
static void gpt_pack_a(int transposed, ptrdiff_t m, ptrdiff_t k, const float *a, ptrdiff_t lda) {
    if (!transposed) {
        for (ptrdiff_t i = 0; i < m; i++) memcpy(packed_a + i * PACKED_A_LD, a + i * lda, sizeof(float) * k);
        return;
    }
    for (ptrdiff_t ir = 0; ir < m; ir += MR) {
        const ptrdiff_t rows = MIN(MR, m - ir);
        float *panel = packed_a + ir * k;
        const float *from = a + ir;
        if (ir + LANES <= m) {  /* speed only: copy a full vector; the next store overwrites the excess */
            for (ptrdiff_t p = 0; p < k; p++) gpt_store(panel + p * MR, gpt_load(from + p * lda));
            continue;
        }
        for (ptrdiff_t p = 0; p < k; p++)
            for (ptrdiff_t i = 0; i < rows; i++) panel[p * MR + i] = from[p * lda + i];
    }
}

/* ---- The loops around the micro-kernel */

/* Speed only: bring a tile of C into the cache while the micro-kernel computes. */
INLINE void gpt_prefetch_tile(ptrdiff_t rows, const float *tile, ptrdiff_t ld, const int for_writing) {
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < NR; j += 16) {
            if (for_writing) __builtin_prefetch(tile + i * ld + j, 1);
            else __builtin_prefetch(tile + i * ld + j, 0);
        }
}

/* Block (m, n) of C, from (ic, jc) on, from packed A (m, k) and packed B (k, n): the loops jr and ir. */
INLINE void gpt_macrokernel(int a_is_panels, ptrdiff_t ic, ptrdiff_t jc, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
                            const gpt_output *out) {
    for (ptrdiff_t jr = 0; jr < n; jr += NR)
        for (ptrdiff_t ir = 0; ir < m; ir += MR) {
            const ptrdiff_t rows = MIN(MR, m - ir), columns = MIN(NR, n - jr);
            const float *a = packed_a + ir * (a_is_panels ? k : PACKED_A_LD), *b = packed_b + jr * k;
            const gpt_output tile_out = gpt_output_at(out, ic + ir, jc + jr);
            gpt_prefetch_tile(rows, tile_out.c, tile_out.ldc, 1);
            gpt_prefetch_tile(rows, tile_out.addend, tile_out.ld_addend, 0);
            gpt_store_tile(a_is_panels ? gpt_tile_packed_panels : gpt_tile_packed_rows, rows, columns, k, a, 0, b,
                           &tile_out);
        }
}

/* C (m, n) = alpha * op(A) (m, k) . op(B) (k, n) + addend + bias: the loops jc, pc and ic. */
static void gpt_gemm(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, gpt_matrix a, gpt_matrix b, gpt_output out) {
    for (ptrdiff_t jc = 0; jc < n; jc += NC) {
        const ptrdiff_t columns = MIN(NC, n - jc);
        gpt_output partial = out;
        for (ptrdiff_t pc = 0; pc < k; pc += KC) {
            const ptrdiff_t depth = MIN(KC, k - pc);
            gpt_pack_b(b.transposed, depth, columns, b.data + (b.transposed ? jc * b.ld + pc : pc * b.ld + jc), b.ld,
                       packed_b);
            for (ptrdiff_t ic = 0; ic < m; ic += MC) {
                const ptrdiff_t rows = MIN(MC, m - ic);
                gpt_pack_a(a.transposed, rows, depth, a.data + (a.transposed ? pc * a.ld + ic : ic * a.ld + pc), a.ld);
                gpt_macrokernel(a.transposed, ic, jc, rows, columns, depth, &partial);
            }
            partial.addend = out.c;  /* from the second pc on, add to what is stored */
            partial.ld_addend = out.ldc;
            partial.bias = NULL;
        }
    }
}

/* The same with B packed by `gpt_pack_b` beforehand and A read in place. Faster when one B meets many small A, as in
   attention. If m is odd, row m of op(A) is read but not used. */
static void gpt_gemm_packed(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const gpt_matrix *a, const gpt_packed_b *b,
                            const gpt_output *out) {
    const float *panel = b->data;
    for (ptrdiff_t jr = 0; jr < n; jr += NR, panel += b->stride)
        for (ptrdiff_t ir = 0; ir < m; ir += MR) {
            const ptrdiff_t rows = MIN(MR, m - ir), columns = MIN(NR, n - jr);
            const gpt_output tile_out = gpt_output_at(out, ir, jr);
            gpt_prefetch_tile(rows, tile_out.c, tile_out.ldc, 1);
            if (a->transposed)
                gpt_store_tile(gpt_tile_in_place_transposed, rows, columns, k, a->data + ir, a->ld, panel, &tile_out);
            else
                gpt_store_tile(gpt_tile_in_place, rows, columns, k, a->data + ir * a->ld, a->ld, panel, &tile_out);
        }
}

/* Notes on speed.

   On Zen 5 this reaches 250 GFLOP/s per core. OpenBLAS reaches 130 with its Haswell kernels (OPENBLAS_CORETYPE=Haswell)
   and 225 to 250 with its AVX-512 kernels. On small products (64 x 64 by 32) the figures are 146 and 90. Bias, residual
   and accumulation are added as a tile is stored, so they need no pass over C of their own.

   MR x NR sums must fit into the vector registers, with two left for a row of B and one for an element of A. With
   AVX-512, packed A is 343 KiB, packed B 3 MiB, and one panel of B 96 KiB. A smaller KC (256 or 384) is 5 to 15% slower,
   because C is read and written more often. */

#endif
