#include "model.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

namespace gptwo {
namespace {

// Rows that go through the layers together: their activations stay in a shared cache, and memory for them small.
constexpr int64_t ROWS_AT_ONCE = 256;
// Rows of a task of a linear layer: some tiles' worth, so that few panels still keep many threads busy.
constexpr int64_t ROWS_OF_TASK = 96;
// Queries of a task of attention, at most.
constexpr int64_t QUERIES_OF_TASK = 64;

// Consecutive tokens of one segment: a task of attention for each head.
struct Stretch {
    int64_t row;
    int64_t tokens;
    int64_t position;
    const int32_t* table;
};

// Where a row stands.
struct Place {
    int64_t position;
    const int32_t* table;
};

struct Chunk {
    std::vector<Stretch> stretches;
    std::vector<Place> places;
    const int32_t* tokens = nullptr;
    std::vector<int64_t> outputs;  // rows within the chunk
    float* logits = nullptr;
    Top top = {};
};

// Times of the steps of a pass. Each ends at a barrier, and is over when the first thread leaves it: one that waits for
// its core may do so long after.
class Watch {
public:
    explicit Watch(int64_t* times) : times_(times), last_(Clock::now()) {}

    // Called by every thread when step `step`, its own `count`-th, has ended.
    void ended(int64_t step, int64_t& count) {
        int64_t expected = count++;
        if (!times_ || !ended_.compare_exchange_strong(expected, expected + 1)) return;
        const Clock::time_point now = Clock::now();
        times_[step] += std::chrono::duration_cast<std::chrono::nanoseconds>(now - last_).count();
        last_ = now;
    }

private:
    using Clock = std::chrono::steady_clock;
    int64_t* const times_;
    std::atomic<int64_t> ended_{0};
    Clock::time_point last_;
};

template <class T>
T* grown(std::vector<T>& buffer, int64_t n) {
    if (int64_t(buffer.size()) < n) buffer.resize(n);
    return buffer.data();
}

class Pass {
public:
    Pass(Pool& pool, const Kernels& kernels, Workspace& space, const Model& model, const Cache& cache,
         const Chunk& chunk, Watch& watch)
        : pool_(pool),
          k_(kernels),
          m_(model),
          cache_(cache),
          chunk_(chunk),
          watch_(watch),
          fold_(space.fold),
          rows_(int64_t(chunk.places.size())),
          all_wanted_(chunk.outputs.size() == chunk.places.size()),
          single_tokens_(all_wanted_ && chunk.stretches.size() == chunk.places.size()) {
        const int64_t D = m_.width;
        if (!chunk.logits) space.fold.prepare(int64_t(chunk.outputs.size()), m_.vocabulary, chunk.top.k);
        x_ = grown(space.x, rows_ * D);
        x_last_ = all_wanted_ ? x_ : grown(space.x_last, int64_t(chunk.outputs.size()) * D);
        normed_ = grown(space.normed, rows_ * stride(D));
        qkv_ = grown(space.qkv, rows_ * 3 * D);
        mixed_ = grown(space.mixed, rows_ * stride(D));
        hidden_ = grown(space.hidden, rows_ * stride(m_.mlp_width));
        const int64_t widths[] = {D, D, m_.mlp_width};
        for (int i = 0; i < 3; ++i) {
            const int64_t groups = ceil_div(widths[i], GROUP);
            quantized_[i] = {grown(space.values[i], rows_ * groups * GROUP), grown(space.scales[i], rows_ * groups),
                             grown(space.sums[i], rows_ * groups), groups};
        }
    }

    // Run by every thread of the pool.
    void run() const {
        const int64_t D = m_.width;
        int64_t ended = 0;
        pool_.each(rows_, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) embed(row);
        });
        watch_.ended(0, ended);
        for (int64_t layer = 0; layer < m_.layers; ++layer) {
            const Block& block = m_.blocks[layer];
            const int64_t step = 1 + layer * STEPS_OF_BLOCK;
            const bool narrows = !all_wanted_ && layer + 1 == m_.layers;
            norm(x_, rows_, block.attention_norm_weight, block.attention_norm_bias, block.qkv);
            watch_.ended(step, ended);
            linear(block.qkv, rows_, normed_, NORMED, {qkv_, 3 * D, nullptr, 0, false, {}});
            watch_.ended(step + 1, ended);
            // The keys of a sequence's only new token are stored by the task that reads them first.
            if (!single_tokens_) store_keys(layer);
            // Without outputs a chunk ends here, when its last keys are stored.
            watch_.ended(step + 2, ended);
            const int64_t rows = narrows ? int64_t(chunk_.outputs.size()) : rows_;
            if (rows == 0) return;
            float* x = narrows ? x_last_ : x_;
            // A head of whole groups is rounded where it is computed.
            const bool rounds = block.output.integer() && head_width() % GROUP == 0;
            narrows ? attend_outputs(layer, rounds) : attend(layer, rounds);
            watch_.ended(step + 2, ended);
            if (block.output.integer() && !rounds) quantize(mixed_, rows, D, MIXED);
            linear(block.output, rows, mixed_, MIXED, {x, D, x, D, false, {}});
            watch_.ended(step + 3, ended);
            norm(x, rows, block.mlp_norm_weight, block.mlp_norm_bias, block.up);
            watch_.ended(step + 4, ended);
            const Quantized hidden = block.down.integer() ? quantized_[HIDDEN] : Quantized{};
            float* y = block.down.integer() ? nullptr : hidden_;
            linear(block.up, rows, normed_, NORMED, {y, stride(m_.mlp_width), nullptr, 0, true, hidden});
            watch_.ended(step + 5, ended);
            linear(block.down, rows, hidden_, HIDDEN, {x, D, x, D, false, {}});
            watch_.ended(step + 6, ended);
        }
        const int64_t outputs = int64_t(chunk_.outputs.size());
        norm(x_last_, outputs, m_.final_norm_weight, m_.final_norm_bias, m_.embedding);
        watch_.ended(1 + m_.layers * STEPS_OF_BLOCK, ended);
        if (chunk_.logits) {
            linear(m_.embedding, outputs, normed_, NORMED, {chunk_.logits, m_.vocabulary, nullptr, 0, false, {}});
        } else {
            fold_products(pool_, k_, fold_, m_.embedding, {normed_, stride(D), quantized_[NORMED]}, outputs, chunk_.top);
        }
        watch_.ended(2 + m_.layers * STEPS_OF_BLOCK, ended);
    }

private:
    enum { NORMED, MIXED, HIDDEN };

    // Of the inputs of linear layers, whose rows a tile reads side by side: a line of the cache more than their width, as
    // rows a power of two apart would all fall into the same few places of the cache.
    static int64_t stride(int64_t width) { return width + 16; }

    void embed(int64_t row) const {
        float* x = x_ + row * m_.width;
        k_.matrix_row(m_.embedding, chunk_.tokens[row], x);
        const float* position = m_.positions + chunk_.places[row].position * m_.width;
        for (int64_t i = 0; i < m_.width; ++i) x[i] += position[i];
    }

    void norm(const float* x, int64_t rows, const float* weight, const float* bias, const Matrix& next) const {
        pool_.each(rows, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) {
                float* y = normed_ + row * stride(m_.width);
                k_.layer_norm(x + row * m_.width, weight, bias, m_.epsilon, m_.width, y);
                if (next.integer()) k_.quantize(y, m_.width, quantized_[NORMED], row);
            }
        });
    }

    void quantize(const float* x, int64_t rows, int64_t width, int which) const {
        pool_.each(rows, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) k_.quantize(x + row * stride(width), width, quantized_[which], row);
        });
    }

    void linear(const Matrix& matrix, int64_t rows, const float* x, int which, const Output& to) const {
        const Rows in = {x, stride(matrix.inputs), quantized_[which]};
        const int64_t parts = ceil_div(rows, ROWS_OF_TASK);
        pool_.each(matrix.panels() * parts, [&](int64_t begin, int64_t end) {
            if (parts == 1) return k_.linear(matrix, in, 0, rows, begin, end, to);
            for (int64_t i = begin; i < end; ++i) {
                const int64_t row = i % parts * ROWS_OF_TASK;
                k_.linear(matrix, in, row, std::min(ROWS_OF_TASK, rows - row), i / parts, i / parts + 1, to);
            }
        });
    }

    int64_t head_width() const { return m_.width / m_.heads; }

    void store(int64_t layer, int64_t row, int64_t head) const {
        const Place& place = chunk_.places[row];
        const float* k = qkv_ + row * 3 * m_.width + m_.width + head * head_width();
        k_.store(cache_, layer, head, place.table, place.position, k, k + m_.width);
    }

    void store_keys(int64_t layer) const {
        pool_.each(rows_ * m_.heads, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) store(layer, i / m_.heads, i % m_.heads);
        });
    }

    // The queries of `count` rows from `row` on, at the positions from `first` on; what they mix, to the rows of mixed
    // from `to` on, there rounded too if the next layer wants it so.
    void attend_rows(int64_t layer, int64_t head, int64_t row, int64_t count, int64_t first, const int32_t* table,
                     int64_t to, bool rounds) const {
        const int64_t D = m_.width, K = head_width();
        if (single_tokens_) store(layer, row, head);
        float* mixed = mixed_ + to * stride(D) + head * K;
        k_.attend(cache_, {qkv_ + row * 3 * D + head * K, 3 * D, count, first, table, layer, head}, mixed,
                  stride(D));
        if (!rounds) return;
        Quantized part = quantized_[MIXED];
        part.values += head * K;
        part.scales += head * K / GROUP;
        part.sums += head * K / GROUP;
        for (int64_t i = 0; i < count; ++i) k_.quantize(mixed + i * stride(D), K, part, to + i);
    }

    void attend(int64_t layer, bool rounds) const {
        pool_.each(int64_t(chunk_.stretches.size()) * m_.heads, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const Stretch& stretch = chunk_.stretches[i / m_.heads];
                attend_rows(layer, i % m_.heads, stretch.row, stretch.tokens, stretch.position, stretch.table,
                            stretch.row, rounds);
            }
        });
    }

    // Of the last layer, only for the rows whose logits are wanted where not all are; from here on they stand alone.
    void attend_outputs(int64_t layer, bool rounds) const {
        const int64_t D = m_.width, K = head_width();
        pool_.each(int64_t(chunk_.outputs.size()) * m_.heads, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const int64_t output = i / m_.heads, head = i % m_.heads, row = chunk_.outputs[output];
                const Place& place = chunk_.places[row];
                attend_rows(layer, head, row, 1, place.position, place.table, output, rounds);
                std::memcpy(x_last_ + output * D + head * K, x_ + row * D + head * K, K * sizeof(float));
            }
        });
    }

    Pool& pool_;
    const Kernels& k_;
    const Model& m_;
    const Cache& cache_;
    const Chunk& chunk_;
    Watch& watch_;
    FoldSpace& fold_;
    const int64_t rows_;
    const bool all_wanted_;     // the logits of every row
    const bool single_tokens_;  // each row is the only new one of its sequence, and its logits are wanted
    float *x_, *x_last_, *normed_, *qkv_, *mixed_, *hidden_;
    Quantized quantized_[3];
};

}  // namespace

void forward(Pool& pool, const Kernels& kernels, Workspace& space, const Model& model, const Cache& cache,
             const Segment* segments, int64_t n_segments, const int32_t* tokens, const int32_t* outputs,
             int64_t n_outputs, float* logits, const Top* top, int64_t* times) {
    int64_t first = 0, output = 0;  // of the chunk at hand, among all rows and outputs
    Chunk chunk;
    const auto flush = [&] {
        const int64_t rows = int64_t(chunk.places.size());
        if (rows == 0) return;
        chunk.tokens = tokens + first;
        if (logits) chunk.logits = logits + output * model.vocabulary;
        else chunk.top = {top->k, top->ids + output * top->k, top->logits + output * top->k, top->log_sum_exp + output};
        for (; output < n_outputs && outputs[output] < first + rows; ++output)
            chunk.outputs.push_back(outputs[output] - first);
        Watch watch(times);
        const Pass pass(pool, kernels, space, model, cache, chunk, watch);
        pool.run([&] { pass.run(); });
        first += rows;
        chunk = Chunk();
    };
    for (int64_t s = 0; s < n_segments; ++s) {
        const Segment& segment = segments[s];
        for (int64_t done = 0; done < segment.tokens;) {
            const int64_t row = int64_t(chunk.places.size());
            const int64_t count =
                std::min({segment.tokens - done, ROWS_AT_ONCE - row, QUERIES_OF_TASK});
            chunk.stretches.push_back({row, count, segment.start + done, segment.table});
            for (int64_t i = 0; i < count; ++i)
                chunk.places.push_back({segment.start + done + i, segment.table});
            done += count;
            if (row + count == ROWS_AT_ONCE) flush();
        }
    }
    flush();
}

}  // namespace gptwo
