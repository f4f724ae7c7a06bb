"""The matrix product on one thread, on which all other products are built.

With gcc at AVX2, AVX-512 or Arm's bfloat16 instructions it is `matrix_product.h`; elsewhere, and for a single float32
row, it is BLAS.

    C (m, n) = alpha * op(A) (m, k) . op(B) (k, n) + addend (m, n) + bias (n,)

op(X) is X, or its transpose if `transposed`. `matrix_types.h` defines the views Matrix, PackedB and Output.

The format says how the operands are multiplied: as float32, or rounded to bfloat16. Sums are float32. With
`matrix_product.h`, A, B and C may be stored in bfloat16 if they are multiplied in it, C if k is at most
`max_stored_depth`; callers check this.
"""

from cython.parallel cimport prange
from libc.string cimport memcpy, memset

from gpt_core.kernels cimport blas
from gpt_core.kernels.bfloat16 cimport round_to_bfloat16
from gpt_core.kernels.shapes cimport check_product
from gpt_core.kernels.threads cimport thread_count

cdef extern from *:
    """
    #if defined(__GNUC__) && !defined(__clang__) && (defined(__AVX2__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC))
      #include "matrix_product.h"
      #define GPT_OWN_PRODUCT 1
      #define GPT_MAX_DEPTH (2 * KC)
    #else
      #define GPT_OWN_PRODUCT 0
      #define GPT_MAX_DEPTH 0
      #define gpt_mr(format) 32
      #define gpt_nr(format) 1
      #define gpt_in_tiles(format) 0
      #define gpt_begin_tiles()
      #define gpt_end_tiles()
      #define gpt_panel_slots(format, k) (k)
      #define gpt_gemm(format, m, n, k, a, b, out, lower)
      #define gpt_pack(format, k, n, b, packed) (gpt_packed_b){0}
      #define gpt_pack_row(format, stored, k, row, slots)
      #define gpt_pack_transposed(m, k, a, lda, space) (gpt_matrix){0}
      #define gpt_gemm_packed(format, m, n, k, a, b, out)
    #endif
    #if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
      #define GPT_NATIVE_BFLOAT16 GPT_OWN_PRODUCT
    #else
      #define GPT_NATIVE_BFLOAT16 0
    #endif
    #if defined(_MSC_VER)
      #define GPT_THREAD_LOCAL __declspec(thread)
    #else
      #define GPT_THREAD_LOCAL __thread
    #endif
    /* blocks of A and B, rounded to bfloat16, for BLAS */
    enum { BLOCK_M = 112, BLOCK_N = 1024, BLOCK_K = 256 };
    #if GPT_OWN_PRODUCT
      static float *gpt_block_a, *gpt_block_b;
    #else
      static GPT_THREAD_LOCAL float gpt_block_a[BLOCK_M * BLOCK_K], gpt_block_b[BLOCK_K * BLOCK_N];
    #endif
    """
    const bint GPT_OWN_PRODUCT
    const bint GPT_NATIVE_BFLOAT16
    const Py_ssize_t GPT_MAX_DEPTH
    const Py_ssize_t BLOCK_M
    const Py_ssize_t BLOCK_N
    const Py_ssize_t BLOCK_K
    float *gpt_block_a
    float *gpt_block_b
    Py_ssize_t gpt_mr(Format format) noexcept nogil
    Py_ssize_t gpt_nr(Format format) noexcept nogil
    bint gpt_in_tiles(Format format) noexcept nogil
    void gpt_begin_tiles() noexcept nogil
    void gpt_end_tiles() noexcept nogil
    Py_ssize_t gpt_panel_slots(Format format, Py_ssize_t k) noexcept nogil
    void gpt_gemm(Format format, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, Matrix a, Matrix b, Output out,
                  bint lower) noexcept nogil
    PackedB gpt_pack(Format format, Py_ssize_t k, Py_ssize_t n, Matrix b, float *packed) noexcept nogil
    void gpt_pack_row(Format format, Format stored, Py_ssize_t k, const void *row, float *slots) noexcept nogil
    Matrix gpt_pack_transposed(Py_ssize_t m, Py_ssize_t k, const float *a, Py_ssize_t lda, float *space) noexcept nogil
    void gpt_gemm_packed(Format format, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const Matrix *a, const PackedB *b,
                         const Output *out) noexcept nogil


cdef void gemm(
    Format format,
    Py_ssize_t m,
    Py_ssize_t n,
    Py_ssize_t k,
    Matrix a,
    Matrix b,
    Output out,
) noexcept nogil:
    """C = alpha * op(A) . op(B) + addend + bias, on the calling thread.

    addend and bias may be NULL; addend may be C itself. A single float32 row is left to BLAS, which does not pack B for
    it.
    """
    cdef Py_ssize_t i
    if GPT_OWN_PRODUCT and (m > 1 or format == BFLOAT16):
        gpt_gemm(format, m, n, k, a, b, out, False)
        return
    for i in range(m):
        _initialize_row(out, i, n)
    if format == BFLOAT16:
        _add_rounded(m, n, k, a, b, out)
    else:
        blas.gemm(a.transposed, b.transposed, m, n, k, out.alpha, <const float*>a.data, a.ld, <const float*>b.data, b.ld,
                  1, <float*>out.c, out.ldc)


cdef void symmetric_gemm(
    Format format,
    Py_ssize_t n,
    Py_ssize_t k,
    Matrix a,
    Matrix b,
    Output out,
) noexcept nogil:
    """Compute a C (n, n) that is symmetric: the tiles at and below the diagonal, which are then copied above it."""
    if GPT_OWN_PRODUCT:
        gpt_gemm(format, n, n, k, a, b, out, True)
    else:
        gemm(format, n, n, k, a, b, out)
    _copy_lower_triangle(n, <float*>out.c, out.ldc)


cdef void _copy_lower_triangle(Py_ssize_t n, float *c, Py_ssize_t ldc) noexcept nogil:
    """c[j, i] = c[i, j] for j < i, in squares that stay in the level-1 cache."""
    cdef Py_ssize_t first_i, first_j, i, j
    for first_i in range(0, n, 16):
        for first_j in range(0, first_i + 1, 16):
            for i in range(first_i, min(first_i + 16, n)):
                for j in range(first_j, min(first_j + 16, i)):
                    c[j * ldc + i] = c[i * ldc + j]


cdef void _add_rounded(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, Matrix a, Matrix b, Output out) noexcept nogil:
    """C += alpha * op(A) . op(B) with both rounded to bfloat16: BLAS on rounded copies of one block at a time."""
    cdef Py_ssize_t jc = 0, pc, ic, rows, columns, depth
    while jc < n:
        columns, pc = min(BLOCK_N, n - jc), 0
        while pc < k:
            depth, ic = min(BLOCK_K, k - pc), 0
            _round_block(gpt_block_b, b, pc, jc, depth, columns)
            while ic < m:
                rows = min(BLOCK_M, m - ic)
                _round_block(gpt_block_a, a, ic, pc, rows, depth)
                blas.gemm(False, False, rows, columns, depth, out.alpha, gpt_block_a, depth, gpt_block_b, columns, 1,
                          <float*>out.c + ic * out.ldc + jc, out.ldc)
                ic += BLOCK_M
            pc += BLOCK_K
        jc += BLOCK_N


cdef void _round_block(
    float *to,
    Matrix x,
    Py_ssize_t first_row,
    Py_ssize_t first_column,
    Py_ssize_t rows,
    Py_ssize_t columns,
) noexcept nogil:
    """to (rows, columns) = op(x)[first_row:, first_column:], each value rounded to bfloat16, ties to even."""
    cdef Py_ssize_t i, j, row_stride = 1 if x.transposed else x.ld, column_stride = x.ld if x.transposed else 1
    cdef const float *row
    for i in range(rows):
        row = <const float*>x.data + (first_row + i) * row_stride + first_column * column_stride
        for j in range(columns):
            to[i * columns + j] = round_to_bfloat16(row[j * column_stride])


cdef Py_ssize_t max_stored_depth() noexcept nogil:
    """Return the largest k of a product whose C can be stored in bfloat16: one block, so no part is rounded.

    It is 0 where BLAS computes the products, which reads and writes float32 only.
    """
    return GPT_MAX_DEPTH


cdef Format format_of(bint bfloat16) noexcept nogil:
    """Return the format of products with operands packed by `pack`; float32 where BLAS computes them."""
    return BFLOAT16 if bfloat16 and GPT_OWN_PRODUCT else FLOAT32


cdef void begin_packed(Format format) noexcept nogil:
    """Prepare the calling thread for `gemm_packed`; call `end_packed` after the last product."""
    if gpt_in_tiles(format):
        gpt_begin_tiles()


cdef void end_packed(Format format) noexcept nogil:
    """Release what `begin_packed` has prepared."""
    if gpt_in_tiles(format):
        gpt_end_tiles()


cdef void pack_row(Format format, Format stored, Py_ssize_t k, const void *row, float *slots) noexcept nogil:
    """Write k values as slots, for an A that `gemm_packed` reads in place; slots may be row itself.

    In tiles, zeros follow up to a multiple of READ_AT_ONCE slots.
    """
    if GPT_OWN_PRODUCT:
        gpt_pack_row(format, stored, k, row, slots)
    else:
        memcpy(slots, row, k * sizeof(float))


cdef Matrix pack_transposed(
    Format format,
    Py_ssize_t m,
    Py_ssize_t k,
    const float *a,
    Py_ssize_t lda,
    float *space,
) noexcept nogil:
    """Return A (m, k) for `gemm_packed`, from A^T (k, m): A^T itself, or what the format needs, written to `space`.

    The leading dimension stays lda, which is at least m and at least the slots of k, filled up to a multiple of
    READ_AT_ONCE. `space` holds max(m, k) rows.
    """
    if format == FLOAT32:
        return Matrix(a, lda, True, FLOAT32)
    return gpt_pack_transposed(m, k, a, lda, space)


cdef bint in_tiles(Format format) noexcept nogil:
    """Return True if products of the format are computed in the tiles of AMX."""
    return gpt_in_tiles(format)


cdef Py_ssize_t packed_rows(Format format) noexcept nogil:
    """Rows of C that `gemm_packed` computes at once (MR). Calls with a multiple of it waste no work."""
    return gpt_mr(format)


cdef Py_ssize_t packed_size(Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    """Number of slots in packed B (k, n) of either format.

    A multiple of 32, so that consecutive packed matrices stay aligned.
    """
    return (n + 31) // 32 * 32 * max(gpt_panel_slots(FLOAT32, k), gpt_panel_slots(BFLOAT16, k))


cdef PackedB pack(Format format, Py_ssize_t k, Py_ssize_t n, Matrix b, float *space) noexcept nogil:
    """Pack op(B) (k, n) into `space`, which holds packed_size(k, n) slots, for use in many products.

    With BLAS nothing is packed here: the result refers to b, which must stay in place.
    """
    if GPT_OWN_PRODUCT:
        return gpt_pack(format, k, n, b, space)
    return PackedB(data=<const float*>b.data, stride=b.ld, transposed=b.transposed)


cdef PackedB packed_slice(Format format, PackedB b, Py_ssize_t first_k, Py_ssize_t first_n) noexcept nogil:
    """Return B[first_k:, first_n:]; first_n must be a multiple of 32, and first_k even if the format is bfloat16."""
    if GPT_OWN_PRODUCT:
        b.data += first_n // gpt_nr(format) * b.stride + _slots(format, first_k) * gpt_nr(format)
    else:
        b.data += first_n * b.stride + first_k if b.transposed else first_k * b.stride + first_n
    return b


cdef void gemm_packed(
    Format format,
    Py_ssize_t m,
    Py_ssize_t n,
    Py_ssize_t k,
    const Matrix *a,
    const PackedB *b,
    const Output *out,
) noexcept nogil:
    """C = alpha * op(A) . B + addend with B packed by `pack`; addend must be NULL or C, and bias NULL.

    With bfloat16, op(A) consists of slots, and so does its leading dimension. Rows of op(A) are read up to a multiple of
    READ_AT_ONCE, so they must exist; the values of those past m do not matter. Call `begin_packed` before. Speed only:
    pointers in place of copies, because the products of one tile are small.
    """
    if GPT_OWN_PRODUCT:
        gpt_gemm_packed(format, m, n, k, a, b, out)
        return
    blas.gemm(a.transposed, b.transposed, m, n, k, out.alpha, <const float*>a.data, a.ld, b.data, b.stride,
              0 if out.addend is NULL else 1, <float*>out.c, out.ldc)


cdef inline Py_ssize_t _slots(Format format, Py_ssize_t k) noexcept nogil:
    """Number of slots for k values."""
    return (k + 1) // 2 if format == BFLOAT16 else k


cdef void _initialize_row(Output out, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Row i of C = addend + bias."""
    cdef Py_ssize_t j
    cdef float *c = <float*>out.c + i * out.ldc
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
    """Return True if products use `matrix_product.h`, except those of a single float32 row; False if they use BLAS."""
    return bool(GPT_OWN_PRODUCT)


def stores_bfloat16(Py_ssize_t depth=1):
    """Return True if bfloat16 products over `depth` values (k) can read and write arrays of bfloat16."""
    return depth <= GPT_MAX_DEPTH


def has_native_bfloat16():
    """Return True if bfloat16 products use instructions for them (vdpbf16ps, bfdot, AMX), False if emulated."""
    return bool(GPT_NATIVE_BFLOAT16)


def has_tiles():
    """Return True if bfloat16 products are computed in tiles, by AMX or emulated."""
    return bool(gpt_in_tiles(BFLOAT16))


def product(
    float[:, ::1] c,
    const float[:, ::1] a,
    const float[:, ::1] b,
    bint bfloat16=False,
):
    """Compute c = a . b on the calling thread alone. Its time depends less on other load than that of several threads.

    Shape:
        c (M, N); a (M, K); b (K, N).

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t M = c.shape[0], N = c.shape[1], K = a.shape[1]
    check_product(c.shape, a.shape[0], K, b.shape[0], b.shape[1])
    with nogil:
        gemm(BFLOAT16 if bfloat16 else FLOAT32, M, N, K, Matrix(&a[0, 0], K, False, FLOAT32),
             Matrix(&b[0, 0], N, False, FLOAT32), Output(&c[0, 0], N, NULL, 0, NULL, 1, FLOAT32))


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
    check_product(c.shape, a.shape[0], K, b.shape[0], b.shape[1])
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
