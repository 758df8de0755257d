// The forward kernels of one instruction set, reached through function pointers chosen at run time.
#pragma once

#include <cstdint>

#include "forward/params.h"

namespace gainrl {

// Keys and values of some tokens and one head, laid out for the kernels: at least packed_keys() and packed_values()
// words, or null for no tokens.
struct PackedTokens {
  std::int64_t tokens = 0;
  float *keys = nullptr, *values = nullptr;
};

// The widest vector of any instruction set, and the size of the tiles that attention works in.
constexpr std::int64_t kWidestLanes = 16, kTileRows = 24, kBlock = 256;

namespace {

constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }
constexpr std::int64_t packed_keys(std::int64_t tokens, std::int64_t width) {
  return round_up(tokens, kWidestLanes) * width;
}
constexpr std::int64_t packed_values(std::int64_t tokens, std::int64_t width) {
  return round_up(width, kWidestLanes) * tokens;
}

}  // namespace

// What one thread works with; kept from task to task.
struct AttentionScratch {
  PackedTokens own;                  // room for the longest sequence
  float* queries = nullptr;          // kTileRows * (width + 1)
  float* scores = nullptr;           // kTileRows * kBlock
  float* outputs = nullptr;          // kTileRows * round_up(value_width, kWidestLanes)
  std::uint16_t* weights = nullptr;  // kTileRows * kBlock
};

// Queries [first, last) of one sequence, for the query heads of one key head.
struct AttentionTask {
  std::int64_t sequence, kv_head, first, last;
};

struct ForwardKernels {
  // Lays out the shared tokens of a key head.
  void (*pack_shared)(const AttentionParams&, std::int64_t kv_head, const PackedTokens& into);
  void (*attend)(const AttentionParams&, const AttentionTask&, const PackedTokens& shared, const AttentionScratch&);
  void (*rms_norm)(const void* x, const float* weight, float eps, void* out, std::int64_t rows, std::int64_t width);
  void (*add_rms_norm)(const void* x, const void* y, void* sum, const float* weight, float eps, void* out,
                       std::int64_t rows, std::int64_t width);
  void (*silu_mul)(const void* gate, const void* up, void* out, std::int64_t n);
  void (*rotate)(void* x, const void* cosine, const void* sine, std::int64_t rows, std::int64_t heads,
                 std::int64_t width);
};

struct ForwardTable {
  ForwardKernels kernels[3];  // by DType
};

ForwardTable forward_plain() noexcept;
ForwardTable forward_avx2() noexcept;
ForwardTable forward_avx512() noexcept;
ForwardTable forward_avx512bf16() noexcept;

}  // namespace gainrl
