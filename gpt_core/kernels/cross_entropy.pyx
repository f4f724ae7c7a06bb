"""Softmax cross-entropy over rows of logits; a target of -1 means that the row has none."""

from cython.parallel cimport prange
from libc.math cimport logf

from gpt_core.kernels.fast_math cimport fast_exp
from gpt_core.kernels.shapes cimport want, want_positive
from gpt_core.kernels.threads cimport threads_for

cdef enum:
    WORK = 8  # what a logit takes, in multiply-adds


def forward(float[::1] losses, int[::1] predictions, const float[:, ::1] logits, const int[::1] targets):
    """losses (N,) = log sum_v exp(logits (N, V)) - logits[target], 0 where there is no target;
    predictions (N,) = the likeliest id of each row. Raises ValueError for a target outside [-1, V).
    """
    cdef Py_ssize_t N = logits.shape[0], V = logits.shape[1], n
    _check(losses.shape[0], N, V, targets)
    want("cross_entropy: length of predictions", predictions.shape[0], N)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(WORK * N * V)):
        _score(&losses[n], &predictions[n], &logits[n, 0], V, targets[n])


def forward_backward(float[::1] losses, float[:, ::1] logits, const int[::1] targets, float weight):
    """losses as in `forward`, and in place of the logits their gradient:
    d_logits (N, V) = weight * (softmax(logits) - onehot(target)), 0 in rows without a target.
    """
    cdef Py_ssize_t N = logits.shape[0], V = logits.shape[1], n
    _check(losses.shape[0], N, V, targets)
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(WORK * N * V)):
        losses[n] = _loss_and_gradient(&logits[n, 0], V, targets[n], weight)


cdef int _check(Py_ssize_t losses, Py_ssize_t N, Py_ssize_t V, const int[::1] targets) except -1:
    cdef Py_ssize_t n
    want_positive("cross_entropy: rows", N)
    want_positive("cross_entropy: vocabulary", V)
    want("cross_entropy: length of losses", losses, N)
    want("cross_entropy: length of targets", targets.shape[0], N)
    for n in range(N):
        if not -1 <= targets[n] < V:
            raise ValueError(f"cross_entropy: got target {targets[n]} at {n}, want one in [-1, {V})")
    return 0


cdef float _largest(const float *logits, Py_ssize_t V) noexcept nogil:
    """In sixteen lanes, which the compiler turns into vectors: one running maximum took as long as the exponentials."""
    cdef Py_ssize_t v = 0, lane
    cdef float largest = logits[0]
    cdef float[16] lanes
    for lane in range(16):
        lanes[lane] = largest
    while v + 16 <= V:
        for lane in range(16):
            lanes[lane] = max(lanes[lane], logits[v + lane])
        v += 16
    for lane in range(16):
        largest = max(largest, lanes[lane])
    while v < V:
        largest = max(largest, logits[v])
        v += 1
    return largest


cdef void _score(float *loss, int *prediction, const float *logits, Py_ssize_t V, int target) noexcept nogil:
    cdef Py_ssize_t v
    cdef float largest = _largest(logits, V), total = 0
    loss[0] = 0
    prediction[0] = 0  # stays so only where a logit is not a number
    for v in range(V):
        if logits[v] == largest:
            prediction[0] = <int>v
            break
    if target >= 0:
        for v in range(V):
            total += fast_exp(logits[v] - largest)
        loss[0] = logf(total) - (logits[target] - largest)


cdef float _loss_and_gradient(float *logits, Py_ssize_t V, int target, float weight) noexcept nogil:
    cdef Py_ssize_t v
    cdef float largest, total = 0, loss, share
    if target < 0:
        for v in range(V):
            logits[v] = 0
        return 0
    largest = _largest(logits, V)
    loss = -(logits[target] - largest)
    for v in range(V):
        logits[v] = fast_exp(logits[v] - largest)
    for v in range(V):
        total += logits[v]
    share = weight / total
    for v in range(V):
        logits[v] *= share
    logits[target] -= weight
    return logf(total) + loss
