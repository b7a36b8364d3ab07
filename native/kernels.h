// What one instruction set offers: a table of functions over the layouts described here. kernels.inc implements the
// table once, on top of a small wrapper of sixteen lanes; each isa_*.cpp compiles it with its own flags.
//
// A matrix is kept in blocks of 16 rows, so that one vector holds one step of sixteen rows and no sum over lanes is
// ever needed. Columns go in groups of 32 with one scale a row, and groups in pairs; columns beyond the matrix have
// weight zero. Everything lies in the order in which it is read, without a gap: a skip of a few lines now and then
// stops the hardware's prefetcher and halves the bandwidth (13 against 26 GB/s on one core of a Zen 4). A pair is
//   I8    one line with 16 half-precision scales of either group; then a group is 8 lines: byte 4 r + i of line j is
//         weight (row r, column 32 g + 4 j + i) plus 128.
//   I4    a line of scales likewise; then a group is 4 lines: the low nibble of byte 4 r + i of line j is column
//         32 g + 4 j + i, the high nibble column 32 g + 16 + 4 j + i; weight = scale * (nibble - 8).
//   I4M   as I4 with a line of half-precision minima after the scales; weight = scale * nibble + minimum.
//   F32, F16, BF16   column after column, sixteen rows each.
// The order of additions for one row and one token is the same however many tokens are computed together: an answer
// does not depend on what else is in the batch.
#pragma once
#include <cstddef>
#include <cstdint>

namespace cadran {

enum Kind : int32_t { F32 = 0, F16 = 1, BF16 = 2, I8 = 3, I4 = 4, I4M = 5 };
enum Activation : int32_t { SILU = 0, GELU = 1, GELU_TANH = 2 };

constexpr int LANES = 16;
constexpr int GROUP = 32;
constexpr int POSITIONS = 32;  // in a block of the KV cache
constexpr int CHUNK = 128;     // positions whose softmax is formed at once; partial results are merged in order
constexpr int MOST_ROWS = 6;   // queries that share one pass over the keys

static inline bool quantised(int kind) { return kind >= I8; }
static inline int pairs_of(int columns) { return (columns + 2 * GROUP - 1) / (2 * GROUP); }
// Bytes of a pair of groups in a block of sixteen rows.
static inline size_t pair_bytes(int kind) { return kind == I8 ? 64 + 1024 : kind == I4 ? 64 + 512 : 128 + 512; }

// Bytes of one block of sixteen rows, a multiple of 64.
static inline size_t block_bytes(int kind, int columns) {
    const size_t wide = static_cast<size_t>(columns);
    switch (kind) {
        case F32: return wide * 64;
        case F16:
        case BF16: return (wide * 32 + 63) / 64 * 64;
        default: return static_cast<size_t>(pairs_of(columns)) * pair_bytes(kind);
    }
}

// Rows of activations, as floats and (for integer weights) as bytes with one scale a group of 32. With two planes a
// token has two rows of bytes, the second for what the first rounded away, in steps 254 times as fine; a product adds
// the two: the error of 8 bits becomes that of 16 for twice the multiplications.
struct Rows {
    int columns;            // padded to whole pairs of groups
    int planes;             // 1 or 2
    const float* x;         // tokens x columns
    int8_t* q;              // tokens x planes x columns, -127..127
    float* scale;           // tokens x planes x groups
    int32_t* minus128;      // likewise: -128 times the sum of q, what unsigned weights are too many
    int32_t* minus8;        // likewise: -8 times the sum
    float* sum;             // likewise: scale times the sum, what a minimum is multiplied by
};

// One query row of an attention pass and where its partial result goes.
struct AttentionRow {
    const float* query;  // head_width numbers, turned
    int first, last;     // visible positions: first <= p <= last
    float* out;          // running result, padded head width
    float* top;          // running maximum
    float* total;        // running sum
    bool* started;       // whether anything was merged yet
};

struct AttentionSpec {
    int head_width, padded;    // numbers in a head; rounded up to whole vectors
    float scale, cap;          // cap 0: none
    int kv_kind;               // F32, F16 or I8
};

struct Kernels {
    const char* name;
    // out[t * stride + r] (+)= weights x rows for `blocks` blocks of sixteen rows and `tokens` tokens.
    void (*multiply)(int kind, const uint8_t* weights, int blocks, int columns, const Rows& rows, int tokens, float* out,
                     size_t stride, bool add);
    // Makes the bytes of `count` groups of a token, from group `first`.
    void (*quantise)(const Rows& rows, int token, int first, int count);
    // Root-mean-square or, with `centre`, layer norm of one row; bias may be null. Columns beyond `width` become 0.
    void (*normalise)(const float* x, const float* weight, const float* bias, int width, int padded, float epsilon,
                      bool centre, float* out);
    void (*gate)(int activation, const float* gate, const float* up, int count, float* out);  // up null: no gate
    void (*turn)(float* head, const float* cosine, const float* sine, int pairs);
    void (*add)(float* x, const float* y, int count);
    void (*write_key)(int kv_kind, const float* key, int head_width, uint8_t* block, int position);
    void (*write_value)(int kv_kind, const float* value, int head_width, uint8_t* block, int position);
    // One chunk of positions for up to MOST_ROWS queries; `blocks` are the K/V blocks of the chunk in order, `next` the
    // block that will be read after them, or null.
    void (*attend)(const AttentionSpec& spec, const uint8_t* const* blocks, const uint8_t* next, int chunk_start,
                   AttentionRow* rows, int count);
    void (*merge)(const AttentionRow& into, const float* out, float top, float total, int padded);
    void (*finish)(float* out, float total, int padded);
    void (*cap)(float* x, int count, float cap);
    void (*row)(int kind, const uint8_t* block, int columns, int lane, float* out);  // one row as floats
};

// Bytes of one head's keys and values in a block: keys [head_width][32], values [32][padded], for I8 also the scales.
static inline size_t kv_bytes(int kv_kind, int head_width, int padded) {
    const size_t one = kv_kind == I8 ? 1 : kv_kind == F16 ? 2 : 4;
    const size_t numbers = static_cast<size_t>(POSITIONS) * static_cast<size_t>(head_width + padded) * one;
    return (numbers + (kv_kind == I8 ? 2 * POSITIONS * sizeof(float) : 0) + 63) / 64 * 64;
}

const Kernels* kernels_scalar();
const Kernels* kernels_avx2();
const Kernels* kernels_avxvnni();
const Kernels* kernels_avx512vnni();
const Kernels* kernels_neon_dotprod();
const Kernels* kernels_neon_i8mm();

// The table for a name, or the best this processor has for null; null when it cannot run it.
const Kernels* choose_kernels(const char* name);
const char* usable_kernels();  // comma-separated, best first

}  // namespace cadran
