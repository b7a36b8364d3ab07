// The C interface: arguments are checked, nothing throws across it.
#include "cadran.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "model.h"

namespace {

thread_local std::string last_error;

int32_t fail(const char* why) {
    last_error = why;
    return -1;
}

}  // namespace

struct cadran_model {
    std::unique_ptr<cadran::Model> model;
};

int32_t cadran_abi(void) { return CADRAN_ABI; }
const char* cadran_error(void) { return last_error.c_str(); }
const char* cadran_isa(void) { return cadran::choose_kernels(nullptr)->name; }
const char* cadran_isas(void) { return cadran::usable_kernels(); }

cadran_model* cadran_open(const cadran_shape* shape, const cadran_tensor* tensors, int32_t count, const char* path,
                          int32_t threads, int32_t blocks, int32_t kv, int32_t planes, int32_t most_tokens,
                          const char* isa) {
    try {
        std::string error;
        std::unique_ptr<cadran::Model> model =
            cadran::Model::open(*shape, tensors, count, path, threads, blocks, kv, planes, most_tokens, isa,
                                error);
        if (!model) return last_error = error, nullptr;
        return new cadran_model{std::move(model)};
    } catch (const std::exception& e) {
        last_error = e.what();
        return nullptr;
    }
}

void cadran_close(cadran_model* model) { delete model; }

int32_t cadran_step(cadran_model* model, const cadran_batch* batch, float* logits, int32_t columns, float* hidden) {
    try {
        if (const char* why = model->model->refuses(*batch)) return fail(why);
        if (logits && (columns < 1 || columns > model->model->vocabulary())) return fail("no such width of logits");
        model->model->step(*batch, logits, columns, hidden);
        return 0;
    } catch (const std::exception& e) {
        return fail(e.what());
    }
}

int32_t cadran_burst(cadran_model* model, const cadran_batch* batch, cadran_sampler** samplers, int32_t columns,
                     const int32_t* stops, const int32_t* stop_starts, int32_t steps, int32_t* out) {
    try {
        if (const char* why = model->model->refuses(*batch)) return fail(why);
        if (batch->tokens != batch->sequences || batch->outputs != batch->tokens || steps < 1 || columns < 1 ||
            columns > model->model->vocabulary())
            return fail("a burst decodes one token of each sequence");
        return model->model->burst(*batch, samplers, columns, stops, stop_starts, steps, out);
    } catch (const std::exception& e) {
        return fail(e.what());
    }
}

size_t cadran_block_bytes(const cadran_model* model) { return model->model->block_bytes(); }
size_t cadran_weight_bytes(const cadran_model* model) { return model->model->weight_bytes(); }

int32_t cadran_add_adapter(cadran_model* model, const cadran_tensor* tensors, int32_t count, const uint8_t* data,
                           size_t bytes) {
    try {
        std::string error;
        const int adapter = model->model->add_adapter(tensors, count, data, bytes, error);
        return adapter < 0 ? fail(error.c_str()) : adapter;
    } catch (const std::exception& e) {
        return fail(e.what());
    }
}

int32_t cadran_drop_adapter(cadran_model* model, int32_t adapter) {
    return model->model->drop_adapter(adapter) ? 0 : fail("there is no such adapter");
}

int32_t cadran_copy_block(cadran_model* model, int32_t source, int32_t target) {
    const int blocks = model->model->blocks();
    if (source < 0 || target < 0 || source >= blocks || target >= blocks) return fail("there is no such block");
    if (source != target) model->model->copy_block(source, target);
    return 0;
}

int32_t cadran_read_block(cadran_model* model, int32_t block, uint8_t* data) {
    if (block < 0 || block >= model->model->blocks()) return fail("there is no such block");
    model->model->read_block(block, data);
    return 0;
}

int32_t cadran_write_block(cadran_model* model, int32_t block, const uint8_t* data) {
    if (block < 0 || block >= model->model->blocks()) return fail("there is no such block");
    model->model->write_block(block, data);
    return 0;
}

double cadran_read_bandwidth(int32_t threads, size_t bytes, int32_t repeats) {
    try {
        threads = std::max(1, std::min(threads, 256));
        const size_t each = std::max<size_t>(bytes / static_cast<size_t>(threads) / 256 * 256, 4096);
        cadran::Pool pool(threads);
        std::vector<cadran::Memory> memory(static_cast<size_t>(threads));
        for (cadran::Memory& m : memory)
            if (!m.reserve(each, true)) return 0;
        std::vector<double> sums(static_cast<size_t>(threads) * 16);
        const auto read = [&](int thread) {
            // As the products read: every line once, in order.
            const uint64_t* p = memory[static_cast<size_t>(thread)].as<uint64_t>();
            uint64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
            for (size_t i = 0; i < each / 8; i += 8) {
                __builtin_prefetch(p + i + 512, 0, 3);
                a ^= p[i], b ^= p[i + 1], c ^= p[i + 2], d ^= p[i + 3], e ^= p[i + 4], f ^= p[i + 5], g ^= p[i + 6],
                    h ^= p[i + 7];
            }
            sums[static_cast<size_t>(thread) * 16] = static_cast<double>(a ^ b ^ c ^ d ^ e ^ f ^ g ^ h);
        };
        pool.run([&](int thread) { std::memset(memory[static_cast<size_t>(thread)].data(), 1, each); });
        std::vector<double> rates;
        for (int i = 0; i < std::max(1, repeats); i++) {
            const auto start = std::chrono::steady_clock::now();
            pool.run(read);
            const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
            rates.push_back(static_cast<double>(each) * threads / seconds);
        }
        std::sort(rates.begin(), rates.end());
        return rates[rates.size() / 2];
    } catch (const std::exception&) {
        return 0;
    }
}

int32_t cadran_test_multiply(const char* isa, int32_t kind, int32_t planes, const uint8_t* weights, int32_t blocks,
                             int32_t columns, const float* x, int32_t tokens, float* out) {
    const cadran::Kernels* k = cadran::choose_kernels(isa);
    if (!k) return fail("this processor lacks the instruction set");
    cadran::Room room;
    if (!room.reserve(tokens, columns, planes)) return fail("there is not enough memory");
    float* to = const_cast<float*>(room.rows.x);
    std::memcpy(to, x, static_cast<size_t>(tokens) * static_cast<size_t>(room.rows.columns) * 4);
    if (cadran::quantised(kind))
        for (int t = 0; t < tokens; t++) k->quantise(room.rows, t, 0, room.rows.columns / cadran::GROUP);
    k->multiply(kind, weights, blocks, columns, room.rows, tokens, out, static_cast<size_t>(blocks) * 16, false);
    return 0;
}

int32_t cadran_test_map(const char* isa, const char* kernel, const float* x, int32_t count, float* out) {
    const cadran::Kernels* k = cadran::choose_kernels(isa);
    if (!k) return fail("this processor lacks the instruction set");
    const std::string name = kernel;
    std::memcpy(out, x, static_cast<size_t>(count) * 4);
    if (name == "quantise") {  // gives back what the bytes stand for
        cadran::Room room;
        if (!room.reserve(1, count, 1)) return fail("there is not enough memory");
        std::memcpy(const_cast<float*>(room.rows.x), x, static_cast<size_t>(count) * 4);
        k->quantise(room.rows, 0, 0, room.rows.columns / cadran::GROUP);
        for (int i = 0; i < count; i++)
            out[i] = room.rows.scale[i / cadran::GROUP] * static_cast<float>(room.rows.q[i]);
    } else if (name == "normalise") {
        const std::vector<float> ones(static_cast<size_t>(count) + 16, 1.0f);
        k->normalise(x, ones.data(), nullptr, count, count, 1e-6f, true, out);
    } else if (name == "silu" || name == "gelu" || name == "gelu_tanh") {
        if (count % 16) return fail("activations come in sixteens");
        k->gate(name == "silu" ? cadran::SILU : name == "gelu" ? cadran::GELU : cadran::GELU_TANH, x, nullptr, count, out);
    } else if (name == "turn") {
        k->turn(out, x + count / 4, x + count / 2, count / 4);
    } else if (name == "cap") {
        k->cap(out, count, 3.0f);
    } else {
        return fail("there is no such kernel");
    }
    return 0;
}
