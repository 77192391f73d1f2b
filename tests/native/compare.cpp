// One instruction set's kernels beside the portable ones, for machines without Python: built and run under an emulator
// by tests/unit/kernels/test_builds.py. Prints what differs; exits with 1 when anything does.
//
//     aarch64-linux-gnu-g++ -std=c++17 -O2 -ffp-contract=off -DOTHER=neon compare.cpp kernels_neon.cpp kernels_portable.cpp
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "types.h"

namespace gptwo {
namespace portable { extern const Kernels KERNELS; }
namespace OTHER { extern const Kernels KERNELS; }
}  // namespace gptwo

using namespace gptwo;

static std::mt19937 generator(0);
static int failures = 0;

static std::vector<float> normal(size_t n) {
    std::normal_distribution<float> distribution;
    std::vector<float> values(n);
    for (float& value : values) value = distribution(generator);
    return values;
}

static void near(const char* what, int dtype, const std::vector<float>& got, const std::vector<float>& expected,
                 float tolerance) {
    for (size_t i = 0; i < got.size(); ++i) {
        if (std::fabs(got[i] - expected[i]) <= tolerance * (1 + std::fabs(expected[i]))) continue;
        std::printf("%s, dtype %d, value %zu: %g, expected %g\n", what, dtype, i, got[i], expected[i]);
        ++failures;
        return;
    }
}

static void linear(int dtype, int outputs, int inputs) {
    Matrix matrix = {nullptr, nullptr, outputs, inputs, dtype};
    std::vector<char> data(size_t(matrix.panels() * matrix.panel_bytes()));
    for (char& byte : data) byte = char(generator());
    if (dtype == FP32 || dtype == BF16) {
        // Any bits would do for integers; of floats only numbers.
        std::vector<float> weights = normal(data.size() / 4);
        std::memcpy(data.data(), weights.data(), weights.size() * 4);
        if (dtype == BF16)
            for (size_t i = 0; i + 1 < data.size(); i += 2) data[i + 1] = char(0x3f | (data[i + 1] & 0x80));
    } else {
        const size_t group = dtype == INT8 ? 1088 : 576;
        for (size_t start = 0; start < data.size(); start += group)
            for (size_t i = start + group - 64; i + 1 < start + group; i += 2) data[i + 1] = char(0x3c);
    }
    matrix.data = data.data();
    const int rows = 13;
    const std::vector<float> x = normal(size_t(rows) * inputs), residual = normal(size_t(rows) * outputs);
    std::vector<float> y[2];
    std::vector<float> row[2];
    int which = 0;
    for (const Kernels* kernels : {&portable::KERNELS, &OTHER::KERNELS}) {
        const int64_t groups = matrix.groups();
        std::vector<int8_t> values(size_t(rows * groups * GROUP));
        std::vector<float> scales(size_t(rows * groups));
        std::vector<int32_t> sums(size_t(rows * groups));
        const Quantized quantized = {values.data(), scales.data(), sums.data(), groups};
        for (int r = 0; r < rows; ++r) kernels->quantize(x.data() + r * inputs, inputs, quantized, r);
        y[which].resize(size_t(rows) * outputs);
        kernels->linear(matrix, {x.data(), inputs, quantized}, 0, rows, 0, matrix.panels(),
                        {y[which].data(), outputs, residual.data(), outputs, true, {}});
        row[which].resize(size_t(inputs));
        kernels->matrix_row(matrix, outputs - 1, row[which].data());
        ++which;
    }
    near("linear", dtype, y[1], y[0], 1e-4f * float(inputs) / 32);
    near("matrix_row", dtype, row[1], row[0], 0.0f);
}

static void attention(int dtype, int width) {
    const int tokens = 71;
    const std::vector<float> q = normal(size_t(tokens * width)), k = normal(q.size()), v = normal(q.size());
    const int32_t table[] = {2, 0, 1};
    std::vector<float> out[2];
    int which = 0;
    for (const Kernels* kernels : {&portable::KERNELS, &OTHER::KERNELS}) {
        Cache cache = {nullptr, dtype, 3, 1, width};
        std::vector<char> data(size_t(3 * cache.unit_bytes()), char(255));
        cache.data = data.data();
        for (int t = 0; t < tokens; ++t)
            kernels->store(cache, 0, 0, table, t, k.data() + t * width, v.data() + t * width);
        out[which].resize(q.size());
        kernels->attend(cache, {q.data(), width, tokens, 0, table, 0, 0}, out[which].data(), width);
        ++which;
    }
    near("attention", dtype, out[1], out[0], 1e-5f);
}

int main() {
    for (int dtype : {FP32, BF16, INT8, INT4})
        for (int inputs : {1, 21, 64, 1000})
            for (int outputs : {1, 32, 63}) linear(dtype, outputs, inputs);
    for (int dtype : {FP32, BF16, INT8})
        for (int width : {1, 7, 64}) attention(dtype, width);
    const std::vector<float> x = normal(1003), gamma = normal(1003), beta = normal(1003);
    std::vector<float> y[2];
    Fold folds[2];
    Candidate found[2][SPAN + 1];
    int64_t counts[2];
    std::vector<double> z[2], weights[2];
    int which = 0;
    for (const Kernels* kernels : {&portable::KERNELS, &OTHER::KERNELS}) {
        y[which].resize(x.size());
        kernels->layer_norm(x.data(), gamma.data(), beta.data(), 1e-5f, int64_t(x.size()), y[which].data());
        folds[which] = kernels->fold(x.data(), SPAN - 3);
        counts[which] = kernels->reach(x.data(), SPAN - 3, 1.5f, 7, found[which]);
        z[which].assign(x.begin(), x.end());
        weights[which].resize(x.size());
        // Up to the end of double's exponents.
        kernels->weigh(z[which].data(), int64_t(x.size()), 5.0, 0.0125, weights[which].data());
        ++which;
    }
    near("layer_norm", FP32, y[1], y[0], 1e-5f);
    near("fold", FP32, {folds[1].largest, folds[1].total}, {folds[0].largest, folds[0].total}, 1e-6f);
    std::vector<float> ratios;
    for (size_t i = 0; i < x.size(); ++i)
        ratios.push_back(weights[0][i] == weights[1][i] ? 1.0f : float(weights[1][i] / weights[0][i]));
    near("weigh", FP32, ratios, std::vector<float>(x.size(), 1.0f), 1e-7f);
    if (counts[0] != counts[1] || std::memcmp(found[0], found[1], size_t(counts[0]) * sizeof(Candidate)) != 0) {
        std::puts("reach: other candidates");
        ++failures;
    }
    if (failures == 0) std::puts("all alike");
    return failures ? 1 : 0;
}
