"""The interface to cblas, which no other file uses directly. All matrices are row-major.

OpenBLAS's own thread pool is limited to one thread: the kernels divide each product among the threads of an OpenMP
team, and two spinning pools side by side are slower than one.
"""

cdef extern from *:
    """
    #if defined(GPT_ACCELERATE)
      #include <Accelerate/Accelerate.h>
      #define gpt_cblas_sgemm cblas_sgemm
      #define gpt_cblas_sgemv cblas_sgemv
      static inline void gpt_blas_use_one_thread(void) {}
    #elif defined(GPT_SCIPY_OPENBLAS)
      #include <cblas.h>
      #define gpt_cblas_sgemm scipy_cblas_sgemm
      #define gpt_cblas_sgemv scipy_cblas_sgemv
      static inline void gpt_blas_use_one_thread(void) { scipy_openblas_set_num_threads(1); }
    #else
      #include <cblas.h>
      #define gpt_cblas_sgemm cblas_sgemm
      #define gpt_cblas_sgemv cblas_sgemv
      #if defined(OPENBLAS_CONST)
        static inline void gpt_blas_use_one_thread(void) { openblas_set_num_threads(1); }
      #else
        static inline void gpt_blas_use_one_thread(void) {}
      #endif
    #endif
    """
    enum CBLAS_ORDER:
        CblasRowMajor
    enum CBLAS_TRANSPOSE:
        CblasNoTrans
        CblasTrans
    void gpt_cblas_sgemm(
        CBLAS_ORDER, CBLAS_TRANSPOSE, CBLAS_TRANSPOSE, int m, int n, int k,
        float alpha, const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc) noexcept nogil
    void gpt_cblas_sgemv(
        CBLAS_ORDER, CBLAS_TRANSPOSE, int m, int n,
        float alpha, const float *a, int lda, const float *x, int incx, float beta, float *y, int incy) noexcept nogil
    void gpt_blas_use_one_thread() noexcept nogil


cdef inline void gemm(
    bint transpose_a,
    bint transpose_b,
    Py_ssize_t m,
    Py_ssize_t n,
    Py_ssize_t k,
    float alpha,
    const float *a,
    Py_ssize_t lda,
    const float *b,
    Py_ssize_t ldb,
    float beta,
    float *c,
    Py_ssize_t ldc,
) noexcept nogil:
    """c (m, n) = alpha * op(a) (m, k) . op(b) (k, n) + beta * c, on the calling thread.

    op transposes if requested; lda, ldb and ldc are the distances between stored rows. A product of one row is a
    matrix-vector product, which reads b once and does not pack it.
    """
    if m == 1:
        if transpose_b:
            gpt_cblas_sgemv(CblasRowMajor, CblasNoTrans, <int>n, <int>k, alpha, b, <int>ldb,
                            a, <int>(lda if transpose_a else 1), beta, c, 1)
        else:
            gpt_cblas_sgemv(CblasRowMajor, CblasTrans, <int>k, <int>n, alpha, b, <int>ldb,
                            a, <int>(lda if transpose_a else 1), beta, c, 1)
        return
    gpt_cblas_sgemm(
        CblasRowMajor,
        CblasTrans if transpose_a else CblasNoTrans,
        CblasTrans if transpose_b else CblasNoTrans,
        <int>m, <int>n, <int>k, alpha, a, <int>lda, b, <int>ldb, beta, c, <int>ldc)
