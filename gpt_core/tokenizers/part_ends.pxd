"""Argument checks of functions that process a text in parts."""

from libc.stdint cimport int64_t


cdef inline int check_room(const int64_t[::1] ends, Py_ssize_t length, Py_ssize_t room, Py_ssize_t needed) except -1:
    """Raise ValueError unless `ends` ascend from 0 to `length` and the output has room for `needed` ids."""
    cdef Py_ssize_t part
    cdef int64_t last = 0
    for part in range(ends.shape[0]):
        if ends[part] < last or ends[part] > length:
            raise ValueError(f"ends: got {ends[part]} after {last}, expected ascending offsets from 0 to {length}")
        last = ends[part]
    if room < needed:
        raise ValueError(f"ids: got room for {room}, expected at least {needed}")
    return 0
