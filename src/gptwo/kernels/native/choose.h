// From a row of logits to the next token: infer/sampling.py's stages in memory that is kept, without its copies.
#pragma once
#include <cstdint>
#include <vector>

#include "types.h"

namespace gptwo {

// The policy's stages after the penalties, and the uniform number of the draw. 0 for no top_k, 1 for no top_p, 0 for no
// min_p; temperature 0 takes the largest.
struct Choice {
    double temperature;
    int64_t top_k;
    double top_p;
    double min_p;
    double u;
};

struct ChoiceSpace {
    std::vector<double> z, weights, some;
};

// The id that is drawn of V logits, those of `ids` replaced by `values`; all numbers or -infinity, one at least finite.
int32_t choose(const Kernels&, ChoiceSpace&, const float* logits, int64_t vocabulary, const int32_t* ids,
               const double* values, int64_t n, const Choice&);

}  // namespace gptwo
