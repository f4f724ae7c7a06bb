/* Views of matrices, row-major, that the kernels pass to each other. A leading dimension (ld) is the number of values
   from the start of one stored row to the start of the next.

   `stored` is the number format of a matrix in memory: float32, or for a product in bfloat16 also bfloat16 (16 bits). */

#ifndef GPT_MATRIX_TYPES_H
#define GPT_MATRIX_TYPES_H

#include <stddef.h>
#include <stdint.h>

/* The number format in which a product's operands are multiplied. Sums are float32. Packed operands consist of slots of
   32 bits: one float32, or two bfloat16 that follow each other along k, the first in the lower half. */
typedef enum { GPT_FLOAT32, GPT_BFLOAT16 } gpt_format;

typedef struct {          /* op(x): x itself, or x^T if `transposed` */
    const void *data;
    ptrdiff_t ld;
    int transposed;
    gpt_format stored;
} gpt_matrix;

/* Where the value is that follows `data` by `count` values. */
static inline const void *gpt_at(const void *data, ptrdiff_t count, gpt_format stored) {
    return (const char *)data + count * (stored == GPT_BFLOAT16 ? sizeof(uint16_t) : sizeof(float));
}

typedef struct {          /* packed B, made by `pack` in gemm.pyx and only read there */
    const float *data;
    ptrdiff_t stride;     /* from one panel of NR columns to the next; with BLAS, the ld of the original matrix */
    int transposed;
} gpt_packed_b;

typedef struct {          /* where a product is stored, and what is added to it: c = alpha * product + addend + bias */
    void *c;
    ptrdiff_t ldc;
    const float *addend;  /* NULL: none; c itself: accumulate */
    ptrdiff_t ld_addend;
    const float *bias;    /* one value per column; NULL: none */
    float alpha;
    gpt_format stored;    /* format of c; in bfloat16 there is no addend, and k is at most `max_stored_depth` */
} gpt_output;

#endif
