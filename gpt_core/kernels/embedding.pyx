"""Token and position embedding: x = wte[token] + wpe[position] (GPT-2, Radford et al. 2019), or of tokens alone."""

from cython.parallel cimport prange
from libc.string cimport memcpy

from gpt_core.kernels.shapes cimport check_equal, check_positive
from gpt_core.kernels.threads cimport threads_for


def forward(
    float[:, ::1] x,
    const int[::1] tokens,
    const float[:, ::1] wte,
    const float[:, ::1] wpe,
    Py_ssize_t time,
    Py_ssize_t first_position=0,
):
    """Compute x[n] = wte[tokens[n]] + wpe[first_position + n mod time]; without wpe, x[n] = wte[tokens[n]].

    Args:
        time: Tokens per sequence.
        first_position: Position of the first token of each sequence.

    Shape:
        x (N, C); tokens (N,); wte (V, C); wpe (maximum sequence length, C), or None.

    Raises:
        ValueError: The shapes do not match, a token is not in [0, V), or a position is not in wpe.
    """
    cdef Py_ssize_t N = x.shape[0], C = x.shape[1], n
    cdef const float *positions = NULL
    _check_tokens(x.shape, tokens, wte.shape, time)
    if wpe is not None:
        _check_positions(x.shape, wpe.shape, time, first_position)
        positions = &wpe[first_position, 0]
    for n in prange(N, nogil=True, schedule="static", num_threads=threads_for(N * C)):
        _embed_row(&x[n, 0], &wte[tokens[n], 0], positions, n % time, C)


def backward(
    float[:, ::1] d_wte,
    float[:, ::1] d_wpe,
    const int[::1] tokens,
    const float[:, ::1] d_x,
    Py_ssize_t time,
):
    """Compute d_wte[tokens[n]] += d_x[n] and d_wpe[n mod time] += d_x[n]; sequences start at position 0.

    Without d_wpe, compute the gradient of wte alone.

    Threads divide the channels, not the rows, because several rows can have the same token.

    Shape:
        d_wte (V, C); d_wpe (maximum sequence length, C), or None; tokens (N,); d_x (N, C).

    Raises:
        ValueError: As for `forward`.
    """
    cdef Py_ssize_t N = d_x.shape[0], C = d_x.shape[1], part
    cdef Py_ssize_t parts = threads_for(N * C)
    cdef float *d_positions = NULL
    _check_tokens(d_x.shape, tokens, d_wte.shape, time)
    if d_wpe is not None:
        _check_positions(d_x.shape, d_wpe.shape, time, 0)
        d_positions = &d_wpe[0, 0]
    for part in prange(parts, nogil=True, schedule="static", num_threads=parts):
        _add_channels(&d_wte[0, 0], d_positions, &tokens[0], &d_x[0, 0], N, C, time,
                      C * part // parts, C * (part + 1) // parts)


cdef int _check_tokens(
    const Py_ssize_t *x,
    const int[::1] tokens,
    const Py_ssize_t *wte,
    Py_ssize_t time,
) except -1:
    cdef Py_ssize_t n
    check_equal("embedding: number of tokens", tokens.shape[0], x[0])
    check_positive("embedding: number of tokens", x[0])
    check_positive("embedding: tokens per sequence", time)
    check_equal("embedding: channels of wte", wte[1], x[1])
    for n in range(tokens.shape[0]):
        if not 0 <= tokens[n] < wte[0]:
            raise ValueError(f"embedding: got token {tokens[n]} at index {n}, expected a value in [0, {wte[0]})")
    return 0


cdef int _check_positions(
    const Py_ssize_t *x,
    const Py_ssize_t *wpe,
    Py_ssize_t time,
    Py_ssize_t first_position,
) except -1:
    check_equal("embedding: channels of wpe", wpe[1], x[1])
    if first_position < 0 or first_position > wpe[0] - min(time, x[0]):
        raise ValueError(f"embedding: got {time} positions from {first_position} on, "
                         f"expected positions within {wpe[0]}")
    return 0


cdef void _embed_row(
    float *x,
    const float *token,
    const float *positions,
    Py_ssize_t row,
    Py_ssize_t C,
) noexcept nogil:
    """x (C,) = token + positions[row]; positions may be NULL."""
    cdef Py_ssize_t c
    if positions is NULL:
        memcpy(x, token, C * sizeof(float))
        return
    for c in range(C):
        x[c] = token[c] + positions[row * C + c]


cdef void _add_channels(
    float *d_wte,
    float *d_wpe,
    const int *tokens,
    const float *d_x,
    Py_ssize_t N,
    Py_ssize_t C,
    Py_ssize_t time,
    Py_ssize_t start,
    Py_ssize_t stop,
) noexcept nogil:
    """Add channels [start, stop) of each row of d_x to its row of d_wte and of d_wpe, which may be NULL."""
    cdef Py_ssize_t n
    for n in range(N):
        _add(d_wte + tokens[n] * C, d_x + n * C, start, stop)
        if d_wpe is not NULL:
            _add(d_wpe + n % time * C, d_x + n * C, start, stop)


cdef inline void _add(float *y, const float *x, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """y[start:stop] += x[start:stop]."""
    cdef Py_ssize_t c
    for c in range(start, stop):
        y[c] += x[c]
