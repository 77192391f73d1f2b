// Threads within an engine, engines beside each other, and engines that close while others compute: built with the
// thread sanitizer, which finds what is not ordered, and run by tests/unit/kernels/test_builds.py.
//
//     g++ -std=c++17 -O1 -g -fsanitize=thread -pthread threads.cpp _native.so
#include <atomic>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "model.h"

namespace gptwo { struct Context; }
using namespace gptwo;

extern "C" {
const char* gptwo_instruction_set(int32_t);
Context* gptwo_open(const char*, int32_t threads);
void gptwo_close(Context*);
int32_t gptwo_forward(Context*, const Model*, const Cache*, const Segment*, int64_t n_segments, const int32_t* tokens,
                      const int32_t* outputs, int64_t n_outputs, float* logits, const Top*);
int64_t gptwo_cache_bytes(const Cache*, int64_t layers);
uint64_t gptwo_hash(Context*, const uint8_t*, int64_t bytes);
}

constexpr int LAYERS = 2, HEADS = 2, WIDTH = 64, MLP_WIDTH = 128, VOCABULARY = 1061, BLOCKS = 4, CONTEXT = 96;

static std::mt19937 generator(0);

static std::vector<float> uniform(size_t n) {
    std::uniform_real_distribution<float> distribution(-0.3f, 0.3f);
    std::vector<float> values(n);
    for (float& value : values) value = distribution(generator);
    return values;
}

// A model of random weights in fp32 or int8, and the memory that they lie in.
class RandomModel {
public:
    explicit RandomModel(int32_t dtype) : dtype_(dtype) {
        for (int i = 0; i < LAYERS; ++i)
            blocks_.push_back({vector(WIDTH), vector(WIDTH), matrix(3 * WIDTH, WIDTH), matrix(WIDTH, WIDTH), vector(WIDTH),
                               vector(WIDTH), matrix(MLP_WIDTH, WIDTH), matrix(WIDTH, MLP_WIDTH)});
        model = {LAYERS, HEADS, WIDTH, MLP_WIDTH, VOCABULARY, 1e-5f, matrix(VOCABULARY, WIDTH), vector(CONTEXT * WIDTH),
                 vector(WIDTH), vector(WIDTH), blocks_.data()};
    }

    Model model;

private:
    const float* vector(size_t n) {
        floats_.push_back(uniform(n));
        return floats_.back().data();
    }

    Matrix matrix(int32_t outputs, int32_t inputs) {
        Matrix found = {nullptr, vector(size_t(outputs)), outputs, inputs, dtype_};
        const size_t bytes = size_t(found.panels() * found.panel_bytes());
        if (dtype_ == FP32) {
            found.data = vector(bytes / 4);
            return found;
        }
        bytes_.emplace_back(bytes);
        std::vector<char>& data = bytes_.back();
        for (char& byte : data) byte = char(generator());
        // Behind the 1024 weights of a group lie 32 scales: bfloat16 near 2^-7.
        for (size_t group = 0; group < bytes; group += 1088)
            for (size_t i = group + 1025; i < group + 1088; i += 2) data[i] = 0x3c;
        found.data = data.data();
        return found;
    }

    int32_t dtype_;
    std::vector<std::vector<float>> floats_;
    std::vector<std::vector<char>> bytes_;
    std::vector<Block> blocks_;
};

// Two texts read side by side, then a token after each: the logits of the texts, and what is largest after the tokens.
static std::vector<float> written(Context* context, const Model& model, int32_t kv_dtype) {
    Cache cache = {nullptr, kv_dtype, BLOCKS, HEADS, WIDTH / HEADS};
    std::vector<char> memory(size_t(gptwo_cache_bytes(&cache, LAYERS)));
    cache.data = memory.data();
    const int32_t tables[2][3] = {{2, 0, 3}, {1, 0, 0}};
    std::vector<int32_t> tokens;
    for (int i = 0; i < 75; ++i) tokens.push_back(i * 7 % VOCABULARY);
    std::vector<float> found(2 * VOCABULARY), largest(6);
    std::vector<int32_t> ids(6);
    std::vector<double> sums(2);
    const Segment texts[] = {{70, 0, tables[0]}, {5, 0, tables[1]}};
    const int32_t ends[] = {69, 74};
    const Segment next[] = {{1, 70, tables[0]}, {1, 5, tables[1]}};
    const int32_t both[] = {0, 1};
    const Top top = {3, ids.data(), largest.data(), sums.data()};
    if (gptwo_forward(context, &model, &cache, texts, 2, tokens.data(), ends, 2, found.data(), nullptr) != 0 ||
        gptwo_forward(context, &model, &cache, next, 2, tokens.data(), both, 2, nullptr, &top) != 0)
        return {};
    found.insert(found.end(), largest.begin(), largest.end());
    found.insert(found.end(), ids.begin(), ids.end());
    found.insert(found.end(), sums.begin(), sums.end());
    return found;
}

template <class Body>
static void at_once(int callers, const Body& body) {
    std::vector<std::thread> threads;
    for (int i = 0; i < callers; ++i) threads.emplace_back(body);
    for (std::thread& thread : threads) thread.join();
}

int main() {
    const char* fastest = gptwo_instruction_set(0);
    std::atomic<int> failures{0};
    for (const int32_t dtype : {FP32, INT8}) {
        const RandomModel random(dtype);
        Context* alone = gptwo_open(fastest, 1);
        const std::vector<float> expected = written(alone, random.model, dtype);
        gptwo_close(alone);
        if (expected.empty() || expected[0] != expected[0]) return std::puts("no numbers"), 1;
        const auto check = [&](Context* context) {
            if (written(context, random.model, dtype) != expected) ++failures;
        };
        // Callers of one engine, whose turns follow each other.
        Context* shared = gptwo_open(fastest, 3);
        at_once(3, [&] {
            for (int i = 0; i < 20; ++i) check(shared);
        });
        gptwo_close(shared);
        // Engines over the same weights; each closes as soon as it is done, or before it has done anything.
        at_once(3, [&] {
            for (int i = 0; i < 20; ++i) {
                Context* own = gptwo_open(fastest, 3);
                if (i % 3 != 0) check(own);
                if (i % 3 == 2) gptwo_hash(own, reinterpret_cast<const uint8_t*>(expected.data()), 1000);
                gptwo_close(own);
            }
        });
    }
    if (failures == 0) std::puts("all alike");
    return failures ? 1 : 0;
}
