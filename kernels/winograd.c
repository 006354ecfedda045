/* Winograd's 3x3 convolution in bfloat16 for AVX512; kernels/winograd.py compiles this file and says how it works.

   Compiled with -DM=outputs of a tile, a side, and -DINPUT, -DOUTPUT and -DFILTER, the rows of B', A and G. A tile's
   input is N x N pixels, N = M + 2, from one above and left of its outputs on; beyond the map are zeros. Maps are
   (images, height, width, channels). Nothing but maps, filters and their gradient is ever written to memory whole: what
   lies between is made for a few tiles at a time, in a cache. */

#include <omp.h>

#include "vectors.h"

enum {
    N = M + 2, /* pixels of a tile's input, a side */
    PLACES = N * N,
    ROWS = 8,                 /* of a product that is made at once, 16 wide */
    BLOCK = M > 6 ? 64 : 256, /* tiles whose part of the filters' gradient is added at once: more of them load and
                                 store the sum less often, and lay out more than a cache holds */
    LINE = 2 * LANES,         /* numbers in a line of a cache: of two tiles, 16 channels each */
    FIRST = N % 2 == 0,       /* 1 if row 0 is the point 0; from this row on p and -p alternate, infinity is last */
};
typedef struct {
    int64_t images, height, width, rows, columns, inputs, outputs, threads; /* rows, columns: what tiles cover */
} Shape;
typedef struct {
    int64_t image, top, left; /* of its outputs */
} Tile;
typedef struct {
    const uint16_t *numbers;
    const uint8_t *index; /* if this is the gradient of a map pooled 2 by 2, where the maxima were: else null */
    int64_t channels, height, width;
} Map;

/* A row for each point. */
static const float B[N][N] = INPUT, A[N][M] = OUTPUT, G[N][3] = FILTER;

/* A matrix of N rows times d; its zeros cost nothing. In the rows of p and -p even columns are equal and odd ones
   opposite, so that two sums make both. */
INLINE void evaluate(int columns, const float (*matrix)[columns], const vec *d, vec out[N])
{
    EACH (pair, N / 2 - FIRST) {
        int i = FIRST + 2 * pair;
        vec sum[2] = {0};
        EACH (j, columns)
            if (matrix[i][j] != 0) sum[j % 2] += matrix[i][j] * d[j];
        out[i] = sum[0] + sum[1];
        out[i + 1] = sum[0] - sum[1];
    }
    for (int i = FIRST ? 0 : N - 1; i < N; i += N - 1) {
        vec sum = {0};
        EACH (j, columns)
            if (matrix[i][j] != 0) sum += matrix[i][j] * d[j];
        out[i] = sum;
    }
}

/* A' m. */
INLINE void interpolate(const vec m[N], vec out[M])
{
    EACH (j, M) {
        out[j] = (vec){0};
        if (FIRST && A[0][j] != 0) out[j] += A[0][j] * m[0];
        if (A[N - 1][j] != 0) out[j] += A[N - 1][j] * m[N - 1];
    }
    EACH (pair, N / 2 - FIRST) {
        int i = FIRST + 2 * pair;
        vec both[2] = {m[i] + m[i + 1], m[i] - m[i + 1]};
        EACH (j, M) out[j] += A[i][j] * both[j % 2];
    }
}

INLINE int64_t across(const Shape *s) { return (s->columns + M - 1) / M; }
INLINE int64_t per_image(const Shape *s) { return (s->rows + M - 1) / M * across(s); }
INLINE int64_t count(const Shape *s) { return s->images * per_image(s); }
INLINE Tile tile_at(const Shape *s, int64_t tile)
{
    int64_t place = tile % per_image(s);
    return (Tile){tile / per_image(s), place / across(s) * M, place % across(s) * M};
}

INLINE Map map_of(const Shape *s, const uint16_t *numbers, const uint8_t *index, int64_t channels)
{
    int64_t window = index ? 2 : 1;
    return (Map){numbers, index, channels, s->height / window, s->width / window};
}

/* 16 channels of `side` pixels below each other, from (y, x) of the map before pooling on; zeros where it has none. */
INLINE void load_column(const Map *map, int64_t image, int64_t y, int64_t x, int64_t c, int side, vec *out)
{
    int window = map->index ? 2 : 1;
    EACH (i, side) {
        int64_t row = y + i;
        out[i] = (vec){0};
        if (row < 0 || row >= map->height * window || x < 0 || x >= map->width * window) continue;
        int64_t at = ((image * map->height + row / window) * map->width + x / window) * map->channels + c;
        out[i] = load(map->numbers + at);
        if (map->index) {
            __m128i places = _mm_loadu_si128((const void *)(map->index + at));
            __mmask16 here = _mm_cmpeq_epi8_mask(places, _mm_set1_epi8((char)(row % 2 * 2 + x % 2)));
            out[i] = (vec)_mm512_maskz_mov_ps(here, (__m512)out[i]);
        }
    }
}

/* matrix times `side` x `side` pixels, of which the first is (y, x): the first half of a transform. */
INLINE void transform_columns(const Map *map, int64_t image, int64_t y, int64_t x, int64_t c, int side,
                              const float (*matrix)[side], vec out[N][N])
{
    for (int k = 0; k < side; k++) {
        vec d[N], made[N];
        load_column(map, image, y, x + k, c, side, d);
        evaluate(side, matrix, d, made);
        EACH (i, N) out[i][k] = made[i];
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
INLINE void transform_output(const Shape *s, const vec *m, Tile tile, int64_t c, uint16_t *map, uint8_t *index)
{
    int64_t image = tile.image, top = tile.top, left = tile.left;
    vec half[M][N], out[M][M];
    for (int x = 0; x < N; x++) {
        vec d[N], made[M];
        EACH (i, N) d[i] = m[(i * N + x) * ROWS];
        interpolate(d, made);
        EACH (i, M) half[i][x] = made[i];
    }
    for (int y = 0; y < M; y++) interpolate(half[y], out[y]);
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

/* Numbers of two vectors side by side. */
INLINE word paired(vec first, vec second)
{
    const __m512i order = (__m512i)(__v32hi){0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                             8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return (word)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
}

/* G g G' of the filters from an input to 16 outputs; weight: of the first of them, at the first tap. */
INLINE void transform_filter(const uint16_t *weight, int64_t from_output, int64_t from_tap, vec out[PLACES])
{
    vec half[N][3];
    for (int x = 0; x < 3; x++) {
        vec g[3], made[N];
        for (int y = 0; y < 3; y++) {
            word bits = {0};
            EACH (k, LANES) bits[k] = (uint32_t)weight[k * from_output + (y * 3 + x) * from_tap] << 16;
            g[y] = (vec)bits;
        }
        evaluate(3, G, g, made);
        EACH (i, N) half[i][x] = made[i];
    }
    for (int y = 0; y < N; y++) evaluate(3, G, half[y], out + y * N);
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
INLINE int64_t block(const Shape *s) { return (s->inputs > 128 ? 32 : 64) / (M > 5 ? 2 : 1); }
INLINE int64_t block_size(const Shape *s) { return block(s) * PLACES * groups(s->inputs) * LANES; }

/* filters: as `transform_filters` makes them. Inputs and outputs are 16 or more, inputs even. x_index: where x is the
   gradient of a pooled map, the places of its maxima; y_index: where y is pooled, 2 by 2, those that are to be written;
   else null. work: `work_bytes`. */
void convolve(const Shape *s, const uint16_t *x, const uint8_t *x_index, const uint16_t *filters, uint16_t *y,
              uint8_t *y_index, uint16_t *work)
{
    int64_t tiles = count(s), panel = s->inputs * LANES; /* filters of a place and 16 outputs */
    Map map = map_of(s, x, x_index, s->inputs);
#pragma omp parallel for schedule(dynamic) num_threads(s->threads)
    for (int64_t first = 0; first < tiles; first += block(s)) {
        int64_t here = least(block(s), tiles - first);
        uint16_t *in = work + omp_get_thread_num() * block_size(s); /* (tile, place, input) */
        for (int64_t t = 0; t < here; t++) {
            Tile tile = tile_at(s, first + t);
            EACH_GROUP (group, c, s->inputs) {
                vec half[N][N], made[N];
                transform_columns(&map, tile.image, tile.top - 1, tile.left - 1, c, N, B, half);
                for (int i = 0; i < N; i++) {
                    evaluate(N, B, half[i], made);
                    EACH (j, N) store(in + (t * PLACES + i * N + j) * s->inputs + c, made[j]);
                }
            }
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
                    transform_output(s, &sums[0][r], tile_at(s, first + t + r), k, y, y_index);
            }
    }
}

/* The transforms of two tiles, 16 channels of each side by side in a line for each place, lines `step` apart; zeros for
   a second tile that there is not. side = N, matrix = B: B' d B of the input. side = M, matrix = A: A g A' of the
   gradient g of the outputs, the transpose of how they are made. */
INLINE void lay_out(const Shape *s, const Map *map, int64_t tile, int64_t c, int side, const float (*matrix)[side],
                    uint16_t *to, int64_t step)
{
    vec half[2][N][N], made[2][N];
    int before = (side - M) / 2; /* pixels around the outputs, on each side */
    if (tile + 1 == count(s)) memset(half[1], 0, sizeof half[1]);
    for (int t = 0; t < least(2, count(s) - tile); t++) {
        Tile at = tile_at(s, tile + t);
        transform_columns(map, at.image, at.top - before, at.left - before, c, side, matrix, half[t]);
    }
    for (int i = 0; i < N; i++) {
        EACH (t, 2) evaluate(side, matrix, half[t][i], made[t]);
        EACH (j, N) *(word *)(to + (i * N + j) * step) = paired(made[0][j], made[1][j]);
    }
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
    Map input = map_of(s, x, 0, s->inputs), output = map_of(s, gradient, index, s->outputs);
    memset(total, 0, PLACES * s->inputs * s->outputs * sizeof *total);
#pragma omp parallel num_threads(s->threads)
    for (int64_t first = 0; first < tiles; first += BLOCK) {
        int64_t pairs = (least(BLOCK, tiles - first) + 1) / 2;
#pragma omp for
        for (int64_t pair = 0; pair < pairs; pair++) {
            int64_t tile = first + 2 * pair, at = pair * LINE;
            EACH_GROUP (group, c, s->inputs) lay_out(s, &input, tile, c, N, B, in + group * panel + at, in_step);
            EACH_GROUP (group, c, s->outputs) lay_out(s, &output, tile, c, M, A, out + group * panel + at, out_step);
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
