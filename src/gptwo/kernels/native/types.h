// What the kernels pass to each other. The layouts are those of kernels/layout.py.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gptwo {

constexpr int PANEL = 32;  // outputs of a matrix that lie side by side
constexpr int GROUP = 32;  // inputs that share a scale
constexpr int BLOCK = 32;  // positions of a sequence that lie together in the cache
constexpr int RUN = 16;    // blocks whose units of one head lie behind each other
constexpr int SPAN = 512;  // logits of a row that are folded together

enum Dtype : int32_t { FP32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// N x K weights in panels, and N biases (or none).
struct Matrix {
    const void* data;
    const float* bias;
    int32_t outputs;
    int32_t inputs;
    int32_t dtype;

    bool integer() const { return dtype == INT8 || dtype == INT4; }
    int64_t panels() const { return ceil_div(outputs, PANEL); }
    int64_t groups() const { return ceil_div(inputs, GROUP); }
    int64_t panel_bytes() const {
        switch (dtype) {
            case FP32: return int64_t(inputs) * PANEL * 4;
            case BF16: return ceil_div(inputs, 2) * PANEL * 4;
            case INT8: return groups() * (GROUP * PANEL + PANEL * 2);
            default: return groups() * (GROUP * PANEL / 2 + PANEL * 2);
        }
    }
    const char* panel(int64_t p) const { return static_cast<const char*>(data) + p * panel_bytes(); }
};

// Rows of activations in groups of 32: int8 values, and of each group its scale and the sum of its values.
struct Quantized {
    int8_t* values;
    float* scales;
    int32_t* sums;
    int64_t groups;  // of a row

    int8_t* row_values(int64_t row) const { return values + row * groups * GROUP; }
    float* row_scales(int64_t row) const { return scales + row * groups; }
    int32_t* row_sums(int64_t row) const { return sums + row * groups; }
};

// The input of a linear layer: floats for fp32 and bf16 weights, quantized rows for integer weights.
struct Rows {
    const float* x;
    int64_t stride;
    Quantized quantized;

    Rows from(int64_t row) const {
        return {x + row * stride, stride,
                {quantized.row_values(row), quantized.row_scales(row), quantized.row_sums(row), quantized.groups}};
    }
};

// The output: y = [gelu](W x + b) [+ residual], as floats and, for the next layer, quantized; either may be left out.
struct Output {
    float* y;
    int64_t stride;
    const float* residual;
    int64_t residual_stride;
    bool gelu;
    Quantized quantized;
};

// Keys and values in blocks of 32 positions. For each layer, block and head a unit: the keys K x 32 (a panel, as the
// outputs of a matrix), then the values 32 x K', K' = K padded to 16; in int8 first 32 scales of the keys and of the
// values. A sequence that has its blocks in their order is read in long runs, head by head; runs that were longer still
// would touch the memory of a whole layer with its first block.
struct Cache {
    char* data;
    int32_t dtype;  // FP32, BF16 or INT8
    int32_t blocks;
    int32_t heads;
    int32_t head_width;

    int64_t padded_width() const { return ceil_div(head_width, 16) * 16; }
    int64_t scales_bytes() const { return dtype == INT8 ? 2 * BLOCK * 4 : 0; }
    int64_t value_bytes() const { return dtype == FP32 ? 4 : dtype == BF16 ? 2 : 1; }
    int64_t keys_bytes() const { return head_width * BLOCK * value_bytes(); }
    int64_t unit_bytes() const {
        return ceil_div(scales_bytes() + keys_bytes() + BLOCK * padded_width() * value_bytes(), 64) * 64;
    }
    char* unit(int64_t layer, int64_t block, int64_t head) const {
        const int64_t first = block / RUN * RUN, run = blocks - first < RUN ? blocks - first : RUN;
        return data + ((layer * blocks + first) * heads + head * run + block - first) * unit_bytes();
    }
};

// Queries of one head of one sequence: rows of q at positions first, first + 1, ...; each sees the keys up to its own.
struct Queries {
    const float* q;
    int64_t stride;
    int64_t rows;
    int64_t first;
    const int32_t* table;  // the sequence's blocks
    int64_t layer;
    int64_t head;
};

// Of logits z: the largest, and the sum of exp(z - largest). Where a z is NaN or +infinity, so is the sum NaN.
struct Fold {
    float largest;
    float total;
};

// A logit and its place in the row.
struct Candidate {
    float logit;
    int32_t id;
};

// One instruction set's kernels. A result never depends on the rows beside it, nor on how many are given at once.
struct Kernels {
    const char* name;
    // Rows [row, row + rows) and panels [panel, panel_end).
    void (*linear)(const Matrix&, const Rows&, int64_t row, int64_t rows, int64_t panel, int64_t panel_end,
                   const Output&);
    void (*layer_norm)(const float* x, const float* gamma, const float* beta, float epsilon, int64_t width, float* y);
    void (*quantize)(const float* x, int64_t width, const Quantized&, int64_t row);
    void (*matrix_row)(const Matrix&, int64_t row, float* values);
    void (*store)(const Cache&, int64_t layer, int64_t head, const int32_t* table, int64_t position, const float* k,
                  const float* v);
    void (*attend)(const Cache&, const Queries&, float* out, int64_t out_stride);
    Fold (*fold)(const float* z, int64_t n);
    // The z that reach `bound`, with ids from `first` on, into `found`, which has room for n + 1; how many they are.
    int64_t (*reach)(const float* z, int64_t n, float bound, int32_t first, Candidate* found);
    // z becomes (z - top) / temperature, top the largest; weights are its exponentials.
    void (*weigh)(double* z, int64_t n, double top, double temperature, double* weights);
    float (*read)(const float* p, int64_t n);
    float (*multiply_add)(int64_t rounds);
};

}  // namespace gptwo
