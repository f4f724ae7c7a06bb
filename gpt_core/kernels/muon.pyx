"""Muon, momentum that is orthogonalized (Jordan et al. 2024), scaled as AdamW's updates are (Liu et al. 2025).

Rescaled rows (Boissin et al. 2025, "Turbo-Muon"; Prach and Lampert 2022) and a polynomial of its own for each step
(Amsel et al. 2025, "The Polar Express") bring the singular values near 1 in three steps, for which Jordan's polynomial
needs five.

One thread updates one matrix, so that the result does not depend on the number of threads.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport fabsf, sqrt, sqrtf
from libc.stdint cimport uintptr_t

from gpt_core.kernels.gemm cimport BFLOAT16, FLOAT32, Format, Matrix, Output, gemm, symmetric_gemm
from gpt_core.kernels.shapes cimport check_equal
from gpt_core.kernels.threads cimport thread_count

cpdef enum:
    ORTHOGONALIZATION_STEPS = 3

# a, b, c of each step: the polynomial a x + b x^3 + c x^5 that is nearest to 1 between the smallest and the largest
# singular value after the step before, at first 0.01 and 1. Values below 0.01 end further from 1. The largest value counts
# 1% more, because it may be exceeded by products in bfloat16, and the polynomials grow fast beyond it.
cdef float[3][3] COEFFICIENTS
COEFFICIENTS[0][:] = [8.0172, -22.9411, 16.6113]
COEFFICIENTS[1][:] = [3.6119, -2.6521, 0.5123]
COEFFICIENTS[2][:] = [2.6610, -1.9451, 0.4357]
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
        X = u / |u|;  X = S X,  with S diagonal, S_ii = (sum_j |(X X^T)_ij|)^(-1/2): no singular value is above 1
        3 times, with a, b, c of the step:  X = a X + (b G + c G^2) X,  with G = X X^T
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
    """Update one matrix. Of one with more rows than columns, G = X^T X and X = X p(G), so that G is small."""
    cdef bint tall = step.rows > step.columns
    cdef Py_ssize_t short_side = min(step.rows, step.columns), long_side = max(step.rows, step.columns), i, j
    cdef float *X = <float*>((<uintptr_t>start + 63) // 64 * 64)
    cdef float *next_X = X + short_side * long_side
    cdef float *gram = next_X + short_side * long_side
    cdef float *polynomial = gram + short_side * short_side
    cdef float *swapped
    cdef float rate = step.lr * RMS * <float>sqrt(<double>long_side)
    _momentum(step, X)
    _normalize(X, short_side * long_side)
    for i in range(ORTHOGONALIZATION_STEPS):
        # G (short, short) = X X^T or X^T X
        symmetric_gemm(step.format, short_side, long_side, Matrix(X, step.columns, tall, FLOAT32),
                       Matrix(X, step.columns, not tall, FLOAT32), Output(gram, short_side, NULL, 0, NULL, 1, FLOAT32))
        if i == 0:
            _rescale(tall, step.rows, step.columns, X, gram, polynomial)
        _apply_polynomial(step, tall, COEFFICIENTS[i], X, next_X, gram, polynomial)
        swapped, X, next_X = X, next_X, X
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
    """Divide X by its norm, so that its products neither overflow nor underflow."""
    cdef Py_ssize_t i
    cdef double total = 0
    cdef float inverse
    for i in range(size):
        total += <double>X[i] * X[i]
    inverse = <float>(1 / (sqrt(total) + EPSILON))
    for i in range(size):
        X[i] *= inverse


cdef void _rescale(bint tall, Py_ssize_t rows, Py_ssize_t columns, float *X, float *gram, float *scales) noexcept nogil:
    """G = S G S with S_ii = (sum_j |G_ij|)^(-1/2), and X = S X for G = X X^T, X = X S for G = X^T X."""
    cdef Py_ssize_t n = min(rows, columns), i, j
    cdef float total
    for i in range(n):
        total = <float>EPSILON
        for j in range(n):
            total += fabsf(gram[i * n + j])
        scales[i] = <float>1.0 / sqrtf(total)
    for i in range(n):
        for j in range(n):
            gram[i * n + j] *= scales[i] * scales[j]
    for i in range(rows):
        for j in range(columns):
            X[i * columns + j] *= scales[j] if tall else scales[i]


cdef void _apply_polynomial(
    Step step,
    bint tall,
    const float *coefficients,
    const float *X,
    float *next_X,
    const float *gram,
    float *polynomial,
) noexcept nogil:
    """next_X = a X + (b G + c G^2) X, or of a tall matrix a X + X (b G + c G^2)."""
    cdef float a = coefficients[0], b = coefficients[1], c = coefficients[2]
    cdef Py_ssize_t n = min(step.rows, step.columns), i
    cdef Matrix p = Matrix(polynomial, n, False, FLOAT32), x = Matrix(X, step.columns, False, FLOAT32)
    # p = c G . G + b G
    for i in range(n * n):
        polynomial[i] = b * gram[i]
    symmetric_gemm(step.format, n, n, Matrix(gram, n, False, FLOAT32), Matrix(gram, n, False, FLOAT32),
                   Output(polynomial, n, polynomial, n, NULL, c, FLOAT32))
    # next_X = p . X + a X, or X . p + a X
    for i in range(step.rows * step.columns):
        next_X[i] = a * X[i]
    gemm(step.format, step.rows, step.columns, n, x if tall else p, p if tall else x,
         Output(next_X, step.columns, next_X, step.columns, NULL, 1, FLOAT32))
