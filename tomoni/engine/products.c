/* Products of many rows with weights as PyTorch has them, such that no row's numbers depend on the rows beside it. */

#include <stdint.h>
#include <string.h>

#include "tiles.h"

#define BLOCK 16 /* inputs whose weights are laid side by side at a time, so that they stay in the nearest cache */

int64_t product_panel(void) { return PANEL; }

/* The weights of `outs` outputs, [outs, in], input by input: [in, PANEL], 0 where there is no output */
static void lay(const float *weight, int64_t in, int64_t outs, float *panel) {
    for (int64_t start = 0; start < in; start += BLOCK) {
        int64_t end = start + BLOCK < in ? start + BLOCK : in;
        for (int64_t o = 0; o < PANEL; o++) {
            const float *row = weight + o * in;
            for (int64_t k = start; k < end; k++) panel[k * PANEL + o] = o < outs ? row[k] : 0.0f;
        }
    }
}

ALWAYS void rows_of_panel(const int rows, const float *x, int64_t in, const float *panel, const float *bias, int64_t outs,
                          float *out, int64_t stride) {
    vec sums[ROWS][2];
    tile(rows, x, in, panel, in, sums);
    for (int r = 0; r < rows; r++, out += stride) {
        sums[r][0] += load(bias);
        sums[r][1] += load(bias + LANES);
        if (outs >= PANEL) {
            store(out, sums[r][0]);
            store(out + LANES, sums[r][1]);
        } else {
            memcpy(out, sums[r], sizeof(float) * (size_t)outs);
        }
    }
}

#define OF(R)                                                                                       \
    if (size >= R) {                                                                                \
        rows_of_panel(R, x + row * in, in, panel, shift, here, out + row * outs + first, outs);     \
        row += R;                                                                                   \
        continue;                                                                                   \
    }

/* out [rows, outs] = x [rows, in] weight' + bias, where there is one; panel: room for in * PANEL numbers */
void product_of_rows(const float *x, const float *weight, const float *bias, float *out, float *panel, int64_t rows, int64_t in,
                     int64_t outs) {
    for (int64_t first = 0; first < outs; first += PANEL) {
        int64_t here = outs - first < PANEL ? outs - first : PANEL;
        float shift[PANEL] = {0};
        if (bias) memcpy(shift, bias + first, sizeof(float) * (size_t)here);
        lay(weight + first * in, in, here, panel);
        for (int64_t row = 0; row < rows;) {
            int64_t size = size_of_tile(rows - row);
            TILES(OF)
        }
    }
}
