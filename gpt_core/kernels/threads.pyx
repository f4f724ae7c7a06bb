"""The number of threads that the kernels use, all in one OpenMP team, and how they treat denormal numbers."""

from cython.parallel cimport prange

from gpt_core.kernels.blas cimport gpt_blas_use_one_thread

cdef extern from *:
    """
    #ifdef _OPENMP
    static int gpt_openmp(void) { return 1; }
    #else
    static int gpt_openmp(void) { return 0; }
    #endif

    /* The control register of floating-point arithmetic of the calling thread, and its bits that flush denormals. */
    #include <stdint.h>
    #if defined(__SSE2__) || defined(_M_X64)
    #include <xmmintrin.h>
    static const uint64_t gpt_flush = 0x8040;  /* FTZ: results, DAZ: operands */
    static uint64_t gpt_float_mode(void) { return _mm_getcsr(); }
    static void gpt_set_float_mode(uint64_t mode) { _mm_setcsr((unsigned)mode); }
    #elif defined(__aarch64__)
    static const uint64_t gpt_flush = 1u << 24;  /* FZ: both */
    static uint64_t gpt_float_mode(void) { uint64_t m; __asm__ volatile("mrs %0, fpcr" : "=r"(m)); return m; }
    static void gpt_set_float_mode(uint64_t mode) { __asm__ volatile("msr fpcr, %0" :: "r"(mode)); }
    #else
    static const uint64_t gpt_flush = 0;
    static uint64_t gpt_float_mode(void) { return 0; }
    static void gpt_set_float_mode(uint64_t mode) { (void)mode; }
    #endif
    """
    bint gpt_openmp() noexcept nogil
    const unsigned long long gpt_flush
    unsigned long long gpt_float_mode() noexcept nogil
    void gpt_set_float_mode(unsigned long long mode) noexcept nogil

cdef int _threads = 1
cdef bint _is_set = False

gpt_blas_use_one_thread()


cdef int thread_count() noexcept nogil:
    return _threads


def set_threads(int threads):
    """Set the number of threads of every later kernel call. Without OpenMP it stays at 1.

    Raises:
        ValueError: `threads` is below 1.
    """
    global _threads, _is_set
    if threads < 1:
        raise ValueError(f"threads: got {threads}, expected at least 1")
    _threads, _is_set = (threads if gpt_openmp() else 1), True


def set_default_threads(int threads):
    """Set the number of threads unless it was set before. Raises ValueError as `set_threads`."""
    if not _is_set:
        set_threads(threads)


def get_threads():
    """Return the number of threads that the kernels use."""
    return _threads


def has_openmp():
    """Return True if the kernels were compiled with OpenMP; without it they use one thread."""
    return bool(gpt_openmp())


cdef class DenormalsFlushed:
    """Context manager: within it, the kernels called by this thread treat numbers below 1.2e-38 as 0.

    Many processors need ten times as long, or longer, for an operation with such a denormal number; moments of rarely
    used tokens and probabilities of attention reach this range. The mode of every thread is restored at the end.
    Threads that `set_threads` adds meanwhile keep theirs.
    """

    cdef unsigned long long _mode
    cdef int _team

    def __enter__(self):
        self._mode, self._team = gpt_float_mode(), _threads
        _set_mode(self._mode | gpt_flush, self._team)

    def __exit__(self, *_error):
        _set_mode(self._mode, self._team)


cdef class DenormalsKept:
    """Context manager: within it, this thread computes with denormal numbers, also inside of `DenormalsFlushed`.

    The threads that compute for it keep their mode: call no kernels within it.
    """

    cdef unsigned long long _mode

    def __enter__(self):
        self._mode = gpt_float_mode()
        gpt_set_float_mode(self._mode & ~gpt_flush)

    def __exit__(self, *_error):
        gpt_set_float_mode(self._mode)


cdef void _set_mode(unsigned long long mode, int team) noexcept:
    """Set the floating-point mode of this thread and of the threads that compute for it, `team` in all."""
    cdef int thread
    for thread in prange(team, nogil=True, schedule="static", num_threads=team):
        gpt_set_float_mode(mode)
    gpt_set_float_mode(mode)
