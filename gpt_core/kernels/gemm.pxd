cdef extern from "matrix_types.h":
    ctypedef enum Format "gpt_format":
        FLOAT32 "GPT_FLOAT32"
        BFLOAT16 "GPT_BFLOAT16"

    ctypedef struct Matrix "gpt_matrix":
        const void *data
        Py_ssize_t ld
        bint transposed
        Format stored

    ctypedef struct PackedB "gpt_packed_b":
        const float *data
        Py_ssize_t stride
        bint transposed

    ctypedef struct Output "gpt_output":
        void *c
        Py_ssize_t ldc
        const float *addend
        Py_ssize_t ld_addend
        const float *bias
        float alpha
        Format stored

    const void *at "gpt_at"(const void *data, Py_ssize_t count, Format stored) noexcept nogil

cdef enum:
    READ_AT_ONCE = 16  # rows of an A in place, and slots of a row, that `gemm_packed` may read at once

cdef void gemm(
    Format format,
    Py_ssize_t m,
    Py_ssize_t n,
    Py_ssize_t k,
    Matrix a,
    Matrix b,
    Output out,
) noexcept nogil

cdef void symmetric_gemm(
    Format format,
    Py_ssize_t n,
    Py_ssize_t k,
    Matrix a,
    Matrix b,
    Output out,
) noexcept nogil

cdef Py_ssize_t max_stored_depth() noexcept nogil
cdef Format format_of(bint bfloat16) noexcept nogil
cdef void pack_row(Format format, Format stored, Py_ssize_t k, const void *row, float *slots) noexcept nogil
cdef void begin_packed(Format format) noexcept nogil
cdef void end_packed(Format format) noexcept nogil
cdef Matrix pack_transposed(
    Format format,
    Py_ssize_t m,
    Py_ssize_t k,
    const float *a,
    Py_ssize_t lda,
    float *space,
) noexcept nogil
cdef bint in_tiles(Format format) noexcept nogil
cdef Py_ssize_t packed_rows(Format format) noexcept nogil
cdef Py_ssize_t packed_size(Py_ssize_t k, Py_ssize_t n) noexcept nogil
cdef PackedB pack(Format format, Py_ssize_t k, Py_ssize_t n, Matrix b, float *space) noexcept nogil
cdef PackedB packed_slice(Format format, PackedB b, Py_ssize_t first_k, Py_ssize_t first_n) noexcept nogil
cdef void gemm_packed(
    Format format,
    Py_ssize_t m,
    Py_ssize_t n,
    Py_ssize_t k,
    const Matrix *a,
    const PackedB *b,
    const Output *out,
) noexcept nogil
