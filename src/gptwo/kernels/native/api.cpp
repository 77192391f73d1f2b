// The plain C interface that kernels/library.py calls; its structures are those of types.h and model.h.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>

#include "model.h"

namespace gptwo {
#if defined(__x86_64__)
namespace avx512 { extern const Kernels KERNELS; }
namespace avx2 { extern const Kernels KERNELS; }
#endif
#if defined(__aarch64__)
namespace neon { extern const Kernels KERNELS; }
#endif
namespace portable { extern const Kernels KERNELS; }

// Threads, an instruction set and memory to work in: what one engine owns.
struct Context {
    Context(int threads, const Kernels* kernels) : pool(threads), kernels(kernels) {}

    Pool pool;
    const Kernels* kernels;
    Workspace space;
    std::mutex one_at_a_time;
};

// The i-th instruction set that this machine has, the fastest first; null past the last.
static const Kernels* available(int i) {
    const Kernels* found[4];
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))
        found[n++] = &avx512::KERNELS;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found[n++] = &avx2::KERNELS;
#endif
#if defined(__aarch64__)
    found[n++] = &neon::KERNELS;
#endif
    found[n++] = &portable::KERNELS;
    return i < n ? found[i] : nullptr;
}

// Rows of x for a layer on its own: integer weights see them quantized.
struct Inputs {
    Inputs(const Kernels& kernels, const Matrix& matrix, const float* x, int64_t n)
        : values(size_t(n * matrix.groups() * GROUP)), scales(size_t(n * matrix.groups())), sums(scales.size()) {
        const Quantized quantized = {values.data(), scales.data(), sums.data(), matrix.groups()};
        if (matrix.integer())
            for (int64_t row = 0; row < n; ++row) kernels.quantize(x + row * matrix.inputs, matrix.inputs, quantized, row);
        rows = {x, matrix.inputs, quantized};
    }

    std::vector<int8_t> values;
    std::vector<float> scales;
    std::vector<int32_t> sums;
    Rows rows;
};

}  // namespace gptwo

using namespace gptwo;

extern "C" {

// What the structures here and in library.py must agree on.
int32_t gptwo_interface() { return 2; }

// The name of the i-th instruction set that this machine has, the fastest first; null past the last.
const char* gptwo_instruction_set(int32_t i) {
    const Kernels* kernels = available(i);
    return kernels ? kernels->name : nullptr;
}

// Null where there is no such instruction set, or no memory or threads.
Context* gptwo_open(const char* instruction_set, int32_t threads) {
    for (int i = 0; const Kernels* kernels = available(i); ++i) {
        if (std::strcmp(kernels->name, instruction_set) != 0) continue;
        try {
            return new Context(threads, kernels);
        } catch (const std::exception&) {
            return nullptr;
        }
    }
    return nullptr;
}

void gptwo_close(Context* context) { delete context; }

// Into `logits`, or, where that is null, into `top`; the nanoseconds of each step are added to `times`, in the order of
// model.h. 0, or 1 when memory ran out.
int32_t gptwo_forward_timed(Context* context, const Model* model, const Cache* cache, const Segment* segments,
                            int64_t n_segments, const int32_t* tokens, const int32_t* outputs, int64_t n_outputs,
                            float* logits, const Top* top, int64_t* times) {
    const std::lock_guard<std::mutex> lock(context->one_at_a_time);
    try {
        forward(context->pool, *context->kernels, context->space, *model, *cache, segments, n_segments, tokens, outputs,
                n_outputs, logits, top, times);
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}

int32_t gptwo_forward(Context* context, const Model* model, const Cache* cache, const Segment* segments,
                      int64_t n_segments, const int32_t* tokens, const int32_t* outputs, int64_t n_outputs,
                      float* logits, const Top* top) {
    return gptwo_forward_timed(context, model, cache, segments, n_segments, tokens, outputs, n_outputs, logits, top,
                               nullptr);
}

int64_t gptwo_cache_bytes(const Cache* cache, int64_t layers) {
    return layers * cache->blocks * cache->heads * cache->unit_bytes();
}

// Block `to` becomes what block `from` is, in every layer.
void gptwo_copy_block(const Cache* cache, int64_t layers, int64_t from, int64_t to) {
    for (int64_t layer = 0; layer < layers; ++layer)
        for (int64_t head = 0; head < cache->heads; ++head)
            std::memcpy(cache->unit(layer, to, head), cache->unit(layer, from, head), cache->unit_bytes());
}

// Of n rows of V logits. 0, or 1 when memory ran out.
int32_t gptwo_top(Context* context, const float* logits, int64_t n, int64_t vocabulary, const Top* top) {
    const std::lock_guard<std::mutex> lock(context->one_at_a_time);
    FoldSpace& space = context->space.fold;
    try {
        space.prepare(n, vocabulary, top->k);
    } catch (const std::exception&) {
        return 1;
    }
    context->pool.run([&] {
        fold_rows(context->pool, *context->kernels, space, n, vocabulary, *top, vocabulary,
                  [&](int64_t first, int64_t, int64_t span, float*) {
                      return logits + first * vocabulary + span * SPAN;
                  });
    });
    return 0;
}

// The id that is drawn of V logits; -1 when memory ran out.
int32_t gptwo_choose(Context* context, const float* logits, int64_t vocabulary, const int32_t* ids, const double* values,
                     int64_t n, const Choice* choice) {
    const std::lock_guard<std::mutex> lock(context->one_at_a_time);
    try {
        return choose(*context->kernels, context->space.choice, logits, vocabulary, ids, values, n, *choice);
    } catch (const std::exception&) {
        return -1;
    }
}

// --- Single kernels, for their tests ---------------------------------------------------------------------------------

// y = [gelu](W x + b) [+ residual] of M rows of x; integer weights see x quantized.
void gptwo_linear(Context* context, const Matrix* matrix, const float* x, int64_t rows, int32_t gelu,
                  const float* residual, float* y) {
    const Kernels& kernels = *context->kernels;
    const Inputs inputs(kernels, *matrix, x, rows);
    const Output to = {y, matrix->outputs, residual, matrix->outputs, gelu != 0, {}};
    context->pool.run([&] {
        context->pool.each(matrix->panels(), [&](int64_t begin, int64_t end) {
            kernels.linear(*matrix, inputs.rows, 0, rows, begin, end, to);
        });
    });
}

// Of the logits x W^T of M rows of x, which are nowhere written.
void gptwo_head(Context* context, const Matrix* matrix, const float* x, int64_t rows, const Top* top) {
    const std::lock_guard<std::mutex> lock(context->one_at_a_time);
    const Inputs inputs(*context->kernels, *matrix, x, rows);
    context->space.fold.prepare(rows, matrix->outputs, top->k);
    context->pool.run([&] {
        fold_products(context->pool, *context->kernels, context->space.fold, *matrix, inputs.rows, rows, *top);
    });
}

void gptwo_layer_norm(Context* context, const float* x, const float* weight, const float* bias, float epsilon,
                      int64_t rows, int64_t width, float* y) {
    for (int64_t row = 0; row < rows; ++row)
        context->kernels->layer_norm(x + row * width, weight, bias, epsilon, width, y + row * width);
}

// The values and scales that integer layers see of a row, `groups` of each.
void gptwo_quantize(Context* context, const float* x, int64_t width, int8_t* values, float* scales, int32_t* sums) {
    context->kernels->quantize(x, width, {values, scales, sums, ceil_div(width, GROUP)}, 0);
}

void gptwo_matrix_row(Context* context, const Matrix* matrix, int64_t row, float* values) {
    context->kernels->matrix_row(*matrix, row, values);
}

// q, k, v: T x H x K of one sequence at positions start, ...; keys are stored, then out = attention of the queries.
void gptwo_attention(Context* context, const Cache* cache, const int32_t* table, int64_t start, int64_t tokens,
                     const float* q, const float* k, const float* v, float* out) {
    const int64_t K = cache->head_width, D = cache->heads * K;
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t head = 0; head < cache->heads; ++head)
            context->kernels->store(*cache, 0, head, table, start + t, k + t * D + head * K, v + t * D + head * K);
    for (int64_t head = 0; head < cache->heads; ++head)
        context->kernels->attend(*cache, {q + head * K, D, tokens, start, table, 0, head}, out + head * K, D);
}

// --- Hash and ceilings -----------------------------------------------------------------------------------------------

// 64 bits of the content, at memory's speed: not against malice, but against damage. Four lanes of multiply and rotate
// over pieces of 1 MiB, whose hashes are hashed in order.
uint64_t gptwo_hash(Context* context, const uint8_t* data, int64_t bytes) {
    constexpr int64_t PIECE = 1 << 20;
    constexpr uint64_t A = 0x9E3779B185EBCA87u, B = 0xC2B2AE3D27D4EB4Fu;
    const auto mixed = [](uint64_t h, uint64_t x) {
        h += x * B;
        h = h << 31 | h >> 33;
        return h * A;
    };
    const auto hash = [&](const uint8_t* p, int64_t n) {
        uint64_t lanes[4] = {A, B, A ^ B, uint64_t(n)};
        uint64_t x[4];
        for (; n >= 32; n -= 32, p += 32) {
            std::memcpy(x, p, 32);
            for (int i = 0; i < 4; ++i) lanes[i] = mixed(lanes[i], x[i]);
        }
        std::memset(x, 0, 32);
        if (n > 0) std::memcpy(x, p, size_t(n));
        for (int i = 0; i < 4; ++i) lanes[i] = mixed(lanes[i], x[i]);
        uint64_t h = 0;
        for (const uint64_t lane : lanes) h = mixed(h ^ (h >> 29), lane);
        return h ^ (h >> 32);
    };
    std::vector<uint64_t> hashes(size_t(ceil_div(bytes, PIECE)));
    context->pool.run([&] {
        context->pool.each(int64_t(hashes.size()), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                hashes[size_t(i)] = hash(data + i * PIECE, std::min(PIECE, bytes - i * PIECE));
        });
    });
    return hash(reinterpret_cast<const uint8_t*>(hashes.data()), int64_t(hashes.size()) * 8) ^ uint64_t(bytes);
}

// Bytes per second at which the threads read `bytes` of memory, each a part of its own, the best of `repeats`.
double gptwo_read_bandwidth(Context* context, const float* data, int64_t bytes, int32_t repeats) {
    constexpr int64_t PIECE = 1 << 18;  // floats
    double best = 0.0;
    std::vector<float> sink(size_t(bytes / 4 / PIECE));
    for (int32_t i = 0; i < repeats; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        context->pool.run([&] {
            context->pool.each(int64_t(sink.size()), [&](int64_t from, int64_t to) {
                sink[size_t(from)] = context->kernels->read(data + from * PIECE, (to - from) * PIECE);
            });
        });
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
        best = std::max(best, double(sink.size() * PIECE * 4) / seconds.count());
    }
    return best;
}

// FLOPs per second of independent multiply-adds in registers on all threads, the best of `repeats`.
double gptwo_multiply_add_peak(Context* context, int32_t repeats) {
    constexpr int64_t ROUNDS = 1 << 20;
    const int64_t lanes = std::strcmp(context->kernels->name, "avx512") == 0 ? 16
                          : std::strcmp(context->kernels->name, "avx2") == 0 ? 8
                                                                               : 4;
    double best = 0.0;
    std::vector<float> sink(size_t(context->pool.threads()));
    for (int32_t i = 0; i < repeats; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        context->pool.run([&] {
            context->pool.each(int64_t(sink.size()), [&](int64_t from, int64_t to) {
                for (; from < to; ++from) sink[size_t(from)] = context->kernels->multiply_add(ROUNDS);
            });
        });
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
        best = std::max(best, double(context->pool.threads() * ROUNDS * 24 * lanes) / seconds.count());
    }
    return best;
}

}  // extern "C"
