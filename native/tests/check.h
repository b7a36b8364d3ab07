// What the native tests share: a claim that ends the program when it is false, and repeatable random numbers.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#define CHECK(claim, ...)                                                   \
    do {                                                                    \
        if (!(claim)) {                                                     \
            std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #claim); \
            std::fprintf(stderr, __VA_ARGS__);                              \
            std::fprintf(stderr, "\n");                                     \
            std::exit(1);                                                   \
        }                                                                   \
    } while (false)

// SplitMix64 (Steele, Lea & Flood 2014).
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}

    uint64_t bits() {
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    int below(int n) { return static_cast<int>(bits() % static_cast<uint64_t>(n)); }
    int between(int low, int high) { return low + below(high - low + 1); }
    float real() { return static_cast<float>(bits() >> 40) * 0x1p-24f * 2 - 1; }  // -1..1

    std::vector<float> reals(size_t count, float scale = 1) {
        std::vector<float> numbers(count);
        for (float& x : numbers) x = real() * scale;
        return numbers;
    }

private:
    uint64_t state_;
};

// Equal to the last bit, or both not a number (whose payloads processors may choose).
inline bool same(const float* a, const float* b, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (std::memcmp(a + i, b + i, 4) && !(a[i] != a[i] && b[i] != b[i])) return false;
    return true;
}

inline std::vector<std::string> split(const std::string& list) {
    std::vector<std::string> names(1);
    for (const char c : list)
        if (c == ',') names.emplace_back();
        else names.back() += c;
    return names;
}

// A matrix as kernels.h lays it out: any byte is a weight; scales, and numbers of the float kinds, lie between
// 2^(largest - 3) and 2^(largest + 1). Rows and columns beyond it are zero.
std::vector<uint8_t> random_weights(Random& random, int kind, int rows, int columns, int largest);

void test_kernels();
void test_pool();
void test_model();
void test_sampler();
