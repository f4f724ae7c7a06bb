"""The number of threads that the kernels use, all in one OpenMP team."""

from gpt_core.kernels.blas cimport gpt_blas_use_one_thread

cdef extern from *:
    """
    #ifdef _OPENMP
    static int gpt_openmp(void) { return 1; }
    #else
    static int gpt_openmp(void) { return 0; }
    #endif
    """
    bint gpt_openmp() noexcept nogil

cdef int _threads = 1

gpt_blas_use_one_thread()


cdef int thread_count() noexcept nogil:
    return _threads


def set_threads(int threads):
    """Set the number of threads of every later kernel call. Without OpenMP it stays at 1.

    Raises:
        ValueError: `threads` is below 1.
    """
    global _threads
    if threads < 1:
        raise ValueError(f"threads: got {threads}, expected at least 1")
    _threads = threads if gpt_openmp() else 1


def get_threads():
    """Return the number of threads that the kernels use."""
    return _threads


def has_openmp():
    """Return True if the kernels were compiled with OpenMP; without it they use one thread."""
    return bool(gpt_openmp())
