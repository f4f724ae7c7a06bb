"""Shape checks at the Python door of each kernel."""

cdef inline int want(str what, Py_ssize_t got, Py_ssize_t wanted) except -1:
    """Raises ValueError unless a dimension has the wanted length."""
    if got != wanted:
        raise ValueError(f"{what}: got {got}, want {wanted}")
    return 0


cdef inline int want_positive(str what, Py_ssize_t got) except -1:
    """Raises ValueError for an empty dimension."""
    if got < 1:
        raise ValueError(f"{what}: got {got}, want at least 1")
    return 0
