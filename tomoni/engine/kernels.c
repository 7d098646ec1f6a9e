/* The elementwise parts of a decoder layer, each in one pass over memory. Float32, row-major, no allocation, no state.
 *
 * Every function has a twin in PyTorch (elementwise.py) that is used where no C compiler is at hand and that the tests
 * hold these against. Built without -ffast-math: NaN and infinity must come through, or a run that diverges would not
 * be noticed.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "exponential.h"

/* The largest of `count` numbers, sixteen side by side. NaN is passed over: whoever subtracts the result finds it. */
static float largest(const float *x, int64_t count) {
    float lanes[16], most = x[0];
    for (int l = 0; l < 16; l++) lanes[l] = most;
    int64_t j = 0;
    for (; j + 16 <= count; j += 16)
        for (int l = 0; l < 16; l++) lanes[l] = x[j + l] > lanes[l] ? x[j + l] : lanes[l];
    for (; j < count; j++) most = x[j] > most ? x[j] : most;
    for (int l = 0; l < 16; l++) most = lanes[l] > most ? lanes[l] : most;
    return most;
}

/* out = x / sqrt(mean x^2 + epsilon) * weight; inverse keeps 1 / sqrt(...) of each row */
void rms_forward(const float *x, const float *weight, float epsilon, float *out, float *inverse, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) {
        const float *in = x + i * width;
        float *to = out + i * width;
        float sum = 0.0f;
        for (int64_t j = 0; j < width; j++) sum += in[j] * in[j];
        float factor = 1.0f / sqrtf(sum / (float)width + epsilon);
        inverse[i] = factor;
        EACH for (int64_t j = 0; j < width; j++) to[j] = in[j] * factor * weight[j];
    }
}

/* out = x * inverse * weight, again */
void rms_again(const float *x, const float *weight, const float *inverse, float *out, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) {
        const float *in = x + i * width;
        float *to = out + i * width, factor = inverse[i];
        EACH for (int64_t j = 0; j < width; j++) to[j] = in[j] * factor * weight[j];
    }
}

/* gradient becomes that of x, plus residual where there is one; dweight [width], where given, is added to */
void rms_backward(float *gradient, const float *x, const float *inverse, const float *weight, const float *residual,
                  float *dweight, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) {
        const float *in = x + i * width;
        float *g = gradient + i * width, factor = inverse[i], along = 0.0f;
        if (dweight) {
            EACH for (int64_t j = 0; j < width; j++) dweight[j] += g[j] * in[j] * factor;
        }
        for (int64_t j = 0; j < width; j++) along += g[j] * weight[j] * in[j];
        float pull = along * factor * factor / (float)width;
        if (residual) {
            const float *rest = residual + i * width;
            EACH for (int64_t j = 0; j < width; j++) g[j] = (g[j] * weight[j] - in[j] * pull) * factor + rest[j];
        } else {
            EACH for (int64_t j = 0; j < width; j++) g[j] = (g[j] * weight[j] - in[j] * pull) * factor;
        }
    }
}

/* out = silu(gate) * up */
void swiglu_forward(const float *gate, const float *up, float *out, int64_t count) {
    EACH for (int64_t i = 0; i < count; i++) out[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}

/* inner is the gradient of silu(gate) * up and becomes that of gate; dup gets that of up; out, where given, the product again */
void swiglu_backward(float *inner, const float *gate, const float *up, float *dup, float *out, int64_t count) {
    EACH for (int64_t i = 0; i < count; i++) {
        float share = 1.0f / (1.0f + exponential(-gate[i]));
        float active = gate[i] * share, d = inner[i];
        out[i] = active * up[i];
        dup[i] = d * active;
        inner[i] = d * up[i] * (share + active * (1.0f - share));
    }
}

/* rotary positions: the two halves of each head are the coordinates; direction -1 turns back */
void rotate(const float *x, const float *cosine, const float *sine, float *out, float scale, float direction, int64_t rows,
            int64_t heads, int64_t half) {
    for (int64_t i = 0; i < rows; i++) {
        const float *c = cosine + i * half, *s = sine + i * half;
        for (int64_t h = 0; h < heads; h++) {
            const float *in = x + (i * heads + h) * 2 * half;
            float *to = out + (i * heads + h) * 2 * half;
            EACH for (int64_t j = 0; j < half; j++) {
                float a = in[j] * scale, b = in[half + j] * scale, turn = s[j] * direction;
                to[j] = a * c[j] - b * turn;
                to[half + j] = b * c[j] + a * turn;
            }
        }
    }
}

/* softmax in place over [among, block, end]: query b of a block that begins at end - block sees keys 0 .. end - block + b */
void causal_softmax(float *scores, int64_t among, int64_t block, int64_t end) {
    for (int64_t i = 0; i < among; i++) {
        for (int64_t b = 0; b < block; b++) {
            float *row = scores + (i * block + b) * end;
            int64_t seen = end - block + b + 1;
            float most = largest(row, seen), sum = 0.0f;
            for (int64_t j = 0; j < seen; j++) {
                row[j] = exponential(row[j] - most);
                sum += row[j];
            }
            float share = 1.0f / sum;
            EACH for (int64_t j = 0; j < seen; j++) row[j] *= share;
            memset(row + seen, 0, (size_t)(end - seen) * sizeof(float));
        }
    }
}

/* gradient of the probabilities becomes that of the scores, over the keys seen; the others are set to 0 */
void causal_softmax_backward(float *gradient, const float *probabilities, int64_t among, int64_t block, int64_t end) {
    for (int64_t i = 0; i < among; i++) {
        for (int64_t b = 0; b < block; b++) {
            float *g = gradient + (i * block + b) * end;
            const float *p = probabilities + (i * block + b) * end;
            int64_t seen = end - block + b + 1;
            float mean = 0.0f;
            for (int64_t j = 0; j < seen; j++) mean += g[j] * p[j];
            EACH for (int64_t j = 0; j < seen; j++) g[j] = p[j] * (g[j] - mean);
            memset(g + seen, 0, (size_t)(end - seen) * sizeof(float));
        }
    }
}

/* logits [rows, width] become e^(logit - most); total is their sum, own the target's log-probability, likeliest 1 where
 * no logit is larger than the target's */
void target_softmax(float *logits, const int64_t *targets, float *own, float *likeliest, float *total, int64_t rows,
                    int64_t width) {
    for (int64_t i = 0; i < rows; i++) {
        float *row = logits + i * width;
        float most = largest(row, width), sum = 0.0f, target = row[targets[i]];
        for (int64_t j = 0; j < width; j++) {
            row[j] = exponential(row[j] - most);
            sum += row[j];
        }
        total[i] = sum;
        own[i] = target - most - logf(sum);
        likeliest[i] = target >= most ? 1.0f : 0.0f;
    }
}

/* -- an encoder's layers: norms behind sums, GELU, attention to both sides ------------------------------------------ */

/* Whether place `index` of a tensor is dropped under `key`: a mixing of bits (Appleby's finalizer of MurmurHash3), so that
 * the draws of a step need neither a generator nor memory, and are the same in the backward pass. */
static inline uint32_t mixed(uint32_t key, uint32_t index) {
    uint32_t x = (index * 0x9E3779B9u) ^ key;
    x ^= x >> 16;
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    return x ^ (x >> 16);
}

/* out[i] = 0 where i is dropped, else 1 / (1 - p); limit = p * 2^32 */
void dropout_factors(uint32_t key, uint32_t limit, float factor, float *out, int64_t count) {
    EACH for (int64_t i = 0; i < count; i++) out[i] = mixed(key, (uint32_t)i) < limit ? 0.0f : factor;
}

/* x becomes dropped(x + bias) + residual; out = (x - mean) * inverse * weight + shift, inverse = 1 / sqrt(variance + epsilon) */
void add_norm_forward(float *x, const float *bias, const float *residual, const float *weight, const float *shift,
                      float epsilon, uint32_t key, uint32_t limit, float factor, float *out, float *mean, float *inverse,
                      int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) {
        float *in = x + i * width, *to = out + i * width, sum = 0.0f, square = 0.0f;
        const float *rest = residual + i * width;
        if (limit) {
            uint32_t at = (uint32_t)(i * width);
            EACH for (int64_t j = 0; j < width; j++) {
                float keep = mixed(key, at + (uint32_t)j) < limit ? 0.0f : factor;
                in[j] = (in[j] + bias[j]) * keep + rest[j];
            }
        } else {
            EACH for (int64_t j = 0; j < width; j++) in[j] = in[j] + bias[j] + rest[j];
        }
        for (int64_t j = 0; j < width; j++) sum += in[j];
        float centre = sum / (float)width;
        for (int64_t j = 0; j < width; j++) square += (in[j] - centre) * (in[j] - centre);
        float scale = 1.0f / sqrtf(square / (float)width + epsilon);
        mean[i] = centre;
        inverse[i] = scale;
        EACH for (int64_t j = 0; j < width; j++) to[j] = (in[j] - centre) * scale * weight[j] + shift[j];
    }
}

/* gradient becomes that of the sum x, and thereby of the residual; inner gets what reaches the product before the bias
 * (only where something is dropped: else they are the same); dweight, dshift, dbias [width] are added to */
void add_norm_backward(float *gradient, const float *x, const float *mean, const float *inverse, const float *weight,
                       uint32_t key, uint32_t limit, float factor, float *inner, float *dweight, float *dshift, float *dbias,
                       int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) {
        const float *in = x + i * width;
        float *g = gradient + i * width, centre = mean[i], scale = inverse[i], along = 0.0f, total = 0.0f;
        EACH for (int64_t j = 0; j < width; j++) {
            float u = (in[j] - centre) * scale;
            dweight[j] += g[j] * u;
            dshift[j] += g[j];
        }
        for (int64_t j = 0; j < width; j++) {
            float pulled = g[j] * weight[j];
            total += pulled;
            along += pulled * (in[j] - centre);
        }
        float level = total / (float)width, pull = along * scale * scale / (float)width;
        EACH for (int64_t j = 0; j < width; j++) g[j] = (g[j] * weight[j] - level - (in[j] - centre) * pull) * scale;
        if (limit) {
            float *to = inner + i * width;
            uint32_t at = (uint32_t)(i * width);
            EACH for (int64_t j = 0; j < width; j++) {
                to[j] = mixed(key, at + (uint32_t)j) < limit ? 0.0f : g[j] * factor;
                dbias[j] += to[j];
            }
        } else {
            EACH for (int64_t j = 0; j < width; j++) dbias[j] += g[j];
        }
    }
}

/* The normal distribution's share below x, and its density: Abramowitz and Stegun 7.1.26, wrong by at most 7.5e-8. */
static inline void normal(float x, float *below, float *density) {
    float z = fabsf(x) * 0.70710678118654752f, t = 1.0f / (1.0f + 0.3275911f * z), e = exponential(-z * z);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    float tail = 0.5f * p * t * e;
    *below = x < 0.0f ? tail : 1.0f - tail;
    *density = 0.39894228040143268f * e;
}

/* x becomes x + bias; out = x * (share of the normal distribution below x) */
void gelu_forward(float *x, const float *bias, float *out, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) {
        float *in = x + i * width, *to = out + i * width;
        EACH for (int64_t j = 0; j < width; j++) {
            float below, density, value = in[j] + bias[j];
            normal(value, &below, &density);
            in[j] = value;
            to[j] = value * below;
        }
    }
}

/* inner is the gradient of gelu(x) and becomes that of x; out gets gelu(x) again; dbias [width] is added to */
void gelu_backward(float *inner, const float *x, float *out, float *dbias, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) {
        const float *in = x + i * width;
        float *d = inner + i * width, *to = out + i * width;
        EACH for (int64_t j = 0; j < width; j++) {
            float below, density;
            normal(in[j], &below, &density);
            to[j] = in[j] * below;
            d[j] *= below + in[j] * density;
            dbias[j] += d[j];
        }
    }
}

/* out [width] is added to: the sum of the rows */
void column_sums(const float *x, float *out, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) {
        const float *in = x + i * width;
        EACH for (int64_t j = 0; j < width; j++) out[j] += in[j];
    }
}

/* Sixteen numbers side by side; the compiler makes of them what the processor has. */
typedef float sixteen __attribute__((vector_size(64), aligned(4)));

static inline sixteen many(float x) { return (sixteen){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

/* out[a][.] = scale * sum over b of w(a, b) * x[b][.] for a < rows, b < inner; w(a, b) = w[a * along + b * across]; lines of
 * x and out are `width` long, a multiple of 16 */
static void weighted(const float *w, int64_t along, int64_t across, const float *x, float *out, float scale, int64_t rows,
                     int64_t inner, int64_t width) {
    for (int64_t c = 0; c < width; c += 16) {
        int64_t a = 0;
        for (; a + 4 <= rows; a += 4) {
            const float *w0 = w + a * along, *w1 = w0 + along, *w2 = w1 + along, *w3 = w2 + along;
            sixteen s0 = many(0.0f), s1 = s0, s2 = s0, s3 = s0;
            for (int64_t b = 0; b < inner; b++) {
                sixteen line = *(const sixteen *)(x + b * width + c);
                s0 += many(w0[b * across]) * line;
                s1 += many(w1[b * across]) * line;
                s2 += many(w2[b * across]) * line;
                s3 += many(w3[b * across]) * line;
            }
            float *to = out + a * width + c;
            *(sixteen *)to = s0 * many(scale);
            *(sixteen *)(to + width) = s1 * many(scale);
            *(sixteen *)(to + 2 * width) = s2 * many(scale);
            *(sixteen *)(to + 3 * width) = s3 * many(scale);
        }
        for (; a < rows; a++) {
            sixteen s0 = many(0.0f);
            for (int64_t b = 0; b < inner; b++) s0 += many(w[a * along + b * across]) * *(const sixteen *)(x + b * width + c);
            *(sixteen *)(out + a * width + c) = s0 * many(scale);
        }
    }
}

/* lines of `dim` numbers, `apart` from each other, to lines of `wide` >= dim with zeros behind */
static void gathered(const float *x, int64_t apart, float *out, int64_t lines, int64_t dim, int64_t wide) {
    for (int64_t i = 0; i < lines; i++) {
        memcpy(out + i * wide, x + i * apart, (size_t)dim * sizeof(float));
        memset(out + i * wide + dim, 0, (size_t)(wide - dim) * sizeof(float));
    }
}

static void turned(const float *x, float *out, int64_t lines, int64_t dim, int64_t from, int64_t to) {
    for (int64_t d = 0; d < dim; d++) {
        for (int64_t i = 0; i < lines; i++) out[d * to + i] = x[i * from + d];
        for (int64_t i = lines; i < to; i++) out[d * to + i] = 0.0f;
    }
}

static void scattered(const float *x, float *out, int64_t apart, int64_t lines, int64_t dim, int64_t wide) {
    for (int64_t i = 0; i < lines; i++) memcpy(out + i * apart, x + i * wide, (size_t)dim * sizeof(float));
}

static void softmax_rows(float *scores, int64_t rows, int64_t count, int64_t apart) {
    for (int64_t i = 0; i < rows; i++) {
        float *row = scores + i * apart, most = largest(row, count), sum = 0.0f;
        for (int64_t j = 0; j < count; j++) {
            row[j] = exponential(row[j] - most);
            sum += row[j];
        }
        float share = 1.0f / sum;
        EACH for (int64_t j = 0; j < count; j++) row[j] *= share;
        for (int64_t j = count; j < apart; j++) row[j] = 0.0f;
    }
}

static void drop_rows(float *out, const float *in, uint32_t key, uint32_t limit, float factor, uint32_t first, int64_t rows,
                      int64_t count, int64_t apart) {
    for (int64_t i = 0; i < rows; i++) {
        uint32_t at = (first + (uint32_t)i) * 65537u;
        const float *from = in + i * apart;
        float *to = out + i * apart;
        EACH for (int64_t j = 0; j < count; j++) to[j] = mixed(key, at + (uint32_t)j) < limit ? 0.0f : from[j] * factor;
    }
}

/* Texts one after another, every token of a text seen by its queries. Text r has keys and values starts[r] .. starts[r + 1]
 * and queries asks[r] .. asks[r + 1]; heads of `dim` numbers stand side by side in a line of `width`. `scratch` holds
 * 3 T (wide + 16) + 2 T' wide + 3 T' (T + 16) numbers for the longest text's T tokens and T' queries, wide = dim rounded
 * up to 16. */
typedef struct {
    float *q, *k, *v, *kt, *d, *p, *s, *o;
    int64_t keys, across, asked, wide;
} Room;

static Room room(float *scratch, int64_t keys, int64_t asked, int64_t dim) {
    Room r;
    r.keys = keys, r.asked = asked, r.wide = (dim + 15) / 16 * 16, r.across = (keys + 15) / 16 * 16;
    r.q = scratch;
    r.d = r.q + asked * r.wide;
    r.k = r.d + asked * r.wide;
    r.v = r.k + keys * r.wide;
    r.kt = r.v + keys * r.wide;
    r.p = r.kt + r.wide * r.across;
    r.s = r.p + asked * r.across;
    r.o = r.s + asked * r.across;
    return r;
}

/* The probabilities of one head of one text, into r.p; r.q, r.k, r.v are filled on the way. */
static void probabilities(Room *r, const float *q, const float *k, const float *v, float scale, int64_t width, int64_t dim) {
    gathered(q, width, r->q, r->asked, dim, r->wide);
    gathered(k, width, r->k, r->keys, dim, r->wide);
    gathered(v, width, r->v, r->keys, dim, r->wide);
    turned(r->k, r->kt, r->keys, dim, r->wide, r->across);
    weighted(r->q, r->wide, 1, r->kt, r->p, scale, r->asked, dim, r->across);
    softmax_rows(r->p, r->asked, r->keys, r->across);
}

void attend_forward(const float *q, const float *k, const float *v, float *out, const int64_t *starts, const int64_t *asks,
                    int64_t texts, int64_t heads, int64_t dim, float scale, uint32_t key, uint32_t limit, float factor,
                    float *scratch) {
    int64_t width = heads * dim;
    for (int64_t t = 0; t < texts; t++) {
        Room r = room(scratch, starts[t + 1] - starts[t], asks[t + 1] - asks[t], dim);
        for (int64_t h = 0; h < heads; h++) {
            int64_t from = asks[t] * width + h * dim, seen = starts[t] * width + h * dim;
            probabilities(&r, q + from, k + seen, v + seen, scale, width, dim);
            uint32_t first = (uint32_t)(asks[t] * heads + h * r.asked);
            if (limit) drop_rows(r.p, r.p, key, limit, factor, first, r.asked, r.keys, r.across);
            weighted(r.p, r.across, 1, r.v, r.q, 1.0f, r.asked, r.keys, r.wide);
            scattered(r.q, out + from, width, r.asked, dim, r.wide);
        }
    }
}

void attend_backward(const float *q, const float *k, const float *v, const float *gradient, float *dq, float *dk, float *dv,
                     const int64_t *starts, const int64_t *asks, int64_t texts, int64_t heads, int64_t dim, float scale,
                     uint32_t key, uint32_t limit, float factor, float *scratch) {
    int64_t width = heads * dim;
    for (int64_t t = 0; t < texts; t++) {
        Room r = room(scratch, starts[t + 1] - starts[t], asks[t + 1] - asks[t], dim);
        for (int64_t h = 0; h < heads; h++) {
            int64_t from = asks[t] * width + h * dim, seen = starts[t] * width + h * dim;
            probabilities(&r, q + from, k + seen, v + seen, scale, width, dim);
            gathered(gradient + from, width, r.d, r.asked, dim, r.wide);
            turned(r.v, r.kt, r.keys, dim, r.wide, r.across);
            weighted(r.d, r.wide, 1, r.kt, r.s, 1.0f, r.asked, dim, r.across);
            const float *used = r.p; /* what the values were weighted by */
            if (limit) {
                uint32_t first = (uint32_t)(asks[t] * heads + h * r.asked);
                drop_rows(r.o, r.p, key, limit, factor, first, r.asked, r.keys, r.across);
                drop_rows(r.s, r.s, key, limit, factor, first, r.asked, r.keys, r.across);
                used = r.o;
            }
            weighted(used, 1, r.across, r.d, r.v, 1.0f, r.keys, r.asked, r.wide);
            scattered(r.v, dv + seen, width, r.keys, dim, r.wide);
            for (int64_t i = 0; i < r.asked; i++) {
                float *s = r.s + i * r.across, mean = 0.0f;
                const float *p = r.p + i * r.across;
                for (int64_t j = 0; j < r.keys; j++) mean += s[j] * p[j];
                EACH for (int64_t j = 0; j < r.keys; j++) s[j] = p[j] * (s[j] - mean);
            }
            weighted(r.s, r.across, 1, r.k, r.d, scale, r.asked, r.keys, r.wide);
            scattered(r.d, dq + from, width, r.asked, dim, r.wide);
            weighted(r.s, 1, r.across, r.q, r.v, scale, r.keys, r.asked, r.wide);
            scattered(r.v, dk + seen, width, r.keys, dim, r.wide);
        }
    }
}

/* log of the sum of e^x over each row [rows] */
void logsumexp(const float *x, float *out, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) {
        const float *row = x + i * width;
        float most = largest(row, width);
        double sum = 0.0;
        EACH for (int64_t j = 0; j < width; j++) sum += exponential(row[j] - most);
        out[i] = most + (float)log(sum);
    }
}

/* Of each row the first number at which the sum of e^((x - largest) / temperature) so far exceeds draws[i] of the whole
 * sum. Blocks of numbers are summed first, then one is looked through; `weights` has room for a row. */
void draw_rows(const float *x, float temperature, const double *draws, float *weights, int64_t *out, int64_t rows, int64_t width) {
    enum { BLOCK = 128 };
    double *sums = (double *)(weights + (width + 1) / 2 * 2);
    int64_t blocks = (width + BLOCK - 1) / BLOCK;
    float by = 1.0f / temperature;
    for (int64_t i = 0; i < rows; i++) {
        const float *row = x + i * width;
        float most = largest(row, width);
        double sum = 0.0;
        for (int64_t b = 0; b < blocks; b++) {
            int64_t end = (b + 1) * BLOCK < width ? (b + 1) * BLOCK : width;
            double block = 0.0;
            EACH for (int64_t j = b * BLOCK; j < end; j++) {
                float z = (row[j] - most) * by, weight = exponential(z);
                weights[j] = z < -87.0f ? 0.0f : weight; /* what is impossible is never drawn */
                block += weights[j];
            }
            sums[b] = block;
            sum += block;
        }
        double aim = draws[i] * sum, before = 0.0;
        int64_t b = 0;
        while (b < blocks - 1 && before + sums[b] <= aim) before += sums[b++];
        int64_t end = (b + 1) * BLOCK < width ? (b + 1) * BLOCK : width, found = -1;
        for (int64_t j = b * BLOCK; j < end; j++) {
            if (weights[j] > 0.0f) found = j; /* the last one, where the block's sum was rounded in another order */
            before += weights[j];
            if (before > aim && found == j) break;
        }
        for (int64_t j = end - 1; found < 0 && j >= 0; j--) /* a block of nothing */
            if (weights[j] > 0.0f) found = j;
        out[i] = found < 0 ? 0 : found;
    }
}
