"""The linear layer y = x . weight + bias, and the matrix products it consists of, divided among threads.

Each thread computes a part of the output with `gemm`. Outputs are divided, never sums, so no reduction between threads
is needed and the result does not depend on their number (except in the order in which BLAS sums, where it is used).

With `bfloat16=True` the operands of a product are rounded to bfloat16 and multiplied in that format. Sums, biases and
residuals are float32. Activations and their gradients may then be arrays of uint16, the bits of bfloat16: as operands
they give the same results as their values in float32, as results they are rounded once, when they are stored
(`gemm.stores_bfloat16` says whether a product can).
"""

from cython.parallel cimport prange
from libc.stdint cimport uint16_t

from gpt_core.kernels.bfloat16 cimport CHUNK, stored, widen
from gpt_core.kernels.gemm cimport BFLOAT16, FLOAT32, Format, Matrix, Output, at, gemm, max_stored_depth
from gpt_core.kernels.shapes cimport check_equal, check_positive, check_product
from gpt_core.kernels.threads cimport threads_for

# A product C (m, n) = op(A) (m, k) . op(B) (k, n) + addend + bias.
cdef struct Product:
    Format format
    Py_ssize_t m, n, k
    Matrix a, b
    Output out

# A contiguous array (rows, columns) of float32, or of the bits of bfloat16.
cdef struct Stored:
    void *data
    Py_ssize_t rows, columns
    Format format


def forward(
    y,
    x,
    const float[:, ::1] weight,
    const float[::1] bias,
    const float[:, ::1] residual=None,
    bint bfloat16=False,
):
    """Compute y = x . weight, plus bias and residual if given.

    Shape:
        y, residual (N, O); x (N, I); weight (I, O); bias (O,) or None. residual may be y itself. y and x may be bfloat16,
        y if there is no residual.

    Raises:
        ValueError: The shapes do not match, or bfloat16 cannot be used.
    """
    cdef Stored stored_y = _output(y), stored_x = _operand(x, bfloat16)
    cdef Py_ssize_t N = stored_y.rows, O = stored_y.columns, I = stored_x.columns
    cdef Py_ssize_t[2] y_shape = [N, O]
    cdef const float *addend = NULL
    cdef const float *bias_data = NULL
    if bias is not None:
        check_equal("linear: length of bias", bias.shape[0], O)
        bias_data = &bias[0]
    check_product(y_shape, stored_x.rows, I, weight.shape[0], weight.shape[1])
    _check_result(bfloat16, stored_y, I, residual is not None)
    if residual is not None:
        check_equal("linear: rows of residual", residual.shape[0], N)
        check_equal("linear: channels of residual", residual.shape[1], O)
        addend = &residual[0, 0]
    # y (N, O) = x (N, I) . weight (I, O) + residual + bias
    cdef Product product = Product(
        format=BFLOAT16 if bfloat16 else FLOAT32, m=N, n=O, k=I,
        a=Matrix(stored_x.data, I, False, stored_x.format),
        b=Matrix(&weight[0, 0], O, False, FLOAT32),
        out=Output(stored_y.data, O, addend, O, bias_data, 1, stored_y.format),
    )
    with nogil:
        _threaded_gemm(product)


def backward(
    d_x,
    float[:, ::1] d_weight,
    float[::1] d_bias,
    d_y,
    x,
    const float[:, ::1] weight,
    bint bfloat16=False,
):
    """Compute the gradients of `forward`: d_x = d_y . weight^T, d_weight += x^T . d_y, d_bias += sum_n d_y.

    Shape:
        d_y (N, O); d_x, x (N, I); d_weight, weight (I, O); d_bias (O,), or None without a bias. d_y, d_x and x may be
        bfloat16.

    Raises:
        ValueError: The shapes do not match, or bfloat16 cannot be used.
    """
    cdef Stored stored_d_x = _output(d_x), stored_d_y = _operand(d_y, bfloat16), stored_x = _operand(x, bfloat16)
    cdef Py_ssize_t N = stored_d_y.rows, O = stored_d_y.columns, I = stored_x.columns, part
    cdef Py_ssize_t[2] d_x_shape = [stored_d_x.rows, stored_d_x.columns]
    cdef Py_ssize_t parts = threads_for(2 * N * O * I)
    cdef Py_ssize_t start, stop
    cdef float *d_bias_data = NULL
    if d_bias is not None:
        check_equal("linear: length of d_bias", d_bias.shape[0], O)
        d_bias_data = &d_bias[0]
    check_equal("linear: rows of weight", weight.shape[0], I)
    check_product(d_x_shape, N, O, weight.shape[1], weight.shape[0])
    check_product(d_weight.shape, I, stored_x.rows, N, O)
    _check_result(bfloat16, stored_d_x, O, False)
    # d_x (N, I) = d_y (N, O) . weight^T (O, I)
    cdef Product input_gradient = Product(
        format=BFLOAT16 if bfloat16 else FLOAT32, m=N, n=I, k=O,
        a=Matrix(stored_d_y.data, O, False, stored_d_y.format),
        b=Matrix(&weight[0, 0], O, True, FLOAT32),
        out=Output(stored_d_x.data, I, NULL, 0, NULL, 1, stored_d_x.format),
    )
    # d_weight (I, O) += x^T (I, N) . d_y (N, O)
    cdef Product weight_gradient = Product(
        format=BFLOAT16 if bfloat16 else FLOAT32, m=I, n=O, k=N,
        a=Matrix(stored_x.data, I, True, stored_x.format),
        b=Matrix(stored_d_y.data, O, False, stored_d_y.format),
        out=Output(&d_weight[0, 0], O, &d_weight[0, 0], O, NULL, 1, FLOAT32),
    )
    # Each thread computes its parts of all three without waiting for the others.
    for part in prange(parts, nogil=True, schedule="static", num_threads=parts):
        start = O * part // parts
        stop = O * (part + 1) // parts
        if d_bias_data is not NULL and stored_d_y.format == BFLOAT16:
            _sum_columns(d_bias_data, <const uint16_t*>stored_d_y.data, N, O, start, stop)
        elif d_bias_data is not NULL:
            _sum_columns(d_bias_data, <const float*>stored_d_y.data, N, O, start, stop)
        _gemm_part(input_gradient, part, parts)
        _gemm_part(weight_gradient, part, parts)


def product(
    float[:, ::1] c,
    a,
    b,
    bint transpose_a=False,
    bint transpose_b=False,
    bint accumulate=False,
    bint bfloat16=False,
):
    """Compute c = op(a) . op(b), or c += op(a) . op(b) if `accumulate`.

    Shape:
        c (M, N); op(a) (M, K); op(b) (K, N), where op transposes if requested. a and b may be bfloat16.

    Raises:
        ValueError: The shapes do not match, or bfloat16 cannot be used.
    """
    cdef Stored stored_a = _operand(a, bfloat16), stored_b = _operand(b, bfloat16)
    cdef Py_ssize_t M = c.shape[0], N = c.shape[1]
    cdef Py_ssize_t K = stored_a.rows if transpose_a else stored_a.columns
    check_product(c.shape, stored_a.columns if transpose_a else stored_a.rows, K,
                  stored_b.columns if transpose_b else stored_b.rows,
                  stored_b.rows if transpose_b else stored_b.columns)
    cdef Product product = Product(
        format=BFLOAT16 if bfloat16 else FLOAT32, m=M, n=N, k=K,
        a=Matrix(stored_a.data, stored_a.columns, transpose_a, stored_a.format),
        b=Matrix(stored_b.data, stored_b.columns, transpose_b, stored_b.format),
        out=Output(&c[0, 0], N, NULL, N, NULL, 1, FLOAT32),
    )
    if accumulate:
        product.out.addend = &c[0, 0]
    with nogil:
        _threaded_gemm(product)


# ---- Arrays of either format


cdef Stored _stored(array) except *:
    cdef const float[:, ::1] values
    cdef const uint16_t[:, ::1] bits
    if array.dtype.itemsize == sizeof(uint16_t):
        bits = array
        check_positive("linear: values of an array", bits.shape[0] * bits.shape[1])
        return Stored(<void*>&bits[0, 0], bits.shape[0], bits.shape[1], BFLOAT16)
    values = array
    check_positive("linear: values of an array", values.shape[0] * values.shape[1])
    return Stored(<void*>&values[0, 0], values.shape[0], values.shape[1], FLOAT32)


cdef Stored _output(array) except *:
    """Return the view of an array that will be written."""
    if not array.flags.writeable:
        raise ValueError("linear: got a read-only array for a result, expected one that can be written")
    return _stored(array)


cdef Stored _operand(array, bint bfloat16) except *:
    """Return the view of an array that a product reads."""
    cdef Stored found = _stored(array)
    if found.format == BFLOAT16 and not (bfloat16 and max_stored_depth() > 0):
        raise ValueError("linear: got an operand in bfloat16, expected float32 for a product in float32 or by BLAS")
    return found


cdef int _check_result(bint bfloat16, Stored c, Py_ssize_t depth, bint has_residual) except -1:
    if c.format == FLOAT32:
        return 0
    if has_residual or not bfloat16 or depth > max_stored_depth():
        raise ValueError(f"linear: got a result in bfloat16 of a product over {depth} values, expected float32, "
                         f"or a product in bfloat16 over at most {max_stored_depth()} values and without a residual")
    return 0


# ---- Parts of threads


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
        p.a.data = at(p.a.data, start * (1 if p.a.transposed else p.a.ld), p.a.stored)
        p.out.c = <void*>at(p.out.c, start * p.out.ldc, p.out.stored)
        if p.out.addend is not NULL:
            p.out.addend += start * p.out.ld_addend
    else:
        p.n = stop - start
        p.b.data = at(p.b.data, start * (p.b.ld if p.b.transposed else 1), p.b.stored)
        p.out.c = <void*>at(p.out.c, start, p.out.stored)
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
    const stored *d_y,
    Py_ssize_t N,
    Py_ssize_t O,
    Py_ssize_t start,
    Py_ssize_t stop,
) noexcept nogil:
    """d_bias[o] += sum_n d_y[n, o] for o in [start, stop). A thread sums complete columns, in the order of n."""
    cdef Py_ssize_t n, o, first, count
    cdef float[CHUNK] chunk
    for n in range(N):
        if stored is float:
            for o in range(start, stop):
                d_bias[o] += d_y[n * O + o]
        else:
            first = start
            while first < stop:
                count = min(<Py_ssize_t>CHUNK, stop - first)
                widen(d_y + n * O + first, chunk, count)
                for o in range(count):
                    d_bias[first + o] += chunk[o]
                first += count
