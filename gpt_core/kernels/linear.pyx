"""Matrix products shared among threads, and the linear layer y = x . w + b made of them."""

from cython.parallel cimport prange
from libc.string cimport memcpy

from gpt_core.kernels.blas cimport gemm
from gpt_core.kernels.shapes cimport want, want_positive
from gpt_core.kernels.threads cimport threads_for


def forward(float[:, ::1] y, const float[:, ::1] x, const float[:, ::1] weight, const float[::1] bias,
            const float[:, ::1] residual=None):
    """y (N, O) = x (N, I) . weight (I, O) + bias (O,), and + residual (N, O) if one is given."""
    cdef Py_ssize_t N = y.shape[0], O = y.shape[1], I = x.shape[1], n, part, threads, step
    cdef const float *first_residual = NULL
    want("linear: length of bias", bias.shape[0], O)
    _check_product(y.shape, x.shape[0], x.shape[1], weight.shape[0], weight.shape[1])
    if residual is not None:
        want("linear: rows of residual", residual.shape[0], N)
        want("linear: channels of residual", residual.shape[1], O)
        first_residual = &residual[0, 0]
    threads = threads_for(N * I * O)
    step = min(512, _share(N, threads))  # rows that are begun with bias and residual and finished while in the cache
    if N < O:  # few rows: the columns are shared
        for n in range(N):
            _start_row(&y[n, 0], &bias[0], first_residual + n * O if first_residual is not NULL else first_residual, O)
        with nogil:
            _shared_gemm(False, False, N, O, I, 1, &x[0, 0], I, &weight[0, 0], O, 1, &y[0, 0], O)
        return
    for part in prange((N + step - 1) // step, nogil=True, schedule="dynamic", num_threads=threads):
        _forward_rows(&y[0, 0], &x[0, 0], &weight[0, 0], &bias[0], first_residual, part * step,
                      min(N, (part + 1) * step), I, O)


def backward(float[:, ::1] d_x, float[:, ::1] d_weight, float[::1] d_bias, const float[:, ::1] d_y,
             const float[:, ::1] x, const float[:, ::1] weight):
    """d_x (N, I) = d_y (N, O) . weight^T (O, I); d_weight (I, O) += x^T (I, N) . d_y; d_bias (O,) += sum_n d_y."""
    cdef Py_ssize_t N = d_y.shape[0], O = d_y.shape[1], I = x.shape[1], block
    cdef Py_ssize_t blocks = threads_for(N * O)
    want("linear: length of d_bias", d_bias.shape[0], O)
    _check_product(d_x.shape, N, O, weight.shape[1], weight.shape[0])
    _check_product(d_weight.shape, I, x.shape[0], N, O)
    # each thread sums whole columns, so the sums do not depend on the number of threads
    for block in prange(blocks, nogil=True, schedule="static", num_threads=blocks):
        _sum_columns(&d_bias[0], &d_y[0, 0], N, O, O * block // blocks, O * (block + 1) // blocks)
    with nogil:
        _shared_gemm(False, True, N, I, O, 1, &d_y[0, 0], O, &weight[0, 0], O, 0, &d_x[0, 0], I)
        _shared_gemm(True, False, I, O, N, 1, &x[0, 0], I, &d_y[0, 0], O, 1, &d_weight[0, 0], O)


def product(float[:, ::1] c, const float[:, ::1] a, const float[:, ::1] b, bint transpose_a=False,
            bint transpose_b=False, bint accumulate=False):
    """c (M, N) = op(a) (M, K) . op(b) (K, N), where op transposes if asked; with `accumulate` this is added to c."""
    cdef Py_ssize_t rows_a = a.shape[0], columns_a = a.shape[1], rows_b = b.shape[0], columns_b = b.shape[1]
    if transpose_a:
        rows_a, columns_a = columns_a, rows_a
    if transpose_b:
        rows_b, columns_b = columns_b, rows_b
    _check_product(c.shape, rows_a, columns_a, rows_b, columns_b)
    with nogil:
        _shared_gemm(transpose_a, transpose_b, c.shape[0], c.shape[1], columns_a, 1, &a[0, 0], a.shape[1],
                     &b[0, 0], b.shape[1], 1 if accumulate else 0, &c[0, 0], c.shape[1])


cdef int _check_product(const Py_ssize_t *c, Py_ssize_t rows_a, Py_ssize_t columns_a, Py_ssize_t rows_b,
                        Py_ssize_t columns_b) except -1:
    want_positive("product: rows", rows_a)
    want_positive("product: inner length", columns_a)
    want_positive("product: columns", columns_b)
    want("product: rows of the right factor", rows_b, columns_a)
    want("product: rows of the result", c[0], rows_a)
    want("product: columns of the result", c[1], columns_b)
    return 0


cdef void _shared_gemm(bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, float alpha,
                       const float *a, Py_ssize_t lda, const float *b, Py_ssize_t ldb, float beta,
                       float *c, Py_ssize_t ldc) noexcept nogil:
    """`gemm` with the longer side of c split among the threads, so that nothing has to be reduced."""
    cdef Py_ssize_t threads = threads_for(m * n * k), part
    cdef bint by_rows = m >= n
    cdef Py_ssize_t longer = m if by_rows else n, step = _share(longer, threads)
    if threads == 1:
        gemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
        return
    for part in prange((longer + step - 1) // step, schedule="static", num_threads=threads):
        if by_rows:
            _gemm_rows(transpose_a, transpose_b, part * step, min(m, (part + 1) * step), n, k, alpha, a, lda, b, ldb,
                       beta, c, ldc)
        else:
            _gemm_columns(transpose_a, transpose_b, m, part * step, min(n, (part + 1) * step), k, alpha, a, lda, b, ldb,
                          beta, c, ldc)


cdef Py_ssize_t _share(Py_ssize_t length, Py_ssize_t threads) noexcept nogil:
    """The length of one thread's part: a multiple of 16, as the register blocks of a product are."""
    return ((length + threads - 1) // threads + 15) // 16 * 16


cdef void _forward_rows(float *y, const float *x, const float *weight, const float *bias, const float *residual,
                        Py_ssize_t first, Py_ssize_t stop, Py_ssize_t I, Py_ssize_t O) noexcept nogil:
    cdef Py_ssize_t n
    for n in range(first, stop):
        _start_row(y + n * O, bias, residual + n * O if residual is not NULL else residual, O)
    # y (rows, O) += x (rows, I) . weight (I, O)
    gemm(False, False, stop - first, O, I, 1, x + first * I, I, weight, O, 1, y + first * O, O)


cdef void _gemm_rows(bint transpose_a, bint transpose_b, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t n, Py_ssize_t k,
                     float alpha, const float *a, Py_ssize_t lda, const float *b, Py_ssize_t ldb, float beta,
                     float *c, Py_ssize_t ldc) noexcept nogil:
    if first < stop:
        gemm(transpose_a, transpose_b, stop - first, n, k, alpha, a + first * (1 if transpose_a else lda), lda, b, ldb,
             beta, c + first * ldc, ldc)


cdef void _gemm_columns(bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t first, Py_ssize_t stop,
                        Py_ssize_t k, float alpha, const float *a, Py_ssize_t lda, const float *b, Py_ssize_t ldb,
                        float beta, float *c, Py_ssize_t ldc) noexcept nogil:
    if first < stop:
        gemm(transpose_a, transpose_b, m, stop - first, k, alpha, a, lda, b + first * (ldb if transpose_b else 1), ldb,
             beta, c + first, ldc)


cdef void _start_row(float *y, const float *bias, const float *residual, Py_ssize_t O) noexcept nogil:
    cdef Py_ssize_t o
    if residual is NULL:
        memcpy(y, bias, O * sizeof(float))
    else:
        for o in range(O):
            y[o] = residual[o] + bias[o]


cdef void _sum_columns(float *d_bias, const float *d_y, Py_ssize_t N, Py_ssize_t O, Py_ssize_t first,
                       Py_ssize_t stop) noexcept nogil:
    cdef Py_ssize_t n, o
    for n in range(N):
        for o in range(first, stop):
            d_bias[o] += d_y[n * O + o]
