// Tiny random models of every shape the core knows, through the C interface: what a token's logits are depends neither
// on the batch, nor on the pieces of its prompt, nor on threads or instruction sets; hostile input is refused.
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <memory>

#include "cadran.h"
#include "check.h"
#include "kernels.h"

namespace {

using cadran::POSITIONS;

struct TinyModel {
    cadran_shape shape{};
    std::vector<cadran_tensor> tensors;
    std::vector<uint8_t> bytes, windowed = std::vector<uint8_t>(64);
    char path[32] = "/tmp/cadran-test-XXXXXX";
    int planes;  // bytes of an activation

    explicit TinyModel(uint64_t seed) : planes(seed % 4 < 2 ? 1 : 2), random_(seed) {
        const int group = random_.between(1, 3), kv_heads = random_.between(1, 2), width = random_.between(20, 70);
        // Sometimes a head is whole groups of 32: its bytes are then made where its attention is.
        const int head = seed % 3 ? 2 * random_.between(3, 12) : 32, hidden = random_.between(20, 90), heads = group * kv_heads;
        shape = {random_.between(30, 90), 2, width, heads, kv_heads, head, hidden, 700,
                 random_.below(3), random_.below(2), random_.below(3), random_.below(4) ? head : head / 4 * 2,
                 random_.below(2) ? 20 : 0, random_.below(2), 1e-5f, 0.25f, random_.below(2) ? 20.0f : 0.0f,
                 random_.below(2) ? 10.0f : 0.0f, random_.below(2) ? 3.0f : 1.0f, 1.0f, 0.5f, windowed.data()};
        for (uint8_t& flag : windowed) flag = static_cast<uint8_t>(random_.below(2));
        matrix(CADRAN_EMBEDDING, 0, shape.vocabulary, width);
        if (!shape.tied) matrix(CADRAN_HEAD, 0, shape.vocabulary, width);
        vector(CADRAN_FINAL_NORM, 0, width, 1);
        if (shape.rotary) vector(CADRAN_FREQUENCIES, 0, shape.rotary / 2, 1);
        if (shape.rotary && random_.below(2)) vector(CADRAN_LOCAL_FREQUENCIES, 0, shape.rotary / 2, 0.1f);
        if (!shape.rotary || random_.below(4) == 0) vector(CADRAN_POSITIONS, 0, width * shape.context, 0.5f);
        const bool biased = random_.below(2), gated = random_.below(3), after = random_.below(2), before = !after || random_.below(2);
        for (int l = 0; l < shape.layers; l++) {
            const int sizes[][3] = {{CADRAN_Q, heads * head, width}, {CADRAN_K, kv_heads * head, width},
                                    {CADRAN_V, kv_heads * head, width}, {CADRAN_O, width, heads * head},
                                    {CADRAN_GATE, hidden, width}, {CADRAN_UP, hidden, width}, {CADRAN_DOWN, width, hidden}};
            for (const auto& size : sizes) {
                if (size[0] == CADRAN_GATE && !gated) continue;
                matrix(size[0], l, size[1], size[2]);
                if (biased) vector(size[0] - CADRAN_Q + CADRAN_Q_BIAS, l, size[1], 0.2f);
            }
            for (const int role : {CADRAN_BEFORE_ATTENTION, CADRAN_BEFORE_MLP, CADRAN_AFTER_ATTENTION, CADRAN_AFTER_MLP}) {
                if (!(role == CADRAN_BEFORE_ATTENTION || role == CADRAN_BEFORE_MLP ? before : after)) continue;
                vector(role, l, width, 1);
                if (shape.layer_norm) vector(role + 1, l, width, 0.1f);
            }
            if (shape.qk_norm) {
                vector(CADRAN_Q_NORM, l, shape.qk_norm == 2 ? heads * head : head, 1);
                vector(CADRAN_K_NORM, l, shape.qk_norm == 2 ? kv_heads * head : head, 1);
            }
        }
        const int handle = mkstemp(path);
        CHECK(handle >= 0 && write(handle, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()), "%s", path);
        close(handle);
    }
    ~TinyModel() { unlink(path); }
    TinyModel(const TinyModel&) = delete;
    TinyModel& operator=(const TinyModel&) = delete;

private:
    Random random_;

    void matrix(int role, int layer, int rows, int columns) {
        const int kind = random_.below(6), largest[] = {-3, -3, -3, -9, -5, -5};
        const std::vector<uint8_t> weights = random_weights(random_, kind, rows, columns, largest[kind]);
        append(role, layer, kind, rows, columns, weights.data(), weights.size());
    }
    void vector(int role, int layer, int count, float scale) {
        const std::vector<float> numbers = random_.reals(static_cast<size_t>(count), scale);
        append(role, layer, cadran::F32, 1, count, numbers.data(), numbers.size() * 4);
    }
    void append(int role, int layer, int kind, int rows, int columns, const void* data, size_t size) {
        bytes.resize((bytes.size() + 63) / 64 * 64);
        tensors.push_back({role, layer, kind, rows, columns, 0, bytes.size(), size});
        bytes.insert(bytes.end(), static_cast<const uint8_t*>(data), static_cast<const uint8_t*>(data) + size);
    }
};

// Low-rank maps upon some of a model's matrices.
struct TinyAdapter {
    std::vector<cadran_tensor> tensors;
    std::vector<uint8_t> bytes;

    TinyAdapter(const TinyModel& tiny, Random& random) {
        const std::vector<cadran_tensor> matrices = tiny.tensors;
        for (const cadran_tensor& m : matrices) {
            if (m.role < CADRAN_Q || m.role > CADRAN_DOWN || random.below(3) == 0) continue;
            const int rank = random.between(1, 20);
            append(m.role + CADRAN_DOWN_FACTOR, m.layer, rank, m.columns, random);
            append(m.role + CADRAN_UP_FACTOR, m.layer, m.rows, rank, random);
        }
    }
    void add_to(cadran_model* model, int number) const {
        const int32_t got = cadran_add_adapter(model, tensors.data(), static_cast<int32_t>(tensors.size()), bytes.data(), bytes.size());
        CHECK(got == number, "adapter %d is %d: %s", number, got, cadran_error());
    }

private:
    void append(int role, int layer, int rows, int columns, Random& random) {
        const std::vector<uint8_t> weights = random_weights(random, cadran::F32, rows, columns, -3);
        bytes.resize((bytes.size() + 63) / 64 * 64);
        tensors.push_back({role, layer, cadran::F32, rows, columns, 0, bytes.size(), weights.size()});
        bytes.insert(bytes.end(), weights.begin(), weights.end());
    }
};

constexpr int BLOCKS = 64, WIDE = 22, MOST = 80;
using Open = std::unique_ptr<cadran_model, void (*)(cadran_model*)>;

Open open(const TinyModel& tiny, const char* isa, int threads, int kv) {
    cadran_model* model = cadran_open(&tiny.shape, tiny.tensors.data(), static_cast<int32_t>(tiny.tensors.size()), tiny.path,
                                      threads, BLOCKS, kv, tiny.planes, MOST, isa);
    CHECK(model, "%s", cadran_error());
    return {model, cadran_close};
}

struct Sequence {
    std::vector<int32_t> ids, table;
    int read = 0, adapter = 0;
    std::vector<float> logits;  // of every token, one row each
};

// Reads `counts[s]` further tokens of each sequence in one pass, with the logits of all of them.
void pass(cadran_model* model, const TinyModel& tiny, std::vector<Sequence*> sequences, std::vector<int> counts) {
    std::vector<int32_t> ids, positions, starts(1), tables, wanted, adapters;
    for (size_t s = 0; s < sequences.size(); s++) {
        Sequence& sequence = *sequences[s];
        adapters.push_back(sequence.adapter);
        for (int i = 0; i < counts[s]; i++) {
            ids.push_back(sequence.ids[static_cast<size_t>(sequence.read + i)]);
            positions.push_back(sequence.read + i);
            wanted.push_back(static_cast<int32_t>(wanted.size()));
        }
        starts.push_back(static_cast<int32_t>(ids.size()));
        tables.insert(tables.end(), sequence.table.begin(), sequence.table.end());
        sequence.read += counts[s];
    }
    const cadran_batch batch{static_cast<int32_t>(ids.size()), static_cast<int32_t>(sequences.size()), WIDE,
                             static_cast<int32_t>(ids.size()), ids.data(), positions.data(), starts.data(), tables.data(), wanted.data(),
                             adapters.data()};
    const size_t columns = static_cast<size_t>(tiny.shape.vocabulary);
    std::vector<float> logits(ids.size() * columns), hidden(ids.size() * static_cast<size_t>(tiny.shape.width));
    CHECK(!cadran_step(model, &batch, logits.data(), tiny.shape.vocabulary, hidden.data()), "%s", cadran_error());
    const float* row = logits.data();
    for (size_t s = 0; s < sequences.size(); row += static_cast<size_t>(counts[s++]) * columns)
        sequences[s]->logits.insert(sequences[s]->logits.end(), row, row + static_cast<size_t>(counts[s]) * columns);
}

std::vector<Sequence> sequences_of(const TinyModel& tiny, Random& random) {
    std::vector<Sequence> sequences(3);
    std::vector<int32_t> free(BLOCKS);
    for (int i = 0; i < BLOCKS; i++) free[static_cast<size_t>(i)] = i;
    for (size_t i = free.size() - 1; i > 0; i--) std::swap(free[i], free[static_cast<size_t>(random.below(static_cast<int>(i) + 1))]);
    for (Sequence& sequence : sequences) {
        const int length = &sequence == &sequences[0] ? random.between(260, 330) : random.between(1, 60);
        for (int i = 0; i < length; i++) sequence.ids.push_back(random.below(tiny.shape.vocabulary));
        sequence.table.assign(WIDE, 0);
        for (int i = 0; i * POSITIONS < length; i++) sequence.table[static_cast<size_t>(i)] = free.back(), free.pop_back();
    }
    return sequences;
}

void batches_do_not_matter(const TinyModel& tiny, Random& random, int kv) {
    std::vector<Sequence> alone = sequences_of(tiny, random);
    const TinyAdapter first(tiny, random), second(tiny, random);
    for (Sequence& s : alone) s.adapter = random.below(3);
    {
        const Open model = open(tiny, "scalar", 1, kv);
        first.add_to(model.get(), 1);
        second.add_to(model.get(), 2);
        for (Sequence& s : alone)
            while (s.read < static_cast<int>(s.ids.size()))
                pass(model.get(), tiny, {&s}, {std::min(MOST, static_cast<int>(s.ids.size()) - s.read)});
        for (const Sequence& s : alone)
            for (const float x : s.logits) CHECK(std::isfinite(x), "the tiny model gives no number");
    }
    for (const std::string& isa : split(cadran_isas()))
        for (int threads = 1; threads <= 3; threads++) {
            std::vector<Sequence> mixed = alone;
            for (Sequence& s : mixed) s.read = 0, s.logits.clear();
            const Open model = open(tiny, isa.c_str(), threads, kv);
            first.add_to(model.get(), 1);
            first.add_to(model.get(), 2);
            CHECK(!cadran_drop_adapter(model.get(), 2) && cadran_drop_adapter(model.get(), 2) < 0, "dropped twice");
            second.add_to(model.get(), 2);
            while (true) {
                std::vector<Sequence*> chosen;
                std::vector<int> counts;
                bool more = false;
                for (Sequence& s : mixed) {
                    const int left = static_cast<int>(s.ids.size()) - s.read;
                    more |= left > 0;
                    if (!left || random.below(3) == 0) continue;
                    chosen.push_back(&s);
                    counts.push_back(std::min(left, random.below(2) ? random.between(1, 3) : random.between(1, 26)));
                }
                if (!more) break;
                if (!chosen.empty()) pass(model.get(), tiny, chosen, counts);
            }
            for (size_t s = 0; s < mixed.size(); s++)
                CHECK(mixed[s].logits.size() == alone[s].logits.size() &&
                          same(mixed[s].logits.data(), alone[s].logits.data(), alone[s].logits.size()),
                      "%s with %d threads: sequence %zu is not what it is alone", isa.c_str(), threads, s);
        }
}

// A burst takes the tokens that single steps take, and moved blocks hold what they held.
void bursts_decode(const TinyModel& tiny, Random& random, int kv) {
    cadran_sampling params{};
    params.top_p = params.typical_p = params.repetition_penalty = 1;
    params.temperature = random.below(2) ? 0 : 0.8;
    std::vector<Sequence> sequences = sequences_of(tiny, random);
    const Open model = open(tiny, nullptr, 2, kv);
    std::vector<cadran_sampler*> one, two;
    std::vector<int32_t> ids, positions, starts(1), tables, wanted, stop_starts(1), expected;
    const size_t columns = static_cast<size_t>(tiny.shape.vocabulary);
    for (Sequence& s : sequences) {
        s.ids.resize(static_cast<size_t>(random.between(1, 20)));
        pass(model.get(), tiny, {&s}, {static_cast<int>(s.ids.size())});
        params.seed = random.bits();
        one.push_back(cadran_sampler_create(&params, s.ids.data(), s.read));
        two.push_back(cadran_sampler_create(&params, s.ids.data(), s.read));
        ids.push_back(random.below(tiny.shape.vocabulary));
        positions.push_back(s.read);
        wanted.push_back(static_cast<int32_t>(wanted.size()));
        starts.push_back(static_cast<int32_t>(ids.size()));
        tables.insert(tables.end(), s.table.begin(), s.table.end());
        stop_starts.push_back(0);
    }
    const int32_t count = static_cast<int32_t>(ids.size());
    constexpr int STEPS = 6;
    std::vector<int32_t> burst(static_cast<size_t>(count * STEPS));
    const cadran_batch batch{count, count, WIDE, count, ids.data(), positions.data(), starts.data(), tables.data(), wanted.data(), nullptr};
    const int taken = cadran_burst(model.get(), &batch, one.data(), tiny.shape.vocabulary, burst.data(), stop_starts.data(), STEPS, burst.data());
    CHECK(taken == STEPS, "%d: %s", taken, cadran_error());
    std::vector<float> logits(static_cast<size_t>(count) * columns);
    std::vector<uint8_t> data(cadran_block_bytes(model.get()));
    for (int step = 0; step < STEPS; step++) {
        CHECK(!cadran_step(model.get(), &batch, logits.data(), tiny.shape.vocabulary, nullptr), "%s", cadran_error());
        for (size_t s = 0; s < static_cast<size_t>(count); s++) {
            const int32_t token = cadran_sampler_choose(two[s], logits.data() + s * columns, tiny.shape.vocabulary, positions[s] + 1, nullptr, nullptr);
            CHECK(token == burst[static_cast<size_t>(step * count) + s], "step %d of sequence %zu", step, s);
            cadran_sampler_accept(two[s], token);
            ids[s] = token;
            positions[s]++;
        }
        // The first block of the first sequence moves to another place, by way of memory or not.
        const int32_t from = tables[0], to = BLOCKS - 1 == from ? BLOCKS - 2 : BLOCKS - 1;
        bool used = false;
        for (const Sequence& s : sequences) used |= std::count(s.table.begin(), s.table.end(), to) > 0;
        if (used) continue;
        if (step % 2) {
            CHECK(!cadran_copy_block(model.get(), from, to), "%s", cadran_error());
        } else {
            CHECK(!cadran_read_block(model.get(), from, data.data()), "%s", cadran_error());
            CHECK(!cadran_write_block(model.get(), to, data.data()), "%s", cadran_error());
        }
        tables[0] = sequences[0].table[0] = to;
    }
    for (const std::vector<cadran_sampler*>* samplers : {&one, &two})
        for (cadran_sampler* sampler : *samplers) cadran_sampler_free(sampler);
}

// Every field of a good batch, one at a time, becomes something else.
void bad_batches_are_refused(const TinyModel& tiny, Random& random) {
    const Open model = open(tiny, nullptr, 2, cadran::F16);
    std::vector<float> logits(64 * static_cast<size_t>(tiny.shape.vocabulary));
    const int wild[] = {-1, 0, 1, 2, 63, 64, 65, 699, 700, INT_MAX, INT_MIN};
    for (int i = 0; i < 400; i++) {
        std::vector<int32_t> ids = {1, 2, 3, 4}, positions = {0, 1, 0, 1}, starts = {0, 2, 4}, tables(2 * WIDE), wanted = {1, 3};
        tables[WIDE] = 1;
        cadran_batch batch{4, 2, WIDE, 2, ids.data(), positions.data(), starts.data(), tables.data(), wanted.data(), nullptr};
        const int value = wild[random.below(11)], which = random.below(9);
        if (which == 0) batch.tokens = value < 4 ? value : INT_MAX;  // a caller vouches for the lengths of its arrays
        else if (which == 1) batch.sequences = value < 2 ? value : INT_MAX;
        else if (which == 2) batch.wide = value < WIDE ? value : WIDE;
        else if (which == 3) batch.outputs = value < 2 ? value : INT_MAX;
        else if (which == 4) ids[static_cast<size_t>(random.below(4))] = value;
        else if (which == 5) positions[static_cast<size_t>(random.below(4))] = value;
        else if (which == 6) starts[static_cast<size_t>(random.below(3))] = value;
        else if (which == 7) tables[static_cast<size_t>(random.below(2 * WIDE))] = value;
        else wanted[static_cast<size_t>(random.below(2))] = value;
        if (cadran_step(model.get(), &batch, logits.data(), tiny.shape.vocabulary, nullptr))
            CHECK(*cadran_error(), "a refusal without a reason");
    }
    CHECK(cadran_copy_block(model.get(), 0, BLOCKS) < 0 && cadran_copy_block(model.get(), -1, 0) < 0, "a block that is not there");
    CHECK(cadran_read_block(model.get(), BLOCKS, nullptr) < 0 && cadran_write_block(model.get(), -1, nullptr) < 0, "likewise");
}

// A description that is not true of the file either fails to open, saying why, or gives a model that runs.
void damaged_models_are_refused(const TinyModel& tiny, Random& random) {
    const int64_t wild[] = {-1, 0, 1, 2, 31, 64, 1 << 24, (1 << 24) + 1, INT_MAX, INT_MIN, INT64_MAX, 1ll << 40};
    int refused = 0;
    for (int i = 0; i < 150; i++) {
        cadran_shape shape = tiny.shape;
        std::vector<cadran_tensor> tensors = tiny.tensors;
        const int64_t value = wild[random.below(12)];
        const int32_t small = static_cast<int32_t>(std::max<int64_t>(std::min<int64_t>(value, INT_MAX), INT_MIN));
        if (random.below(3) == 0) {
            int32_t* fields[] = {&shape.vocabulary, &shape.layers, &shape.width, &shape.heads, &shape.kv_heads, &shape.head_width,
                                 &shape.hidden, &shape.context, &shape.activation, &shape.qk_norm, &shape.rotary, &shape.window, &shape.tied};
            *fields[random.below(13)] = small;
        } else {
            cadran_tensor& t = tensors[static_cast<size_t>(random.below(static_cast<int>(tensors.size())))];
            int32_t* fields[] = {&t.role, &t.layer, &t.kind, &t.rows, &t.columns};
            const int which = random.below(8);
            if (which < 5) *fields[which] = small;
            else if (which == 5) t.offset = static_cast<uint64_t>(value);
            else if (which == 6) t.bytes = static_cast<uint64_t>(value);
            else std::swap(t, tensors.back()), tensors.pop_back();
        }
        cadran_model* model = cadran_open(&shape, tensors.data(), static_cast<int32_t>(tensors.size()), tiny.path, 2, 2, cadran::F16, 1, 8, nullptr);
        if (!model) {
            CHECK(*cadran_error(), "a refusal without a reason");
            refused++;
            continue;
        }
        const int32_t id = 0, position = 0, starts[] = {0, 1}, table = 0, wanted = 0;
        const cadran_batch batch{1, 1, 1, 1, &id, &position, starts, &table, &wanted, nullptr};
        std::vector<float> logits(static_cast<size_t>(shape.vocabulary));
        cadran_step(model, &batch, logits.data(), shape.vocabulary, nullptr);
        cadran_close(model);
    }
    CHECK(refused > 75, "only %d of 150 were refused", refused);
    CHECK(!cadran_open(&tiny.shape, tiny.tensors.data(), static_cast<int32_t>(tiny.tensors.size()), "/nonexistent", 1, 1, cadran::F16, 1, 1, nullptr), "no file");
    CHECK(!cadran_open(&tiny.shape, tiny.tensors.data(), static_cast<int32_t>(tiny.tensors.size()), tiny.path, 1, 1, cadran::F16, 1, 1, "abacus"), "no such instruction set");
}

}  // namespace

void test_model() {
    CHECK(cadran_abi() == CADRAN_ABI, "%d", cadran_abi());
    for (uint64_t seed = 1; seed <= 8; seed++) {
        const TinyModel tiny(seed);
        Random random(seed);
        const int kinds[] = {cadran::F16, cadran::I8, cadran::F32};
        batches_do_not_matter(tiny, random, kinds[seed % 3]);
        bursts_decode(tiny, random, kinds[(seed + 1) % 3]);
        bad_batches_are_refused(tiny, random);
        damaged_models_are_refused(tiny, random);
    }
}
