/* Sixteen channels at a time, bfloat16 in memory and float32 in a register of AVX512, for the C code of kernels/. */

#ifndef VECTORS_H
#define VECTORS_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 16 };
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t word __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))
/* Unrolled, so that what is made of constants costs nothing. */
#define EACH(i, count) _Pragma("GCC unroll 16") for (int i = 0; i < (count); i++)
/* Channels 16 at a time; the last 16 overlap those before where their number asks for it. */
#define EACH_GROUP(group, c, channels)                                                                                 \
    for (int64_t group = 0, c; c = least(group * LANES, (channels) - LANES), group < groups(channels); group++)

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t groups(int64_t channels) { return (channels + LANES - 1) / LANES; }

INLINE vec load(const uint16_t *from)
{
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from)), 16);
}

INLINE void store(uint16_t *to, vec value)
{
    _mm256_storeu_si256((void *)to, (__m256i)_mm512_cvtneps_pbh((__m512)value));
}

/* The larger of `best` and `value`, the first of equals, and its place; NaN is larger than all. */
INLINE void take_larger(vec *best, __m512i *where, vec value, int place)
{
    __mmask16 larger = _mm512_cmp_ps_mask((__m512)value, (__m512)*best, _CMP_GT_OQ);
    larger |= _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q);
    *best = (vec)_mm512_mask_mov_ps((__m512)*best, larger, (__m512)value);
    *where = _mm512_mask_set1_epi32(*where, larger, place);
}

INLINE void store_places(uint8_t *to, __m512i places) { _mm_storeu_si128((void *)to, _mm512_cvtepi32_epi8(places)); }

INLINE vec load_floats(const float *from) { return (vec)_mm512_loadu_ps(from); }
INLINE void store_floats(float *to, vec value) { _mm512_storeu_ps(to, (__m512)value); }

#endif
