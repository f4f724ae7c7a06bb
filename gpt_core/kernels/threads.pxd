cdef int thread_count() noexcept nogil

# The least work per thread, in multiply-adds or operations of equal cost, for which two are used: about 20 microseconds.
# Decoding with a small model consists of less than that; a second thread made it twenty times slower on a busy machine.
cdef enum:
    MIN_WORK_PER_THREAD = 65536


cdef inline int threads_for(Py_ssize_t work) noexcept nogil:
    """Return the number of threads for an amount of work, given in multiply-adds: all of them, or one.

    Speed only: libgomp ends the threads that a smaller team leaves out, and starts them again for the next larger team.
    """
    cdef int threads = thread_count()  # also for one thread: it prepares the calling thread
    return threads if work >= 2 * MIN_WORK_PER_THREAD else 1
