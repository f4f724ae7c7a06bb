"""RMS norm: y = x * rstd * weight over the channels of each row, or of each head (Zhang and Sennrich 2019)."""

from cython.parallel cimport prange
from libc.math cimport sqrtf
from libc.string cimport memset

from gpt_core.kernels.bfloat16 cimport CHUNK, round_row, stored, widen
from gpt_core.kernels.shapes cimport check_equal, check_positive
from gpt_core.kernels.threads cimport threads_for

cdef enum:
    FORWARD_WORK = 3  # cost of one value, in multiply-adds
    BACKWARD_WORK = 6

cdef float EPSILON = 1e-6  # Qwen3's rms_norm_eps


def forward(
    stored[:, ::1] y,
    float[::1] rstd,
    const float[:, ::1] x,
    const float[::1] weight,
):
    """Compute y = x * rstd * weight, and rstd, which `backward` needs.

        rstd = 1 / sqrt(sum_c x^2 / C + 1e-6)

    Shape:
        y, x (N, C); rstd (N,); weight (C,). y may be bfloat16 (as uint16).

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = x.shape[0], C = x.shape[1], n
    _check(N, C, rstd.shape[0], weight.shape[0])
    check_equal("rms_norm: rows of y", y.shape[0], N)
    check_equal("rms_norm: channels of y", y.shape[1], C)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(FORWARD_WORK * N * C)):
        _forward_row(&y[n, 0], &rstd[n], &x[n, 0], &weight[0], C)


def backward(
    float[:, ::1] d_x,
    float[::1] d_weight,
    const float[:, ::1] d_y,
    const float[:, ::1] x,
    const float[::1] rstd,
    const float[::1] weight,
):
    """Add the gradients to d_x and d_weight. With n = x * rstd and d_n = d_y * weight:

        d_x += rstd * (d_n - n * mean_c(d_n * n))
        d_weight += sum over rows of d_y * n

    d_x accumulates, unlike other gradients of activations: x is the residual stream, whose gradient also bypasses the
    norm.

    Shape:
        d_x, d_y, x (N, C); rstd (N,); d_weight, weight (C,).

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = x.shape[0], C = x.shape[1], n, part
    cdef Py_ssize_t parts = threads_for(BACKWARD_WORK * N * C)
    _check(N, C, rstd.shape[0], weight.shape[0])
    check_equal("rms_norm: rows of d_x", d_x.shape[0], N)
    check_equal("rms_norm: channels of d_x", d_x.shape[1], C)
    check_equal("rms_norm: rows of d_y", d_y.shape[0], N)
    check_equal("rms_norm: channels of d_y", d_y.shape[1], C)
    check_equal("rms_norm: length of d_weight", d_weight.shape[0], C)
    for n in prange(N, nogil=True, schedule="static", num_threads=parts):
        _backward_row(&d_x[n, 0], &d_y[n, 0], &x[n, 0], rstd[n], &weight[0], C)
    # Each thread sums complete columns, so the sums do not depend on the number of threads.
    for part in prange(parts, nogil=True, schedule="static", num_threads=parts):
        _sum_columns(&d_weight[0], &d_y[0, 0], C, &x[0, 0], C, &rstd[0], 1, N, 1, C,
                     C * part // parts, C * (part + 1) // parts)


def heads_forward(
    stored[:, ::1] y,
    float[:, ::1] rstd,
    const stored[:, ::1] x,
    const float[::1] q_weight,
    const float[::1] k_weight,
):
    """Compute the RMS norm of the queries and keys of each head (Henry et al. 2020; Dehghani et al. 2023).

    Args:
        y: Overwritten with queries | keys.
        rstd: Overwritten with that of each head, which `heads_backward` needs.
        x: queries | keys, and any columns after them, which are not read.
        q_weight: Weight of the queries of all heads.
        k_weight: Weight of their keys.

    Shape:
        y (N, 2C); rstd (N, 2H); x (N, at least 2C); q_weight, k_weight (D,), with C = H * D. Both x and y are float32 or
        bfloat16 (as uint16).

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = x.shape[0], D = q_weight.shape[0], H = rstd.shape[1] // 2, n
    _check_heads(N, H, D, rstd.shape, k_weight.shape[0], y.shape, x.shape)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(FORWARD_WORK * N * 2 * H * D)):
        _forward_heads(&y[n, 0], &rstd[n, 0], &x[n, 0], &q_weight[0], &k_weight[0], H, D)


def heads_backward(
    stored[:, ::1] d_x,
    float[::1] d_q_weight,
    float[::1] d_k_weight,
    const stored[:, ::1] d_y,
    const stored[:, ::1] x,
    const float[:, ::1] rstd,
    const float[::1] q_weight,
    const float[::1] k_weight,
):
    """Compute the gradients of `heads_forward`: those of the weights are added, that of x overwrites 2C columns of d_x.

    Shape:
        d_y (N, 2C); d_x, x (N, at least 2C); rstd (N, 2H); the weights and their gradients (D,). All of d_y, d_x and x
        are float32 or bfloat16.

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = x.shape[0], D = q_weight.shape[0], H = rstd.shape[1] // 2, n, part, start, stop
    cdef Py_ssize_t parts = threads_for(BACKWARD_WORK * N * 2 * H * D)
    _check_heads(N, H, D, rstd.shape, k_weight.shape[0], d_y.shape, x.shape)
    _check_heads(N, H, D, rstd.shape, d_k_weight.shape[0], d_y.shape, d_x.shape)
    check_equal("rms_norm: length of d_q_weight", d_q_weight.shape[0], D)
    for n in prange(N, nogil=True, schedule="static", num_threads=parts):
        _backward_heads(&d_x[n, 0], &d_y[n, 0], &x[n, 0], &rstd[n, 0], &q_weight[0], &k_weight[0], H, D)
    for part in prange(parts, nogil=True, schedule="static", num_threads=parts):
        start = D * part // parts
        stop = D * (part + 1) // parts
        _sum_columns(&d_q_weight[0], &d_y[0, 0], 2 * H * D, &x[0, 0], x.shape[1], &rstd[0, 0], 2 * H, N, H, D,
                     start, stop)
        _sum_columns(&d_k_weight[0], &d_y[0, H * D], 2 * H * D, &x[0, H * D], x.shape[1], &rstd[0, H], 2 * H, N, H, D,
                     start, stop)


cdef int _check(Py_ssize_t N, Py_ssize_t C, Py_ssize_t rstd, Py_ssize_t weight) except -1:
    check_positive("rms_norm: rows", N)
    check_positive("rms_norm: channels", C)
    check_equal("rms_norm: length of rstd", rstd, N)
    check_equal("rms_norm: length of weight", weight, C)
    return 0


cdef int _check_heads(
    Py_ssize_t N,
    Py_ssize_t H,
    Py_ssize_t D,
    const Py_ssize_t *rstd,
    Py_ssize_t k_weight,
    const Py_ssize_t *y,
    const Py_ssize_t *x,
) except -1:
    check_positive("rms_norm: rows", N)
    check_positive("rms_norm: heads", H)
    check_positive("rms_norm: channels per head", D)
    check_equal("rms_norm: rows of rstd", rstd[0], N)
    check_equal("rms_norm: columns of rstd", rstd[1], 2 * H)
    check_equal("rms_norm: length of the keys' weight", k_weight, D)
    check_equal("rms_norm: rows of queries and keys", y[0], N)
    check_equal("rms_norm: channels of queries and keys", y[1], 2 * H * D)
    check_equal("rms_norm: rows of x", x[0], N)
    if x[1] < 2 * H * D:
        raise ValueError(f"rms_norm: channels of x: got {x[1]}, expected at least {2 * H * D}")
    return 0


cdef void _forward_row(stored *y, float *rstd, const float *x, const float *weight, Py_ssize_t C) noexcept nogil:
    """Normalize one row."""
    cdef Py_ssize_t first, n
    cdef float row_rstd = <float>1.0 / sqrtf(_dot(x, x, C) / C + EPSILON)
    cdef float[CHUNK] chunk
    rstd[0] = row_rstd
    if stored is float:
        _scale(y, x, row_rstd, weight, C)
    else:
        first = 0
        while first < C:
            n = min(<Py_ssize_t>CHUNK, C - first)
            _scale(chunk, x + first, row_rstd, weight + first, n)
            round_row(chunk, y + first, n)
            first += n


cdef float _dot(const float *a, const float *b, Py_ssize_t C) noexcept nogil:
    cdef Py_ssize_t c
    cdef float total = 0
    for c in range(C):
        total += a[c] * b[c]
    return total


cdef void _scale(float *y, const float *x, float rstd, const float *weight, Py_ssize_t C) noexcept nogil:
    """y = x * rstd * weight."""
    cdef Py_ssize_t c
    for c in range(C):
        y[c] = x[c] * rstd * weight[c]


cdef void _backward_row(
    float *d_x,
    const float *d_y,
    const float *x,
    float rstd,
    const float *weight,
    Py_ssize_t C,
) noexcept nogil:
    """Add the gradient of one row to d_x."""
    _add_gradient(d_x, d_y, x, rstd, weight, _d_n_dot_n(d_y, x, rstd, weight, C) / C, C)


cdef float _d_n_dot_n(const float *d_y, const float *x, float rstd, const float *weight, Py_ssize_t C) noexcept nogil:
    cdef Py_ssize_t c
    cdef float total = 0
    for c in range(C):
        total += d_y[c] * weight[c] * x[c] * rstd
    return total


cdef void _add_gradient(
    float *d_x,
    const float *d_y,
    const float *x,
    float rstd,
    const float *weight,
    float mean_d_n_n,
    Py_ssize_t C,
) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(C):
        d_x[c] += rstd * (d_y[c] * weight[c] - x[c] * rstd * mean_d_n_n)


cdef void _forward_heads(
    stored *y,
    float *rstd,
    const stored *x,
    const float *q_weight,
    const float *k_weight,
    Py_ssize_t H,
    Py_ssize_t D,
) noexcept nogil:
    """Normalize one row: H heads of queries, then H heads of keys."""
    cdef Py_ssize_t h, first, n
    cdef const float *weight
    cdef float squares
    cdef float[CHUNK] chunk
    for h in range(2 * H):
        weight = q_weight if h < H else k_weight
        if stored is float:
            _forward_row(y + h * D, rstd + h, x + h * D, weight, D)
        else:
            squares = 0
            first = 0
            while first < D:
                n = min(<Py_ssize_t>CHUNK, D - first)
                widen(x + h * D + first, chunk, n)
                squares += _dot(chunk, chunk, n)
                first += n
            rstd[h] = <float>1.0 / sqrtf(squares / D + EPSILON)
            first = 0
            while first < D:
                n = min(<Py_ssize_t>CHUNK, D - first)
                widen(x + h * D + first, chunk, n)
                _scale(chunk, chunk, rstd[h], weight + first, n)
                round_row(chunk, y + h * D + first, n)
                first += n


cdef void _backward_heads(
    stored *d_x,
    const stored *d_y,
    const stored *x,
    const float *rstd,
    const float *q_weight,
    const float *k_weight,
    Py_ssize_t H,
    Py_ssize_t D,
) noexcept nogil:
    """Write the gradient of one row of heads."""
    cdef Py_ssize_t h, first, n
    cdef const float *weight
    cdef float total
    cdef float[CHUNK] d_x_chunk
    cdef float[CHUNK] d_y_chunk
    cdef float[CHUNK] x_chunk
    for h in range(2 * H):
        weight = q_weight if h < H else k_weight
        if stored is float:
            memset(d_x + h * D, 0, D * sizeof(float))
            _backward_row(d_x + h * D, d_y + h * D, x + h * D, rstd[h], weight, D)
        else:
            total = 0
            first = 0
            while first < D:
                n = min(<Py_ssize_t>CHUNK, D - first)
                widen(d_y + h * D + first, d_y_chunk, n)
                widen(x + h * D + first, x_chunk, n)
                total += _d_n_dot_n(d_y_chunk, x_chunk, rstd[h], weight + first, n)
                first += n
            first = 0
            while first < D:
                n = min(<Py_ssize_t>CHUNK, D - first)
                widen(d_y + h * D + first, d_y_chunk, n)
                widen(x + h * D + first, x_chunk, n)
                memset(d_x_chunk, 0, n * sizeof(float))
                _add_gradient(d_x_chunk, d_y_chunk, x_chunk, rstd[h], weight + first, total / D, n)
                round_row(d_x_chunk, d_x + h * D + first, n)
                first += n


cdef void _sum_columns(
    float *d_weight,
    const stored *d_y,
    Py_ssize_t ld_d_y,
    const stored *x,
    Py_ssize_t ldx,
    const float *rstd,
    Py_ssize_t ld_rstd,
    Py_ssize_t N,
    Py_ssize_t H,
    Py_ssize_t D,
    Py_ssize_t start,
    Py_ssize_t stop,
) noexcept nogil:
    """Add the gradient of the weight for channels [start, stop) of H groups of D channels per row."""
    cdef Py_ssize_t row, h, first, n
    cdef const stored *d_y_head
    cdef const stored *x_head
    cdef float[CHUNK] d_y_chunk
    cdef float[CHUNK] x_chunk
    for row in range(N):
        for h in range(H):
            d_y_head = d_y + row * ld_d_y + h * D
            x_head = x + row * ldx + h * D
            if stored is float:
                _add_products(d_weight + start, d_y_head + start, x_head + start, rstd[row * ld_rstd + h], stop - start)
            else:
                first = start
                while first < stop:
                    n = min(<Py_ssize_t>CHUNK, stop - first)
                    widen(d_y_head + first, d_y_chunk, n)
                    widen(x_head + first, x_chunk, n)
                    _add_products(d_weight + first, d_y_chunk, x_chunk, rstd[row * ld_rstd + h], n)
                    first += n


cdef void _add_products(
    float *d_weight,
    const float *d_y,
    const float *x,
    float rstd,
    Py_ssize_t C,
) noexcept nogil:
    """d_weight += d_y * x * rstd."""
    cdef Py_ssize_t c
    for c in range(C):
        d_weight[c] += d_y[c] * x[c] * rstd
