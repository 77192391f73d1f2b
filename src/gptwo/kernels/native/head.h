// From rows of logits to their largest and log sum exp, the logits of one span at a time: V of them need not be kept.
//
// A span's sums are its kernel's, and spans add in their order, so that a row's log sum exp depends on its logits alone.
// Which logits are the k largest is decided by logit and id, so it matters to nobody who finds them, or when.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <vector>

#include "pool.h"
#include "types.h"

namespace gptwo {

// Of n rows: the ids and logits of the k <= V largest, by logit descending and then by id, and log sum exp, natural. In a
// row with a NaN or +infinity log sum exp is NaN; places that no number is left for have the id -1 and -infinity.
struct Top {
    int64_t k;
    int32_t* ids;         // n x k
    float* logits;        // n x k
    double* log_sum_exp;  // n
};

// Rows whose logits of a span are held at a time.
constexpr int64_t ROWS_OF_FOLD = 32;
// Between these rows: not a power of two, or they would fall into the same few places of the cache.
constexpr int64_t SPAN_STRIDE = SPAN + 16;

// What is known of rows while they are folded.
struct FoldSpace {
    std::vector<Fold> folds;       // rows x spans
    std::vector<Candidate> kept;   // rows x spans x k
    std::vector<int32_t> counts;   // rows x spans
    std::atomic<float> bounds[ROWS_OF_FOLD];  // what the k-th largest of each row is at least

    void prepare(int64_t rows, int64_t vocabulary, int64_t k);
};

// One span of a row, whose logits are z.
void fold_span(const Kernels&, FoldSpace&, int64_t row, int64_t span, const float* z, int64_t vocabulary, int64_t k);

// All spans of a row together, to row `to` of the results.
void finish_row(FoldSpace&, int64_t row, int64_t vocabulary, const Top&, int64_t to);

// Called by every thread within a run, after `space.prepare`. `logits(first, rows, span, buffer)` gives the logits of a
// span of so many rows, SPAN_STRIDE or `stride` apart: in the buffer, or where they are.
template <class Logits>
void fold_rows(Pool& pool, const Kernels& kernels, FoldSpace& space, int64_t rows, int64_t vocabulary, const Top& top,
               int64_t stride, const Logits& logits) {
    for (int64_t first = 0; first < rows; first += ROWS_OF_FOLD) {
        const int64_t count = std::min(ROWS_OF_FOLD, rows - first);
        pool.each(ceil_div(vocabulary, SPAN), [&](int64_t begin, int64_t end) {
            float buffer[ROWS_OF_FOLD * SPAN_STRIDE];
            for (int64_t span = begin; span < end; ++span) {
                const float* z = logits(first, count, span, buffer);
                for (int64_t row = 0; row < count; ++row)
                    fold_span(kernels, space, row, span, z + row * stride, vocabulary, top.k);
            }
        });
        pool.each(count, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) finish_row(space, row, vocabulary, top, first + row);
        });
    }
}

// The same of x W^T, called alike.
void fold_products(Pool&, const Kernels&, FoldSpace&, const Matrix&, const Rows&, int64_t rows, const Top&);

}  // namespace gptwo
