/* C (m, n) = alpha * op(A) (m, k) . op(B) (k, n) + addend (m, n) + bias (n,), on the calling thread.

   The algorithm and its names are those of BLIS (Van Zee and van de Geijn 2015; Goto and van de Geijn 2008):

       for jc in 0, NC .. n                                              columns of C
           for pc in 0, KC .. k          pack B (KC, NC): panels of NR columns     -> level-3 cache
               for ic in 0, MC .. m      pack A (MC, KC): rows or panels of MR rows -> level-2 cache
                   for jr in 0, NR .. NC                                one panel of B
                       for ir in 0, MR .. MC                            MR rows of A
                           micro-kernel: C (MR, NR) += A (MR, KC) . B (KC, NR), summed in registers

   Each element of C is summed over k in the same order, whichever tile it is in, so its bits depend neither on the number
   of threads nor on how they divide C. Notes on speed are at the end of this file.

   The operands are multiplied as float32, or are rounded to bfloat16 as they are packed: a slot of 32 bits then holds a
   pair of values along k, so one slot of A and one of B give two multiply-adds. Everything between packing and the
   micro-kernel counts slots and does not depend on the format.

   There are two micro-kernels. The one below holds C in vector registers. The one in `tiles.h`, for bfloat16 on
   processors with AMX, holds C in tiles; it reads TILE rows and TILE slots at once, so packed operands are filled up
   with zeros to a multiple of TILE slots. */

#ifndef GPT_MATRIX_PRODUCT_H
#define GPT_MATRIX_PRODUCT_H

#include <string.h>

#include "matrix_types.h"
#include "tiles.h"
#include "vectors.h"

#if LANES == 16
  #define MR 14           /* 14 rows of 2 vectors: 28 of the 32 vector registers hold sums */
#else
  #define MR 6            /* 6 rows of 2 vectors: 12 of 16 registers */
#endif
#define NR (2 * LANES)
#define MC 112
#define TILES_MC 256
#define NC 1024
#define KC 768            /* in slots */
#define PACKED_ROWS_AT_ONCE 16  /* speed only: rows of B or A^T that are packed into all panels before the next ones */
#define PACKED_A_LD (KC + 16)  /* speed only: MR rows at this distance never share a set of the level-1 cache */

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))
#define ROUND_UP(x, step) (((x) + (step) - 1) / (step) * (step))

static __thread float packed_a[(GPT_TILES ? TILES_MC : MC) * PACKED_A_LD + LANES] __attribute__((aligned(64)));
static __thread float packed_b[KC * NC] __attribute__((aligned(64)));

static const float zeros[MAX_OF(NR, TILES_NR)] __attribute__((aligned(64)));  /* as an addend with ld 0, and as a bias */

/* ---- Formats: what a slot holds. `format` is a compile-time constant everywhere below. */

/* Number of values along k per slot, and of slots for k values. */
INLINE ptrdiff_t gpt_per_slot(const gpt_format format) { return format == GPT_BFLOAT16 ? 2 : 1; }
INLINE ptrdiff_t gpt_slots(const gpt_format format, ptrdiff_t k) { return format == GPT_BFLOAT16 ? (k + 1) / 2 : k; }

/* Whether the products of a format are computed in tiles, and the block sizes that depend on it. */
INLINE int gpt_in_tiles(const gpt_format format) { return GPT_TILES && format == GPT_BFLOAT16; }
INLINE ptrdiff_t gpt_mr(const gpt_format format) { return gpt_in_tiles(format) ? TILES_MR : MR; }
INLINE ptrdiff_t gpt_nr(const gpt_format format) { return gpt_in_tiles(format) ? TILES_NR : NR; }
INLINE ptrdiff_t gpt_mc(const gpt_format format) { return gpt_in_tiles(format) ? TILES_MC : MC; }

/* Slots that packed operands hold for k values, with the zeros that tiles need. */
INLINE ptrdiff_t gpt_padded_slots(const gpt_format format, ptrdiff_t k) {
    return gpt_in_tiles(format) ? ROUND_UP(gpt_slots(format, k), TILE) : gpt_slots(format, k);
}

/* gpt_pair: lanes of pairs, with bfloat16 of `first` in the lower half and of `second` in the upper half.
   gpt_load_pairs: the pairs of 2 * LANES values that follow each other in memory. */
#if defined(__AVX512BF16__)
/* The instruction rounds as `gpt_bfloat16_bits` does, but replaces numbers below 1.2e-38 by 0. */
INLINE vector gpt_pair(vector first, vector second) {
    lane_bits order = {0};
    for (int i = 0; i < LANES; i++) order[i] = (LANES + i) << 16 | i;
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return (vector)_mm512_permutexvar_epi16((__m512i)order, both);
}

INLINE vector gpt_load_pairs(const float *from) {
    return (vector)_mm512_cvtne2ps_pbh((__m512)gpt_load(from + LANES), (__m512)gpt_load(from));
}
#else
/* The bits of each value rounded to the nearest bfloat16, ties to even, in the upper half of its lane. NaN stays NaN. */
INLINE lane_bits gpt_bfloat16_bits(vector v) {
    const lane_bits bits = (lane_bits)v, is_nan = (lane_bits)(v != v);
    const lane_bits rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return (rounded & ~is_nan) | ((bits | 0x400000) & is_nan);
}

INLINE vector gpt_pair(vector first, vector second) {
    return (vector)((gpt_bfloat16_bits(first) >> 16) | (gpt_bfloat16_bits(second) & 0xffff0000u));
}

INLINE vector gpt_load_pairs(const float *from) {
    const vector lower = gpt_load(from), upper = gpt_load(from + LANES);
    lane_indices even = {0};
    for (int i = 0; i < LANES; i++) even[i] = 2 * i;
    return gpt_pair(__builtin_shuffle(lower, upper, even), __builtin_shuffle(lower, upper, even + 1));
}
#endif

/* One slot of the values from[0] and, if `count` is 2, from[stride]; the missing half is 0. */
INLINE float gpt_slot(const gpt_format format, const float *from, ptrdiff_t stride, ptrdiff_t count) {
    if (format == GPT_FLOAT32) return *from;
    const vector first = {*from}, second = {count > 1 ? from[stride] : 0};
    return gpt_pair(first, second)[0];
}

/* sum + a * b, with one slot of A for all lanes. Of a bfloat16 pair, the second product is added first: so does the
   instruction vdpbf16ps, which rounds after each of the two, and the other levels without tiles give the same bits
   (except that it replaces numbers below 1.2e-38 by 0). */
INLINE vector gpt_multiply_add(const gpt_format format, vector sum, const float *a, vector b) {
    if (format == GPT_FLOAT32) return sum + *a * b;
#if defined(__AVX512BF16__)
    const __m512i pair = _mm512_set1_epi32(*(const int __attribute__((may_alias)) *)a);
    return (vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)pair, (__m512bh)b);
#else
    const lane_bits pair = (lane_bits){0} + *(const unsigned __attribute__((may_alias)) *)a;
    sum += (vector)(pair & 0xffff0000u) * (vector)((lane_bits)b & 0xffff0000u);
    return sum + (vector)(pair << 16) * (vector)((lane_bits)b << 16);
#endif
}

/* ---- Micro-kernel: one tile of C in registers */

/* C (rows, vectors * LANES) = alpha * A (rows, k) . B (k, NR) + addend + bias, with B one panel of packed B and k in
   slots. Slot (i, p) of A is a[i * row_stride + p * k_stride]. rows and vectors are compile-time constants; addend and
   bias are not NULL. */
INLINE void gpt_microkernel(const gpt_format format, const int rows, const int vectors, ptrdiff_t k, const float *a,
                            const ptrdiff_t row_stride, const ptrdiff_t k_stride, const float *b,
                            const gpt_output *out) {
    vector sum[MR][2];
    #pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
        #pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) sum[i][j] = (vector){0};
    for (ptrdiff_t p = 0; p < k; p++, a += k_stride, b += NR) {
        #pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
            #pragma GCC unroll 2
            for (int j = 0; j < vectors; j++)
                sum[i][j] = gpt_multiply_add(format, sum[i][j], a + i * row_stride, gpt_load(b + j * LANES));
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
    if (columns > LANES) gpt_microkernel(format, even_rows, 2, k, a, row_stride, k_stride, b, out); \
    else gpt_microkernel(format, even_rows, 1, k, a, row_stride, k_stride, b, out); \
    break;

INLINE void gpt_any_microkernel(const gpt_format format, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a,
                                const ptrdiff_t row_stride, const ptrdiff_t k_stride, const float *b,
                                const gpt_output *out) {
    switch ((rows + 1) / 2) {
        GPT_CASE(2) GPT_CASE(4) GPT_CASE(6)
#if MR > 6
        GPT_CASE(8) GPT_CASE(10) GPT_CASE(12) GPT_CASE(14)
#endif
    }
}

/* The four layouts of A, one compiled function for each and for each format: packed A as rows, packed A as panels of MR
   rows, and A or A^T in place, with its own leading dimension. In place, A consists of slots, too. */
typedef enum { PACKED_ROWS, PACKED_PANELS, IN_PLACE, IN_PLACE_TRANSPOSED } gpt_layout;

typedef void gpt_tile(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a, ptrdiff_t lda, const float *b,
                      const gpt_output *out);

#define GPT_LAYOUT(name, format, row_stride, k_stride) \
    static __attribute__((noinline)) void name(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, const float *a, \
                                               ptrdiff_t lda, const float *b, const gpt_output *out) { \
        (void)lda; \
        gpt_any_microkernel(format, rows, columns, k, a, row_stride, k_stride, b, out); \
    }
#define GPT_LAYOUTS(name, format) \
    GPT_LAYOUT(name##_packed_rows, format, PACKED_A_LD, 1) \
    GPT_LAYOUT(name##_packed_panels, format, 1, MR) \
    GPT_LAYOUT(name##_in_place, format, lda, 1) \
    GPT_LAYOUT(name##_in_place_transposed, format, 1, lda) \
    static gpt_tile *const name[] = { \
        name##_packed_rows, name##_packed_panels, name##_in_place, name##_in_place_transposed};

GPT_LAYOUTS(gpt_tile_float32, GPT_FLOAT32)
GPT_LAYOUTS(gpt_tile_bfloat16, GPT_BFLOAT16)

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

/* C (rows, columns) = alpha * A . B + addend + bias, in tiles, with k in slots. The rows of A exist up to a multiple of
   TILE.

   If alpha is 1, the sums begin with the addend, or else with the bias. They are stored in place if nothing is left to
   be added and the tiles of C are whole, otherwise through a buffer. `next`: where C will be written next, or NULL. */
static __attribute__((noinline)) void gpt_compute_in_tiles(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k,
                                                           const gpt_tiles_of_a *a, const float *b,
                                                           const gpt_output *out, const float *next) {
    float buffer[TILES_MR * TILES_NR] __attribute__((aligned(64)));
    const int is_whole = rows % TILE == 0 && columns % TILE == 0;
    const float *from = NULL, *bias = out->bias, *addend = out->addend;
    ptrdiff_t ld_from = 0, ld_addend = out->ld_addend;
    if (out->alpha == 1) {
        if (addend != zeros) from = addend, ld_from = ld_addend, addend = zeros, ld_addend = 0;
        else if (bias != zeros) from = bias, bias = zeros;
        if (!is_whole && from) {  /* no values but those of C are read */
            memset(buffer, 0, sizeof buffer);
            for (ptrdiff_t i = 0; i < rows; i++)
                for (ptrdiff_t j = 0; j < columns; j++) buffer[i * TILES_NR + j] = from[i * ld_from + j];
            from = buffer, ld_from = TILES_NR;
        }
    }
    const int is_complete = out->alpha == 1 && addend == zeros && bias == zeros, in_place = is_whole && is_complete;
    float *to = in_place ? out->c : buffer;
    const ptrdiff_t ld_to = in_place ? out->ldc : TILES_NR, slots = ROUND_UP(k, TILE);
    if (rows > TILE) {
        if (columns > TILE) gpt_tiles_microkernel(2, 2, slots, a, b, from, ld_from, to, ld_to, next, out->ldc);
        else gpt_tiles_microkernel(2, 1, slots, a, b, from, ld_from, to, ld_to, next, out->ldc);
    } else {
        if (columns > TILE) gpt_tiles_microkernel(1, 2, slots, a, b, from, ld_from, to, ld_to, next, out->ldc);
        else gpt_tiles_microkernel(1, 1, slots, a, b, from, ld_from, to, ld_to, next, out->ldc);
    }
    if (in_place) return;
    const float *sum = buffer;
    float *c = out->c;
    for (ptrdiff_t i = 0; i < rows; i++, sum += TILES_NR, addend += ld_addend, c += out->ldc) {
        if (is_complete) {  /* adding 0 would turn -0 into 0 */
            memcpy(c, sum, sizeof(float) * columns);
            continue;
        }
        ptrdiff_t j = 0;
        for (; j + LANES <= columns; j += LANES)
            gpt_store(c + j, gpt_load(sum + j) * out->alpha + gpt_load(addend + j) + gpt_load(bias + j));
        for (; j < columns; j++) c[j] = sum[j] * out->alpha + addend[j] + bias[j];
    }
}

/* Store one tile: directly if it has full vectors and an even number of rows, else through a buffer. */
INLINE void gpt_store_tile(const gpt_format format, gpt_layout layout, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k,
                           const float *a, ptrdiff_t lda, const float *b, const gpt_output *out) {
    gpt_tile *tile = format == GPT_BFLOAT16 ? gpt_tile_bfloat16[layout] : gpt_tile_float32[layout];
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

/* One panel of packed B from columns of b (k, columns); missing columns are 0. */
INLINE void gpt_pack_panel(const gpt_format format, ptrdiff_t k, ptrdiff_t columns, const float *b, ptrdiff_t ldb,
                           float *panel) {
    const ptrdiff_t step = gpt_per_slot(format), nr = gpt_nr(format);
    ptrdiff_t p = 0;
    if (columns == nr)
        for (; p + step <= k; p += step, b += step * ldb, panel += nr)
            for (ptrdiff_t j = 0; j < nr; j += LANES) {
                const vector first = gpt_load(b + j);
                gpt_store(panel + j, format == GPT_BFLOAT16 ? gpt_pair(first, gpt_load(b + ldb + j)) : first);
            }
    for (; p < k; p += step, b += step * ldb, panel += nr)
        for (ptrdiff_t j = 0; j < columns; j++) panel[j] = gpt_slot(format, b + j, ldb, k - p);
}

/* The same from b^T: rows of b (columns, k). LANES rows at a time are transposed in registers (speed only). */
INLINE void gpt_pack_panel_transposed(const gpt_format format, ptrdiff_t k, ptrdiff_t columns, const float *b,
                                      ptrdiff_t ldb, float *panel) {
    const ptrdiff_t step = gpt_per_slot(format), nr = gpt_nr(format);
    for (ptrdiff_t first = 0; first < columns; first += LANES, b += LANES * ldb, panel += LANES) {
        ptrdiff_t p = 0;
        if (first + LANES <= columns)
            for (; p + step * LANES <= k; p += step * LANES) {
                vector r[LANES];
                #pragma GCC unroll 16
                for (int j = 0; j < LANES; j++) {
                    const float *row = b + j * ldb + p;
                    r[j] = format == GPT_BFLOAT16 ? gpt_load_pairs(row) : gpt_load(row);
                }
                gpt_transpose(r);
                #pragma GCC unroll 16
                for (int j = 0; j < LANES; j++) gpt_store(panel + (p / step + j) * nr, r[j]);
            }
        for (; p < k; p += step)
            for (ptrdiff_t j = 0; j < LANES && first + j < columns; j++)
                panel[p / step * nr + j] = gpt_slot(format, b + j * ldb + p, 1, k - p);
    }
}

/* Packed B: panels of NR columns of op(B) (k, n), `stride` slots of each apart; a panel is stored slot by slot. */
INLINE void gpt_pack_b(const gpt_format format, int transposed, ptrdiff_t k, ptrdiff_t n, const float *b, ptrdiff_t ldb,
                       float *packed, ptrdiff_t stride) {
    const ptrdiff_t slots = gpt_slots(format, k), step = gpt_per_slot(format), nr = gpt_nr(format);
    const ptrdiff_t at_once = transposed ? k : PACKED_ROWS_AT_ONCE;
    if (n % nr) memset(packed + n / nr * nr * stride, 0, sizeof(float) * nr * slots);
    if (stride > slots)
        for (ptrdiff_t jr = 0; jr < n; jr += nr)
            memset(packed + jr * stride + slots * nr, 0, sizeof(float) * nr * (stride - slots));
    for (ptrdiff_t p = 0; p < k; p += at_once) {
        const ptrdiff_t depth = MIN(at_once, k - p);
        float *panel = packed + p / step * nr;
        for (ptrdiff_t jr = 0; jr < n; jr += nr, panel += nr * stride) {
            const ptrdiff_t columns = MIN(nr, n - jr);
            if (transposed) gpt_pack_panel_transposed(format, k, columns, b + jr * ldb, ldb, panel);
            else gpt_pack_panel(format, depth, columns, b + p * ldb + jr, ldb, panel);
        }
    }
}

/* One row of k values as slots, with zeros after them for tiles; each TILE slots are `next` apart. They may be stored in
   place of the row if they follow each other. */
INLINE void gpt_pack_row_strided(const gpt_format format, ptrdiff_t k, const float *from, float *slots,
                               const ptrdiff_t next) {
    ptrdiff_t p = 0;
    for (; 2 * (p + LANES) <= k; p += LANES)
        gpt_store(slots + p / TILE * next + p % TILE, gpt_load_pairs(from + 2 * p));
    for (; 2 * p < k; p++) slots[p / TILE * next + p % TILE] = gpt_slot(format, from + 2 * p, 1, k - 2 * p);
    for (; p < gpt_padded_slots(format, k); p++) slots[p / TILE * next + p % TILE] = 0;
}

static void gpt_pack_row(gpt_format format, ptrdiff_t k, const float *from, float *slots) {
    if (format == GPT_BFLOAT16) gpt_pack_row_strided(GPT_BFLOAT16, k, from, slots, TILE);
    else memmove(slots, from, sizeof(float) * k);
}

/* Rows of A (m, k) as slots, with zeros after them, from A^T (k, m). Rows are `ld` apart, each TILE rows `next_row`, and
   each TILE slots `next_k`. */
INLINE void gpt_pack_rows_transposed(ptrdiff_t m, ptrdiff_t k, const float *a, ptrdiff_t lda, float *rows,
                                     const ptrdiff_t ld, ptrdiff_t next_row, const ptrdiff_t next_k) {
    const gpt_format format = GPT_BFLOAT16;
    const ptrdiff_t slots = gpt_slots(format, k), padded = gpt_padded_slots(format, k);
    for (ptrdiff_t first = 0; first < padded; first += LANES) {
        const float *from = a + 2 * first * lda;
        float *to = rows + first / TILE * next_k + first % TILE;
        ptrdiff_t i = 0;
        for (; i + LANES <= m; i += LANES) {
            const vector none = {0};
            vector r[LANES];
            #pragma GCC unroll 16
            for (int p = 0; p < LANES; p++) {
                const ptrdiff_t left = k - 2 * (first + p);
                const float *pair = from + 2 * p * lda + i;
                r[p] = gpt_pair(left > 0 ? gpt_load(pair) : none, left > 1 ? gpt_load(pair + lda) : none);
            }
            gpt_transpose(r);
            #pragma GCC unroll 16
            for (int j = 0; j < LANES; j++) gpt_store(to + i / TILE * next_row + (i % TILE + j) * ld, r[j]);
        }
        for (; i < m; i++)
            for (ptrdiff_t p = 0; p < LANES; p++)
                to[i / TILE * next_row + i % TILE * ld + p] =
                    first + p < slots ? gpt_slot(format, from + 2 * p * lda + i, lda, k - 2 * (first + p)) : 0;
    }
}

/* A (m, k) as an operand in place, from A^T (k, m), for bfloat16: as slots the rows of A in tiles, otherwise A^T. They are
   written to `space`, which has max(m, k) rows and the leading dimension of A^T, with room for the padded slots of k. */
static gpt_matrix gpt_pack_transposed(ptrdiff_t m, ptrdiff_t k, const float *a, ptrdiff_t lda, float *space) {
    if (gpt_in_tiles(GPT_BFLOAT16)) {
        gpt_pack_rows_transposed(m, k, a, lda, space, lda, TILE * lda, TILE);
        return (gpt_matrix){space, lda, 0};
    }
    const vector none = {0};
    for (ptrdiff_t p = 0; p < k; p += 2) {
        const float *first = a + p * lda, *second = p + 1 < k ? first + lda : NULL;
        float *slots = space + p / 2 * lda;
        ptrdiff_t i = 0;
        for (; i + LANES <= m; i += LANES)
            gpt_store(slots + i, gpt_pair(gpt_load(first + i), second ? gpt_load(second + i) : none));
        for (; i < m; i++) slots[i] = gpt_slot(GPT_BFLOAT16, first + i, lda, k - p);
    }
    return (gpt_matrix){space, lda, 1};
}

/* Packed A for tiles: TILE rows after the other, each stored tile by tile. */
static void gpt_pack_tiles_of_a(int transposed, ptrdiff_t m, ptrdiff_t k, const float *a, ptrdiff_t lda) {
    const ptrdiff_t next_row = TILE * gpt_padded_slots(GPT_BFLOAT16, k), next_k = TILE * TILE;
    if (transposed) gpt_pack_rows_transposed(m, k, a, lda, packed_a, TILE, next_row, next_k);
    else
        for (ptrdiff_t i = 0; i < m; i++)
            gpt_pack_row_strided(GPT_BFLOAT16, k, a + i * lda, packed_a + i / TILE * next_row + i % TILE * TILE, next_k);
}

/* Packed A: the rows of A (m, k), PACKED_A_LD apart; from A^T, panels of MR rows, each stored slot by slot. */
INLINE void gpt_pack_a(const gpt_format format, int transposed, ptrdiff_t m, ptrdiff_t k, const float *a,
                       ptrdiff_t lda) {
    if (gpt_in_tiles(format)) {
        gpt_pack_tiles_of_a(transposed, m, k, a, lda);
        return;
    }
    if (!transposed) {
        for (ptrdiff_t i = 0; i < m; i++) gpt_pack_row(format, k, a + i * lda, packed_a + i * PACKED_A_LD);
        return;
    }
    const ptrdiff_t step = gpt_per_slot(format), slots = gpt_slots(format, k);
    for (ptrdiff_t first = 0; first < k; first += PACKED_ROWS_AT_ONCE) {
        const ptrdiff_t end = MIN(first + PACKED_ROWS_AT_ONCE, k);
        for (ptrdiff_t ir = 0; ir < m; ir += MR) {
            const ptrdiff_t rows = MIN(MR, m - ir);
            const float *from = a + first * lda + ir;
            float *panel = packed_a + ir * slots + first / step * MR;
            ptrdiff_t p = first;
            if (ir + LANES <= m)  /* speed only: copy a full vector; the next store overwrites the excess */
                for (; p + step <= end && p + step < k; p += step, from += step * lda, panel += MR) {
                    const vector values = gpt_load(from);
                    gpt_store(panel, format == GPT_BFLOAT16 ? gpt_pair(values, gpt_load(from + lda)) : values);
                }
            for (; p < end; p += step, from += step * lda, panel += MR)
                for (ptrdiff_t i = 0; i < rows; i++) panel[i] = gpt_slot(format, from + i, lda, k - p);
        }
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

/* Block (m, n) of C, from (ic, jc) on, from packed A (m, k) and packed B (k, n), k in slots: the loops jr and ir. */
INLINE void gpt_macrokernel(const gpt_format format, int a_is_panels, ptrdiff_t ic, ptrdiff_t jc, ptrdiff_t m,
                            ptrdiff_t n, ptrdiff_t k, const gpt_output *out) {
    const ptrdiff_t mr = gpt_mr(format), nr = gpt_nr(format);
    for (ptrdiff_t jr = 0; jr < n; jr += nr)
        for (ptrdiff_t ir = 0; ir < m; ir += mr) {
            const ptrdiff_t rows = MIN(mr, m - ir), columns = MIN(nr, n - jr);
            const float *b = packed_b + jr * k;
            const gpt_output tile_out = gpt_output_at(out, ic + ir, jc + jr);
            if (gpt_in_tiles(format)) {
                const float *next = ir + mr < m ? tile_out.c + mr * out->ldc
                                  : jr + nr < n ? out->c + ic * out->ldc + jc + jr + nr : NULL;
                if (tile_out.addend != tile_out.c && tile_out.addend != zeros)
                    gpt_prefetch_tile(rows, tile_out.addend, tile_out.ld_addend, 0);
                const gpt_tiles_of_a a = {packed_a + ir * k, TILE, TILE * k, TILE * TILE};
                gpt_compute_in_tiles(rows, columns, k, &a, b, &tile_out, next);
            } else {
                gpt_prefetch_tile(rows, tile_out.c, tile_out.ldc, 1);
                gpt_prefetch_tile(rows, tile_out.addend, tile_out.ld_addend, 0);
                const float *a = packed_a + ir * (a_is_panels ? k : PACKED_A_LD);
                gpt_store_tile(format, a_is_panels ? PACKED_PANELS : PACKED_ROWS, rows, columns, k, a, 0, b, &tile_out);
            }
        }
}

/* C (m, n) = alpha * op(A) (m, k) . op(B) (k, n) + addend + bias: the loops jc, pc and ic. */
INLINE void gpt_gemm_as(const gpt_format format, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, gpt_matrix a, gpt_matrix b,
                        gpt_output out) {
    const ptrdiff_t mc = gpt_mc(format), max_depth = KC * gpt_per_slot(format);
    for (ptrdiff_t jc = 0; jc < n; jc += NC) {
        const ptrdiff_t columns = MIN(NC, n - jc);
        gpt_output partial = out;
        for (ptrdiff_t pc = 0; pc < k; pc += max_depth) {
            const ptrdiff_t depth = MIN(max_depth, k - pc), slots = gpt_padded_slots(format, depth);
            gpt_pack_b(format, b.transposed, depth, columns,
                       b.data + (b.transposed ? jc * b.ld + pc : pc * b.ld + jc), b.ld, packed_b, slots);
            for (ptrdiff_t ic = 0; ic < m; ic += mc) {
                const ptrdiff_t rows = MIN(mc, m - ic);
                gpt_pack_a(format, a.transposed, rows, depth,
                           a.data + (a.transposed ? pc * a.ld + ic : ic * a.ld + pc), a.ld);
                gpt_macrokernel(format, a.transposed, ic, jc, rows, columns, slots, &partial);
            }
            partial.addend = out.c;  /* from the second pc on, add to what is stored */
            partial.ld_addend = out.ldc;
            partial.bias = NULL;
        }
    }
}

/* The same with B packed by `gpt_pack` beforehand and A read in place. Faster when one B meets many small A, as in
   attention. A is read up to an even row, in tiles up to a multiple of TILE; what these rows hold does not matter. */
INLINE void gpt_gemm_packed_as(const gpt_format format, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const gpt_matrix *a,
                               const gpt_packed_b *b, const gpt_output *out) {
    const ptrdiff_t mr = gpt_mr(format), nr = gpt_nr(format);
    const float *panel = b->data;
    for (ptrdiff_t jr = 0; jr < n; jr += nr, panel += b->stride)
        for (ptrdiff_t ir = 0; ir < m; ir += mr) {
            const ptrdiff_t rows = MIN(mr, m - ir), columns = MIN(nr, n - jr);
            const gpt_output tile_out = gpt_output_at(out, ir, jr);
            if (gpt_in_tiles(format)) {
                const gpt_tiles_of_a in_place = {a->data + ir * a->ld, a->ld, TILE * a->ld, TILE};
                gpt_compute_in_tiles(rows, columns, gpt_slots(format, k), &in_place, panel, &tile_out, NULL);
            } else {
                gpt_prefetch_tile(rows, tile_out.c, tile_out.ldc, 1);
                gpt_store_tile(format, a->transposed ? IN_PLACE_TRANSPOSED : IN_PLACE, rows, columns,
                               gpt_slots(format, k), a->data + (a->transposed ? ir : ir * a->ld), a->ld, panel,
                               &tile_out);
            }
        }
}

/* ---- What gemm.pyx calls: the format becomes a constant */

static void gpt_gemm(gpt_format format, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, gpt_matrix a, gpt_matrix b,
                     gpt_output out) {
    if (format == GPT_BFLOAT16) {
        gpt_begin_tiles();
        gpt_gemm_as(GPT_BFLOAT16, m, n, k, a, b, out);
        gpt_end_tiles();
    } else gpt_gemm_as(GPT_FLOAT32, m, n, k, a, b, out);
}

/* Slots of a panel of `gpt_pack`: any slice of it can be read to a multiple of TILE slots. */
static ptrdiff_t gpt_panel_slots(gpt_format format, ptrdiff_t k) {
    return gpt_slots(format, k) + (gpt_in_tiles(format) ? TILE - 1 : 0);
}

static gpt_packed_b gpt_pack(gpt_format format, int transposed, ptrdiff_t k, ptrdiff_t n, const float *b, ptrdiff_t ldb,
                             float *packed) {
    const ptrdiff_t slots = gpt_panel_slots(format, k);
    if (format == GPT_BFLOAT16) gpt_pack_b(GPT_BFLOAT16, transposed, k, n, b, ldb, packed, slots);
    else gpt_pack_b(GPT_FLOAT32, transposed, k, n, b, ldb, packed, slots);
    return (gpt_packed_b){packed, slots * gpt_nr(format), transposed};
}

static void gpt_gemm_packed(gpt_format format, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const gpt_matrix *a,
                            const gpt_packed_b *b, const gpt_output *out) {
    if (format == GPT_BFLOAT16) gpt_gemm_packed_as(GPT_BFLOAT16, m, n, k, a, b, out);
    else gpt_gemm_packed_as(GPT_FLOAT32, m, n, k, a, b, out);
}

/* Notes on speed.

   On Zen 5 this reaches 250 GFLOP/s per core. OpenBLAS reaches 130 with its Haswell kernels (OPENBLAS_CORETYPE=Haswell)
   and 225 to 250 with its AVX-512 kernels. On small products (64 x 64 by 32) the figures are 146 and 90. Bias, residual
   and accumulation are added as a tile is stored, so they need no pass over C of their own.

   MR x NR sums must fit into the vector registers, with two left for a row of B and one for an element of A. With
   AVX-512, packed A is 343 KiB, packed B 3 MiB, and one panel of B 96 KiB. A smaller KC (256 or 384) is 5 to 15% slower,
   because C is read and written more often.

   Packing takes about a seventh of a step of `nano` in bfloat16. Rounding by the instruction made for it instead of integer
   arithmetic, and packing B and A^T some rows at a time, so that each cache line is read once, gained 7% of that step
   and 5% of the linear layers of `mini` on Zen 4. A float32 A read in place instead of packed: no gain. */

#endif
