cdef int thread_count() noexcept nogil

# The least work, in multiply-adds or operations of equal cost, for which one more thread is used: about 20 microseconds.
# Decoding with a small model consists of less than that; a second thread made it twenty times slower on a busy machine.
cdef enum:
    MIN_WORK_PER_THREAD = 65536


cdef inline int threads_for(Py_ssize_t work, Py_ssize_t min_work_per_thread=MIN_WORK_PER_THREAD) noexcept nogil:
    """Return the number of threads for an amount of work, given in multiply-adds."""
    return <int>max(1, min(<Py_ssize_t>thread_count(), work // min_work_per_thread))
