// Sixteen lanes in two AVX2 registers. With AVX-VNNI the bytes are multiplied as they are, as on AVX-512; without it
// vpmaddubsw adds two products in 16 bits, which 255 x 127 twice would overflow, so the weights are made signed first:
// |weight| x sign(weight) activation stays within 2 x 128 x 127 = 32,512 and no sum is ever clipped.
#pragma once
#include <immintrin.h>
#include <cstdint>
#include <cstring>

struct V { __m256 low, high; };
struct I { __m256i low, high; };
struct W { __m256i low, high; };
using X = __m256i;

static inline V vload(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void vstore(float* p, V a) { _mm256_storeu_ps(p, a.low); _mm256_storeu_ps(p + 8, a.high); }
static inline V vset(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline V vadd(V a, V b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
static inline V vsub(V a, V b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
static inline V vmul(V a, V b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
static inline V vdiv(V a, V b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
static inline V vmax(V a, V b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
static inline V vmin(V a, V b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
static inline V vabs(V a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
static inline V vfma(V a, V b, V c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
static inline I iset(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
static inline V vfrom_i(I a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
static inline I vround(V a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
static inline V vpow2(I n) {
    const __m256i bias = _mm256_set1_epi32(127);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.low, bias), 23)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.high, bias), 23))};
}
static inline V vkeep(V a, int start, int first, int last, float other) {
    const __m256i lanes = _mm256_add_epi32(_mm256_set1_epi32(start), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __m256i above = _mm256_add_epi32(lanes, _mm256_set1_epi32(8));
    const __m256i from = _mm256_set1_epi32(first), to = _mm256_set1_epi32(last);
    const __m256 replacement = _mm256_set1_ps(other);
    const __m256i drop_low = _mm256_or_si256(_mm256_cmpgt_epi32(from, lanes), _mm256_cmpgt_epi32(lanes, to));
    const __m256i drop_high = _mm256_or_si256(_mm256_cmpgt_epi32(from, above), _mm256_cmpgt_epi32(above, to));
    return {_mm256_blendv_ps(a.low, replacement, _mm256_castsi256_ps(drop_low)),
            _mm256_blendv_ps(a.high, replacement, _mm256_castsi256_ps(drop_high))};
}
static inline V vzero_below(V a, V x, float limit) {
    const __m256 least = _mm256_set1_ps(limit);
    return {_mm256_and_ps(_mm256_cmp_ps(x.low, least, _CMP_NLT_UQ), a.low),
            _mm256_and_ps(_mm256_cmp_ps(x.high, least, _CMP_NLT_UQ), a.high)};
}
static inline float vsum(V a) {
    const __m256 eight = _mm256_add_ps(a.low, a.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline float vlargest(V a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
static inline int32_t isum(I a) {
    const __m256i eight = _mm256_add_epi32(a.low, a.high);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}
// The lowest byte of each lane, as a cast does (a pack would clip instead).
static inline void istore_i8(int8_t* p, I a) {
    const __m256i pick = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                          -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i low = _mm256_shuffle_epi8(a.low, pick), high = _mm256_shuffle_epi8(a.high, pick);
    const __m128i first = _mm_or_si128(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    const __m128i second = _mm_or_si128(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi64(first, second));
}

static inline V vload_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
static inline void vstore_f16(uint16_t* p, V a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT));
}
static inline V vload_bf16(const uint16_t* p) {
    const __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i high = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
}
static inline V vload_i8(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes)))};
}

static inline W wload(const uint8_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
static inline W wlow(W a) {
    const __m256i nibble = _mm256_set1_epi8(15);
    return {_mm256_and_si256(a.low, nibble), _mm256_and_si256(a.high, nibble)};
}
static inline W whigh(W a) {
    return wlow({_mm256_srli_epi16(a.low, 4), _mm256_srli_epi16(a.high, 4)});
}
static inline X xload(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}

#if defined(__AVXVNNI__)
static inline I start8(int32_t minus128) { return iset(minus128); }
static inline I dot8(I acc, W w, X x) {
    return {_mm256_dpbusd_avx_epi32(acc.low, w.low, x), _mm256_dpbusd_avx_epi32(acc.high, w.high, x)};
}
static inline I dot4(I acc, W w, X x) { return dot8(acc, w, x); }
#else
static inline __m256i add_pairs(__m256i acc, __m256i pairs) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
static inline __m256i signed_dot(__m256i acc, __m256i bytes, X x) {
    const __m256i weight = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));  // byte - 128
    return add_pairs(acc, _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(x, weight)));
}
// The 128 is taken off each weight here, so the sum begins at nothing.
static inline I start8(int32_t) { return iset(0); }
static inline I dot8(I acc, W w, X x) { return {signed_dot(acc.low, w.low, x), signed_dot(acc.high, w.high, x)}; }
static inline I dot4(I acc, W w, X x) {  // nibbles are at most 15: far from the limit
    return {add_pairs(acc.low, _mm256_maddubs_epi16(w.low, x)), add_pairs(acc.high, _mm256_maddubs_epi16(w.high, x))};
}
#endif
static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
