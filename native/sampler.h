// The sampler: from the logits of one position to one token. The order of the steps, their sources and the arithmetic
// are described in src/cadran/engine/sampler.py; src/cadran/engine/sampling/ is the same thing in numpy, and both
// choose the same tokens. Everything after the softmax is integers, so no order of additions can change a draw.
//
// A sampler is used by one thread at a time; different samplers may be used at once. Nothing here throws.
#pragma once
#include <cstdint>

constexpr int32_t CADRAN_MOST_TOP = 64;             // alternatives reported with a token
constexpr int32_t CADRAN_WIDEST_LOGITS = 1 << 20;  // an id and its weight share one 64-bit key

// What `cadran_sampler_choose` returns in place of a token.
enum cadran_sampling_error : int32_t {
    CADRAN_SAMPLING_NOT_A_NUMBER = -1,  // a logit is NaN or plus infinity
    CADRAN_SAMPLING_NOTHING_LEFT = -2,  // no allowed token has a logit above minus infinity
    CADRAN_SAMPLING_WIDTH = -3,         // no logits, or more than CADRAN_WIDEST_LOGITS
    CADRAN_SAMPLING_MEMORY = -4,        // no memory
    CADRAN_SAMPLING_BIAS = -5,          // a logit bias names an id beyond the logits
};

#pragma GCC visibility push(default)
extern "C" {

// How to choose; the caller has checked the ranges. Copied by `cadran_sampler_create`.
typedef struct cadran_sampling {
    double temperature, top_p, min_p, typical_p, top_n_sigma;
    double repetition_penalty, presence_penalty, frequency_penalty;
    double dry_multiplier, dry_base, xtc_probability, xtc_threshold, mirostat_tau, mirostat_eta;
    uint64_t seed;  // of this answer
    int32_t top_k, penalty_window, dry_allowed_length, mirostat;
    int32_t breaker_count, bias_count;
    const int32_t* breakers;  // ids that no DRY match extends over
    const int32_t* bias_ids;
    const double* bias_values;
} cadran_sampling;

// How likely the chosen token was. `logprobs` and `top` say what is wanted; `top` then how many there are.
typedef struct cadran_choice {
    int32_t logprobs, top;
    double logprob;
    double top_logprobs[CADRAN_MOST_TOP];
    int32_t top_ids[CADRAN_MOST_TOP];
} cadran_choice;

typedef struct cadran_sampler cadran_sampler;

// The sampler of one answer to `prompt`; null without memory.
cadran_sampler* cadran_sampler_create(const cadran_sampling* params, const int32_t* prompt, int32_t length);
void cadran_sampler_free(cadran_sampler* sampler);

// The token at `position` (of the whole sequence), or an error (negative). Changes nothing that a second call sees.
// `mask` may be null, else bit (id % 32) of word id / 32 is set where a token is allowed; `out` may be null.
int32_t cadran_sampler_choose(cadran_sampler* sampler, const float* logits, int32_t n, int64_t position,
                              const uint32_t* mask, cadran_choice* out);

// Records a token of the answer, chosen or forced.
void cadran_sampler_accept(cadran_sampler* sampler, int32_t token);

// Log-probability and likeliest tokens of raw logits; 0, or an error. A negative `token` has none.
int32_t cadran_score(const float* logits, int32_t n, int32_t token, cadran_choice* out);

// The two uniform numbers of a position: of the draw and of XTC.
void cadran_sampler_uniforms(uint64_t seed, uint64_t position, double* out);

// For tests: what the passes of one instruction set (0 plain, 1 AVX2, 2 AVX-512) make of n logits. `weights` has room
// for whole blocks of 64; `spread` receives the largest logit, then count, sum and sum of squares of top-n-sigma.
// Returns 0, or -1 where the machine has no such instructions.
int32_t cadran_test_weigh(int32_t level, const float* logits, int32_t n, double scale, double* weights,
                          double* spread);

// Sizes of the two structures, by which a caller checks its own description of them.
int32_t cadran_sampling_size(void);
int32_t cadran_choice_size(void);
}
#pragma GCC visibility pop
