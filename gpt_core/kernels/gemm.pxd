cdef void gemm(bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, float alpha,
               const float *a, Py_ssize_t lda, const float *b, Py_ssize_t ldb, float *c, Py_ssize_t ldc,
               const float *addend, Py_ssize_t ld_addend, const float *bias) noexcept nogil

ctypedef struct Factor:  # the right factor of products, made by `pack`
    const float *b
    Py_ssize_t ld  # between panels of our own; between rows for BLAS
    bint transposed

cdef Py_ssize_t packed_rows() noexcept nogil
cdef Py_ssize_t packed_size(Py_ssize_t k, Py_ssize_t n) noexcept nogil
cdef Factor pack(bint transpose, Py_ssize_t k, Py_ssize_t n, const float *b, Py_ssize_t ldb, float *space) noexcept nogil
cdef void gemm_packed(bint transpose_a, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, float alpha, const float *a,
                      Py_ssize_t lda, Factor b, Py_ssize_t first_k, Py_ssize_t first_n, float *c, Py_ssize_t ldc,
                      bint accumulate) noexcept nogil
