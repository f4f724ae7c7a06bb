"""Causal multi-head attention: out = softmax(q . k^T / sqrt(D) + mask) . v, head by head (Vaswani et al. 2017).

No (T, T) array exists: a tile of queries meets the keys it sees block by block, with an online softmax, and the backward
pass computes the probabilities again from the logarithm of their sum (Dao et al. 2022).

Scores and what is made of them are kept turned, a row for each key: the softmax then goes along whole vectors of queries,
and both a block and its transpose are read by the products where they lie. The factors that many tiles share, keys and
values, are laid out once a head as the products want them.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport logf, sqrtf
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy

from gpt_core.kernels.fast_math cimport fast_exp
from gpt_core.kernels.gemm cimport Factor, gemm_packed, pack, packed_rows, packed_size
from gpt_core.kernels.shapes cimport want, want_positive
from gpt_core.kernels.threads cimport thread_count, threads_for

cdef enum:
    QUERIES = 64  # of a tile
    KEYS = 112  # of a block
    PITCH = QUERIES + 16  # between the rows of a block: those of one tile of a product never meet in one set of the cache
    SQUARE = 32  # on the diagonal, squares of this side that lie wholly in the future are left out
cdef float HIDDEN = -1e30  # the score of what may not be seen: its exponential is 1e-38 of the largest


def workspace_size(Py_ssize_t keys, Py_ssize_t head_size):
    """Values of scratch that one thread needs for sequences of `keys` positions: keys and values as the products want
    them, and a tile of queries against a block of keys."""
    return 16 + _head_size(keys, head_size) + _tile_size(head_size) + 2 * (KEYS + 2) * PITCH


cdef Py_ssize_t _head_size(Py_ssize_t keys, Py_ssize_t D) noexcept nogil:
    return 2 * (keys + 1) * _row_size(D) + packed_size(keys, D)


cdef Py_ssize_t _tile_size(Py_ssize_t D) noexcept nogil:
    return 2 * (packed_size(D, QUERIES) + packed_size(QUERIES, D))


cdef Py_ssize_t _row_size(Py_ssize_t D) noexcept nogil:
    """Values from one copied row to the next: whole vectors, and never a power of two, which would meet in the cache."""
    return (D + 15) // 16 * 16 + 16


def forward(float[:, :, ::1] out, float[:, :, ::1] log_sums, const float[:, :, :] q, const float[:, :, :] k,
            const float[:, :, :] v, float[:, ::1] workspace):
    """out (B, Tq, C) from q (B, Tq, C), k and v (B, Tk, C); log_sums (B, H, Tq) is kept for `backward`.

    Head h is channels h D to (h + 1) D. The queries are the last Tq of the Tk positions, and query i sees the keys up to
    its own position. Rows of q, k and v may lie apart (views of one array of q | k | v), their channels side by side.
    workspace (threads, at least workspace_size(Tk, D)) is scratch.
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
    if workspace.shape[0] < thread_count() or workspace.shape[1] < workspace_size(Tk, C // H):
        raise ValueError(f"attention: got a workspace of ({workspace.shape[0]}, {workspace.shape[1]}), "
                         f"want at least ({thread_count()}, {workspace_size(Tk, C // H)})")
    return 0


cdef int _check_rows(str what, const Py_ssize_t *shape, const Py_ssize_t *strides) except -1:
    """The channels of a row lie side by side, and the rows in order without overlapping."""
    want(f"attention: bytes between channels of {what}", strides[2], sizeof(float))
    if strides[1] < <Py_ssize_t>(shape[2] * sizeof(float)) and shape[1] > 1:
        raise ValueError(f"attention: got {strides[1]} bytes between rows of {what}, "
                         f"want at least {shape[2] * sizeof(float)}")
    return 0


# A tile of `rows` queries against a block of `keys`, all of which they see; or, on the diagonal, against `rows` keys, of
# which query i sees those up to i.
cdef struct Block:
    bint diagonal
    Py_ssize_t rows, keys, D


cdef float *_aligned(float *space) noexcept nogil:
    return <float*>((<uintptr_t>space + 63) // 64 * 64)


cdef float *_copy_rows(float *to, Py_ssize_t ld, const float *rows, Py_ssize_t ldr, Py_ssize_t count,
                       Py_ssize_t D) noexcept nogil:
    """Rows that lie apart, brought together (and room for one more); gives the end. Where the rows of q | k | v are
    9 KiB apart, all of a head's fall into a quarter of the second-level cache."""
    cdef Py_ssize_t row
    for row in range(count):
        memcpy(to + row * ld, rows + row * ldr, D * sizeof(float))
    return to + (count + 1) * ld


cdef void _attend(float *out, Py_ssize_t ldo, float *log_sums, const float *q, Py_ssize_t ldq, const float *k,
                  Py_ssize_t ldk, const float *v, Py_ssize_t ldv, Py_ssize_t Tq, Py_ssize_t Tk, Py_ssize_t D,
                  float *workspace) noexcept nogil:
    """One head of one sequence. Each tile begins with the diagonal, where every query sees a key."""
    cdef Py_ssize_t first = 0, past, start, row, d, ld = _row_size(D)
    cdef float share, scale = <float>1.0 / sqrtf(<float>D)
    cdef float *keys = _aligned(workspace)
    cdef float *values = _copy_rows(keys, ld, k, ldk, Tk, D)
    cdef float *tile = values + packed_size(Tk, D)
    cdef float *s = tile + packed_size(D, QUERIES)
    cdef Factor packed_v = pack(False, Tk, D, v, ldv, values), packed_q
    cdef Block block
    cdef float largest[QUERIES]
    cdef float sums[QUERIES]
    cdef float factors[QUERIES]
    block.D = D
    while first < Tq:
        block.diagonal, block.rows, block.keys = True, min(<Py_ssize_t>QUERIES, Tq - first), min(<Py_ssize_t>QUERIES, Tq - first)
        packed_q = pack(True, D, block.rows, q + first * ldq, ldq, tile)
        for row in range(QUERIES):
            largest[row] = HIDDEN
            sums[row] = 0
        past = Tk - Tq + first  # keys that all queries of the tile see
        start = past
        while True:
            # S^T (keys, rows) = k (keys, D) . q^T (D, rows) / sqrt(D)
            _by_key(block, scale, keys + start * ld, ld, packed_q, s)
            _exponentials(block, s, largest, sums, factors)
            for row in range(0 if block.diagonal else block.rows):
                if factors[row] != 1:
                    for d in range(D):
                        out[(first + row) * ldo + d] *= factors[row]
            # out (rows, D) += exp(S) (rows, keys) . v (keys, D)
            _to_queries(block, 1, s, packed_v, start, out + first * ldo, ldo, not block.diagonal)
            start = 0 if block.diagonal else start + block.keys
            if start >= past:
                break
            block.diagonal, block.keys = False, min(<Py_ssize_t>KEYS, past - start)
        for row in range(block.rows):
            log_sums[first + row] = largest[row] + logf(sums[row])
            share = 1 / sums[row]
            for d in range(D):
                out[(first + row) * ldo + d] *= share
        first += QUERIES


cdef void _by_key(Block block, float alpha, const float *a, Py_ssize_t lda, Factor b, float *s) noexcept nogil:
    """s (keys, rows) = alpha * a (keys, D) . b (D, rows), where any query sees the key."""
    cdef Py_ssize_t j = 0, first = 0, step = SQUARE if block.diagonal else block.keys
    while j < block.keys:
        first = j if block.diagonal else 0
        gemm_packed(False, min(step, block.keys - j), block.rows - first, block.D, alpha, a + j * lda, lda, b, 0, first,
                    s + j * PITCH + first, PITCH, False)
        j += step


cdef void _to_queries(Block block, float alpha, const float *s, Factor b, Py_ssize_t first_key, float *c,
                      Py_ssize_t ldc, bint accumulate) noexcept nogil:
    """c (rows, D) = alpha * s^T (rows, keys) . b[first_key:] (keys, D), added to c if `accumulate`."""
    cdef Py_ssize_t i = 0, rows, step = packed_rows() if block.diagonal else block.rows
    while i < block.rows:
        rows = min(step, block.rows - i)
        gemm_packed(True, rows, block.D, i + rows if block.diagonal else block.keys, alpha, s + i, PITCH, b, first_key, 0,
                    c + i * ldc, ldc, accumulate)
        i += step


cdef void _to_keys(Block block, float alpha, const float *s, Factor b, float *c, Py_ssize_t ldc,
                   bint accumulate) noexcept nogil:
    """c (keys, D) = alpha * s (keys, rows) . b (rows, D), added to c if `accumulate`."""
    cdef Py_ssize_t j = 0, first, step = packed_rows() if block.diagonal else block.keys
    while j < block.keys:
        first = j if block.diagonal else 0
        gemm_packed(False, min(step, block.keys - j), block.D, block.rows - first, alpha, s + j * PITCH + first, PITCH,
                    b, first, 0, c + j * ldc, ldc, accumulate)
        j += step


cdef void _exponentials(Block block, float *s, float *largest, float *sums, float *factors) noexcept nogil:
    """exp(s - largest) of a block in place, zero where it is not seen; factors (QUERIES) bring what was summed before to
    the new largest score. All loops have a constant length, so that each is vectors and nothing else: queries that a tile
    lacks are computed from whatever lies there, and nothing reads them."""
    cdef Py_ssize_t i, j
    cdef float top[QUERIES]
    cdef float total[QUERIES]
    cdef float *row
    cdef float *second
    cdef float *third
    cdef float *fourth
    for i in range(QUERIES):
        top[i] = largest[i]
        total[i] = 0
    for j in range(block.keys if block.diagonal else 0):
        _hide(s + j * PITCH, j, HIDDEN)
    for j in range(0, block.keys, 4):  # so many at a time that they do not wait for each other's result
        row = s + j * PITCH
        second, third = s + min(j + 1, block.keys - 1) * PITCH, s + min(j + 2, block.keys - 1) * PITCH
        fourth = s + min(j + 3, block.keys - 1) * PITCH
        for i in range(QUERIES):
            top[i] = max(top[i], max(max(row[i], second[i]), max(third[i], fourth[i])))
    for j in range(block.keys):
        row = s + j * PITCH
        for i in range(QUERIES):
            row[i] = fast_exp(row[i] - top[i])
            total[i] += row[i]
        if block.diagonal:
            _hide(row, j, 0)
    for i in range(QUERIES):
        factors[i] = fast_exp(largest[i] - top[i])
        sums[i] = sums[i] * factors[i] + total[i]
        largest[i] = top[i]


cdef inline void _hide(float *row, Py_ssize_t key, float value) noexcept nogil:
    """Sets what is in the future of the diagonal."""
    cdef Py_ssize_t i, run, last = key // 16
    for run in range(last):
        for i in range(16):
            row[run * 16 + i] = value
    row += last * 16
    key -= last * 16
    for i in range(16):
        row[i] = value if i < key else row[i]


cdef void _d_attend(float *d_q, float *d_k, float *d_v, const float *d_out, const float *out, Py_ssize_t ldo,
                    const float *log_sums, const float *q, Py_ssize_t ldq, const float *k, Py_ssize_t ldk,
                    const float *v, Py_ssize_t ldv, Py_ssize_t T, Py_ssize_t D, float *workspace) noexcept nogil:
    """One head of one sequence, the tiles from the last to the first: the last one sees, and so sets, every key."""
    cdef Py_ssize_t first = (T - 1) // QUERIES * QUERIES, start, row, ld = _row_size(D)
    cdef float scale = <float>1.0 / sqrtf(<float>D)
    cdef bint later = False
    cdef float *keys = _aligned(workspace)
    cdef float *values = _copy_rows(keys, ld, k, ldk, T, D)
    cdef float *by_row = _copy_rows(values, ld, v, ldv, T, D)
    cdef float *tile = by_row + packed_size(T, D)
    cdef float *p = tile + _tile_size(D)
    cdef float *d_s = p + (KEYS + 2) * PITCH
    cdef Factor packed_k = pack(False, T, D, k, ldk, by_row), turned_q, turned_d_out, packed_q, packed_d_out
    cdef Block block
    cdef float inner[QUERIES]
    block.D = D
    while first >= 0:
        block.diagonal, block.rows, block.keys = True, min(<Py_ssize_t>QUERIES, T - first), min(<Py_ssize_t>QUERIES, T - first)
        turned_q = pack(True, D, block.rows, q + first * ldq, ldq, tile)
        turned_d_out = pack(True, D, block.rows, d_out + first * ldo, ldo, tile + packed_size(D, QUERIES))
        packed_q = pack(False, block.rows, D, q + first * ldq, ldq, tile + 2 * packed_size(D, QUERIES))
        packed_d_out = pack(False, block.rows, D, d_out + first * ldo, ldo,
                            tile + 2 * packed_size(D, QUERIES) + packed_size(QUERIES, D))
        for row in range(block.rows):
            inner[row] = _inner(d_out + (first + row) * ldo, out + (first + row) * ldo, D)
        start = first
        while True:
            # S^T (keys, rows) = k (keys, D) . q^T (D, rows) / sqrt(D)
            _by_key(block, scale, keys + start * ld, ld, turned_q, p)
            # d_P^T (keys, rows) = v (keys, D) . d_out^T (D, rows)
            _by_key(block, 1, values + start * ld, ld, turned_d_out, d_s)
            _d_softmax(block, p, d_s, log_sums + first, inner)
            # d_v (keys, D) += P^T (keys, rows) . d_out (rows, D)
            _to_keys(block, 1, p, packed_d_out, d_v + start * ldv, ldv, later)
            # d_k (keys, D) += d_S^T (keys, rows) . q (rows, D) / sqrt(D)
            _to_keys(block, scale, d_s, packed_q, d_k + start * ldk, ldk, later)
            # d_q (rows, D) += d_S (rows, keys) . k (keys, D) / sqrt(D)
            _to_queries(block, scale, d_s, packed_k, start, d_q + first * ldq, ldq, not block.diagonal)
            start = 0 if block.diagonal else start + block.keys
            if start >= first:
                break
            block.diagonal, block.keys = False, min(<Py_ssize_t>KEYS, first - start)
        first -= QUERIES
        later = True


cdef float _inner(const float *a, const float *b, Py_ssize_t D) noexcept nogil:
    cdef Py_ssize_t d
    cdef float total = 0
    for d in range(D):
        total += a[d] * b[d]
    return total


cdef void _d_softmax(Block block, float *p, float *d_s, const float *log_sums, const float *inner) noexcept nogil:
    """Turns scores into probabilities and d_P into d_S, both in place and zero where a key is not seen."""
    cdef Py_ssize_t i, j
    cdef float log_sum[QUERIES]
    cdef float minus[QUERIES]
    cdef float row[QUERIES]
    for i in range(block.rows):
        log_sum[i] = log_sums[i]
    for i in range(QUERIES):
        minus[i] = inner[i]
    for j in range(block.keys):
        for i in range(QUERIES):
            row[i] = fast_exp(p[j * PITCH + i] - log_sum[i])
        if block.diagonal:
            _hide(row, j, 0)
            _hide(d_s + j * PITCH, j, 0)
        for i in range(QUERIES):
            p[j * PITCH + i] = row[i]
        for i in range(QUERIES):
            d_s[j * PITCH + i] = row[i] * (d_s[j * PITCH + i] - minus[i])
