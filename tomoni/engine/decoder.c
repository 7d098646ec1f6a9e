/* A pass of a decoder of the Llama family over a few tokens, whole: from tokens to logits, in one call.
 *
 * A token's numbers are computed in an order that does not depend on which tokens stand beside it, nor on the number of
 * threads: threads share outputs and heads, never a sum. So an answer is the same, bit by bit, in whatever batch it is
 * made.
 *
 * Matrices are packed in panels of PANEL outputs, input by input, so that a product reads them once and in order. As
 * int8 they are multiplied with inputs that are rounded to int8 with a scale per row; those sums are exact.
 *
 * N tokens, D hidden, H heads of d values, J heads of keys and values, I inner, V vocabulary.
 */

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "exponential.h"
#include "tiles.h"

#define WHOLE 128 /* added to int8 inputs, which become unsigned */
#define LARGEST 127.0f
#define SPINS 4000
#define TILE 4   /* tokens of one row that look at its keys together */
#define CHUNK 64 /* keys that they look at before the next */

typedef struct {
    const float *packed;    /* float32 [panels, in, PANEL], or NULL */
    const int8_t *packed8;  /* int8 [panels, in / 4, PANEL, 4] */
    const float *scale;     /* int8: [panels * PANEL] */
    const int32_t *offset;  /* int8: WHOLE times each output's sum of weights */
    const float *bias;      /* [panels * PANEL], or NULL */
    int64_t in, out;        /* in: a multiple of 4 for int8 */
} Matrix;

typedef struct {
    Matrix qkv, o, gate_up, down; /* gate_up: LANES of gate, then LANES of up in each panel */
    const float *head_norm;       /* [H + J, d], or NULL */
} Layer;

typedef struct {
    const Layer *layers;
    Matrix head;
    const float *embedding; /* [V, D] */
    int64_t count, width, heads, kv_heads, head_dim, inner, window; /* window 0: none */
    float epsilon, scale;
} Model;

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
typedef int (*Count)(void);

typedef struct {
    const int64_t *tokens, *slots, *positions; /* [N] */
    const int64_t *at;                         /* [P] ascending: of which tokens logits are wanted */
    const float *cosine, *sine;                /* [T, d / 2] */
    float *memory;                             /* [layers, slots, 2 J, room, d] */
    float *logits;                             /* [P, V] */
    int64_t n, p, room, slot_count, threads;
    Parallel parallel; /* OpenMP's own functions, or NULL: then threads are begun for the pass alone */
    Count number, team;
} Step;

/* What a product reads: rows of floats, or the same rounded; `factor` multiplies each row's sums. */
typedef struct {
    const float *values;
    int64_t stride, rows;
    const float *factor;
    const uint8_t *whole; /* [rows, in] */
} Input;

typedef struct {
    const Model *model;
    const Step *step;
    float *x, *qkv, *seen, *inner;
    int64_t *tokens, *tiles; /* [N] their numbers; [tile_count + 1] where tiles begin among them */
    int64_t longest, tile_count;
    atomic_int arrived, phase, items[2], failed, begun;
} Pass;

typedef struct {
    Pass *pass;
    int index;
} Worker;

/* -- threads ------------------------------------------------------------------------------------------------------- */

/* All threads wait here for the last one. */
static void meet(Pass *pass, int threads) {
    if (threads == 1) return;
    int phase = atomic_load_explicit(&pass->phase, memory_order_acquire);
    if (atomic_fetch_add_explicit(&pass->arrived, 1, memory_order_acq_rel) + 1 == threads) {
        atomic_store_explicit(&pass->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&pass->phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&pass->phase, memory_order_acquire) == phase; spins++)
        if (spins > SPINS) sched_yield();
}

static void share(int64_t count, int index, int threads, int64_t *first, int64_t *last) {
    *first = count * index / threads;
    *last = count * (index + 1) / threads;
}

/* -- products ------------------------------------------------------------------------------------------------------ */

/* sums += products of four inputs each, LANES outputs side by side */
ALWAYS ints four(ints sums, const uint8_t *x, const int8_t *weights) {
#if defined(__AVX512VNNI__) && LANES == 16
    int32_t inputs;
    memcpy(&inputs, x, 4);
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(inputs), _mm512_loadu_si512(weights));
#elif defined(__AVX2__) && LANES == 8
    int32_t inputs;
    memcpy(&inputs, x, 4);
    __m256i wide = _mm256_cvtepu8_epi16(_mm_set1_epi32(inputs));
    __m256i low = _mm256_madd_epi16(wide, _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)weights)));
    __m256i high = _mm256_madd_epi16(wide, _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(weights + 16))));
    __m256i pairs = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xD8);
    return sums + (ints)pairs;
#else
    for (int lane = 0; lane < LANES; lane++) {
        int32_t sum = 0;
        for (int b = 0; b < 4; b++) sum += (int32_t)x[b] * (int32_t)weights[4 * lane + b];
        sums[lane] += sum;
    }
    return sums;
#endif
}

ALWAYS void tile8(const int rows, const uint8_t *x, const int8_t *weights, int64_t in, const Matrix *matrix, int64_t output,
                  const float *factor, vec sums[ROWS][2]) {
    ints found[ROWS][2];
    UNROLLED for (int r = 0; r < rows; r++) found[r][0] = found[r][1] = (ints){0};
    for (int64_t k = 0; k < in; k += 4) {
        const int8_t *here = weights + k * PANEL;
        UNROLLED for (int r = 0; r < rows; r++) {
            found[r][0] = four(found[r][0], x + r * in + k, here);
            found[r][1] = four(found[r][1], x + r * in + k, here + 4 * LANES);
        }
    }
    UNROLLED for (int r = 0; r < rows; r++)
        UNROLLED for (int half = 0; half < 2; half++) {
            int64_t first = output + half * LANES;
            ints offset;
            memcpy(&offset, matrix->offset + first, sizeof offset);
            vec exact = __builtin_convertvector(found[r][half] - offset, vec);
            sums[r][half] = exact * load(matrix->scale + first) * factor[r];
        }
}

enum { PLAIN, ADDED, GATED };

/* A tile's sums to their place: as they are, added to what is there, or silu(gate) * up. */
static void finish(int kind, vec sums[2], const Matrix *matrix, int64_t panel, float *to) {
    if (matrix->bias) {
        sums[0] += load(matrix->bias + panel * PANEL);
        sums[1] += load(matrix->bias + panel * PANEL + LANES);
    }
    if (kind == GATED) {
        float out[LANES];
        EACH for (int lane = 0; lane < LANES; lane++)
            out[lane] = sums[0][lane] / (1.0f + exponential(-sums[0][lane])) * sums[1][lane];
        int64_t left = matrix->out / 2 - panel * LANES;
        memcpy(to + panel * LANES, out, sizeof(float) * (size_t)(left < LANES ? left : LANES));
        return;
    }
    float *out = to + panel * PANEL;
    int64_t left = matrix->out - panel * PANEL;
    if (left >= PANEL) {
        if (kind == ADDED) sums[0] += load(out), sums[1] += load(out + LANES);
        store(out, sums[0]);
        store(out + LANES, sums[1]);
        return;
    }
    float tail[PANEL];
    store(tail, sums[0]);
    store(tail + LANES, sums[1]);
    for (int64_t j = 0; j < left; j++) out[j] = kind == ADDED ? out[j] + tail[j] : tail[j];
}

ALWAYS void rows_of_panel(const int rows, int kind, const Matrix *matrix, const Input *input, int64_t row, int64_t panel,
                          float *out, int64_t stride) {
    vec sums[ROWS][2];
    if (matrix->packed) {
        const float *x = input->values + row * input->stride;
        tile(rows, x, input->stride, 1, matrix->packed + panel * matrix->in * PANEL, matrix->in, sums);
        if (input->factor)
            for (int r = 0; r < rows; r++) sums[r][0] *= input->factor[row + r], sums[r][1] *= input->factor[row + r];
    } else {
        tile8(rows, input->whole + row * matrix->in, matrix->packed8 + panel * matrix->in * PANEL, matrix->in, matrix,
              panel * PANEL, input->factor + row, sums);
    }
    for (int r = 0; r < rows; r++) finish(kind, sums[r], matrix, panel, out + (row + r) * stride);
}

#define OF(R)                                                             \
    if (size >= R) {                                                      \
        rows_of_panel(R, kind, matrix, input, row, panel, out, stride);   \
        row += R;                                                         \
        continue;                                                         \
    }

/* This thread's share of input x matrix. The sizes of tiles do not matter to a row's sums. */
static __attribute__((noinline, noclone)) void product(int kind, const Matrix *matrix, const Input *input, float *out, int64_t stride,
                                                       int index, int threads) {
    int64_t first, last;
    share((matrix->out + PANEL - 1) / PANEL, index, threads, &first, &last);
    for (int64_t panel = first; panel < last; panel++)
        for (int64_t row = 0; row < input->rows;) {
            int64_t size = size_of_tile(input->rows - row);
            TILES(OF)
        }
}
#undef OF

/* -- rows ---------------------------------------------------------------------------------------------------------- */

ALWAYS float across(vec value) {
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)value);
#elif LANES == 8
    __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)value), _mm256_extractf128_ps((__m256)value, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#else
    return (value[0] + value[1]) + (value[2] + value[3]);
#endif
}

ALWAYS vec larger(vec a, vec b) {
    return (vec)(((ints)a & (a > b)) | ((ints)b & ~(a > b)));
}

ALWAYS float dot(const float *a, const float *b, int64_t count) {
    vec sum = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) sum += load(a + i) * load(b + i);
    float found = across(sum);
    for (; i < count; i++) found += a[i] * b[i];
    return found;
}

/* Four dot products of one row with rows that follow one another: their sums across lanes are made together. */
ALWAYS void four_dots(const float *a, const float *b, int64_t count, float *out) {
#if defined(__AVX__)
    vec s[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec value = load(a + i);
        UNROLLED for (int r = 0; r < 4; r++) s[r] += value * load(b + r * count + i);
    }
#if LANES == 16
    __m512 v[4] = {(__m512)s[0], (__m512)s[1], (__m512)s[2], (__m512)s[3]};
    __m512 left = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    __m512 right = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    __m512d x = _mm512_castps_pd(left), y = _mm512_castps_pd(right);
    __m512 each = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(each), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(each), 1)));
#else
    __m256 half = _mm256_hadd_ps(_mm256_hadd_ps((__m256)s[0], (__m256)s[1]), _mm256_hadd_ps((__m256)s[2], (__m256)s[3]));
#endif
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
    for (int r = 0; r < 4; r++)
        for (int64_t j = i; j < count; j++) out[r] += a[j] * b[r * count + j];
#else
    for (int r = 0; r < 4; r++) out[r] = dot(a, b + r * count, count);
#endif
}

static float inverse_rms(const float *x, int64_t count, float epsilon) {
    return 1.0f / sqrtf(dot(x, x, count) / (float)count + epsilon);
}

/* What a matrix reads of `rows` rows, each divided by its root mean square where `normed`. */
static Input input_of(const Matrix *matrix, const float *values, int64_t rows, int64_t width, int normed, float epsilon,
                      float *factor, uint8_t *whole) {
    for (int64_t i = 0; normed && i < rows; i++) factor[i] = inverse_rms(values + i * width, width, epsilon);
    if (matrix->packed) return (Input){values, width, rows, normed ? factor : NULL, NULL};
    for (int64_t i = 0; i < rows; i++) {
        const float *row = values + i * width;
        uint8_t *to = whole + i * matrix->in;
        float most = 1e-30f;
        int odd = 0; /* NaN, which no whole number can stand for */
        for (int64_t j = 0; j < width; j++) {
            most = fabsf(row[j]) > most ? fabsf(row[j]) : most;
            odd |= row[j] != row[j];
        }
        float by = LARGEST / most;
        EACH for (int64_t j = 0; j < width; j++) to[j] = (uint8_t)((int32_t)rintf(row[j] * by) + WHOLE);
        for (int64_t j = width; j < matrix->in; j++) to[j] = WHOLE; /* there the weights are 0 */
        factor[i] = odd ? NAN : most / LARGEST * (normed ? factor[i] : 1.0f);
    }
    return (Input){values, width, rows, factor, whole};
}

/* Turn a head's two halves by its position. */
static void turn(float *head, const float *cosine, const float *sine, float scale, int64_t half) {
    EACH for (int64_t j = 0; j < half; j++) {
        float a = head[j] * scale, b = head[half + j] * scale;
        head[j] = a * cosine[j] - b * sine[j];
        head[half + j] = b * cosine[j] + a * sine[j];
    }
}

/* Where the keys and values of a token's row stand: [2 J, room, d]. */
static float *memory_of(const Pass *pass, int64_t index, int64_t token) {
    const Step *step = pass->step;
    int64_t each = 2 * pass->model->kv_heads * step->room * pass->model->head_dim;
    return step->memory + (index * step->slot_count + step->slots[token]) * each;
}

/* Queries and keys of a token are normed and turned, keys and values go to their place in memory. */
static void place(const Pass *pass, int64_t index, int64_t token) {
    const Model *model = pass->model;
    const Step *step = pass->step;
    int64_t d = model->head_dim, half = d / 2, all = model->heads + model->kv_heads;
    float *heads = pass->qkv + token * (all + model->kv_heads) * d;
    const float *cosine = step->cosine + step->positions[token] * half, *sine = step->sine + step->positions[token] * half;
    const float *norm = model->layers[index].head_norm;
    for (int64_t h = 0; h < all; h++) {
        float *head = heads + h * d;
        if (norm) {
            float factor = inverse_rms(head, d, model->epsilon);
            EACH for (int64_t j = 0; j < d; j++) head[j] = head[j] * factor * norm[h * d + j];
        }
        turn(head, cosine, sine, h < model->heads ? model->scale : 1.0f, half);
    }
    float *to = memory_of(pass, index, token) + step->positions[token] * d;
    for (int64_t h = model->heads; h < all + model->kv_heads; h++, to += step->room * d) /* keys, then values */
        memcpy(to, heads + h * d, sizeof(float) * (size_t)d);
}

/* The keys that a token sees, and where they stand. */
typedef struct {
    const float *keys, *values; /* of position 0 */
    int64_t start, end;
} Sight;

static Sight sight(const Pass *pass, int64_t index, int64_t token, int64_t kv) {
    const Model *model = pass->model;
    int64_t each = pass->step->room * model->head_dim, end = pass->step->positions[token] + 1;
    const float *keys = memory_of(pass, index, token) + kv * each;
    return (Sight){keys, keys + model->kv_heads * each, model->window && end > model->window ? end - model->window : 0, end};
}

/* Scores of the keys from `first` to `last`, by fours that begin at whole fours. */
ALWAYS void score(int64_t d, const float *query, const float *keys, int64_t first, int64_t last, float *scores) {
    int64_t t = first;
    for (; t < last && t % 4; t++) scores[t - first] = dot(query, keys + t * d, d);
    for (; t + 4 <= last; t += 4) four_dots(query, keys + t * d, d, scores + t - first);
    for (; t < last; t++) scores[t - first] = dot(query, keys + t * d, d);
}

/* Scores become weights e^(score - most); the result is their sum. `scores` has room for LANES more. */
ALWAYS float weigh(float *scores, int64_t count) {
    int64_t padded = (count + LANES - 1) / LANES * LANES;
    for (int64_t t = count; t < padded; t++) scores[t] = -INFINITY;
    vec high = load(scores), sums = {0};
    for (int64_t t = LANES; t < padded; t += LANES) high = larger(load(scores + t), high);
    float most = high[0];
    for (int lane = 1; lane < LANES; lane++) most = high[lane] > most ? high[lane] : most;
    EACH for (int64_t t = 0; t < padded; t++) scores[t] = exponential(scores[t] - most);
    for (int64_t t = 0; t < padded; t += LANES) sums += load(scores + t);
    return across(sums);
}

/* out += weights x values */
ALWAYS void gather(int64_t d, const float *weights, const float *values, int64_t count, float *out) {
    int64_t i = 0;
    for (; i + 4 * LANES <= d; i += 4 * LANES) {
        vec a = load(out + i), b = load(out + i + LANES), c = load(out + i + 2 * LANES), e = load(out + i + 3 * LANES);
        for (int64_t t = 0; t < count; t++) {
            const float *value = values + t * d + i;
            a += weights[t] * load(value);
            b += weights[t] * load(value + LANES);
            c += weights[t] * load(value + 2 * LANES);
            e += weights[t] * load(value + 3 * LANES);
        }
        store(out + i, a), store(out + i + LANES, b), store(out + i + 2 * LANES, c), store(out + i + 3 * LANES, e);
    }
    for (; i + LANES <= d; i += LANES) {
        vec a = load(out + i);
        for (int64_t t = 0; t < count; t++) a += weights[t] * load(values + t * d + i);
        store(out + i, a);
    }
    for (; i < d; i++)
        for (int64_t t = 0; t < count; t++) out[i] += weights[t] * values[t * d + i];
}

/* Neighbouring tokens of one row, and the heads that share the keys of head `kv`, look at what each token may see. They
 * go over the keys together, some at a time, so that these are read from memory once. */
static void attend(const Pass *pass, int64_t index, const int64_t *tokens, int64_t count, int64_t kv, float *out, float *scores) {
    const Model *model = pass->model;
    int64_t d = model->head_dim, shared = model->heads / model->kv_heads, every = model->heads * d;
    int64_t row = pass->longest + LANES + 1; /* the last holds the sum */
    Sight seen[TILE];
    for (int64_t q = 0; q < count; q++) seen[q] = sight(pass, index, tokens[q], kv);
    int64_t start = seen[0].start, end = seen[count - 1].end;
    for (int half = 0; half < 2; half++) {
        for (int64_t chunk = start / CHUNK * CHUNK; chunk < end; chunk += CHUNK)
            for (int64_t q = 0; q < count; q++) {
                int64_t first = chunk > seen[q].start ? chunk : seen[q].start;
                int64_t last = chunk + CHUNK < seen[q].end ? chunk + CHUNK : seen[q].end;
                for (int64_t g = 0; first < last && g < shared; g++) {
                    const float *query = pass->qkv + (tokens[q] * (model->heads + 2 * model->kv_heads) + kv * shared + g) * d;
                    float *mine = scores + (q * shared + g) * row + first - seen[q].start;
                    if (!half) score(d, query, seen[q].keys, first, last, mine);
                    else gather(d, mine, seen[q].values + first * d, last - first, out + q * every + (kv * shared + g) * d);
                }
            }
        for (int64_t q = 0; q < count; q++)
            for (int64_t g = 0; g < shared; g++) {
                float *to = out + q * every + (kv * shared + g) * d, *sum = scores + (q * shared + g) * row + row - 1;
                if (!half) {
                    *sum = weigh(scores + (q * shared + g) * row, seen[q].end - seen[q].start);
                    memset(to, 0, sizeof(float) * (size_t)d);
                } else {
                    float by = 1.0f / *sum;
                    EACH for (int64_t i = 0; i < d; i++) to[i] *= by;
                }
            }
    }
}

/* -- the pass ------------------------------------------------------------------------------------------------------ */

static void work(Pass *pass, int me, int threads) {
    const Model *model = pass->model;
    const Step *step = pass->step;
    int64_t width = model->width, d = model->head_dim, all = (model->heads + 2 * model->kv_heads) * d, n = step->n;
    int64_t widest = model->heads * d > model->inner ? model->heads * d : model->inner;
    widest = (widest > width ? widest : width) + 4;
    int rounded = model->head.packed == NULL;
    int64_t scored = (pass->longest + LANES + 1) * TILE * (model->heads / model->kv_heads);
    float *scores = malloc(sizeof(float) * (size_t)(scored + n));
    uint8_t *whole = rounded ? malloc((size_t)(n * widest)) : NULL;
    if (!scores || (rounded && !whole)) atomic_store(&pass->failed, 1);
    int64_t first, last;
    share(n, me, threads, &first, &last);
    for (int64_t i = first; i < last; i++)
        memcpy(pass->x + i * width, model->embedding + step->tokens[i] * width, sizeof(float) * (size_t)width);
    meet(pass, threads);
    if (atomic_load(&pass->failed)) goto end;
    float *factor = scores + scored;
    for (int64_t index = 0; index < model->count; index++) {
        const Layer *layer = model->layers + index;
        Input input = input_of(&layer->qkv, pass->x, n, width, 1, model->epsilon, factor, whole);
        product(PLAIN, &layer->qkv, &input, pass->qkv, all, me, threads);
        meet(pass, threads);
        for (int64_t i = first; i < last; i++) place(pass, index, i);
        int final = index == model->count - 1;
        if (!me && final)
            for (int64_t i = 0; i < step->p; i++) /* from here on only these */
                if (step->at[i] != i) memcpy(pass->x + i * width, pass->x + step->at[i] * width, sizeof(float) * (size_t)width);
        if (!me) atomic_store(&pass->items[(index + 1) % 2], 0);
        meet(pass, threads);
        int64_t rows = final ? step->p : n, tiles = final ? step->p : pass->tile_count;
        for (;;) { /* rows differ in what they see, so each thread takes the next */
            int64_t item = atomic_fetch_add(&pass->items[index % 2], 1), tile = item / model->kv_heads;
            if (tile >= tiles) break;
            int64_t row = final ? tile : pass->tiles[tile], count = final ? 1 : pass->tiles[tile + 1] - row;
            const int64_t *tokens = (final ? step->at : pass->tokens) + row;
            attend(pass, index, tokens, count, item % model->kv_heads, pass->seen + row * model->heads * d, scores);
        }
        meet(pass, threads);
        input = input_of(&layer->o, pass->seen, rows, model->heads * d, 0, 0.0f, factor, whole);
        product(ADDED, &layer->o, &input, pass->x, width, me, threads);
        meet(pass, threads);
        input = input_of(&layer->gate_up, pass->x, rows, width, 1, model->epsilon, factor, whole);
        product(GATED, &layer->gate_up, &input, pass->inner, model->inner, me, threads);
        meet(pass, threads);
        input = input_of(&layer->down, pass->inner, rows, model->inner, 0, 0.0f, factor, whole);
        product(ADDED, &layer->down, &input, pass->x, width, me, threads);
        meet(pass, threads);
    }
    Input input = input_of(&model->head, pass->x, step->p, width, 1, model->epsilon, factor, whole);
    product(PLAIN, &model->head, &input, step->logits, model->head.out, me, threads);
end:
    free(scores);
    free(whole);
}

static void member(void *given) {
    Pass *pass = given;
    work(pass, pass->step->number(), pass->step->team());
}

static void *alone(void *given) {
    Worker *worker = given;
    int threads;
    while (!(threads = atomic_load_explicit(&worker->pass->begun, memory_order_acquire))) sched_yield();
    work(worker->pass, worker->index, threads);
    return NULL;
}

/* Threads for this pass alone; as many as could be begun. */
static void in_threads(Pass *pass, int64_t wanted) {
    pthread_t *threads = malloc(sizeof(pthread_t) * (size_t)wanted);
    Worker *workers = malloc(sizeof(Worker) * (size_t)wanted);
    int begun = 1;
    for (; threads && workers && begun < wanted; begun++) {
        workers[begun] = (Worker){pass, begun};
        if (pthread_create(threads + begun, NULL, alone, workers + begun)) break;
    }
    atomic_store_explicit(&pass->begun, begun, memory_order_release);
    work(pass, 0, begun);
    for (int i = 1; i < begun; i++) pthread_join(threads[i], NULL);
    free(threads), free(workers);
}

int64_t decoder_lanes(void) { return LANES; }

/* 0, or 1 where memory was not to be had */
int decoder_pass(const Model *model, const Step *step) {
    int64_t n = step->n, d = model->head_dim;
    int64_t each = model->width + (2 * model->heads + 2 * model->kv_heads) * d + model->inner;
    float *room = malloc(sizeof(float) * (size_t)(n * each + PANEL));
    int64_t *tiles = malloc(sizeof(int64_t) * (size_t)(2 * n + 1));
    if (!room || !tiles) {
        free(room), free(tiles);
        return 1;
    }
    Pass pass = {.model = model, .step = step};
    pass.x = room;
    pass.qkv = pass.x + n * model->width;
    pass.seen = pass.qkv + n * (model->heads + 2 * model->kv_heads) * d;
    pass.inner = pass.seen + n * model->heads * d;
    pass.tokens = tiles;
    pass.tiles = tiles + n;
    for (int64_t i = 0; i < n; i++) {
        if (step->positions[i] + 1 > pass.longest) pass.longest = step->positions[i] + 1;
        pass.tokens[i] = i;
        int64_t size = pass.tile_count ? i - pass.tiles[pass.tile_count - 1] : TILE;
        if (size == TILE || step->slots[i] != step->slots[i - 1]) pass.tiles[pass.tile_count++] = i;
    }
    pass.tiles[pass.tile_count] = n;
    if (step->threads == 1) work(&pass, 0, 1);
    else if (step->parallel) step->parallel(member, &pass, (unsigned)step->threads, 0);
    else in_threads(&pass, step->threads);
    int failed = atomic_load(&pass.failed);
    free(room), free(tiles);
    return failed;
}
