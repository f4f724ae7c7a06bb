"""Random masks of dropout as a pure function of a key, a row and an index: nothing is stored, and order is free.

A row has a key of 64 bits, SplitMix64's output (Steele, Lea and Flood 2014) for the mask's key and the row's number.
Each element hashes its index with the two halves of the row's key by two rounds of multiply and xor-shift, with the
constants of Mueller's and Wellons's `lowbias32`. `dropout_factors` in `gpt_core.reference` is the same in NumPy.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    RANDOM_BITS = 24  # of an element: exact in an int and in a float


cdef inline uint64_t row_key(uint64_t key, uint64_t row) noexcept nogil:
    """Return the key of a row: the output of SplitMix64 number `row` from the state `key` on."""
    cdef uint64_t z = key + (row + 1) * <uint64_t>0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef inline int random_bits(uint32_t low, uint32_t high, uint32_t index) noexcept nogil:
    """Return RANDOM_BITS random bits of an element, for the halves of its row's key."""
    cdef uint32_t x = index * <uint32_t>0x9E3779B9 + low
    x = (x ^ (x >> 16)) * <uint32_t>0x21F0AAAD ^ high
    x = (x ^ (x >> 15)) * <uint32_t>0x735A2D97
    return <int>((x ^ (x >> 15)) >> (32 - RANDOM_BITS))


cdef inline int threshold_of(double rate) noexcept nogil:
    """Return the number that the random bits of an element are below with probability `rate`."""
    return <int>(rate * (1 << RANDOM_BITS) + 0.5)


cdef inline float factor_of(int bits, int threshold, float scale) noexcept nogil:
    """Return the factor of an element: 0 if it is dropped, else `scale`, 1 / (1 - rate)."""
    return scale if bits >= threshold else <float>0
