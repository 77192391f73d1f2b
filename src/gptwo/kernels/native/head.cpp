#include "head.h"

#include <cmath>

namespace gptwo {
namespace {

constexpr float INFINITE = std::numeric_limits<float>::infinity();

// Logits are numbers here: a NaN reaches no bound.
bool before(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

double log_sum_exp(const Fold* folds, int64_t n) {
    float top = std::numeric_limits<float>::lowest();
    for (int64_t i = 0; i < n; ++i) top = std::max(top, folds[i].largest);
    double total = 0.0;
    for (int64_t i = 0; i < n; ++i) total += folds[i].total * std::exp(double(folds[i].largest) - double(top));
    // Nothing above the lowest number: all are -infinity, whose exponentials the kernels do not round to 0.
    if (top == std::numeric_limits<float>::lowest() && total == total) return -INFINITE;
    return double(top) + std::log(total);
}

}  // namespace

void FoldSpace::prepare(int64_t rows, int64_t vocabulary, int64_t k) {
    const size_t parts = size_t(std::min(rows, ROWS_OF_FOLD) * ceil_div(vocabulary, SPAN));
    if (folds.size() < parts) folds.resize(parts);
    if (counts.size() < parts) counts.resize(parts);
    if (kept.size() < parts * size_t(k)) kept.resize(parts * size_t(k));
    for (std::atomic<float>& bound : bounds) bound.store(-INFINITE, std::memory_order_relaxed);
}

void fold_span(const Kernels& kernels, FoldSpace& space, int64_t row, int64_t span, const float* z, int64_t vocabulary,
               int64_t k) {
    const int64_t n = std::min<int64_t>(SPAN, vocabulary - span * SPAN);
    const int64_t part = row * ceil_div(vocabulary, SPAN) + span;
    space.folds[size_t(part)] = kernels.fold(z, n);
    std::atomic<float>& bound = space.bounds[row];
    Candidate found[SPAN + 1];
    int64_t count = kernels.reach(z, n, bound.load(std::memory_order_relaxed), int32_t(span * SPAN), found);
    if (count >= k) {
        std::nth_element(found, found + k - 1, found + count, before);
        count = k;
        const float least = found[k - 1].logit;
        float known = bound.load(std::memory_order_relaxed);
        while (known < least && !bound.compare_exchange_weak(known, least, std::memory_order_relaxed)) {
        }
    }
    std::copy(found, found + count, space.kept.begin() + part * k);
    space.counts[size_t(part)] = int32_t(count);
}

void finish_row(FoldSpace& space, int64_t row, int64_t vocabulary, const Top& top, int64_t to) {
    const int64_t spans = ceil_div(vocabulary, SPAN), k = top.k;
    top.log_sum_exp[to] = log_sum_exp(space.folds.data() + row * spans, spans);
    // Put together where the first span's are: no span has more than its k places.
    Candidate* all = space.kept.data() + row * spans * k;
    int64_t count = 0;
    for (int64_t span = 0; span < spans; ++span) {
        const Candidate* of_span = all + span * k;
        const int64_t n = space.counts[size_t(row * spans + span)];
        if (of_span != all + count) std::copy(of_span, of_span + n, all + count);
        count += n;
    }
    const int64_t kept = std::min(count, k);
    std::partial_sort(all, all + kept, all + count, before);
    for (int64_t i = 0; i < k; ++i) {
        const Candidate candidate = i < kept ? all[i] : Candidate{-INFINITE, -1};
        top.ids[to * k + i] = candidate.id;
        top.logits[to * k + i] = candidate.logit;
    }
    space.bounds[row].store(-INFINITE, std::memory_order_relaxed);
}

void fold_products(Pool& pool, const Kernels& kernels, FoldSpace& space, const Matrix& matrix, const Rows& in,
                   int64_t rows, const Top& top) {
    fold_rows(pool, kernels, space, rows, matrix.outputs, top, SPAN_STRIDE,
              [&](int64_t first, int64_t count, int64_t span, float* buffer) {
                  Matrix part = matrix;
                  part.data = matrix.panel(span * SPAN / PANEL);
                  part.bias = matrix.bias ? matrix.bias + span * SPAN : nullptr;
                  part.outputs = int32_t(std::min<int64_t>(SPAN, matrix.outputs - span * SPAN));
                  kernels.linear(part, in.from(first), 0, count, 0, part.panels(),
                                 {buffer, SPAN_STRIDE, nullptr, 0, false, {}});
                  return buffer;
              });
}

}  // namespace gptwo
