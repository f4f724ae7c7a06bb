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


cdef inline int check_adjacent(str what, Py_ssize_t length, Py_ssize_t stride, Py_ssize_t size) except -1:
    """Raise ValueError unless the elements of a dimension are adjacent. The stride of a single one has no meaning."""
    if length > 1:
        check_equal(what, stride, size)
    return 0


cdef inline Py_ssize_t leading_dimension(Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t stride, Py_ssize_t size) noexcept:
    """Return the distance between rows in elements. The stride of a single row has no meaning: its length instead."""
    return stride // size if rows > 1 else columns


cdef inline int check_product(
    const Py_ssize_t *c,
    Py_ssize_t rows_a,
    Py_ssize_t columns_a,
    Py_ssize_t rows_b,
    Py_ssize_t columns_b,
) except -1:
    """Raise ValueError unless c (rows_a, columns_b) can be a (rows_a, columns_a) . b (rows_b, columns_b), none empty."""
    check_positive("product: rows", rows_a)
    check_positive("product: inner dimension", columns_a)
    check_positive("product: columns", columns_b)
    check_equal("product: rows of the right-hand matrix", rows_b, columns_a)
    check_equal("product: rows of the result", c[0], rows_a)
    check_equal("product: columns of the result", c[1], columns_b)
    return 0
