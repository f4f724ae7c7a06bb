"""What the modules that take a text in parts have in common."""

from libc.stdint cimport int64_t


cdef inline int check_room(const int64_t[::1] ends, Py_ssize_t length, Py_ssize_t room, Py_ssize_t wanted) except -1:
    """Refuse ends of parts that do not rise within a text of `length` bytes, and an output of less room than wanted."""
    cdef Py_ssize_t part
    cdef int64_t last = 0
    for part in range(ends.shape[0]):
        if ends[part] < last or ends[part] > length:
            raise ValueError(f"ends must rise from 0 to {length}, got {ends[part]} after {last}")
        last = ends[part]
    if room < wanted:
        raise ValueError(f"{wanted} ids may be needed, and there is room for {room}")
    return 0
