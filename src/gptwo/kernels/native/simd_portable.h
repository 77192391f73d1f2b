// Any machine, through the compiler's vector extensions: 4 lanes. A product and a sum are rounded one after the other.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace gptwo::portable {

typedef float F __attribute__((vector_size(16)));    // float lanes
typedef int32_t I __attribute__((vector_size(16)));  // int32 lanes
constexpr int W = 4;
constexpr const char* NAME = "portable";
constexpr int ROWS = 1;
constexpr int ROWS_INT = 1;

inline F set1(float x) { return F{x, x, x, x}; }
inline F zero() { return set1(0.0f); }
inline F load(const float* p) {
    F x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline I int_set1(int32_t x) { return I{x, x, x, x}; }
inline F to_float(I a) { return __builtin_convertvector(a, F); }
inline F as_float(I a) { return (F)a; }  // the same bits
inline F load(const uint16_t* bf16) { return as_float(I{bf16[0], bf16[1], bf16[2], bf16[3]} << 16); }
inline F load(const int8_t* p) { return F{float(p[0]), float(p[1]), float(p[2]), float(p[3])}; }
inline void store(float* p, F x) { std::memcpy(p, &x, sizeof x); }
inline F add(F a, F b) { return a + b; }
inline F sub(F a, F b) { return a - b; }
inline F mul(F a, F b) { return a * b; }
inline F div(F a, F b) { return a / b; }
inline F max(F a, F b) { return a > b ? a : b; }
inline F min(F a, F b) { return a < b ? a : b; }
inline F abs(F a) { return max(a, -a); }
inline F fma(F a, F b, F c) { return a * b + c; }
inline double fma(double a, double b, double c) { return a * b + c; }
inline F round(F a) {
    return F{std::nearbyint(a[0]), std::nearbyint(a[1]), std::nearbyint(a[2]), std::nearbyint(a[3])};
}
// 2^n of whole n in [-126, 127]
inline F exp2_whole(F n) { return as_float((__builtin_convertvector(n, I) + 127) << 23); }
inline float sum(F a) { return (a[0] + a[2]) + (a[1] + a[3]); }
inline float largest(F a) { return std::fmax(std::fmax(a[0], a[2]), std::fmax(a[1], a[3])); }

// Two bfloat16 in each lane: the low one and the high one as float. Memory is little-endian.
inline I load_int(const void* p) {
    I x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline F bf16_low(I pair) { return as_float(pair << 16); }
inline F bf16_high(I pair) { return as_float(pair & int_set1(int32_t(0xffff0000))); }

inline I int_add(I a, I b) { return a + b; }
inline I low_nibbles(I a) { return a & int_set1(0x0f0f0f0f); }
inline I high_nibbles(I a) { return (a >> 4) & int_set1(0x0f0f0f0f); }
// Per lane: acc + the dot product of four unsigned bytes of w with four signed bytes of a.
inline I dot(I acc, I w, I a) {
    for (int j = 0; j < 4; ++j) acc += ((w >> (8 * j)) & 0xff) * ((a << (24 - 8 * j)) >> 24);
    return acc;
}
// The same of bytes kept with 128 added, and what is left to take from the sum: 128 times the sum of a.
inline I dot_offset_128(I acc, I w, I a) { return dot(acc, w, a); }
constexpr int32_t OFFSET_128 = 128;
inline I four_bytes(const int8_t* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return int_set1(x);
}
inline void store_int8(int8_t* p, F x) {
    for (int j = 0; j < 4; ++j) p[j] = int8_t(std::lrint(x[j]));
}

}  // namespace gptwo::portable
