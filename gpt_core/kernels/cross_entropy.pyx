"""Softmax cross-entropy over rows of logits. A target of -1 means that the row has none."""

from cython.parallel cimport prange
from libc.math cimport logf

from gpt_core.kernels.fast_math cimport fast_exp
from gpt_core.kernels.shapes cimport check_equal, check_positive
from gpt_core.kernels.threads cimport threads_for

cdef enum:
    WORK = 8  # cost of one logit, in multiply-adds


def forward(
    float[::1] losses,
    int[::1] predictions,
    const float[:, ::1] logits,
    const int[::1] targets,
):
    """Compute losses = log(sum_v exp(logits)) - logits[target], and predictions = argmax_v logits.

    Args:
        losses: Overwritten, in nats; 0 in rows without a target.
        predictions: Overwritten with the most likely id of each row.

    Shape:
        losses, predictions, targets (N,); logits (N, V).

    Raises:
        ValueError: The shapes do not match, or a target is not in [-1, V).
    """
    cdef Py_ssize_t N = logits.shape[0], V = logits.shape[1], n
    _check(losses.shape[0], N, V, targets)
    check_equal("cross_entropy: length of predictions", predictions.shape[0], N)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(WORK * N * V)):
        _forward_row(&losses[n], &predictions[n], &logits[n, 0], V, targets[n])


def forward_backward(
    float[::1] losses,
    float[:, ::1] logits,
    const int[::1] targets,
    float weight,
):
    """Compute losses as `forward` does, and overwrite the logits with their gradient.

        d_logits = weight * (softmax(logits) - onehot(target)), 0 in rows without a target

    Shape:
        losses, targets (N,); logits (N, V).

    Raises:
        ValueError: The shapes do not match, or a target is not in [-1, V).
    """
    cdef Py_ssize_t N = logits.shape[0], V = logits.shape[1], n
    _check(losses.shape[0], N, V, targets)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(WORK * N * V)):
        losses[n] = _forward_backward_row(&logits[n, 0], V, targets[n], weight)


cdef int _check(Py_ssize_t losses, Py_ssize_t N, Py_ssize_t V, const int[::1] targets) except -1:
    cdef Py_ssize_t n
    check_positive("cross_entropy: rows", N)
    check_positive("cross_entropy: vocabulary", V)
    check_equal("cross_entropy: length of losses", losses, N)
    check_equal("cross_entropy: length of targets", targets.shape[0], N)
    for n in range(N):
        if not -1 <= targets[n] < V:
            raise ValueError(f"cross_entropy: got target {targets[n]} at index {n}, expected a value in [-1, {V})")
    return 0


cdef float _maximum(const float *logits, Py_ssize_t V) noexcept nogil:
    """Speed only: 16 running maxima, which vectorize. A single one takes as long as the exponentials."""
    cdef Py_ssize_t v = 0, lane
    cdef float maximum = logits[0]
    cdef float[16] lanes
    for lane in range(16):
        lanes[lane] = maximum
    while v + 16 <= V:
        for lane in range(16):
            lanes[lane] = max(lanes[lane], logits[v + lane])
        v += 16
    for lane in range(16):
        maximum = max(maximum, lanes[lane])
    while v < V:
        maximum = max(maximum, logits[v])
        v += 1
    return maximum


cdef void _forward_row(float *loss, int *prediction, const float *logits, Py_ssize_t V, int target) noexcept nogil:
    cdef Py_ssize_t v
    cdef float maximum = _maximum(logits, V), total = 0
    loss[0] = 0
    prediction[0] = 0  # remains 0 only if a logit is NaN
    for v in range(V):
        if logits[v] == maximum:
            prediction[0] = <int>v
            break
    if target >= 0:
        for v in range(V):
            total += fast_exp(logits[v] - maximum)
        loss[0] = logf(total) - (logits[target] - maximum)


cdef float _forward_backward_row(float *logits, Py_ssize_t V, int target, float weight) noexcept nogil:
    """Overwrite a row of logits with its gradient and return the loss."""
    cdef Py_ssize_t v
    cdef float maximum, total = 0, loss, scale
    if target < 0:
        for v in range(V):
            logits[v] = 0
        return 0
    maximum = _maximum(logits, V)
    loss = -(logits[target] - maximum)
    for v in range(V):
        logits[v] = fast_exp(logits[v] - maximum)
    for v in range(V):
        total += logits[v]
    scale = weight / total
    for v in range(V):
        logits[v] *= scale
    logits[target] -= weight
    return logf(total) + loss
