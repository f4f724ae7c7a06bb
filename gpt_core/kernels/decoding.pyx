"""Decoding of one token: a transformer block, and the output logits, each in one call.

A block has the layers of the model's settings: either norm, either kind of positions, and any activation. The passes
are those of `gpt_core.model` for a single row, fused. A product of a vector and a matrix takes as long as reading the
matrix from memory, so each weight is read once, row after row, and a block is a single parallel region whose threads
synchronize after each step.

A weight matrix (inputs, outputs), which is most of what is read, is stored as float32, as bfloat16 (its 16 bits as
uint16), or as int8 with a scale per output. In 8 and 16 bits, it consists of panels of 64 outputs, (panels, inputs, 64):
the value of element (i, o) is panels[o // 64, i, o % 64], times scales[o] for int8. Sums are float32. Likewise, a KV
cache is float32 or bfloat16, with the positions of a head one after another.

Each thread reads memory in one direction, so how threads divide a weight follows from how it is stored:

    panels     by outputs: the result does not depend on the number of threads
    float32    by rows: each thread has partial sums of all outputs, which the next step adds up in the order of the
               threads; the result has the same bits for the same number of threads

Notes on speed are at the end of this file.
"""

from cython.parallel cimport parallel, prange
from libc.math cimport sqrtf
from libc.stdint cimport int8_t, uint16_t
from libc.string cimport memset

import numpy as np

from gpt_core.kernels.arrays import empty
from gpt_core.kernels.bfloat16 cimport bfloat16_bits
from gpt_core.kernels.fast_math cimport fast_exp, fast_tanh
from gpt_core.kernels.shapes cimport check_equal, check_positive
from gpt_core.kernels.threads cimport thread_count

cdef float EPSILON = 1e-5  # of layer norm
cdef float RMS_EPSILON = 1e-6  # of RMS norm
cdef float SQRT_2_OVER_PI = 0.7978845608028654
cdef float CUBIC = 0.044715

cdef Py_ssize_t MIN_WORK_PER_THREAD = 1 << 19  # multiply-adds of a block: about 25 microseconds
cdef Py_ssize_t UNROLLED = 8  # rows of a matrix read side by side; the sums below are written for this number
cdef Py_ssize_t PADDING = 32  # values between the rows of two threads: two cache lines


cdef extern from "panel_product.h":
    enum: PANEL
    void gpt_bfloat16_panel(float *y, const float *x, const uint16_t *panel, Py_ssize_t rows, Py_ssize_t n) nogil
    void gpt_int8_panel(float *y, const float *x, const int8_t *panel, Py_ssize_t rows, Py_ssize_t n) nogil

cdef extern from "cache_product.h":
    void gpt_float32_dots(float *y, const float *x, const float *cache, Py_ssize_t rows, Py_ssize_t columns) nogil
    void gpt_bfloat16_dots(float *y, const float *x, const uint16_t *cache, Py_ssize_t rows, Py_ssize_t columns) nogil
    void gpt_float32_weighted_sum(
        float *y, const float *x, const float *cache, Py_ssize_t rows, Py_ssize_t columns) nogil
    void gpt_bfloat16_weighted_sum(
        float *y, const float *x, const uint16_t *cache, Py_ssize_t rows, Py_ssize_t columns) nogil

ctypedef fused cached:
    float
    uint16_t

cdef enum Format:
    FLOAT32
    BFLOAT16
    INT8

cdef enum Activation:
    GELU
    RELU_SQUARED
    SWIGLU

# A weight matrix. In 8 and 16 bits, `outputs` is a multiple of PANEL: it counts the unused ones of the last panel.
cdef struct Weight:
    Format format
    Py_ssize_t inputs, outputs
    void *values
    const float *scales  # one value per output; int8 only

# A cache of keys or values (heads, positions, channels of a head), in float32 or bfloat16.
cdef struct Cache:
    Format format
    Py_ssize_t heads, positions, channels
    void *values


cdef class Block:
    """One transformer block for a single token: x += attention(ln_1(x)), then x += mlp(ln_2(x)).

    Nothing is copied: weights may change between calls.

    Args:
        ln_1: (weight, bias) of the norm before attention, as are ln_2 and the four linear layers. The weight of a
            linear layer is an array of float32, panels of uint16 (the bits of bfloat16), or (panels of int8, scales).
        keys: Cache of keys, float32 or uint16. `read` uses what is before its position and writes what is at it.
        values: Cache of values.
        rms_norm: Use RMS norms, whose bias is not read, instead of layer norms.
        mlp: Activation: gelu, relu_squared or swiglu.
        q_norm: Weight of the RMS norm of queries per head, as is k_norm of keys; None for no such norm.
        cos: Cosines of rotary positions, as sin has their sines; None for no rotation.

    Shape:
        keys, values (H, T, D), with C = H * D; norms (C,), (C,); c_attn (C, 3C), (3C,); attn_proj (C, C), (C,); c_fc
        (C, F), (F,), or (C, 2F), (2F,) for swiglu; mlp_proj (F, C), (C,); q_norm, k_norm (D,); cos, sin (T, D/2). A
        weight (I, O) in panels is (P, I, 64), with P * 64 at least O; its scales are (P * 64,).

    Raises:
        ValueError: The shapes or types do not match.
    """

    cdef const float[::1] ln_1_weight, ln_1_bias, ln_2_weight, ln_2_bias
    cdef const float[::1] c_attn_bias, attn_proj_bias, c_fc_bias, mlp_proj_bias
    cdef Weight c_attn, attn_proj, c_fc, mlp_proj
    cdef Cache keys, values
    cdef list arrays  # what the structs above point to
    cdef float[:, ::1] resid_mid, ln_out  # one row per thread
    cdef float[:, ::1] wide_sums, attn_sums, mlp_sums  # partial sums, one row per thread; of panels, one row in all
    cdef float[:, ::1] hidden  # one row per thread
    cdef float[:, ::1] scores  # one row per head
    cdef float[::1] qkv, attn_out
    cdef Py_ssize_t channels, hidden_size, wide  # C; F; outputs of c_fc, F or 2F
    cdef bint rms_norm
    cdef Activation activation
    cdef const float[::1] q_norm, k_norm  # None without these norms
    cdef const float[:, ::1] cos, sin  # None without rotary positions

    def __init__(
        self, ln_1, c_attn, attn_proj, ln_2, c_fc, mlp_proj, keys, values, *,
        bint rms_norm=False, str mlp="gelu", q_norm=None, k_norm=None, cos=None, sin=None,
    ):
        self.ln_1_weight, self.ln_1_bias = ln_1
        self.c_attn_bias, self.attn_proj_bias = c_attn[1], attn_proj[1]
        self.ln_2_weight, self.ln_2_bias = ln_2
        self.c_fc_bias, self.mlp_proj_bias = c_fc[1], mlp_proj[1]
        self.arrays = [c_attn[0], attn_proj[0], c_fc[0], mlp_proj[0], keys, values]
        self.c_attn, self.attn_proj = _weight(c_attn[0]), _weight(attn_proj[0])
        self.c_fc, self.mlp_proj = _weight(c_fc[0]), _weight(mlp_proj[0])
        self.keys, self.values = _cache(keys), _cache(values)
        self.channels = self.keys.heads * self.keys.channels
        self.rms_norm = rms_norm
        self.activation = {"gelu": GELU, "relu_squared": RELU_SQUARED, "swiglu": SWIGLU}[mlp]
        self.q_norm, self.k_norm, self.cos, self.sin = q_norm, k_norm, cos, sin
        self.hidden_size = self._hidden_size()
        self.wide = self.hidden_size * (2 if self.activation == SWIGLU else 1)
        self._check_shapes()
        self._allocate_rows(thread_count())
        self.scores = empty(self.keys.heads, self.keys.positions)
        self.qkv = empty(3 * self.channels)
        self.attn_out = empty(self.channels)

    cdef Py_ssize_t _hidden_size(self) noexcept:
        """Return F. The outputs of panels include unused ones; the rows of the next weight do not."""
        if self.c_fc.format != FLOAT32:
            return self.mlp_proj.inputs
        return self.c_fc.outputs // 2 if self.activation == SWIGLU else self.c_fc.outputs

    cdef int _check_shapes(self) except -1:
        cdef Py_ssize_t T = self.keys.positions, C = self.channels, D = self.keys.channels
        check_equal("decoding: heads of values", self.values.heads, self.keys.heads)
        check_equal("decoding: positions of values", self.values.positions, T)
        check_equal("decoding: channels of values per head", self.values.channels, D)
        if self.values.format != self.keys.format:
            raise ValueError("decoding: expected keys and values in one format, float32 or uint16 (bfloat16)")
        _check_norm(self.ln_1_weight, self.ln_1_bias, C)
        _check_linear(self.c_attn, self.c_attn_bias, C, 3 * C)
        _check_linear(self.attn_proj, self.attn_proj_bias, C, C)
        _check_norm(self.ln_2_weight, self.ln_2_bias, C)
        _check_linear(self.c_fc, self.c_fc_bias, C, self.wide)
        _check_linear(self.mlp_proj, self.mlp_proj_bias, self.hidden_size, C)
        if self.q_norm is not None:
            check_equal("decoding: length of the norm of queries", self.q_norm.shape[0], D)
            check_equal("decoding: length of the norm of keys", self.k_norm.shape[0], D)
        if self.cos is not None:
            _check_rotation(self.cos.shape, T, D)
            _check_rotation(self.sin.shape, T, D)
        return 0

    cdef int _allocate_rows(self, int threads) except -1:
        """Allocate the rows of each thread, padded so that no two threads write to the same cache line."""
        cdef Py_ssize_t C = self.channels
        self.resid_mid, self.ln_out = empty(threads, C + PADDING), empty(threads, C + PADDING)
        self.wide_sums = empty(threads, max(3 * C, self.wide) + PADDING)
        self.attn_sums, self.mlp_sums = empty(threads, C + PADDING), empty(threads, C + PADDING)
        self.hidden = empty(threads, self.wide + PADDING)
        return 0

    def read(self, float[::1] x, Py_ssize_t position):
        """Apply the block in place to x, the residual stream of the token at `position`.

        Shape:
            x (C,).

        Raises:
            ValueError: x has another length, or position is not in the cache.
        """
        cdef Py_ssize_t C = self.channels, part
        cdef int parts = _parts(4 * C * C + C * (self.hidden_size + self.wide))
        check_equal("decoding: length of x", x.shape[0], C)
        if not 0 <= position < self.keys.positions:
            raise ValueError(f"decoding: got position {position}, expected a value in [0, {self.keys.positions})")
        if self.ln_out.shape[0] < parts:  # the number of threads has grown
            self._allocate_rows(parts)
        with nogil, parallel(num_threads=parts):
            for part in prange(parts, schedule="static"):
                self._qkv_sums(&x[0], part, parts)
            for part in prange(parts, schedule="static"):
                self._attend(position, part, parts)
            for part in prange(parts, schedule="static"):
                self._attention_sums(part, parts)
            for part in prange(parts, schedule="static"):
                self._hidden_sums(&x[0], part, parts)
            for part in prange(parts, schedule="static"):
                self._mlp_sums(part, parts)
            for part in prange(parts, schedule="static"):
                self._add_mlp(&x[0], part, parts)

    cdef void _qkv_sums(self, const float *x, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
        """Sums of qkv (3C,) = ln_1(x) . c_attn (C, 3C)."""
        cdef Py_ssize_t C = self.channels
        _norm(&self.ln_out[part, 0], x, &self.ln_1_weight[0], &self.ln_1_bias[0], C, self.rms_norm)
        _vector_matrix(self.wide_sums, &self.ln_out[part, 0], self.c_attn, 3 * C, part, parts)

    cdef void _attend(self, Py_ssize_t position, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
        """attn_out = softmax(q . K^T / sqrt(D)) . V for a range of heads."""
        cdef Py_ssize_t C = self.channels, D = self.keys.channels, T = self.keys.positions, third, h
        cdef Py_ssize_t start = self.keys.heads * part // parts, stop = self.keys.heads * (part + 1) // parts
        for third in range(3):  # q, k and v
            _add_sums(&self.qkv[0], NULL, &self.c_attn_bias[0], self.wide_sums, _count(self.c_attn, parts),
                      third * C + start * D, third * C + stop * D)
        self._normalize_and_rotate(position, start, stop)
        for h in range(start, stop):
            if self.keys.format == FLOAT32:
                _attend_head(&self.attn_out[h * D], &self.scores[h, 0], &self.qkv[h * D], C,
                             <float*>self.keys.values + h * T * D, <float*>self.values.values + h * T * D, position, D)
            else:
                _attend_head(&self.attn_out[h * D], &self.scores[h, 0], &self.qkv[h * D], C,
                             <uint16_t*>self.keys.values + h * T * D, <uint16_t*>self.values.values + h * T * D,
                             position, D)

    cdef void _normalize_and_rotate(self, Py_ssize_t position, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
        """Apply QK-norm and rotary positions, if the model has them, to the queries and keys of a range of heads."""
        cdef Py_ssize_t C = self.channels, D = self.keys.channels, h
        if self.q_norm is not None:
            for h in range(start, stop):
                _rms_norm(&self.qkv[h * D], &self.qkv[h * D], &self.q_norm[0], D)
                _rms_norm(&self.qkv[C + h * D], &self.qkv[C + h * D], &self.k_norm[0], D)
        if self.cos is not None:
            for h in range(start, stop):
                _rotate(&self.qkv[h * D], &self.cos[position, 0], &self.sin[position, 0], D // 2)
                _rotate(&self.qkv[C + h * D], &self.cos[position, 0], &self.sin[position, 0], D // 2)

    cdef void _attention_sums(self, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
        """Sums of attn_out . attn_proj (C, C)."""
        _vector_matrix(self.attn_sums, &self.attn_out[0], self.attn_proj, self.channels, part, parts)

    cdef void _hidden_sums(self, const float *x, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
        """resid_mid (C,) = x + attention, on every thread; sums of ln_2(resid_mid) . c_fc (C, F or 2F)."""
        cdef Py_ssize_t C = self.channels
        _add_sums(&self.resid_mid[part, 0], x, &self.attn_proj_bias[0], self.attn_sums, _count(self.attn_proj, parts),
                  0, C)
        _norm(&self.ln_out[part, 0], &self.resid_mid[part, 0], &self.ln_2_weight[0], &self.ln_2_bias[0], C,
              self.rms_norm)
        _vector_matrix(self.wide_sums, &self.ln_out[part, 0], self.c_fc, self.wide, part, parts)

    cdef void _mlp_sums(self, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
        """hidden (F,) = activation(sums + bias), as far as the thread uses it; sums of hidden . mlp_proj (F, C)."""
        cdef Py_ssize_t F = self.hidden_size, n = _count(self.c_fc, parts)
        cdef Py_ssize_t start = _first_row(self.mlp_proj, part, parts), stop = _first_row(self.mlp_proj, part + 1, parts)
        cdef float *hidden = &self.hidden[part, 0]
        if self.mlp_proj.format != FLOAT32:
            start, stop = 0, F
        _add_sums(hidden, NULL, &self.c_fc_bias[0], self.wide_sums, n, start, stop)
        if self.activation == GELU:
            _gelu(hidden, start, stop)
        elif self.activation == RELU_SQUARED:
            _relu_squared(hidden, start, stop)
        else:
            _add_sums(hidden, NULL, &self.c_fc_bias[0], self.wide_sums, n, F + start, F + stop)
            _swiglu(hidden, hidden + F, start, stop)
        _vector_matrix(self.mlp_sums, hidden, self.mlp_proj, self.channels, part, parts)

    cdef void _add_mlp(self, float *x, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
        """A range of x = resid_mid + bias + the sums of hidden . mlp_proj."""
        cdef Py_ssize_t C = self.channels
        _add_sums(x, &self.resid_mid[part, 0], &self.mlp_proj_bias[0], self.mlp_sums, _count(self.mlp_proj, parts),
                  _start(C, part, parts), _start(C, part + 1, parts))


def logits(
    float[::1] out,
    float[::1] ln_out,
    const float[::1] x,
    const float[::1] norm_weight,
    const float[::1] norm_bias,
    head,
    bint rms_norm=False,
):
    """Compute out = head . ln_out, with ln_out the final norm of x.

    Args:
        ln_out: Scratch, overwritten.
        norm_bias: Not read with `rms_norm`.
        head: float32; or its transpose (C, V) in panels of uint16 (bfloat16) or (panels of int8, scales).
        rms_norm: The final norm is an RMS norm instead of a layer norm.

    Shape:
        out (V,); ln_out, x, norm_weight, norm_bias (C,); head (V, C), or panels (P, C, 64) with P * 64 at least V.

    Raises:
        ValueError: The shapes or types do not match.
    """
    cdef Weight table = _weight(head)
    cdef bint transposed = table.format != FLOAT32
    cdef Py_ssize_t V = out.shape[0], C = table.inputs if transposed else table.outputs, part
    cdef int parts = _parts(V * C)
    if transposed:
        check_equal("decoding: length of the logits, in panels", _in_panels(V), table.outputs)
    else:
        check_equal("decoding: length of the logits", V, table.inputs)
    check_equal("decoding: length of ln_out", ln_out.shape[0], C)
    check_equal("decoding: length of x", x.shape[0], C)
    _check_norm(norm_weight, norm_bias, C)
    _norm(&ln_out[0], &x[0], &norm_weight[0], &norm_bias[0], C, rms_norm)
    for part in prange(parts, nogil=True, schedule="static", num_threads=parts):
        if transposed:
            _panels(&out[0], &ln_out[0], table, V, table.outputs // PANEL * part // parts,
                    table.outputs // PANEL * (part + 1) // parts)
        else:
            _dot_rows(&out[0], &ln_out[0], <const float*>table.values, C, _start(V, part, parts),
                      _start(V, part + 1, parts), C)


def total(const float[::1] values):
    """Return the sum of the values. It is the least arithmetic with all of them: what reading them costs.

    Each thread reads one part, as it reads weights.

    Shape:
        values (n,), with n at least 1.
    """
    cdef Py_ssize_t n = values.shape[0], part
    cdef int parts = _parts(n)
    cdef float sums = 0
    check_positive("decoding: values", n)
    for part in prange(parts, nogil=True, schedule="static", num_threads=parts):
        sums += _sum(&values[0], _start(n, part, parts), _start(n, part + 1, parts))
    return sums


cdef int _parts(Py_ssize_t work) noexcept nogil:
    """Return the number of threads that divide an amount of work, given in multiply-adds."""
    return <int>max(1, min(<Py_ssize_t>thread_count(), work // MIN_WORK_PER_THREAD))


cdef Weight _weight(matrix) except *:
    """Return a view of a weight. The caller must hold a reference to its arrays."""
    cdef const float[:, ::1] float_values
    cdef const uint16_t[:, :, ::1] bfloat16_values
    cdef const int8_t[:, :, ::1] int8_values
    cdef const float[::1] scales
    if isinstance(matrix, tuple):
        int8_values, scales = matrix
        _check_panels(int8_values.shape)
        check_equal("decoding: length of the scales", scales.shape[0], int8_values.shape[0] * PANEL)
        return Weight(INT8, int8_values.shape[1], int8_values.shape[0] * PANEL, <void*>&int8_values[0, 0, 0], &scales[0])
    if matrix.dtype == np.uint16:
        bfloat16_values = matrix
        _check_panels(bfloat16_values.shape)
        return Weight(BFLOAT16, bfloat16_values.shape[1], bfloat16_values.shape[0] * PANEL,
                      <void*>&bfloat16_values[0, 0, 0], NULL)
    float_values = matrix
    check_positive("decoding: rows of a weight", float_values.shape[0])
    check_positive("decoding: columns of a weight", float_values.shape[1])
    return Weight(FLOAT32, float_values.shape[0], float_values.shape[1], <void*>&float_values[0, 0], NULL)


cdef int _check_panels(const Py_ssize_t *shape) except -1:
    check_positive("decoding: panels of a weight", shape[0])
    check_positive("decoding: rows of a weight", shape[1])
    check_equal("decoding: columns of a panel", shape[2], PANEL)
    return 0


cdef Cache _cache(matrix) except *:
    """Return a view of a cache. The caller must hold a reference to it."""
    cdef const float[:, :, ::1] float_values
    cdef const uint16_t[:, :, ::1] bfloat16_values
    if matrix.dtype == np.uint16:
        bfloat16_values = matrix
    else:
        float_values = matrix
    heads, positions, channels = matrix.shape
    check_positive("decoding: heads", heads)
    check_positive("decoding: positions", positions)
    check_positive("decoding: channels per head", channels)
    if matrix.dtype == np.uint16:
        return Cache(BFLOAT16, heads, positions, channels, <void*>&bfloat16_values[0, 0, 0])
    return Cache(FLOAT32, heads, positions, channels, <void*>&float_values[0, 0, 0])


cdef int _check_norm(const float[::1] weight, const float[::1] bias, Py_ssize_t C) except -1:
    check_positive("decoding: channels", C)
    check_equal("decoding: length of a norm's weight", weight.shape[0], C)
    check_equal("decoding: length of a norm's bias", bias.shape[0], C)
    return 0


cdef int _check_rotation(const Py_ssize_t *table, Py_ssize_t T, Py_ssize_t D) except -1:
    check_equal("decoding: remainder of channels per head divided by 2", D % 2, 0)
    check_equal("decoding: pairs of channels in the table of rotary positions", table[1], D // 2)
    if table[0] < T:
        raise ValueError(f"decoding: got {table[0]} rotary positions, expected at least {T}")
    return 0


cdef int _check_linear(Weight weight, const float[::1] bias, Py_ssize_t I, Py_ssize_t O) except -1:
    check_positive("decoding: columns of a weight", O)
    check_equal("decoding: length of a bias", bias.shape[0], O)
    check_equal("decoding: rows of a weight", weight.inputs, I)
    check_equal("decoding: columns of a weight", weight.outputs, O if weight.format == FLOAT32 else _in_panels(O))
    return 0


cdef Py_ssize_t _in_panels(Py_ssize_t outputs) noexcept nogil:
    """Return a number of outputs rounded up to panels."""
    return (outputs + PANEL - 1) // PANEL * PANEL


cdef Py_ssize_t _start(Py_ssize_t length, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Return where a part of `length` rows or outputs starts: at a multiple of 16, or at the end."""
    return min(length, part * (((length + parts - 1) // parts + 15) // 16 * 16))


cdef void _norm(
    float *y,
    const float *x,
    const float *weight,
    const float *bias,
    Py_ssize_t C,
    bint rms_norm,
) noexcept nogil:
    if rms_norm:
        _rms_norm(y, x, weight, C)
    else:
        _layer_norm(y, x, weight, bias, C)


cdef void _rms_norm(float *y, const float *x, const float *weight, Py_ssize_t C) noexcept nogil:
    """y (C,) = x / sqrt(mean(x^2) + 1e-6) * weight. y may be x itself."""
    cdef Py_ssize_t c
    cdef float squares = 0, rstd
    for c in range(C):
        squares += x[c] * x[c]
    rstd = <float>1.0 / sqrtf(squares / C + RMS_EPSILON)
    for c in range(C):
        y[c] = x[c] * rstd * weight[c]


cdef void _rotate(float *x, const float *cos, const float *sin, Py_ssize_t half) noexcept nogil:
    """Rotate a head (D,) in place, as in `gpt_core.kernels.rope`."""
    cdef Py_ssize_t i
    cdef float a, b
    for i in range(half):
        a = x[i]
        b = x[half + i]
        x[i] = a * cos[i] - b * sin[i]
        x[half + i] = b * cos[i] + a * sin[i]


cdef void _layer_norm(float *y, const float *x, const float *weight, const float *bias, Py_ssize_t C) noexcept nogil:
    """y (C,) = (x - mean) / sqrt(variance + 1e-5) * weight + bias."""
    cdef Py_ssize_t c
    cdef float total = 0, squares = 0, mean, rstd
    for c in range(C):
        total += x[c]
    mean = total / C
    for c in range(C):
        squares += (x[c] - mean) * (x[c] - mean)
    rstd = <float>1.0 / sqrtf(squares / C + EPSILON)
    for c in range(C):
        y[c] = (x[c] - mean) * rstd * weight[c] + bias[c]


cdef Py_ssize_t _first_row(Weight weight, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Return the first row of a weight in float32 that a thread reads."""
    return _start(weight.inputs, part, parts)


cdef Py_ssize_t _count(Weight weight, Py_ssize_t parts) noexcept nogil:
    """Return the number of partial sums of each output that `_vector_matrix` leaves."""
    return parts if weight.format == FLOAT32 else 1


cdef void _vector_matrix(
    float[:, ::1] sums,
    const float *x,
    Weight weight,
    Py_ssize_t O,
    Py_ssize_t part,
    Py_ssize_t parts,
) noexcept nogil:
    """The part of a thread of x . weight (I, O): partial sums of all outputs, or a range of sums[0]."""
    cdef Py_ssize_t panels = weight.outputs // PANEL
    if weight.format == FLOAT32:
        memset(&sums[part, 0], 0, O * sizeof(float))
        _add_rows(&sums[part, 0], x, <const float*>weight.values, O, _first_row(weight, part, parts),
                  _first_row(weight, part + 1, parts), O)
    else:
        _panels(&sums[0, 0], x, weight, O, panels * part // parts, panels * (part + 1) // parts)


cdef void _panels(
    float *y,
    const float *x,
    Weight weight,
    Py_ssize_t O,
    Py_ssize_t first,
    Py_ssize_t last,
) noexcept nogil:
    """y (O,) = x (I,) . weight (I, O), for the outputs of the panels in [first, last) alone."""
    cdef Py_ssize_t panel, o, n, j, offset
    for panel in range(first, last):
        o = panel * PANEL
        n = min(<Py_ssize_t>PANEL, O - o)
        offset = panel * weight.inputs * PANEL
        if weight.format == BFLOAT16:
            gpt_bfloat16_panel(y + o, x, <const uint16_t*>weight.values + offset, weight.inputs, n)
        else:
            gpt_int8_panel(y + o, x, <const int8_t*>weight.values + offset, weight.inputs, n)
            for j in range(n):
                y[o + j] *= weight.scales[o + j]


cdef void _add_sums(
    float *y,
    const float *residual,
    const float *bias,
    float[:, ::1] sums,
    Py_ssize_t parts,
    Py_ssize_t start,
    Py_ssize_t stop,
) noexcept nogil:
    """y[start:stop] = bias + residual + the partial sums of all threads; residual may be NULL."""
    cdef Py_ssize_t o, part
    for o in range(start, stop):
        y[o] = bias[o] + (residual[o] if residual is not NULL else 0)
    for part in range(parts):
        for o in range(start, stop):
            y[o] += sums[part, o]


cdef void _gelu(float *y, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """GELU in place, in the tanh form of `gpt_core.kernels.gelu`."""
    cdef Py_ssize_t f
    for f in range(start, stop):
        y[f] *= <float>0.5 * (<float>1.0 + fast_tanh(SQRT_2_OVER_PI * (y[f] + CUBIC * y[f] * y[f] * y[f])))


cdef void _relu_squared(float *y, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """Squared ReLU in place."""
    cdef Py_ssize_t f
    for f in range(start, stop):
        y[f] = max(y[f], <float>0.0) * max(y[f], <float>0.0)


cdef void _swiglu(float *gate, const float *up, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """silu(gate) * up, in place of the gate."""
    cdef Py_ssize_t f
    for f in range(start, stop):
        gate[f] = gate[f] / (<float>1.0 + fast_exp(-gate[f])) * up[f]


cdef void _attend_head(
    float *out,
    float *scores,
    const float *q,
    Py_ssize_t C,
    cached *keys,
    cached *values,
    Py_ssize_t position,
    Py_ssize_t D,
) noexcept nogil:
    """out (D,) = softmax(q (D,) . keys^T / sqrt(D)) . values, up to `position`.

    The key and the value of `position`, C and 2C channels after q, are stored first.
    """
    cdef Py_ssize_t j, seen = position + 1
    for j in range(D):
        if cached is float:
            keys[position * D + j], values[position * D + j] = q[C + j], q[2 * C + j]
        else:
            keys[position * D + j] = bfloat16_bits(q[C + j])
            values[position * D + j] = bfloat16_bits(q[2 * C + j])
    if cached is float:
        gpt_float32_dots(scores, q, keys, seen, D)
        _softmax(scores, seen, <float>1.0 / sqrtf(<float>D))
        gpt_float32_weighted_sum(out, scores, values, seen, D)
    else:
        gpt_bfloat16_dots(scores, q, keys, seen, D)
        _softmax(scores, seen, <float>1.0 / sqrtf(<float>D))
        gpt_bfloat16_weighted_sum(out, scores, values, seen, D)


cdef void _dot_rows(
    float *y,
    const float *x,
    const float *rows,
    Py_ssize_t ld,
    Py_ssize_t start,
    Py_ssize_t stop,
    Py_ssize_t D,
) noexcept nogil:
    """y[r] = x (D,) . rows[r] for r in [start, stop); the rows are `ld` values apart."""
    cdef float a, b, c, d, e, f, g, h
    cdef const float *row
    cdef Py_ssize_t i, r = start
    while r + UNROLLED <= stop:
        row = rows + r * ld
        a = b = c = d = e = f = g = h = 0
        for i in range(D):
            a = a + x[i] * row[i]
            b = b + x[i] * row[ld + i]
            c = c + x[i] * row[2 * ld + i]
            d = d + x[i] * row[3 * ld + i]
            e = e + x[i] * row[4 * ld + i]
            f = f + x[i] * row[5 * ld + i]
            g = g + x[i] * row[6 * ld + i]
            h = h + x[i] * row[7 * ld + i]
        y[r], y[r + 1], y[r + 2], y[r + 3], y[r + 4], y[r + 5], y[r + 6], y[r + 7] = a, b, c, d, e, f, g, h
        r += UNROLLED
    while r < stop:
        row = rows + r * ld
        a = 0
        for i in range(D):
            a = a + x[i] * row[i]
        y[r] = a
        r += 1


cdef void _add_rows(
    float *y,
    const float *x,
    const float *rows,
    Py_ssize_t ld,
    Py_ssize_t start,
    Py_ssize_t stop,
    Py_ssize_t D,
) noexcept nogil:
    """y (D,) += x[r] * rows[r] for r in [start, stop); the rows are `ld` values apart."""
    cdef const float *row
    cdef Py_ssize_t i, r = start
    cdef float a, b, c, d, e, f, g, h
    while r + UNROLLED <= stop:
        row = rows + r * ld
        a, b, c, d = x[r], x[r + 1], x[r + 2], x[r + 3]
        e, f, g, h = x[r + 4], x[r + 5], x[r + 6], x[r + 7]
        for i in range(D):
            y[i] += (a * row[i] + b * row[ld + i] + c * row[2 * ld + i]
                     + d * row[3 * ld + i] + e * row[4 * ld + i] + f * row[5 * ld + i]
                     + g * row[6 * ld + i] + h * row[7 * ld + i])
        r += UNROLLED
    while r < stop:
        row = rows + r * ld
        a = x[r]
        for i in range(D):
            y[i] += a * row[i]
        r += 1


cdef float _sum(const float *values, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    cdef Py_ssize_t i
    cdef float sums = 0
    for i in range(start, stop):
        sums += values[i]
    return sums


cdef void _softmax(float *scores, Py_ssize_t n, float scale) noexcept nogil:
    """scores (n,) = softmax(scores * scale), in place."""
    cdef Py_ssize_t j
    cdef float maximum = scores[0], total = 0
    for j in range(n):
        maximum = max(maximum, scores[j])
    for j in range(n):
        scores[j] = fast_exp((scores[j] - maximum) * scale)
    for j in range(n):
        total += scores[j]
    for j in range(n):
        scores[j] /= total


# Notes on speed.
#
# Who reads what: a loop over the panels of `mini` in int8 (57.5 MB) takes two threads 3.1 ms if they divide the rows of
# panels, no less than one thread alone, and 1.9 ms (30 GB/s) if they divide the outputs: a panel is then one stream,
# where half the rows of many panels are short pieces. Rows of float32 are long, and there the rows of a thread are
# one stream: 10% faster than half of each row.
#
# Eight rows at a time: `_add_rows` then loads and stores its sums an eighth as often as it reads rows. For one weight
# and one thread it reaches 96% of the read bandwidth; with 4 rows 85%, with 16 rows 36%. `_dot_rows` has eight
# independent sums.
#
# Caches: a row of a head is 128 bytes of bfloat16, so that eight rows at a time, or rows that other heads separate, are
# short pieces as well. One core reads a cache of `mini` at 4 GB/s with the heads of a position side by side, at 12
# GB/s head by head and eight rows at a time, and at 15 GB/s row after row. Two cores of a Zen 3 read keys at 16 and
# values at 15 GB/s if the cache has small pages; at 21 and 20 with large ones; at 25 and 29 if they also prefetch, and
# read values once for 8 vectors of columns instead of twice for 4.
#
# Panels: eight streams of 768 values in 8 bits end before the processor has fetched ahead: one core read 6.0 of 15.6
# GB/s (Zen 4). A panel is one stream, read at 95% of that rate; prefetch instructions reduce it to 86%. Integer dot
# products (VNNI) of rounded inputs were not faster. Two cores of a Zen 3 read panels in 8 bits at 21 GB/s, and at 26 with
# prefetch instructions; 1 to 8 KiB ahead are alike.
#
# MIN_WORK_PER_THREAD: threads that synchronize six times in less than about 25 microseconds lose more than they gain
# where another process runs. With two threads instead of one, `nano` decodes 16,500 instead of 13,500 tokens per second
# on a nearly idle machine, and 1,100 instead of 14,500 on a busy one.
