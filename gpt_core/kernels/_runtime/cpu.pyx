"""The instruction-set levels that this processor supports. Compiled once, for the baseline."""

cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__))
    static int gpt_has_v3(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    }
    static int gpt_has_v4(void) {
        return gpt_has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
    }
    static int gpt_has_bfloat16(void) { return gpt_has_v4() && __builtin_cpu_supports("avx512bf16"); }
    #else
    static int gpt_has_v3(void) { return 0; }
    static int gpt_has_v4(void) { return 0; }
    static int gpt_has_bfloat16(void) { return 0; }
    #endif
    """
    bint gpt_has_v3() noexcept nogil
    bint gpt_has_v4() noexcept nogil
    bint gpt_has_bfloat16() noexcept nogil


def supported_levels():
    """Return the names of the supported levels, fastest first; the last is always "baseline"."""
    levels = ["baseline"]
    if gpt_has_v3():
        levels.insert(0, "x86_64_v3")
    if gpt_has_v4():
        levels.insert(0, "x86_64_v4")
    if gpt_has_bfloat16():
        levels.insert(0, "x86_64_v4_bf16")
    return levels
