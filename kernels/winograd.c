/* Winograd's 3x3 convolution in bfloat16 for AVX512; kernels/winograd.py compiles this file and says how it works.

   Compiled with -DM=outputs of a tile, a side, and -DINPUT, -DOUTPUT and -DFILTER, the rows of B', A' and G. A tile's
   input is N x N pixels, N = M + 2, from one above and left of its outputs on; beyond the map are zeros. Maps are
   (images, height, width, channels). Nothing but maps, filters and their gradient is ever written to memory whole: what
   lies between is made for a few tiles at a time, in a cache. */

#include <omp.h>

#include "vectors.h"

enum {
    N = M + 2, /* pixels of a tile's input, a side */
    PLACES = N * N,
    ROWS = 8,         /* of a product that is made at once, 16 wide */
    BLOCK = 256,      /* tiles whose part of the filters' gradient is added at once: the sum is loaded and stored less */
    LINE = 2 * LANES, /* numbers in a line of a cache: of two tiles, 16 channels each */
};
typedef struct {
    int64_t images, height, width, inputs, outputs, threads;
} Shape;

static const float B[N][N] = INPUT, A[M][N] = OUTPUT, G[N][3] = FILTER;

/* A sum over j; the zeros of a matrix cost nothing. */
#define SUM(sum, count, j, factor, term)                                                                               \
    vec sum = {0};                                                                                                     \
    EACH (j, count)                                                                                                    \
        if ((factor) != 0) sum += (factor) * (term)

INLINE int64_t across(const Shape *s) { return (s->width + M - 1) / M; }
INLINE int64_t per_image(const Shape *s) { return (s->height + M - 1) / M * across(s); }
INLINE int64_t count(const Shape *s) { return s->images * per_image(s); }

/* 16 channels of a pixel, (row, column) from the first output of a tile on; zeros where the map has none. */
INLINE vec pixel(const Shape *s, const uint16_t *map, int64_t channels, int64_t tile, int row, int column, int64_t c)
{
    int64_t image = tile / per_image(s), place = tile % per_image(s);
    int64_t y = place / across(s) * M + row, x = place % across(s) * M + column;
    if (y < 0 || y >= s->height || x < 0 || x >= s->width) return (vec){0};
    return load(map + ((image * s->height + y) * s->width + x) * channels + c);
}

/* The same of a map that was pooled, 2 by 2, and knows the places of the maxima: 0 elsewhere. */
INLINE vec spread_pixel(const Shape *s, const uint16_t *map, const uint8_t *index, int64_t channels, int64_t tile,
                        int row, int column, int64_t c)
{
    int64_t image = tile / per_image(s), place = tile % per_image(s);
    int64_t y = place / across(s) * M + row, x = place % across(s) * M + column;
    if (y < 0 || y >= s->height / 2 * 2 || x < 0 || x >= s->width / 2 * 2) return (vec){0};
    int64_t at = ((image * (s->height / 2) + y / 2) * (s->width / 2) + x / 2) * channels + c;
    __mmask16 here =
        _mm_cmpeq_epi8_mask(_mm_loadu_si128((const void *)(index + at)), _mm_set1_epi8((char)(y % 2 * 2 + x % 2)));
    return (vec)_mm512_maskz_mov_ps(here, (__m512)load(map + at));
}

/* B' d B of a tile's input. */
INLINE void transform_input(const Shape *s, const uint16_t *map, const uint8_t *index, int64_t tile, int64_t c,
                            vec out[PLACES])
{
    vec half[N][N];
    for (int x = 0; x < N; x++) {
        vec d[N];
        for (int y = 0; y < N; y++)
            d[y] = index ? spread_pixel(s, map, index, s->inputs, tile, y - 1, x - 1, c)
                         : pixel(s, map, s->inputs, tile, y - 1, x - 1, c);
        EACH (i, N) {
            SUM(sum, N, j, B[i][j], d[j]);
            half[i][x] = sum;
        }
    }
    for (int y = 0; y < N; y++)
        EACH (i, N) {
            SUM(sum, N, j, B[i][j], half[y][j]);
            out[y * N + i] = sum;
        }
}

/* A g A' of the gradient g of a tile's outputs: the transpose of how they are made. */
INLINE void transform_gradient(const Shape *s, const uint16_t *map, const uint8_t *index, int64_t tile, int64_t c,
                               vec out[PLACES])
{
    vec half[N][M];
    for (int x = 0; x < M; x++) {
        vec d[M];
        for (int y = 0; y < M; y++)
            d[y] = index ? spread_pixel(s, map, index, s->outputs, tile, y, x, c)
                         : pixel(s, map, s->outputs, tile, y, x, c);
        EACH (i, N) {
            SUM(sum, M, j, A[j][i], d[j]);
            half[i][x] = sum;
        }
    }
    for (int y = 0; y < N; y++)
        EACH (i, N) {
            SUM(sum, M, j, A[j][i], half[y][j]);
            out[y * N + i] = sum;
        }
}

/* sums[r][k] += a[r][2 n] b[2 n][k] + a[r][2 n + 1] b[2 n + 1][k] over `steps` n, for 8 r and 16 k. The pairs of `a`
   are `row` apart for r and `step` for n; lines of `b` follow each other. */
INLINE void multiply(const uint16_t *a, int64_t row, int64_t step, const uint16_t *b, int64_t steps, vec sums[ROWS])
{
    for (int64_t n = 0; n < steps; n++, a += step, b += LINE) {
        __m512bh line = (__m512bh)_mm512_loadu_si512(b);
        EACH (r, ROWS) {
            int32_t pair;
            memcpy(&pair, a + r * row, sizeof pair);
            sums[r] = (vec)_mm512_dpbf16_ps((__m512)sums[r], (__m512bh)_mm512_set1_epi32(pair), line);
        }
    }
}

/* A' m A of a tile as far as its outputs lie on the map; m: (PLACES, ROWS tiles, 16 channels), of the tile on. With an
   index the map is pooled, 2 by 2: the largest, the first of equals, and its place there; NaN is larger than all. */
INLINE void transform_output(const Shape *s, const vec *m, int64_t tile, int64_t c, uint16_t *map, uint8_t *index)
{
    int64_t image = tile / per_image(s), place = tile % per_image(s);
    int64_t top = place / across(s) * M, left = place % across(s) * M;
    vec half[M][N], out[M][M];
    for (int x = 0; x < N; x++)
        EACH (i, M) {
            SUM(sum, N, j, A[i][j], m[(j * N + x) * ROWS]);
            half[i][x] = sum;
        }
    for (int y = 0; y < M; y++)
        EACH (i, M) {
            SUM(sum, N, j, A[i][j], half[y][j]);
            out[y][i] = sum;
        }
    if (!index) {
        for (int y = 0; y < least(M, s->height - top); y++)
            for (int x = 0; x < least(M, s->width - left); x++)
                store(map + ((image * s->height + top + y) * s->width + left + x) * s->outputs + c, out[y][x]);
        return;
    }
    int64_t down = s->height / 2, wide = s->width / 2;
    for (int y = 0; y < least(M / 2, down - top / 2); y++)
        for (int x = 0; x < least(M / 2, wide - left / 2); x++) {
            vec best = out[2 * y][2 * x];
            __m512i where = _mm512_setzero_si512();
            EACH (i, 3) take_larger(&best, &where, out[2 * y + (i + 1) / 2][2 * x + (i + 1) % 2], i + 1);
            int64_t at = ((image * down + top / 2 + y) * wide + left / 2 + x) * s->outputs + c;
            store(map + at, best);
            store_places(index + at, where);
        }
}

/* Numbers of two vectors side by side, rounded to the nearest, a tie to the even one. */
INLINE word paired(vec first, vec second)
{
    word even = (word)first, odd = (word)second;
    even = (even + 0x7fff + (even >> 16 & 1)) >> 16;
    odd = (odd + 0x7fff + (odd >> 16 & 1)) & 0xffff0000;
    return even | odd;
}

/* G g G' of the filters from an input to 16 outputs; weight: of the first of them, at the first tap. */
INLINE void transform_filter(const uint16_t *weight, int64_t from_output, int64_t from_tap, vec out[PLACES])
{
    vec half[N][3];
    for (int x = 0; x < 3; x++) {
        vec g[3];
        for (int y = 0; y < 3; y++) {
            word bits = {0};
            EACH (k, LANES) bits[k] = (uint32_t)weight[k * from_output + (y * 3 + x) * from_tap] << 16;
            g[y] = (vec)bits;
        }
        EACH (i, N) {
            SUM(sum, 3, j, G[i][j], g[j]);
            half[i][x] = sum;
        }
    }
    for (int y = 0; y < N; y++)
        EACH (i, N) {
            SUM(sum, 3, j, G[i][j], half[y][j]);
            out[y * N + i] = sum;
        }
}

/* filters: (groups of 16 outputs, PLACES, inputs / 2, 16 outputs, 2 inputs), transformed. Weights are from_output,
   from_input and from_tap numbers apart. */
void transform_filters(const Shape *s, const uint16_t *weight, int64_t from_output, int64_t from_input,
                       int64_t from_tap, uint16_t *filters)
{
#pragma omp parallel for num_threads(s->threads)
    for (int64_t input = 0; input < s->inputs; input += 2)
        EACH_GROUP (group, k, s->outputs) {
            vec made[2][PLACES];
            for (int i = 0; i < 2; i++)
                transform_filter(weight + k * from_output + (input + i) * from_input, from_output, from_tap, made[i]);
            for (int place = 0; place < PLACES; place++)
                *(word *)(filters + ((group * PLACES + place) * s->inputs + input) * LANES) =
                    paired(made[0][place], made[1][place]);
        }
}

/* Tiles whose input `convolve` transforms at once: it stays in a core's second cache. */
INLINE int64_t block(const Shape *s) { return s->inputs > 128 ? 32 : 64; }
INLINE int64_t block_size(const Shape *s) { return block(s) * PLACES * groups(s->inputs) * LANES; }

/* filters: as `transform_filters` makes them. Inputs and outputs are 16 or more, inputs even. x_index: where x is the
   gradient of a pooled map, the places of its maxima; y_index: where y is pooled, 2 by 2, those that are to be written;
   else null. work: `work_bytes`. */
void convolve(const Shape *s, const uint16_t *x, const uint8_t *x_index, const uint16_t *filters, uint16_t *y,
              uint8_t *y_index, uint16_t *work)
{
    int64_t tiles = count(s), panel = s->inputs * LANES; /* filters of a place and 16 outputs */
#pragma omp parallel for schedule(dynamic) num_threads(s->threads)
    for (int64_t first = 0; first < tiles; first += block(s)) {
        int64_t here = least(block(s), tiles - first);
        uint16_t *in = work + omp_get_thread_num() * block_size(s); /* (tile, place, input) */
        for (int64_t t = 0; t < here; t++)
            EACH_GROUP (group, c, s->inputs) {
                vec made[PLACES];
                transform_input(s, x, x_index, first + t, c, made);
                for (int place = 0; place < PLACES; place++)
                    store(in + (t * PLACES + place) * s->inputs + c, made[place]);
            }
        EACH_GROUP (group, k, s->outputs)
            for (int64_t t = 0; t < here; t += ROWS) {
                vec sums[PLACES][ROWS];
                for (int place = 0; place < PLACES; place++) {
                    vec sum[ROWS] = {0}; /* the last may be of no tile: they are not used */
                    multiply(in + (t * PLACES + place) * s->inputs, PLACES * s->inputs, 2,
                             filters + (group * PLACES + place) * panel, s->inputs / 2, sum);
                    memcpy(sums[place], sum, sizeof sum);
                }
                for (int64_t r = 0; r < least(ROWS, here - t); r++)
                    transform_output(s, &sums[0][r], first + t + r, k, y, y_index);
            }
    }
}

/* Lines of two tiles, 16 channels of each side by side, `step` for each place; zeros for a second that there is not.
   of_output: whether the map is the gradient of the outputs, else the input. */
INLINE void transform_pair(const Shape *s, int of_output, const uint16_t *map, const uint8_t *index, int64_t tile,
                           int64_t c, uint16_t *to, int64_t step)
{
    vec made[2][PLACES] = {0};
    for (int64_t t = 0; t < least(2, count(s) - tile); t++)
        if (of_output)
            transform_gradient(s, map, index, tile + t, c, made[t]);
        else
            transform_input(s, map, index, tile + t, c, made[t]);
    for (int place = 0; place < PLACES; place++) *(word *)(to + place * step) = paired(made[0][place], made[1][place]);
}

/* Numbers from place to place in what `filter_gradient` lays out, (place, 16 channels, pair of tiles): an odd number of
   lines, so that those of a tile fall into all sets of a cache. */
INLINE int64_t place_step(int64_t channels) { return (groups(channels) * BLOCK / 2 + 1) * LINE; }

/* total: (PLACES, inputs, outputs), of the transformed filters. Inputs are a multiple of 8 and 16 or more, outputs of
   16. index: where the gradient is of a pooled map, the places of its maxima, else null. work: `work_bytes`, begins
   with a line of the cache. */
void filter_gradient(const Shape *s, const uint16_t *x, const uint16_t *gradient, const uint8_t *index, float *total,
                     uint16_t *work)
{
    int64_t tiles = count(s), panel = BLOCK / 2 * LINE;
    int64_t in_step = place_step(s->inputs), out_step = place_step(s->outputs);
    uint16_t *in = work, *out = work + PLACES * in_step;
    memset(total, 0, PLACES * s->inputs * s->outputs * sizeof *total);
#pragma omp parallel num_threads(s->threads)
    for (int64_t first = 0; first < tiles; first += BLOCK) {
        int64_t pairs = (least(BLOCK, tiles - first) + 1) / 2;
#pragma omp for
        for (int64_t pair = 0; pair < pairs; pair++) {
            int64_t tile = first + 2 * pair, at = pair * LINE;
            EACH_GROUP (group, c, s->inputs) transform_pair(s, 0, x, 0, tile, c, in + group * panel + at, in_step);
            EACH_GROUP (group, c, s->outputs)
                transform_pair(s, 1, gradient, index, tile, c, out + group * panel + at, out_step);
        }
#pragma omp for
        for (int64_t part = 0; part < PLACES * groups(s->inputs); part++) {
            int64_t place = part / groups(s->inputs), group = part % groups(s->inputs);
            int64_t c = least(group * LANES, s->inputs - LANES);
            for (int64_t r = group * LANES - c; r < LANES; r += ROWS)
                for (int64_t k = 0; k < s->outputs; k += LANES) {
                    float *sum = total + (place * s->inputs + c + r) * s->outputs + k;
                    vec sums[ROWS];
                    EACH (i, ROWS) memcpy(&sums[i], sum + i * s->outputs, sizeof sums[i]);
                    multiply(in + place * in_step + group * panel + 2 * r, 2, LINE,
                             out + place * out_step + k / LANES * panel, pairs, sums);
                    EACH (i, ROWS) memcpy(sum + i * s->outputs, &sums[i], sizeof sums[i]);
                }
        }
    }
}

/* Bytes of `work` that either of them takes. */
int64_t work_bytes(const Shape *s, int gradient)
{
    return (gradient ? PLACES * (place_step(s->inputs) + place_step(s->outputs)) : s->threads * block_size(s)) *
           sizeof(uint16_t);
}
