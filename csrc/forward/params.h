// The boundary of the scoring pass's CPU kernels: attention over a packed row, and what else a
// decoder's block does row by row.
//
// Nothing here owns memory.  Strides are in elements; the last dimension of every array is contiguous.
#pragma once

#include <cstdint>

#include "angle/params.h"  // DType, Result

namespace gainrl {

// Causal attention of B sequences that lie one after the other in a row of T tokens, each of which also sees P shared
// tokens that come before it:
//
//   o_t = sum_j softmax_j(f(scale * q_t . k_j)) v_j       over the shared tokens and those of t's sequence up to t
//
// f is the identity, or cap * tanh(x / cap) where `softcap` > 0.  With `window` > 0 a token sees the last `window`
// tokens, its own included.  Query head h reads the keys and values of head h / (heads / kv_heads).
struct AttentionParams {
  DType dtype = DType::kFloat32;  // of every array but `offsets`
  std::int64_t heads = 0, kv_heads = 0;
  std::int64_t width = 0;        // of queries and keys
  std::int64_t value_width = 0;  // of values and results
  const void* query = nullptr;   // (heads, T, width)
  std::int64_t query_head = 0, query_row = 0;
  const void* key = nullptr;  // (kv_heads, T, width)
  std::int64_t key_head = 0, key_row = 0;
  const void* value = nullptr;  // (kv_heads, T, value_width)
  std::int64_t value_head = 0, value_row = 0;
  std::int64_t shared = 0;           // P
  const void* shared_key = nullptr;  // (kv_heads, P, width)
  std::int64_t shared_key_head = 0, shared_key_row = 0;
  const void* shared_value = nullptr;  // (kv_heads, P, value_width)
  std::int64_t shared_value_head = 0, shared_value_row = 0;
  std::int64_t sequences = 0;             // B
  const std::int64_t* offsets = nullptr;  // (B + 1), in order, from 0
  float scale = 1.0F, softcap = 0.0F;
  std::int64_t window = 0;
  void* output = nullptr;  // (T, heads, value_width), contiguous
};

}  // namespace gainrl
