// The kernel for every other layout: any alignment, any column stride, any width.
//
// A block takes one chunk of rows, up to kAnyBatch rows of one sequence at a time: first each warp finds the scales of
// some of the rows, then each thread adds its columns of all of them.  The second reading comes from the caches.
#pragma once

#include "angle/cuda_sequence.cuh"

namespace gainrl {

template <typename T>
class AnyChunkSum {
 public:
  __device__ AnyChunkSum(const KernelArguments& arguments)
      : k(arguments), p(k.p), chunk(blockIdx.x), thread(static_cast<int>(threadIdx.x)), window(p, thread % 32) {
    scratch = reinterpret_cast<double*>(dynamic_shared());
    scales = scratch + 3 * (kAnyThreads / 32);
    indices = reinterpret_cast<std::int64_t*>(scales + kAnyBatch);
    batch_roles = reinterpret_cast<int*>(indices + kAnyBatch);
    kinds = batch_roles + kAnyBatch;
    first_row = chunk * k.chunk_rows;
    last_row = first_row + k.chunk_rows < p.rows ? first_row + k.chunk_rows : p.rows;
  }

  __device__ __forceinline__ void run() {
    if (thread == 0) {
      k.tickets[chunk * 2] = 0;
      k.tickets[chunk * 2 + 1] = 0;
      k.segments[chunk * 2].sequence = -1;
      k.segments[chunk * 2 + 1].sequence = -1;
    }
    if (block_any(offsets_are_bad(k, chunk, kAnyThreads))) flags_of_chunk |= kChunkBadOffsets;
    if (p.shared_tokens > 0) flags_of_chunk |= kChunkHasPrefix;
    std::int64_t t = first_row;
    if (p.offsets != nullptr) {
      if (start_of(p, 0) > t) t = start_of(p, 0);
      if (start_of(p, p.sequences) < last_row) last_row = start_of(p, p.sequences);
    }
    if (t < last_row) {
      sequence = sequence_of(p, t, thread % 32);
      start = window.start(sequence);
      end = window.start(sequence + 1);
      clear();
      while (t < last_row) {
        while (t >= end && sequence + 1 < p.sequences) {
          close();
          ++sequence;
          start = end;
          end = window.start(sequence + 1);
          clear();
        }
        t = take_batch(t, end > t && end < last_row ? end : last_row);
      }
      close();
    }
    if (thread == 0) k.flags[chunk] = static_cast<std::uint8_t>(flags_of_chunk);
  }

 private:
  enum Kind { kZero = 0, kCounted = 1, kExact = 2, kInfinite = 3 };  // kExact: the scale needs float64

  // Adds rows from t on, up to `limit` or a full batch, and returns the row after the last.
  __device__ __forceinline__ std::int64_t take_batch(std::int64_t t, std::int64_t limit) {
    int count = 0;
    for (; t < limit && count < kAnyBatch; ++t) {
      const int role = role_of(p, t);
      if (role == kIgnored) continue;
      if (role != kPrefix && role != kQuestion) {
        flags |= kInvalidRole;
        continue;
      }
      if (thread == 0) {
        indices[count] = t;
        batch_roles[count] = role;
      }
      ++count;
    }
    block_barrier();
    for (int r = thread / 32; r < count; r += kAnyThreads / 32) measure(r);
    block_barrier();
    bool question = false, prefix = false;
    for (int r = 0; r < count; ++r) {
      if (kinds[r] == kInfinite) flags |= kNonFinite;
      if (kinds[r] != kCounted && kinds[r] != kExact) continue;
      (batch_roles[r] == kQuestion ? question : prefix) = true;
      (batch_roles[r] == kQuestion ? question_rows : prefix_rows) += 1;
    }
    if (question || prefix) {
      // The joining kernel reads whole vectors of a slot: the columns after the row's last are written as zeros.
      for (std::int64_t c = thread; c < k.padded_width; c += kAnyThreads)
        add_column(c, c < p.width ? count : 0, question, prefix);
      started_question |= question;
      started_prefix |= prefix;
    }
    if (prefix) flags_of_chunk |= kChunkHasPrefix;
    block_barrier();  // the batch's lists are free again
    return t;
  }

  __device__ __forceinline__ float value(const T* row, std::int64_t column) const {
    return as_float(row[column * p.stride_column]);
  }

  // One warp finds the scale of row r of the batch.
  __device__ __forceinline__ void measure(int r) {
    const T* row = reinterpret_cast<const T*>(row_address(p, indices[r], sizeof(T)));
    const int lane = thread % 32;
    float square = 0.0F;
    for (std::int64_t c = lane; c < p.width; c += 32) {
      const float x = value(row, c);
      square += x * x;
    }
    square = warp_sum(square);
    int kind = kCounted;
    double scale;
    if (square > kSmallestSafeSquare && square < kLargestSafeSquare) {
      scale = reciprocal_root(square);
    } else {
      double exact = 0.0;
      for (std::int64_t c = lane; c < p.width; c += 32) {
        const double x = value(row, c);
        exact += x * x;
      }
      exact = warp_sum(exact);
      kind = !is_number(exact) ? kInfinite : exact == 0.0 ? kZero : kExact;
      scale = kind == kExact ? 1.0 / sqrt(exact) : 0.0;
    }
    if (lane == 0) {
      scales[r] = scale;
      kinds[r] = kind;
    }
  }

  __device__ __forceinline__ void add_column(std::int64_t column, int count, bool question, bool prefix) {
    float sum_question = 0.0F, sum_prefix = 0.0F;
    for (int r = 0; r < count; ++r) {
      if (kinds[r] != kCounted && kinds[r] != kExact) continue;
      const float x = value(reinterpret_cast<const T*>(row_address(p, indices[r], sizeof(T))), column);
      const float unit = kinds[r] == kCounted ? x * static_cast<float>(scales[r]) : static_cast<float>(x * scales[r]);
      if (batch_roles[r] == kQuestion) {
        sum_question += unit;
      } else {
        sum_prefix += unit;
      }
    }
    if (question) slot(0)[column] = (started_question ? slot(0)[column] : 0.0F) + sum_question;
    if (prefix) slot(1)[column] = (started_prefix ? slot(1)[column] : 0.0F) + sum_prefix;
  }

  __device__ __forceinline__ float* slot(int role) const {
    const std::int64_t segment = start < first_row ? 0 : 1;
    return k.slots + ((chunk * 2 + segment) * 2 + role) * k.padded_width;
  }

  __device__ __forceinline__ void clear() {
    question_rows = prefix_rows = 0;
    started_question = started_prefix = false;
    flags = 0;
  }

  __device__ __forceinline__ float question_at(std::int64_t c) const { return started_question ? slot(0)[c] : 0.0F; }
  __device__ __forceinline__ float prefix_at(std::int64_t c) const {
    return (started_prefix ? slot(1)[c] : 0.0F) + (p.shared_sum != nullptr ? p.shared_sum[c] : 0.0F);
  }

  __device__ __forceinline__ void close() {
    if (start >= end) return;  // empty: the joining kernel writes it
    if (start < first_row || end > first_row + k.chunk_rows) {
      if (thread == 0)
        k.segments[chunk * 2 + (start < first_row ? 0 : 1)] = {sequence, question_rows, prefix_rows, flags, 0};
      return;
    }
    Products products{0.0, 0.0, 0.0};
    for (std::int64_t c = thread; c < p.width; c += kAnyThreads) {
      const double u = question_at(c), v = prefix_at(c);
      products.question += u * u;
      products.cross += u * v;
      products.prefix += v * v;
    }
    products = block_sum(products, scratch, kAnyThreads);
    if (thread == 0) write_sequence(p, sequence, products, question_rows, prefix_rows + p.shared_tokens, flags, true);
    const bool defined = products.question > 0.0 && (flags & kBad) == 0;
    const float scale = defined ? static_cast<float>(1.0 / sqrt(products.question)) : 0.0F;
    for (std::int64_t c = thread; c < p.width; c += kAnyThreads) {
      const std::int64_t place = sequence * p.width + c;
      if (p.directions != nullptr) p.directions[place] = defined ? question_at(c) * scale : 0.0F;
      if (p.sums != nullptr) p.sums[place] = question_at(c) + prefix_at(c);
    }
  }

  const KernelArguments& k;
  const AngleParams& p;
  const std::int64_t chunk;
  const int thread;
  double *scratch, *scales;
  std::int64_t* indices;
  int *batch_roles, *kinds;
  std::int64_t first_row, last_row;
  StartWindow window;
  std::int64_t sequence = 0, start = 0, end = 0;
  int question_rows = 0, prefix_rows = 0;
  bool started_question = false, started_prefix = false;
  std::int32_t flags = 0;
  std::uint32_t flags_of_chunk = 0;
};

template <typename T>
__global__ void __launch_bounds__(kAnyThreads, 2) angle_sum_any(const __grid_constant__ KernelArguments k) {
  AnyChunkSum<T> sum(k);
  sum.run();
}

}  // namespace gainrl
