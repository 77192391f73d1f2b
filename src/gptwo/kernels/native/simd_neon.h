// NEON of 64-bit Arm: 4 lanes.
#pragma once
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace gptwo::neon {

using F = float32x4_t;  // float lanes
using I = int32x4_t;    // int32 lanes
constexpr int W = 4;
constexpr const char* NAME = "neon";
// Rows of a tile whose accumulators stay in the 32 registers: 3 x 8 of float, 1 x 8 x 2 of integer and float.
constexpr int ROWS = 3;
constexpr int ROWS_INT = 1;

inline F zero() { return vdupq_n_f32(0.0f); }
inline F set1(float x) { return vdupq_n_f32(x); }
inline F load(const float* p) { return vld1q_f32(p); }
inline F load(const uint16_t* bf16) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(bf16), 16)); }
inline F load(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    const int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(four));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
}
inline void store(float* p, F x) { vst1q_f32(p, x); }
inline F add(F a, F b) { return vaddq_f32(a, b); }
inline F sub(F a, F b) { return vsubq_f32(a, b); }
inline F mul(F a, F b) { return vmulq_f32(a, b); }
inline F div(F a, F b) { return vdivq_f32(a, b); }
inline F max(F a, F b) { return vmaxq_f32(a, b); }
inline F min(F a, F b) { return vminq_f32(a, b); }
inline F abs(F a) { return vabsq_f32(a); }
inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline F round(F a) { return vrndnq_f32(a); }
// 2^n of whole n in [-126, 127]
inline F exp2_whole(F n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
}
inline float sum(F a) { return vaddvq_f32(a); }
inline float largest(F a) { return vmaxvq_f32(a); }

// Two bfloat16 in each lane: the low one and the high one as float.
inline I load_int(const void* p) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
inline F bf16_low(I pair) { return vreinterpretq_f32_s32(vshlq_n_s32(pair, 16)); }
inline F bf16_high(I pair) { return vreinterpretq_f32_s32(vandq_s32(pair, vdupq_n_s32(int32_t(0xffff0000)))); }

inline I int_set1(int32_t x) { return vdupq_n_s32(x); }
inline I int_add(I a, I b) { return vaddq_s32(a, b); }
inline F to_float(I a) { return vcvtq_f32_s32(a); }
inline I low_nibbles(I a) {
    return vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(a), vdupq_n_u8(0x0f)));
}
inline I high_nibbles(I a) { return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(a), 4)); }
// Per lane: acc + the dot product of four bytes of w, here below 128, with four signed bytes of a.
inline I dot(I acc, I w, I a) {
    const int8x16_t x = vreinterpretq_s8_s32(w), y = vreinterpretq_s8_s32(a);
    const I low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(y)));
    const I high = vpaddlq_s16(vmull_s8(vget_high_s8(x), vget_high_s8(y)));
    return vaddq_s32(acc, vpaddq_s32(low, high));
}
// The same of bytes kept with 128 added, which is taken off here.
inline I dot_offset_128(I acc, I w, I a) {
    return dot(acc, vreinterpretq_s32_u8(veorq_u8(vreinterpretq_u8_s32(w), vdupq_n_u8(0x80))), a);
}
constexpr int32_t OFFSET_128 = 0;
inline I four_bytes(const int8_t* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return vdupq_n_s32(x);
}
inline void store_int8(int8_t* p, F x) {
    const int16x4_t half = vqmovn_s32(vcvtnq_s32_f32(x));
    const int8x8_t bytes = vqmovn_s16(vcombine_s16(half, half));
    const int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
    std::memcpy(p, &four, 4);
}

}  // namespace gptwo::neon
