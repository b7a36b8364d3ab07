// The sixteen lanes in plain C++: the reference that every other wrapper equals bit for bit.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct V { float v[16]; };
struct I { int32_t v[16]; };
struct W { uint8_t v[64]; };
struct X { int8_t v[4]; };
#define EACH for (int i = 0; i < 16; i++)

static inline V vload(const float* p) { V r; std::memcpy(r.v, p, 64); return r; }
static inline void vstore(float* p, V a) { std::memcpy(p, a.v, 64); }
static inline V vset(float x) { V r; EACH r.v[i] = x; return r; }
static inline V vadd(V a, V b) { EACH a.v[i] += b.v[i]; return a; }
static inline V vsub(V a, V b) { EACH a.v[i] -= b.v[i]; return a; }
static inline V vmul(V a, V b) { EACH a.v[i] *= b.v[i]; return a; }
static inline V vdiv(V a, V b) { EACH a.v[i] /= b.v[i]; return a; }
// As the x86 instruction: the second operand when either is not a number.
static inline V vmax(V a, V b) { EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
static inline V vmin(V a, V b) { EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
static inline V vabs(V a) { EACH a.v[i] = std::fabs(a.v[i]); return a; }
static inline V vfma(V a, V b, V c) { EACH a.v[i] = std::fma(a.v[i], b.v[i], c.v[i]); return a; }  // a b + c
static inline I iset(int32_t x) { I r; EACH r.v[i] = x; return r; }
static inline V vfrom_i(I a) { V r; EACH r.v[i] = static_cast<float>(a.v[i]); return r; }
// To the nearest, ties to even; the callers keep the values within the range.
static inline I vround(V a) { I r; EACH r.v[i] = static_cast<int32_t>(std::nearbyint(a.v[i])); return r; }
static inline V vpow2(I n) {
    V r;
    EACH { const int32_t bits = (n.v[i] + 127) * (1 << 23); std::memcpy(&r.v[i], &bits, 4); }
    return r;
}
// Lanes whose number start + lane lies in first..last keep their value, the others become `other`.
static inline V vkeep(V a, int start, int first, int last, float other) {
    EACH if (start + i < first || start + i > last) a.v[i] = other;
    return a;
}
// Lanes where x is below the limit become 0.
static inline V vzero_below(V a, V x, float limit) { EACH if (x.v[i] < limit) a.v[i] = 0; return a; }
// Lanes 0..7 plus 8..15, then 0..3 plus 4..7, then 0..1 plus 2..3, then 0 plus 1.
static inline float vsum(V a) {
    for (int half = 8; half; half /= 2) for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    return a.v[0];
}
static inline float vlargest(V a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}
static inline int32_t isum(I a) { int32_t s = 0; EACH s += a.v[i]; return s; }
static inline void istore_i8(int8_t* p, I a) { EACH p[i] = static_cast<int8_t>(a.v[i]); }

static inline float half_to_float(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
    uint32_t bits;
    if (exponent == 31) bits = sign | 0x7f800000 | (mantissa << 13) | (mantissa ? 0x400000 : 0);
    else if (exponent) bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    else {
        float f = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
        std::memcpy(&bits, &f, 4);
        bits |= sign;
    }
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
static inline uint16_t float_to_half(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
    const uint32_t value = bits & 0x7fffffff;
    if (value > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | ((value >> 13) & 0x1ff));
    if (value >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);  // 65536 and more
    if (value < 0x38800000) {                                              // below 2^-14: subnormal
        float magnitude;
        std::memcpy(&magnitude, &value, 4);
        return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(magnitude * 16777216.0f)));
    }
    const uint32_t rounded = value + 0xfff + ((value >> 13) & 1) - (112u << 23);
    return static_cast<uint16_t>(sign | (rounded >> 13));
}
static inline V vload_f16(const uint16_t* p) { V r; EACH r.v[i] = half_to_float(p[i]); return r; }
static inline void vstore_f16(uint16_t* p, V a) { EACH p[i] = float_to_half(a.v[i]); }
static inline V vload_bf16(const uint16_t* p) {
    V r;
    EACH { const uint32_t bits = static_cast<uint32_t>(p[i]) << 16; std::memcpy(&r.v[i], &bits, 4); }
    return r;
}
static inline V vload_i8(const int8_t* p) { V r; EACH r.v[i] = p[i]; return r; }

static inline W wload(const uint8_t* p) { W r; std::memcpy(r.v, p, 64); return r; }
static inline W wlow(W a) { for (uint8_t& b : a.v) b &= 15; return a; }
static inline W whigh(W a) { for (uint8_t& b : a.v) b >>= 4; return a; }
static inline X xload(const int8_t* p) { X r; std::memcpy(r.v, p, 4); return r; }
// What the sum of (byte - 128) x begins with, for a dot that takes the bytes as they are (unsigned).
static inline I start8(int32_t minus128) { return iset(minus128); }
// Lane r gains the four products of bytes 4 r .. 4 r + 3 with x: bytes of 8-bit weights, and of nibbles.
static inline I dot8(I acc, W w, X x) {
    EACH for (int k = 0; k < 4; k++) acc.v[i] += static_cast<int32_t>(w.v[4 * i + k]) * x.v[k];
    return acc;
}
static inline I dot4(I acc, W w, X x) { return dot8(acc, w, x); }
static inline void prefetch(const void*) {}
#undef EACH
