"""The matrix product on one thread, on which all other products are built.

With gcc at AVX2 or AVX-512 it is `matrix_product.h`; elsewhere, and for a single row, it is BLAS.

    C (m, n) = alpha * op(A) (m, k) . op(B) (k, n) + addend (m, n) + bias (n,)

op(X) is X, or its transpose if `transposed`. `matrix_types.h` defines the views Matrix, PackedB and Output.
"""

from cython.parallel cimport prange
from libc.string cimport memcpy, memset

from gpt_core.kernels cimport blas
from gpt_core.kernels.shapes cimport check_equal
from gpt_core.kernels.threads cimport thread_count

cdef extern from *:
    """
    #if defined(__GNUC__) && !defined(__clang__) && defined(__AVX2__)
      #include "matrix_product.h"
      #define GPT_OWN_PRODUCT 1
    #else
      #define GPT_OWN_PRODUCT 0
      #define NR 1
      #define MR 32
      #define gpt_gemm(m, n, k, a, b, out)
      #define gpt_pack_b(transposed, k, n, b, ldb, packed)
      #define gpt_gemm_packed(m, n, k, a, b, out)
    #endif
    """
    const bint GPT_OWN_PRODUCT
    const Py_ssize_t MR
    const Py_ssize_t NR
    void gpt_gemm(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, Matrix a, Matrix b, Output out) noexcept nogil
    void gpt_pack_b(bint transposed, Py_ssize_t k, Py_ssize_t n, const float *b, Py_ssize_t ldb,
                    float *packed) noexcept nogil
    void gpt_gemm_packed(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const Matrix *a, const PackedB *b,
                         const Output *out) noexcept nogil


cdef void gemm(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, Matrix a, Matrix b, Output out) noexcept nogil:
    """C = alpha * op(A) . op(B) + addend + bias, on the calling thread.

    addend and bias may be NULL; addend may be C itself. A single row is left to BLAS, which does not pack B for it.
    """
    cdef Py_ssize_t i
    if GPT_OWN_PRODUCT and m > 1:
        gpt_gemm(m, n, k, a, b, out)
        return
    for i in range(m):
        _initialize_row(out, i, n)
    blas.gemm(a.transposed, b.transposed, m, n, k, out.alpha, a.data, a.ld, b.data, b.ld, 1, out.c, out.ldc)


cdef Py_ssize_t packed_rows() noexcept nogil:
    """Rows of C that `gemm_packed` computes at once (MR). Calls with a multiple of it waste no work."""
    return MR


cdef Py_ssize_t packed_size(Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    """Number of values in packed B (k, n); a multiple of 32, so that consecutive packed matrices stay aligned."""
    return (n + 31) // 32 * 32 * k


cdef PackedB pack(Py_ssize_t k, Py_ssize_t n, Matrix b, float *space) noexcept nogil:
    """Pack op(B) (k, n) into `space`, which holds packed_size(k, n) values, for use in many products.

    With BLAS nothing is packed here: the result refers to b, which must stay in place.
    """
    if GPT_OWN_PRODUCT:
        gpt_pack_b(b.transposed, k, n, b.data, b.ld, space)
        return PackedB(data=space, stride=NR * k, transposed=b.transposed)
    return PackedB(data=b.data, stride=b.ld, transposed=b.transposed)


cdef PackedB packed_slice(PackedB b, Py_ssize_t first_k, Py_ssize_t first_n) noexcept nogil:
    """Return B[first_k:, first_n:]; first_n must be a multiple of 32."""
    if GPT_OWN_PRODUCT:
        b.data += first_n // NR * b.stride + first_k * NR
    else:
        b.data += first_n * b.stride + first_k if b.transposed else first_k * b.stride + first_n
    return b


cdef void gemm_packed(
    Py_ssize_t m,
    Py_ssize_t n,
    Py_ssize_t k,
    const Matrix *a,
    const PackedB *b,
    const Output *out,
) noexcept nogil:
    """C = alpha * op(A) . B + addend with B packed by `pack`; addend must be NULL or C, and bias NULL.

    If m is odd, one more row of op(A) is read, so it must exist; its values do not matter. Speed only: pointers in place
    of copies, because the products of one tile are small.
    """
    if GPT_OWN_PRODUCT:
        gpt_gemm_packed(m, n, k, a, b, out)
        return
    blas.gemm(a.transposed, b.transposed, m, n, k, out.alpha, a.data, a.ld, b.data, b.stride,
              0 if out.addend is NULL else 1, out.c, out.ldc)


cdef void _initialize_row(Output out, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Row i of C = addend + bias."""
    cdef Py_ssize_t j
    cdef float *c = out.c + i * out.ldc
    cdef const float *addend = out.addend + i * out.ld_addend if out.addend is not NULL else NULL
    if addend is NULL and out.bias is NULL:
        memset(c, 0, n * sizeof(float))
    elif addend is NULL:
        memcpy(c, out.bias, n * sizeof(float))
    elif out.bias is not NULL:
        for j in range(n):
            c[j] = addend[j] + out.bias[j]
    elif addend is not c:
        memcpy(c, addend, n * sizeof(float))


def is_own():
    """Return True if products of more than one row use `matrix_product.h`, False if they use BLAS."""
    return bool(GPT_OWN_PRODUCT)


def library_product(
    float[:, ::1] c,
    const float[:, ::1] a,
    const float[:, ::1] b,
):
    """Compute c (M, N) = a (M, K) . b (K, N) with BLAS, for comparison with `linear.product`.

    Threads divide the rows of c.

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t M = c.shape[0], N = c.shape[1], K = a.shape[1], part, parts = thread_count()
    check_equal("library_product: rows of a", a.shape[0], M)
    check_equal("library_product: rows of b", b.shape[0], K)
    check_equal("library_product: columns of b", b.shape[1], N)
    for part in prange(parts, nogil=True, schedule="static", num_threads=parts):
        _library_rows(&c[0, 0], &a[0, 0], &b[0, 0], M * part // parts, M * (part + 1) // parts, N, K)


cdef void _library_rows(
    float *c,
    const float *a,
    const float *b,
    Py_ssize_t start,
    Py_ssize_t stop,
    Py_ssize_t N,
    Py_ssize_t K,
) noexcept nogil:
    if start < stop:
        blas.gemm(False, False, stop - start, N, K, 1, a + start * K, K, b, N, 0, c + start * N, N)
