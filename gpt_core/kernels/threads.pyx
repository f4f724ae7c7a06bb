"""How many threads the kernels use: one OpenMP team for everything."""

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
    """Sets the number of threads of every later kernel call. Without OpenMP it stays at one. Raises ValueError under 1."""
    global _threads
    if threads < 1:
        raise ValueError(f"threads: got {threads}, want at least 1")
    _threads = threads if gpt_openmp() else 1


def get_threads():
    """The number of threads the kernels use."""
    return _threads


def has_openmp():
    """Whether the kernels were compiled with OpenMP, and so can use more than one thread."""
    return bool(gpt_openmp())
