"""Layer norm: y = (x - mean) * rstd * weight + bias over the channels of each row (Ba, Kiros and Hinton 2016)."""

from cython.parallel cimport prange
from libc.math cimport sqrtf

from gpt_core.kernels.bfloat16 cimport CHUNK, round_row, stored
from gpt_core.kernels.shapes cimport check_equal, check_positive
from gpt_core.kernels.threads cimport threads_for

cdef enum:
    FORWARD_WORK = 4  # cost of one value, in multiply-adds
    BACKWARD_WORK = 8

cdef float EPSILON = 1e-5  # GPT-2's layer_norm_epsilon


def forward(
    stored[:, ::1] y,
    float[::1] mean,
    float[::1] rstd,
    const float[:, ::1] x,
    const float[::1] weight,
    const float[::1] bias,
):
    """Compute y = (x - mean) * rstd * weight, plus bias if given, and mean and rstd, which `backward` needs.

        mean = sum_c x / C;  rstd = 1 / sqrt(sum_c (x - mean)^2 / C + 1e-5)

    Shape:
        y, x (N, C); mean, rstd (N,); weight (C,); bias (C,) or None. y may be bfloat16 (as uint16).

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = x.shape[0], C = x.shape[1], n
    _check(N, C, mean.shape[0], rstd.shape[0], weight.shape[0])
    check_equal("layer_norm: rows of y", y.shape[0], N)
    check_equal("layer_norm: channels of y", y.shape[1], C)
    cdef const float *bias_data = NULL
    if bias is not None:
        check_equal("layer_norm: length of bias", bias.shape[0], C)
        bias_data = &bias[0]
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(FORWARD_WORK * N * C)):
        _forward_row(&y[n, 0], &mean[n], &rstd[n], &x[n, 0], &weight[0], bias_data, C)


def backward(
    float[:, ::1] d_x,
    float[::1] d_weight,
    float[::1] d_bias,
    const float[:, ::1] d_y,
    const float[:, ::1] x,
    const float[::1] mean,
    const float[::1] rstd,
    const float[::1] weight,
):
    """Add the gradients to d_x, d_weight and d_bias. With n = (x - mean) * rstd and d_n = d_y * weight:

        d_x += rstd * (d_n - mean_c(d_n) - n * mean_c(d_n * n))
        d_weight += sum over rows of d_y * n
        d_bias += sum over rows of d_y

    d_x accumulates, unlike other gradients of activations: x is the residual stream, whose gradient also bypasses the
    norm.

    Shape:
        d_x, d_y, x (N, C); mean, rstd (N,); d_weight, weight (C,); d_bias (C,), or None without a bias.

    Raises:
        ValueError: The shapes do not match.
    """
    cdef Py_ssize_t N = x.shape[0], C = x.shape[1], n, part
    cdef Py_ssize_t parts = threads_for(BACKWARD_WORK * N * C)
    _check(N, C, mean.shape[0], rstd.shape[0], weight.shape[0])
    check_equal("layer_norm: rows of d_x", d_x.shape[0], N)
    check_equal("layer_norm: channels of d_x", d_x.shape[1], C)
    check_equal("layer_norm: rows of d_y", d_y.shape[0], N)
    check_equal("layer_norm: channels of d_y", d_y.shape[1], C)
    check_equal("layer_norm: length of d_weight", d_weight.shape[0], C)
    cdef float *d_bias_data = NULL
    if d_bias is not None:
        check_equal("layer_norm: length of d_bias", d_bias.shape[0], C)
        d_bias_data = &d_bias[0]
    for n in prange(N, nogil=True, schedule="static", num_threads=parts):
        _backward_row(&d_x[n, 0], &d_y[n, 0], &x[n, 0], mean[n], rstd[n], &weight[0], C)
    # Each thread sums complete columns, so the sums do not depend on the number of threads.
    for part in prange(parts, nogil=True, schedule="static", num_threads=parts):
        _sum_columns(&d_weight[0], d_bias_data, &d_y[0, 0], &x[0, 0], &mean[0], &rstd[0], N, C,
                     C * part // parts, C * (part + 1) // parts)


cdef int _check(Py_ssize_t N, Py_ssize_t C, Py_ssize_t mean, Py_ssize_t rstd, Py_ssize_t weight) except -1:
    check_positive("layer_norm: rows", N)
    check_positive("layer_norm: channels", C)
    check_equal("layer_norm: length of mean", mean, N)
    check_equal("layer_norm: length of rstd", rstd, N)
    check_equal("layer_norm: length of weight", weight, C)
    return 0


cdef void _forward_row(
    stored *y,
    float *mean,
    float *rstd,
    const float *x,
    const float *weight,
    const float *bias,
    Py_ssize_t C,
) noexcept nogil:
    cdef Py_ssize_t c, first, n
    cdef float total = 0, squares = 0, row_mean, row_rstd
    cdef float[CHUNK] chunk
    cdef const float *chunk_bias = NULL
    for c in range(C):
        total += x[c]
    row_mean = total / C
    for c in range(C):
        squares += (x[c] - row_mean) * (x[c] - row_mean)
    row_rstd = <float>1.0 / sqrtf(squares / C + EPSILON)
    mean[0] = row_mean
    rstd[0] = row_rstd
    if stored is float:
        _normalize(y, x, row_mean, row_rstd, weight, bias, C)
    else:
        first = 0
        while first < C:
            n = min(<Py_ssize_t>CHUNK, C - first)
            if bias is not NULL:
                chunk_bias = bias + first
            _normalize(chunk, x + first, row_mean, row_rstd, weight + first, chunk_bias, n)
            round_row(chunk, y + first, n)
            first += n


cdef void _normalize(
    float *y,
    const float *x,
    float mean,
    float rstd,
    const float *weight,
    const float *bias,
    Py_ssize_t C,
) noexcept nogil:
    cdef Py_ssize_t c
    if bias is NULL:
        for c in range(C):
            y[c] = (x[c] - mean) * rstd * weight[c]
    else:
        for c in range(C):
            y[c] = (x[c] - mean) * rstd * weight[c] + bias[c]


cdef void _backward_row(
    float *d_x,
    const float *d_y,
    const float *x,
    float mean,
    float rstd,
    const float *weight,
    Py_ssize_t C,
) noexcept nogil:
    cdef Py_ssize_t c
    cdef float d_n, mean_d_n = 0, mean_d_n_n = 0
    for c in range(C):
        d_n = d_y[c] * weight[c]
        mean_d_n += d_n
        mean_d_n_n += d_n * (x[c] - mean) * rstd
    mean_d_n /= C
    mean_d_n_n /= C
    for c in range(C):
        d_x[c] += rstd * (d_y[c] * weight[c] - mean_d_n - (x[c] - mean) * rstd * mean_d_n_n)


cdef void _sum_columns(
    float *d_weight,
    float *d_bias,
    const float *d_y,
    const float *x,
    const float *mean,
    const float *rstd,
    Py_ssize_t N,
    Py_ssize_t C,
    Py_ssize_t start,
    Py_ssize_t stop,
) noexcept nogil:
    """Add the gradients of weight and bias for channels [start, stop); d_bias may be NULL."""
    cdef Py_ssize_t n, c
    cdef float row_mean, row_rstd
    for n in range(N):
        row_mean = mean[n]
        row_rstd = rstd[n]
        for c in range(start, stop):
            d_weight[c] += d_y[n * C + c] * (x[n * C + c] - row_mean) * row_rstd
        if d_bias is not NULL:
            for c in range(start, stop):
                d_bias[c] += d_y[n * C + c]
