// The forward kernels, compiled once for each instruction set.  See params.h for the formulas.
//
// Attention: for each key head of a sequence, keys and values are laid out in panels (below), and queries are taken in
// tiles of kTileRows rows, the query heads of that key head side by side.  A tile's scores with kBlock tokens at a time
// stay in the caches; the softmax is the running one (a new maximum rescales what is there), so any length works.
//
// A panel holds kLanes columns of a matrix: for each step of the inner dimension one vector.  With bfloat16
// instructions a step is two neighbours of the inner dimension, in one 32-bit word each; otherwise everything is
// float32.
#pragma once

#include "forward/kernels.h"
#include "forward/rows_impl.h"
#include "forward/vector_math.h"

namespace gainrl {
namespace {

constexpr int kLanes = Vector::kLanes;
constexpr float kNegativeInfinity = -__builtin_inff();

// Of our own, because a template of the standard library may be compiled here for this instruction set and then be
// merged with the one that other files use.
inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
inline void fill(float* first, float* last, float value) {
  for (; first < last; ++first) *first = value;
}

// How the products of element type T are made: kDepth inner steps a word, `Word` broadcast from the left matrix.
template <typename T>
struct Products {
  static constexpr int kDepth = 1;
  using Left = float;
  static Vector add(Vector sum, const float* left, const float* panel) {
    return Vector::fma(Vector::all(*left), Vector::load(panel), sum);
  }
};

#if defined(__AVX512BF16__)
template <>
struct Products<BFloat> {
  static constexpr int kDepth = 2;
  using Left = BFloat;
  static Vector add(Vector sum, const BFloat* left, const float* panel) {
    std::int32_t pair;
    std::memcpy(&pair, left, sizeof pair);
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_loadu_si512(panel))};
  }
};
#endif

// sums (rows, panels * kLanes; stride) (+)= left (rows, steps) * panels, each panel `panel_stride` words after the
// last. `left` points to each row; `fresh` overwrites the sums.
template <typename T, int kRows, int kPanels>
void multiply(const typename Products<T>::Left* const* left, const float* panels, std::int64_t panel_stride,
              std::int64_t steps, float* sums, std::int64_t stride, bool fresh) {
  Vector total[kRows][kPanels];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kPanels; ++c)
      total[r][c] = fresh ? Vector::zero() : Vector::load(sums + r * stride + c * kLanes);
  for (std::int64_t s = 0; s < steps; ++s) {
    for (int c = 0; c < kPanels; ++c) {
      const float* panel = panels + c * panel_stride + s * kLanes;
      for (int r = 0; r < kRows; ++r)
        total[r][c] = Products<T>::add(total[r][c], left[r] + s * Products<T>::kDepth, panel);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kPanels; ++c) total[r][c].store(sums + r * stride + c * kLanes);
}

#if defined(__AVX512F__)
constexpr int kBlockRows = 6, kBlockPanels = 4;  // 24 of 32 registers hold sums
#else
constexpr int kBlockRows = 4, kBlockPanels = 2;  // 8 of 16
#endif

template <typename T, int kPanels>
void multiply_rows(const typename Products<T>::Left* const* left, std::int64_t rows, const float* panels,
                   std::int64_t panel_stride, std::int64_t steps, float* sums, std::int64_t stride, bool fresh) {
  std::int64_t r = 0;
  for (; r + kBlockRows <= rows; r += kBlockRows)
    multiply<T, kBlockRows, kPanels>(left + r, panels, panel_stride, steps, sums + r * stride, stride, fresh);
  for (; r + 2 <= rows; r += 2)
    multiply<T, 2, kPanels>(left + r, panels, panel_stride, steps, sums + r * stride, stride, fresh);
  if (r < rows) multiply<T, 1, kPanels>(left + r, panels, panel_stride, steps, sums + r * stride, stride, fresh);
}

template <typename T>
void multiply_all(const typename Products<T>::Left* const* left, std::int64_t rows, const float* panels,
                  std::int64_t count, std::int64_t panel_stride, std::int64_t steps, float* sums, std::int64_t stride,
                  bool fresh) {
  std::int64_t c = 0;
  for (; c + kBlockPanels <= count; c += kBlockPanels)
    multiply_rows<T, kBlockPanels>(left, rows, panels + c * panel_stride, panel_stride, steps, sums + c * kLanes,
                                   stride, fresh);
  for (; c + 2 <= count && kBlockPanels > 2; c += 2)
    multiply_rows<T, 2>(left, rows, panels + c * panel_stride, panel_stride, steps, sums + c * kLanes, stride, fresh);
  for (; c < count; ++c)
    multiply_rows<T, 1>(left, rows, panels + c * panel_stride, panel_stride, steps, sums + c * kLanes, stride, fresh);
}

// One word of a panel from the elements of its inner steps (a missing one is zero).
template <typename T>
float word(const T* first, const T* second) {
  if constexpr (Products<T>::kDepth == 1) {
    return widen(*first);
  } else {
    return bits_to_float(first->bits | (second == nullptr ? 0U : static_cast<std::uint32_t>(second->bits) << 16));
  }
}

// Columns are tokens, inner steps the `width` elements of a key.
template <typename T>
void pack_keys(const T* keys, std::int64_t row, std::int64_t tokens, std::int64_t width, float* panels) {
  constexpr int kDepth = Products<T>::kDepth;
  const std::int64_t steps = (width + kDepth - 1) / kDepth;
  for (std::int64_t first = 0; first < tokens; first += kLanes, panels += steps * kLanes) {
    const std::int64_t count = least(kLanes, tokens - first);
    if (count < kLanes) fill(panels, panels + steps * kLanes, 0.0F);
    for (std::int64_t c = 0; c < count; ++c) {
      const T* key = keys + (first + c) * row;
      for (std::int64_t s = 0; s < width / kDepth; ++s)
        panels[s * kLanes + c] = word(key + s * kDepth, key + s * kDepth + kDepth - 1);
      if (width % kDepth != 0) panels[(steps - 1) * kLanes + c] = word<T>(key + width - 1, nullptr);
    }
  }
}

// Columns are the `width` elements of a value, inner steps the tokens.
template <typename T>
void pack_values(const T* values, std::int64_t row, std::int64_t tokens, std::int64_t width, float* panels) {
  constexpr int kDepth = Products<T>::kDepth;
  const std::int64_t steps = (tokens + kDepth - 1) / kDepth;
  for (std::int64_t first = 0; first < width; first += kLanes, panels += steps * kLanes) {
    const std::int64_t count = least(kLanes, width - first);
    for (std::int64_t s = 0; s < steps; ++s) {
      const T* one = values + s * kDepth * row + first;
      const T* two = s * kDepth + kDepth <= tokens ? one + (kDepth - 1) * row : nullptr;
      float* out = panels + s * kLanes;
#if defined(__AVX512BF16__)
      if constexpr (kDepth == 2) {
        if (count == kLanes) {
          const auto load = [](const T* p) {
            return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
          };
          __m512i words = load(one);
          if (two != nullptr) words = _mm512_or_si512(words, _mm512_slli_epi32(load(two), 16));
          _mm512_storeu_si512(out, words);
          continue;
        }
      }
#endif
      for (std::int64_t c = 0; c < count; ++c) out[c] = word(one + c, two == nullptr ? nullptr : two + c);
      fill(out + count, out + kLanes, 0.0F);
    }
  }
}

template <typename T>
void pack(const AttentionParams& p, const void* keys, std::int64_t key_row, const void* values, std::int64_t value_row,
          std::int64_t tokens, const PackedTokens& packed) {
  pack_keys(static_cast<const T*>(keys), key_row, tokens, p.width, packed.keys);
  pack_values(static_cast<const T*>(values), value_row, tokens, p.value_width, packed.values);
}

template <typename T>
void pack_shared(const AttentionParams& p, std::int64_t kv_head, const PackedTokens& packed) {
  pack<T>(p, static_cast<const T*>(p.shared_key) + kv_head * p.shared_key_head, p.shared_key_row,
          static_cast<const T*>(p.shared_value) + kv_head * p.shared_value_head, p.shared_value_row, p.shared, packed);
}

// A tile of queries: which rows, and the state of their running softmax.
template <typename T>
class Tile {
 public:
  using Left = typename Products<T>::Left;
  static constexpr int kDepth = Products<T>::kDepth;

  Tile(const AttentionParams& p, const AttentionScratch& scratch)
      : p_(p),
        scratch_(scratch),
        group_(p.heads / p.kv_heads),
        steps_((p.width + kDepth - 1) / kDepth),
        columns_(round_up(p.value_width, kLanes)),
        scaled_(p.softcap > 0.0F || !(p.scale > 0.0F)),
        unit_((scaled_ ? 1.0F : p.scale) * (kQuick<T> ? kLog2E : 1.0F)) {}

  // Rows [first, first + rows) of the queries of `task`, counted as position * group + head, the sequence from row
  // `start` of the packed row.
  void begin(const AttentionTask& task, std::int64_t start, std::int64_t first, std::int64_t rows) {
    rows_ = rows;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t position = (first + r) / group_;
      const std::int64_t head = task.kv_head * group_ + (first + r) % group_;
      const T* query = static_cast<const T*>(p_.query) + head * p_.query_head + (start + position) * p_.query_row;
      position_[r] = p_.shared + position;
      to_[r] = static_cast<T*>(p_.output) + ((start + position) * p_.heads + head) * p_.value_width;
      left_[r] = lay_out(query, scratch_.queries + r * steps_);
      highest_[r] = kNegativeInfinity;
      sum_[r] = 0.0F;
    }
    fill(scratch_.outputs, scratch_.outputs + rows * columns_, 0.0F);
  }

  // Attends to tokens [0, seen) of `tokens`, the first of which is number `base` of the whole sequence.
  void attend(const PackedTokens& tokens, std::int64_t base, std::int64_t seen) {
    const std::int64_t steps = (tokens.tokens + kDepth - 1) / kDepth;
    std::int64_t low = 0;
    if (p_.window > 0) low = most(0, position_[0] - p_.window + 1 - base) / kLanes * kLanes;
    for (; low < seen; low += kBlock) {
      const std::int64_t count = least(kBlock, seen - low), panels = (count + kLanes - 1) / kLanes;
      multiply_all<T>(left_, rows_, tokens.keys + low * steps_, panels, steps_ * kLanes, steps_, scratch_.scores,
                      kBlock, true);
      for (std::int64_t r = 0; r < rows_; ++r) weigh(r, base + low, count, panels * kLanes);
      multiply_all<T>(weighted_, rows_, tokens.values + low / kDepth * kLanes, columns_ / kLanes, steps * kLanes,
                      (count + kDepth - 1) / kDepth, scratch_.outputs, columns_, false);
    }
  }

  void finish() {
    for (std::int64_t r = 0; r < rows_; ++r) {
      const float scale = 1.0F / sum_[r];
      const float* output = scratch_.outputs + r * columns_;
      std::int64_t c = 0;
      for (; c + kLanes <= p_.value_width; c += kLanes)
        store(Vector::load(output + c) * Vector::all(scale), to_[r] + c);
      for (; c < p_.value_width; ++c) narrow(output[c] * scale, to_[r] + c);
    }
  }

 private:
  // A query as the kernels read it: where it is, or copied as float32, or with an odd width filled up.
  const Left* lay_out(const T* query, float* copy) const {
    if constexpr (std::is_same_v<T, Left>) {
      if (p_.width % kDepth == 0) return query;
      auto* out = reinterpret_cast<Left*>(copy);
      for (std::int64_t i = 0; i < p_.width; ++i) out[i] = query[i];
      std::memset(static_cast<void*>(out + p_.width), 0, sizeof(Left));
      return out;
    } else {
      for (std::int64_t i = 0; i < p_.width; ++i) copy[i] = widen(query[i]);
      return copy;
    }
  }

  // Turns the scores of row r with tokens base .. base + count - 1 into weights, zero where it may not look, and
  // rescales what the row has gathered so far.
  void weigh(std::int64_t r, std::int64_t base, std::int64_t count, std::int64_t padded) {
    float* scores = scratch_.scores + r * kBlock;
    const std::int64_t high = most(0, least(position_[r] + 1 - base, count));
    const std::int64_t low = p_.window > 0 ? most(0, least(position_[r] + 1 - p_.window - base, high)) : 0;
    fill(scores, scores + low, kNegativeInfinity);
    fill(scores + high, scores + padded, kNegativeInfinity);
    Vector top = Vector::all(kNegativeInfinity);
    if (!scaled_) {
      for (std::int64_t c = 0; c < padded; c += kLanes) top = maximum(top, Vector::load(scores + c));
    } else {
      for (std::int64_t c = 0; c < padded; c += kLanes) {
        Vector x = Vector::load(scores + c) * Vector::all(p_.scale);
        if (p_.softcap > 0.0F) x = capped(x, p_.softcap);
        x.store(scores + c);  // in which -infinity may have become something else
        if (c < low) fill(scores + c, scores + least(c + kLanes, low), kNegativeInfinity);
        if (c + kLanes > high) fill(scores + most(c, high), scores + c + kLanes, kNegativeInfinity);
        top = maximum(top, Vector::load(scores + c));
      }
    }
    const float before = highest_[r], seen = highest(top), now = seen > before ? seen : before;
    if (now == kNegativeInfinity) {  // nothing to see yet (if that stays so, 0 / 0 says it in the end)
      set_weights(r, scores, padded, 0.0F);
      return;
    }
    if (before != now && before != kNegativeInfinity) {
      const float difference = (before - now) * unit_, shrink = kQuick<T> ? exp2f(difference) : expf(difference);
      sum_[r] *= shrink;
      float* output = scratch_.outputs + r * columns_;
      for (std::int64_t c = 0; c < columns_; c += kLanes)
        (Vector::load(output + c) * Vector::all(shrink)).store(output + c);
    }
    highest_[r] = now;
    sum_[r] += set_weights(r, scores, padded, now);
  }

  // exp(score - top), in the scores' unit, for each score, kept for the second product; returns their sum.
  float set_weights(std::int64_t r, float* scores, std::int64_t padded, float top) {
    Vector total = Vector::zero();
    const Vector unit = Vector::all(unit_), shift = Vector::all(-top * unit_);
    const auto weigh = [&](std::int64_t c) {
      const Vector weight = power<T>(Vector::fma(Vector::load(scores + c), unit, shift));
      total = total + weight;
      return weight;
    };
    if constexpr (kDepth == 1) {
      for (std::int64_t c = 0; c < padded; c += kLanes) weigh(c).store(scores + c);
      weighted_[r] = scores;
    } else {
      auto* weights = reinterpret_cast<BFloat*>(scratch_.weights + r * kBlock);
      for (std::int64_t c = 0; c < padded; c += kLanes) store(weigh(c), weights + c);
      weighted_[r] = weights;
    }
    return total.total();
  }

  const AttentionParams& p_;
  const AttentionScratch& scratch_;
  const std::int64_t group_, steps_, columns_;
  const bool scaled_;  // the scores are scaled (and capped) before the highest is sought; else it is the same one
  const float unit_;   // what a score is multiplied by before `power`
  std::int64_t rows_ = 0;
  std::int64_t position_[kTileRows];  // of the row's token in its whole sequence, shared tokens included
  T* to_[kTileRows];
  const Left* left_[kTileRows];
  const Left* weighted_[kTileRows];
  float highest_[kTileRows], sum_[kTileRows];
};

template <typename T>
void attend(const AttentionParams& p, const AttentionTask& task, const PackedTokens& shared,
            const AttentionScratch& scratch) {
  const std::int64_t start = p.offsets[task.sequence], group = p.heads / p.kv_heads;
  pack<T>(p, static_cast<const T*>(p.key) + task.kv_head * p.key_head + start * p.key_row, p.key_row,
          static_cast<const T*>(p.value) + task.kv_head * p.value_head + start * p.value_row, p.value_row, task.last,
          scratch.own);
  PackedTokens own = scratch.own;
  own.tokens = task.last;
  Tile<T> tile(p, scratch);
  for (std::int64_t first = task.first * group; first < task.last * group; first += kTileRows) {
    const std::int64_t rows = least(kTileRows, task.last * group - first);
    tile.begin(task, start, first, rows);
    if (p.shared > 0) tile.attend(shared, 0, p.shared);
    tile.attend(own, p.shared, (first + rows - 1) / group + 1);
    tile.finish();
  }
}

template <typename T>
constexpr ForwardKernels kernels() {
  return {&pack_shared<T>, &attend<T>, &rms_norm<T>, &add_rms_norm<T>, &silu_mul<T>, &rotate<T>};
}

inline ForwardTable table() { return {{kernels<float>(), kernels<Half>(), kernels<BFloat>()}}; }

}  // namespace
}  // namespace gainrl
