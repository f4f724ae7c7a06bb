"""Muon, momentum that is orthogonalized (Jordan et al. 2024), scaled as AdamW's updates are (Liu et al. 2025).

One thread updates one matrix, so that the result does not depend on the number of threads.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport sqrt
from libc.stdint cimport uintptr_t

from gpt_core.kernels.gemm cimport BFLOAT16, FLOAT32, Format, Matrix, Output, at, gemm
from gpt_core.kernels.shapes cimport check_equal
from gpt_core.kernels.threads cimport thread_count

cpdef enum:
    NEWTON_SCHULZ_STEPS = 5

cdef enum:
    BLOCK = 112  # rows of a symmetric product at a time; speed only

# Coefficients of the quintic polynomial whose iteration brings all singular values near 1 (Jordan et al. 2024).
cdef float A = 3.4445, B = -4.7750, C = 2.0315
cdef double EPSILON = 1e-7
cdef float RMS = 0.2  # root mean square of AdamW's updates, in learning rates (Liu et al. 2025)


# One matrix of the parameters, (rows, columns) with `ld` values from row to row, and the hyper-parameters of a step.
cdef struct Step:
    Format format
    Py_ssize_t rows, columns, ld
    float *values
    const float *gradients
    float *m
    float beta, scale, lr, decay


def workspace_size(Py_ssize_t rows, Py_ssize_t columns):
    """Return the number of float32 values of scratch per thread for matrices of up to this shape."""
    cdef Py_ssize_t short_side = min(rows, columns)
    return 16 + 2 * rows * columns + 2 * short_side * short_side


def update(
    float[::1] values,
    const float[::1] gradients,
    float[::1] m,
    const Py_ssize_t[:, ::1] matrices,
    float[:, ::1] workspace,
    double lr,
    double beta,
    double weight_decay,
    double gradient_scale=1.0,
    bint bfloat16=False,
):
    """Apply one Muon step in place to matrices W (R, S) in a flat buffer. With g = gradient_scale * gradients:

        m = beta m + (1 - beta) g
        u = beta m + (1 - beta) g                                        Nesterov's momentum
        X = u / |u|, then 5 times  X = a X + (b A + c A^2) X  with A = X X^T
        W = W (1 - lr weight_decay) - lr 0.2 sqrt(max(R, S)) X

    Args:
        values: Parameters.
        gradients: Gradient of the loss with respect to `values`.
        m: Momentum, 0 before the first step.
        matrices: For each matrix: position of its first value, R, S, and the distance between its rows.
        workspace: Scratch, one row per thread; more threads are not used.
        bfloat16: Round the operands of the products to bfloat16.

    Shape:
        values, gradients, m (P,); matrices (M, 4); workspace (threads, at least the largest workspace_size(R, S)).

    Raises:
        ValueError: The lengths differ, a matrix is not within `values`, or the workspace is too small.
    """
    cdef Py_ssize_t size = values.shape[0], count = matrices.shape[0], i, first
    cdef Format format = BFLOAT16 if bfloat16 else FLOAT32
    cdef int team = max(1, min(thread_count(), <int>min(count, workspace.shape[0])))
    cdef Step step
    check_equal("muon: length of gradients", gradients.shape[0], size)
    check_equal("muon: length of m", m.shape[0], size)
    check_equal("muon: values per matrix", matrices.shape[1], 4)
    for i in range(count):
        _check_matrix(matrices[i, 0], matrices[i, 1], matrices[i, 2], matrices[i, 3], size, workspace)
    for i in prange(count, nogil=True, schedule="dynamic", num_threads=team):
        first = matrices[i, 0]
        step = Step(format, matrices[i, 1], matrices[i, 2], matrices[i, 3], &values[first], &gradients[first],
                    &m[first], beta, gradient_scale, lr, lr * weight_decay)
        _update_matrix(step, &workspace[threadid(), 0])


cdef int _check_matrix(
    Py_ssize_t first,
    Py_ssize_t rows,
    Py_ssize_t columns,
    Py_ssize_t ld,
    Py_ssize_t size,
    float[:, ::1] workspace,
) except -1:
    if first < 0 or rows < 1 or columns < 1 or ld < columns or first + (rows - 1) * ld + columns > size:
        raise ValueError(f"muon: got a matrix ({rows}, {columns}) at {first} with rows {ld} apart, "
                         f"expected one within {size} values")
    if workspace.shape[0] < 1 or workspace.shape[1] < workspace_size(rows, columns):
        raise ValueError(f"muon: got workspace ({workspace.shape[0]}, {workspace.shape[1]}), "
                         f"expected at least (1, {workspace_size(rows, columns)})")
    return 0


cdef void _update_matrix(Step step, float *start) noexcept nogil:
    """Update one matrix. X is W or its transpose, whichever has fewer rows than columns: (short, long)."""
    cdef bint transposed = step.rows > step.columns
    cdef Py_ssize_t short_side = min(step.rows, step.columns), long_side = max(step.rows, step.columns), i, j
    cdef float *X = <float*>((<uintptr_t>start + 63) // 64 * 64)
    cdef float *next_X = X + short_side * long_side
    cdef float *gram = next_X + short_side * long_side
    cdef float *polynomial = gram + short_side * short_side
    cdef float *swapped
    cdef float rate = step.lr * RMS * <float>sqrt(<double>long_side)
    _momentum(step, next_X)
    if transposed:
        _transpose(step.rows, step.columns, next_X, X)
    else:
        swapped, X, next_X = X, next_X, X
    _normalize(X, short_side * long_side)
    for i in range(NEWTON_SCHULZ_STEPS):
        _newton_schulz(step.format, short_side, long_side, X, next_X, gram, polynomial)
        swapped, X, next_X = X, next_X, X
    if transposed:
        _transpose(step.columns, step.rows, X, next_X)
        X = next_X
    for i in range(step.rows):
        for j in range(step.columns):
            step.values[i * step.ld + j] -= step.decay * step.values[i * step.ld + j] + rate * X[i * step.columns + j]


cdef void _momentum(Step step, float *u) noexcept nogil:
    """Update m, and write u (rows, columns)."""
    cdef Py_ssize_t i, j
    cdef float g, new_m, rest = <float>1.0 - step.beta
    for i in range(step.rows):
        for j in range(step.columns):
            g = step.scale * step.gradients[i * step.ld + j]
            new_m = step.beta * step.m[i * step.ld + j] + rest * g
            step.m[i * step.ld + j] = new_m
            u[i * step.columns + j] = step.beta * new_m + rest * g


cdef void _normalize(float *X, Py_ssize_t size) noexcept nogil:
    """Divide X by its norm, so that no singular value is above 1."""
    cdef Py_ssize_t i
    cdef double total = 0
    cdef float inverse
    for i in range(size):
        total += <double>X[i] * X[i]
    inverse = <float>(1 / (sqrt(total) + EPSILON))
    for i in range(size):
        X[i] *= inverse


cdef void _newton_schulz(
    Format format,
    Py_ssize_t rows,
    Py_ssize_t columns,
    const float *X,
    float *next_X,
    float *gram,
    float *polynomial,
) noexcept nogil:
    """next_X = a X + (b G + c G^2) X, with G = X X^T."""
    cdef Py_ssize_t i
    # G (rows, rows) = X (rows, columns) . X^T
    _symmetric_product(format, rows, columns, Matrix(X, columns, False, FLOAT32),
                       Matrix(X, columns, True, FLOAT32), Output(gram, rows, NULL, 0, NULL, 1, FLOAT32))
    # polynomial = c G . G + b G
    for i in range(rows * rows):
        polynomial[i] = B * gram[i]
    _symmetric_product(format, rows, rows, Matrix(gram, rows, False, FLOAT32),
                       Matrix(gram, rows, False, FLOAT32),
                       Output(polynomial, rows, polynomial, rows, NULL, C, FLOAT32))
    # next_X = polynomial . X + a X
    for i in range(rows * columns):
        next_X[i] = A * X[i]
    gemm(format, rows, columns, rows, Matrix(polynomial, rows, False, FLOAT32),
         Matrix(X, columns, False, FLOAT32), Output(next_X, columns, next_X, columns, NULL, 1, FLOAT32))


cdef void _symmetric_product(
    Format format,
    Py_ssize_t n,
    Py_ssize_t k,
    Matrix a,
    Matrix b,
    Output out,
) noexcept nogil:
    """out (n, n) = alpha a (n, k) . b (k, n) + addend, symmetric: what is above the diagonal blocks is copied."""
    cdef Py_ssize_t first = 0, rows, i, j
    cdef float *c = <float*>out.c
    while first < n:
        rows = min(<Py_ssize_t>BLOCK, n - first)
        gemm(format, rows, first + rows, k, a, b, out)
        for i in range(first, first + rows):
            for j in range(first):
                c[j * out.ldc + i] = c[i * out.ldc + j]
        a.data = at(a.data, BLOCK * a.ld, a.stored)
        out.c = <float*>out.c + BLOCK * out.ldc
        if out.addend is not NULL:
            out.addend += BLOCK * out.ld_addend
        first += BLOCK


cdef void _transpose(Py_ssize_t rows, Py_ssize_t columns, const float *source, float *to) noexcept nogil:
    """to (columns, rows) = source (rows, columns)^T, in squares that stay in the level-1 cache."""
    cdef Py_ssize_t i, j, first_i, first_j
    for first_i in range(0, rows, 16):
        for first_j in range(0, columns, 16):
            for i in range(first_i, min(first_i + 16, rows)):
                for j in range(first_j, min(first_j + 16, columns)):
                    to[j * rows + i] = source[i * columns + j]
