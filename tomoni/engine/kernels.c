/* The elementwise parts of a decoder layer, each in one pass over memory. Float32, row-major, no allocation, no state.
 *
 * Every function has a twin in PyTorch (elementwise.py) that is used where no C compiler is at hand and that the tests
 * hold these against. Built without -ffast-math: NaN and infinity must come through, or a run that diverges would not
 * be noticed.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define EACH _Pragma("GCC ivdep")
#else
#define EACH
#endif

/* e^x to a few units in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; NaN stays NaN. */
static inline float exponential(float x) {
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float n = rintf(x * 1.44269504088896341f);
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

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
