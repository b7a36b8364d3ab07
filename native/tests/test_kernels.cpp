// Every instruction set that this processor has gives the bits of the plain one, whatever the shapes.
#include <memory>

#include "check.h"
#include "kernels.h"
#include "model.h"

using namespace cadran;

std::vector<uint8_t> random_weights(Random& random, int kind, int rows, int columns, int largest) {
    const size_t bytes = block_bytes(kind, columns);
    const int blocks = (rows + LANES - 1) / LANES;
    std::vector<uint8_t> weights(bytes * static_cast<size_t>(blocks));
    for (uint8_t& byte : weights) byte = static_cast<uint8_t>(random.bits());
    // Only the exponents of numbers are chosen. They have eight bits, in half precision five.
    const auto number = [&](uint8_t* at, int row) {
        const uint32_t exponent = static_cast<uint32_t>(largest - random.below(4));
        if (kind == F32) {
            uint32_t* whole = reinterpret_cast<uint32_t*>(at);
            *whole = row < rows ? (*whole & 0x807fffff) | (exponent + 127) << 23 : 0;
        } else {
            uint16_t* half = reinterpret_cast<uint16_t*>(at);
            const uint32_t bits = kind == BF16 ? (*half & 0x807f) | (exponent + 127) << 7 : (*half & 0x83ff) | (exponent + 15) << 10;
            *half = static_cast<uint16_t>(row < rows ? bits : 0);
        }
    };
    for (int b = 0; b < blocks; b++) {
        uint8_t* block = weights.data() + static_cast<size_t>(b) * bytes;
        if (!quantised(kind)) {
            const size_t size = kind == F32 ? 4 : 2;
            for (size_t i = 0; i < bytes / size; i++) number(block + i * size, b * LANES + static_cast<int>(i % LANES));
            continue;
        }
        const size_t head = kind == I4M ? 128 : 64, group = kind == I8 ? 512 : 256;
        for (size_t p = 0; p < static_cast<size_t>(pairs_of(columns)); p++) {
            uint8_t* pair = block + p * pair_bytes(kind);
            for (size_t i = 0; i < head / 2; i++) number(pair + i * 2, b * LANES + static_cast<int>(i % LANES));
            for (size_t k = 0; k < 2 * GROUP; k++) {
                if (p * 2 * GROUP + k < static_cast<size_t>(columns)) continue;
                const size_t within = k % GROUP, line = kind == I8 ? within / 4 : within % 16 / 4;
                for (size_t byte = k % 4; byte < 64; byte += 4) {
                    uint8_t& both = pair[head + k / GROUP * group + line * 64 + byte];
                    const int zero = kind == I4M ? 0 : 8;
                    both = static_cast<uint8_t>(kind == I8 ? 128 : within < 16 ? (both & 0xf0) | zero : (both & 0x0f) | zero << 4);
                }
            }
        }
    }
    return weights;
}

namespace {

struct Filled {
    Room room;
    Filled(const std::vector<float>& x, int tokens, int columns, int planes) {
        CHECK(room.reserve(tokens, columns, planes), "no memory");
        float* to = const_cast<float*>(room.rows.x);
        const size_t wide = static_cast<size_t>(room.rows.columns), given = static_cast<size_t>(columns);
        for (size_t t = 0; t < static_cast<size_t>(tokens); t++)
            std::memcpy(to + t * wide, x.data() + t * given, given * 4);
    }
};

void quantise_equals(const Kernels& a, const Kernels& b, Random& random, float scale) {
    const int tokens = random.between(1, 5), columns = random.between(1, 200), planes = random.between(1, 2);
    std::vector<float> x = random.reals(static_cast<size_t>(tokens * columns), scale);
    if (random.below(4) == 0) x[static_cast<size_t>(random.below(tokens * columns))] = random.below(2) ? 1 / 0.0f : -0.0f / 0.0f;
    if (random.below(4) == 0)
        for (float& f : x) f = random.below(3) ? 0 : f;
    Filled one(x, tokens, columns, planes), two(x, tokens, columns, planes);
    for (int t = 0; t < tokens; t++) a.quantise(one.room.rows, t, 0, one.room.rows.columns / GROUP), b.quantise(two.room.rows, t, 0, two.room.rows.columns / GROUP);
    const Rows &p = one.room.rows, &q = two.room.rows;
    const size_t n = static_cast<size_t>(tokens * planes), groups = n * static_cast<size_t>(p.columns / GROUP);
    CHECK(!std::memcmp(p.q, q.q, n * static_cast<size_t>(p.columns)), "%s bytes, %d columns", b.name, columns);
    CHECK(same(p.scale, q.scale, groups) && same(p.sum, q.sum, groups), "%s scales, %d columns", b.name, columns);
    CHECK(!std::memcmp(p.minus128, q.minus128, groups * 4) && !std::memcmp(p.minus8, q.minus8, groups * 4), "%s sums",
          b.name);
    for (size_t i = 0; i < n * static_cast<size_t>(p.columns); i++) CHECK(p.q[i] >= -127, "%s", a.name);
}

void multiply_equals(const Kernels& a, const Kernels& b, Random& random, int kind) {
    const int blocks = random.between(1, 6), columns = random.between(1, 150);
    const int tokens = random.below(3) ? random.between(1, 14) : random.between(235, 250);
    const std::vector<uint8_t> weights = random_weights(random, kind, blocks * LANES - random.below(LANES), columns, 0);
    const int planes = random.between(1, 2);
    const Filled rows(random.reals(static_cast<size_t>(tokens * columns)), tokens, columns, planes);
    if (quantised(kind))
        for (int t = 0; t < tokens; t++) a.quantise(rows.room.rows, t, 0, rows.room.rows.columns / GROUP);
    const bool add = random.below(2);
    const size_t stride = static_cast<size_t>(blocks * LANES + random.below(20));
    const std::vector<float> before = random.reals(static_cast<size_t>(tokens) * stride);
    std::vector<float> one = before, two = before, alone = before;
    a.multiply(kind, weights.data(), blocks, columns, rows.room.rows, tokens, one.data(), stride, add);
    b.multiply(kind, weights.data(), blocks, columns, rows.room.rows, tokens, two.data(), stride, add);
    CHECK(same(one.data(), two.data(), one.size()), "%s kind %d, %d blocks, %d columns, %d tokens, %d planes", b.name, kind,
          blocks, columns, tokens, planes);
    // And one token has the bits it has among many.
    Rows rest = rows.room.rows;
    const int t = random.below(tokens), wide = rest.columns, at = t * planes * (wide / GROUP);
    rest.x += t * wide, rest.q += t * planes * wide, rest.scale += at, rest.minus128 += at, rest.minus8 += at, rest.sum += at;
    float* to = alone.data() + static_cast<size_t>(t) * stride;
    b.multiply(kind, weights.data(), blocks, columns, rest, 1, to, stride, add);
    CHECK(same(to, two.data() + static_cast<size_t>(t) * stride, static_cast<size_t>(blocks * LANES)),
          "%s kind %d: a token depends on its neighbours", b.name, kind);
    std::vector<float> first(static_cast<size_t>(columns)), second = first;
    const int lane = random.below(LANES);
    a.row(kind, weights.data(), columns, lane, first.data());
    b.row(kind, weights.data(), columns, lane, second.data());
    CHECK(same(first.data(), second.data(), first.size()), "%s row of kind %d", b.name, kind);
}

// The largest bytes on both sides, where a 16-bit step in between would overflow.
void extremes_equal(const Kernels& a, const Kernels& b) {
    for (const int weight : {0, 1, 127, 128, 255})
        for (const float sign : {-1.0f, 1.0f})
            for (const int kind : {I8, I4, I4M}) {
                constexpr int columns = 128;
                std::vector<uint8_t> weights(block_bytes(kind, columns), static_cast<uint8_t>(weight));
                const size_t head = kind == I4M ? 128 : 64;
                for (size_t pair = 0; pair < weights.size(); pair += pair_bytes(kind))
                    for (size_t i = 0; i < head; i += 2) weights[pair + i] = 0, weights[pair + i + 1] = 0x3c;  // 1.0
                const Filled rows(std::vector<float>(columns * 2, sign), 2, columns, 1);
                for (int t = 0; t < 2; t++) a.quantise(rows.room.rows, t, 0, rows.room.rows.columns / GROUP);
                float one[32], two[32];
                a.multiply(kind, weights.data(), 1, columns, rows.room.rows, 2, one, 16, false);
                b.multiply(kind, weights.data(), 1, columns, rows.room.rows, 2, two, 16, false);
                CHECK(same(one, two, 32), "%s kind %d, weight %d: %f and %f", b.name, kind, weight, static_cast<double>(one[0]),
                      static_cast<double>(two[0]));
                const float expected = sign * static_cast<float>(kind == I8 ? weight - 128 : kind == I4 ? (weight & 15) + (weight >> 4) - 16 : 0);
                const float sum = kind == I8 ? expected * columns : expected * columns / 2;
                CHECK(kind == I4M || (one[0] > sum - 1 && one[0] < sum + 1), "kind %d gives %f for %f", kind,
                      static_cast<double>(one[0]), static_cast<double>(sum));
            }
}

void maps_equal(const Kernels& a, const Kernels& b, Random& random) {
    const int width = random.between(1, 100), padded = width + random.below(40), whole = (width + 15) / 16 * 16;
    const size_t wide = static_cast<size_t>(padded), lanes = static_cast<size_t>(whole);
    const float spread = random.below(2) ? 1.0f : 200.0f;
    const std::vector<float> x = random.reals(lanes, spread), y = random.reals(lanes), z = random.reals(lanes);
    std::vector<float> one(wide), two(wide);
    for (const bool centre : {false, true})
        for (const bool biased : {false, true}) {
            const float* bias = biased ? z.data() : nullptr;
            a.normalise(x.data(), y.data(), bias, width, padded, 1e-5f, centre, one.data());
            b.normalise(x.data(), y.data(), bias, width, padded, 1e-5f, centre, two.data());
            CHECK(same(one.data(), two.data(), wide), "%s normalise of %d", b.name, width);
        }
    one.assign(lanes, 0), two.assign(lanes, 0);
    for (const int activation : {SILU, GELU, GELU_TANH})
        for (const float* up : {static_cast<const float*>(nullptr), y.data()}) {
            a.gate(activation, x.data(), up, whole, one.data());
            b.gate(activation, x.data(), up, whole, two.data());
            CHECK(same(one.data(), two.data(), lanes), "%s activation %d", b.name, activation);
        }
    one = two = x;
    a.cap(one.data(), width, 7.5f), b.cap(two.data(), width, 7.5f);
    CHECK(same(one.data(), two.data(), lanes), "%s cap", b.name);
    a.turn(one.data(), y.data(), z.data(), whole / 2), b.turn(two.data(), y.data(), z.data(), whole / 2);
    CHECK(same(one.data(), two.data(), lanes), "%s turn", b.name);
    a.add(one.data(), y.data(), width), b.add(two.data(), y.data(), width);
    CHECK(same(one.data(), two.data(), lanes), "%s add", b.name);
}

// The state of a pass over the keys for some queries.
struct Pass {
    std::vector<float> out, top, total;
    std::unique_ptr<bool[]> started;
    std::vector<AttentionRow> rows;
    Pass(const std::vector<float>& queries, const std::vector<int>& first, const std::vector<int>& last, int width, int padded)
        : out(first.size() * static_cast<size_t>(padded)), top(first.size()), total(first.size()),
          started(new bool[first.size()]()) {
        for (size_t r = 0; r < first.size(); r++)
            rows.push_back({queries.data() + r * static_cast<size_t>(width), first[r], last[r],
                            out.data() + r * static_cast<size_t>(padded), &top[r], &total[r], &started[r]});
    }
};

void attention_equals(const Kernels& a, const Kernels& b, Random& random, int kv) {
    const int width = random.between(1, 90), padded = (width + 15) / 16 * 16, length = random.between(1, 2 * CHUNK);
    const int count = random.between(1, MOST_ROWS), used = (length + POSITIONS - 1) / POSITIONS;
    const size_t bytes = kv_bytes(kv, width, padded);
    // What lies in places never written is arbitrary, though never an infinity, as blocks are recycled.
    std::vector<std::vector<uint8_t>> one(static_cast<size_t>(used), std::vector<uint8_t>(bytes, 0x11)), two = one;
    for (int p = 0; p < length; p++) {
        const std::vector<float> key = random.reals(static_cast<size_t>(width)), value = random.reals(static_cast<size_t>(width), 3);
        const size_t block = static_cast<size_t>(p / POSITIONS);
        a.write_key(kv, key.data(), width, one[block].data(), p % POSITIONS);
        a.write_value(kv, value.data(), width, one[block].data(), p % POSITIONS);
        b.write_key(kv, key.data(), width, two[block].data(), p % POSITIONS);
        b.write_value(kv, value.data(), width, two[block].data(), p % POSITIONS);
    }
    CHECK(one == two, "%s writes other keys and values", b.name);
    std::vector<int> first, last;
    for (int r = 0; r < count; r++) {
        last.push_back(random.below(length));
        first.push_back(random.below(2) ? 0 : random.below(last.back() + 1));
    }
    const std::vector<float> queries = random.reals(static_cast<size_t>(count * width), 2);
    const AttentionSpec spec{width, padded, 0.3f, random.below(2) ? 0.0f : 5.0f, kv};
    Pass p(queries, first, last, width, padded), q(queries, first, last, width, padded), alone(queries, first, last, width, padded);
    for (int chunk = 0; chunk * CHUNK < length; chunk++) {
        const uint8_t* blocks[CHUNK / POSITIONS] = {};
        for (int i = 0; i < CHUNK / POSITIONS; i++) {
            const size_t at = static_cast<size_t>(chunk * (CHUNK / POSITIONS) + i);
            if (at < one.size()) blocks[i] = one[at].data();
        }
        std::vector<AttentionRow> some, others;
        for (size_t r = 0; r < p.rows.size(); r++) {
            if (first[r] >= (chunk + 1) * CHUNK || last[r] < chunk * CHUNK) continue;
            some.push_back(p.rows[r]), others.push_back(q.rows[r]);
            b.attend(spec, blocks, nullptr, chunk * CHUNK, &alone.rows[r], 1);
        }
        if (some.empty()) continue;
        a.attend(spec, blocks, nullptr, chunk * CHUNK, some.data(), static_cast<int>(some.size()));
        b.attend(spec, blocks, nullptr, chunk * CHUNK, others.data(), static_cast<int>(others.size()));
    }
    for (size_t r = 0; r < p.rows.size(); r++) {
        a.finish(p.rows[r].out, p.total[r], padded);
        b.finish(q.rows[r].out, q.total[r], padded);
        b.finish(alone.rows[r].out, alone.total[r], padded);
    }
    CHECK(same(p.out.data(), q.out.data(), p.out.size()), "%s attention, width %d, length %d, kind %d", b.name, width, length, kv);
    CHECK(same(alone.out.data(), q.out.data(), q.out.size()), "%s: a query depends on its neighbours", b.name);
}

}  // namespace

void test_kernels() {
    const Kernels* plain = choose_kernels("scalar");
    for (const std::string& name : split(usable_kernels())) {
        const Kernels* isa = choose_kernels(name.c_str());
        CHECK(isa && name == isa->name, "%s", name.c_str());
        Random random(1);
        extremes_equal(*plain, *isa);
        for (int i = 0; i < 25; i++) {
            for (const float scale : {1e-35f, 1e-3f, 1.0f, 3e4f}) quantise_equals(*plain, *isa, random, scale);
            for (int kind = F32; kind <= I4M; kind++) multiply_equals(*plain, *isa, random, kind);
            maps_equal(*plain, *isa, random);
            for (const int kv : {F32, F16, I8}) attention_equals(*plain, *isa, random, kv);
        }
    }
    CHECK(!choose_kernels("no such thing"), "an unknown name gives kernels");
}
