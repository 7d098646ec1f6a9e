/* Products of rows with a panel of weights in the registers.
 *
 * A row's sums are made input by input, in whatever tile the row stands: so its numbers are the same, bit by bit, whatever
 * rows stand beside it. Sources that include this are built without rearranging sums.
 */

#include <stdint.h>

#if defined(__AVX__)
#include <immintrin.h>
#endif

/* Numbers in a register, and the rows of a tile whose sums fit into all registers. */
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 12
#elif defined(__AVX__)
#define LANES 8
#define ROWS 6
#else
#define LANES 4
#define ROWS 8
#endif
#define PANEL (2 * LANES) /* outputs whose weights stand side by side, input by input */
#define UNROLLED _Pragma("GCC unroll 12")
#define OPAQUE(pointer) __asm__("" : "+r"(pointer)) /* two addresses to count from take fewer registers than one */
#define ALWAYS static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

ALWAYS vec load(const float *from) { return *(const loose *)from; }
ALWAYS void store(float *to, vec value) { *(loose *)to = value; }

/* sums [rows][2] of a tile: rows of x, whose inputs stand `apart` from each other, against a panel of weights */
ALWAYS void tile(const int rows, const float *x, int64_t stride, int64_t apart, const float *weights, int64_t in,
                 vec sums[ROWS][2]) {
    vec found[ROWS][2];
    const int half = (rows + 1) / 2;
    const float *rest = x + half * stride;
    OPAQUE(rest);
    UNROLLED for (int r = 0; r < rows; r++) found[r][0] = found[r][1] = (vec){0};
    for (int64_t k = 0; k < in; k++) {
        vec left = load(weights + k * PANEL), right = load(weights + k * PANEL + LANES);
        UNROLLED for (int r = 0; r < rows; r++) {
            float value = r < half ? x[r * stride + k * apart] : rest[(r - half) * stride + k * apart];
            found[r][0] += value * left;
            found[r][1] += value * right;
        }
    }
    UNROLLED for (int r = 0; r < rows; r++) sums[r][0] = found[r][0], sums[r][1] = found[r][1];
}

/* OF(rows) for each size of a tile, the largest first. */
#if ROWS >= 12
#define TILES(OF) OF(12) OF(8) OF(6) OF(4) OF(3) OF(2) OF(1)
#elif ROWS >= 8
#define TILES(OF) OF(8) OF(6) OF(4) OF(3) OF(2) OF(1)
#else
#define TILES(OF) OF(6) OF(4) OF(3) OF(2) OF(1)
#endif

/* How many of the rows that are left make the next tile, so that all are about as large. */
ALWAYS int64_t size_of_tile(int64_t left) {
    int64_t tiles = (left + ROWS - 1) / ROWS;
    return (left + tiles - 1) / tiles;
}
