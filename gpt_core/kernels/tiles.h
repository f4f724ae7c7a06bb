/* The micro-kernel in tiles, the registers of AMX (Advanced Matrix Extensions; Intel 64 and IA-32 Architectures Software
   Developer's Manual, volume 1, chapter 18). A tile has TILE rows of TILE slots of 32 bits. One instruction multiplies two
   tiles of pairs:

       sums (TILE, TILE) += a (TILE, 2 * TILE) . b (2 * TILE, TILE)

   Of each element of the product, the first and the second halves of the pairs are summed separately, from 0 on, and the
   sum of both is added to `sums`. All steps round to nearest; numbers below 1.2e-38 count as 0 (not when emulated).

   The macros take tile numbers, which are constants: 0 to 7. With GPT_EMULATED_TILES they are computed in C, which tests
   everything but the instructions on any processor. */

#ifndef GPT_TILES_H
#define GPT_TILES_H

#include <stddef.h>

#include "vectors.h"

#define TILE 16

#if defined(__AMX_BF16__) && !defined(GPT_EMULATED_TILES)
  #define GPT_TILES 1
  #include <immintrin.h>
  #include <stdint.h>

static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} gpt_tile_config = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE}};

/* Configure the tiles of this thread, all of full size, and release them. The state of released tiles need not be saved
   when the thread is interrupted. */
INLINE void gpt_begin_tiles(void) { _tile_loadconfig(&gpt_tile_config); }
INLINE void gpt_end_tiles(void) { _tile_release(); }

/* The compiler does not know which memory a tile is loaded from: all of it must be written before. */
  #define GPT_BEFORE_TILE_LOADS() __asm__ volatile("" ::: "memory")
  #define GPT_TILE_ZERO(tile) _tile_zero(tile)
  #define GPT_TILE_LOAD(tile, from, ld) _tile_loadd(tile, from, 4 * (ld))
  #define GPT_TILE_STORE(tile, to, ld) _tile_stored(tile, to, 4 * (ld))
  #define GPT_TILE_MULTIPLY_ADD(sums, a, b) _tile_dpbf16ps(sums, a, b)

#elif defined(GPT_EMULATED_TILES)
  #define GPT_TILES 1
  #include <string.h>

  #include "bfloat16.h"

static __thread unsigned gpt_tiles[8][TILE][TILE];  /* slots; of sums, the bits of float32 */
static __thread int gpt_has_tiles;

INLINE void gpt_begin_tiles(void) {
    memset(gpt_tiles, 0xff, sizeof gpt_tiles);  /* NaN, until a tile is set */
    gpt_has_tiles = 1;
}
INLINE void gpt_end_tiles(void) { gpt_has_tiles = 0; }

static void gpt_emulated_load(unsigned tile[TILE][TILE], const float *from, ptrdiff_t ld) {
    if (!gpt_has_tiles) __builtin_trap();  /* as the instructions */
    for (int i = 0; i < TILE; i++) memcpy(tile[i], from + i * ld, sizeof tile[i]);
}

static void gpt_emulated_store(unsigned tile[TILE][TILE], float *to, ptrdiff_t ld) {
    for (int i = 0; i < TILE; i++) memcpy(to + i * ld, tile[i], sizeof tile[i]);
}

static void gpt_emulated_multiply_add(unsigned sums[TILE][TILE], unsigned a[TILE][TILE], unsigned b[TILE][TILE]) {
    for (int i = 0; i < TILE; i++) {
        float first[TILE] = {0}, second[TILE] = {0};
        for (int p = 0; p < TILE; p++)
            for (int j = 0; j < TILE; j++) {
                first[j] = __builtin_fmaf(gpt_from_word(a[i][p] << 16), gpt_from_word(b[p][j] << 16), first[j]);
                second[j] = __builtin_fmaf(gpt_from_word(a[i][p] & 0xffff0000u), gpt_from_word(b[p][j] & 0xffff0000u),
                                           second[j]);
            }
        for (int j = 0; j < TILE; j++) {
            const float sum = gpt_from_word(sums[i][j]) + (first[j] + second[j]);
            memcpy(&sums[i][j], &sum, sizeof sum);
        }
    }
}

  #define GPT_BEFORE_TILE_LOADS()
  #define GPT_TILE_ZERO(tile) memset(gpt_tiles[tile], 0, sizeof gpt_tiles[tile])
  #define GPT_TILE_LOAD(tile, from, ld) gpt_emulated_load(gpt_tiles[tile], from, ld)
  #define GPT_TILE_STORE(tile, to, ld) gpt_emulated_store(gpt_tiles[tile], to, ld)
  #define GPT_TILE_MULTIPLY_ADD(sums, a, b) gpt_emulated_multiply_add(gpt_tiles[sums], gpt_tiles[a], gpt_tiles[b])

#else
  #define GPT_TILES 0
INLINE void gpt_begin_tiles(void) {}
INLINE void gpt_end_tiles(void) {}
  #define GPT_BEFORE_TILE_LOADS()
  #define GPT_TILE_ZERO(tile)
  #define GPT_TILE_LOAD(tile, from, ld)
  #define GPT_TILE_STORE(tile, to, ld)
  #define GPT_TILE_MULTIPLY_ADD(sums, a, b)
#endif

#define TILES_MR (2 * TILE)  /* of the micro-kernel's 8 tiles, 4 hold sums, 2 hold A, and 2 hold B */
#define TILES_NR (2 * TILE)

/* Tiles of A: slot (i, p) of the first is data[i * ld + p]. */
typedef struct {
    const float *data;
    ptrdiff_t ld;
    ptrdiff_t next_row;  /* from a tile to the next one down the rows */
    ptrdiff_t next_k;    /* and along k */
} gpt_tiles_of_a;

/* to (row_tiles * TILE, column_tiles * TILE) = from + A . B, with B one panel of TILES_NR columns of packed B, and slots
   a multiple of TILE. NULL adds nothing, and a leading dimension of 0 repeats one row. The numbers of tiles are
   constants: 1 or 2.

   Speed only: the rows of C from `next` on (NULL: none) are brought into the cache meanwhile, two per step, perhaps past
   the end of C. All at once would hold up the loads of A and B. */
INLINE void gpt_tiles_microkernel(const int row_tiles, const int column_tiles, ptrdiff_t slots,
                                  const gpt_tiles_of_a *tiles, const float *b, const float *from, ptrdiff_t ld_from,
                                  float *to, ptrdiff_t ld_to, const float *next, ptrdiff_t ld_next) {
    const gpt_tiles_of_a a = *tiles;
    const float *left = a.data;
    GPT_BEFORE_TILE_LOADS();
    if (from == NULL) {
        GPT_TILE_ZERO(0);
        if (column_tiles > 1) GPT_TILE_ZERO(1);
        if (row_tiles > 1) GPT_TILE_ZERO(2);
        if (row_tiles > 1 && column_tiles > 1) GPT_TILE_ZERO(3);
    } else {
        GPT_TILE_LOAD(0, from, ld_from);
        if (column_tiles > 1) GPT_TILE_LOAD(1, from + TILE, ld_from);
        if (row_tiles > 1) GPT_TILE_LOAD(2, from + TILE * ld_from, ld_from);
        if (row_tiles > 1 && column_tiles > 1) GPT_TILE_LOAD(3, from + TILE * ld_from + TILE, ld_from);
    }
    for (ptrdiff_t p = 0; p < slots; p += TILE, left += a.next_k, b += TILE * TILES_NR) {
        if (next) {
            for (int i = 0; i < 2; i++, next += ld_next) {
                __builtin_prefetch(next, 1);
                __builtin_prefetch(next + TILE, 1);
            }
        }
        GPT_TILE_LOAD(4, left, a.ld);
        GPT_TILE_LOAD(6, b, TILES_NR);
        GPT_TILE_MULTIPLY_ADD(0, 4, 6);
        if (column_tiles > 1) {
            GPT_TILE_LOAD(7, b + TILE, TILES_NR);
            GPT_TILE_MULTIPLY_ADD(1, 4, 7);
        }
        if (row_tiles > 1) {
            GPT_TILE_LOAD(5, left + a.next_row, a.ld);
            GPT_TILE_MULTIPLY_ADD(2, 5, 6);
        }
        if (row_tiles > 1 && column_tiles > 1) GPT_TILE_MULTIPLY_ADD(3, 5, 7);
    }
    GPT_TILE_STORE(0, to, ld_to);
    if (column_tiles > 1) GPT_TILE_STORE(1, to + TILE, ld_to);
    if (row_tiles > 1) GPT_TILE_STORE(2, to + TILE * ld_to, ld_to);
    if (row_tiles > 1 && column_tiles > 1) GPT_TILE_STORE(3, to + TILE * ld_to + TILE, ld_to);
}

#endif
