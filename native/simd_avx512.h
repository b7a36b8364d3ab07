// Sixteen lanes in one AVX-512 register, byte products by VNNI.
#pragma once
#include <immintrin.h>
#include <cstdint>
#include <cstring>

using V = __m512;
using I = __m512i;
using W = __m512i;
using X = __m512i;

static inline V vload(const float* p) { return _mm512_loadu_ps(p); }
static inline void vstore(float* p, V a) { _mm512_storeu_ps(p, a); }
static inline V vset(float x) { return _mm512_set1_ps(x); }
static inline V vadd(V a, V b) { return _mm512_add_ps(a, b); }
static inline V vsub(V a, V b) { return _mm512_sub_ps(a, b); }
static inline V vmul(V a, V b) { return _mm512_mul_ps(a, b); }
static inline V vdiv(V a, V b) { return _mm512_div_ps(a, b); }
static inline V vmax(V a, V b) { return _mm512_max_ps(a, b); }
static inline V vmin(V a, V b) { return _mm512_min_ps(a, b); }
static inline V vabs(V a) { return _mm512_abs_ps(a); }
static inline V vfma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
static inline I iset(int32_t x) { return _mm512_set1_epi32(x); }
static inline V vfrom_i(I a) { return _mm512_cvtepi32_ps(a); }
static inline I vround(V a) { return _mm512_cvtps_epi32(a); }
static inline V vpow2(I n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
static inline V vkeep(V a, int start, int first, int last, float other) {
    const int low = first - start, high = last - start;
    uint32_t bits = 0xffff;
    if (low > 0) bits &= low > 15 ? 0 : 0xffffu << low;
    if (high < 15) bits &= high < 0 ? 0 : 0xffffu >> (15 - high);
    return _mm512_mask_blend_ps(static_cast<__mmask16>(bits), _mm512_set1_ps(other), a);
}
static inline V vzero_below(V a, V x, float limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_NLT_UQ), a);
}
static inline float vsum(V a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline float vlargest(V a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
static inline int32_t isum(I a) { return _mm512_reduce_add_epi32(a); }
static inline void istore_i8(int8_t* p, I a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}
static inline V vload_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline void vstore_f16(uint16_t* p, V a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
static inline V vload_bf16(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline V vload_i8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
static inline W wload(const uint8_t* p) { return _mm512_loadu_si512(p); }
static inline W wlow(W a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
static inline W whigh(W a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
static inline X xload(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
}
static inline I start8(int32_t minus128) { return _mm512_set1_epi32(minus128); }
static inline I dot8(I acc, W w, X x) { return _mm512_dpbusd_epi32(acc, w, x); }
static inline I dot4(I acc, W w, X x) { return _mm512_dpbusd_epi32(acc, w, x); }
static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
