"""AdamW, Adam with decoupled weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019), gradient norm, averages."""

from cython.parallel cimport prange
from libc.math cimport pow, sqrt, sqrtf

from gpt_core.kernels.shapes cimport check_equal
from gpt_core.kernels.threads cimport threads_for

cdef enum:
    BLOCK = 16384  # values per thread at a time
    PARTIAL_SUMS = 256


def norm(const float[::1] values):
    """Return sqrt(sum values^2), summed in double precision.

    The partial sums do not depend on the number of threads, so neither does the result.

    Shape:
        values (P,).
    """
    cdef Py_ssize_t size = values.shape[0], part
    cdef Py_ssize_t step = size // PARTIAL_SUMS + 1
    cdef double[PARTIAL_SUMS] partial
    cdef double total = 0
    if size == 0:
        return 0.0
    for part in prange(PARTIAL_SUMS, nogil=True, schedule="static", num_threads=threads_for(size)):
        partial[part] = _sum_of_squares(&values[0], min(size, part * step), min(size, (part + 1) * step))
    for part in range(PARTIAL_SUMS):
        total += partial[part]
    return sqrt(total)


def update(
    float[::1] values,
    const float[::1] gradients,
    float[::1] m,
    float[::1] v,
    Py_ssize_t step,
    double lr,
    double beta1,
    double beta2,
    double eps,
    double weight_decay,
    double gradient_scale=1.0,
):
    """Apply one AdamW step in place. With g = gradient_scale * gradients:

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        values = values (1 - lr weight_decay) - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)

    Args:
        values: Parameters.
        gradients: Gradient of the loss with respect to `values`.
        m: First moment, 0 before the first step.
        v: Second moment, 0 before the first step.
        step: Number of this step, from 1.
        gradient_scale: Factor for all gradients, for example from clipping.

    Shape:
        values, gradients, m, v (P,).

    Raises:
        ValueError: The lengths differ, or step is below 1.
    """
    cdef Py_ssize_t size = values.shape[0], block
    cdef Py_ssize_t blocks = (size + BLOCK - 1) // BLOCK
    cdef float b1 = beta1, b2 = beta2, scale = gradient_scale, epsilon = eps
    cdef float decay = lr * weight_decay
    check_equal("adamw: length of gradients", gradients.shape[0], size)
    check_equal("adamw: length of m", m.shape[0], size)
    check_equal("adamw: length of v", v.shape[0], size)
    if step < 1:
        raise ValueError(f"adamw: got step {step}, expected at least 1")
    cdef float corrected_lr = lr / (1.0 - pow(beta1, step))
    cdef float root_correction = 1.0 / sqrt(1.0 - pow(beta2, step))
    for block in prange(blocks, nogil=True, schedule="static", num_threads=threads_for(size)):
        _update_block(&values[block * BLOCK], &gradients[block * BLOCK], &m[block * BLOCK], &v[block * BLOCK],
                      min(<Py_ssize_t>BLOCK, size - block * BLOCK), b1, b2, epsilon, scale, decay, corrected_lr,
                      root_correction)


def average(float[::1] averages, const float[::1] values, double decay):
    """Compute averages = decay averages + (1 - decay) values in place: an exponential moving average.

    Shape:
        averages, values (P,).

    Raises:
        ValueError: The lengths differ.
    """
    cdef Py_ssize_t size = values.shape[0], block
    cdef Py_ssize_t blocks = (size + BLOCK - 1) // BLOCK
    cdef float share = 1 - decay
    check_equal("average: length of averages", averages.shape[0], size)
    for block in prange(blocks, nogil=True, schedule="static", num_threads=threads_for(size)):
        _average_block(&averages[block * BLOCK], &values[block * BLOCK], min(<Py_ssize_t>BLOCK, size - block * BLOCK),
                       share)


cdef void _average_block(float *averages, const float *values, Py_ssize_t size, float share) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        averages[i] += share * (values[i] - averages[i])


cdef double _sum_of_squares(const float *values, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(start, stop):
        total += <double>values[i] * values[i]
    return total


cdef void _update_block(
    float *values,
    const float *gradients,
    float *m,
    float *v,
    Py_ssize_t size,
    float b1,
    float b2,
    float eps,
    float scale,
    float decay,
    float corrected_lr,
    float root_correction,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef float g, new_m, new_v
    for i in range(size):
        g = gradients[i] * scale
        new_m = b1 * m[i] + (<float>1.0 - b1) * g
        new_v = b2 * v[i] + (<float>1.0 - b2) * g * g
        m[i] = new_m
        v[i] = new_v
        # Not values * (1 - decay): rounding of 1 - decay would lose a small decay.
        values[i] -= decay * values[i] + corrected_lr * new_m / (sqrtf(new_v) * root_correction + eps)
