// Everything that changes logits before the softmax: mask, bias, penalties and DRY, with the history they look at.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <unordered_map>
#include <vector>

#include "sampler.h"

namespace cadran {

// What an answer has said, the prompt too, as far as something looks at it.
class History {
  public:
    History(const cadran_sampling& params, const int32_t* prompt, int32_t length)
        : params_(params),
          breakers_(params.breakers, params.breakers + params.breaker_count),
          bias_ids_(params.bias_ids, params.bias_ids + params.bias_count),
          bias_values_(params.bias_values, params.bias_values + params.bias_count),
          prompt_(static_cast<size_t>(length)) {
        params_.breakers = params_.bias_ids = nullptr;  // the caller's, and copied
        params_.bias_values = nullptr;
        std::sort(breakers_.begin(), breakers_.end());
        for (int32_t i = 0; i < length; i++) record(prompt[i]);
    }

    void record(int32_t token) {
        if (!penalises() && !params_.dry_multiplier) return;
        const size_t before = window_start();
        text_.push_back(token);
        if (!penalises()) return;
        count(text_.size() - 1, 1);
        if (window_start() != before) count(before, -1);
    }

    // Whether the logits are to be changed at all.
    bool changes(const uint32_t* mask) const {
        return mask || !bias_ids_.empty() || !seen_.empty() || params_.dry_multiplier > 0;
    }

    // Writes the changed logits; false when a bias is beyond them.
    bool change(const float* logits, int n, const uint32_t* mask, double* values) const {
        for (int i = 0; i < n; i++) values[i] = static_cast<double>(logits[i]);
        if (mask) forbid(n, mask, values);
        for (size_t i = 0; i < bias_ids_.size(); i++) {
            if (bias_ids_[i] >= n) return false;
            values[bias_ids_[i]] += bias_values_[i];
        }
        for (const Seen& entry : seen_) {
            if (entry.id < 0 || entry.id >= n) continue;
            double& value = values[entry.id];
            value = value > 0 ? value / params_.repetition_penalty : value * params_.repetition_penalty;
            if (entry.answered)
                value -= params_.presence_penalty + params_.frequency_penalty * static_cast<double>(entry.answered);
        }
        if (params_.dry_multiplier > 0) dry(values, n);
        return true;
    }

  private:
    static constexpr size_t LONGEST_MATCH = 50;  // of DRY, as in its first implementation

    // A token of the window, how often it is there, and how often as part of the answer.
    struct Seen {
        int32_t id, times, answered;
    };

    bool penalises() const {
        return params_.repetition_penalty != 1 || params_.presence_penalty != 0 || params_.frequency_penalty != 0;
    }

    size_t window_start() const {
        const size_t window = static_cast<size_t>(params_.penalty_window);
        return window && text_.size() > window ? text_.size() - window : 0;
    }

    // Adds a token of the text to the counts, or takes it away.
    void count(size_t index, int32_t sign) {
        const int32_t id = text_[index];
        const auto found = place_.emplace(id, seen_.size());
        if (found.second) seen_.push_back({id, 0, 0});
        Seen& entry = seen_[found.first->second];
        entry.times += sign;
        entry.answered += index >= prompt_ ? sign : 0;
        if (entry.times) return;
        place_[seen_.back().id] = found.first->second;
        entry = seen_.back();
        seen_.pop_back();
        place_.erase(id);
    }

    static void forbid(int n, const uint32_t* mask, double* values) {
        for (int word = 0; word * 32 < n; word++) {
            if (mask[word] == 0xffffffffu) continue;
            const int end = std::min(n, word * 32 + 32);
            for (int i = word * 32; i < end; i++)
                values[i] = mask[word] >> (i % 32) & 1 ? values[i] : -std::numeric_limits<double>::infinity();
        }
    }

    bool breaks(int32_t id) const { return std::binary_search(breakers_.begin(), breakers_.end(), id); }

    // Lowers what would go on with a repetition of the text's end: the longer it is, the more.
    void dry(double* values, int n) const {
        const size_t start = window_start(), size = text_.size() - start;
        const int32_t* text = text_.data() + start;
        if (size < 2 || breaks(text[size - 1])) return;
        size_t reach = 1;
        while (reach < LONGEST_MATCH && reach < size && !breaks(text[size - 1 - reach])) reach++;
        std::unordered_map<int32_t, size_t> longest;
        for (size_t i = 0; i + 1 < size; i++) {
            if (text[i] != text[size - 1] || breaks(text[i + 1])) continue;
            size_t length = 1;
            while (length < reach && length <= i && text[i - length] == text[size - 1 - length]) length++;
            size_t& most = longest[text[i + 1]];
            most = std::max(most, length);
        }
        const size_t allowed = static_cast<size_t>(params_.dry_allowed_length);
        for (const auto& match : longest) {
            if (match.second < allowed || match.first < 0 || match.first >= n) continue;
            double penalty = params_.dry_multiplier;
            for (size_t i = allowed; i < match.second; i++) penalty *= params_.dry_base;
            values[match.first] -= penalty;
        }
    }

    cadran_sampling params_;
    std::vector<int32_t> breakers_;
    const std::vector<int32_t> bias_ids_;
    const std::vector<double> bias_values_;
    const size_t prompt_;
    std::vector<int32_t> text_;
    std::vector<Seen> seen_;
    std::unordered_map<int32_t, size_t> place_;  // of an id in seen_
};

}  // namespace cadran
