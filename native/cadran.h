// The C interface of Cadran's inference core, called from Python through ctypes. A function that can fail returns a
// negative number or null, and cadran_error() then says why, for the calling thread.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "sampler.h"

#define CADRAN_API extern "C" __attribute__((visibility("default")))
#define CADRAN_ABI 3

// What a tensor is for. Those of a layer carry its number; vectors are plain floats.
enum cadran_role {
    CADRAN_EMBEDDING = 0, CADRAN_POSITIONS, CADRAN_HEAD, CADRAN_FINAL_NORM, CADRAN_FINAL_NORM_BIAS,
    CADRAN_FREQUENCIES, CADRAN_LOCAL_FREQUENCIES,
    CADRAN_LAYER = 16,
    CADRAN_Q = 16, CADRAN_K, CADRAN_V, CADRAN_O, CADRAN_GATE, CADRAN_UP, CADRAN_DOWN,
    CADRAN_Q_BIAS, CADRAN_K_BIAS, CADRAN_V_BIAS, CADRAN_O_BIAS, CADRAN_GATE_BIAS, CADRAN_UP_BIAS, CADRAN_DOWN_BIAS,
    CADRAN_Q_NORM, CADRAN_K_NORM,
    CADRAN_BEFORE_ATTENTION, CADRAN_BEFORE_ATTENTION_BIAS, CADRAN_AFTER_ATTENTION, CADRAN_AFTER_ATTENTION_BIAS,
    CADRAN_BEFORE_MLP, CADRAN_BEFORE_MLP_BIAS, CADRAN_AFTER_MLP, CADRAN_AFTER_MLP_BIAS,
    CADRAN_ROLES,
    // The two factors of a low-rank map upon the matrix of a role, with its scale in the second: role + one of these.
    CADRAN_DOWN_FACTOR = 256, CADRAN_UP_FACTOR = 512
};

typedef struct cadran_tensor {
    int32_t role, layer, kind, rows, columns;  // kind of kernels.h; a vector has kind F32, rows 1
    int32_t reserved;
    uint64_t offset, bytes;  // in the file
} cadran_tensor;

typedef struct cadran_shape {
    int32_t vocabulary, layers, width, heads, kv_heads, head_width, hidden, context;
    int32_t activation;      // 0 silu, 1 gelu, 2 gelu by hyperbolic tangent
    int32_t layer_norm;      // 0 root mean square, 1 layer norm
    int32_t qk_norm;         // 0 none, 1 each head, 2 all heads together
    int32_t rotary;          // numbers of a head that are turned, 0 none
    int32_t window;          // positions seen by layers with a window, 0 none
    int32_t tied;            // the head is the embedding
    float epsilon, attention_scale, attention_cap, logit_cap, embedding_scale;
    float rope_magnitude, local_rope_magnitude;
    const uint8_t* windowed;  // one flag a layer, or null
} cadran_shape;

typedef struct cadran_model cadran_model;

// Tokens to read in one pass: see engine/runner.py. `wide` is the width of a row of `tables`; `adapters` is one a
// sequence, 0 for none, or null.
typedef struct cadran_batch {
    int32_t tokens, sequences, wide, outputs;
    const int32_t *ids, *positions, *starts, *tables, *wanted, *adapters;
} cadran_batch;

CADRAN_API int32_t cadran_abi(void);
CADRAN_API const char* cadran_error(void);
CADRAN_API const char* cadran_isa(void);   // what is chosen when nothing is asked for
CADRAN_API const char* cadran_isas(void);  // those this processor can run, comma-separated, best first
CADRAN_API double cadran_read_bandwidth(int32_t threads, size_t bytes, int32_t repeats);  // bytes a second, median

// Opens the repacked weights at `path`. `isa` null chooses; `most_tokens` is the largest batch; `kv` is F32, F16 or I8;
// `planes` is how many bytes an activation has where weights are integers, 1 or 2.
CADRAN_API cadran_model* cadran_open(const cadran_shape* shape, const cadran_tensor* tensors, int32_t count,
                                     const char* path, int32_t threads, int32_t blocks, int32_t kv, int32_t planes,
                                     int32_t most_tokens, const char* isa);
CADRAN_API void cadran_close(cadran_model* model);
// Logits (outputs x columns: the first `columns` of the vocabulary) and, unless null, hidden states after the final
// norm (outputs x width). Either may be null.
CADRAN_API int32_t cadran_step(cadran_model* model, const cadran_batch* batch, float* logits, int32_t columns,
                               float* hidden);
// Decodes up to `steps` tokens of each sequence; `out` is steps x sequences; a burst ends with the first sequence
// that meets one of its stop ids, and before logits of which nothing can be chosen, which at its start give -1. Returns
// the number of steps taken.
CADRAN_API int32_t cadran_burst(cadran_model* model, const cadran_batch* batch, cadran_sampler** samplers,
                                int32_t columns, const int32_t* stops, const int32_t* stop_starts, int32_t steps,
                                int32_t* out);
CADRAN_API size_t cadran_block_bytes(const cadran_model* model);
CADRAN_API int32_t cadran_copy_block(cadran_model* model, int32_t source, int32_t target);
CADRAN_API int32_t cadran_read_block(cadran_model* model, int32_t block, uint8_t* data);
CADRAN_API int32_t cadran_write_block(cadran_model* model, int32_t block, const uint8_t* data);
CADRAN_API size_t cadran_weight_bytes(const cadran_model* model);
// Takes a copy of low-rank maps, whose tensors lie in `data`; returns the adapter's number, from 1. Sequences name it in
// `cadran_batch.adapters` until it is dropped.
CADRAN_API int32_t cadran_add_adapter(cadran_model* model, const cadran_tensor* tensors, int32_t count,
                                      const uint8_t* data, size_t bytes);
CADRAN_API int32_t cadran_drop_adapter(cadran_model* model, int32_t adapter);

// For tests: one product by the kernels of `isa`, with one or two planes of bytes. `weights` as kernels.h lays them out; x is tokens x padded columns
// (quantised here when the kind asks for it); out is tokens x 16 blocks. Negative when this processor lacks the isa.
CADRAN_API int32_t cadran_test_multiply(const char* isa, int32_t kind, int32_t planes, const uint8_t* weights,
                                        int32_t blocks, int32_t columns, const float* x, int32_t tokens, float* out);
// For tests: the other kernels, by name ("quantise", "normalise", "silu", "gelu", "gelu_tanh", "turn", "cap"), on
// `count` floats.
CADRAN_API int32_t cadran_test_map(const char* isa, const char* kernel, const float* x, int32_t count, float* out);
