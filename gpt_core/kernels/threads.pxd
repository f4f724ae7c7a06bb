cdef int thread_count() noexcept nogil

# What a thread must have to do to be worth waking, in multiply-adds or what takes as long: about 20 microseconds.
# Decoding with a small model is made of less than that; on a machine that is busy otherwise a second thread made it
# twenty times slower.
cdef enum:
    WORTH_A_THREAD = 65536


cdef inline int threads_for(Py_ssize_t work, Py_ssize_t worth_a_thread=WORTH_A_THREAD) noexcept nogil:
    """How many threads share work of so many multiply-adds."""
    return <int>max(1, min(<Py_ssize_t>thread_count(), work // worth_a_thread))
