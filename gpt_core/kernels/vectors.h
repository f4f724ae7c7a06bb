/* Vectors of LANES floats: as wide as a register of the instruction-set level. */

#ifndef GPT_VECTORS_H
#define GPT_VECTORS_H

#include <stdint.h>

#if defined(__AVX2__)
  #include <immintrin.h>
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  #include <arm_neon.h>
#endif

#if defined(__AVX512F__)
  #define LANES 16
#elif defined(__AVX2__)
  #define LANES 8
#else
  #define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int lane_indices __attribute__((vector_size(4 * LANES)));
typedef unsigned lane_bits __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float vector_of_pairs __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
typedef uint16_t unaligned_halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

INLINE vector gpt_load(const float *from) { return *(const unaligned_vector *)from; }
INLINE void gpt_store(float *to, vector v) { *(unaligned_vector *)to = v; }

#endif
