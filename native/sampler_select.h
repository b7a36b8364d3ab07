// Survivors of the sampler, and finding the last of them that a share or a count reaches.
//
// A survivor is a key of 64 bits, its weight above its inverted id: larger key, likelier token, ties to the smaller id.
// Nothing is sorted: a histogram finds the bucket in which a share is reached, and only that bucket is searched.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace cadran {

typedef uint64_t Key;
constexpr int ID_BITS = 20;
constexpr Key ID_MASK = (Key{1} << ID_BITS) - 1;

inline Key key_of(double weight, size_t id) {
    const double shifted = weight + 4503599627370496.0;  // 2^52: its low bits are the weight, faster than converting
    Key bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    return bits << ID_BITS | (ID_MASK - id);
}
inline int32_t id_of(Key key) { return static_cast<int32_t>(ID_MASK - (key & ID_MASK)); }
inline int64_t weight_of(Key key) { return static_cast<int64_t>(key >> ID_BITS); }

inline int64_t sum_of(const std::vector<Key>& keys) {
    int64_t total = 0;
    for (const Key key : keys) total += weight_of(key);
    return total;
}

// The weight that reaches a share of the whole; at least 1.
inline int64_t share_of(double share, int64_t total) {
    const int64_t need = static_cast<int64_t>(std::ceil(share * static_cast<double>(total)));
    return std::min(std::max<int64_t>(need, 1), total);
}

template <class Keep> void keep_if(std::vector<Key>& keys, Keep keep) {
    size_t kept = 0;
    for (const Key key : keys) {  // without a branch, which would be guessed wrong for half of the keys
        keys[kept] = key;
        kept += keep(key);
    }
    keys.resize(kept);
}

// The item, in the order of `before`, at which the running sum of `mass` reaches `need`, which lies between 1 and the
// whole sum. `bucket` maps items to 0..BUCKETS - 1 in the same order.
constexpr int BUCKETS = 2048;
template <class Item, class Mass, class Bucket, class Before>
Item reached_at(const std::vector<Item>& items, int64_t need, Mass mass, Bucket bucket, Before before) {
    int64_t sums[BUCKETS] = {};
    for (const Item& item : items) sums[bucket(item)] += mass(item);
    int boundary = 0;
    while (boundary < BUCKETS - 1 && sums[boundary] < need) need -= sums[boundary++];
    std::vector<Item> rest;
    for (const Item& item : items)
        if (bucket(item) == boundary) rest.push_back(item);
    auto first = rest.begin(), last = rest.end();
    while (last - first > 1) {
        const auto middle = first + (last - first) / 2;
        std::nth_element(first, middle, last, before);
        int64_t sum = 0;
        for (auto item = first; item != middle; ++item) sum += mass(*item);
        if (sum >= need) {
            last = middle;
        } else {
            need -= sum;
            first = middle;
        }
    }
    return *first;
}

// Likeliest keys first: by the place of the weight's highest bit and the five bits after it.
inline Key likeliest_at(const std::vector<Key>& keys, int64_t need, bool by_weight) {
    const auto bucket = [](Key key) {
        const float weight = static_cast<float>(weight_of(key));  // 1 to 2^42
        uint32_t bits;
        std::memcpy(&bits, &weight, sizeof bits);
        return BUCKETS - 1 - static_cast<int>((bits - 0x3f800000u) >> 18);
    };
    const auto larger = [](Key a, Key b) { return a > b; };
    if (by_weight) return reached_at(keys, need, weight_of, bucket, larger);
    return reached_at(keys, need, [](Key) { return int64_t{1}; }, bucket, larger);
}

// A survivor and how far its surprise is from the expected one, in bits (below 64).
struct Typical {
    double shift;
    Key key;
    bool operator<(const Typical& other) const {
        return shift < other.shift || (shift == other.shift && key > other.key);
    }
};

inline Typical most_typical_at(const std::vector<Typical>& items, int64_t need) {
    return reached_at(
        items, need, [](const Typical& item) { return weight_of(item.key); },
        [](const Typical& item) { return std::min(BUCKETS - 1, static_cast<int>(item.shift * 32)); },
        [](const Typical& a, const Typical& b) { return a < b; });
}

}  // namespace cadran
