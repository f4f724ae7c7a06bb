"""Matrix products shared among threads, and the linear layer y = x . w + b made of them."""

from cython.parallel cimport prange

from gpt_core.kernels.gemm cimport gemm
from gpt_core.kernels.shapes cimport want, want_positive
from gpt_core.kernels.threads cimport threads_for


def forward(float[:, ::1] y, const float[:, ::1] x, const float[:, ::1] weight, const float[::1] bias,
            const float[:, ::1] residual=None):
    """y (N, O) = x (N, I) . weight (I, O) + bias (O,), and + residual (N, O) if one is given."""
    cdef Py_ssize_t N = y.shape[0], O = y.shape[1], I = x.shape[1]
    cdef const float *first_residual = NULL
    want("linear: length of bias", bias.shape[0], O)
    _check_product(y.shape, x.shape[0], x.shape[1], weight.shape[0], weight.shape[1])
    if residual is not None:
        want("linear: rows of residual", residual.shape[0], N)
        want("linear: channels of residual", residual.shape[1], O)
        first_residual = &residual[0, 0]
    with nogil:
        _shared_gemm(False, False, N, O, I, &x[0, 0], I, &weight[0, 0], O, &y[0, 0], first_residual, &bias[0])


def backward(float[:, ::1] d_x, float[:, ::1] d_weight, float[::1] d_bias, const float[:, ::1] d_y,
             const float[:, ::1] x, const float[:, ::1] weight):
    """d_x (N, I) = d_y (N, O) . weight^T (O, I); d_weight (I, O) += x^T (I, N) . d_y; d_bias (O,) += sum_n d_y."""
    cdef Py_ssize_t N = d_y.shape[0], O = d_y.shape[1], I = x.shape[1], part
    cdef Py_ssize_t parts = threads_for(2 * N * O * I)
    want("linear: length of d_bias", d_bias.shape[0], O)
    _check_product(d_x.shape, N, O, weight.shape[1], weight.shape[0])
    _check_product(d_weight.shape, I, x.shape[0], N, O)
    for part in prange(parts, nogil=True, schedule="static", num_threads=parts):
        _backward_part(part, parts, &d_x[0, 0], &d_weight[0, 0], &d_bias[0], &d_y[0, 0], &x[0, 0], &weight[0, 0], N, I, O)


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
        _shared_gemm(transpose_a, transpose_b, c.shape[0], c.shape[1], columns_a, &a[0, 0], a.shape[1], &b[0, 0],
                     b.shape[1], &c[0, 0], &c[0, 0] if accumulate else NULL, NULL)


cdef int _check_product(const Py_ssize_t *c, Py_ssize_t rows_a, Py_ssize_t columns_a, Py_ssize_t rows_b,
                        Py_ssize_t columns_b) except -1:
    want_positive("product: rows", rows_a)
    want_positive("product: inner length", columns_a)
    want_positive("product: columns", columns_b)
    want("product: rows of the right factor", rows_b, columns_a)
    want("product: rows of the result", c[0], rows_a)
    want("product: columns of the result", c[1], columns_b)
    return 0


cdef void _shared_gemm(bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const float *a,
                       Py_ssize_t lda, const float *b, Py_ssize_t ldb, float *c, const float *addend,
                       const float *bias) noexcept nogil:
    """`gemm` shared among the threads. The rows of c and of the addend are n long."""
    cdef Py_ssize_t parts = threads_for(m * n * k), part
    for part in prange(parts, schedule="static", num_threads=parts):
        _gemm_part(part, parts, transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, addend, bias)


cdef void _gemm_part(Py_ssize_t part, Py_ssize_t parts, bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n,
                     Py_ssize_t k, const float *a, Py_ssize_t lda, const float *b, Py_ssize_t ldb, float *c,
                     const float *addend, const float *bias) noexcept nogil:
    """One thread's part: the longer side of c is split, so that nothing has to be reduced."""
    cdef bint by_rows = m >= n
    cdef Py_ssize_t longer = m if by_rows else n, step = _share(longer, parts)
    cdef Py_ssize_t first = min(longer, part * step), stop = min(longer, (part + 1) * step)
    if first == stop:
        return
    if by_rows:
        gemm(transpose_a, transpose_b, stop - first, n, k, 1, a + first * (1 if transpose_a else lda), lda, b, ldb,
             c + first * n, n, addend + first * n if addend is not NULL else addend, n, bias)
    else:
        gemm(transpose_a, transpose_b, m, stop - first, k, 1, a, lda, b + first * (ldb if transpose_b else 1), ldb,
             c + first, n, addend + first if addend is not NULL else addend, n,
             bias + first if bias is not NULL else bias)


cdef Py_ssize_t _share(Py_ssize_t length, Py_ssize_t threads) noexcept nogil:
    """The length of one thread's part: a multiple of 16, and so that no part is one row alone, which BLAS would sum in
    another order."""
    cdef Py_ssize_t step = ((length + threads - 1) // threads + 15) // 16 * 16
    while length % step == 1 and length > 1:
        step += 16
    return step


cdef void _backward_part(Py_ssize_t part, Py_ssize_t parts, float *d_x, float *d_weight, float *d_bias, const float *d_y,
                         const float *x, const float *weight, Py_ssize_t N, Py_ssize_t I, Py_ssize_t O) noexcept nogil:
    """One thread's part of all three, which do not wait for each other. It sums whole columns of d_bias, so the sums do
    not depend on the number of threads."""
    _sum_columns(d_bias, d_y, N, O, O * part // parts, O * (part + 1) // parts)
    # d_x (N, I) = d_y (N, O) . weight^T (O, I)
    _gemm_part(part, parts, False, True, N, I, O, d_y, O, weight, O, d_x, NULL, NULL)
    # d_weight (I, O) += x^T (I, N) . d_y (N, O)
    _gemm_part(part, parts, True, False, I, O, N, x, I, d_y, O, d_weight, d_weight, NULL)


cdef void _sum_columns(float *d_bias, const float *d_y, Py_ssize_t N, Py_ssize_t O, Py_ssize_t first,
                       Py_ssize_t stop) noexcept nogil:
    cdef Py_ssize_t n, o
    for n in range(N):
        for o in range(first, stop):
            d_bias[o] += d_y[n * O + o]
