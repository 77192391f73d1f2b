// The forward pass over a ragged batch.
#pragma once
#include <vector>

#include "choose.h"
#include "head.h"
#include "pool.h"
#include "types.h"

namespace gptwo {

struct Block {
    const float* attention_norm_weight;
    const float* attention_norm_bias;
    Matrix qkv;
    Matrix output;
    const float* mlp_norm_weight;
    const float* mlp_norm_bias;
    Matrix up;
    Matrix down;
};

struct Model {
    int32_t layers;
    int32_t heads;
    int32_t width;
    int32_t mlp_width;
    int32_t vocabulary;
    float epsilon;
    Matrix embedding;
    const float* positions;
    const float* final_norm_weight;
    const float* final_norm_bias;
    const Block* blocks;
};

// New tokens of one sequence: `tokens` of them from position `start`, its cache in the blocks of `table`.
struct Segment {
    int32_t tokens;
    int32_t start;
    const int32_t* table;
};

// Memory for the activations of some rows, kept from call to call: fresh pages cost more than the arithmetic on them.
struct Workspace {
    std::vector<float> x, x_last, normed, qkv, mixed, hidden;
    std::vector<int8_t> values[3];
    std::vector<float> scales[3];
    std::vector<int32_t> sums[3];
    FoldSpace fold;
    ChoiceSpace choice;
};

// Steps of a block whose times are told apart: norm, qkv, attention, output, norm, up, down. A pass has the embedding
// before its blocks, and the last norm and the head after them.
constexpr int STEPS_OF_BLOCK = 7;

// The logits, X E^T, of the rows `outputs` (ascending, of all new tokens in order): n x V into `logits`, or, where that is
// null, what `top` asks for. Nanoseconds of each step are added to `times`, unless that is null.
void forward(Pool&, const Kernels&, Workspace&, const Model&, const Cache&, const Segment* segments, int64_t n_segments,
             const int32_t* tokens, const int32_t* outputs, int64_t n_outputs, float* logits, const Top* top, int64_t* times);

}  // namespace gptwo
