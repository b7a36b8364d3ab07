// Sixteen lanes in four NEON registers of 64-bit ARM. Byte products are `sdot` on signed weights, or, where the
// processor has the 8-bit matrix extension, `usdot`, which takes the weights as they are.
#pragma once
#include <arm_neon.h>
#include <cstdint>
#include <cstring>

struct V { float32x4_t v[4]; };
struct I { int32x4_t v[4]; };
struct W { uint8x16_t v[4]; };
using X = int8x16_t;
#define EACH for (int i = 0; i < 4; i++)

static inline V vload(const float* p) { V r; EACH r.v[i] = vld1q_f32(p + 4 * i); return r; }
static inline void vstore(float* p, V a) { EACH vst1q_f32(p + 4 * i, a.v[i]); }
static inline V vset(float x) { V r; EACH r.v[i] = vdupq_n_f32(x); return r; }
static inline V vadd(V a, V b) { EACH a.v[i] = vaddq_f32(a.v[i], b.v[i]); return a; }
static inline V vsub(V a, V b) { EACH a.v[i] = vsubq_f32(a.v[i], b.v[i]); return a; }
static inline V vmul(V a, V b) { EACH a.v[i] = vmulq_f32(a.v[i], b.v[i]); return a; }
static inline V vdiv(V a, V b) { EACH a.v[i] = vdivq_f32(a.v[i], b.v[i]); return a; }
// Not vmaxq: the second operand is taken when either is not a number, as everywhere else.
static inline float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline V vmax(V a, V b) { EACH a.v[i] = larger(a.v[i], b.v[i]); return a; }
static inline V vmin(V a, V b) { EACH a.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); return a; }
static inline V vabs(V a) { EACH a.v[i] = vabsq_f32(a.v[i]); return a; }
static inline V vfma(V a, V b, V c) { EACH c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]); return c; }
static inline I iset(int32_t x) { I r; EACH r.v[i] = vdupq_n_s32(x); return r; }
static inline V vfrom_i(I a) { V r; EACH r.v[i] = vcvtq_f32_s32(a.v[i]); return r; }
static inline I vround(V a) { I r; EACH r.v[i] = vcvtnq_s32_f32(a.v[i]); return r; }
static inline V vpow2(I n) {
    V r;
    EACH r.v[i] = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n.v[i], vdupq_n_s32(127)), 23));
    return r;
}
static inline V vkeep(V a, int start, int first, int last, float other) {
    const int32_t count[4] = {0, 1, 2, 3};
    EACH {
        const int32x4_t lanes = vaddq_s32(vld1q_s32(count), vdupq_n_s32(start + 4 * i));
        const uint32x4_t keep = vandq_u32(vcgeq_s32(lanes, vdupq_n_s32(first)), vcleq_s32(lanes, vdupq_n_s32(last)));
        a.v[i] = vbslq_f32(keep, a.v[i], vdupq_n_f32(other));
    }
    return a;
}
static inline V vzero_below(V a, V x, float limit) {
    EACH {
        const uint32x4_t below = vcltq_f32(x.v[i], vdupq_n_f32(limit));
        a.v[i] = vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a.v[i]), below));
    }
    return a;
}
static inline float vsum(V a) {
    const float32x4_t four = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
static inline float vlargest(V a) {
    const float32x4_t four = larger(larger(a.v[0], a.v[2]), larger(a.v[1], a.v[3]));
    const float32x2_t low = vget_low_f32(four), high = vget_high_f32(four);
    const float32x2_t two = vbsl_f32(vcgt_f32(low, high), low, high);
    const float even = vget_lane_f32(two, 0), odd = vget_lane_f32(two, 1);
    return even > odd ? even : odd;
}
static inline int32_t isum(I a) { return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3]))); }
static inline void istore_i8(int8_t* p, I a) {
    const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
    const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

static inline V vload_f16(const uint16_t* p) {
    V r;
    EACH r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
    return r;
}
static inline void vstore_f16(uint16_t* p, V a) {
    EACH vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
static inline V vload_bf16(const uint16_t* p) {
    V r;
    EACH r.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
    return r;
}
static inline V vload_i8(const int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

static inline W wload(const uint8_t* p) { W r; EACH r.v[i] = vld1q_u8(p + 16 * i); return r; }
static inline W wlow(W a) { EACH a.v[i] = vandq_u8(a.v[i], vdupq_n_u8(15)); return a; }
static inline W whigh(W a) { EACH a.v[i] = vshrq_n_u8(a.v[i], 4); return a; }
static inline X xload(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
// Nibbles are positive in both readings of a byte.
static inline I dot4(I acc, W w, X x) {
    EACH acc.v[i] = vdotq_s32(acc.v[i], vreinterpretq_s8_u8(w.v[i]), x);
    return acc;
}
#if defined(__ARM_FEATURE_MATMUL_INT8)
static inline I start8(int32_t minus128) { return iset(minus128); }
static inline I dot8(I acc, W w, X x) { EACH acc.v[i] = vusdotq_s32(acc.v[i], w.v[i], x); return acc; }
#else
// The 128 is taken off each weight here, so the sum begins at nothing.
static inline I start8(int32_t) { return iset(0); }
static inline I dot8(I acc, W w, X x) {
    EACH {
        const uint8x16_t weight = veorq_u8(w.v[i], vdupq_n_u8(128));  // byte - 128
        acc.v[i] = vdotq_s32(acc.v[i], vreinterpretq_s8_u8(weight), x);
    }
    return acc;
}
#endif
static inline void prefetch(const void* p) { __builtin_prefetch(p); }
#undef EACH
