#include "choose.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>

namespace gptwo {
namespace {

constexpr int64_t SUMMED = 256;  // weights whose sum the draw may skip at once
constexpr int LANES = 8;

double sum(const double* x, int64_t n) {
    double lanes[LANES] = {};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; ++lane) lanes[lane] += x[i + lane];
    double total = 0.0;
    for (int lane = 0; lane < LANES; ++lane) total += lanes[lane];
    for (; i < n; ++i) total += x[i];
    return total;
}

double largest(const double* x, int64_t n) {
    double lanes[LANES];
    std::fill(lanes, lanes + LANES, x[0]);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; ++lane) lanes[lane] = std::max(lanes[lane], x[i + lane]);
    for (; i < n; ++i) lanes[0] = std::max(lanes[0], x[i]);
    return *std::max_element(lanes, lanes + LANES);
}

// The k-th largest of x, k < n.
double kth_largest(const double* x, int64_t n, int64_t k, std::vector<double>& some) {
    // So many parts that k of them have a largest: the k-th of these is reached by k values at least, and by few more.
    double bound = -std::numeric_limits<double>::infinity();
    const int64_t part = n / (2 * k);
    some.clear();
    if (part > 1) {
        for (int64_t i = 0; i + part <= n; i += part) some.push_back(largest(x + i, part));
        std::nth_element(some.begin(), some.begin() + k - 1, some.end(), std::greater<double>());
        bound = some[size_t(k - 1)];
        some.clear();
    }
    std::copy_if(x, x + n, std::back_inserter(some), [&](double value) { return value >= bound; });
    std::nth_element(some.begin(), some.begin() + k - 1, some.end(), std::greater<double>());
    return some[size_t(k - 1)];
}

// Only the fewest largest weights that together reach p of all stay, of equals the first; as sampling.top_p.
void keep_top_p(double* weights, int64_t n, double p, std::vector<double>& some) {
    const double total = sum(weights, n), target = p * total;
    const double floor = (1.0 - p) * total / double(n);
    some.clear();
    std::copy_if(weights, weights + n, std::back_inserter(some), [&](double weight) { return weight > floor; });
    auto begin = some.begin(), end = some.end();
    int64_t above = 0;
    double mass_above = 0.0;
    while (begin != end) {
        const auto middle = begin + (end - begin) / 2;
        std::nth_element(begin, middle, end, std::greater<double>());
        const double median = *middle, mass = mass_above + sum(&*begin, middle - begin);
        if (mass >= target) {
            end = middle;
            continue;
        }
        above += middle - begin + 1;
        begin = middle + 1;
        mass_above = mass + median;
        if (mass_above < target) continue;
        int64_t equals = above - std::count_if(weights, weights + n, [&](double weight) { return weight > median; });
        for (int64_t i = 0; i < n; ++i) {
            if (weights[i] < median || (weights[i] == median && equals-- <= 0)) weights[i] = 0.0;
        }
        return;
    }
}

// The first place whose sum of weights up to it exceeds u of all.
int64_t draw(const double* weights, int64_t n, double u, std::vector<double>& sums) {
    sums.clear();
    double total = 0.0;
    for (int64_t i = 0; i < n; i += SUMMED) sums.push_back(total += sum(weights + i, std::min(SUMMED, n - i)));
    const double sought = u * total;
    const int64_t block = std::upper_bound(sums.begin(), sums.end(), sought) - sums.begin();
    double before = block > 0 ? sums[size_t(block - 1)] : 0.0;
    // A block's own sum may be rounded to more than its weights' one after the other.
    int64_t last = block * SUMMED;
    for (int64_t i = block * SUMMED; i < std::min(n, (block + 1) * SUMMED); ++i) {
        if (weights[i] > 0.0) last = i;
        before += weights[i];
        if (before > sought) break;
    }
    return last;
}

}  // namespace

int32_t choose(const Kernels& kernels, ChoiceSpace& space, const float* logits, int64_t vocabulary, const int32_t* ids,
               const double* values, int64_t n, const Choice& choice) {
    if (int64_t(space.z.size()) < vocabulary) {
        space.z.resize(size_t(vocabulary));
        space.weights.resize(size_t(vocabulary));
    }
    double* z = space.z.data();
    std::copy(logits, logits + vocabulary, z);
    for (int64_t i = 0; i < n; ++i) z[ids[i]] = values[i];
    const double top = largest(z, vocabulary);
    if (choice.temperature == 0.0) return int32_t(std::find(z, z + vocabulary, top) - z);
    double* weights = space.weights.data();
    kernels.weigh(z, vocabulary, top, choice.temperature, weights);
    if (choice.top_k > 0 && choice.top_k < vocabulary) {
        const double least = kth_largest(z, vocabulary, choice.top_k, space.some);
        for (int64_t i = 0; i < vocabulary; ++i)
            if (z[i] < least) weights[i] = 0.0;
    }
    if (choice.top_p < 1.0) keep_top_p(weights, vocabulary, choice.top_p, space.some);
    if (choice.min_p > 0.0)
        for (int64_t i = 0; i < vocabulary; ++i)
            if (weights[i] < choice.min_p) weights[i] = 0.0;
    return int32_t(draw(weights, vocabulary, choice.u, space.some));
}

}  // namespace gptwo
