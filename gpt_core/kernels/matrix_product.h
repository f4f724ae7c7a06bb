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
   micro-kernel counts slots and does not depend on the format. Operands that are stored in bfloat16 are packed without
   rounding, and C may be stored in bfloat16.

   There are two micro-kernels. The one below holds C in vector registers. The one in `tiles.h`, for bfloat16 on
   processors with AMX, holds C in tiles; it reads TILE rows and TILE slots at once, so packed operands are filled up
   with zeros to a multiple of TILE slots. */

#ifndef GPT_MATRIX_PRODUCT_H
#define GPT_MATRIX_PRODUCT_H

#include <string.h>

#include "bfloat16.h"
#include "matrix_types.h"
#include "tiles.h"
#include "vectors.h"

#if LANES == 16
  #define MR 14           /* 14 rows of 2 vectors: 28 of the 32 vector registers hold sums */
#elif defined(__aarch64__)
  #define MR 12           /* 12 rows of 2 vectors: 24 of 32 registers */
#else
  #define MR 6            /* 6 rows of 2 vectors: 12 of 16 registers */
#endif
enum { STEPS_AT_ONCE = LANES == 8 ? 4 : 1 };  /* speed only: iterations over k that are unrolled */
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

static __thread float packed_a[(GPT_TILES ? TILES_MC : ROUND_UP(MC, MR)) * PACKED_A_LD + LANES]
    __attribute__((aligned(64)));
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
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
INLINE vector gpt_pair(vector first, vector second) {
    const uint16x8_t lower = vreinterpretq_u16_bf16(vcvtq_low_bf16_f32((float32x4_t)first));
    const uint16x8_t upper = vreinterpretq_u16_bf16(vcvtq_low_bf16_f32((float32x4_t)second));
    return (vector)vzip1q_u16(lower, upper);
}

INLINE vector gpt_load_pairs(const float *from) {
    const bfloat16x8_t lower = vcvtq_low_bf16_f32((float32x4_t)gpt_load(from));
    return (vector)vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(lower, (float32x4_t)gpt_load(from + LANES)));
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

/* How a matrix is read while it is packed: `stored`, its format in memory, is a compile-time constant, too.

   gpt_pairs_along: the pairs of 2 * LANES values that follow each other, from `from` on.
   gpt_pairs_across: LANES pairs, with the first values from `first` on and the second ones from `second` on (NULL: 0);
   in float32, the values of `first` alone.
   gpt_slot: one slot of from[0] and, if `count` is above 1, from[stride]; the missing half is 0. */
INLINE vector gpt_pairs_along(const gpt_format stored, const void *from) {
    if (stored == GPT_BFLOAT16) return (vector) * (const vector_of_pairs *)from;
    return gpt_load_pairs(from);
}

INLINE lane_bits gpt_load_halves(const uint16_t *from) {
    return __builtin_convertvector(*(const unaligned_halves *)from, lane_bits);
}

INLINE vector gpt_pairs_across(const gpt_format format, const gpt_format stored, const void *first,
                               const void *second) {
    if (format == GPT_FLOAT32) return gpt_load(first);
    if (stored == GPT_BFLOAT16) {
        const lane_bits lower = gpt_load_halves(first);
        return (vector)(second ? lower | gpt_load_halves(second) << 16 : lower);
    }
    const vector none = {0};
    return gpt_pair(gpt_load(first), second ? gpt_load(second) : none);
}

INLINE float gpt_slot(const gpt_format format, const gpt_format stored, const void *from, ptrdiff_t stride,
                      ptrdiff_t count) {
    if (format == GPT_FLOAT32) return *(const float *)from;
    if (stored == GPT_BFLOAT16) {
        const uint16_t *bits = from;
        return gpt_from_word(*bits | (count > 1 ? (unsigned)bits[stride] << 16 : 0));
    }
    const float *values = from;
    const vector first = {*values}, second = {count > 1 ? values[stride] : 0};
    return gpt_pair(first, second)[0];
}

/* sum + a * b, with one slot of A for all lanes. Of a bfloat16 pair, the second product is added first: so does the
   instruction vdpbf16ps, which rounds after each of the two, and the other levels of x86-64 without tiles give the same
   bits (except that it replaces numbers below 1.2e-38 by 0). Arm's bfdot adds the two products first, and rounds both
   sums to odd (Arm Architecture Reference Manual, BFDotAdd). */
INLINE vector gpt_multiply_add(const gpt_format format, vector sum, const float *a, vector b) {
    if (format == GPT_FLOAT32) return sum + *a * b;
#if defined(__AVX512BF16__)
    const __m512i pair = _mm512_set1_epi32(*(const int __attribute__((may_alias)) *)a);
    return (vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)pair, (__m512bh)b);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    const float32x2_t pair = {*a};
    return (vector)vbfdotq_lane_f32((float32x4_t)sum, vreinterpretq_bf16_f32((float32x4_t)b),
                                    vreinterpret_bf16_f32(pair), 0);
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
    #pragma GCC unroll STEPS_AT_ONCE
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
        GPT_CASE(8) GPT_CASE(10) GPT_CASE(12)
#endif
#if MR > 12
        GPT_CASE(14)
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
        (void *)gpt_at(out->c, row * out->ldc + column, out->stored),
        out->ldc,
        out->addend ? out->addend + row * out->ld_addend + column : zeros,
        out->addend ? out->ld_addend : 0,
        out->bias ? out->bias + column : zeros,
        out->alpha,
        out->stored,
    };
}

/* C (rows, columns) = alpha * A . B + addend + bias, in tiles, with k in slots. The rows of A exist up to a multiple of
   TILE.

   If alpha is 1, the sums begin with the addend, or else with the bias. They are stored in place if nothing is left to
   be added and the tiles of C are whole, otherwise through a buffer. `next`: where C will be written next, or NULL. */
static __attribute__((noinline)) void gpt_compute_in_tiles(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k,
                                                           const gpt_tiles_of_a *a, const float *b,
                                                           const gpt_output *out, const float *next,
                                                           ptrdiff_t ld_next) {
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
    float *c = out->c, *to = in_place ? c : buffer;
    const ptrdiff_t ld_to = in_place ? out->ldc : TILES_NR, slots = ROUND_UP(k, TILE);
    if (rows > TILE) {
        if (columns > TILE) gpt_tiles_microkernel(2, 2, slots, a, b, from, ld_from, to, ld_to, next, ld_next);
        else gpt_tiles_microkernel(2, 1, slots, a, b, from, ld_from, to, ld_to, next, ld_next);
    } else {
        if (columns > TILE) gpt_tiles_microkernel(1, 2, slots, a, b, from, ld_from, to, ld_to, next, ld_next);
        else gpt_tiles_microkernel(1, 1, slots, a, b, from, ld_from, to, ld_to, next, ld_next);
    }
    if (in_place) return;
    const float *sum = buffer;
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
    float buffer[MR * NR] __attribute__((aligned(64))), *c = out->c;
    const gpt_output buffered = {buffer, NR, zeros, 0, zeros, out->alpha, GPT_FLOAT32};
    tile(rows, columns, k, a, lda, b, &buffered);
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++)
            c[i * out->ldc + j] = buffer[i * NR + j] + out->addend[i * out->ld_addend + j] + out->bias[j];
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
INLINE void gpt_pack_panel(const gpt_format format, const gpt_format stored, ptrdiff_t k, ptrdiff_t columns,
                           const void *b, ptrdiff_t ldb, float *panel) {
    const ptrdiff_t step = gpt_per_slot(format), nr = gpt_nr(format);
    ptrdiff_t p = 0;
    if (columns == nr)
        for (; p + step <= k; p += step, b = gpt_at(b, step * ldb, stored), panel += nr)
            for (ptrdiff_t j = 0; j < nr; j += LANES)
                gpt_store(panel + j, gpt_pairs_across(format, stored, gpt_at(b, j, stored), gpt_at(b, ldb + j, stored)));
    for (; p < k; p += step, b = gpt_at(b, step * ldb, stored), panel += nr)
        for (ptrdiff_t j = 0; j < columns; j++) panel[j] = gpt_slot(format, stored, gpt_at(b, j, stored), ldb, k - p);
}

/* The same from b^T: rows of b (columns, k). LANES rows at a time are transposed in registers (speed only). */
INLINE void gpt_pack_panel_transposed(const gpt_format format, const gpt_format stored, ptrdiff_t k, ptrdiff_t columns,
                                      const void *b, ptrdiff_t ldb, float *panel) {
    const ptrdiff_t step = gpt_per_slot(format), nr = gpt_nr(format);
    for (ptrdiff_t first = 0; first < columns; first += LANES, b = gpt_at(b, LANES * ldb, stored), panel += LANES) {
        ptrdiff_t p = 0;
        if (first + LANES <= columns)
            for (; p + step * LANES <= k; p += step * LANES) {
                vector r[LANES];
                #pragma GCC unroll 16
                for (int j = 0; j < LANES; j++) {
                    const void *row = gpt_at(b, j * ldb + p, stored);
                    r[j] = format == GPT_BFLOAT16 ? gpt_pairs_along(stored, row) : gpt_load(row);
                }
                gpt_transpose(r);
                #pragma GCC unroll 16
                for (int j = 0; j < LANES; j++) gpt_store(panel + (p / step + j) * nr, r[j]);
            }
        for (; p < k; p += step)
            for (ptrdiff_t j = 0; j < LANES && first + j < columns; j++)
                panel[p / step * nr + j] = gpt_slot(format, stored, gpt_at(b, j * ldb + p, stored), 1, k - p);
    }
}

/* Packed B: panels of NR columns of op(B) (k, n), `stride` slots of each apart; a panel is stored slot by slot. */
INLINE void gpt_pack_b(const gpt_format format, const gpt_format stored, int transposed, ptrdiff_t k, ptrdiff_t n,
                       const void *b, ptrdiff_t ldb, float *packed, ptrdiff_t stride) {
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
            if (transposed)
                gpt_pack_panel_transposed(format, stored, k, columns, gpt_at(b, jr * ldb, stored), ldb, panel);
            else gpt_pack_panel(format, stored, depth, columns, gpt_at(b, p * ldb + jr, stored), ldb, panel);
        }
    }
}

/* The same for op(B)[first_k:, first_n:]; formats become constants. */
static __attribute__((noinline)) void gpt_pack_part_of_b(gpt_format format, const gpt_matrix *b, ptrdiff_t first_k,
                                                         ptrdiff_t first_n, ptrdiff_t k, ptrdiff_t n, float *packed,
                                                         ptrdiff_t stride) {
    const ptrdiff_t first = b->transposed ? first_n * b->ld + first_k : first_k * b->ld + first_n;
    const void *from = gpt_at(b->data, first, b->stored);
    if (format == GPT_FLOAT32) gpt_pack_b(GPT_FLOAT32, GPT_FLOAT32, b->transposed, k, n, from, b->ld, packed, stride);
    else if (b->stored == GPT_BFLOAT16)
        gpt_pack_b(GPT_BFLOAT16, GPT_BFLOAT16, b->transposed, k, n, from, b->ld, packed, stride);
    else gpt_pack_b(GPT_BFLOAT16, GPT_FLOAT32, b->transposed, k, n, from, b->ld, packed, stride);
}

/* One row of k values as slots, with zeros after them for tiles; each TILE slots are `next` apart. They may be stored in
   place of the row if they follow each other. */
INLINE void gpt_pack_row_strided(const gpt_format stored, ptrdiff_t k, const void *from, float *slots,
                               const ptrdiff_t next) {
    const gpt_format format = GPT_BFLOAT16;
    ptrdiff_t p = 0;
    for (; 2 * (p + LANES) <= k; p += LANES)
        gpt_store(slots + p / TILE * next + p % TILE, gpt_pairs_along(stored, gpt_at(from, 2 * p, stored)));
    for (; 2 * p < k; p++)
        slots[p / TILE * next + p % TILE] = gpt_slot(format, stored, gpt_at(from, 2 * p, stored), 1, k - 2 * p);
    for (; p < gpt_padded_slots(format, k); p++) slots[p / TILE * next + p % TILE] = 0;
}

static void gpt_pack_row(gpt_format format, gpt_format stored, ptrdiff_t k, const void *from, float *slots) {
    if (format == GPT_FLOAT32) memmove(slots, from, sizeof(float) * k);
    else if (stored == GPT_BFLOAT16) gpt_pack_row_strided(GPT_BFLOAT16, k, from, slots, TILE);
    else gpt_pack_row_strided(GPT_FLOAT32, k, from, slots, TILE);
}

/* Rows of A (m, k) as slots, with zeros after them, from A^T (k, m). Rows are `ld` apart, each TILE rows `next_row`, and
   each TILE slots `next_k`. */
INLINE void gpt_pack_rows_transposed(const gpt_format stored, ptrdiff_t m, ptrdiff_t k, const void *a, ptrdiff_t lda,
                                     float *rows, const ptrdiff_t ld, ptrdiff_t next_row, const ptrdiff_t next_k) {
    const gpt_format format = GPT_BFLOAT16;
    const ptrdiff_t slots = gpt_slots(format, k), padded = gpt_padded_slots(format, k);
    for (ptrdiff_t first = 0; first < padded; first += LANES) {
        const void *from = gpt_at(a, 2 * first * lda, stored);
        float *to = rows + first / TILE * next_k + first % TILE;
        ptrdiff_t i = 0;
        for (; i + LANES <= m; i += LANES) {
            const vector none = {0};
            vector r[LANES];
            #pragma GCC unroll 16
            for (int p = 0; p < LANES; p++) {
                const ptrdiff_t left = k - 2 * (first + p), at = 2 * p * lda + i;
                const void *second = left > 1 ? gpt_at(from, at + lda, stored) : NULL;
                r[p] = left > 0 ? gpt_pairs_across(format, stored, gpt_at(from, at, stored), second) : none;
            }
            gpt_transpose(r);
            #pragma GCC unroll 16
            for (int j = 0; j < LANES; j++) gpt_store(to + i / TILE * next_row + (i % TILE + j) * ld, r[j]);
        }
        for (; i < m; i++)
            for (ptrdiff_t p = 0; p < LANES; p++)
                to[i / TILE * next_row + i % TILE * ld + p] =
                    first + p < slots
                        ? gpt_slot(format, stored, gpt_at(from, 2 * p * lda + i, stored), lda, k - 2 * (first + p)) : 0;
    }
}

/* A (m, k) as an operand in place, from A^T (k, m), for bfloat16: as slots the rows of A in tiles, otherwise A^T. They are
   written to `space`, which has max(m, k) rows and the leading dimension of A^T, with room for the padded slots of k. */
static gpt_matrix gpt_pack_transposed(ptrdiff_t m, ptrdiff_t k, const float *a, ptrdiff_t lda, float *space) {
    if (gpt_in_tiles(GPT_BFLOAT16)) {
        gpt_pack_rows_transposed(GPT_FLOAT32, m, k, a, lda, space, lda, TILE * lda, TILE);
        return (gpt_matrix){space, lda, 0, GPT_FLOAT32};
    }
    for (ptrdiff_t p = 0; p < k; p += 2) {
        const float *first = a + p * lda, *second = p + 1 < k ? first + lda : NULL;
        float *slots = space + p / 2 * lda;
        ptrdiff_t i = 0;
        for (; i + LANES <= m; i += LANES)
            gpt_store(slots + i, gpt_pairs_across(GPT_BFLOAT16, GPT_FLOAT32, first + i, second ? second + i : NULL));
        for (; i < m; i++) slots[i] = gpt_slot(GPT_BFLOAT16, GPT_FLOAT32, first + i, lda, k - p);
    }
    return (gpt_matrix){space, lda, 1, GPT_FLOAT32};
}

/* Packed A for tiles: TILE rows after the other, each stored tile by tile. */
INLINE void gpt_pack_tiles_of_a(const gpt_format stored, int transposed, ptrdiff_t m, ptrdiff_t k, const void *a,
                                ptrdiff_t lda) {
    const ptrdiff_t next_row = TILE * gpt_padded_slots(GPT_BFLOAT16, k), next_k = TILE * TILE;
    if (transposed) gpt_pack_rows_transposed(stored, m, k, a, lda, packed_a, TILE, next_row, next_k);
    else
        for (ptrdiff_t i = 0; i < m; i++)
            gpt_pack_row_strided(stored, k, gpt_at(a, i * lda, stored),
                                 packed_a + i / TILE * next_row + i % TILE * TILE, next_k);
}

/* Packed A: the rows of A (m, k), PACKED_A_LD apart; from A^T, panels of MR rows, each stored slot by slot. */
INLINE void gpt_pack_a(const gpt_format format, const gpt_format stored, int transposed, ptrdiff_t m, ptrdiff_t k,
                       const void *a, ptrdiff_t lda) {
    if (gpt_in_tiles(format)) {
        gpt_pack_tiles_of_a(stored, transposed, m, k, a, lda);
        return;
    }
    if (!transposed) {
        for (ptrdiff_t i = 0; i < m; i++)
            gpt_pack_row(format, stored, k, gpt_at(a, i * lda, stored), packed_a + i * PACKED_A_LD);
        return;
    }
    const ptrdiff_t step = gpt_per_slot(format), slots = gpt_slots(format, k);
    for (ptrdiff_t first = 0; first < k; first += PACKED_ROWS_AT_ONCE) {
        const ptrdiff_t end = MIN(first + PACKED_ROWS_AT_ONCE, k);
        for (ptrdiff_t ir = 0; ir < m; ir += MR) {
            const ptrdiff_t rows = MIN(MR, m - ir);
            const void *from = gpt_at(a, first * lda + ir, stored);
            float *panel = packed_a + ir * slots + first / step * MR;
            ptrdiff_t p = first;
            if (ir + ROUND_UP(MR, LANES) <= m)  /* speed only: full vectors; the next store overwrites the excess */
                for (; p + step <= end && p + step < k; p += step, from = gpt_at(from, step * lda, stored), panel += MR)
                    for (ptrdiff_t i = 0; i < MR; i += LANES)
                        gpt_store(panel + i, gpt_pairs_across(format, stored, gpt_at(from, i, stored),
                                                              gpt_at(from, lda + i, stored)));
            for (; p < end; p += step, from = gpt_at(from, step * lda, stored), panel += MR)
                for (ptrdiff_t i = 0; i < rows; i++)
                    panel[i] = gpt_slot(format, stored, gpt_at(from, i, stored), lda, k - p);
        }
    }
}

/* The same for op(A)[first_m:, first_k:]; formats become constants. */
static __attribute__((noinline)) void gpt_pack_part_of_a(gpt_format format, const gpt_matrix *a, ptrdiff_t first_m,
                                                         ptrdiff_t first_k, ptrdiff_t m, ptrdiff_t k) {
    const ptrdiff_t first = a->transposed ? first_k * a->ld + first_m : first_m * a->ld + first_k;
    const void *from = gpt_at(a->data, first, a->stored);
    if (format == GPT_FLOAT32) gpt_pack_a(GPT_FLOAT32, GPT_FLOAT32, a->transposed, m, k, from, a->ld);
    else if (a->stored == GPT_BFLOAT16) gpt_pack_a(GPT_BFLOAT16, GPT_BFLOAT16, a->transposed, m, k, from, a->ld);
    else gpt_pack_a(GPT_BFLOAT16, GPT_FLOAT32, a->transposed, m, k, from, a->ld);
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

/* Block (m, n) of C, from (ic, jc) on, from packed A (m, k) and packed B (k, n), k in slots: the loops jr and ir.
   Tiles of a C in bfloat16 are computed in a buffer, and rounded from there. With `lower`, tiles above the diagonal of C
   are left out. */
INLINE void gpt_macrokernel(const gpt_format format, int a_is_panels, ptrdiff_t ic, ptrdiff_t jc, ptrdiff_t m,
                            ptrdiff_t n, ptrdiff_t k, const gpt_output *out, int lower) {
    const ptrdiff_t mr = gpt_mr(format), nr = gpt_nr(format);
    const int rounds = out->stored == GPT_BFLOAT16;
    for (ptrdiff_t jr = 0; jr < n; jr += nr)
        for (ptrdiff_t ir = 0; ir < m; ir += mr) {
            const ptrdiff_t rows = MIN(mr, m - ir), columns = MIN(nr, n - jr);
            if (lower && ic + ir + rows <= jc + jr) continue;
            const float *b = packed_b + jr * k;
            const gpt_output at = gpt_output_at(out, ic + ir, jc + jr);
            float buffer[MAX_OF(MR * NR, TILES_MR * TILES_NR)] __attribute__((aligned(64)));
            const gpt_output buffered = {buffer, nr, zeros, 0, at.bias, at.alpha, GPT_FLOAT32};
            const gpt_output tile_out = rounds ? buffered : at;
            if (gpt_in_tiles(format)) {
                const float *c = out->c, *next = NULL;
                if (rounds) next = at.c;
                else if (ir + mr < m) next = c + (ic + ir + mr) * out->ldc + jc + jr;
                else if (jr + nr < n) next = c + ic * out->ldc + jc + jr + nr;
                if (tile_out.addend != tile_out.c && tile_out.addend != zeros)
                    gpt_prefetch_tile(rows, tile_out.addend, tile_out.ld_addend, 0);
                const gpt_tiles_of_a a = {packed_a + ir * k, TILE, TILE * k, TILE * TILE};
                gpt_compute_in_tiles(rows, columns, k, &a, b, &tile_out, next, rounds ? out->ldc / 2 : out->ldc);
            } else {
                for (ptrdiff_t i = 0; rounds && i < rows; i++)
                    __builtin_prefetch((uint16_t *)at.c + i * at.ldc, 1);
                if (!rounds) gpt_prefetch_tile(rows, at.c, at.ldc, 1);
                gpt_prefetch_tile(rows, tile_out.addend, tile_out.ld_addend, 0);
                const float *a = packed_a + ir * (a_is_panels ? k : PACKED_A_LD);
                gpt_store_tile(format, a_is_panels ? PACKED_PANELS : PACKED_ROWS, rows, columns, k, a, 0, b, &tile_out);
            }
            for (ptrdiff_t i = 0; rounds && i < rows; i++)
                gpt_round_row(buffer + i * nr, (uint16_t *)at.c + i * at.ldc, columns);
        }
}

/* C (m, n) = alpha * op(A) (m, k) . op(B) (k, n) + addend + bias, or its lower triangle: the loops jc, pc and ic. */
INLINE void gpt_gemm_as(const gpt_format format, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, gpt_matrix a, gpt_matrix b,
                        gpt_output out, int lower) {
    const ptrdiff_t mc = gpt_mc(format), max_depth = KC * gpt_per_slot(format);
    for (ptrdiff_t jc = 0; jc < n; jc += NC) {
        const ptrdiff_t columns = MIN(NC, n - jc);
        gpt_output partial = out;
        for (ptrdiff_t pc = 0; pc < k; pc += max_depth) {
            const ptrdiff_t depth = MIN(max_depth, k - pc), slots = gpt_padded_slots(format, depth);
            gpt_pack_part_of_b(format, &b, pc, jc, depth, columns, packed_b, slots);
            for (ptrdiff_t ic = 0; ic < m; ic += mc) {
                const ptrdiff_t rows = MIN(mc, m - ic);
                gpt_pack_part_of_a(format, &a, ic, pc, rows, depth);
                gpt_macrokernel(format, a.transposed, ic, jc, rows, columns, slots, &partial, lower);
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
    const float *panel = b->data, *slots_of_a = a->data;
    for (ptrdiff_t jr = 0; jr < n; jr += nr, panel += b->stride)
        for (ptrdiff_t ir = 0; ir < m; ir += mr) {
            const ptrdiff_t rows = MIN(mr, m - ir), columns = MIN(nr, n - jr);
            const gpt_output tile_out = gpt_output_at(out, ir, jr);
            if (gpt_in_tiles(format)) {
                const gpt_tiles_of_a in_place = {slots_of_a + ir * a->ld, a->ld, TILE * a->ld, TILE};
                gpt_compute_in_tiles(rows, columns, gpt_slots(format, k), &in_place, panel, &tile_out, NULL, 0);
            } else {
                gpt_prefetch_tile(rows, tile_out.c, tile_out.ldc, 1);
                gpt_store_tile(format, a->transposed ? IN_PLACE_TRANSPOSED : IN_PLACE, rows, columns,
                               gpt_slots(format, k), slots_of_a + (a->transposed ? ir : ir * a->ld), a->ld, panel,
                               &tile_out);
            }
        }
}

/* ---- What gemm.pyx calls: the format becomes a constant */

static void gpt_gemm(gpt_format format, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, gpt_matrix a, gpt_matrix b,
                     gpt_output out, int lower) {
    if (format == GPT_BFLOAT16) {
        gpt_begin_tiles();
        gpt_gemm_as(GPT_BFLOAT16, m, n, k, a, b, out, lower);
        gpt_end_tiles();
    } else gpt_gemm_as(GPT_FLOAT32, m, n, k, a, b, out, lower);
}

/* Slots of a panel of `gpt_pack`: any slice of it can be read to a multiple of TILE slots. */
static ptrdiff_t gpt_panel_slots(gpt_format format, ptrdiff_t k) {
    return gpt_slots(format, k) + (gpt_in_tiles(format) ? TILE - 1 : 0);
}

static gpt_packed_b gpt_pack(gpt_format format, ptrdiff_t k, ptrdiff_t n, gpt_matrix b, float *packed) {
    const ptrdiff_t slots = gpt_panel_slots(format, k);
    gpt_pack_part_of_b(format, &b, 0, 0, k, n, packed, slots);
    return (gpt_packed_b){packed, slots * gpt_nr(format), b.transposed};
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

   With AVX2 a step along k is 12 multiply-adds, 8 loads and 5 instructions of the loop. Four steps at a time, products of
   a Zen 3 reach 0.92 to 1.1 of the rate of OpenBLAS's AVX2 kernels, one at a time 0.84 to 1.02.

   Packing takes about a seventh of a step of `nano` in bfloat16. Rounding by the instruction made for it instead of integer
   arithmetic, and packing B and A^T some rows at a time, so that each cache line is read once, gained 7% of that step
   and 5% of the linear layers of `mini` on Zen 4. A float32 A read in place instead of packed: no gain. */

#endif
