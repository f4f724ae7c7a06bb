"""Checks of array shapes, at the start of each kernel that Python calls."""

cdef inline int check_equal(str what, Py_ssize_t got, Py_ssize_t expected) except -1:
    """Raise ValueError unless a dimension has the expected length."""
    if got != expected:
        raise ValueError(f"{what}: got {got}, expected {expected}")
    return 0


cdef inline int check_positive(str what, Py_ssize_t got) except -1:
    """Raise ValueError if a dimension is empty."""
    if got < 1:
        raise ValueError(f"{what}: got {got}, expected at least 1")
    return 0
