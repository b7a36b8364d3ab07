// Whatever the settings, a sampler gives an allowed token or the error that is due; it leans on no state but its own.
#include <cmath>
#include <limits>
#include <thread>

#include "check.h"
#include "sampler.h"

namespace {

struct Sampler {
    cadran_sampler* it;
    Sampler(const cadran_sampling& params, const std::vector<int32_t>& prompt)
        : it(cadran_sampler_create(&params, prompt.data(), static_cast<int32_t>(prompt.size()))) {
        CHECK(it, "no memory");
    }
    ~Sampler() { cadran_sampler_free(it); }
    Sampler(const Sampler&) = delete;
    Sampler& operator=(const Sampler&) = delete;
};

// Settings with about half of the steps on; the vectors must outlive the creation of the sampler.
struct Settings {
    cadran_sampling params{};
    std::vector<int32_t> breakers, bias_ids;
    std::vector<double> bias_values;
    Settings(Random& random, int vocabulary) {
        const auto maybe = [&](double on, double off) { return random.below(2) ? on : off; };
        params.temperature = random.below(5) ? 0.3 + random.below(10) * 0.1 : 0;
        params.top_p = maybe(0.9, 1);
        params.min_p = maybe(0.05, 0);
        params.typical_p = maybe(0.8, 1);
        params.top_n_sigma = maybe(2, 0);
        params.repetition_penalty = maybe(1.2, 1);
        params.presence_penalty = maybe(0.4, 0);
        params.frequency_penalty = maybe(0.3, 0);
        params.dry_multiplier = maybe(0.8, 0);
        params.dry_base = 1.75;
        params.xtc_probability = maybe(0.5, 0);
        params.xtc_threshold = 0.1;
        params.mirostat = random.below(4) ? 0 : 2;
        params.mirostat_tau = 3;
        params.mirostat_eta = 0.1;
        params.seed = random.bits();
        params.top_k = random.below(2) ? random.between(1, 50) : 0;
        params.penalty_window = random.below(2) ? random.between(1, 20) : 0;
        params.dry_allowed_length = 2;
        for (int i = random.below(3); i > 0; i--) breakers.push_back(i);
        for (int i = random.below(3); i > 0; i--) bias_ids.push_back(random.below(vocabulary)), bias_values.push_back(random.real() * 5.0);
        params.breaker_count = static_cast<int32_t>(breakers.size());
        params.bias_count = static_cast<int32_t>(bias_ids.size());
        params.breakers = breakers.data();
        params.bias_ids = bias_ids.data();
        params.bias_values = bias_values.data();
    }
};

std::vector<int32_t> answer(const Settings& settings, uint64_t seed, int vocabulary, int length) {
    Random random(seed);
    std::vector<int32_t> prompt, tokens;
    for (int i = random.below(10); i > 0; i--) prompt.push_back(random.below(vocabulary));
    const Sampler sampler(settings.params, prompt);
    for (int i = 0; i < length; i++) {
        std::vector<float> logits = random.reals(static_cast<size_t>(vocabulary), 8);
        std::vector<uint32_t> mask(static_cast<size_t>(vocabulary + 31) / 32, 0);
        for (uint32_t& word : mask) word = static_cast<uint32_t>(random.bits() & random.bits());
        const int sure = random.below(vocabulary);
        mask[static_cast<size_t>(sure) / 32] |= 1u << (sure % 32);
        const uint32_t* given = random.below(2) ? mask.data() : nullptr;
        cadran_choice choice{};
        choice.logprobs = random.below(2);
        choice.top = random.below(4);
        const int32_t token = cadran_sampler_choose(sampler.it, logits.data(), vocabulary, i, given, &choice);
        CHECK(token >= 0 && token < vocabulary, "%d of %d", token, vocabulary);
        CHECK(!given || (mask[static_cast<size_t>(token) / 32] >> (token % 32) & 1), "%d is not allowed", token);
        CHECK(choice.top <= 3 && choice.top <= vocabulary, "%d", choice.top);
        CHECK(!choice.logprobs || (choice.logprob <= 1e-9 && std::isfinite(choice.logprob)), "%f", choice.logprob);
        cadran_sampler_accept(sampler.it, token);
        tokens.push_back(token);
    }
    return tokens;
}

void faults_are_named() {
    Random random(3);
    const Settings settings(random, 40);
    const Sampler sampler(settings.params, {1, 2, 3});
    std::vector<float> logits = random.reals(40);
    const std::vector<uint32_t> nothing(2, 0);
    CHECK(cadran_sampler_choose(sampler.it, logits.data(), 40, 0, nothing.data(), nullptr) == CADRAN_SAMPLING_NOTHING_LEFT, "an empty mask");
    CHECK(cadran_sampler_choose(sampler.it, logits.data(), 0, 0, nullptr, nullptr) == CADRAN_SAMPLING_WIDTH, "no logits");
    logits[7] = std::numeric_limits<float>::quiet_NaN();
    CHECK(cadran_sampler_choose(sampler.it, logits.data(), 40, 0, nullptr, nullptr) == CADRAN_SAMPLING_NOT_A_NUMBER, "not a number");
}

}  // namespace

void test_sampler() {
    faults_are_named();
    Random random(2);
    for (int i = 0; i < 60; i++) {
        const int vocabulary = random.below(4) ? random.between(1, 300) : random.between(2000, 5000);
        const Settings settings(random, vocabulary);
        const uint64_t seed = random.bits();
        const std::vector<int32_t> expected = answer(settings, seed, vocabulary, 20);
        // Others at work at the same time change nothing.
        std::vector<std::vector<int32_t>> got(3);
        std::vector<std::thread> threads;
        for (std::vector<int32_t>& tokens : got) threads.emplace_back([&] { tokens = answer(settings, seed, vocabulary, 20); });
        for (std::thread& thread : threads) thread.join();
        for (const std::vector<int32_t>& tokens : got) CHECK(tokens == expected, "vocabulary %d", vocabulary);
    }
}
