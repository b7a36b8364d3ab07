// Opening a model: every number of the file is checked, then each thread reads its own rows into its own memory.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "model.h"

namespace cadran {

namespace {

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

struct File {
    int handle = -1;
    ~File() {
        if (handle >= 0) close(handle);
    }
};

bool read_all(int handle, uint8_t* to, size_t bytes, uint64_t offset) {
    while (bytes) {
        const ssize_t got = pread(handle, to, std::min(bytes, size_t{1} << 30), static_cast<off_t>(offset));
        if (got <= 0) return false;
        to += got;
        bytes -= static_cast<size_t>(got);
        offset += static_cast<uint64_t>(got);
    }
    return true;
}

bool sane(const cadran_shape& s) {
    const int32_t counts[] = {s.vocabulary, s.layers, s.width, s.heads, s.kv_heads, s.head_width, s.hidden, s.context};
    for (const int32_t n : counts)
        if (n < 1 || n > (1 << 24)) return false;
    return s.heads % s.kv_heads == 0 && s.head_width <= 512 && s.heads <= 4096 && s.layers <= 4096 &&
           s.rotary >= 0 && s.rotary % 2 == 0 && s.rotary <= s.head_width && s.window >= 0 &&
           static_cast<int64_t>(s.heads) * s.head_width < (1 << 24);
}

}  // namespace

bool Room::reserve(int tokens, int columns, int planes) {
    const size_t wide = round_up(static_cast<size_t>(columns), 2 * GROUP), n = static_cast<size_t>(tokens);
    const size_t row = n * static_cast<size_t>(planes), floats = round_up(n * wide * 4, 64);
    const size_t bytes = round_up(row * wide, 64), small = round_up(row * (wide / GROUP) * 4, 64);
    if (!memory.reserve(floats + bytes + 4 * small, false)) return false;
    uint8_t* p = memory.data();
    rows.columns = static_cast<int>(wide);
    rows.planes = planes;
    rows.x = reinterpret_cast<float*>(p);
    rows.q = reinterpret_cast<int8_t*>(p += floats);
    rows.scale = reinterpret_cast<float*>(p += bytes);
    rows.minus128 = reinterpret_cast<int32_t*>(p += small);
    rows.minus8 = reinterpret_cast<int32_t*>(p += small);
    rows.sum = reinterpret_cast<float*>(p + small);
    return true;
}

Model::Model(const cadran_shape& shape, int threads, int blocks, int kv, int planes, int most_tokens,
             const Kernels* kernels)
    : shape_(shape), pool_(threads), k_(*kernels), blocks_(blocks), kv_(kv), planes_(planes),
      most_tokens_(most_tokens), padded_((shape.head_width + 15) / 16 * 16), layers_(static_cast<size_t>(shape.layers)),
      next_task_(static_cast<size_t>(shape.layers)) {
    head_block_ = kv_bytes(kv, shape.head_width, padded_);
    layer_block_ = head_block_ * static_cast<size_t>(shape.kv_heads);
    x_stride_ = round_up(static_cast<size_t>(shape.width), 32);
    q_stride_ = round_up(static_cast<size_t>(shape.heads) * static_cast<size_t>(shape.head_width), 32);
    k_stride_ = round_up(static_cast<size_t>(shape.kv_heads) * static_cast<size_t>(shape.head_width), 32);
    f_stride_ = round_up(static_cast<size_t>(shape.hidden), 32);
    for (int i = 0; i < shape.layers; i++)
        layers_[static_cast<size_t>(i)].windowed = shape.window && shape.windowed && shape.windowed[i];
    shape_.windowed = nullptr;
}

std::unique_ptr<Model> Model::open(const cadran_shape& shape, const cadran_tensor* tensors, int count, const char* path,
                                   int threads, int blocks, int kv, int planes, int most_tokens, const char* isa,
                                   std::string& error) {
    if (!sane(shape)) return error = "the model's sizes are out of range", nullptr;
    if (threads < 1 || threads > 1024 || blocks < 1 || most_tokens < 1 || most_tokens > 65536 ||
        (kv != F32 && kv != F16 && kv != I8) || planes < 1 || planes > 2 || count < 0)
        return error = "threads, blocks, tokens or the kind of the cache are out of range", nullptr;
    const Kernels* kernels = choose_kernels(isa);
    if (!kernels)
        return error = std::string("this processor cannot run ") + isa + "; it has " + usable_kernels(), nullptr;
    std::unique_ptr<Model> model(new Model(shape, threads, blocks, kv, planes, most_tokens, kernels));
    if (!model->load(tensors, count, path, error) || !model->reserve(error)) return nullptr;
    return model;
}

Matrix* Model::matrix(int role, int layer) {
    switch (role) {
        case CADRAN_EMBEDDING: return &embedding_;
        case CADRAN_HEAD: return &head_;
        default: break;
    }
    if (layer < 0 || layer >= shape_.layers) return nullptr;
    Layer& l = layers_[static_cast<size_t>(layer)];
    switch (role) {
        case CADRAN_Q: return &l.q;
        case CADRAN_K: return &l.k;
        case CADRAN_V: return &l.v;
        case CADRAN_O: return &l.o;
        case CADRAN_GATE: return &l.gate;
        case CADRAN_UP: return &l.up;
        case CADRAN_DOWN: return &l.down;
        default: return nullptr;
    }
}

const float** Model::vector(int role, int layer) {
    switch (role) {
        case CADRAN_POSITIONS: return &positions_;
        case CADRAN_FINAL_NORM: return &final_norm_.weight;
        case CADRAN_FINAL_NORM_BIAS: return &final_norm_.bias;
        case CADRAN_FREQUENCIES: return &frequencies_;
        case CADRAN_LOCAL_FREQUENCIES: return &local_frequencies_;
        default: break;
    }
    if (layer < 0 || layer >= shape_.layers) return nullptr;
    Layer& l = layers_[static_cast<size_t>(layer)];
    switch (role) {
        case CADRAN_Q_BIAS: return &l.q.bias;
        case CADRAN_K_BIAS: return &l.k.bias;
        case CADRAN_V_BIAS: return &l.v.bias;
        case CADRAN_O_BIAS: return &l.o.bias;
        case CADRAN_GATE_BIAS: return &l.gate.bias;
        case CADRAN_UP_BIAS: return &l.up.bias;
        case CADRAN_DOWN_BIAS: return &l.down.bias;
        case CADRAN_Q_NORM: return &l.q_norm;
        case CADRAN_K_NORM: return &l.k_norm;
        case CADRAN_BEFORE_ATTENTION: return &l.before_attention.weight;
        case CADRAN_BEFORE_ATTENTION_BIAS: return &l.before_attention.bias;
        case CADRAN_AFTER_ATTENTION: return &l.after_attention.weight;
        case CADRAN_AFTER_ATTENTION_BIAS: return &l.after_attention.bias;
        case CADRAN_BEFORE_MLP: return &l.before_mlp.weight;
        case CADRAN_BEFORE_MLP_BIAS: return &l.before_mlp.bias;
        case CADRAN_AFTER_MLP: return &l.after_mlp.weight;
        case CADRAN_AFTER_MLP_BIAS: return &l.after_mlp.bias;
        default: return nullptr;
    }
}

bool Model::load(const cadran_tensor* tensors, int count, const char* path, std::string& error) {
    File file;
    file.handle = ::open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (file.handle < 0 || fstat(file.handle, &about))
        return error = "the repacked weights cannot be read", false;
    const uint64_t size = static_cast<uint64_t>(about.st_size);
    const int threads = pool_.threads();

    // First what every thread will hold, then all threads read at once: a page belongs to the core that touches it.
    struct Piece {
        uint64_t offset;
        size_t bytes, at;
        const uint8_t** place;
    };
    std::vector<std::vector<Piece>> pieces(static_cast<size_t>(threads));
    std::vector<size_t> totals(static_cast<size_t>(threads), 0);
    vectors_.reserve(static_cast<size_t>(count));
    for (int i = 0; i < count; i++) {
        const cadran_tensor& t = tensors[i];
        if (t.rows < 1 || t.columns < 1 || t.rows > (1 << 24) || t.columns > (1 << 24) || t.offset > size ||
            t.bytes > size - t.offset)
            return error = "a tensor of the repacked weights is out of range", false;
        if (const float** place = vector(t.role, t.layer)) {
            const uint64_t numbers = static_cast<uint64_t>(t.rows) * static_cast<uint64_t>(t.columns);
            if (t.kind != F32 || t.bytes != numbers * 4) return error = "a vector of the repacked weights is damaged", false;
            vectors_.emplace_back(round_up(static_cast<size_t>(numbers), 16), 0.0f);  // whole vectors are read
            if (!read_all(file.handle, reinterpret_cast<uint8_t*>(vectors_.back().data()), t.bytes, t.offset))
                return error = "the repacked weights end too early", false;
            *place = vectors_.back().data();
            weight_bytes_ += t.bytes;
            continue;
        }
        Matrix* m = matrix(t.role, t.layer);
        if (!m || m->present() || t.kind < F32 || t.kind > I4M)
            return error = "a tensor of the repacked weights is unknown or there twice", false;
        m->kind = t.kind;
        m->rows = t.rows;
        m->columns = t.columns;
        const size_t block = cadran::block_bytes(t.kind, t.columns);
        if (t.bytes != block * static_cast<size_t>(m->blocks()))
            return error = "a matrix of the repacked weights is damaged", false;
        m->stripes.resize(static_cast<size_t>(threads));
        // Two blocks at a time: a stripe is then whole groups of what the next matrix reads.
        const int pairs = (m->blocks() + 1) / 2, whole = pairs / threads, more = pairs % threads;
        int first = 0;
        for (int n = 0; n < threads; n++) {
            const size_t thread = static_cast<size_t>(n);
            Stripe& stripe = m->stripes[thread];
            stripe.first = first;
            stripe.count = std::min(2 * (whole + (n < more)), m->blocks() - first);
            first += stripe.count;
            const size_t bytes = block * static_cast<size_t>(stripe.count);
            pieces[thread].push_back({t.offset + block * static_cast<size_t>(stripe.first), bytes, totals[thread], &stripe.data});
            totals[thread] += bytes;
        }
        weight_bytes_ += t.bytes;
    }
    if (const char* what = missing()) return error = std::string("the repacked weights lack ") + what, false;
    weights_.resize(static_cast<size_t>(threads));
    for (size_t t = 0; t < weights_.size(); t++)
        if (!weights_[t].reserve(totals[t], true)) return error = "there is not enough memory for the weights", false;
    std::atomic<bool> failed{false};
    pool_.run([&](int thread) {
        const size_t t = static_cast<size_t>(thread);
        for (const Piece& piece : pieces[t]) {
            uint8_t* to = weights_[t].data() + piece.at;
            if (!read_all(file.handle, to, piece.bytes, piece.offset)) failed = true;
            *piece.place = to;
        }
    });
    if (failed) return error = "the repacked weights end too early", false;
    if (!head_.present()) head_ = embedding_;
    return true;
}

const char* Model::missing() const {
    const cadran_shape& s = shape_;
    const int wide = s.heads * s.head_width, narrow = s.kv_heads * s.head_width;
    const auto is = [](const Matrix& m, int rows, int columns) { return m.rows == rows && m.columns == columns; };
    if (!is(embedding_, s.vocabulary, s.width)) return "the embedding";
    if (!s.tied && !is(head_, s.vocabulary, s.width)) return "the output head";
    if (!final_norm_.weight) return "the final norm";
    if (s.rotary && !frequencies_) return "the rotary frequencies";
    for (const Layer& l : layers_) {
        if (!is(l.q, wide, s.width) || !is(l.k, narrow, s.width) || !is(l.v, narrow, s.width) || !is(l.o, s.width, wide))
            return "a matrix of an attention";
        if (!is(l.up, s.hidden, s.width) || !is(l.down, s.width, s.hidden) ||
            (l.gate.present() && !is(l.gate, s.hidden, s.width)))
            return "a matrix of an MLP";
        if (!l.before_attention.weight && !l.after_attention.weight) return "a norm";
        if (s.qk_norm && (!l.q_norm || !l.k_norm)) return "a norm of queries and keys";
    }
    // The lengths of vectors are the packer's promise, checked here once: they are read whole.
    const auto holds = [&](const float* p, size_t numbers) {
        for (const std::vector<float>& v : vectors_)
            if (v.data() == p) return v.size() >= numbers;
        return p == nullptr;
    };
    const size_t width = static_cast<size_t>(s.width), hidden = static_cast<size_t>(s.hidden);
    bool whole = holds(final_norm_.weight, width) && holds(final_norm_.bias, width) &&
                 holds(frequencies_, static_cast<size_t>(s.rotary / 2)) &&
                 holds(local_frequencies_, static_cast<size_t>(s.rotary / 2)) &&
                 holds(positions_, width * static_cast<size_t>(s.context));
    const size_t q_norm = static_cast<size_t>(s.qk_norm == 2 ? wide : s.head_width);
    const size_t k_norm = static_cast<size_t>(s.qk_norm == 2 ? narrow : s.head_width);
    for (const Layer& l : layers_) {
        for (const Norm* n : {&l.before_attention, &l.after_attention, &l.before_mlp, &l.after_mlp})
            whole = whole && holds(n->weight, width) && holds(n->bias, width);
        whole = whole && holds(l.q_norm, q_norm) && holds(l.k_norm, k_norm);
        whole = whole && holds(l.q.bias, static_cast<size_t>(wide)) && holds(l.k.bias, static_cast<size_t>(narrow)) &&
                holds(l.v.bias, static_cast<size_t>(narrow)) && holds(l.o.bias, width) && holds(l.down.bias, width) &&
                holds(l.up.bias, hidden) && holds(l.gate.bias, hidden);
    }
    return whole ? nullptr : "part of a vector";
}

bool Model::reserve(std::string& error) {
    const size_t n = static_cast<size_t>(most_tokens_), threads = static_cast<size_t>(pool_.threads());
    const int heads = shape_.heads * shape_.head_width;
    bool enough = cache_.reserve(block_bytes() * static_cast<size_t>(blocks_), true);
    enough = enough && x_.reserve(n * x_stride_ * 4, false) && y_.reserve(n * x_stride_ * 4, false) &&
             q_.reserve(n * q_stride_ * 4, false) && key_.reserve(n * k_stride_ * 4, false) &&
             value_.reserve(n * k_stride_ * 4, false) &&
             up_.reserve(n * f_stride_ * 4, false) &&
             angles_.reserve(n * static_cast<size_t>(shape_.rotary + 1) * 2 * 4, false);
    enough = enough && width_.reserve(most_tokens_, shape_.width, planes_) &&
             heads_.reserve(most_tokens_, heads, planes_) && hidden_.reserve(most_tokens_, shape_.hidden, planes_) &&
             output_.reserve(most_tokens_, shape_.width, planes_);
    few_.resize(threads);
    for (Room& room : few_) enough = enough && room.reserve(FEW_TOKENS, shape_.width, planes_);
    scratch_.resize(threads);
    normalised_.resize(threads);
    const size_t rows = 16 * static_cast<size_t>(shape_.heads / shape_.kv_heads);
    for (size_t t = 0; t < threads; t++)
        enough = enough && normalised_[t].reserve(x_stride_ * 4, false) &&
                 scratch_[t].reserve(rows * (static_cast<size_t>(padded_) + 64) * 4, false);
    // Chunks are spread over tasks only for up to MOST_ROWS rows a key head and sequence.
    const size_t chunks = (static_cast<size_t>(shape_.context) + CHUNK - 1) / CHUNK;
    const size_t spread = std::min<size_t>(n, 256) * static_cast<size_t>(shape_.heads) * chunks;
    logit_rows_ = std::min<size_t>(n, 16);
    const size_t vocabulary = round_up(static_cast<size_t>(shape_.vocabulary), LANES);
    enough = enough && logits_.reserve(logit_rows_ * vocabulary * 4, false);
    enough = enough && partials_.reserve(spread * (static_cast<size_t>(padded_) + 4) * 4, false);
    return enough || (error = "there is not enough memory for the KV cache", false);
}

int Model::add_adapter(const cadran_tensor* tensors, int count, const uint8_t* data, size_t bytes, std::string& error) {
    auto adapter = std::make_unique<Adapter>();
    adapter->maps.resize(static_cast<size_t>(shape_.layers) * 7);
    if (!adapter->memory.reserve(bytes, true)) return error = "there is not enough memory for the adapter", -1;
    std::memcpy(adapter->memory.data(), data, bytes);
    int widest = 0;
    for (int i = 0; i < count; i++) {
        const cadran_tensor& t = tensors[i];
        const bool up = t.role >= CADRAN_UP_FACTOR;
        const int role = t.role - (up ? CADRAN_UP_FACTOR : CADRAN_DOWN_FACTOR);
        const Matrix* m = role >= CADRAN_Q && role <= CADRAN_DOWN ? matrix(role, t.layer) : nullptr;
        const int rank = up ? t.columns : t.rows;
        if (!m || !m->present() || t.kind != F32 || rank < 1 || rank > (1 << 14) ||
            (up ? t.rows != m->rows : t.columns != m->columns))
            return error = "the adapter does not fit this model", -1;
        const size_t size = cadran::block_bytes(F32, t.columns) * static_cast<size_t>((t.rows + LANES - 1) / LANES);
        if (t.bytes != size || t.offset % 64 || t.offset > bytes || size > bytes - t.offset)
            return error = "the adapter is damaged", -1;
        LowRank& map = adapter->maps[static_cast<size_t>(t.layer * 7 + role - CADRAN_Q)];
        const uint8_t*& place = up ? map.up : map.down;
        if (place || (map.rank && map.rank != rank)) return error = "the adapter is damaged", -1;
        place = adapter->memory.data() + t.offset;
        map.rank = rank;
        widest = std::max(widest, (rank + LANES - 1) / LANES * LANES);
    }
    for (const LowRank& map : adapter->maps)
        if (!map.down != !map.up) return error = "the adapter is damaged", -1;
    if (widest > widest_rank_) {
        low_.clear();
        low_.resize(static_cast<size_t>(pool_.threads()));
        widest_rank_ = 0;
        for (Memory& low : low_)
            if (!low.reserve(static_cast<size_t>(most_tokens_) * static_cast<size_t>(widest) * 4, false))
                return error = "there is not enough memory for the adapter", -1;
        widest_rank_ = widest;
    }
    const auto free = std::find(adapters_.begin(), adapters_.end(), nullptr);
    const auto place = free == adapters_.end() ? adapters_.insert(free, nullptr) : free;
    *place = std::move(adapter);
    return static_cast<int>(place - adapters_.begin()) + 1;
}

bool Model::drop_adapter(int adapter) {
    if (adapter < 1 || adapter > static_cast<int>(adapters_.size()) || !adapters_[static_cast<size_t>(adapter - 1)])
        return false;
    adapters_[static_cast<size_t>(adapter - 1)].reset();
    return true;
}

void Model::read_block(int block, uint8_t* data) const { std::memcpy(data, kv_block(0, block, 0), block_bytes()); }

void Model::write_block(int block, const uint8_t* data) { std::memcpy(kv_block(0, block, 0), data, block_bytes()); }

void Model::copy_block(int source, int target) {
    std::memcpy(kv_block(0, target, 0), kv_block(0, source, 0), block_bytes());
}

}  // namespace cadran
