"""The matrix product of one thread, that all others are made of: our own where vectors are wide, else BLAS's."""

from cython.parallel cimport prange
from libc.string cimport memcpy, memset

from gpt_core.kernels cimport blas
from gpt_core.kernels.shapes cimport want
from gpt_core.kernels.threads cimport thread_count

cdef extern from *:
    """
    #if defined(__GNUC__) && !defined(__clang__) && defined(__AVX2__)
      #include "matrix_product.h"
      #define GPT_OWN_PRODUCT 1
    #else
      #include <stddef.h>
      typedef struct { float *c; const float *addend, *bias; ptrdiff_t ldc, ld_addend; float alpha; } gpt_result;
      #define GPT_OWN_PRODUCT 0
      #define WIDTH 1
      #define HEIGHT 32
      #define gpt_product(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, result) (void)(result)
      #define gpt_pack_b(transposed, k, n, b, ldb, panels)
      #define gpt_packed_product(transpose_a, m, n, k, alpha, a, lda, panels, distance, c, ldc, accumulate)
    #endif
    """
    const bint GPT_OWN_PRODUCT
    const Py_ssize_t WIDTH
    const Py_ssize_t HEIGHT
    ctypedef struct gpt_result:
        float *c
        const float *addend
        const float *bias
        Py_ssize_t ldc
        Py_ssize_t ld_addend
        float alpha
    void gpt_product(bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const float *a,
                     Py_ssize_t lda, const float *b, Py_ssize_t ldb, gpt_result result) noexcept nogil
    void gpt_pack_b(bint transposed, Py_ssize_t k, Py_ssize_t n, const float *b, Py_ssize_t ldb,
                    float *panels) noexcept nogil
    void gpt_packed_product(bint transpose_a, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, float alpha, const float *a,
                            Py_ssize_t lda, const float *panels, Py_ssize_t distance, float *c, Py_ssize_t ldc,
                            bint accumulate) noexcept nogil


cdef void gemm(bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, float alpha,
               const float *a, Py_ssize_t lda, const float *b, Py_ssize_t ldb, float *c, Py_ssize_t ldc,
               const float *addend, Py_ssize_t ld_addend, const float *bias) noexcept nogil:
    """c (m, n) = alpha * op(a) (m, k) . op(b) (k, n) + addend (m, n) + bias (n,), on the calling thread alone.

    op transposes where asked; lda, ldb, ldc and ld_addend are the distances between the rows as they lie in memory.
    addend and bias may be NULL; addend may be c itself. A single row is left to BLAS, which does not pack b for it.
    """
    cdef gpt_result result
    cdef Py_ssize_t i
    if GPT_OWN_PRODUCT and m > 1:
        result.c, result.ldc, result.alpha = c, ldc, alpha
        result.addend, result.ld_addend, result.bias = addend, ld_addend, bias
        gpt_product(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, result)
        return
    for i in range(m):
        _start_row(c + i * ldc, addend + i * ld_addend if addend is not NULL else addend, bias, n)
    blas.gemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, 1, c, ldc)


cdef Py_ssize_t packed_rows() noexcept nogil:
    """How many rows of a result `gemm_packed` makes at once: where less is to be done of each, steps of these lose nothing."""
    return HEIGHT


cdef Py_ssize_t packed_size(Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    """Values that a packed factor (k, n) takes: a multiple of 16, so that one after the other stays aligned."""
    return (n + 31) // 32 * 32 * k


cdef Factor pack(bint transpose, Py_ssize_t k, Py_ssize_t n, const float *b, Py_ssize_t ldb, float *space) noexcept nogil:
    """op(b) (k, n) made ready, in packed_size(k, n) values of space, to be the right factor of many products.

    BLAS packs for itself: for it, b is only remembered, and has to stay."""
    cdef Factor result
    result.b, result.ld, result.transposed = b, ldb, transpose
    if GPT_OWN_PRODUCT:
        gpt_pack_b(transpose, k, n, b, ldb, space)
        result.b, result.ld = space, WIDTH * k
    return result


cdef void gemm_packed(bint transpose_a, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, float alpha, const float *a,
                      Py_ssize_t lda, Factor b, Py_ssize_t first_k, Py_ssize_t first_n, float *c, Py_ssize_t ldc,
                      bint accumulate) noexcept nogil:
    """c (m, n) = alpha * op(a) (m, k) . b[first_k:, first_n:] (k, n), added to c if `accumulate`; first_n is a multiple
    of 32. Where m is odd, one row of a more is read, and has to be there; nothing is made of it."""
    cdef const float *part
    if GPT_OWN_PRODUCT:
        part = b.b + first_n // WIDTH * b.ld + first_k * WIDTH
        gpt_packed_product(transpose_a, m, n, k, alpha, a, lda, part, b.ld, c, ldc, accumulate)
        return
    part = b.b + (first_n * b.ld + first_k if b.transposed else first_k * b.ld + first_n)
    blas.gemm(transpose_a, b.transposed, m, n, k, alpha, a, lda, part, b.ld, 1 if accumulate else 0, c, ldc)


def is_own():
    """Whether products of more than one row are computed by this package, and not by BLAS."""
    return bool(GPT_OWN_PRODUCT)


def library_product(float[:, ::1] c, const float[:, ::1] a, const float[:, ::1] b):
    """c (M, N) = a (M, K) . b (K, N) by BLAS, whatever `gemm` uses, its rows shared among the threads: to compare with."""
    cdef Py_ssize_t M = c.shape[0], N = c.shape[1], K = a.shape[1], part, parts = thread_count()
    want("library_product: rows of a", a.shape[0], M)
    want("library_product: rows of b", b.shape[0], K)
    want("library_product: columns of b", b.shape[1], N)
    for part in prange(parts, nogil=True, schedule="static", num_threads=parts):
        _library_rows(&c[0, 0], &a[0, 0], &b[0, 0], M * part // parts, M * (part + 1) // parts, N, K)


cdef void _library_rows(float *c, const float *a, const float *b, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t N,
                        Py_ssize_t K) noexcept nogil:
    if first < stop:
        blas.gemm(False, False, stop - first, N, K, 1, a + first * K, K, b, N, 0, c + first * N, N)


cdef void _start_row(float *c, const float *addend, const float *bias, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    if addend is NULL and bias is NULL:
        memset(c, 0, n * sizeof(float))
    elif addend is NULL:
        memcpy(c, bias, n * sizeof(float))
    elif bias is not NULL:
        for j in range(n):
            c[j] = addend[j] + bias[j]
    elif addend is not c:
        memcpy(c, addend, n * sizeof(float))
