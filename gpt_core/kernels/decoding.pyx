"""One token through the model: a block, and the logits that end it, each in one call.

With a single row every product is one of a matrix and a vector, and what it costs is reading the matrix from memory. So
each weight is read once, row after row, and all of a block is one parallel region, whose threads meet after each step
in place of being woken for it.

The threads share the rows of each weight, so that every one reads a single stretch of memory, from end to end: on cores
with caches of their own that is up to a tenth faster than half of each row. What each thread has summed is added up in
the order of the threads where the next step needs it: the bits are the same again for the same number of threads.
"""

from cython.parallel cimport parallel, prange
from libc.math cimport sqrtf
from libc.string cimport memcpy, memset

from gpt_core.kernels.arrays import empty
from gpt_core.kernels.fast_math cimport fast_exp, fast_tanh
from gpt_core.kernels.shapes cimport want, want_positive
from gpt_core.kernels.threads cimport thread_count, threads_for

cdef float EPSILON = 1e-5  # of layer norm
cdef float SQRT_2_OVER_PI = 0.7978845608028654
cdef float CUBIC = 0.044715

# Multiply-adds of a block that are worth a thread: about 25 microseconds, as threads that meet five times meanwhile
# lose more than they gain where another process runs. nano, on two threads in place of one, decodes 16,500 tokens/s in
# place of 13,500 on a less busy machine, and 1,100 in place of 14,500 on a busy one.
cdef Py_ssize_t WORTH_A_THREAD = 1 << 19

cdef Py_ssize_t AT_ONCE = 8  # rows of a matrix that are read side by side: the sums below are written for so many
cdef Py_ssize_t APART = 32  # values between the rows of two threads: two cache lines


cdef class Block:
    """x (C,) += attention(ln_1(x)), then x += mlp(ln_2(x)), for the token at `position` of one sequence.

    The weights of each of the six layers are a pair (weight, bias); linear weights are (in, out). keys and values
    (T, C) are the cache: rows before `position` are read, the row at it is set. Nothing is copied: the weights may
    change between two calls. At most `threads` threads are used. Raises ValueError for shapes that do not fit.
    """

    cdef const float[::1] ln_1_weight, ln_1_bias, ln_2_weight, ln_2_bias
    cdef const float[::1] c_attn_bias, attn_proj_bias, c_fc_bias, mlp_proj_bias
    cdef const float[:, ::1] c_attn_weight, attn_proj_weight, c_fc_weight, mlp_proj_weight
    cdef float[:, ::1] keys, values
    cdef float[:, ::1] stream, normed, wide_sums, attention_sums, mlp_sums  # a row for each thread
    cdef float[:, ::1] scores  # a row for each head
    cdef float[::1] qkv, attended, hidden
    cdef Py_ssize_t heads

    def __init__(self, ln_1, c_attn, attn_proj, ln_2, c_fc, mlp_proj, keys, values, Py_ssize_t heads):
        self.ln_1_weight, self.ln_1_bias = ln_1
        self.c_attn_weight, self.c_attn_bias = c_attn
        self.attn_proj_weight, self.attn_proj_bias = attn_proj
        self.ln_2_weight, self.ln_2_bias = ln_2
        self.c_fc_weight, self.c_fc_bias = c_fc
        self.mlp_proj_weight, self.mlp_proj_bias = mlp_proj
        self.keys, self.values = keys, values
        self.heads = heads
        cdef Py_ssize_t T = self.keys.shape[0], C = self.keys.shape[1], F = self.c_fc_weight.shape[1]
        want_positive("decoding: heads", heads)
        want_positive("decoding: positions", T)
        want_positive("decoding: channels", C)
        want("decoding: channels left over by the heads", C % heads, 0)
        want("decoding: rows of values", self.values.shape[0], T)
        want("decoding: channels of values", self.values.shape[1], C)
        _check_norm(self.ln_1_weight, self.ln_1_bias, C)
        _check_linear(self.c_attn_weight, self.c_attn_bias, C, 3 * C)
        _check_linear(self.attn_proj_weight, self.attn_proj_bias, C, C)
        _check_norm(self.ln_2_weight, self.ln_2_bias, C)
        _check_linear(self.c_fc_weight, self.c_fc_bias, C, F)
        _check_linear(self.mlp_proj_weight, self.mlp_proj_bias, F, C)
        self._make_rows(thread_count())
        self.scores = empty(heads, T)
        self.qkv = empty(3 * C)
        self.attended = empty(C)
        self.hidden = empty(F)

    cdef int _make_rows(self, int count) except -1:
        """Scratch for so many threads, in rows so far apart that two never write to the same cache line."""
        cdef Py_ssize_t C = self.keys.shape[1], F = self.c_fc_weight.shape[1]
        self.stream, self.normed = empty(count, C + APART), empty(count, C + APART)
        self.wide_sums = empty(count, max(3 * C, F) + APART)
        self.attention_sums, self.mlp_sums = empty(count, C + APART), empty(count, C + APART)
        return 0

    def read(self, float[::1] x, Py_ssize_t position):
        """Takes the token's row of the residual stream, x (C,), through the block, in place."""
        cdef Py_ssize_t C = self.keys.shape[1], F = self.hidden.shape[0], part
        cdef int parts = threads_for(4 * C * C + 2 * C * F, WORTH_A_THREAD)
        want("decoding: length of x", x.shape[0], C)
        if not 0 <= position < self.keys.shape[0]:
            raise ValueError(f"decoding: got position {position}, want one within {self.keys.shape[0]}")
        if self.normed.shape[0] < parts:  # there are more threads than before
            self._make_rows(parts)
        with nogil, parallel(num_threads=parts):
            for part in prange(parts, schedule="static"):
                self._to_qkv(&x[0], part, parts)
            for part in prange(parts, schedule="static"):
                self._attend(position, part, parts)
            for part in prange(parts, schedule="static"):
                self._to_hidden(&x[0], part, parts)
            for part in prange(parts, schedule="static"):
                self._from_hidden(part, parts)
            # x = stream + bias + mlp's sums
            for part in prange(parts, schedule="static"):
                _add_up(&x[0], &self.stream[part, 0], &self.mlp_proj_bias[0], self.mlp_sums, parts,
                        _start(C, part, parts), _start(C, part + 1, parts))

    cdef void _to_qkv(self, const float *x, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
        """A thread's sums of qkv (3C,) = ln_1(x) . c_attn (C, 3C)."""
        cdef Py_ssize_t C = self.keys.shape[1]
        _normalise(&self.normed[part, 0], x, &self.ln_1_weight[0], &self.ln_1_bias[0], C)
        _product(&self.wide_sums[part, 0], &self.normed[part, 0], &self.c_attn_weight[0, 0],
                 _start(C, part, parts), _start(C, part + 1, parts), 3 * C)

    cdef void _attend(self, Py_ssize_t position, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
        """For a thread's heads, attended = softmax(q . K^T / sqrt(D)) . V; its sums of attended . attn_proj (C, C)."""
        cdef Py_ssize_t C = self.keys.shape[1], D = C // self.heads, third
        cdef Py_ssize_t first = self.heads * part // parts, stop = self.heads * (part + 1) // parts
        for third in range(3):
            _add_up(&self.qkv[0], NULL, &self.c_attn_bias[0], self.wide_sums, parts,
                    third * C + first * D, third * C + stop * D)
        _attend_heads(&self.attended[0], &self.scores[0, 0], self.scores.shape[1], &self.qkv[0], &self.keys[0, 0],
                      &self.values[0, 0], position, C, D, first, stop)
        _product(&self.attention_sums[part, 0], &self.attended[0], &self.attn_proj_weight[0, 0], first * D, stop * D, C)

    cdef void _to_hidden(self, const float *x, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
        """stream (C,) = x + attention, added up by every thread for itself; its sums of ln_2(stream) . c_fc (C, F)."""
        cdef Py_ssize_t C = self.keys.shape[1]
        _add_up(&self.stream[part, 0], x, &self.attn_proj_bias[0], self.attention_sums, parts, 0, C)
        _normalise(&self.normed[part, 0], &self.stream[part, 0], &self.ln_2_weight[0], &self.ln_2_bias[0], C)
        _product(&self.wide_sums[part, 0], &self.normed[part, 0], &self.c_fc_weight[0, 0],
                 _start(C, part, parts), _start(C, part + 1, parts), self.hidden.shape[0])

    cdef void _from_hidden(self, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
        """A thread's part of hidden (F,), of which it makes GELU and its sums of hidden . mlp_proj (F, C)."""
        cdef Py_ssize_t C = self.keys.shape[1], F = self.hidden.shape[0]
        cdef Py_ssize_t first = _start(F, part, parts), stop = _start(F, part + 1, parts)
        _add_up(&self.hidden[0], NULL, &self.c_fc_bias[0], self.wide_sums, parts, first, stop)
        _gelu(&self.hidden[0], first, stop)
        _product(&self.mlp_sums[part, 0], &self.hidden[0], &self.mlp_proj_weight[0, 0], first, stop, C)


def logits(float[::1] out, float[::1] normed, const float[::1] x, const float[::1] norm_weight,
           const float[::1] norm_bias, const float[:, ::1] wte):
    """out (V,) = wte (V, C) . normed (C,), with normed = norm(x (C,)) * norm_weight + norm_bias: V dot products."""
    cdef Py_ssize_t V = wte.shape[0], C = wte.shape[1], part
    cdef int parts = threads_for(V * C, WORTH_A_THREAD)
    want("decoding: length of the logits", out.shape[0], V)
    want("decoding: length of normed", normed.shape[0], C)
    want("decoding: length of x", x.shape[0], C)
    want_positive("decoding: rows of wte", V)
    _check_norm(norm_weight, norm_bias, C)
    _normalise(&normed[0], &x[0], &norm_weight[0], &norm_bias[0], C)
    for part in prange(parts, nogil=True, schedule="static", num_threads=parts):
        _dots(&out[0], &normed[0], &wte[0, 0], C, _start(V, part, parts), _start(V, part + 1, parts), C)


cdef int _check_norm(const float[::1] weight, const float[::1] bias, Py_ssize_t C) except -1:
    want_positive("decoding: channels", C)
    want("decoding: length of a norm's weight", weight.shape[0], C)
    want("decoding: length of a norm's bias", bias.shape[0], C)
    return 0


cdef int _check_linear(const float[:, ::1] weight, const float[::1] bias, Py_ssize_t I, Py_ssize_t O) except -1:
    want_positive("decoding: columns of a weight", O)
    want("decoding: rows of a weight", weight.shape[0], I)
    want("decoding: columns of a weight", weight.shape[1], O)
    want("decoding: length of a bias", bias.shape[0], O)
    return 0


cdef Py_ssize_t _start(Py_ssize_t length, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Where a part of `length` rows or outputs begins: at a multiple of 16, or at the end."""
    return min(length, part * (((length + parts - 1) // parts + 15) // 16 * 16))


cdef void _normalise(float *y, const float *x, const float *weight, const float *bias, Py_ssize_t C) noexcept nogil:
    """y (C,) = (x - mean) / sqrt(variance + 1e-5) * weight + bias."""
    cdef Py_ssize_t c
    cdef float total = 0, squares = 0, mean, scale
    for c in range(C):
        total += x[c]
    mean = total / C
    for c in range(C):
        squares += (x[c] - mean) * (x[c] - mean)
    scale = <float>1.0 / sqrtf(squares / C + EPSILON)
    for c in range(C):
        y[c] = (x[c] - mean) * scale * weight[c] + bias[c]


cdef void _product(float *y, const float *x, const float *weight, Py_ssize_t first, Py_ssize_t stop,
                   Py_ssize_t O) noexcept nogil:
    """y (O,) = x[first:stop] . weight[first:stop] (stop - first, O)."""
    memset(y, 0, O * sizeof(float))
    _add_rows(y, x, weight, O, first, stop, O)


cdef void _add_up(float *y, const float *residual, const float *bias, float[:, ::1] sums, Py_ssize_t parts,
                  Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
    """y = bias + the threads' sums, and + residual if there is one, from `first` to `stop`."""
    cdef Py_ssize_t o, part
    for o in range(first, stop):
        y[o] = bias[o] + (residual[o] if residual is not NULL else 0)
    for part in range(parts):
        for o in range(first, stop):
            y[o] += sums[part, o]


cdef void _gelu(float *y, Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
    """GELU in place, in the tanh form of `gpt_core.kernels.gelu`."""
    cdef Py_ssize_t f
    for f in range(first, stop):
        y[f] *= <float>0.5 * (<float>1.0 + fast_tanh(SQRT_2_OVER_PI * (y[f] + CUBIC * y[f] * y[f] * y[f])))


cdef void _attend_heads(float *out, float *scores, Py_ssize_t T, const float *qkv, float *keys, float *values,
                        Py_ssize_t position, Py_ssize_t C, Py_ssize_t D, Py_ssize_t first,
                        Py_ssize_t stop) noexcept nogil:
    """Heads from `first` to `stop`: out (D,) = softmax(q (D,) . k^T / sqrt(D)) . v of each, k and v up to `position`.

    Eight positions at a time, as rows of a weight are taken, and these for all of the heads: memory is read in long
    stretches, and eight sums wait for nothing. With 544 positions read, a token of `mini` took 7.9 ms one position and
    head after the other, 6.7 with four positions at a time, 6.5 with eight.
    """
    cdef Py_ssize_t j, h, width = (stop - first) * D, seen = position + 1, last = position // AT_ONCE
    cdef const float *q = qkv + first * D
    memcpy(keys + position * C + first * D, q + C, width * sizeof(float))
    memcpy(values + position * C + first * D, q + 2 * C, width * sizeof(float))
    out, scores, keys, values = out + first * D, scores + first * T, keys + first * D, values + first * D
    for j in range(last + 1):
        for h in range(stop - first):
            _dots(scores + h * T, q + h * D, keys + h * D, C, j * AT_ONCE, min(j * AT_ONCE + AT_ONCE, seen), D)
    for h in range(stop - first):
        _softmax(scores + h * T, seen, <float>1.0 / sqrtf(<float>D))
    for j in range(width):
        out[j] = 0
    for j in range(last + 1):
        for h in range(stop - first):
            _add_rows(out + h * D, scores + h * T, values + h * D, C, j * AT_ONCE, min(j * AT_ONCE + AT_ONCE, seen), D)


cdef void _dots(float *y, const float *x, const float *rows, Py_ssize_t apart, Py_ssize_t first, Py_ssize_t stop,
                Py_ssize_t D) noexcept nogil:
    """y[r] = x (D,) . rows[r], for the rows from `first` to `stop`, which lie `apart` values from each other."""
    cdef float a, b, c, d, e, f, g, h
    cdef const float *row
    cdef Py_ssize_t i, r = first
    while r + AT_ONCE <= stop:
        row = rows + r * apart
        a = b = c = d = e = f = g = h = 0
        for i in range(D):
            a = a + x[i] * row[i]
            b = b + x[i] * row[apart + i]
            c = c + x[i] * row[2 * apart + i]
            d = d + x[i] * row[3 * apart + i]
            e = e + x[i] * row[4 * apart + i]
            f = f + x[i] * row[5 * apart + i]
            g = g + x[i] * row[6 * apart + i]
            h = h + x[i] * row[7 * apart + i]
        y[r], y[r + 1], y[r + 2], y[r + 3], y[r + 4], y[r + 5], y[r + 6], y[r + 7] = a, b, c, d, e, f, g, h
        r += AT_ONCE
    while r < stop:
        row = rows + r * apart
        a = 0
        for i in range(D):
            a = a + x[i] * row[i]
        y[r] = a
        r += 1


cdef void _add_rows(float *y, const float *x, const float *rows, Py_ssize_t apart, Py_ssize_t first, Py_ssize_t stop,
                    Py_ssize_t D) noexcept nogil:
    """y (D,) += x[r] * rows[r], for the rows from `first` to `stop`, which lie `apart` values from each other.

    Eight rows are taken at a time, so that the sums are loaded and stored an eighth as often as the rows are read:
    measured on a weight and one thread, 96% of the read bandwidth, with 4 rows 85%, with 16 rows 36%.
    """
    cdef const float *row
    cdef Py_ssize_t i, r = first
    while r + AT_ONCE <= stop:
        row = rows + r * apart
        for i in range(D):
            y[i] += (x[r] * row[i] + x[r + 1] * row[apart + i] + x[r + 2] * row[2 * apart + i]
                     + x[r + 3] * row[3 * apart + i] + x[r + 4] * row[4 * apart + i] + x[r + 5] * row[5 * apart + i]
                     + x[r + 6] * row[6 * apart + i] + x[r + 7] * row[7 * apart + i])
        r += AT_ONCE
    while r < stop:
        row = rows + r * apart
        for i in range(D):
            y[i] += x[r] * row[i]
        r += 1


cdef void _softmax(float *scores, Py_ssize_t count, float scale) noexcept nogil:
    """scores (count,) = softmax(scores * scale), in place."""
    cdef Py_ssize_t j
    cdef float largest = scores[0], total = 0
    for j in range(count):
        largest = max(largest, scores[j])
    for j in range(count):
        scores[j] = fast_exp((scores[j] - largest) * scale)
    for j in range(count):
        total += scores[j]
    for j in range(count):
        scores[j] /= total
