"""Causal multi-head attention: out = softmax(q . k^T / sqrt(D) + mask) . v for each head (Vaswani et al. 2017).

The algorithm is FlashAttention's (Dao et al. 2022; Dao 2023), which never stores a (T, T) array. For each head, forward:

    for each tile of Br queries:                                  q (Br, D)
        O = 0;  m = -inf;  l = 0
        for each block of Bc keys that the tile attends to:       k, v (Bc, D)
            S = q . k^T, masked on the diagonal
            m_new = max(m, max_j S / sqrt(D));  P = exp(S / sqrt(D) - m_new);  rescale = exp(m - m_new)
            l = rescale * l + sum_j P;  O = rescale * O + P . v;  m = m_new
        O = O / l;  lse = m + log(l)

and backward, which recomputes P from lse:

    for each tile of Br queries:                                  delta = sum_d d_O * O
        for each block of Bc keys that the tile attends to:
            P = exp(q . k^T / sqrt(D) - lse);  d_P = d_O . v^T;  d_S = P * (d_P - delta) / sqrt(D)
            d_v += P^T . d_O;  d_k += d_S^T . q;  d_q += d_S . k

The first block of a tile is the diagonal one: the keys at the positions of its queries. `attention_tiled_forward` and
`attention_tiled_backward` in `gpt_core.reference` are the same loops in NumPy. Notes on speed are at the end of this
file.

With `bfloat16=True` the operands of all products are rounded to bfloat16, among them P and d_S; S, softmax and sums are
float32. Products of BLAS stay float32. Inputs and results may then be arrays of uint16, the bits of bfloat16: results are
summed in float32 and rounded when they are complete.

With a `dropout` above 0, P is multiplied elementwise by the factors M of dropout (Srivastava et al. 2014): 0 with
probability `dropout`, else 1 / (1 - dropout). l sums P itself:

    forward:   O = rescale * O + (M * P) . v
    backward:  d_P = M * (d_O . v^T);  d_v += (M * P)^T . d_O;  delta is unchanged, because O = (M * P) . v

M is a function of the key of the mask, the query's number among those of all heads and sequences, and the position of
the key (`random_masks.pxd`), and is computed again in the backward pass.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport logf, sqrtf
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uintptr_t

from gpt_core.kernels.bfloat16 cimport CHUNK, round_row, stored, widen
from gpt_core.kernels.fast_math cimport fast_exp
from gpt_core.kernels.gemm cimport (
    BFLOAT16, FLOAT32, READ_AT_ONCE, Format, Matrix, Output, PackedB, at, begin_packed, end_packed, format_of, gemm_packed,
    in_tiles, pack, pack_row, pack_transposed, packed_rows, packed_size, packed_slice,
)
from gpt_core.kernels.random_masks cimport factor_of, random_bits, row_key, threshold_of
from gpt_core.kernels.shapes cimport check_adjacent, check_equal, check_positive, leading_dimension
from gpt_core.kernels.threads cimport threads_for

cdef enum:
    Br = 64  # queries per tile
    Bc = 112  # keys per block
    TILES_BC = 128  # keys per block if products are computed in tiles
    S_LD = Br + 16  # leading dimension of S^T; speed only: rows at this distance do not share a set of the cache
    SCORES_SIZE = (TILES_BC + READ_AT_ONCE) * S_LD  # values for S^T
    DIAGONAL_STEP = 32  # keys at a time on the diagonal; speed only: squares of masked scores are skipped
cdef float MASKED = -1e30  # a masked score: its exponential is 1e-38 of the largest


# The inputs of one head of one sequence: q (Tq, D), k and v (Tk, D), with the distance between their rows.
# `memory` is the format in which they, and all results of the same shape, are stored.
cdef struct Head:
    Format format, memory
    Py_ssize_t Tq, Tk, D
    const void *q
    const void *k
    const void *v
    Py_ssize_t ldq, ldk, ldv


# The gradients of a head's inputs: each has the shape and leading dimension of its input.
cdef struct HeadGradients:
    void *d_q
    void *d_k
    void *d_v


# One tile of queries against one block of keys. On the diagonal bc = br, and query i sees the keys up to i.
cdef struct Tile:
    Format format
    bint diagonal
    Py_ssize_t br, bc, D


# Dropout of the P of one head: the key of the mask, and the number of the head's first query.
cdef struct Dropout:
    int threshold  # 0: none
    float scale
    uint64_t key, first_row


# Dropout of the P of one tile: the halves of each query's key.
cdef struct TileDropout:
    int threshold
    float scale
    uint32_t[Br] low
    uint32_t[Br] high


# Scratch of one thread: parts of one row of the workspace array.
cdef struct Workspace:
    float *k_rows  # copies of k and v (Tk, D), with leading dimension ld; with bfloat16 as slots
    float *v_rows
    Py_ssize_t ld
    float *packed  # packed k or v
    float *packed_tile  # packed forms of q and d_O of one tile
    float *S  # S^T, and in place of it P^T
    float *d_S  # d_P^T, and in place of it d_S^T
    float *pairs  # with bfloat16, P or d_S as slots of two keys
    float *sums  # of results that are stored in bfloat16: O or d_q of a tile, d_k and d_v of the head; rows of D values


# ---- Functions that Python calls


def workspace_size(Py_ssize_t keys, Py_ssize_t head_size):
    """Return the number of float32 values of scratch per thread for sequences of up to `keys` positions."""
    return 16 + _head_size(keys, head_size) + _tile_size(head_size) + 3 * SCORES_SIZE + (Br + 2 * keys) * head_size


def forward(
    stored[:, :, :] out,
    float[:, :, ::1] lse,
    const stored[:, :, :] q,
    const stored[:, :, :] k,
    const stored[:, :, :] v,
    float[:, ::1] workspace,
    bint bfloat16=False,
    double dropout=0,
    uint64_t dropout_key=0,
    Py_ssize_t first_sequence=0,
):
    """Compute out = softmax(q . k^T / sqrt(D) + mask) . v, and lse, which `backward` needs.

    Head h uses channels h * D to (h + 1) * D. The queries are the last Tq of the Tk positions, and each attends to the
    keys up to its own position.

    Args:
        out: Overwritten. Its rows may be apart.
        lse: Overwritten with log(sum_j exp(score)) of each query, over the keys j that it attends to.
        q: Queries. Its rows, and those of k and v, may be apart, as in views of one array of q | k | v.
        k: Keys.
        v: Values.
        workspace: Scratch, one row per thread; more threads are not used.
        bfloat16: Multiply in bfloat16, if the number of keys before the first query is even. Then q, k, v and out may
            be bfloat16 (as uint16), all of them.
        dropout: Probability with which an element of softmax(...) is dropped, in [0, 1).
        dropout_key: Key of the mask.
        first_sequence: Number of the first sequence, where the sequences are part of a larger batch.

    Shape:
        out, q (B, Tq, C); k, v (B, Tk, C); lse (B, H, Tq); workspace (threads, at least workspace_size(Tk, D)).

    Raises:
        ValueError: The shapes do not match, the rows of out, q, k or v are not in order, or bfloat16 cannot be used.
    """
    cdef Py_ssize_t B = q.shape[0], Tq = q.shape[1], C = q.shape[2], Tk = k.shape[1], H = lse.shape[1]
    cdef Py_ssize_t item, b, h, D = C // max(H, 1), size = sizeof(stored)
    cdef Py_ssize_t ldq = leading_dimension(Tq, C, q.strides[1], size)
    cdef Py_ssize_t ldk = leading_dimension(Tk, C, k.strides[1], size)
    cdef Py_ssize_t ldv = leading_dimension(Tk, C, v.strides[1], size)
    cdef Py_ssize_t ldo = leading_dimension(Tq, C, out.strides[1], size)
    cdef Format format = format_of(bfloat16 and (Tk - Tq) % 2 == 0)  # a slot holds two keys of one block
    cdef Format memory = BFLOAT16 if stored is uint16_t else FLOAT32
    cdef int team = min(threads_for(2 * B * C * Tq * Tk), <int>workspace.shape[0])
    _check_shapes(B, Tq, Tk, C, H, q.shape, k.shape, v.shape, out.shape, lse.shape, workspace)
    _check_rows("out", out.shape, out.strides, size)
    _check_rows("q", q.shape, q.strides, size)
    _check_rows("k", k.shape, k.strides, size)
    _check_rows("v", v.shape, v.strides, size)
    _check_dropout(dropout)
    _check_format(format, memory)
    for item in prange(B * H, nogil=True, schedule="dynamic", num_threads=team):
        b = item // H
        h = item % H
        _forward_head(
            Head(format, memory, Tq, Tk, D, &q[b, 0, h * D], &k[b, 0, h * D], &v[b, 0, h * D], ldq, ldk, ldv),
            &out[b, 0, h * D], ldo, &lse[b, h, 0], &workspace[threadid(), 0],
            _dropout_of(dropout, dropout_key, ((first_sequence + b) * H + h) * Tk + Tk - Tq),
        )


def backward(
    stored[:, :, :] d_q,
    stored[:, :, :] d_k,
    stored[:, :, :] d_v,
    const stored[:, :, ::1] d_out,
    const stored[:, :, ::1] out,
    const float[:, :, ::1] lse,
    const stored[:, :, :] q,
    const stored[:, :, :] k,
    const stored[:, :, :] v,
    float[:, ::1] workspace,
    bint bfloat16=False,
    double dropout=0,
    uint64_t dropout_key=0,
    Py_ssize_t first_sequence=0,
):
    """Compute the gradients of q, k and v from d_out, and from out and lse as `forward` computed them.

    With P = softmax(S) and S = q . k^T / sqrt(D), without dropout:

        d_v = P^T . d_out;  d_P = d_out . v^T;  d_S = P * (d_P - sum_d d_out * out)
        d_q = d_S . k / sqrt(D);  d_k = d_S^T . q / sqrt(D)

    Shape:
        d_q, d_k, d_v, d_out, out, q, k, v (B, T, C); lse (B, H, T); workspace (threads, at least workspace_size(T, D)).
        d_q, d_k and d_v have the strides of q, k and v, and are overwritten. Dropout is that of the forward pass. All
        but lse and workspace may be bfloat16.

    Raises:
        ValueError: The shapes or strides do not match, or bfloat16 cannot be used.
    """
    cdef Py_ssize_t B = q.shape[0], T = q.shape[1], C = q.shape[2], H = lse.shape[1]
    cdef Py_ssize_t item, b, h, D = C // max(H, 1), size = sizeof(stored)
    cdef Py_ssize_t ldq = leading_dimension(T, C, q.strides[1], size)
    cdef Py_ssize_t ldk = leading_dimension(T, C, k.strides[1], size)
    cdef Py_ssize_t ldv = leading_dimension(T, C, v.strides[1], size)
    cdef Format format = format_of(bfloat16), memory = BFLOAT16 if stored is uint16_t else FLOAT32
    cdef int team = min(threads_for(5 * B * C * T * T), <int>workspace.shape[0])
    _check_shapes(B, T, T, C, H, q.shape, k.shape, v.shape, out.shape, lse.shape, workspace)
    _check_shapes(B, T, T, C, H, d_q.shape, d_k.shape, d_v.shape, d_out.shape, lse.shape, workspace)
    _check_rows("q", q.shape, q.strides, size)
    _check_rows("k", k.shape, k.strides, size)
    _check_rows("v", v.shape, v.strides, size)
    _check_dropout(dropout)
    _check_format(format, memory)
    _check_gradient("d_q", d_q.shape, d_q.strides, q.strides, size)
    _check_gradient("d_k", d_k.shape, d_k.strides, k.strides, size)
    _check_gradient("d_v", d_v.shape, d_v.strides, v.strides, size)
    for item in prange(B * H, nogil=True, schedule="dynamic", num_threads=team):
        b = item // H
        h = item % H
        _backward_head(
            Head(format, memory, T, T, D, &q[b, 0, h * D], &k[b, 0, h * D], &v[b, 0, h * D], ldq, ldk, ldv),
            HeadGradients(&d_q[b, 0, h * D], &d_k[b, 0, h * D], &d_v[b, 0, h * D]),
            &d_out[b, 0, h * D], &out[b, 0, h * D], C, &lse[b, h, 0], &workspace[threadid(), 0],
            _dropout_of(dropout, dropout_key, ((first_sequence + b) * H + h) * T),
        )


# ---- Checks


cdef int _check_shapes(
    Py_ssize_t B,
    Py_ssize_t Tq,
    Py_ssize_t Tk,
    Py_ssize_t C,
    Py_ssize_t H,
    const Py_ssize_t *q,
    const Py_ssize_t *k,
    const Py_ssize_t *v,
    const Py_ssize_t *out,
    const Py_ssize_t *lse,
    float[:, ::1] workspace,
) except -1:
    check_positive("attention: queries", B * Tq * C)
    check_positive("attention: heads", H)
    check_equal("attention: remainder of channels divided by heads", C % H, 0)
    if Tk < Tq:
        raise ValueError(f"attention: got {Tk} keys for {Tq} queries, expected at least as many keys as queries")
    _check_shape("q", q, B, Tq, C)
    _check_shape("k", k, B, Tk, C)
    _check_shape("v", v, B, Tk, C)
    _check_shape("out", out, B, Tq, C)
    _check_shape("lse", lse, B, H, Tq)
    if workspace.shape[0] < 1 or workspace.shape[1] < workspace_size(Tk, C // H):
        raise ValueError(f"attention: got workspace ({workspace.shape[0]}, {workspace.shape[1]}), "
                         f"expected at least (1, {workspace_size(Tk, C // H)})")
    return 0


cdef int _check_shape(str what, const Py_ssize_t *shape, Py_ssize_t d0, Py_ssize_t d1, Py_ssize_t d2) except -1:
    check_equal(f"attention: first dimension of {what}", shape[0], d0)
    check_equal(f"attention: second dimension of {what}", shape[1], d1)
    check_equal(f"attention: third dimension of {what}", shape[2], d2)
    return 0


cdef int _check_rows(str what, const Py_ssize_t *shape, const Py_ssize_t *strides, Py_ssize_t size) except -1:
    """The channels of a row must be contiguous, and the rows in order without overlap."""
    check_adjacent(f"attention: bytes between channels of {what}", shape[2], strides[2], size)
    if strides[1] < shape[2] * size and shape[1] > 1:
        raise ValueError(f"attention: got {strides[1]} bytes between rows of {what}, expected at least {shape[2] * size}")
    return 0


cdef int _check_format(Format format, Format memory) except -1:
    if memory == BFLOAT16 and format != BFLOAT16:
        raise ValueError("attention: got inputs in bfloat16, expected float32 for products in float32")
    return 0


cdef int _check_dropout(double rate) except -1:
    if not 0 <= rate < 1:
        raise ValueError(f"attention: got dropout {rate}, expected at least 0 and less than 1")
    return 0


cdef int _check_gradient(
    str what,
    const Py_ssize_t *shape,
    const Py_ssize_t *strides,
    const Py_ssize_t *input_strides,
    Py_ssize_t size,
) except -1:
    _check_rows(what, shape, strides, size)
    if shape[1] > 1:
        check_equal(f"attention: bytes between rows of {what}", strides[1], input_strides[1])
    return 0


# ---- One head, forward


cdef void _forward_head(
    Head head,
    void *out,
    Py_ssize_t ld_out,
    float *lse,
    float *workspace,
    Dropout dropout,
) noexcept nogil:
    """Write out (Tq, D) and lse (Tq,) of one head."""
    cdef Py_ssize_t first = 0, past, start, i, d, D = head.D, block = _block_keys(head.format)
    cdef Py_ssize_t ldo = D if head.memory == BFLOAT16 else ld_out
    cdef float *O  # O of a tile (br, D): a part of out, or of the workspace until it is rounded
    cdef float inverse, scale = <float>1.0 / sqrtf(<float>D)
    cdef Workspace w = _workspace(head, workspace)
    cdef PackedB packed_v = pack(head.format, head.Tk, D, Matrix(head.v, head.ldv, False, head.memory), w.packed), packed_q
    cdef Tile tile
    cdef TileDropout drop
    cdef float m[Br]
    cdef float l[Br]
    cdef float rescale[Br]
    _copy_rows(head, w.k_rows, w.ld, head.k, head.ldk)
    tile.format, tile.D = head.format, D
    begin_packed(head.format)
    while first < head.Tq:
        tile.diagonal, tile.br, tile.bc = True, min(<Py_ssize_t>Br, head.Tq - first), min(<Py_ssize_t>Br, head.Tq - first)
        packed_q = pack(head.format, D, tile.br,
                        Matrix(at(head.q, first * head.ldq, head.memory), head.ldq, True, head.memory), w.packed_tile)
        O = w.sums if head.memory == BFLOAT16 else <float*>out + first * ld_out
        for i in range(Br):
            m[i] = MASKED
            l[i] = 0
        _start_tile(dropout, first, &drop)
        past = head.Tk - head.Tq + first  # keys before the diagonal block, which all queries of the tile see
        start = past
        while True:
            # S^T (bc, br) = k (bc, D) . q^T (D, br)
            _scores(tile, w.k_rows + start * w.ld, w.ld, packed_q, w.S)
            _online_softmax(tile, scale, w.S, m, l, rescale)
            if drop.threshold > 0:
                _drop(tile, w.S, start, &drop)
            for i in range(0 if tile.diagonal else tile.br):
                if rescale[i] != 1:
                    for d in range(D):
                        O[i * ldo + d] *= rescale[i]
            # O (br, D) += P (br, bc) . v (bc, D)
            _product_per_query(tile, _by_key_pair(tile, w.S, w.pairs), packed_slice(head.format, packed_v, start, 0),
                               O, ldo, not tile.diagonal)
            start = 0 if tile.diagonal else start + tile.bc
            if start >= past:
                break
            tile.diagonal, tile.bc = False, min(block, past - start)
        for i in range(tile.br):
            lse[first + i] = m[i] + logf(l[i])
            inverse = 1 / l[i]
            for d in range(D):
                O[i * ldo + d] *= inverse
        if head.memory == BFLOAT16:
            _round_rows(O, <uint16_t*>out + first * ld_out, ld_out, tile.br, D)
        first += Br
    end_packed(head.format)


cdef void _online_softmax(Tile tile, float scale, float *S, float *m, float *l, float *rescale) noexcept nogil:
    """P^T = exp(scale * S - m_new)^T in place of S^T, 0 where masked; update m and l, and set rescale = exp(m - m_new).

    Speed only: all loops run over Br queries, a constant, so that each consists of full vectors. Queries that a tile
    lacks are computed from whatever is in memory, and their results are not used.
    """
    cdef Py_ssize_t i, j
    cdef float m_new[Br]
    cdef float row_sum[Br]
    cdef float *s0
    cdef float *s1
    cdef float *s2
    cdef float *s3
    for i in range(Br):
        m_new[i] = MASKED
        row_sum[i] = 0
    for j in range(tile.bc if tile.diagonal else 0):
        _mask(S + j * S_LD, j, MASKED)
    for j in range(0, tile.bc, 4):  # speed only: four keys at a time, so that the maxima do not wait for each other
        s0, s1 = S + j * S_LD, S + min(j + 1, tile.bc - 1) * S_LD
        s2, s3 = S + min(j + 2, tile.bc - 1) * S_LD, S + min(j + 3, tile.bc - 1) * S_LD
        for i in range(Br):
            m_new[i] = max(m_new[i], max(max(s0[i], s1[i]), max(s2[i], s3[i])))
    for i in range(Br):
        m_new[i] = max(m[i], scale * m_new[i])
    for j in range(tile.bc):
        s0 = S + j * S_LD
        for i in range(Br):
            s0[i] = fast_exp(scale * s0[i] - m_new[i])
            row_sum[i] += s0[i]
        if tile.diagonal:
            _mask(s0, j, 0)
    for i in range(Br):
        rescale[i] = fast_exp(m[i] - m_new[i])
        l[i] = l[i] * rescale[i] + row_sum[i]
        m[i] = m_new[i]


# ---- One head, backward


cdef void _backward_head(
    Head head,
    HeadGradients gradients,
    const void *d_O,
    const void *O,
    Py_ssize_t ldo,
    const float *lse,
    float *workspace,
    Dropout dropout,
) noexcept nogil:
    """Write the gradients of one head. Tiles run from the last to the first: the last one sees, and so sets, every key."""
    cdef Py_ssize_t first = (head.Tq - 1) // Br * Br, start, i, row, D = head.D, block = _block_keys(head.format)
    cdef float scale = <float>1.0 / sqrtf(<float>D)
    cdef bint accumulate = False  # into d_k and d_v
    cdef Workspace w = _workspace(head, workspace)
    cdef bint rounds = head.memory == BFLOAT16  # the gradients are summed in the workspace
    cdef float *d_q
    cdef float *d_k = w.sums + Br * D if rounds else <float*>gradients.d_k
    cdef float *d_v = d_k + head.Tk * D if rounds else <float*>gradients.d_v
    cdef Py_ssize_t ld_d_q = D if rounds else head.ldq
    cdef Py_ssize_t ld_d_k = D if rounds else head.ldk
    cdef Py_ssize_t ld_d_v = D if rounds else head.ldv
    cdef PackedB packed_k = pack(head.format, head.Tk, D, Matrix(head.k, head.ldk, False, head.memory), w.packed)
    cdef PackedB packed_q, packed_q_T, packed_d_O, packed_d_O_T
    cdef Matrix q, d_out
    cdef Tile tile
    cdef TileDropout drop
    cdef float delta[Br]
    _copy_rows(head, w.k_rows, w.ld, head.k, head.ldk)
    _copy_rows(head, w.v_rows, w.ld, head.v, head.ldv)
    tile.format, tile.D = head.format, D
    begin_packed(head.format)
    while first >= 0:
        tile.diagonal, tile.br, tile.bc = True, min(<Py_ssize_t>Br, head.Tq - first), min(<Py_ssize_t>Br, head.Tq - first)
        q = Matrix(at(head.q, first * head.ldq, head.memory), head.ldq, False, head.memory)
        d_out = Matrix(at(d_O, first * ldo, head.memory), ldo, False, head.memory)
        d_q = w.sums if rounds else <float*>gradients.d_q + first * head.ldq
        packed_q = pack(head.format, tile.br, D, q, w.packed_tile)
        packed_d_O = pack(head.format, tile.br, D, d_out, w.packed_tile + packed_size(Br, D))
        q.transposed = d_out.transposed = True
        packed_q_T = pack(head.format, D, tile.br, q, w.packed_tile + 2 * packed_size(Br, D))
        packed_d_O_T = pack(head.format, D, tile.br, d_out, w.packed_tile + 2 * packed_size(Br, D) + packed_size(D, Br))
        for i in range(tile.br):
            row = (first + i) * ldo
            if rounds:
                delta[i] = _dot_of_bits(<const uint16_t*>d_O + row, <const uint16_t*>O + row, D)
            else:
                delta[i] = _dot(<const float*>d_O + row, <const float*>O + row, D)
        _start_tile(dropout, first, &drop)
        start = first
        while True:
            # S^T (bc, br) = k (bc, D) . q^T (D, br)
            _scores(tile, w.k_rows + start * w.ld, w.ld, packed_q_T, w.S)
            # d_P^T (bc, br) = v (bc, D) . d_O^T (D, br)
            _scores(tile, w.v_rows + start * w.ld, w.ld, packed_d_O_T, w.d_S)
            _softmax_backward(tile, scale, w.S, w.d_S, lse + first, delta, start, &drop)
            # d_q (br, D) += d_S (br, bc) . k (bc, D)
            _product_per_query(tile, _by_key_pair(tile, w.d_S, w.pairs), packed_slice(head.format, packed_k, start, 0),
                               d_q, ld_d_q, not tile.diagonal)
            _pair_queries(tile, w.S)
            _pair_queries(tile, w.d_S)
            # d_v (bc, D) += P^T (bc, br) . d_O (br, D)
            _product_per_key(tile, w.S, packed_d_O, d_v + start * ld_d_v, ld_d_v, accumulate)
            # d_k (bc, D) += d_S^T (bc, br) . q (br, D)
            _product_per_key(tile, w.d_S, packed_q, d_k + start * ld_d_k, ld_d_k, accumulate)
            start = 0 if tile.diagonal else start + tile.bc
            if start >= first:
                break
            tile.diagonal, tile.bc = False, min(block, first - start)
        if rounds:
            _round_rows(d_q, <uint16_t*>gradients.d_q + first * head.ldq, head.ldq, tile.br, D)
        first -= Br
        accumulate = True
    end_packed(head.format)
    if rounds:
        _round_rows(d_k, <uint16_t*>gradients.d_k, head.ldk, head.Tk, D)
        _round_rows(d_v, <uint16_t*>gradients.d_v, head.ldv, head.Tk, D)


cdef void _softmax_backward(
    Tile tile,
    float scale,
    float *S,
    float *d_S,
    const float *lse,
    const float *delta,
    Py_ssize_t first_key,
    const TileDropout *drop,
) noexcept nogil:
    """P = exp(scale * S - lse) in place of S, and d_S = scale * P * (d_P - delta) in place of d_P.

    Both are transposed, and 0 where masked.

    With dropout, M * P in place of S, and M * d_P in place of d_P.
    """
    cdef Py_ssize_t i, j
    cdef bint drops = drop.threshold > 0
    cdef float factors[Br]
    cdef float tile_lse[Br]
    cdef float tile_delta[Br]
    cdef float P[Br]
    for i in range(tile.br):
        tile_lse[i] = lse[i]
    for i in range(Br):
        tile_delta[i] = delta[i]
    for j in range(tile.bc):
        for i in range(Br):
            P[i] = fast_exp(scale * S[j * S_LD + i] - tile_lse[i])
        if tile.diagonal:
            _mask(P, j, 0)
            _mask(d_S + j * S_LD, j, 0)
        if drops:
            _factors(drop, first_key + j, factors)
            for i in range(Br):
                d_S[j * S_LD + i] *= factors[i]
                S[j * S_LD + i] = P[i] * factors[i]
        else:
            for i in range(Br):
                S[j * S_LD + i] = P[i]
        for i in range(Br):
            d_S[j * S_LD + i] = scale * P[i] * (d_S[j * S_LD + i] - tile_delta[i])


# ---- Dropout


cdef Dropout _dropout_of(double rate, uint64_t key, uint64_t first_row) noexcept nogil:
    """Return the dropout of one head, whose queries have the numbers from `first_row` on."""
    return Dropout(threshold_of(rate), <float>(1 / (1 - rate)), key, first_row)


cdef void _start_tile(Dropout dropout, Py_ssize_t first, TileDropout *drop) noexcept nogil:
    """Set the keys of the queries from `first` on, if there is dropout."""
    cdef Py_ssize_t i
    cdef uint64_t key
    drop.threshold, drop.scale = dropout.threshold, dropout.scale
    for i in range(Br if dropout.threshold > 0 else 0):
        key = row_key(dropout.key, dropout.first_row + first + i)
        drop.low[i] = <uint32_t>key
        drop.high[i] = <uint32_t>(key >> 32)


cdef inline void _factors(const TileDropout *drop, Py_ssize_t key, float *factors) noexcept nogil:
    """Write the factors M of one key for Br queries."""
    cdef Py_ssize_t i
    for i in range(Br):
        factors[i] = factor_of(random_bits(drop.low[i], drop.high[i], <uint32_t>key), drop.threshold, drop.scale)


cdef void _drop(Tile tile, float *P, Py_ssize_t first_key, const TileDropout *drop) noexcept nogil:
    """M * P in place of P, transposed."""
    cdef Py_ssize_t i, j
    cdef float factors[Br]
    for j in range(tile.bc):
        _factors(drop, first_key + j, factors)
        for i in range(Br):
            P[j * S_LD + i] *= factors[i]


cdef float _dot(const float *a, const float *b, Py_ssize_t D) noexcept nogil:
    cdef Py_ssize_t d
    cdef float total = 0
    for d in range(D):
        total += a[d] * b[d]
    return total


cdef float _dot_of_bits(const uint16_t *a, const uint16_t *b, Py_ssize_t D) noexcept nogil:
    cdef Py_ssize_t first, n
    cdef float total = 0
    cdef float[CHUNK] a_chunk
    cdef float[CHUNK] b_chunk
    first = 0
    while first < D:
        n = min(<Py_ssize_t>CHUNK, D - first)
        widen(a + first, a_chunk, n)
        widen(b + first, b_chunk, n)
        total += _dot(a_chunk, b_chunk, n)
        first += n
    return total


cdef void _round_rows(const float *rows, uint16_t *to, Py_ssize_t ld_to, Py_ssize_t n, Py_ssize_t D) noexcept nogil:
    """to (n, D) = rows, rounded to bfloat16."""
    cdef Py_ssize_t row
    for row in range(n):
        round_row(rows + row * D, to + row * ld_to, D)


# ---- P^T and d_S^T as operands: with bfloat16, as slots of two keys or of two queries


cdef Matrix _by_key_pair(Tile tile, const float *P, float *pairs) noexcept nogil:
    """Return P (br, bc) for a sum over keys, from P^T (bc, br): with bfloat16 slots of two keys, written to `pairs`."""
    return pack_transposed(tile.format, Br, tile.bc, P, S_LD, pairs)


cdef void _pair_queries(Tile tile, float *P) noexcept nogil:
    """Replace P^T (bc, br) by slots (bc, br / 2) for a sum over queries, if the format is bfloat16."""
    cdef Py_ssize_t j
    if tile.format == FLOAT32:
        return
    for j in range(tile.bc):
        pack_row(tile.format, FLOAT32, tile.br, P + j * S_LD, P + j * S_LD)


# ---- Products of one tile. On the diagonal each is computed in steps, and a step leaves out what is masked for all of it.


cdef void _scores(Tile tile, const float *a, Py_ssize_t lda, PackedB b, float *S) noexcept nogil:
    """S^T (bc, br) = a (bc, D) . b (D, br), for the keys and queries that are not masked."""
    cdef Py_ssize_t j = 0, seen = 0, step = DIAGONAL_STEP if tile.diagonal else tile.bc
    cdef Matrix keys = Matrix(a, lda, False, FLOAT32)
    cdef PackedB columns
    cdef Output out = Output(S, S_LD, NULL, 0, NULL, 1, FLOAT32)
    while j < tile.bc:
        seen = j if tile.diagonal else 0  # the first query that sees key j
        columns = packed_slice(tile.format, b, 0, seen)
        keys.data = a + j * lda
        out.c = S + j * S_LD + seen
        gemm_packed(tile.format, min(step, tile.bc - j), tile.br - seen, tile.D, &keys, &columns, &out)
        j += step


cdef void _product_per_query(
    Tile tile,
    Matrix P,
    PackedB b,
    float *c,
    Py_ssize_t ldc,
    bint accumulate,
) noexcept nogil:
    """c (br, D) = P (br, bc) . b (bc, D), added to c if `accumulate`."""
    cdef Py_ssize_t i = 0, rows, step = packed_rows(tile.format) if tile.diagonal else tile.br
    cdef Matrix queries = P
    cdef Output out = Output(c, ldc, NULL, ldc, NULL, 1, FLOAT32)
    while i < tile.br:
        rows = min(step, tile.br - i)
        out.c = c + i * ldc
        if accumulate:
            out.addend = <float*>out.c
        queries.data = at(P.data, i * (1 if P.transposed else P.ld), FLOAT32)
        gemm_packed(tile.format, rows, tile.D, i + rows if tile.diagonal else tile.bc, &queries, &b, &out)
        i += step


cdef void _product_per_key(
    Tile tile,
    const float *P,
    PackedB b,
    float *c,
    Py_ssize_t ldc,
    bint accumulate,
) noexcept nogil:
    """c (bc, D) = P^T (bc, br) . b (br, D), added to c if `accumulate`."""
    cdef Py_ssize_t j = 0, seen, step = packed_rows(tile.format) if tile.diagonal else tile.bc
    cdef Matrix keys = Matrix(P, S_LD, False, FLOAT32)
    cdef PackedB rows
    cdef Output out = Output(c, ldc, NULL, ldc, NULL, 1, FLOAT32)
    while j < tile.bc:
        seen = j if tile.diagonal else 0  # the first query that sees key j
        out.c = c + j * ldc
        if accumulate:
            out.addend = <float*>out.c
        rows = packed_slice(tile.format, b, seen, 0)
        keys.data = P + j * S_LD + (seen // 2 if tile.format == BFLOAT16 else seen)
        gemm_packed(tile.format, min(step, tile.bc - j), tile.D, tile.br - seen, &keys, &rows, &out)
        j += step


cdef inline void _mask(float *row, Py_ssize_t key, float value) noexcept nogil:
    """Set the elements of a row of S^T whose query comes before the key. Speed only: in vectors of 16."""
    cdef Py_ssize_t i, vector, vectors = key // 16
    for vector in range(vectors):
        for i in range(16):
            row[vector * 16 + i] = value
    row += vectors * 16
    key -= vectors * 16
    for i in range(16):
        row[i] = value if i < key else row[i]


# ---- Workspace


cdef Py_ssize_t _block_keys(Format format) noexcept nogil:
    """Keys per block. In tiles: a multiple of the rows that `gemm_packed` computes at once."""
    return TILES_BC if in_tiles(format) else Bc


cdef Py_ssize_t _row_size(Py_ssize_t D) noexcept nogil:
    """Leading dimension of copied rows: full vectors, and never a power of two, whose rows would share cache sets."""
    return (D + 15) // 16 * 16 + 16


cdef Py_ssize_t _head_size(Py_ssize_t keys, Py_ssize_t D) noexcept nogil:
    """Values for the copies of k and v, with the rows that `gemm_packed` may read after them, and packed k or v."""
    return 2 * (keys + READ_AT_ONCE) * _row_size(D) + packed_size(keys, D)


cdef Py_ssize_t _tile_size(Py_ssize_t D) noexcept nogil:
    """Values for the packed forms of q and d_O of one tile, each as it is and transposed."""
    return 2 * (packed_size(D, Br) + packed_size(Br, D))


cdef Workspace _workspace(Head head, float *start) noexcept nogil:
    """Divide a thread's row of the workspace array into its parts, each aligned to 64 bytes."""
    cdef Workspace w
    w.ld = _row_size(head.D)
    w.k_rows = <float*>((<uintptr_t>start + 63) // 64 * 64)
    w.v_rows = w.k_rows + (head.Tk + READ_AT_ONCE) * w.ld
    w.packed = w.v_rows + (head.Tk + READ_AT_ONCE) * w.ld
    w.packed_tile = w.packed + packed_size(head.Tk, head.D)
    w.S = w.packed_tile + _tile_size(head.D)
    w.d_S = w.S + SCORES_SIZE
    w.pairs = w.d_S + SCORES_SIZE
    w.sums = w.pairs + SCORES_SIZE
    return w


cdef void _copy_rows(Head head, float *to, Py_ssize_t ld, const void *rows, Py_ssize_t ldr) noexcept nogil:
    """Copy the rows (Tk, D) of k or v, with bfloat16 as slots.

    Speed only for float32: the rows of q | k | v may be so far apart that those of one head share a quarter of the sets
    of the level-2 cache.
    """
    cdef Py_ssize_t row
    for row in range(head.Tk):
        pack_row(head.format, head.memory, head.D, at(rows, row * ldr, head.memory), to + row * ld)


# Notes on speed.
#
# S and everything computed from it is stored transposed, one row per key: the softmax then vectorizes over the queries
# of a tile, and both S and S^T are read in place by the products.
#
# k and v are used by every tile of a head, so they are packed or copied once per head. The packed forms of q and d_O
# are made once per tile.
#
# Br and Bc keep S^T (Bc x S_LD x 4 bytes = 35 KiB) and the packed tiles in the level-2 cache. Heads are scheduled
# dynamically: threads of a busy machine finish at different times.
