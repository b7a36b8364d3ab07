// From logits to a token: truncation, the draw, log-probabilities. See sampler.h for what it is, sampler_scan.h for the
// passes over all logits, sampler_select.h for the survivors and sampler_history.h for the penalties.
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "sampler_history.h"
#include "sampler_scan.h"
#include "sampler_select.h"

namespace cadran {
namespace {

constexpr double LOG2_E = 1.4426950408889634;
constexpr double NOTHING = -std::numeric_limits<double>::infinity();

// Memory of one thread, kept between calls.
struct Scratch {
    std::vector<double> changed, changed_max, weights, block_sum, block_max, spare_max;
    std::vector<float> raw_max;
    std::vector<Key> keys, room;  // the survivors; where they are gathered

    // Weights of n logits, as the pass of the same name; returns their sum.
    template <class T>
    int64_t weigh(const scan::Passes<T>& passes, const T* v, int n, double max, double scale, double floor) {
        const size_t blocks = static_cast<size_t>((n + scan::BLOCK - 1) / scan::BLOCK);
        weights.resize(blocks * scan::BLOCK);
        block_sum.resize(blocks);
        block_max.resize(blocks);
        return passes.weigh(v, n, max, scale, floor, weights.data(), block_sum.data(), block_max.data());
    }
};
thread_local Scratch scratch;

size_t spans_of(int n) { return static_cast<size_t>((n + scan::SPAN - 1) / scan::SPAN); }

// First index of the largest value, given the largest of each span.
template <class T> int32_t first_largest(const T* v, int n, const T* span_max, T max) {
    int i = 0;
    while (span_max[i / scan::SPAN] != max) i += scan::SPAN;
    while (i < n - 1 && v[i] != max) i++;
    return i;
}

}  // namespace
}  // namespace cadran

using namespace cadran;

struct cadran_sampler {
    const cadran_sampling params;
    History history;
    double mu;            // of mirostat: the bound, bits
    double surprise = 0;  // of the last choice, bits
    int32_t chosen = -1;
    int64_t whole = 0;  // sum of all weights of the choice under way

    cadran_sampler(const cadran_sampling& wanted, const int32_t* prompt, int32_t length)
        : params(wanted), history(wanted, prompt, length), mu(2 * wanted.mirostat_tau) {}

    // A bound that no key which the first active filter keeps lies below.
    template <class Above> double bound(int n, Above above) const {
        const double likeliest = *std::max_element(scratch.block_max.begin(), scratch.block_max.end());
        double least = 1;
        if (params.mirostat) {
            least = std::min(likeliest, scan::power_of_two(mu > 0 ? -mu : 0) * static_cast<double>(whole));
        } else if (params.top_k && static_cast<size_t>(params.top_k) <= scratch.block_max.size()) {
            // The k-th largest of the blocks' maxima is no larger than the k-th largest of all.
            scratch.spare_max = scratch.block_max;
            const auto kth = scratch.spare_max.begin() + (params.top_k - 1);
            std::nth_element(scratch.spare_max.begin(), kth, scratch.spare_max.end(), std::greater<double>());
            least = *kth;
        } else if (!params.top_k && params.typical_p == 1 && params.top_p < 1) {
            // Fewer than n tokens below this share of what top-p leaves out cannot fill it up.
            const int64_t need = share_of(params.top_p, whole);
            least = static_cast<double>((whole - need) / n);
            // Where fewer are enough, it is cheaper to find that out than to look at the others one by one.
            for (double factor = 16; factor > 1; factor = factor == 16 ? 4 : 1)
                while (least * factor <= likeliest && above(least * factor) >= need) least *= factor;
        } else if (!params.top_k && params.typical_p == 1) {
            least = params.min_p * likeliest;
        }
        return std::max(least, 1.0);
    }

    // Keys of the weights from `least` on, by id.
    static void gather(double least) {
        if (scratch.room.size() < scratch.weights.size() + 1) scratch.room.resize(scratch.weights.size() + 1);
        Key* const room = scratch.room.data();
        size_t kept = 0;
        for (size_t b = 0; b < scratch.block_max.size(); b++) {
            if (scratch.block_max[b] < least) continue;
            for (size_t i = b * scan::BLOCK; i < (b + 1) * scan::BLOCK; i += 8) {
                const double* w = scratch.weights.data() + i;
                const double top = std::max(std::max(std::max(w[0], w[1]), std::max(w[2], w[3])),
                                            std::max(std::max(w[4], w[5]), std::max(w[6], w[7])));
                if (top < least) continue;
                for (size_t j = 0; j < 8; j++) {
                    room[kept] = key_of(w[j], i + j);
                    kept += w[j] >= least;
                }
            }
        }
        scratch.keys.assign(room, room + kept);
    }

    template <class T> void typical(const T* v, double max, double scale) const {
        std::vector<Key>& keys = scratch.keys;
        const int64_t total = sum_of(keys);
        const auto exponent = [&](Key key) { return (static_cast<double>(v[id_of(key)]) - max) * scale; };
        double mean = 0;
        for (const Key key : keys) mean += static_cast<double>(weight_of(key)) * exponent(key);
        mean /= static_cast<double>(total);
        std::vector<Typical> items;
        items.reserve(keys.size());
        for (const Key key : keys) items.push_back({std::fabs(exponent(key) - mean), key});
        const Typical last = most_typical_at(items, share_of(params.typical_p, total));
        size_t kept = 0;
        for (const Typical& item : items) {
            keys[kept] = item.key;
            kept += !(last < item);
        }
        keys.resize(kept);
    }

    template <class T> void truncate(const T* v, double max, double scale, double uniform) const {
        std::vector<Key>& keys = scratch.keys;
        if (params.top_k && static_cast<size_t>(params.top_k) < keys.size()) {
            const Key last = likeliest_at(keys, params.top_k, false);
            keep_if(keys, [=](Key key) { return key >= last; });
        }
        if (params.typical_p < 1) typical(v, max, scale);
        if (params.top_p < 1) {
            // The bound of `gather` may have taken tokens away: the share is one of the weights before it.
            const int64_t total = params.top_k || params.typical_p < 1 ? sum_of(keys) : whole;
            const Key last = likeliest_at(keys, share_of(params.top_p, total), true);
            keep_if(keys, [=](Key key) { return key >= last; });
        }
        if (params.min_p > 0) {
            const int64_t likeliest = weight_of(*std::max_element(keys.begin(), keys.end()));
            const double least = params.min_p * static_cast<double>(likeliest);
            keep_if(keys, [=](Key key) { return static_cast<double>(weight_of(key)) >= least; });
        }
        if (uniform < params.xtc_probability) {
            const double least = params.xtc_threshold * static_cast<double>(sum_of(keys));
            Key last = ~Key{0};
            for (const Key key : keys)
                if (static_cast<double>(weight_of(key)) >= least) last = std::min(last, key);
            keep_if(keys, [=](Key key) { return key <= last; });
        }
    }

    template <class T> int32_t choose(const T* v, int n, T* maxima, int64_t position) {
        const scan::Passes<T>& passes = scan::passes<T>();
        T largest;
        if (!passes.largest(v, n, maxima, &largest)) return CADRAN_SAMPLING_NOT_A_NUMBER;
        if (!(largest > -std::numeric_limits<T>::infinity())) return CADRAN_SAMPLING_NOTHING_LEFT;
        if (params.temperature == 0) return first_largest(v, n, maxima, largest);
        const double max = static_cast<double>(largest), scale = std::min(LOG2_E / params.temperature, 1e30);
        double floor = NOTHING;
        if (params.top_n_sigma > 0 && !params.mirostat) {
            double of[3];
            passes.spread(v, n, max, of);
            const double mean = of[1] / of[0];
            floor = max - params.top_n_sigma * std::sqrt(std::max(of[2] / of[0] - mean * mean, 0.0));
        }
        whole = scratch.weigh(passes, v, n, max, scale, floor);
        double uniform[2];
        cadran_sampler_uniforms(params.seed, static_cast<uint64_t>(position), uniform);
        const bool filters = params.mirostat || params.top_k || params.typical_p < 1 || params.top_p < 1 ||
                             params.min_p > 0 || uniform[1] < params.xtc_probability;
        if (!filters) return draw_from_blocks(uniform[0]);
        gather(bound(n, [&](double least) {
            return passes.above(scratch.weights.data(), scratch.block_max.data(),
                                static_cast<int>(scratch.block_max.size()), least);
        }));
        if (!params.mirostat) truncate(v, max, scale, uniform[1]);
        const int64_t target = target_of(uniform[0], sum_of(scratch.keys));
        int64_t running = 0;
        size_t i = 0;
        while ((running += weight_of(scratch.keys[i])) <= target) i++;
        chosen = id_of(scratch.keys[i]);
        surprise = std::log2(static_cast<double>(whole)) - std::log2(static_cast<double>(weight_of(scratch.keys[i])));
        return chosen;
    }

    static int64_t target_of(double uniform, int64_t total) {
        return std::min(static_cast<int64_t>(uniform * static_cast<double>(total)), total - 1);
    }

    int32_t draw_from_blocks(double uniform) const {
        int64_t target = target_of(uniform, whole);
        size_t b = 0;
        const auto passed = [&](double sum) {
            const int64_t whole_sum = static_cast<int64_t>(sum);
            if (target < whole_sum) return true;
            target -= whole_sum;
            return false;
        };
        while (!passed(scratch.block_sum[b])) b++;
        size_t i = b * scan::BLOCK;
        while (!passed(scratch.weights[i])) i++;
        return static_cast<int32_t>(i);
    }

    int32_t choose(const float* logits, int n, int64_t position, const uint32_t* mask) {
        chosen = -1;
        scratch.raw_max.resize(spans_of(n));
        if (!history.changes(mask)) return choose<float>(logits, n, scratch.raw_max.data(), position);
        // Looked at before the mask can hide it: such logits are a fault of the model, whatever is allowed.
        float largest;
        if (!scan::passes<float>().largest(logits, n, scratch.raw_max.data(), &largest))
            return CADRAN_SAMPLING_NOT_A_NUMBER;
        scratch.changed.resize(static_cast<size_t>(n));
        scratch.changed_max.resize(spans_of(n));
        if (!history.change(logits, n, mask, scratch.changed.data())) return CADRAN_SAMPLING_BIAS;
        return choose<double>(scratch.changed.data(), n, scratch.changed_max.data(), position);
    }
};

namespace cadran {
namespace {

// Philox 4x64-10 (Salmon et al. 2011) with key (seed, position) and counter 1, the first block that numpy gives.
void philox(uint64_t seed, uint64_t position, uint64_t* word) {
    __extension__ typedef unsigned __int128 Wide;
    uint64_t c[4] = {1, 0, 0, 0}, key[2] = {seed, position};
    for (int round = 0; round < 10; round++) {
        const Wide a = static_cast<Wide>(0xD2E7470EE14C6C93u) * c[0], b = static_cast<Wide>(0xCA5A826395121157u) * c[2];
        const uint64_t next[4] = {static_cast<uint64_t>(b >> 64) ^ c[1] ^ key[0], static_cast<uint64_t>(b),
                                  static_cast<uint64_t>(a >> 64) ^ c[3] ^ key[1], static_cast<uint64_t>(a)};
        std::copy(next, next + 4, c);
        key[0] += 0x9E3779B97F4A7C15u;
        key[1] += 0xBB67AE8584CAA73Bu;
    }
    std::copy(c, c + 4, word);
}

// The likeliest `wanted` ids, by logit, ties to the smaller id; minus infinity is none. Returns how many.
int32_t likeliest(const float* logits, int n, const float* span_max, int wanted, int32_t* ids) {
    int32_t size = 0;
    for (int b = 0; b * scan::SPAN < n; b++) {
        if (size == wanted && span_max[b] <= logits[ids[size - 1]]) continue;
        for (int i = b * scan::SPAN; i < std::min(n, (b + 1) * scan::SPAN); i++) {
            if (!(logits[i] > -std::numeric_limits<float>::infinity())) continue;
            if (size == wanted && logits[i] <= logits[ids[size - 1]]) continue;
            int32_t at = size == wanted ? size - 1 : size++;
            for (; at > 0 && logits[ids[at - 1]] < logits[i]; at--) ids[at] = ids[at - 1];
            ids[at] = i;
        }
    }
    return size;
}

int32_t score(const float* logits, int32_t n, int32_t token, cadran_choice* out) {
    const scan::Passes<float>& passes = scan::passes<float>();
    scratch.raw_max.resize(spans_of(n));
    float largest;
    if (!passes.largest(logits, n, scratch.raw_max.data(), &largest)) return CADRAN_SAMPLING_NOT_A_NUMBER;
    const double max = static_cast<double>(largest);
    if (!(max > NOTHING)) return CADRAN_SAMPLING_NOTHING_LEFT;
    const int64_t total = scratch.weigh(passes, logits, n, max, LOG2_E, NOTHING);
    const double normaliser = std::log(static_cast<double>(total) / scan::UNIT);
    if (token >= 0 && token < n) out->logprob = (static_cast<double>(logits[token]) - max) - normaliser;
    const int32_t wanted = std::min(std::max(out->top, 0), std::min(CADRAN_MOST_TOP, n));
    out->top = wanted ? likeliest(logits, n, scratch.raw_max.data(), wanted, out->top_ids) : 0;
    for (int i = 0; i < out->top; i++)
        out->top_logprobs[i] = (static_cast<double>(logits[out->top_ids[i]]) - max) - normaliser;
    return 0;
}

}  // namespace
}  // namespace cadran

extern "C" {

cadran_sampler* cadran_sampler_create(const cadran_sampling* params, const int32_t* prompt, int32_t length) {
    try {
        return new cadran_sampler(*params, prompt, length);
    } catch (...) {
        return nullptr;
    }
}

void cadran_sampler_free(cadran_sampler* sampler) { delete sampler; }

int32_t cadran_sampler_choose(cadran_sampler* sampler, const float* logits, int32_t n, int64_t position,
                              const uint32_t* mask, cadran_choice* out) {
    if (n < 1 || n > CADRAN_WIDEST_LOGITS) return CADRAN_SAMPLING_WIDTH;
    try {
        const int32_t token = sampler->choose(logits, n, position, mask);
        if (token < 0 || !out || (!out->logprobs && out->top <= 0)) return token;
        const int32_t error = score(logits, n, token, out);
        return error < 0 ? error : token;
    } catch (...) {
        return CADRAN_SAMPLING_MEMORY;
    }
}

void cadran_sampler_accept(cadran_sampler* sampler, int32_t token) {
    if (sampler->params.mirostat && token == sampler->chosen)
        sampler->mu -= sampler->params.mirostat_eta * (sampler->surprise - sampler->params.mirostat_tau);
    sampler->chosen = -1;
    try {
        sampler->history.record(token);
    } catch (...) {  // without memory the penalties forget this token
    }
}

int32_t cadran_score(const float* logits, int32_t n, int32_t token, cadran_choice* out) {
    if (n < 1 || n > CADRAN_WIDEST_LOGITS) return CADRAN_SAMPLING_WIDTH;
    try {
        return score(logits, n, token, out);
    } catch (...) {
        return CADRAN_SAMPLING_MEMORY;
    }
}

void cadran_sampler_uniforms(uint64_t seed, uint64_t position, double* out) {
    uint64_t word[4];
    philox(seed, position, word);
    for (int i = 0; i < 2; i++) out[i] = static_cast<double>(word[i] >> 11) * 0x1p-53;
}

int32_t cadran_test_weigh(int32_t level, const float* logits, int32_t n, double scale, double* weights,
                          double* spread) {
    const scan::Passes<float>* passes = scan::passes_of<float>(level);
    if (!passes) return -1;
    try {
        std::vector<float> maxima(spans_of(n));
        float largest;
        passes->largest(logits, n, maxima.data(), &largest);
        spread[0] = static_cast<double>(largest);
        passes->spread(logits, n, spread[0], spread + 1);
        scratch.weigh(*passes, logits, n, spread[0], scale, NOTHING);
        std::copy(scratch.weights.begin(), scratch.weights.end(), weights);
    } catch (...) {
        return CADRAN_SAMPLING_MEMORY;
    }
    return 0;
}

int32_t cadran_sampling_size(void) { return static_cast<int32_t>(sizeof(cadran_sampling)); }
int32_t cadran_choice_size(void) { return static_cast<int32_t>(sizeof(cadran_choice)); }
}
