// The passes of the sampler over all logits: largest, spread, and integer weights. Written with vectors of the
// compiler's own and compiled for three x86 instruction sets; only additions and multiplications in a fixed order (no
// fma, no library exp), so that every machine, and numpy, gets the same weights to the last bit.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace cadran {
namespace scan {

constexpr int BLOCK = 64;   // weights whose largest and whose sum are kept
constexpr int SPAN = 512;   // logits whose largest is kept; summing up a vector costs more than filling it
constexpr double UNIT = 4398046511104.0;  // 2^42, the weight of the likeliest token
constexpr double LEAST_EXPONENT = -64;    // below it a weight is 0 anyway
constexpr double INFINITE = std::numeric_limits<double>::infinity();
constexpr double TO_INTEGER = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer in the low bits
constexpr double TO_WHOLE = 4503599627370496.0;    // 2^52: likewise for numbers that are not negative

// 2^f for -0.5 <= f <= 0.5 within 4e-14, and exactly 1 at 0; interpolated at Chebyshev's nodes.
constexpr double POWER[10] = {1.0,
                              0.6931471805599453,
                              0.2402265069581299,
                              0.05550410866476081,
                              0.009618129159402565,
                              0.0013333558178986757,
                              0.00015403455852449878,
                              1.525268687633831e-05,
                              1.3255224879382487e-06,
                              1.020311571507518e-07};

typedef float F16 __attribute__((vector_size(64)));
typedef float F8 __attribute__((vector_size(32)));
typedef double D8 __attribute__((vector_size(64)));
typedef uint64_t U8 __attribute__((vector_size(64)));

#define CADRAN_INLINE static inline __attribute__((always_inline))

template <class T> struct Lanes;
template <> struct Lanes<float> { typedef F16 vector; };
template <> struct Lanes<double> { typedef D8 vector; };

CADRAN_INLINE void load(const float* from, D8& to) {
    F8 half;
    std::memcpy(&half, from, sizeof half);
    to = __builtin_convertvector(half, D8);
}
CADRAN_INLINE void load(const double* from, D8& to) { std::memcpy(&to, from, sizeof to); }

// Piece b of v, filled up with minus infinity in `spare` when it is the last and not whole.
template <int SIZE, class T> CADRAN_INLINE const T* piece_of(const T* v, int n, int b, T* spare) {
    const int begin = b * SIZE;
    if (begin + SIZE <= n) return v + begin;
    for (int i = 0; i < SIZE; i++) spare[i] = begin + i < n ? v[begin + i] : -std::numeric_limits<T>::infinity();
    return spare;
}

// 2^t for t <= 0, in steps that numpy repeats exactly.
static inline double power_of_two(double t) {
    t = t > LEAST_EXPONENT ? t : LEAST_EXPONENT;
    const double f = t - ((t + TO_INTEGER) - TO_INTEGER);
    double p = POWER[9];
    for (int i = 8; i >= 0; i--) p = p * f + POWER[i];
    return std::ldexp(p, static_cast<int>(t - f));
}

// Largest of each span and of all; false when a logit is NaN or plus infinity.
template <class T> CADRAN_INLINE bool largest_body(const T* v, int n, T* span_max, T* max) {
    typedef typename Lanes<T>::vector V;
    constexpr int WIDE = static_cast<int>(sizeof(V) / sizeof(T)), PARTS = SPAN / WIDE;
    const V lowest = V{} - std::numeric_limits<T>::infinity(), highest = V{} + std::numeric_limits<T>::infinity();
    auto fine = lowest < highest;
    T all = -std::numeric_limits<T>::infinity(), spare[SPAN];
    for (int b = 0; b * SPAN < n; b++) {
        const T* p = piece_of<SPAN>(v, n, b, spare);
        V top = lowest, x;
        for (int j = 0; j < PARTS; j++) {
            std::memcpy(&x, p + j * WIDE, sizeof x);
            fine &= x < highest;
            top = x > top ? x : top;
        }
        T lane[WIDE];
        std::memcpy(lane, &top, sizeof top);
        for (int half = WIDE / 2; half; half /= 2)
            for (int i = 0; i < half; i++) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
        span_max[b] = lane[0];
        all = lane[0] > all ? lane[0] : all;
    }
    *max = all;
    bool good = true;
    for (int i = 0; i < WIDE; i++) good = good && fine[i];
    return good;
}

// How many logits are finite, and sum and sum of squares of their distance from the largest. Element i goes into lane
// i % 8; the lanes are added in order.
template <class T> CADRAN_INLINE void spread_body(const T* v, int n, double max, double* count_sum_squares) {
    const D8 zero = {}, one = zero + 1, lowest = zero - INFINITE;
    D8 count = zero, sum = zero, squares = zero, x;
    T spare[BLOCK];
    for (int b = 0; b * BLOCK < n; b++) {
        const T* p = piece_of<BLOCK>(v, n, b, spare);
        for (int j = 0; j < BLOCK; j += 8) {
            load(p + j, x);
            const D8 d = x > lowest ? x - max : zero;
            count += x > lowest ? one : zero;
            sum += d;
            squares += d * d;
        }
    }
    for (int k = 0; k < 3; k++) count_sum_squares[k] = 0;
    for (int i = 0; i < 8; i++) {
        count_sum_squares[0] += count[i];
        count_sum_squares[1] += sum[i];
        count_sum_squares[2] += squares[i];
    }
}

// weights[i] = 2^42 * 2^((v[i] - max) * scale), rounded to an integer; 0 where v[i] < floor. Sums of a block stay below
// 2^53 and are exact. `weights` has room for whole blocks. Returns the sum of all.
template <class T>
CADRAN_INLINE int64_t weigh_body(const T* v, int n, double max, double scale, double floor, double* weights,
                                 double* block_sum, double* block_max) {
    const D8 zero = {}, least = zero + LEAST_EXPONENT;
    int64_t total = 0;
    T spare[BLOCK];
    for (int b = 0; b * BLOCK < n; b++) {
        const T* p = piece_of<BLOCK>(v, n, b, spare);
        D8 sum = zero, top = zero, x;
        for (int j = 0; j < BLOCK; j += 8) {
            load(p + j, x);
            D8 t = (x - max) * scale;
            t = t > least ? t : least;
            const D8 shifted = t + TO_INTEGER;
            const D8 f = t - (shifted - TO_INTEGER);
            D8 e = f * POWER[9] + POWER[8];
            for (int i = 7; i >= 0; i--) e = e * f + POWER[i];
            e = (D8)((U8)e + ((U8)shifted << 52));
            D8 w = (e * UNIT + TO_WHOLE) - TO_WHOLE;
            w = x >= floor ? w : zero;
            std::memcpy(weights + b * BLOCK + j, &w, sizeof w);
            sum += w;
            top = w > top ? w : top;
        }
        double all = 0, most = 0;
        for (int i = 0; i < 8; i++) {
            all += sum[i];
            most = top[i] > most ? top[i] : most;
        }
        block_sum[b] = all;
        block_max[b] = most;
        total += static_cast<int64_t>(all);
    }
    return total;
}

// Sum of the weights from `least` on; blocks whose largest is smaller are passed over.
CADRAN_INLINE int64_t above_body(const double* weights, const double* block_max, int blocks, double least) {
    const D8 zero = {};
    int64_t total = 0;
    for (int b = 0; b < blocks; b++) {
        if (block_max[b] < least) continue;
        D8 sum = zero, w;
        for (int j = 0; j < BLOCK; j += 8) {
            std::memcpy(&w, weights + b * BLOCK + j, sizeof w);
            sum += w >= least ? w : zero;
        }
        double all = 0;
        for (int i = 0; i < 8; i++) all += sum[i];
        total += static_cast<int64_t>(all);
    }
    return total;
}

// The passes over logits of one type, for one instruction set.
template <class T> struct Passes {
    bool (*largest)(const T* v, int n, T* span_max, T* max);
    void (*spread)(const T* v, int n, double max, double* count_sum_squares);
    int64_t (*weigh)(const T* v, int n, double max, double scale, double floor, double* weights, double* block_sum,
                     double* block_max);
    int64_t (*above)(const double* weights, const double* block_max, int blocks, double least);
};

#define CADRAN_PASSES(NAME, TARGET)                                                                                \
    template <class T> TARGET bool NAME##_largest(const T* v, int n, T* spans, T* max) {                           \
        return largest_body(v, n, spans, max);                                                                     \
    }                                                                                                              \
    template <class T> TARGET void NAME##_spread(const T* v, int n, double max, double* out) {                     \
        spread_body(v, n, max, out);                                                                               \
    }                                                                                                              \
    template <class T>                                                                                             \
    TARGET int64_t NAME##_weigh(const T* v, int n, double max, double scale, double floor, double* weights,        \
                                double* sums, double* tops) {                                                      \
        return weigh_body(v, n, max, scale, floor, weights, sums, tops);                                           \
    }                                                                                                              \
    TARGET inline int64_t NAME##_above(const double* weights, const double* tops, int blocks, double least) {      \
        return above_body(weights, tops, blocks, least);                                                           \
    }                                                                                                              \
    template <class T>                                                                                             \
    constexpr Passes<T> NAME = {NAME##_largest<T>, NAME##_spread<T>, NAME##_weigh<T>, NAME##_above};

CADRAN_PASSES(plain, )
#if defined(__x86_64__)
CADRAN_PASSES(avx2, __attribute__((target("avx2"))))
CADRAN_PASSES(avx512, __attribute__((target("avx512f,avx512dq"))))
#endif

// The passes of a level, 0 being plain C++; null where the machine has no such instructions.
template <class T> inline const Passes<T>* passes_of(int level) {
#if defined(__x86_64__)
    if (level == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) return &avx512<T>;
    if (level == 1 && __builtin_cpu_supports("avx2")) return &avx2<T>;
#endif
    return level == 0 ? &plain<T> : nullptr;
}

// The fastest of them; all give the same bits.
template <class T> inline const Passes<T>& passes() {
    static const Passes<T>* const best = [] {
        int level = 2;
        while (!passes_of<T>(level)) level--;
        return passes_of<T>(level);
    }();
    return *best;
}

}  // namespace scan
}  // namespace cadran
