// One pass over a batch. All threads run the same function and meet at barriers, about six a layer; each multiplies its
// own rows, whose weights it alone reads. What a token's result is never depends on the batch: products, softmax
// chunks and merges have one order each, however the work is cut.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model.h"

namespace cadran {

namespace {

constexpr int TILE = 16;  // tokens of a prompt in one attention task

struct Range {
    int first, last;
};

// The share of `count` things that a thread takes.
Range share(int count, int thread, int threads) {
    const int whole = count / threads, more = count % threads;
    const int first = thread * whole + std::min(thread, more);
    return {first, first + whole + (thread < more)};
}

}  // namespace

const char* Model::refuses(const cadran_batch& b) const {
    if (b.tokens < 1 || b.tokens > most_tokens_) return "the batch has no tokens or more than were made room for";
    if (b.sequences < 1 || b.sequences > b.tokens || b.wide < 1 || b.outputs < 0 || b.outputs > b.tokens)
        return "the batch's sizes do not fit together";
    if (b.starts[0] != 0 || b.starts[b.sequences] != b.tokens) return "the batch's starts do not cover its tokens";
    for (int s = 0; s < b.sequences; s++) {
        const int from = b.starts[s], to = b.starts[s + 1];
        if (from < 0 || to <= from || to > b.tokens) return "a sequence of the batch is empty";
        for (int t = from; t < to; t++) {
            const int p = b.positions[t];
            if (p < 0 || p >= shape_.context) return "a position lies outside the context";
            if (t > from && p != b.positions[t - 1] + 1) return "the positions of a sequence are not consecutive";
            if (b.ids[t] < 0 || b.ids[t] >= shape_.vocabulary) return "a token lies outside the vocabulary";
        }
        const int used = b.positions[to - 1] / POSITIONS;
        if (used >= b.wide) return "a block table is too short";
        for (int i = 0; i <= used; i++) {
            const int block = b.tables[static_cast<size_t>(s) * static_cast<size_t>(b.wide) + static_cast<size_t>(i)];
            if (block < 0 || block >= blocks_) return "a block table names a block that is not there";
        }
    }
    for (int s = 0; b.adapters && s < b.sequences; s++) {
        const int32_t adapter = b.adapters[s];
        if (adapter < 0 || adapter > static_cast<int32_t>(adapters_.size()) ||
            (adapter && !adapters_[static_cast<size_t>(adapter - 1)]))
            return "a sequence names an adapter that is not there";
    }
    // Each writes its own: a block that two sequences extend would hold a mixture, and threads would race for it.
    std::vector<int> written;
    for (int s = 0; s < b.sequences; s++)
        for (int i = b.positions[b.starts[s]] / POSITIONS; i <= b.positions[b.starts[s + 1] - 1] / POSITIONS; i++)
            written.push_back(b.tables[static_cast<size_t>(s) * static_cast<size_t>(b.wide) + static_cast<size_t>(i)]);
    std::sort(written.begin(), written.end());
    if (std::adjacent_find(written.begin(), written.end()) != written.end())
        return "a block would be written twice by one batch";
    for (int i = 0; i < b.outputs; i++)
        if (b.wanted[i] < 0 || b.wanted[i] >= b.tokens || (i && b.wanted[i] <= b.wanted[i - 1]))
            return "the wanted tokens are not ascending tokens of the batch";
    return nullptr;
}

// Which attention tasks there are. A sequence with a few new tokens and many chunks is cut by chunks, so that all
// threads have work; a prompt is cut by tokens.
void Model::plan(const cadran_batch& batch) {
    tasks_.clear();
    splits_.clear();
    token_sequence_.resize(static_cast<size_t>(batch.tokens));
    segments_.clear();
    for (int s = 0; batch.adapters && s < batch.sequences; s++) {
        if (!batch.adapters[s]) continue;
        const Adapter* adapter = adapters_[static_cast<size_t>(batch.adapters[s] - 1)].get();
        const int from = batch.starts[s], count = batch.starts[s + 1] - from;
        if (!segments_.empty() && segments_.back().adapter == adapter &&
            segments_.back().first + segments_.back().tokens == from)
            segments_.back().tokens += count;
        else
            segments_.push_back({from, count, adapter});
    }
    alone_ = shape_.qk_norm != 2;  // such a norm needs the whole row
    const int group = shape_.heads / shape_.kv_heads;
    int partials = 0;
    // Long tasks first: the last ones to finish should be short.
    for (int s = 0; s < batch.sequences; s++) {
        const int from = batch.starts[s], to = batch.starts[s + 1];
        for (int t = from; t < to; t++) token_sequence_[static_cast<size_t>(t)] = s;
        const int chunks = batch.positions[to - 1] / CHUNK + 1;
        alone_ = alone_ && to - from == 1;
        const bool cut = to - from == 1 && chunks > 1 && batch.sequences < 4 * pool_.threads() &&
                         batch.sequences <= 256;
        for (int h = 0; h < shape_.kv_heads; h++) {
            if (cut) {
                alone_ = false;
                splits_.push_back({from, h, group, partials, chunks});
                for (int c = 0; c < chunks; c++) {
                    tasks_.push_back({s, h, 0, 1, c, 1, partials});
                    partials += group;
                }
                continue;
            }
            for (int t = (to - from - 1) / TILE * TILE; t >= 0; t -= TILE) {
                const int count = std::min(TILE, to - from - t);
                const int last = batch.positions[from + t + count - 1] / CHUNK + 1;
                tasks_.push_back({s, h, t, count, 0, last, -1});
            }
        }
    }
    for (std::atomic<int>& next : next_task_) next.store(0, std::memory_order_relaxed);
}

void Model::step(const cadran_batch& batch, float* logits, int columns, float* hidden) {
    plan(batch);
    out_logits_ = logits;
    out_hidden_ = hidden;
    out_columns_ = columns;
    pool_.run([&](int thread) { forward(thread, batch); });
}

void Model::forward(int thread, const cadran_batch& batch) {
    embed(thread, batch);
    for (int i = 0; i < shape_.layers; i++) layer(thread, batch, i);
    if (batch.outputs && (out_logits_ || out_hidden_)) outputs(thread, batch);
}

void Model::embed(int thread, const cadran_batch& batch) {
    const Range mine = share(batch.tokens, thread, pool_.threads());
    const int half = shape_.rotary / 2;
    const size_t width = static_cast<size_t>(shape_.width);
    for (int t = mine.first; t < mine.last; t++) {
        float* x = x_.as<float>() + static_cast<size_t>(t) * x_stride_;
        const int block = batch.ids[t] / LANES, lane = batch.ids[t] % LANES;
        for (const Stripe& s : embedding_.stripes)
            if (block >= s.first && block < s.first + s.count)
                k_.row(embedding_.kind, s.data + static_cast<size_t>(block - s.first) * cadran::block_bytes(embedding_.kind, shape_.width),
                       shape_.width, lane, x);
        if (shape_.embedding_scale != 1.0f)
            for (size_t i = 0; i < width; i++) x[i] *= shape_.embedding_scale;
        if (positions_) k_.add(x, positions_ + static_cast<size_t>(batch.positions[t]) * width, shape_.width);
        // Cosines and sines of the plain angles, then of those of the layers with a window.
        float* angles = angles_.as<float>() + static_cast<size_t>(t) * static_cast<size_t>(4 * half);
        for (int which = 0; which < (local_frequencies_ ? 2 : 1) && half; which++) {
            const float* frequencies = which ? local_frequencies_ : frequencies_;
            const float magnitude = which ? shape_.local_rope_magnitude : shape_.rope_magnitude;
            for (int i = 0; i < half; i++) {
                const float angle = static_cast<float>(batch.positions[t]) * frequencies[i];
                angles[which * 2 * half + i] = std::cos(angle) * magnitude;
                angles[which * 2 * half + half + i] = std::sin(angle) * magnitude;
            }
        }
    }
    meet();
}

const Rows& Model::enter(int thread, int tokens, bool bytes, const Norm* norm) {
    const bool few = tokens <= FEW_TOKENS;
    const Rows& rows = few ? few_[static_cast<size_t>(thread)].rows : width_.rows;
    const Range mine = few ? Range{0, tokens} : share(tokens, thread, pool_.threads());
    const int width = shape_.width;
    for (int t = mine.first; t < mine.last; t++) {
        float* to = const_cast<float*>(rows.x) + static_cast<size_t>(t) * static_cast<size_t>(rows.columns);
        const float* from = x_.as<float>() + static_cast<size_t>(t) * x_stride_;
        // Half of the next row was written by other cores: it comes while this one is prepared.
        if (t + 1 < mine.last)
            for (int i = 0; i < width; i += 16) __builtin_prefetch(from + x_stride_ + i);
        if (norm)
            k_.normalise(from, norm->weight, norm->bias, width, rows.columns, shape_.epsilon, shape_.layer_norm, to);
        else
            std::memcpy(to, from, static_cast<size_t>(width) * 4);
        if (bytes) k_.quantise(rows, t, 0, rows.columns / GROUP);
    }
    if (!few) meet();
    return rows;
}

void Model::project(int thread, const Matrix& matrix, const Rows& rows, int tokens, float* out, size_t stride,
                    bool add) {
    const Stripe& stripe = matrix.stripes[static_cast<size_t>(thread)];
    if (!stripe.count) return;
    float* to = out + static_cast<size_t>(stripe.first) * LANES;
    k_.multiply(matrix.kind, stripe.data, stripe.count, matrix.columns, rows, tokens, to, stride, add);
    if (matrix.bias) {
        const int first = stripe.first * LANES, count = std::min(matrix.rows - first, stripe.count * LANES);
        for (int t = 0; t < tokens; t++) k_.add(to + static_cast<size_t>(t) * stride, matrix.bias + first, count);
    }
}

void Model::project(int thread, int index, int role, const Rows& rows, int tokens, float* out, size_t stride, bool add) {
    const Matrix& m = *matrix(role, index);
    project(thread, m, rows, tokens, out, stride, add);
    const Stripe& stripe = m.stripes[static_cast<size_t>(thread)];
    if (!stripe.count) return;
    for (const Segment& s : segments_) {
        const LowRank& map = s.adapter->maps[static_cast<size_t>(index * 7 + role - CADRAN_Q)];
        if (!map.down) continue;
        // Every thread makes all of the few numbers in the middle: that costs less than to meet.
        const int blocks = (map.rank + LANES - 1) / LANES;
        float* low = low_[static_cast<size_t>(thread)].as<float>();
        Rows from = rows, middle{};
        from.x += static_cast<size_t>(s.first) * static_cast<size_t>(rows.columns);
        middle.columns = blocks * LANES;
        middle.planes = 1;
        middle.x = low;
        k_.multiply(F32, map.down, blocks, m.columns, from, s.tokens, low, static_cast<size_t>(middle.columns), false);
        k_.multiply(F32, map.up + static_cast<size_t>(stripe.first) * cadran::block_bytes(F32, map.rank), stripe.count,
                    map.rank, middle, s.tokens,
                    out + static_cast<size_t>(s.first) * stride + static_cast<size_t>(stripe.first) * LANES, stride, true);
    }
}

// A norm behind a block, whose result then joins the residual stream.
void Model::after(int thread, int tokens, const Norm& norm, const float* y) {
    meet();
    const Range mine = share(tokens, thread, pool_.threads());
    float* normalised = normalised_[static_cast<size_t>(thread)].as<float>();
    for (int t = mine.first; t < mine.last; t++) {
        k_.normalise(y + static_cast<size_t>(t) * x_stride_, norm.weight, norm.bias, shape_.width, shape_.width,
                     shape_.epsilon, shape_.layer_norm, normalised);
        k_.add(x_.as<float>() + static_cast<size_t>(t) * x_stride_, normalised, shape_.width);
    }
    meet();
}

void Model::layer(int thread, const cadran_batch& batch, int index) {
    const Layer& l = layers_[static_cast<size_t>(index)];
    const int n = batch.tokens;
    float* x = x_.as<float>();
    const Norm* before = l.before_attention.weight ? &l.before_attention : nullptr;
    // Matrices of one input may be kept differently: bytes are made when any of them asks for them.
    bool bytes = quantised(l.q.kind) || quantised(l.k.kind) || quantised(l.v.kind);
    const Rows* rows = &enter(thread, n, bytes, before);
    project(thread, index, CADRAN_Q, *rows, n, q_.as<float>(), q_stride_, false);
    project(thread, index, CADRAN_K, *rows, n, key_.as<float>(), k_stride_, false);
    project(thread, index, CADRAN_V, *rows, n, value_.as<float>(), k_stride_, false);
    meet();
    if (!alone_) {
        place(thread, batch, index);
        meet();
    }
    attention(thread, batch, index);
    if (l.after_attention.weight) {
        project(thread, index, CADRAN_O, heads_.rows, n, y_.as<float>(), x_stride_, false);
        after(thread, n, l.after_attention, y_.as<float>());
    } else {
        project(thread, index, CADRAN_O, heads_.rows, n, x, x_stride_, true);
        meet();
    }

    before = l.before_mlp.weight ? &l.before_mlp : nullptr;
    bytes = quantised(l.up.kind) || (l.gate.present() && quantised(l.gate.kind));
    rows = &enter(thread, n, bytes, before);
    // The gate, or the only projection, is made where the next product reads it; activated, and turned into bytes, by the
    // thread that has it at hand.
    float* hidden = const_cast<float*>(hidden_.rows.x);
    const size_t wide = static_cast<size_t>(hidden_.rows.columns);
    const bool gated = l.gate.present();
    if (gated) project(thread, index, CADRAN_GATE, *rows, n, hidden, wide, false);
    project(thread, index, CADRAN_UP, *rows, n, gated ? up_.as<float>() : hidden, gated ? f_stride_ : wide, false);
    const Stripe& stripe = l.up.stripes[static_cast<size_t>(thread)];
    const size_t first = static_cast<size_t>(stripe.first) * LANES;
    for (int t = 0; t < n; t++) {
        const float* up = up_.as<float>() + static_cast<size_t>(t) * f_stride_ + first;
        float* row = hidden + static_cast<size_t>(t) * wide + first;
        k_.gate(shape_.activation, row, gated ? up : nullptr, stripe.count * LANES, row);
        if (quantised(l.down.kind)) k_.quantise(hidden_.rows, t, stripe.first / 2, (stripe.count + 1) / 2);
    }
    meet();
    if (l.after_mlp.weight) {
        project(thread, index, CADRAN_DOWN, hidden_.rows, n, y_.as<float>(), x_stride_, false);
        after(thread, n, l.after_mlp, y_.as<float>());
    } else {
        project(thread, index, CADRAN_DOWN, hidden_.rows, n, x, x_stride_, true);
        meet();
    }
}

// The block of the KV cache that a token goes to.
int Model::block_of(const cadran_batch& batch, int token) const {
    return batch.tables[static_cast<size_t>(token_sequence_[static_cast<size_t>(token)]) *
                            static_cast<size_t>(batch.wide) +
                        static_cast<size_t>(batch.positions[token] / POSITIONS)];
}

// A key goes into as many lines as it has numbers; they are asked for some time before it is written.
void Model::expect_key(const cadran_batch& batch, int index, int token, int head) const {
    const uint8_t* block = kv_block(index, block_of(batch, token), head);
    for (size_t line = 0; line < head_block_ / 2; line += 64) __builtin_prefetch(block + line, 1);
}

// Norms and positions of the queries and keys of a token, for key heads `first` to `first + heads`; keys and values go
// into their blocks.
void Model::place_heads(const cadran_batch& batch, int index, int token, int first, int heads) {
    const Layer& l = layers_[static_cast<size_t>(index)];
    const int width = shape_.head_width, half = shape_.rotary / 2, group = shape_.heads / shape_.kv_heads;
    const size_t t = static_cast<size_t>(token);
    const bool local = l.windowed && local_frequencies_;
    float* q = q_.as<float>() + t * q_stride_;
    float* k = key_.as<float>() + t * k_stride_;
    const float* v = value_.as<float>() + t * k_stride_;
    const float* angles = angles_.as<float>() + t * static_cast<size_t>(4 * half) + (local ? 2 * half : 0);
    const int position = batch.positions[token], block = block_of(batch, token);
    for (int h = first; h < first + heads; h++) {
        for (int g = 0; g < group; g++) {
            float* head = q + static_cast<size_t>((h * group + g) * width);
            if (shape_.qk_norm == 1)
                k_.normalise(head, l.q_norm, nullptr, width, width, shape_.epsilon, shape_.layer_norm, head);
            if (half) k_.turn(head, angles, angles + half, half);
        }
        float* key = k + static_cast<size_t>(h * width);
        if (shape_.qk_norm == 1)
            k_.normalise(key, l.k_norm, nullptr, width, width, shape_.epsilon, shape_.layer_norm, key);
        if (half) k_.turn(key, angles, angles + half, half);
        uint8_t* to = kv_block(index, block, h);
        k_.write_key(kv_, key, width, to, position % POSITIONS);
        k_.write_value(kv_, v + static_cast<size_t>(h * width), width, to, position % POSITIONS);
    }
}

void Model::place(int thread, const cadran_batch& batch, int index) {
    const Layer& l = layers_[static_cast<size_t>(index)];
    const bool together = shape_.qk_norm == 2;  // then one thread needs the whole row
    const int parts = together ? 1 : shape_.kv_heads, heads = shape_.kv_heads / parts;
    const Range mine = share(batch.tokens * parts, thread, pool_.threads());
    for (int task = mine.first; task < mine.last; task++) {
        const int t = task / parts, first = task % parts * heads;
        if (task + 1 < mine.last) expect_key(batch, index, (task + 1) / parts, (task + 1) % parts * heads);
        if (together) {
            float* q = q_.as<float>() + static_cast<size_t>(t) * q_stride_;
            float* k = key_.as<float>() + static_cast<size_t>(t) * k_stride_;
            const int wide = shape_.heads * shape_.head_width, narrow = shape_.kv_heads * shape_.head_width;
            k_.normalise(q, l.q_norm, nullptr, wide, wide, shape_.epsilon, shape_.layer_norm, q);
            k_.normalise(k, l.k_norm, nullptr, narrow, narrow, shape_.epsilon, shape_.layer_norm, k);
        }
        place_heads(batch, index, t, first, heads);
    }
}

// One head's result of a token, where the next product reads it; bytes are made at once where a head is whole groups.
void Model::conclude(int index, int token, int head, const float* out) {
    const size_t width = static_cast<size_t>(shape_.head_width), columns = static_cast<size_t>(heads_.rows.columns);
    std::memcpy(const_cast<float*>(heads_.rows.x) + static_cast<size_t>(token) * columns + static_cast<size_t>(head) * width,
                out, width * 4);
    if (quantised(layers_[static_cast<size_t>(index)].o.kind) && shape_.head_width % GROUP == 0)
        k_.quantise(heads_.rows, token, head * (shape_.head_width / GROUP), shape_.head_width / GROUP);
}

void Model::attention(int thread, const cadran_batch& batch, int index) {
    std::atomic<int>& next = next_task_[static_cast<size_t>(index)];
    float* scratch = scratch_[static_cast<size_t>(thread)].as<float>();
    const int count = static_cast<int>(tasks_.size());
    // A thread takes its next task before it begins one, so that what it will read can be asked for meanwhile.
    int following = 0;
    for (int i = next.fetch_add(1, std::memory_order_relaxed); i < count; i = following) {
        following = next.fetch_add(1, std::memory_order_relaxed);
        run_task(tasks_[static_cast<size_t>(i)], following < count ? &tasks_[static_cast<size_t>(following)] : nullptr,
                 batch, index, scratch);
    }
    meet();
    if (!splits_.empty()) {
        merge_partials(thread, index);
        meet();
    }
    if (quantised(layers_[static_cast<size_t>(index)].o.kind) && shape_.head_width % GROUP) {
        const Range mine = share(batch.tokens, thread, pool_.threads());
        for (int t = mine.first; t < mine.last; t++) k_.quantise(heads_.rows, t, 0, heads_.rows.columns / GROUP);
        meet();
    }
}

// The chunk at which a task begins in a layer with this window, or 0 for none.
int Model::first_chunk(const Task& task, const cadran_batch& batch, int window) const {
    const int position = batch.positions[batch.starts[task.sequence] + task.first_token];
    return std::max(task.first_chunk, window ? std::max(0, position - window + 1) / CHUNK : 0);
}

void Model::run_task(const Task& task, const Task* following, const cadran_batch& batch, int index, float* scratch) {
    const int group = shape_.heads / shape_.kv_heads, width = shape_.head_width;
    const int window = layers_[static_cast<size_t>(index)].windowed ? shape_.window : 0;
    const size_t padded = static_cast<size_t>(padded_), slot = padded + 4;
    const int first = batch.starts[task.sequence] + task.first_token;
    const int32_t* table = batch.tables + static_cast<size_t>(task.sequence) * static_cast<size_t>(batch.wide);
    const AttentionSpec spec{width, padded_, shape_.attention_scale, shape_.attention_cap, kv_};
    const int count = task.tokens * group;
    float* partial = task.partial >= 0 ? partials_.as<float>() + static_cast<size_t>(task.partial) * slot : scratch;
    // Behind each row's result lie its maximum, its sum, and whether it has begun.
    for (int r = 0; r < count; r++) std::memset(partial + static_cast<size_t>(r) * slot + padded, 0, 16);

    const uint8_t* after = nullptr;
    if (following && alone_) expect_key(batch, index, batch.starts[following->sequence], following->kv_head);
    if (alone_) place_heads(batch, index, first, task.kv_head, 1);
    if (following)
        after = kv_block(index,
                         batch.tables[static_cast<size_t>(following->sequence) * static_cast<size_t>(batch.wide) +
                                      static_cast<size_t>(first_chunk(*following, batch, window) * (CHUNK / POSITIONS))],
                         following->kv_head);
    const int end = task.first_chunk + task.chunks;
    for (int c = first_chunk(task, batch, window); c < end; c++) {
        const uint8_t* blocks[CHUNK / POSITIONS] = {};
        const uint8_t* next = c + 1 < end ? kv_block(index, table[(c + 1) * (CHUNK / POSITIONS)], task.kv_head) : after;
        const int used = batch.positions[first + task.tokens - 1] / POSITIONS;
        for (int b = 0; b < CHUNK / POSITIONS; b++) {
            const int at = c * (CHUNK / POSITIONS) + b;
            blocks[b] = at <= used ? kv_block(index, table[at], task.kv_head) : nullptr;
        }
        for (int r = 0; r < count;) {
            AttentionRow rows[MOST_ROWS];
            int n = 0;
            for (; r < count && n < MOST_ROWS; r++) {
                const int t = first + r / group, position = batch.positions[t];
                const int from = window ? std::max(0, position - window + 1) : 0;
                if (position < c * CHUNK || from >= (c + 1) * CHUNK) continue;
                float* out = partial + static_cast<size_t>(r) * slot;
                rows[n++] = {q_.as<float>() + static_cast<size_t>(t) * q_stride_ +
                                 static_cast<size_t>((task.kv_head * group + r % group) * width),
                             from, position, out, out + padded, out + padded + 1,
                             reinterpret_cast<bool*>(out + padded + 2)};
            }
            if (n) k_.attend(spec, blocks, next, c * CHUNK, rows, n);
        }
    }
    if (task.partial >= 0) return;
    for (int r = 0; r < count; r++) {
        float* out = partial + static_cast<size_t>(r) * slot;
        k_.finish(out, out[padded + 1], padded_);
        conclude(index, first + r / group, task.kv_head * group + r % group, out);
    }
}

// Chunks computed by different tasks, merged in their order: the same sums as when one task had run through them.
void Model::merge_partials(int thread, int index) {
    const int group = shape_.heads / shape_.kv_heads;
    const size_t padded = static_cast<size_t>(padded_), slot = padded + 4;
    const Range mine = share(static_cast<int>(splits_.size()) * group, thread, pool_.threads());
    for (int task = mine.first; task < mine.last; task++) {
        const Split& split = splits_[static_cast<size_t>(task / group)];
        const int r = task % group;
        float* whole = nullptr;
        for (int c = 0; c < split.partials; c++) {
            float* part = partials_.as<float>() + static_cast<size_t>(split.first_partial + c * group + r) * slot;
            bool* started = reinterpret_cast<bool*>(part + padded + 2);
            if (!*started) continue;
            if (!whole) {
                whole = part;
                continue;
            }
            const AttentionRow into{nullptr, 0, 0, whole, whole + padded, whole + padded + 1,
                                    reinterpret_cast<bool*>(whole + padded + 2)};
            k_.merge(into, part, part[padded], part[padded + 1], padded_);
        }
        k_.finish(whole, whole[padded + 1], padded_);
        conclude(index, split.token, split.kv_head * group + r, whole);
    }
}

void Model::outputs(int thread, const cadran_batch& batch) {
    const size_t width = static_cast<size_t>(shape_.width);
    if (out_hidden_) {
        const Range mine = share(batch.outputs, thread, pool_.threads());
        for (int i = mine.first; i < mine.last; i++)
            k_.normalise(x_.as<float>() + static_cast<size_t>(batch.wanted[i]) * x_stride_, final_norm_.weight,
                         final_norm_.bias, shape_.width, shape_.width, shape_.epsilon, shape_.layer_norm,
                         out_hidden_ + static_cast<size_t>(i) * width);
    }
    if (!out_logits_) return;
    // A few rows at a time: the logits of a long prompt would not fit beside the model.
    const size_t columns = static_cast<size_t>(out_columns_);
    const size_t whole = static_cast<size_t>(head_.blocks()) * LANES;
    const bool direct = columns == whole;
    const int most = direct ? batch.outputs : static_cast<int>(logit_rows_);
    for (int from = 0; from < batch.outputs; from += most) {
        const int count = std::min(most, batch.outputs - from);
        const Range mine = share(count, thread, pool_.threads());
        const Rows& rows = output_.rows;
        for (int i = mine.first; i < mine.last; i++) {
            k_.normalise(x_.as<float>() + static_cast<size_t>(batch.wanted[from + i]) * x_stride_, final_norm_.weight,
                         final_norm_.bias, shape_.width, rows.columns, shape_.epsilon, shape_.layer_norm,
                         const_cast<float*>(rows.x) + static_cast<size_t>(i) * static_cast<size_t>(rows.columns));
            if (quantised(head_.kind)) k_.quantise(rows, i, 0, rows.columns / GROUP);
        }
        meet();
        float* to = direct ? out_logits_ + static_cast<size_t>(from) * columns : logits_.as<float>();
        project(thread, head_, rows, count, to, whole, false);
        const Stripe& stripe = head_.stripes[static_cast<size_t>(thread)];
        const size_t first = static_cast<size_t>(stripe.first) * LANES;
        const size_t rows_mine = static_cast<size_t>(stripe.count) * LANES;
        for (int i = 0; i < count; i++) {
            float* mine_from = to + static_cast<size_t>(i) * whole + first;
            if (shape_.logit_cap > 0) k_.cap(mine_from, static_cast<int>(rows_mine), shape_.logit_cap);
            if (!direct && first < columns)
                std::memcpy(out_logits_ + static_cast<size_t>(from + i) * columns + first, mine_from,
                            std::min(rows_mine, columns - first) * 4);
        }
        meet();
    }
}

int Model::burst(const cadran_batch& batch, cadran_sampler** samplers, int columns, const int32_t* stops,
                 const int32_t* stop_starts, int steps, int32_t* out) {
    const int count = batch.sequences;
    const size_t n = static_cast<size_t>(count);
    if (count < 1) return 0;
    std::vector<int32_t> ids(batch.ids, batch.ids + count), positions(batch.positions, batch.positions + count);
    std::vector<int32_t> chosen(n);
    burst_logits_.resize(std::max(burst_logits_.size(), n * static_cast<size_t>(columns)));
    float* logits = burst_logits_.data();
    cadran_batch now = batch;
    now.ids = ids.data();
    now.positions = positions.data();
    for (int step_number = 0; step_number < steps; step_number++) {
        if (refuses(now)) return step_number;
        plan(now);
        out_logits_ = logits;
        out_hidden_ = nullptr;
        out_columns_ = columns;
        pool_.run([&](int thread) {
            forward(thread, now);
            const Range mine = share(count, thread, pool_.threads());
            for (int i = mine.first; i < mine.last; i++)
                chosen[static_cast<size_t>(i)] =
                    cadran_sampler_choose(samplers[i], logits + static_cast<size_t>(i) * static_cast<size_t>(columns),
                                          columns, positions[static_cast<size_t>(i)] + 1, nullptr, nullptr);
        });
        bool ends = false;
        // Logits of which nothing can be chosen end the burst before them; at its very start, that sequence alone.
        const bool failed = std::any_of(chosen.begin(), chosen.end(), [](int32_t token) { return token < 0; });
        if (failed && step_number) return step_number;
        ends = failed;
        for (int i = 0; i < count; i++) {
            const int32_t token = std::max(chosen[static_cast<size_t>(i)], -1);
            out[static_cast<size_t>(step_number) * n + static_cast<size_t>(i)] = token;
            if (token < 0) continue;
            cadran_sampler_accept(samplers[i], token);
            for (int32_t s = stop_starts[i]; s < stop_starts[i + 1]; s++) ends |= stops[s] == token;
            ids[static_cast<size_t>(i)] = token;
            positions[static_cast<size_t>(i)]++;
        }
        if (ends) return step_number + 1;
    }
    return steps;
}

}  // namespace cadran
