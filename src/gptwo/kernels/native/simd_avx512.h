// AVX-512 (F, BW, VL, VNNI): 16 lanes.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace gptwo::avx512 {

using F = __m512;   // float lanes
using I = __m512i;  // int32 lanes
constexpr int W = 16;
constexpr const char* NAME = "avx512";
// Rows of a tile whose accumulators stay in the 32 registers: 12 x 2 of float, 6 x 2 x 2 of integer and float.
constexpr int ROWS = 12;
constexpr int ROWS_INT = 6;

inline F zero() { return _mm512_setzero_ps(); }
inline F set1(float x) { return _mm512_set1_ps(x); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline F load(const uint16_t* bf16) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bf16));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline F load(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F abs(F a) { return _mm512_abs_ps(a); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// 2^n of whole n in [-126, 127]
inline F exp2_whole(F n) {
    const I biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
inline float sum(F a) { return _mm512_reduce_add_ps(a); }
inline float largest(F a) { return _mm512_reduce_max_ps(a); }

// Two bfloat16 in each lane: the low one and the high one as float.
inline I load_int(const void* p) { return _mm512_loadu_si512(p); }
inline F bf16_low(I pair) { return _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)); }
inline F bf16_high(I pair) { return _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(int(0xffff0000)))); }

inline I int_set1(int32_t x) { return _mm512_set1_epi32(x); }
inline I int_add(I a, I b) { return _mm512_add_epi32(a, b); }
inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
inline I low_nibbles(I a) { return _mm512_and_si512(a, _mm512_set1_epi8(0x0f)); }
inline I high_nibbles(I a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(0x0f)); }
// Per lane: acc + the dot product of four unsigned bytes of w with four signed bytes of a.
inline I dot(I acc, I w, I a) { return _mm512_dpbusd_epi32(acc, w, a); }
// The same of bytes kept with 128 added, and what is left to take from the sum: 128 times the sum of a.
inline I dot_offset_128(I acc, I w, I a) { return _mm512_dpbusd_epi32(acc, w, a); }
constexpr int32_t OFFSET_128 = 128;
inline I four_bytes(const int8_t* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}
inline void store_int8(int8_t* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
}

}  // namespace gptwo::avx512
