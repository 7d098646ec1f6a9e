/* Products of float32 matrices: out [rows, outs] = left [rows, in] right [in, outs] (+ onto) (+ bias).
 *
 * No row's numbers depend on the rows beside it. A matrix may be read sideways: how far its numbers stand apart says so.
 */

#include <stdint.h>
#include <string.h>

#include "tiles.h"

#define BLOCK 16    /* inputs whose weights are laid side by side at a time, so that they stay in the nearest cache */
#define CROWDED 512 /* numbers: lines a multiple of it apart, read downwards, compete for a few places of the cache */
#define DEPTH 512   /* inputs of a panel that is used before the next: it stays in the second cache */

typedef struct {
    const float *left, *right;
    const float *bias;     /* [outs], or NULL */
    const float *onto;     /* [rows, outs], maybe `out` itself, or NULL */
    float *out;
    int64_t left_row, left_in, right_in, right_out; /* how far numbers stand apart; of each pair one is 1 */
    int64_t rows, in, outs;
} Product;

/* A tile of each size as a function of its own, so that its loop has all registers: `along12` reads rows whose inputs
 * follow one another, `down12` rows that stand side by side. */
#define MADE(R)                                                                                                            \
    static __attribute__((noinline, unused)) void along##R(const float *x, int64_t stride, const float *weights,           \
                                                           int64_t in, vec sums[ROWS][2]) {                                \
        tile(R, x, stride, 1, weights, in, sums);                                                                          \
    }                                                                                                                      \
    static __attribute__((noinline, unused)) void down##R(const float *x, int64_t apart, const float *weights, int64_t in, \
                                                          vec sums[ROWS][2]) {                                             \
        tile(R, x, 1, apart, weights, in, sums);                                                                           \
    }
TILES(MADE)
#undef MADE

/* `count` inputs of the `outs` outputs that begin at `right`: [count, PANEL], 0 where there is no output */
static void lay(const Product *product, const float *right, int64_t count, int64_t outs, float *panel) {
    if (product->right_out == 1) {
        for (int64_t k = 0; k < count; k++, right += product->right_in, panel += PANEL) {
            if (outs == PANEL) {
                store(panel, load(right));
                store(panel + LANES, load(right + LANES));
            } else {
                memcpy(panel, right, sizeof(float) * (size_t)outs);
                memset(panel + outs, 0, sizeof(float) * (size_t)(PANEL - outs));
            }
        }
        return;
    }
    const int64_t apart = product->right_out; /* and inputs follow one another */
    for (int64_t start = 0; start < count; start += BLOCK) {
        int64_t end = start + BLOCK < count ? start + BLOCK : count;
        for (int64_t o = 0; o < PANEL; o++) {
            const float *line = right + o * apart;
            for (int64_t k = start; k < end; k++) panel[k * PANEL + o] = o < outs ? line[k] : 0.0f;
        }
    }
}

/* A tile's sums to their place, behind what stands at `onto`. */
ALWAYS void put(vec sums[2], const float *bias, const float *onto, float *out, int64_t outs) {
    if (outs == PANEL) {
        for (int half = 0; half < 2; half++, out += LANES) {
            if (onto) sums[half] += load(onto + half * LANES);
            if (bias) sums[half] += load(bias + half * LANES);
            store(out, sums[half]);
        }
        return;
    }
    float tail[PANEL];
    store(tail, sums[0]);
    store(tail + LANES, sums[1]);
    for (int64_t j = 0; j < outs; j++) {
        float sum = onto ? tail[j] + onto[j] : tail[j];
        out[j] = bias ? sum + bias[j] : sum;
    }
}

#define OF(R)                                                                                                             \
    if (size >= R) {                                                                                                      \
        vec sums[ROWS][2];                                                                                                \
        const float *x = product->left + row * product->left_row + start * product->left_in;                              \
        if (laid) down##R(laid + row * product->in + start * R, R, panel, count, sums);                                   \
        else if (product->left_in == 1) along##R(x, product->left_row, panel, count, sums);                               \
        else down##R(x, product->left_in, panel, count, sums);                                                            \
        for (int r = 0; r < R; r++) {                                                                                     \
            int64_t place = (row + r) * product->outs + first;                                                            \
            put(sums[r], bias, onto ? onto + place : NULL, product->out + place, outs);                                   \
        }                                                                                                                 \
        row += R;                                                                                                         \
        continue;                                                                                                         \
    }

/* laid: the left side tile by tile, or NULL */
static void run(const Product *product, float *panel, const float *laid) {
    for (int64_t first = 0; first < product->outs; first += PANEL) {
        int64_t outs = product->outs - first < PANEL ? product->outs - first : PANEL;
        int64_t start = 0;
        do {
            int64_t count = product->in - start < DEPTH ? product->in - start : DEPTH;
            const float *onto = start ? product->out : product->onto;
            const float *bias = product->bias && start + count == product->in ? product->bias + first : NULL;
            lay(product, product->right + first * product->right_out + start * product->right_in, count, outs, panel);
            for (int64_t row = 0; row < product->rows;) {
                int64_t size = size_of_tile(product->rows - row);
                TILES(OF)
            }
            start += count;
        } while (start < product->in);
    }
}
#undef OF

#define OF(R)                                                                                                             \
    if (size >= R) {                                                                                                      \
        memcpy(laid + row * product->in + k * R, from + row, sizeof(float) * R);                                          \
        row += R;                                                                                                         \
        continue;                                                                                                         \
    }

/* The left side tile by tile, input by input */
static void lay_left(const Product *product, float *laid) {
    for (int64_t k = 0; k < product->in; k++) {
        const float *from = product->left + k * product->left_in;
        for (int64_t row = 0; row < product->rows;) {
            int64_t size = size_of_tile(product->rows - row);
            TILES(OF)
        }
    }
}
#undef OF

static int crowded(const Product *product) { return product->left_in != 1 && product->left_in % CROWDED == 0; }

/* How many numbers of memory `product` works in. */
int64_t product_room(const Product *product) {
    return DEPTH * PANEL + (crowded(product) ? product->rows * (product->in < DEPTH ? product->in : DEPTH) : 0);
}

/* room: so many numbers, the first at a multiple of 64 bytes */
void product(const Product *given, float *room) {
    if (!crowded(given)) {
        run(given, room, NULL);
        return;
    }
    float *laid = room + DEPTH * PANEL;
    int64_t start = 0;
    do {
        Product part = *given;
        part.left += start * given->left_in;
        part.right += start * given->right_in;
        part.in = given->in - start < DEPTH ? given->in - start : DEPTH;
        if (start) part.onto = given->out;
        if (start + part.in < given->in) part.bias = NULL;
        lay_left(&part, laid);
        run(&part, room, laid);
        start += part.in;
    } while (start < given->in);
}
