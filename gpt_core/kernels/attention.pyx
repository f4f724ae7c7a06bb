"""Causal multi-head attention: out = softmax(q . k^T / sqrt(D) + mask) . v, head by head (Vaswani et al. 2017).

No (T, T) array exists: the queries are taken in tiles of rows, each tile looks at the keys up to its own last position,
and the backward pass computes the probabilities again from the logarithm of their sum (Dao et al. 2022).
"""

from cython.parallel cimport prange, threadid
from libc.math cimport logf, sqrtf

from gpt_core.kernels.fast_math cimport fast_exp
from gpt_core.kernels.gemm cimport gemm
from gpt_core.kernels.shapes cimport want, want_positive
from gpt_core.kernels.threads cimport thread_count, threads_for

cdef Py_ssize_t TILE = 64  # rows of queries: two tiles of scores stay in the second-level cache up to T = 1024
# Of short sequences, a tile of half the rows computes less of the future: at T = 64, 3 quarters of the square, not all.
cdef Py_ssize_t SHORT_TILE = 32, SHORT = 128
cdef float HIDDEN = -1e30  # the score of what may not be seen: its exponential is 1e-38 of the largest


def workspace_size(Py_ssize_t keys):
    """Values of scratch that one thread needs for sequences of `keys` positions: two tiles of scores and a column."""
    return TILE * (2 * keys + 1)


def forward(float[:, :, ::1] out, float[:, :, ::1] log_sums, const float[:, :, :] q, const float[:, :, :] k,
            const float[:, :, :] v, float[:, ::1] workspace):
    """out (B, Tq, C) from q (B, Tq, C), k and v (B, Tk, C); log_sums (B, H, Tq) is kept for `backward`.

    Head h is channels h D to (h + 1) D. The queries are the last Tq of the Tk positions, and query i sees the keys up to
    its own position. Rows of q, k and v may lie apart (views of one array of q | k | v), their channels side by side.
    workspace (threads, at least workspace_size(Tk)) is scratch.
    """
    cdef Py_ssize_t B = q.shape[0], Tq = q.shape[1], C = q.shape[2], Tk = k.shape[1], H = log_sums.shape[1]
    cdef Py_ssize_t item, b, h, D = C // max(H, 1)
    cdef Py_ssize_t ldq = q.strides[1] // 4, ldk = k.strides[1] // 4, ldv = v.strides[1] // 4
    _check(B, Tq, Tk, C, H, q.shape, k.shape, v.shape, out.shape, log_sums.shape, workspace)
    _check_rows("q", q.shape, q.strides)
    _check_rows("k", k.shape, k.strides)
    _check_rows("v", v.shape, v.strides)
    for item in prange(B * H, nogil=True, schedule="dynamic", num_threads=threads_for(2 * B * C * Tq * Tk)):
        b = item // H
        h = item % H
        _attend(&out[b, 0, h * D], C, &log_sums[b, h, 0], &q[b, 0, h * D], ldq, &k[b, 0, h * D], ldk,
                &v[b, 0, h * D], ldv, Tq, Tk, D, &workspace[threadid(), 0])


def backward(float[:, :, :] d_q, float[:, :, :] d_k, float[:, :, :] d_v, const float[:, :, ::1] d_out,
             const float[:, :, ::1] out, const float[:, :, ::1] log_sums, const float[:, :, :] q,
             const float[:, :, :] k, const float[:, :, :] v, float[:, ::1] workspace):
    """d_q, d_k, d_v (B, T, C), laid out like q, k and v, from d_out (B, T, C) and what `forward` kept.

    With P = softmax(S), S = q . k^T / sqrt(D):  d_v = P^T . d_out;  d_P = d_out . v^T;
    d_S = P * (d_P - sum_c d_out * out);  d_q = d_S . k / sqrt(D);  d_k = d_S^T . q / sqrt(D).
    """
    cdef Py_ssize_t B = q.shape[0], T = q.shape[1], C = q.shape[2], H = log_sums.shape[1]
    cdef Py_ssize_t item, b, h, D = C // max(H, 1)
    cdef Py_ssize_t ldq = q.strides[1] // 4, ldk = k.strides[1] // 4, ldv = v.strides[1] // 4
    _check(B, T, T, C, H, q.shape, k.shape, v.shape, out.shape, log_sums.shape, workspace)
    _check(B, T, T, C, H, d_q.shape, d_k.shape, d_v.shape, d_out.shape, log_sums.shape, workspace)
    _check_rows("q", q.shape, q.strides)
    _check_rows("k", k.shape, k.strides)
    _check_rows("v", v.shape, v.strides)
    _check_rows("d_q", d_q.shape, d_q.strides)
    want("attention: distance of rows of d_q", d_q.strides[1], q.strides[1])
    _check_rows("d_k", d_k.shape, d_k.strides)
    want("attention: distance of rows of d_k", d_k.strides[1], k.strides[1])
    _check_rows("d_v", d_v.shape, d_v.strides)
    want("attention: distance of rows of d_v", d_v.strides[1], v.strides[1])
    for item in prange(B * H, nogil=True, schedule="dynamic", num_threads=threads_for(5 * B * C * T * T)):
        b = item // H
        h = item % H
        _d_attend(&d_q[b, 0, h * D], &d_k[b, 0, h * D], &d_v[b, 0, h * D], &d_out[b, 0, h * D], &out[b, 0, h * D], C,
                  &log_sums[b, h, 0], &q[b, 0, h * D], ldq, &k[b, 0, h * D], ldk, &v[b, 0, h * D], ldv, T, D,
                  &workspace[threadid(), 0])


cdef int _check(Py_ssize_t B, Py_ssize_t Tq, Py_ssize_t Tk, Py_ssize_t C, Py_ssize_t H, const Py_ssize_t *q,
                const Py_ssize_t *k, const Py_ssize_t *v, const Py_ssize_t *out, const Py_ssize_t *log_sums,
                float[:, ::1] workspace) except -1:
    cdef Py_ssize_t axis
    want_positive("attention: queries", B * Tq * C)
    want_positive("attention: heads", H)
    want("attention: channels left over by the heads", C % H, 0)
    if Tk < Tq:
        raise ValueError(f"attention: got {Tk} keys for {Tq} queries, want at least as many keys")
    for axis in range(3):
        want("attention: shape of q", q[axis], B if axis == 0 else Tq if axis == 1 else C)
        want("attention: shape of k", k[axis], B if axis == 0 else Tk if axis == 1 else C)
        want("attention: shape of v", v[axis], B if axis == 0 else Tk if axis == 1 else C)
        want("attention: shape of out", out[axis], B if axis == 0 else Tq if axis == 1 else C)
        want("attention: shape of log_sums", log_sums[axis], B if axis == 0 else H if axis == 1 else Tq)
    if workspace.shape[0] < thread_count() or workspace.shape[1] < workspace_size(Tk):
        raise ValueError(f"attention: got a workspace of ({workspace.shape[0]}, {workspace.shape[1]}), "
                         f"want at least ({thread_count()}, {workspace_size(Tk)})")
    return 0


cdef int _check_rows(str what, const Py_ssize_t *shape, const Py_ssize_t *strides) except -1:
    """The channels of a row lie side by side, and the rows in order without overlapping."""
    want(f"attention: bytes between channels of {what}", strides[2], sizeof(float))
    if strides[1] < <Py_ssize_t>(shape[2] * sizeof(float)) and shape[1] > 1:
        raise ValueError(f"attention: got {strides[1]} bytes between rows of {what}, "
                         f"want at least {shape[2] * sizeof(float)}")
    return 0


cdef void _attend(float *out, Py_ssize_t ldo, float *log_sums, const float *q, Py_ssize_t ldq, const float *k,
                  Py_ssize_t ldk, const float *v, Py_ssize_t ldv, Py_ssize_t Tq, Py_ssize_t Tk, Py_ssize_t D,
                  float *scores) noexcept nogil:
    """One head of one sequence. The rows are divided by their sums when there are D values left of each, not `seen`."""
    cdef Py_ssize_t first = 0, tile = _tile(Tk), rows, seen, row, d
    cdef float scale = <float>1.0 / sqrtf(<float>D)
    cdef float *sums = scores + TILE * Tk
    while first < Tq:
        rows = min(tile, Tq - first)
        seen = Tk - Tq + first + rows  # keys that the last row of the tile sees
        # S (rows, seen) = q (rows, D) . k^T (D, seen) / sqrt(D)
        gemm(False, True, rows, seen, D, scale, q + first * ldq, ldq, k, ldk, scores, seen, NULL, 0, NULL)
        for row in range(rows):
            log_sums[first + row] = _exponentials(&sums[row], scores + row * seen, seen - rows + row + 1, seen)
        # out (rows, D) = exp(S) (rows, seen) . v (seen, D) / sum exp(S)
        gemm(False, False, rows, D, seen, 1, scores, seen, v, ldv, out + first * ldo, ldo, NULL, 0, NULL)
        for row in range(rows):
            for d in range(D):
                out[(first + row) * ldo + d] /= sums[row]
        first += rows


cdef Py_ssize_t _tile(Py_ssize_t keys) noexcept nogil:
    return SHORT_TILE if keys <= SHORT else TILE


cdef Py_ssize_t _whole_vectors(Py_ssize_t visible, Py_ssize_t length) noexcept nogil:
    """So many values that no vector is cut, where there are more: at T = 64 half of a row would be cut ones."""
    return min((visible + 15) // 16 * 16, length)


cdef float _exponentials(float *total, float *scores, Py_ssize_t visible, Py_ssize_t length) noexcept nogil:
    """exp(score - largest) of the visible scores in place, zero beyond them, and their sum; gives log sum exp."""
    cdef Py_ssize_t j, whole = _whole_vectors(visible, length)
    cdef float largest = scores[0], added = 0
    for j in range(visible, length):
        scores[j] = HIDDEN
    for j in range(whole):
        largest = max(largest, scores[j])
    for j in range(whole):
        scores[j] = fast_exp(scores[j] - largest)
        added += scores[j]
    for j in range(visible, length):
        scores[j] = 0
    total[0] = added
    return largest + logf(added)


cdef void _d_attend(float *d_q, float *d_k, float *d_v, const float *d_out, const float *out, Py_ssize_t ldo,
                    const float *log_sums, const float *q, Py_ssize_t ldq, const float *k, Py_ssize_t ldk,
                    const float *v, Py_ssize_t ldv, Py_ssize_t T, Py_ssize_t D, float *workspace) noexcept nogil:
    """One head of one sequence, the tiles from the last to the first: the last one sees, and so sets, every key."""
    cdef Py_ssize_t tile = _tile(T), first = (T - 1) // tile * tile, rows, seen, row
    cdef float scale = <float>1.0 / sqrtf(<float>D)
    cdef float *p = workspace
    cdef float *d_s = workspace + TILE * T
    while first >= 0:
        rows = min(tile, T - first)
        seen = first + rows
        # P (rows, seen) = exp(q . k^T / sqrt(D) - log_sums)
        gemm(False, True, rows, seen, D, scale, q + first * ldq, ldq, k, ldk, p, seen, NULL, 0, NULL)
        # d_P (rows, seen) = d_out (rows, D) . v^T (D, seen)
        gemm(False, True, rows, seen, D, 1, d_out + first * ldo, ldo, v, ldv, d_s, seen, NULL, 0, NULL)
        for row in range(rows):
            _d_softmax_row(p + row * seen, d_s + row * seen, d_out + (first + row) * ldo, out + (first + row) * ldo,
                           log_sums[first + row], first + row + 1, seen, D)
        # d_v (seen, D) += P^T (seen, rows) . d_out (rows, D)
        gemm(True, False, seen, D, rows, 1, p, seen, d_out + first * ldo, ldo, d_v, ldv,
             d_v if first + tile < T else NULL, ldv, NULL)
        # d_k (seen, D) += d_S^T (seen, rows) . q (rows, D) / sqrt(D)
        gemm(True, False, seen, D, rows, scale, d_s, seen, q + first * ldq, ldq, d_k, ldk,
             d_k if first + tile < T else NULL, ldk, NULL)
        # d_q (rows, D) = d_S (rows, seen) . k (seen, D) / sqrt(D)
        gemm(False, False, rows, D, seen, scale, d_s, seen, k, ldk, d_q + first * ldq, ldq, NULL, 0, NULL)
        first -= tile


cdef void _d_softmax_row(float *p, float *d_s, const float *d_out, const float *out, float log_sum, Py_ssize_t visible,
                         Py_ssize_t length, Py_ssize_t D) noexcept nogil:
    """Turns scores into probabilities and d_P into d_S, both in place and zero beyond the visible keys."""
    cdef Py_ssize_t j, whole = _whole_vectors(visible, length)
    cdef float inner = 0
    for j in range(D):
        inner += d_out[j] * out[j]
    for j in range(whole):
        p[j] = fast_exp(p[j] - log_sum)
        d_s[j] = p[j] * (d_s[j] - inner)
    for j in range(visible, length):
        p[j] = 0
        d_s[j] = 0
