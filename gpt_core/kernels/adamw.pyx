"""AdamW, Adam with decoupled weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019), and the gradient norm."""

from cython.parallel cimport prange
from libc.math cimport pow, sqrt, sqrtf

from gpt_core.kernels.shapes cimport want
from gpt_core.kernels.threads cimport threads_for

cdef Py_ssize_t BLOCK = 16384  # values that one thread takes at once


def norm(const float[::1] values):
    """sqrt(sum values^2), in double precision, from partial sums that do not depend on the number of threads."""
    cdef Py_ssize_t size = values.shape[0], part
    cdef Py_ssize_t step = size // 256 + 1
    cdef double[256] partial
    cdef double total = 0
    if size == 0:
        return 0.0
    for part in prange(256, nogil=True, schedule="static", num_threads=threads_for(size)):
        partial[part] = _sum_of_squares(&values[0], min(size, part * step), min(size, (part + 1) * step))
    for part in range(256):
        total += partial[part]
    return sqrt(total)


def update(float[::1] values, const float[::1] gradients, float[::1] first, float[::1] second, Py_ssize_t step,
           double lr, double beta1, double beta2, double eps, double weight_decay, double gradient_scale=1.0):
    """One step of AdamW, the step-th (from 1), in place on values, first and second (all (P,)). With g = gradient_scale * gradients:

        first  = beta1 first + (1 - beta1) g
        second = beta2 second + (1 - beta2) g^2
        values = values (1 - lr weight_decay) - lr (first / (1 - beta1^step)) / (sqrt(second / (1 - beta2^step)) + eps)
    """
    cdef Py_ssize_t size = values.shape[0], block
    cdef Py_ssize_t blocks = (size + BLOCK - 1) // BLOCK
    cdef float b1 = beta1, b2 = beta2, scale = gradient_scale, epsilon = eps
    cdef float decay = lr * weight_decay
    want("adamw: length of gradients", gradients.shape[0], size)
    want("adamw: length of first", first.shape[0], size)
    want("adamw: length of second", second.shape[0], size)
    if step < 1:
        raise ValueError(f"adamw: got step {step}, want 1 or more")
    cdef float rate = lr / (1.0 - pow(beta1, step))
    cdef float root_correction = 1.0 / sqrt(1.0 - pow(beta2, step))
    for block in prange(blocks, nogil=True, schedule="static", num_threads=threads_for(size)):
        _update_block(&values[block * BLOCK], &gradients[block * BLOCK], &first[block * BLOCK], &second[block * BLOCK],
                      min(BLOCK, size - block * BLOCK), b1, b2, epsilon, scale, decay, rate, root_correction)


cdef double _sum_of_squares(const float *values, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(start, stop):
        total += <double>values[i] * values[i]
    return total


cdef void _update_block(float *values, const float *gradients, float *first, float *second, Py_ssize_t size,
                        float b1, float b2, float eps, float scale, float decay, float rate,
                        float root_correction) noexcept nogil:
    cdef Py_ssize_t i
    cdef float g, m, v
    for i in range(size):
        g = gradients[i] * scale
        m = b1 * first[i] + (<float>1.0 - b1) * g
        v = b2 * second[i] + (<float>1.0 - b2) * g * g
        first[i] = m
        second[i] = v
        # not values * (1 - decay): a small decay would be lost in the rounding of 1 - decay
        values[i] -= decay * values[i] + rate * m / (sqrtf(v) * root_correction + eps)
