"""The linear layer y = x . weight + bias, and the matrix products it consists of, divided among threads.

Each thread computes a part of the output with `gemm`. Outputs are divided, never sums, so no reduction between threads
is needed and the result does not depend on their number (except in the order in which BLAS sums, where it is used).

With `bfloat16=True` the operands of a product are rounded to bfloat16 and multiplied in that format. Sums, biases,
residuals and results are float32.
"""

from cython.parallel cimport prange

from gpt_core.kernels.gemm cimport BFLOAT16, FLOAT32, Format, Matrix, Output, gemm
from gpt_core.kernels.shapes cimport check_equal, check_product
from gpt_core.kernels.threads cimport threads_for

# A product C (m, n) = op(A) (m, k) . op(B) (k, n) + addend + bias.
cdef struct Product:
    Format format
    Py_ssize_t m, n, k
    Matrix a, b
    Output out


def forward(
    float[:, ::1] y,
    const float[:, ::1] x,
    const float[:, ::1] weight,
    const float[::1] bias,
    const float[:, ::1] residual=None,
    bint bfloat16=False,
):
    """Compute y = x . weight, plus bias and residual if given.

    Shape:
        y, residual (N, O); x (N, I); weight (I, O); bias (O,) or None. residual may be y itself.

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = y.shape[0], O = y.shape[1], I = x.shape[1]
    cdef const float *addend = NULL
    cdef const float *bias_data = NULL
    if bias is not None:
        check_equal("linear: length of bias", bias.shape[0], O)
        bias_data = &bias[0]
    check_product(y.shape, x.shape[0], I, weight.shape[0], weight.shape[1])
    if residual is not None:
        check_equal("linear: rows of residual", residual.shape[0], N)
        check_equal("linear: channels of residual", residual.shape[1], O)
        addend = &residual[0, 0]
    # y (N, O) = x (N, I) . weight (I, O) + residual + bias
    cdef Product product = Product(
        format=BFLOAT16 if bfloat16 else FLOAT32, m=N, n=O, k=I,
        a=Matrix(&x[0, 0], I, False),
        b=Matrix(&weight[0, 0], O, False),
        out=Output(&y[0, 0], O, addend, O, bias_data, 1),
    )
    with nogil:
        _threaded_gemm(product)


def backward(
    float[:, ::1] d_x,
    float[:, ::1] d_weight,
    float[::1] d_bias,
    const float[:, ::1] d_y,
    const float[:, ::1] x,
    const float[:, ::1] weight,
    bint bfloat16=False,
):
    """Compute the gradients of `forward`: d_x = d_y . weight^T, d_weight += x^T . d_y, d_bias += sum_n d_y.

    Shape:
        d_y (N, O); d_x, x (N, I); d_weight, weight (I, O); d_bias (O,), or None without a bias.

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = d_y.shape[0], O = d_y.shape[1], I = x.shape[1], part
    cdef Py_ssize_t parts = threads_for(2 * N * O * I)
    cdef float *d_bias_data = NULL
    if d_bias is not None:
        check_equal("linear: length of d_bias", d_bias.shape[0], O)
        d_bias_data = &d_bias[0]
    check_equal("linear: rows of weight", weight.shape[0], I)
    check_product(d_x.shape, N, O, weight.shape[1], weight.shape[0])
    check_product(d_weight.shape, I, x.shape[0], N, O)
    # d_x (N, I) = d_y (N, O) . weight^T (O, I)
    cdef Product input_gradient = Product(
        format=BFLOAT16 if bfloat16 else FLOAT32, m=N, n=I, k=O,
        a=Matrix(&d_y[0, 0], O, False),
        b=Matrix(&weight[0, 0], O, True),
        out=Output(&d_x[0, 0], I, NULL, 0, NULL, 1),
    )
    # d_weight (I, O) += x^T (I, N) . d_y (N, O)
    cdef Product weight_gradient = Product(
        format=BFLOAT16 if bfloat16 else FLOAT32, m=I, n=O, k=N,
        a=Matrix(&x[0, 0], I, True),
        b=Matrix(&d_y[0, 0], O, False),
        out=Output(&d_weight[0, 0], O, &d_weight[0, 0], O, NULL, 1),
    )
    # Each thread computes its parts of all three without waiting for the others.
    for part in prange(parts, nogil=True, schedule="static", num_threads=parts):
        if d_bias_data is not NULL:
            _sum_columns(d_bias_data, &d_y[0, 0], N, O, O * part // parts, O * (part + 1) // parts)
        _gemm_part(input_gradient, part, parts)
        _gemm_part(weight_gradient, part, parts)


def product(
    float[:, ::1] c,
    const float[:, ::1] a,
    const float[:, ::1] b,
    bint transpose_a=False,
    bint transpose_b=False,
    bint accumulate=False,
    bint bfloat16=False,
):
    """Compute c = op(a) . op(b), or c += op(a) . op(b) if `accumulate`.

    Shape:
        c (M, N); op(a) (M, K); op(b) (K, N), where op transposes if requested.

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t M = c.shape[0], N = c.shape[1]
    cdef Py_ssize_t K = a.shape[0] if transpose_a else a.shape[1]
    check_product(c.shape, a.shape[1] if transpose_a else a.shape[0], K,
                   b.shape[1] if transpose_b else b.shape[0], b.shape[0] if transpose_b else b.shape[1])
    cdef Product product = Product(
        format=BFLOAT16 if bfloat16 else FLOAT32, m=M, n=N, k=K,
        a=Matrix(&a[0, 0], a.shape[1], transpose_a),
        b=Matrix(&b[0, 0], b.shape[1], transpose_b),
        out=Output(&c[0, 0], N, NULL, N, NULL, 1),
    )
    if accumulate:
        product.out.addend = product.out.c
    with nogil:
        _threaded_gemm(product)


cdef void _threaded_gemm(Product p) noexcept nogil:
    cdef Py_ssize_t parts = threads_for(p.m * p.n * p.k), part
    for part in prange(parts, schedule="static", num_threads=parts):
        _gemm_part(p, part, parts)


cdef void _gemm_part(Product p, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Compute one thread's part of a product: a range of the longer side of C."""
    cdef bint by_rows = p.m >= p.n
    cdef bint is_whole = p.m == 1 and p.format == FLOAT32  # BLAS sums a part of a row in another order
    cdef Py_ssize_t length = p.m if by_rows else p.n, step = length if is_whole else _part_length(length, parts)
    cdef Py_ssize_t start = min(length, part * step), stop = min(length, (part + 1) * step)
    if start == stop:
        return
    if by_rows:
        p.m = stop - start
        p.a.data += start * (1 if p.a.transposed else p.a.ld)
        p.out.c += start * p.out.ldc
        if p.out.addend is not NULL:
            p.out.addend += start * p.out.ld_addend
    else:
        p.n = stop - start
        p.b.data += start * (p.b.ld if p.b.transposed else 1)
        p.out.c += start
        if p.out.addend is not NULL:
            p.out.addend += start
        if p.out.bias is not NULL:
            p.out.bias += start
    gemm(p.format, p.m, p.n, p.k, p.a, p.b, p.out)


cdef Py_ssize_t _part_length(Py_ssize_t length, Py_ssize_t parts) noexcept nogil:
    """Length of one part: a multiple of 16, such that no part is a single row, which BLAS sums in another order."""
    cdef Py_ssize_t step = ((length + parts - 1) // parts + 15) // 16 * 16
    while length % step == 1 and length > 1:
        step += 16
    return step


cdef void _sum_columns(
    float *d_bias,
    const float *d_y,
    Py_ssize_t N,
    Py_ssize_t O,
    Py_ssize_t start,
    Py_ssize_t stop,
) noexcept nogil:
    """d_bias[o] += sum_n d_y[n, o] for o in [start, stop). A thread sums complete columns, in the order of n."""
    cdef Py_ssize_t n, o
    for n in range(N):
        for o in range(start, stop):
            d_bias[o] += d_y[n * O + o]
