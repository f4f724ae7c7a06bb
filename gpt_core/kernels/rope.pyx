"""Rotary position embedding of queries and keys (Su et al. 2021, "RoFormer"), with the halves of GPT-NeoX.

The channels i and i + D/2 of a head are the coordinates of a point, which is rotated by the angle position * theta_i:

    y[i] = x[i] cos - x[i + D/2] sin;  y[i + D/2] = x[i + D/2] cos + x[i] sin

The product of a rotated query and a rotated key depends on the difference of their positions alone.
"""

from cython.parallel cimport prange

from gpt_core.kernels.bfloat16 cimport CHUNK, round_row, stored, widen
from gpt_core.kernels.shapes cimport check_equal, check_positive
from gpt_core.kernels.threads cimport threads_for

cdef enum:
    WORK = 3  # cost of one value, in multiply-adds


def rotate(
    stored[:, ::1] x,
    const float[:, ::1] cos,
    const float[:, ::1] sin,
    Py_ssize_t channels,
    Py_ssize_t time,
    Py_ssize_t first_position=0,
    bint inverse=False,
):
    """Rotate the heads in the first `channels` columns of x in place; row n is at first_position + n mod time.

    The gradient is the rotation by the opposite angle: rotate(d_x, ..., inverse=True).

    Args:
        x: Rows of heads, and any columns after them, which are not changed.
        cos: Cosines of the angles, by position and pair of channels.
        sin: Their sines.
        channels: Columns to rotate, a multiple of D.
        time: Tokens per sequence.
        first_position: Position of the first token of each sequence.
        inverse: Rotate by the opposite angle.

    Shape:
        x (N, at least channels), float32 or bfloat16 (as uint16); cos, sin (positions, D/2).

    Raises:
        ValueError: The shapes do not match, or a position is not in the tables.
    """
    cdef Py_ssize_t N = x.shape[0], half = cos.shape[1], n
    cdef float sign = -1 if inverse else 1
    check_positive("rope: rows", N)
    check_positive("rope: pairs of channels", half)
    check_equal("rope: rows of sin", sin.shape[0], cos.shape[0])
    check_equal("rope: columns of sin", sin.shape[1], half)
    check_equal("rope: remainder of channels divided by the head size", channels % (2 * half), 0)
    if channels > x.shape[1]:
        raise ValueError(f"rope: got {channels} channels, expected at most {x.shape[1]}")
    if time < 1 or first_position < 0 or first_position > cos.shape[0] - min(time, N):
        raise ValueError(f"rope: got {time} positions from {first_position} on, "
                         f"expected at least 1, all within {cos.shape[0]}")
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(WORK * N * channels)):
        _rotate_row(&x[n, 0], &cos[first_position + n % time, 0], &sin[first_position + n % time, 0], sign,
                    channels, half)


cdef void _rotate_row(
    stored *x,
    const float *cos,
    const float *sin,
    float sign,
    Py_ssize_t channels,
    Py_ssize_t half,
) noexcept nogil:
    """Rotate the heads of one row."""
    cdef Py_ssize_t head = 0, first, n
    cdef stored *a
    cdef stored *b
    cdef float[CHUNK] a_chunk
    cdef float[CHUNK] b_chunk
    while head < channels:
        a = x + head
        b = x + head + half
        if stored is float:
            _rotate(a, b, cos, sin, sign, half)
        else:
            first = 0
            while first < half:
                n = min(<Py_ssize_t>CHUNK, half - first)
                widen(a + first, a_chunk, n)
                widen(b + first, b_chunk, n)
                _rotate(a_chunk, b_chunk, cos + first, sin + first, sign, n)
                round_row(a_chunk, a + first, n)
                round_row(b_chunk, b + first, n)
                first += n
        head += 2 * half


cdef void _rotate(float *a, float *b, const float *cos, const float *sin, float sign, Py_ssize_t half) noexcept nogil:
    """Rotate the points (a, b)."""
    cdef Py_ssize_t i
    cdef float before, s
    for i in range(half):
        before = a[i]
        s = sign * sin[i]
        a[i] = before * cos[i] - b[i] * s
        b[i] = b[i] * cos[i] + before * s
