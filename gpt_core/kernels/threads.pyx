"""The number of threads that the kernels use, all in one OpenMP team, their cores, and their denormal numbers."""

from cython.parallel cimport prange

from gpt_core.kernels.blas cimport gpt_blas_use_one_thread

cdef extern from *:
    """
    #ifdef _OPENMP
    static int gpt_openmp(void) { return 1; }
    #else
    static int gpt_openmp(void) { return 0; }
    #endif

    /* What libgomp lacks. It binds a thread to its first core once, when it opens its first parallel region: that
       region is opened here, and the CPUs on which the thread may run are restored, so that neither the caller of a
       kernel nor the threads and processes that it starts are bound, except within `Bound`. The threads that libgomp
       starts for it are.
       And after a fork, the child would wait forever for the threads of the parent: there, the thread that has called
       kernels with several threads computes alone. */
    #if defined(__linux__) && defined(_OPENMP)
    #include <limits.h>
    #include <omp.h>
    #include <pthread.h>
    #include <sched.h>
    enum { GPT_CPU_WORDS = 1024 / sizeof(long) };  /* a bit per CPU; Linux has at most 8,192 */
    static int gpt_read_cpus(unsigned long *cpus) {
        for (int i = 0; i < GPT_CPU_WORDS; i++) cpus[i] = 0;
        return sched_getaffinity(0, GPT_CPU_WORDS * sizeof *cpus, (cpu_set_t *)cpus) == 0;
    }
    static void gpt_run_on(const unsigned long *cpus) {
        sched_setaffinity(0, GPT_CPU_WORDS * sizeof *cpus, (const cpu_set_t *)cpus);
    }
    static __thread int gpt_has_region, gpt_has_team, gpt_is_forked, gpt_has_core;
    static __thread unsigned long gpt_core[GPT_CPU_WORDS];  /* that libgomp binds the thread to */
    static void gpt_find_core(void) {
        int ids[CHAR_BIT * sizeof gpt_core];
        const int place = omp_get_place_num(), count = place < 0 ? 0 : omp_get_place_num_procs(place);
        if (count < 1 || count > (int)(sizeof ids / sizeof *ids)) return;
        omp_get_place_proc_ids(place, ids);
        for (int i = 0; i < count; i++)
            gpt_core[ids[i] / (CHAR_BIT * sizeof(long))] |= 1ul << ids[i] % (CHAR_BIT * sizeof(long));
        gpt_has_core = 1;
    }
    static void gpt_open_first_region(void) {
        unsigned long own[GPT_CPU_WORDS];
        const int is_known = gpt_read_cpus(own);
        #pragma omp parallel num_threads(1)
        __asm__ volatile("");
        gpt_find_core();
        if (is_known) gpt_run_on(own);
    }
    /* Bind the calling thread to its core if it may run there, and on no more CPUs than there are threads; write the
       CPUs that it may use. */
    static int gpt_bind(unsigned long *own, int threads) {
        int cpus = 0;
        if (!gpt_has_core || !gpt_read_cpus(own)) return 0;
        for (int i = 0; i < GPT_CPU_WORDS; i++) {
            if (gpt_core[i] & ~own[i]) return 0;
            cpus += __builtin_popcountl(own[i]);
        }
        if (threads < cpus) return 0;
        gpt_run_on(gpt_core);
        return 1;
    }
    static int gpt_usable_threads(int threads) {
        if (gpt_is_forked) return 1;
        if (!gpt_has_region) {
            gpt_has_region = 1;
            gpt_open_first_region();
        }
        gpt_has_team |= threads > 1;
        return threads;
    }
    static void gpt_after_fork(void) { gpt_is_forked = gpt_has_team; }
    static void gpt_watch_forks(void) { pthread_atfork(NULL, NULL, gpt_after_fork); }
    #else
    enum { GPT_CPU_WORDS = 1 };
    static int gpt_bind(unsigned long *own, int threads) { (void)own; (void)threads; return 0; }
    static void gpt_run_on(const unsigned long *cpus) { (void)cpus; }
    static int gpt_usable_threads(int threads) { return threads; }
    static void gpt_watch_forks(void) {}
    #endif

    /* The control register of floating-point arithmetic of the calling thread, and its bits that flush denormals. */
    #include <stdint.h>
    #if defined(__SSE2__) || defined(_M_X64)
    #include <xmmintrin.h>
    static const uint64_t gpt_flush = 0x8040;  /* FTZ: results, DAZ: operands */
    static uint64_t gpt_float_mode(void) { return _mm_getcsr(); }
    static void gpt_set_float_mode(uint64_t mode) { _mm_setcsr((unsigned)mode); }
    #elif defined(__aarch64__)
    static const uint64_t gpt_flush = 1u << 24;  /* FZ: both */
    static uint64_t gpt_float_mode(void) { uint64_t m; __asm__ volatile("mrs %0, fpcr" : "=r"(m)); return m; }
    static void gpt_set_float_mode(uint64_t mode) { __asm__ volatile("msr fpcr, %0" :: "r"(mode)); }
    #else
    static const uint64_t gpt_flush = 0;
    static uint64_t gpt_float_mode(void) { return 0; }
    static void gpt_set_float_mode(uint64_t mode) { (void)mode; }
    #endif
    """
    enum: GPT_CPU_WORDS
    bint gpt_openmp() noexcept nogil
    int gpt_bind(unsigned long *own, int threads) noexcept nogil
    void gpt_run_on(const unsigned long *cpus) noexcept nogil
    int gpt_usable_threads(int threads) noexcept nogil
    void gpt_watch_forks() noexcept nogil
    const unsigned long long gpt_flush
    unsigned long long gpt_float_mode() noexcept nogil
    void gpt_set_float_mode(unsigned long long mode) noexcept nogil

cdef int _threads = 1
cdef bint _is_set = False

gpt_blas_use_one_thread()
gpt_watch_forks()


cdef int thread_count() noexcept nogil:
    return gpt_usable_threads(_threads)


def set_threads(int threads):
    """Set the number of threads of every later kernel call. Without OpenMP it stays at 1.

    Raises:
        ValueError: `threads` is below 1.
    """
    global _threads, _is_set
    if threads < 1:
        raise ValueError(f"threads: got {threads}, expected at least 1")
    _threads, _is_set = (threads if gpt_openmp() else 1), True


def set_default_threads(int threads):
    """Set the number of threads unless it was set before. Raises ValueError as `set_threads`."""
    if not _is_set:
        set_threads(threads)


def get_threads():
    """Return the number of threads that the kernels use."""
    return _threads


def has_openmp():
    """Return True if the kernels were compiled with OpenMP; without it they use one thread."""
    return bool(gpt_openmp())


cdef class Bound:
    """Context manager: within it, the calling thread is bound to a core if there is a thread for every CPU it may use.

    So are the threads that OpenMP starts. Otherwise, on a machine that other programs share, the calling thread is
    often placed on the core of one of them. Start no threads and no processes within it: they would be bound, too.
    """

    cdef unsigned long[GPT_CPU_WORDS] _own
    cdef bint _is_bound

    def __enter__(self):
        cdef int threads = thread_count()
        self._is_bound = threads > 1 and gpt_bind(self._own, threads)

    def __exit__(self, *_error):
        if self._is_bound:
            gpt_run_on(self._own)


cdef class DenormalsFlushed:
    """Context manager: within it, the kernels called by this thread treat numbers below 1.2e-38 as 0.

    Many processors need ten times as long, or longer, for an operation with such a denormal number; moments of rarely
    used tokens and probabilities of attention reach this range. The mode of every thread is restored at the end.
    Threads that `set_threads` adds meanwhile keep theirs.
    """

    cdef unsigned long long _mode
    cdef int _team

    def __enter__(self):
        self._mode, self._team = gpt_float_mode(), thread_count()
        _set_mode(self._mode | gpt_flush, self._team)

    def __exit__(self, *_error):
        _set_mode(self._mode, self._team)


cdef class DenormalsKept:
    """Context manager: within it, this thread computes with denormal numbers, also inside of `DenormalsFlushed`.

    The threads that compute for it keep their mode: call no kernels within it.
    """

    cdef unsigned long long _mode

    def __enter__(self):
        self._mode = gpt_float_mode()
        gpt_set_float_mode(self._mode & ~gpt_flush)

    def __exit__(self, *_error):
        gpt_set_float_mode(self._mode)


cdef void _set_mode(unsigned long long mode, int team) noexcept:
    """Set the floating-point mode of this thread and of the threads that compute for it, `team` in all."""
    cdef int thread
    for thread in prange(team, nogil=True, schedule="static", num_threads=team):
        gpt_set_float_mode(mode)
    gpt_set_float_mode(mode)
