// A model in memory: weights cut into one stripe of rows a thread, the KV cache, and room for one batch.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "cadran.h"
#include "kernels.h"
#include "memory.h"
#include "pool.h"

namespace cadran {

// Rows `first` to `first + count` (in blocks of sixteen) of a matrix, in the memory of the thread that multiplies them.
struct Stripe {
    const uint8_t* data = nullptr;
    int first = 0, count = 0;
};

struct Matrix {
    int kind = -1, rows = 0, columns = 0;
    std::vector<Stripe> stripes;
    const float* bias = nullptr;
    bool present() const { return kind >= 0; }
    int blocks() const { return (rows + LANES - 1) / LANES; }
};

struct Norm {
    const float* weight = nullptr;
    const float* bias = nullptr;
};

struct Layer {
    Matrix q, k, v, o, gate, up, down;
    Norm before_attention, after_attention, before_mlp, after_mlp;
    const float* q_norm = nullptr;
    const float* k_norm = nullptr;
    bool windowed = false;
};

// Up to this many tokens every thread prepares all rows of a norm for itself, which is cheaper than a barrier.
constexpr int FEW_TOKENS = 2;

// Room for activations that enter a product: floats, and bytes with scales.
struct Room {
    Memory memory;
    Rows rows{};
    bool reserve(int tokens, int columns, int planes);
};

// A low-rank map upon a matrix: columns to `rank` numbers, and these to the matrix's rows. Both in blocks of floats.
struct LowRank {
    const uint8_t* down = nullptr;
    const uint8_t* up = nullptr;
    int rank = 0;
};

struct Adapter {
    Memory memory;
    std::vector<LowRank> maps;  // seven a layer, in the order of the roles
};

// Consecutive tokens of a batch with one adapter.
struct Segment {
    int first, tokens;
    const Adapter* adapter;
};

struct Task {
    int sequence, kv_head, first_token, tokens;  // of the sequence
    int first_chunk, chunks;
    int partial;  // where its result goes when a row's chunks are spread over several tasks, else -1
};

class Model {
public:
    static std::unique_ptr<Model> open(const cadran_shape& shape, const cadran_tensor* tensors, int count,
                                       const char* path, int threads, int blocks, int kv, int planes,
                                       int most_tokens, const char* isa, std::string& error);

    // Null when the batch is well formed, else what is wrong with it.
    const char* refuses(const cadran_batch& batch) const;
    void step(const cadran_batch& batch, float* logits, int columns, float* hidden);
    int burst(const cadran_batch& batch, cadran_sampler** samplers, int columns, const int32_t* stops,
              const int32_t* stop_starts, int steps, int32_t* out);

    size_t block_bytes() const { return static_cast<size_t>(shape_.layers) * layer_block_; }
    void read_block(int block, uint8_t* data) const;
    void write_block(int block, const uint8_t* data);
    void copy_block(int source, int target);
    int blocks() const { return blocks_; }
    int vocabulary() const { return shape_.vocabulary; }
    size_t weight_bytes() const { return weight_bytes_; }
    // The new adapter's number, from 1; negative with an error.
    int add_adapter(const cadran_tensor* tensors, int count, const uint8_t* data, size_t bytes, std::string& error);
    bool drop_adapter(int adapter);

private:
    Model(const cadran_shape& shape, int threads, int blocks, int kv, int planes, int most_tokens,
          const Kernels* kernels);
    bool load(const cadran_tensor* tensors, int count, const char* path, std::string& error);
    bool reserve(std::string& error);
    Matrix* matrix(int role, int layer);
    const float** vector(int role, int layer);
    const char* missing() const;

    void plan(const cadran_batch& batch);
    void forward(int thread, const cadran_batch& batch);
    void embed(int thread, const cadran_batch& batch);
    void layer(int thread, const cadran_batch& batch, int index);
    int block_of(const cadran_batch& batch, int token) const;
    void place_heads(const cadran_batch& batch, int index, int token, int first, int heads);
    void expect_key(const cadran_batch& batch, int index, int token, int head) const;
    void place(int thread, const cadran_batch& batch, int index);
    void attention(int thread, const cadran_batch& batch, int index);
    void merge_partials(int thread, int index);
    void conclude(int index, int token, int head, const float* out);
    int first_chunk(const Task& task, const cadran_batch& batch, int window) const;
    void run_task(const Task& task, const Task* following, const cadran_batch& batch, int index, float* scratch);
    void outputs(int thread, const cadran_batch& batch);
    // Rows of x, normalised unless `norm` is null, ready for a product; with `bytes` for one with integer weights too.
    const Rows& enter(int thread, int tokens, bool bytes, const Norm* norm);
    void project(int thread, const Matrix& matrix, const Rows& rows, int tokens, float* out, size_t stride, bool add);
    // As above for the matrix of a role in a layer, with what the tokens' adapters add to it.
    void project(int thread, int index, int role, const Rows& rows, int tokens, float* out, size_t stride, bool add);
    void after(int thread, int tokens, const Norm& norm, const float* y);
    void meet() { pool_.barrier().wait(); }
    // All layers of a block lie together, so that few large pages hold what a sequence has.
    uint8_t* kv_block(int layer, int block, int head) const {
        return cache_.data() + static_cast<size_t>(block) * block_bytes() + static_cast<size_t>(layer) * layer_block_ +
               static_cast<size_t>(head) * head_block_;
    }

    cadran_shape shape_;
    std::vector<uint8_t> windowed_;
    Pool pool_;
    const Kernels& k_;
    int blocks_, kv_, planes_, most_tokens_, padded_;
    size_t head_block_, layer_block_, weight_bytes_ = 0;
    size_t x_stride_, q_stride_, k_stride_, f_stride_;

    std::vector<Memory> weights_;  // one a thread
    std::vector<std::vector<float>> vectors_;
    Matrix embedding_, head_;
    const float* positions_ = nullptr;
    const float* frequencies_ = nullptr;
    const float* local_frequencies_ = nullptr;
    Norm final_norm_;
    std::vector<Layer> layers_;

    std::vector<std::unique_ptr<Adapter>> adapters_;  // number 1 first; null where one was dropped
    std::vector<Segment> segments_;                   // of this batch
    std::vector<Memory> low_;                         // one a thread: the numbers between the two factors
    int widest_rank_ = 0;

    Memory cache_;
    Memory x_, y_, q_, key_, value_, up_, angles_, logits_;
    size_t logit_rows_ = 0;
    Room width_, heads_, hidden_, output_;
    std::vector<Room> few_;  // as width_, one a thread
    std::vector<Memory> scratch_, normalised_;  // one a thread
    Memory partials_;
    std::vector<Task> tasks_;
    std::vector<int> token_sequence_;
    std::vector<std::atomic<int>> next_task_;
    bool alone_ = false;  // whether every attention task of this batch places what it reads itself
    struct Split { int token, kv_head, row_count, first_partial, partials; };
    std::vector<Split> splits_;
    std::vector<float> burst_logits_;
    float* out_logits_ = nullptr;
    float* out_hidden_ = nullptr;
    int out_columns_ = 0;
};

}  // namespace cadran
