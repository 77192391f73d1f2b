// AVX2 with FMA: 8 lanes.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace gptwo::avx2 {

using F = __m256;   // float lanes
using I = __m256i;  // int32 lanes
constexpr int W = 8;
constexpr const char* NAME = "avx2";
// Rows of a tile whose accumulators stay in the 16 registers: 3 x 4 of float; of integers with float, what is best.
constexpr int ROWS = 3;
constexpr int ROWS_INT = 2;

inline F zero() { return _mm256_setzero_ps(); }
inline F set1(float x) { return _mm256_set1_ps(x); }
inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline F load(const uint16_t* bf16) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bf16));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline F load(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F div(F a, F b) { return _mm256_div_ps(a, b); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// 2^n of whole n in [-126, 127]
inline F exp2_whole(F n) {
    const I biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline float sum(F a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
inline float largest(F a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}

// Two bfloat16 in each lane: the low one and the high one as float.
inline I load_int(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline F bf16_low(I pair) { return _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)); }
inline F bf16_high(I pair) { return _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32(int(0xffff0000)))); }

inline I int_set1(int32_t x) { return _mm256_set1_epi32(x); }
inline I int_add(I a, I b) { return _mm256_add_epi32(a, b); }
inline F to_float(I a) { return _mm256_cvtepi32_ps(a); }
inline I low_nibbles(I a) { return _mm256_and_si256(a, _mm256_set1_epi8(0x0f)); }
inline I high_nibbles(I a) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(0x0f)); }
// Per lane: acc + the dot product of four unsigned bytes of w with four signed bytes of a; w below 128, or the sums of
// two products would not fit 16 bits.
inline I dot(I acc, I w, I a) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
}
// The same of bytes kept with 128 added, which is taken off here: |w| times a with w's sign.
inline I dot_offset_128(I acc, I w, I a) {
    const I whole = _mm256_xor_si256(w, _mm256_set1_epi8(int8_t(0x80)));
    return dot(acc, _mm256_abs_epi8(whole), _mm256_sign_epi8(a, whole));
}
constexpr int32_t OFFSET_128 = 0;
inline I four_bytes(const int8_t* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
}
inline void store_int8(int8_t* p, F x) {
    const I whole = _mm256_cvtps_epi32(x);
    __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(packed, packed));
}

}  // namespace gptwo::avx2
