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

    #if defined(__aarch64__) && defined(__linux__)
    #include <asm/hwcap.h>
    #include <sys/auxv.h>
    #if !defined(HWCAP2_BF16)  /* headers of Linux before 5.6 */
    #define HWCAP2_BF16 (1 << 14)
    #endif
    static int gpt_has_arm_bfloat16(void) { return (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0; }
    #else
    static int gpt_has_arm_bfloat16(void) { return 0; }
    #endif

    #if defined(__x86_64__) && defined(__linux__)
    #include <cpuid.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    /* AMX with bfloat16. Linux requires a process to request permission for it (arch_prctl(2)). */
    static int gpt_request_tiles(void) {
        const unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
        const long request_permission = 0x1023, tile_data = 18;
        unsigned a, b, c, d;
        return gpt_has_bfloat16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && d & amx_bf16 && d & amx_tile
            && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    }
    #else
    static int gpt_request_tiles(void) { return 0; }
    #endif
    """
    bint gpt_has_v3() noexcept nogil
    bint gpt_has_v4() noexcept nogil
    bint gpt_has_bfloat16() noexcept nogil
    bint gpt_request_tiles() noexcept nogil
    bint gpt_has_arm_bfloat16() noexcept nogil


def supported_levels():
    """Return the names of the supported levels, fastest first; the last is always "baseline".

    Requests permission to use AMX, if the processor has it.
    """
    levels = ["baseline"]
    if gpt_has_v3():
        levels.insert(0, "x86_64_v3")
    if gpt_has_v4():
        levels.insert(0, "x86_64_v4")
    if gpt_has_bfloat16():
        levels.insert(0, "x86_64_v4_bf16")
    if gpt_request_tiles():
        levels.insert(0, "x86_64_v4_amx")
    if gpt_has_arm_bfloat16():
        levels.insert(0, "aarch64_bf16")
    return levels
