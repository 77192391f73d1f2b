// The kernels, once, over the vectors of whichever simd_*.h was included before, inside its namespace.
// Every sum runs in one order that its own row decides: k ascending in one accumulator per output, blocks of 32
// positions of the cache from the first. Tiles only put rows side by side.

constexpr int NV = PANEL / W;  // vectors of a panel's width

inline F exp(F x) {
    // Cody and Waite's reduction, then Cephes' polynomial: 2 ulp in [-87, 88]; beyond, the ends' values. Of a NaN and a
    // number x86's max and min take the second, so that a NaN stays one.
    x = min(set1(88.0f), max(set1(-87.0f), x));
    const F n = round(mul(x, set1(1.44269504f)));
    F r = fma(n, set1(-0.693359375f), x);
    r = fma(n, set1(2.12194440e-4f), r);
    F p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = fma(mul(p, r), r, add(r, set1(1.0f)));
    return mul(p, exp2_whole(n));
}

inline float exp(float x) {
    float lanes[W];
    store(lanes, exp(set1(x)));
    return lanes[0];
}

// 1/2 z (1 + tanh u) = z / (1 + exp(-2u)), u = sqrt(2/pi) (z + 0.044715 z^3)
inline F gelu(F z) {
    const F u = mul(z, fma(mul(z, z), set1(0.79788456f * 0.044715f), set1(0.79788456f)));
    return div(z, add(set1(1.0f), exp(mul(set1(-2.0f), u))));
}

// --- Linear layers: tiles of R rows by a panel -----------------------------------------------------------------------

// How far ahead of use a weight is asked for, in bytes, where one tile reads a panel: memory is what is waited for.
constexpr int AHEAD = 4096;

// What a tile asks the memory for while it computes: for each line pair of weights that it uses, two lines from `next`
// on, which then moves on by `step` bytes.
struct Ahead {
    const char* next;
    int64_t step;

    void fetch() {
        __builtin_prefetch(next);
        __builtin_prefetch(next + 64);
        next += step;
    }
};

template <int R>
void tile_fp32(const Matrix& m, const char* panel, Ahead ahead, const Rows& in, int64_t row, float (*out)[PANEL]) {
    const float* x[R];
    for (int r = 0; r < R; ++r) x[r] = in.x + (row + r) * in.stride;
    F acc[R][NV];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < NV; ++v) acc[r][v] = zero();
    const float* w = reinterpret_cast<const float*>(panel);
    for (int64_t k = 0; k < m.inputs; ++k, w += PANEL) {
        ahead.fetch();
        F wv[NV];
        for (int v = 0; v < NV; ++v) wv[v] = load(w + v * W);
        for (int r = 0; r < R; ++r) {
            const F xr = set1(x[r][k]);
            for (int v = 0; v < NV; ++v) acc[r][v] = fma(xr, wv[v], acc[r][v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < NV; ++v) store(out[r] + v * W, acc[r][v]);
}

template <int R>
void tile_bf16(const Matrix& m, const char* panel, Ahead ahead, const Rows& in, int64_t row, float (*out)[PANEL]) {
    const float* x[R];
    for (int r = 0; r < R; ++r) x[r] = in.x + (row + r) * in.stride;
    F acc[R][NV];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < NV; ++v) acc[r][v] = zero();
    for (int64_t k = 0; k < m.inputs; k += 2, panel += PANEL * 4) {
        ahead.fetch();
        I pair[NV];
        for (int v = 0; v < NV; ++v) pair[v] = load_int(panel + v * W * 4);
        for (int r = 0; r < R; ++r) {
            const F xr = set1(x[r][k]);
            for (int v = 0; v < NV; ++v) acc[r][v] = fma(xr, bf16_low(pair[v]), acc[r][v]);
        }
        if (k + 1 == m.inputs) break;
        for (int r = 0; r < R; ++r) {
            const F xr = set1(x[r][k + 1]);
            for (int v = 0; v < NV; ++v) acc[r][v] = fma(xr, bf16_high(pair[v]), acc[r][v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < NV; ++v) store(out[r] + v * W, acc[r][v]);
}

// Integer weights: of each group the exact integer sum, then acc += (scale of w * scale of x) * sum.
template <int R, bool FOUR_BITS>
void tile_integer(const Matrix& m, const char* panel, Ahead ahead, const Rows& in, int64_t row,
                  float (*out)[PANEL]) {
    constexpr int VALUES = FOUR_BITS ? GROUP * PANEL / 2 : GROUP * PANEL;
    const int8_t* q[R];
    const float* scales[R];
    const int32_t* sums[R];
    for (int r = 0; r < R; ++r) {
        q[r] = in.quantized.row_values(row + r);
        scales[r] = in.quantized.row_scales(row + r);
        sums[r] = in.quantized.row_sums(row + r);
    }
    F acc[R][NV];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < NV; ++v) acc[r][v] = zero();
    const int64_t groups = m.groups();
    for (int64_t g = 0; g < groups; ++g) {
        I part[R][NV];
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < NV; ++v) part[r][v] = int_set1(-(FOUR_BITS ? 8 : OFFSET_128) * sums[r][g]);
        if constexpr (FOUR_BITS) {
            I high_part[R][NV];
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < NV; ++v) high_part[r][v] = int_set1(0);
            for (int i = 0; i < GROUP / 8; ++i) {
                ahead.fetch();
                for (int v = 0; v < NV; ++v) {
                    const I w = load_int(panel + (i * PANEL + v * W) * 4);
                    const I low = low_nibbles(w), high = high_nibbles(w);
                    for (int r = 0; r < R; ++r) {
                        part[r][v] = dot(part[r][v], low, four_bytes(q[r] + g * GROUP + i * 8));
                        high_part[r][v] = dot(high_part[r][v], high, four_bytes(q[r] + g * GROUP + i * 8 + 4));
                    }
                }
            }
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < NV; ++v) part[r][v] = int_add(part[r][v], high_part[r][v]);
        } else {
            // Of one row two sums side by side, as one would wait for itself; the total is the same integer.
            I other[NV];
            for (int v = 0; v < NV; ++v) other[v] = int_set1(0);
            for (int i = 0; i < GROUP / 4; ++i) {
                ahead.fetch();
                for (int v = 0; v < NV; ++v) {
                    const I w = load_int(panel + (i * PANEL + v * W) * 4);
                    for (int r = 0; r < R; ++r) {
                        I& sum = R == 1 && i % 2 == 1 ? other[v] : part[r][v];
                        sum = dot_offset_128(sum, w, four_bytes(q[r] + g * GROUP + i * 4));
                    }
                }
            }
            if constexpr (R == 1)
                for (int v = 0; v < NV; ++v) part[0][v] = int_add(part[0][v], other[v]);
        }
        const uint16_t* weight_scales = reinterpret_cast<const uint16_t*>(panel + VALUES);
        ahead.next += ahead.step / 2;  // the scales are one line
        for (int v = 0; v < NV; ++v) {
            const F weight_scale = load(weight_scales + v * W);
            for (int r = 0; r < R; ++r)
                acc[r][v] = fma(mul(weight_scale, set1(scales[r][g])), to_float(part[r][v]), acc[r][v]);
        }
        panel += VALUES + PANEL * 2;
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < NV; ++v) store(out[r] + v * W, acc[r][v]);
}

using Tile = void (*)(const Matrix&, const char* panel, Ahead ahead, const Rows&, int64_t row, float (*out)[PANEL]);

// The tile of 1, 2, ... rows of each dtype.
template <int... R>
Tile float_tile(int32_t dtype, int64_t rows, std::integer_sequence<int, R...>) {
    static constexpr Tile fp32[] = {tile_fp32<R + 1>...};
    static constexpr Tile bf16[] = {tile_bf16<R + 1>...};
    return (dtype == FP32 ? fp32 : bf16)[rows - 1];
}

template <int... R>
Tile integer_tile(int32_t dtype, int64_t rows, std::integer_sequence<int, R...>) {
    static constexpr Tile int8[] = {tile_integer<R + 1, false>...};
    static constexpr Tile int4[] = {tile_integer<R + 1, true>...};
    return (dtype == INT8 ? int8 : int4)[rows - 1];
}

void quantize_group(const float* x, int8_t* values, float* scale, int32_t* sum_of_values) {
    F most = zero(), nothing = zero();
    for (int i = 0; i < GROUP; i += W) {
        most = max(abs(load(x + i)), most);
        nothing = fma(load(x + i), zero(), nothing);
    }
    // A NaN or an infinity among them makes the scale NaN: it must not vanish in the rounding.
    const float largest_x = largest(most) + sum(nothing);
    // What is smaller would overflow in 127 / x, and is nothing beside any bias.
    const float inverse = largest_x < 1e-30f ? 0.0f : 127.0f / largest_x;
    for (int i = 0; i < GROUP; i += W) store_int8(values + i, round(mul(load(x + i), set1(inverse))));
    int32_t total = 0;
    for (int i = 0; i < GROUP; ++i) total += values[i];
    *scale = inverse == 0.0f ? 0.0f : largest_x / 127.0f;
    *sum_of_values = total;
}

void quantize(const float* x, int64_t width, const Quantized& to, int64_t row) {
    for (int64_t g = 0; g < ceil_div(width, GROUP); ++g) {
        float padded[GROUP] = {};
        const int64_t n = std::min<int64_t>(GROUP, width - g * GROUP);
        std::memcpy(padded, x + g * GROUP, n * sizeof(float));
        quantize_group(padded, to.row_values(row) + g * GROUP, to.row_scales(row) + g, to.row_sums(row) + g);
    }
}

void finish_tile(const Matrix& m, int64_t panel, int64_t row, int64_t rows, float (*tile)[PANEL], const Output& to) {
    const int64_t first = panel * PANEL;
    const int64_t n = std::min<int64_t>(PANEL, m.outputs - first);
    float bias[PANEL] = {};
    if (m.bias) std::memcpy(bias, m.bias + first, n * sizeof(float));
    for (int64_t r = 0; r < rows; ++r) {
        float residual[PANEL] = {};
        if (to.residual)
            std::memcpy(residual, to.residual + (row + r) * to.residual_stride + first, n * sizeof(float));
        for (int v = 0; v < NV; ++v) {
            F y = add(load(tile[r] + v * W), load(bias + v * W));
            if (to.gelu) y = gelu(y);
            store(tile[r] + v * W, add(y, load(residual + v * W)));
        }
        if (to.y) std::memcpy(to.y + (row + r) * to.stride + first, tile[r], n * sizeof(float));
        if (to.quantized.values)
            quantize_group(tile[r], to.quantized.row_values(row + r) + first,
                           to.quantized.row_scales(row + r) + panel, to.quantized.row_sums(row + r) + panel);
    }
}

void linear(const Matrix& m, const Rows& in, int64_t row, int64_t rows, int64_t panel, int64_t panel_end,
            const Output& to) {
    // Tiles of equal size. One alone asks for its own weights; of several, the first of which brings the panel into the
    // core's cache, each asks for its part of the next panel.
    const int64_t tiles = ceil_div(rows, m.integer() ? ROWS_INT : ROWS);
    float tile[std::max(ROWS, ROWS_INT)][PANEL];
    for (int64_t p = panel; p < panel_end; ++p) {
        for (int64_t t = 0; t < tiles; ++t) {
            const int64_t first = row + t * rows / tiles, count = row + (t + 1) * rows / tiles - first;
            const Ahead ahead = tiles == 1 || p + 1 == panel_end ? Ahead{m.panel(p) + AHEAD, 2 * 64}
                                           : Ahead{m.panel(p + 1) + t * m.panel_bytes() / tiles, 2 * 64 / tiles};
            const Tile compute = m.integer()
                                     ? integer_tile(m.dtype, count, std::make_integer_sequence<int, ROWS_INT>())
                                     : float_tile(m.dtype, count, std::make_integer_sequence<int, ROWS>());
            compute(m, m.panel(p), ahead, in, first, tile);
            finish_tile(m, p, first, count, tile, to);
        }
    }
}

// One row of W, as floats: the embedding of a token.
void matrix_row(const Matrix& m, int64_t row, float* values) {
    const char* panel = m.panel(row / PANEL);
    const int64_t lane = row % PANEL;
    const auto bf16 = [](const char* p) {
        uint32_t bits = uint32_t(*reinterpret_cast<const uint16_t*>(p)) << 16;
        float x;
        std::memcpy(&x, &bits, 4);
        return x;
    };
    const int64_t values_bytes = m.dtype == INT4 ? GROUP * PANEL / 2 : GROUP * PANEL;
    for (int64_t k = 0; k < m.inputs; ++k) {
        const char* group = panel + k / GROUP * (values_bytes + PANEL * 2);
        const int64_t i = k % GROUP;
        if (m.dtype == FP32) {
            values[k] = reinterpret_cast<const float*>(panel)[k * PANEL + lane];
        } else if (m.dtype == BF16) {
            values[k] = bf16(panel + (k / 2 * PANEL + lane) * 4 + k % 2 * 2);
        } else if (m.dtype == INT8) {
            const uint8_t stored = group[(i / 4 * PANEL + lane) * 4 + i % 4];
            values[k] = float(int(stored) - 128) * bf16(group + values_bytes + lane * 2);
        } else {
            const uint8_t stored = group[(i / 8 * PANEL + lane) * 4 + i % 4];
            values[k] = float((i % 8 < 4 ? stored & 15 : stored >> 4) - 8) * bf16(group + values_bytes + lane * 2);
        }
    }
}

// --- Layer norm ------------------------------------------------------------------------------------------------------

// gamma (x - mean) / sqrt(variance + epsilon) + beta, two passes, the biased variance.
void layer_norm(const float* x, const float* gamma, const float* beta, float epsilon, int64_t width, float* y) {
    const int64_t whole = width / W * W;
    F total = zero();
    for (int64_t i = 0; i < whole; i += W) total = add(total, load(x + i));
    float mean = sum(total);
    for (int64_t i = whole; i < width; ++i) mean += x[i];
    mean /= float(width);
    F squares = zero();
    for (int64_t i = 0; i < whole; i += W) {
        const F d = sub(load(x + i), set1(mean));
        squares = fma(d, d, squares);
    }
    float variance = sum(squares);
    for (int64_t i = whole; i < width; ++i) variance += (x[i] - mean) * (x[i] - mean);
    variance /= float(width);
    const float scale = 1.0f / std::sqrt(variance + epsilon);
    for (int64_t i = 0; i < whole; i += W)
        store(y + i, fma(mul(sub(load(x + i), set1(mean)), set1(scale)), load(gamma + i), load(beta + i)));
    for (int64_t i = whole; i < width; ++i) y[i] = (x[i] - mean) * scale * gamma[i] + beta[i];
}

// --- Attention over the cache ----------------------------------------------------------------------------------------

inline uint16_t to_bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);  // NaN stays one
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The values as the cache keeps them: in int8 times 127 / the largest, which is kept as the scale.
inline void convert(float x, float, float* to) { *to = x; }
inline void convert(float x, float, uint16_t* to) { *to = to_bf16(x); }
inline void convert(float x, float inverse, int8_t* to) { *to = int8_t(std::lrint(x * inverse)); }

inline float inverse_of_largest(const float* x, int64_t n, float* scale) {
    float most = 0.0f, nothing = 0.0f;
    for (int64_t i = 0; i < n; ++i) {
        most = std::max(most, std::fabs(x[i]));
        nothing += x[i] * 0.0f;
    }
    *scale = most / 127.0f + nothing;  // NaN where an x is no number
    if (nothing != 0.0f) return 0.0f;
    return most < 1e-30f ? 0.0f : 127.0f / most;
}

template <class T>
void store_as(const Cache& cache, char* unit, int64_t lane, const float* k, const float* v) {
    const int64_t K = cache.head_width, padded = cache.padded_width();
    float k_inverse = 1.0f, v_inverse = 1.0f;
    if constexpr (sizeof(T) == 1) {
        float* scales = reinterpret_cast<float*>(unit);
        k_inverse = inverse_of_largest(k, K, scales + lane);
        v_inverse = inverse_of_largest(v, K, scales + BLOCK + lane);
    }
    T* keys = reinterpret_cast<T*>(unit + cache.scales_bytes());
    T* values = keys + K * BLOCK + lane * padded;
    for (int64_t i = 0; i < K; ++i) convert(k[i], k_inverse, keys + i * BLOCK + lane);
    for (int64_t i = 0; i < K; ++i) convert(v[i], v_inverse, values + i);
    for (int64_t i = K; i < padded; ++i) values[i] = T(0);
}

void store_keys(const Cache& cache, int64_t layer, int64_t head, const int32_t* table, int64_t position,
                const float* k, const float* v) {
    char* unit = cache.unit(layer, table[position / BLOCK], head);
    const int64_t lane = position % BLOCK;
    if (cache.dtype == FP32) store_as<float>(cache, unit, lane, k, v);
    else if (cache.dtype == BF16) store_as<uint16_t>(cache, unit, lane, k, v);
    else store_as<int8_t>(cache, unit, lane, k, v);
}

constexpr int QUERIES = 4;   // that share a pass over a block
constexpr int MOST_K = 256;  // widest head

// What is known of a query's softmax so far: the largest score, the sum of exponentials, their mix of values.
struct Query {
    float q[MOST_K];
    float mix[MOST_K];
    float p[BLOCK];
    float largest;
    float total;
    float decay;  // what the largest score's growth makes of the sums so far
};

// p = K q for the 32 keys of a block, i ascending.
template <int R, class T>
void scores(const Cache& cache, const char* unit, const char* next, Query* queries) {
    const T* keys = reinterpret_cast<const T*>(unit + cache.scales_bytes());
    F acc[R][NV];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < NV; ++v) acc[r][v] = zero();
    for (int64_t i = 0; i < cache.head_width; ++i) {
        for (int line = 0; line < int(BLOCK * sizeof(T)); line += 64)
            __builtin_prefetch(next + i * BLOCK * sizeof(T) + line);
        F key[NV];
        for (int v = 0; v < NV; ++v) key[v] = load(keys + i * BLOCK + v * W);
        for (int r = 0; r < R; ++r) {
            const F q = set1(queries[r].q[i]);
            for (int v = 0; v < NV; ++v) acc[r][v] = fma(q, key[v], acc[r][v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < NV; ++v) {
            if constexpr (sizeof(T) == 1)
                acc[r][v] = mul(acc[r][v], load(reinterpret_cast<const float*>(unit) + v * W));
            store(queries[r].p + v * W, acc[r][v]);
        }
}

// From scores to exponentials of the first n keys of a block; what lies behind them may be anything.
template <class T>
void exponentials(const char* unit, Query& query, int64_t n) {
    for (int64_t s = n; s < BLOCK; ++s) query.p[s] = -std::numeric_limits<float>::infinity();
    F most = load(query.p);
    for (int v = 1; v < NV; ++v) most = max(load(query.p + v * W), most);
    const float largest_now = std::max(query.largest, largest(most));
    query.decay = query.total == 0.0f ? 0.0f : exp(query.largest - largest_now);
    query.largest = largest_now;
    for (int v = 0; v < NV; ++v) store(query.p + v * W, exp(sub(load(query.p + v * W), set1(largest_now))));
    for (int64_t s = n; s < BLOCK; ++s) query.p[s] = 0.0f;
    F total = load(query.p);
    for (int v = 1; v < NV; ++v) total = add(total, load(query.p + v * W));
    query.total = std::fma(query.total, query.decay, sum(total));
    if constexpr (sizeof(T) == 1) {
        const float* scales = reinterpret_cast<const float*>(unit) + BLOCK;
        for (int64_t s = 0; s < n; ++s) query.p[s] *= scales[s];
    }
}

// mix = decay mix + p V over the first n values of a block, s ascending.
template <int R, class T>
void mix_values(const Cache& cache, const char* unit, const char* next, Query* queries, int64_t n) {
    constexpr int WIDE = W >= 16 ? 4 : W == 8 ? 2 : 4;  // vectors at a time; 16 values, or 64
    const int64_t padded = cache.padded_width();
    const T* values = reinterpret_cast<const T*>(unit + cache.scales_bytes()) + cache.head_width * BLOCK;
    const T* next_values = reinterpret_cast<const T*>(next + cache.scales_bytes()) + cache.head_width * BLOCK;
    const auto columns = [&](int64_t d, auto wide) {
        constexpr int N = decltype(wide)::value;
        F acc[R][N];
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < N; ++v) acc[r][v] = mul(load(queries[r].mix + d + v * W), set1(queries[r].decay));
        for (int64_t s = 0; s < n; ++s) {
            for (int line = 0; line < int(N * W * sizeof(T)); line += 64)
                __builtin_prefetch(next_values + s * padded + d + line / sizeof(T));
            F value[N];
            for (int v = 0; v < N; ++v) value[v] = load(values + s * padded + d + v * W);
            for (int r = 0; r < R; ++r) {
                const F p = set1(queries[r].p[s]);
                for (int v = 0; v < N; ++v) acc[r][v] = fma(p, value[v], acc[r][v]);
            }
        }
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < N; ++v) store(queries[r].mix + d + v * W, acc[r][v]);
    };
    int64_t d = 0;
    for (; d + WIDE * W <= padded; d += WIDE * W) columns(d, std::integral_constant<int, WIDE>());
    for (; d < padded; d += W) columns(d, std::integral_constant<int, 1>());
}

template <class T>
void attend_as(const Cache& cache, const Queries& in, float* out, int64_t out_stride) {
    const int64_t K = cache.head_width, padded = cache.padded_width();
    const float scale = 1.0f / std::sqrt(float(K));
    Query queries[QUERIES];
    for (int64_t row = 0; row < in.rows; row += QUERIES) {
        const int64_t count = std::min<int64_t>(QUERIES, in.rows - row);
        for (int64_t r = 0; r < count; ++r) {
            const float* q = in.q + (row + r) * in.stride;
            for (int64_t i = 0; i < K; ++i) queries[r].q[i] = q[i] * scale;
            std::memset(queries[r].mix, 0, padded * sizeof(float));
            queries[r].largest = -std::numeric_limits<float>::infinity();
            queries[r].total = 0.0f;
        }
        const int64_t first = in.first + row;
        for (int64_t start = 0; start < first + count; start += BLOCK) {
            const char* unit = cache.unit(in.layer, in.table[start / BLOCK], in.head);
            // A sequence's blocks may lie anywhere, so that the processor does not guess the next one.
            const char* next =
                start + BLOCK < first + count ? cache.unit(in.layer, in.table[start / BLOCK + 1], in.head) : unit;
            if (count == QUERIES && start + BLOCK <= first + 1) {
                scores<QUERIES, T>(cache, unit, next, queries);
                for (int64_t r = 0; r < count; ++r) exponentials<T>(unit, queries[r], BLOCK);
                mix_values<QUERIES, T>(cache, unit, next, queries, BLOCK);
                continue;
            }
            for (int64_t r = 0; r < count; ++r) {
                const int64_t n = std::min<int64_t>(BLOCK, first + r + 1 - start);
                if (n <= 0) continue;
                scores<1, T>(cache, unit, next, queries + r);
                exponentials<T>(unit, queries[r], n);
                mix_values<1, T>(cache, unit, next, queries + r, n);
            }
        }
        for (int64_t r = 0; r < count; ++r) {
            const F total = set1(queries[r].total);
            for (int64_t i = 0; i < padded; i += W) store(queries[r].mix + i, div(load(queries[r].mix + i), total));
            std::memcpy(out + (row + r) * out_stride, queries[r].mix, K * sizeof(float));
        }
    }
}

void attend(const Cache& cache, const Queries& in, float* out, int64_t out_stride) {
    if (cache.dtype == FP32) attend_as<float>(cache, in, out, out_stride);
    else if (cache.dtype == BF16) attend_as<uint16_t>(cache, in, out, out_stride);
    else attend_as<int8_t>(cache, in, out, out_stride);
}

// --- Of a row of logits ----------------------------------------------------------------------------------------------

// Few enough that float lanes add them well.
Fold fold(const float* z, int64_t n) {
    const int64_t whole = n / W * W;
    // Not -infinity: the difference of two of them is no number.
    F most = set1(std::numeric_limits<float>::lowest());
    for (int64_t i = 0; i < whole; i += W) most = max(load(z + i), most);
    float top = largest(most);
    for (int64_t i = whole; i < n; ++i) top = z[i] > top ? z[i] : top;
    F part = zero();
    for (int64_t i = 0; i < whole; i += W) part = add(part, exp(sub(load(z + i), set1(top))));
    float total = sum(part);
    for (int64_t i = whole; i < n; ++i) total += exp(z[i] - top);
    return {top, total};
}

int64_t reach(const float* z, int64_t n, float bound, int32_t first, Candidate* found) {
    int64_t count = 0;
    for (int64_t start = 0; start < n; start += PANEL) {
        const int64_t end = std::min<int64_t>(n, start + PANEL);
        if (end - start == PANEL) {
            F most = load(z + start);
            for (int v = 1; v < NV; ++v) most = max(load(z + start + v * W), most);
            if (largest(most) < bound) continue;
        }
        for (int64_t i = start; i < end; ++i) {
            found[count] = {z[i], first + int32_t(i)};
            count += z[i] >= bound;
        }
    }
    return count;
}

// In plain loops over doubles, which the compiler makes vectors of: each value is computed alone, so it does not matter how.
inline double exp_of_negative(double x) {
    // Cody and Waite's reduction, then Taylor's polynomial: 1 ulp; 0 where double's exponents end.
    const double within = x > -708.0 ? x : -708.0;
    constexpr double WHOLE = 0x1.8p52;  // beside it, a double has no place for fractions, and n is in its last bits
    const double shifted = fma(within, 1.4426950408889634, WHOLE);
    const double n = shifted - WHOLE;
    double r = fma(n, -6.93147180369123816490e-01, within);
    r = fma(n, -1.90821492927058770002e-10, r);
    double p = 1.0 / 6227020800.0;
    p = fma(p, r, 1.0 / 479001600.0);
    p = fma(p, r, 1.0 / 39916800.0);
    p = fma(p, r, 1.0 / 3628800.0);
    p = fma(p, r, 1.0 / 362880.0);
    p = fma(p, r, 1.0 / 40320.0);
    p = fma(p, r, 1.0 / 5040.0);
    p = fma(p, r, 1.0 / 720.0);
    p = fma(p, r, 1.0 / 120.0);
    p = fma(p, r, 1.0 / 24.0);
    p = fma(p, r, 1.0 / 6.0);
    p = fma(p, r, 0.5);
    p = fma(p, r, 1.0);
    p = fma(p, r, 1.0);
    uint64_t bits, exponent;
    std::memcpy(&bits, &p, 8);
    std::memcpy(&exponent, &shifted, 8);
    bits += exponent << 52;
    bits &= -uint64_t(x > -708.0);  // a choice would keep some compilers from vectors
    double scaled;
    std::memcpy(&scaled, &bits, 8);
    return scaled;
}

void weigh(double* __restrict z, int64_t n, double top, double temperature, double* __restrict weights) {
    for (int64_t i = 0; i < n; ++i) {
        z[i] = (z[i] - top) / temperature;
        weights[i] = exp_of_negative(z[i]);
    }
}

// --- This machine's ceilings -----------------------------------------------------------------------------------------

// Reads n floats, a multiple of 8 vectors of them, and does as little as can be with them.
float read(const float* p, int64_t n) {
    F acc[8];
    for (int v = 0; v < 8; ++v) acc[v] = zero();
    for (int64_t i = 0; i + 8 * W <= n; i += 8 * W) {
        for (int v = 0; v < 8; ++v) {
            if (v * W % 16 == 0) __builtin_prefetch(reinterpret_cast<const char*>(p + i + v * W) + AHEAD);
            acc[v] = max(acc[v], load(p + i + v * W));
        }
    }
    for (int v = 1; v < 8; ++v) acc[0] = max(acc[0], acc[v]);
    return largest(acc[0]);
}

// 12 independent chains of multiply-adds: 24 W FLOPs a round.
float multiply_add(int64_t rounds) {
    F acc[12];
    for (int v = 0; v < 12; ++v) acc[v] = set1(float(v));
    const F a = set1(0.999f), b = set1(0.001f);
    for (int64_t i = 0; i < rounds; ++i)
        for (int v = 0; v < 12; ++v) acc[v] = fma(acc[v], a, b);
    for (int v = 1; v < 12; ++v) acc[0] = add(acc[0], acc[v]);
    return sum(acc[0]);
}

extern const Kernels KERNELS;
const Kernels KERNELS = {NAME,   linear, layer_norm, quantize, matrix_row,  store_keys,
                         attend, fold,   reach,      weigh,    read,        multiply_add};
