"""Layer norm: y = (x - mean) * rstd * weight + bias, over the channels of each row (Ba, Kiros and Hinton 2016)."""

from cython.parallel cimport prange
from libc.math cimport sqrtf

from gpt_core.kernels.shapes cimport want, want_positive
from gpt_core.kernels.threads cimport threads_for

cdef enum:
    FORWARD_WORK = 4  # what a value takes, in multiply-adds
    BACKWARD_WORK = 8

cdef float EPSILON = 1e-5  # GPT-2's layer_norm_epsilon


def forward(float[:, ::1] y, float[::1] mean, float[::1] rstd, const float[:, ::1] x,
            const float[::1] weight, const float[::1] bias):
    """y (N, C) = (x (N, C) - mean) * rstd * weight (C,) + bias (C,)

    with mean (N,) = sum_c x / C and rstd (N,) = 1 / sqrt(sum_c (x - mean)^2 / C + 1e-5), both kept for `backward`.
    """
    cdef Py_ssize_t N = x.shape[0], C = x.shape[1], n
    _check(N, C, mean.shape[0], rstd.shape[0], weight.shape[0])
    want("layer_norm: rows of y", y.shape[0], N)
    want("layer_norm: channels of y", y.shape[1], C)
    want("layer_norm: length of bias", bias.shape[0], C)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(FORWARD_WORK * N * C)):
        _normalise_row(&y[n, 0], &mean[n], &rstd[n], &x[n, 0], &weight[0], &bias[0], C)


def backward(float[:, ::1] d_x, float[::1] d_weight, float[::1] d_bias, const float[:, ::1] d_y,
             const float[:, ::1] x, const float[::1] mean, const float[::1] rstd, const float[::1] weight):
    """d_x (N, C) += rstd * (g - mean_c(g) - n * mean_c(g * n)), with n = (x - mean) * rstd and g = d_y * weight;
    d_weight (C,) += sum_n d_y * n; d_bias (C,) += sum_n d_y.

    d_x accumulates, unlike other activation gradients: x is the residual stream, whose gradient also flows past the norm.
    """
    cdef Py_ssize_t N = x.shape[0], C = x.shape[1], n, block
    cdef Py_ssize_t blocks = threads_for(BACKWARD_WORK * N * C)
    _check(N, C, mean.shape[0], rstd.shape[0], weight.shape[0])
    want("layer_norm: rows of d_x", d_x.shape[0], N)
    want("layer_norm: channels of d_x", d_x.shape[1], C)
    want("layer_norm: rows of d_y", d_y.shape[0], N)
    want("layer_norm: channels of d_y", d_y.shape[1], C)
    want("layer_norm: length of d_weight", d_weight.shape[0], C)
    want("layer_norm: length of d_bias", d_bias.shape[0], C)
    for n in prange(N, nogil=True, schedule="static", num_threads=blocks):
        _d_row(&d_x[n, 0], &d_y[n, 0], &x[n, 0], mean[n], rstd[n], &weight[0], C)
    # each thread sums whole columns, so the sums do not depend on the number of threads
    for block in prange(blocks, nogil=True, schedule="static", num_threads=blocks):
        _d_columns(&d_weight[0], &d_bias[0], &d_y[0, 0], &x[0, 0], &mean[0], &rstd[0], N, C,
                   C * block // blocks, C * (block + 1) // blocks)


cdef int _check(Py_ssize_t N, Py_ssize_t C, Py_ssize_t mean, Py_ssize_t rstd, Py_ssize_t weight) except -1:
    want_positive("layer_norm: rows", N)
    want_positive("layer_norm: channels", C)
    want("layer_norm: length of mean", mean, N)
    want("layer_norm: length of rstd", rstd, N)
    want("layer_norm: length of weight", weight, C)
    return 0


cdef void _normalise_row(float *y, float *mean, float *rstd, const float *x, const float *weight, const float *bias,
                         Py_ssize_t C) noexcept nogil:
    cdef Py_ssize_t c
    cdef float total = 0, squares = 0, centre, scale
    for c in range(C):
        total += x[c]
    centre = total / C
    for c in range(C):
        squares += (x[c] - centre) * (x[c] - centre)
    scale = <float>1.0 / sqrtf(squares / C + EPSILON)
    for c in range(C):
        y[c] = (x[c] - centre) * scale * weight[c] + bias[c]
    mean[0] = centre
    rstd[0] = scale


cdef void _d_row(float *d_x, const float *d_y, const float *x, float mean, float rstd, const float *weight,
                 Py_ssize_t C) noexcept nogil:
    cdef Py_ssize_t c
    cdef float g_sum = 0, gn_sum = 0, g
    for c in range(C):
        g = d_y[c] * weight[c]
        g_sum += g
        gn_sum += g * (x[c] - mean) * rstd
    g_sum /= C
    gn_sum /= C
    for c in range(C):
        d_x[c] += rstd * (d_y[c] * weight[c] - g_sum - (x[c] - mean) * rstd * gn_sum)


cdef void _d_columns(float *d_weight, float *d_bias, const float *d_y, const float *x, const float *mean,
                     const float *rstd, Py_ssize_t N, Py_ssize_t C, Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
    cdef Py_ssize_t n, c
    cdef float centre, scale
    for n in range(N):
        centre = mean[n]
        scale = rstd[n]
        for c in range(first, stop):
            d_weight[c] += d_y[n * C + c] * (x[n * C + c] - centre) * scale
            d_bias[c] += d_y[n * C + c]
