/* Max pooling, batch normalisation and activation in training; kernels/norm_cpu.py compiles this file.

   Maps are bfloat16, (images, height, width, channels), channels a multiple of 16; a pooled map is height / pool by
   width / pool. Statistics are (2, channels) float32: mean and 1 / deviation. Compiled with -DACTIVATION=0 for GELU, 1
   for SiLU, 2 for ReLU. */

#include "vectors.h"

typedef struct {
    int64_t images, height, width, channels, pool, threads;
} Shape;

INLINE int64_t down(const Shape *s) { return s->height / s->pool; }
INLINE int64_t across(const Shape *s) { return s->width / s->pool; }
INLINE int64_t pixels(const Shape *s) { return down(s) * across(s); }

INLINE vec all(float value) { return (vec)_mm512_set1_ps(value); }

/* e^x, to 2e-7 of it; 0 and infinite far out. */
INLINE vec exponential(vec x)
{
    /* Of NaN NaN, the second operand. */
    x = (vec)_mm512_min_ps((__m512)all(104.0f), _mm512_max_ps((__m512)all(-104.0f), (__m512)x));
    __m512 turns = _mm512_roundscale_ps((__m512)(x * 1.44269504f), 8); /* whole powers of two */
    vec rest = x - (vec)turns * 0.693359375f - (vec)turns * -2.12194440e-4f;
    vec sum = all(1.9875691500e-4f);
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    return (vec)_mm512_scalef_ps((__m512)(sum * rest * rest + rest + 1.0f), turns);
}

/* 1 / x to 2^-14 of it, which is more than bfloat16 keeps: a division takes five times as long. */
INLINE vec inverse(vec x) { return (vec)_mm512_rcp14_ps((__m512)x); }

/* The activation of z and its derivative there. */
INLINE vec activated(vec z, vec *slope)
{
#if ACTIVATION == 0
    /* The error function by Abramowitz and Stegun's 7.1.26, to 1.5e-7. */
    vec bell = exponential(z * z * -0.5f);
    vec size = (vec)_mm512_abs_ps((__m512)z);
    vec t = inverse(1.0f + 0.3275911f * 0.70710678f * size);
    vec tail =
        ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t * bell;
    __mmask16 negative = _mm512_movepi32_mask((__m512i)z);
    vec share = (vec)_mm512_mask_blend_ps(negative, (__m512)(1.0f - 0.5f * tail), (__m512)(0.5f * tail));
    *slope = share + z * 0.39894228f * bell;
    return z * share;
#elif ACTIVATION == 1
    vec share = inverse(1.0f + exponential(-z));
    *slope = share * (1.0f + z * (1.0f - share));
    return z * share;
#else
    *slope =
        (vec)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)z, _mm512_setzero_ps(), _CMP_GT_OQ), (__m512)all(1.0f));
    return (vec)_mm512_max_ps(_mm512_setzero_ps(), (__m512)z); /* of NaN NaN, the second operand */
#endif
}

/* Where the window of a pooled pixel begins. */
INLINE int64_t corner(const Shape *s, int64_t at)
{
    return (at / across(s) * s->width + at % across(s)) * s->pool * s->channels;
}

/* The largest of a window, the first of equals, and its place there; NaN is larger than all. */
INLINE vec pool_window(const Shape *s, const uint16_t *x, __m512i *where)
{
    vec best = load(x);
    *where = _mm512_setzero_si512();
    for (int place = 1; place < s->pool * s->pool; place++)
        take_larger(&best, where, load(x + (place / s->pool * s->width + place % s->pool) * s->channels), place);
    return best;
}

#define EACH_VEC(c, channels) for (int64_t c = 0; c < (channels); c += LANES)

/* Adds `value` to 16 floats. */
INLINE void add_to(float *sum, vec value) { store_floats(sum, load_floats(sum) + value); }

/* Pools an image where there is something to pool; found: its channels' means and sums of squares about them. */
INLINE void pool_image(const Shape *s, const uint16_t *x, uint16_t *pooled, uint8_t *index, float *found)
{
    int64_t channels = s->channels;
    memset(found, 0, 2 * channels * sizeof *found);
    for (int64_t at = 0; at < pixels(s); at++)
        EACH_VEC (c, channels) {
            if (s->pool == 1) {
                add_to(found + c, load(pooled + at * channels + c));
                continue;
            }
            __m512i where;
            vec value = pool_window(s, x + corner(s, at) + c, &where);
            store(pooled + at * channels + c, value);
            store_places(index + at * channels + c, where);
            add_to(found + c, value);
        }
    for (int64_t c = 0; c < channels; c++) found[c] /= (float)pixels(s);
    for (int64_t at = 0; at < pixels(s); at++)
        EACH_VEC (c, channels) {
            vec off = load(pooled + at * channels + c) - load_floats(found + c);
            add_to(found + channels + c, off * off);
        }
}

/* pooled, index: what is kept of x, the maxima and their places in their windows; x itself and null for pool 1. work:
   (images, 2, channels) float32. found: the statistics and the biased variance, (3, channels). */
void statistics(const Shape *s, const uint16_t *x, uint16_t *pooled, uint8_t *index, float eps, float *found,
                float *work)
{
    int64_t channels = s->channels, size = pixels(s) * channels;
#pragma omp parallel num_threads(s->threads)
    {
#pragma omp for
        for (int64_t image = 0; image < s->images; image++)
            pool_image(s, x + image * s->height * s->width * channels, pooled + image * size,
                       index ? index + image * size : 0, work + image * 2 * channels);
#pragma omp for
        for (int64_t c = 0; c < channels; c++) {
            double mean = 0, spread = 0;
            for (int64_t image = 0; image < s->images; image++) mean += work[image * 2 * channels + c];
            mean /= s->images;
            for (int64_t image = 0; image < s->images; image++) {
                double off = work[image * 2 * channels + c] - mean;
                spread += work[(image * 2 + 1) * channels + c] + pixels(s) * off * off;
            }
            double variance = spread / (s->images * pixels(s));
            found[c] = (float)mean;
            found[channels + c] = (float)(1 / __builtin_sqrt(variance + eps));
            found[2 * channels + c] = (float)variance;
        }
    }
}

/* out = activation((pooled - mean) / deviation * weight + bias). */
void normalise(const Shape *s, const uint16_t *pooled, const float *found, const float *weight, const float *bias,
               uint16_t *out)
{
    int64_t channels = s->channels;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t image = 0; image < s->images; image++)
        for (int64_t at = image * pixels(s); at < (image + 1) * pixels(s); at++)
            EACH_VEC (c, channels) {
                vec scale = load_floats(found + channels + c) * load_floats(weight + c), slope;
                vec z = (load(pooled + at * channels + c) - load_floats(found + c)) * scale + load_floats(bias + c);
                store(out + at * channels + c, activated(z, &slope));
            }
}

/* sums: the gradients of bias and weight, (2, channels). dx: that of x, 0 where it was no maximum; null if it is not
   wanted. kept: a pooled map, dx itself for pool 1; what of the gradient passes the activation. work: (images, 2,
   channels) float32. */
void gradient(const Shape *s, const uint16_t *grad, const uint16_t *pooled, const uint8_t *index, const float *found,
              const float *weight, const float *bias, float *sums, uint16_t *dx, uint16_t *kept, float *work)
{
    int64_t channels = s->channels, size = pixels(s) * channels;
    float share = 1.0f / (float)(s->images * pixels(s));
#pragma omp parallel num_threads(s->threads)
    {
#pragma omp for
        for (int64_t image = 0; image < s->images; image++) {
            float *of_bias = work + image * 2 * channels, *of_weight = of_bias + channels;
            memset(of_bias, 0, 2 * channels * sizeof *of_bias);
            for (int64_t at = image * size; at < (image + 1) * size; at += channels)
                EACH_VEC (c, channels) {
                    vec normal = (load(pooled + at + c) - load_floats(found + c)) * load_floats(found + channels + c),
                        slope;
                    activated(normal * load_floats(weight + c) + load_floats(bias + c), &slope);
                    vec g = load(grad + at + c) * slope;
                    add_to(of_bias + c, g);
                    add_to(of_weight + c, g * normal);
                    store(kept + at + c, g);
                }
        }
#pragma omp for
        for (int64_t c = 0; c < 2 * channels; c++) {
            double sum = 0;
            for (int64_t image = 0; image < s->images; image++) sum += work[image * 2 * channels + c];
            sums[c] = (float)sum;
        }
        if (dx)
#pragma omp for
            for (int64_t image = 0; image < s->images; image++) {
                uint16_t *map = dx + image * s->height * s->width * channels;
                if (s->height % s->pool || s->width % s->pool)
                    memset(map, 0, s->height * s->width * channels * sizeof *map); /* what is in no window */
                for (int64_t at = 0; at < pixels(s); at++)
                    EACH_VEC (c, channels) {
                        int64_t from = image * size + at * channels + c;
                        vec rate = load_floats(found + channels + c),
                            normal = (load(pooled + from) - load_floats(found + c)) * rate;
                        vec g = load(kept + from) -
                                (load_floats(sums + c) + normal * load_floats(sums + channels + c)) * share;
                        g *= rate * load_floats(weight + c);
                        if (s->pool == 1) {
                            store(map + at * channels + c, g);
                            continue;
                        }
                        __m512i where = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(index + from)));
                        for (int64_t place = 0; place < s->pool * s->pool; place++) {
                            __mmask16 here = _mm512_cmpeq_epi32_mask(where, _mm512_set1_epi32((int)place));
                            store(map + corner(s, at) + c + (place / s->pool * s->width + place % s->pool) * channels,
                                  (vec)_mm512_maskz_mov_ps(here, (__m512)g));
                        }
                    }
            }
    }
}
