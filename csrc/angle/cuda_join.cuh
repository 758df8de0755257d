// The second kernel: adds the partial sums of sequences that span chunks, writes empty sequences, and settles what only
// the whole call shows (whether any sequence has a prefix, whether the offsets are in order).  And the third, on
// request: the cosine of each row with its sequence's sum.
#pragma once

#include "angle/cuda_sequence.cuh"

namespace gainrl {

class Join {
 public:
  __device__ Join(const KernelArguments& arguments)
      : k(arguments), p(k.p), thread(static_cast<int>(threadIdx.x)), lane(thread % 32), warp(thread / 32) {
    scratch = reinterpret_cast<double*>(dynamic_shared());
    sums = scratch + 3 * kWarps;
  }

  __device__ __forceinline__ void run() {
    std::int32_t found = 0;
    for (std::int64_t c = thread; c < k.chunks; c += kJoinThreads) found |= k.flags[c];
    const bool bad = block_any((found & kChunkBadOffsets) != 0);
    any_prefix = block_any((found & kChunkHasPrefix) != 0);
    const std::int64_t block = std::int64_t{blockIdx.x} * gridDim.y + blockIdx.y;
    const std::int64_t stride = std::int64_t{gridDim.x} * gridDim.y * kJoinThreads;
    for (std::int64_t b = block * kJoinThreads + thread; b < p.sequences; b += stride) {
      if (bad) {
        write_sequence(p, b, {0.0, 0.0, 0.0}, 0, 0, kInvalidOffsets, true);
        fill_vectors(b, false);
        continue;
      }
      const std::int64_t start = start_of(p, b), end = start_of(p, b + 1);
      if (start == end) {
        write_empty(b);
      } else if (!any_prefix && chunk_of(start) == chunk_of(end - 1)) {
        p.values[2 * p.sequences + b] = p.values[b];
      }
    }
    if (bad) return;
    std::int64_t b = blockIdx.x;
    if (p.sequences > k.chunks) b = k.segments[b * 2 + 1].sequence;  // the one that goes on after chunk blockIdx.x
    if (b < 0 || b >= p.sequences) return;
    const std::int64_t start = start_of(p, b), end = start_of(p, b + 1);
    if (start >= end || chunk_of(start) == chunk_of(end - 1)) return;
    join(b, chunk_of(start), chunk_of(end - 1));
  }

 private:
  static constexpr int kWarps = kJoinThreads / 32;

  __device__ __forceinline__ std::int64_t chunk_of(std::int64_t t) const { return t / k.chunk_rows; }

  __device__ __forceinline__ void fill_vectors(std::int64_t b, bool with_shared) const {
    for (std::int64_t c = 0; c < p.width; ++c) {
      if (p.directions != nullptr) p.directions[b * p.width + c] = 0.0F;
      if (p.sums != nullptr) p.sums[b * p.width + c] = with_shared && p.shared_sum != nullptr ? p.shared_sum[c] : 0.0F;
    }
  }

  __device__ __forceinline__ void write_empty(std::int64_t b) const {
    Products products{0.0, 0.0, 0.0};
    for (std::int64_t c = 0; p.shared_sum != nullptr && c < p.width; ++c)
      products.prefix += static_cast<double>(p.shared_sum[c]) * static_cast<double>(p.shared_sum[c]);
    write_sequence(p, b, products, 0, p.shared_tokens, 0, any_prefix);
    if (p.directions != nullptr || p.sums != nullptr) fill_vectors(b, true);
  }

  // The segment that sequence b has in chunk c, given the chunk in which it begins.
  __device__ __forceinline__ const Segment& segment(std::int64_t c, std::int64_t first) const {
    return k.segments[c * 2 + (c == first ? 1 : 0)];
  }

  // One block takes one slice of the columns; the last of the sequence's blocks to arrive finishes it.
  __device__ __forceinline__ void join(std::int64_t b, std::int64_t first, std::int64_t last) {
    const std::int64_t column = std::int64_t{blockIdx.y} * kSliceColumns + lane * 4;
    double mine[2][4] = {{0.0, 0.0, 0.0, 0.0}, {0.0, 0.0, 0.0, 0.0}};
    if (column < k.padded_width) {
#pragma unroll 4
      for (std::int64_t c = first + warp; c <= last; c += kWarps) {
        const Segment& part = segment(c, first);
        const float* slot = k.slots + (c * 2 + (c == first ? 1 : 0)) * 2 * k.padded_width + column;
        if (part.question_rows > 0) add(mine[0], slot);
        if (part.prefix_rows > 0) add(mine[1], slot + k.padded_width);
      }
    }
#pragma unroll
    for (int role = 0; role < 2; ++role) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[(role * kWarps + warp) * kSliceColumns + lane * 4 + i] = mine[role][i];
    }
    block_barrier();
    Products products{0.0, 0.0, 0.0};
    const std::int64_t own = std::int64_t{blockIdx.y} * kSliceColumns + thread;
    if (thread < kSliceColumns && own < p.width) {
      double u = 0.0, v = p.shared_sum != nullptr ? p.shared_sum[own] : 0.0;
      for (int w = 0; w < kWarps; ++w) {
        u += sums[w * kSliceColumns + thread];
        v += sums[(kWarps + w) * kSliceColumns + thread];
      }
      products = {u * u, u * v, v * v};
      if (p.directions != nullptr) p.directions[b * p.width + own] = static_cast<float>(u);
      if (p.sums != nullptr) p.sums[b * p.width + own] = static_cast<float>(u + v);
    }
    products = block_sum(products, scratch, kJoinThreads);
    const std::int64_t place = std::int64_t{blockIdx.x} * gridDim.y;
    if (thread == 0) {
      double* to = k.products + (place + blockIdx.y) * 3;
      to[0] = products.question;
      to[1] = products.cross;
      to[2] = products.prefix;
    }
    block_barrier();  // the block's writes come before its ticket
    bool is_last = false;
    if (thread == 0) is_last = last_to_arrive(k.tickets + blockIdx.x, static_cast<int>(gridDim.y));
    if (block_any(is_last)) finish(b, first, last, k.products + place * 3);
  }

  __device__ __forceinline__ static void add(double (&sum)[4], const float* slot) {
    const float4 v = *reinterpret_cast<const float4*>(slot);
    sum[0] += v.x;
    sum[1] += v.y;
    sum[2] += v.z;
    sum[3] += v.w;
  }

  __device__ __forceinline__ void finish(std::int64_t b, std::int64_t first, std::int64_t last, const double* slices) {
    Products products{0.0, 0.0, 0.0};
    for (int s = thread; s < static_cast<int>(gridDim.y); s += kJoinThreads) {
      products.question += read_fresh(slices + s * 3);
      products.cross += read_fresh(slices + s * 3 + 1);
      products.prefix += read_fresh(slices + s * 3 + 2);
    }
    products = block_sum(products, scratch, kJoinThreads);
    Products rows{0.0, 0.0, 0.0};  // counts are exact in float64
    bool infinite = false, invalid = false;
    for (std::int64_t c = first + thread; c <= last; c += kJoinThreads) {
      const Segment& part = segment(c, first);
      rows.question += part.question_rows;
      rows.prefix += part.prefix_rows;
      infinite |= (part.flags & kNonFinite) != 0;
      invalid |= (part.flags & kInvalidRole) != 0;
    }
    rows = block_sum(rows, scratch, kJoinThreads);
    std::int32_t flags = block_any(infinite) ? kNonFinite : 0;
    if (block_any(invalid)) flags |= kInvalidRole;
    if (thread == 0)
      write_sequence(p, b, products, static_cast<std::int64_t>(rows.question),
                     static_cast<std::int64_t>(rows.prefix) + p.shared_tokens, flags, any_prefix);
    if (p.directions == nullptr) return;
    const bool defined = products.question > 0.0 && (flags & kBad) == 0;
    const float scale = defined ? static_cast<float>(1.0 / sqrt(products.question)) : 0.0F;
    for (std::int64_t c = thread; c < p.width; c += kJoinThreads) {
      float* place = p.directions + b * p.width + c;
      *place = defined ? read_fresh(place) * scale : 0.0F;
    }
  }

  const KernelArguments& k;
  const AngleParams& p;
  const int thread, lane, warp;
  double *scratch, *sums;
  bool any_prefix = false;
};

__global__ void __launch_bounds__(kJoinThreads, 2) angle_join(const __grid_constant__ KernelArguments k) {
  Join join(k);
  join.run();
}

// One warp per row: the cosine of the row with params.sums of its sequence, NaN for rows that do not count.
template <typename T>
__global__ void __launch_bounds__(kAnyThreads) angle_contributions(const __grid_constant__ KernelArguments k) {
  const AngleParams& p = k.p;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t stride = std::int64_t{gridDim.x} * (kAnyThreads / 32);
  for (std::int64_t t = std::int64_t{blockIdx.x} * (kAnyThreads / 32) + threadIdx.x / 32; t < p.rows; t += stride) {
    float out = bits_as_float(0x7fc00000U);
    const int role = role_of(p, t);
    const bool used = (role == kPrefix || role == kQuestion) && p.sequences > 0;
    const std::int64_t b = used ? sequence_of(p, t, lane) : 0;
    if (used && (p.counts[b] & kBad) == 0 && start_of(p, b) <= t && t < start_of(p, b + 1)) {
      const T* row = reinterpret_cast<const T*>(row_address(p, t, sizeof(T)));
      const float* sum = p.sums + b * p.width;
      // float64 throughout: any magnitude of the row is right, and this kernel is not the one that must be fast.
      double dot = 0.0, square = 0.0, total = 0.0;
      for (std::int64_t c = lane; c < p.width; c += 32) {
        double x = as_float(row[c * p.stride_column]);
        if (p.weight != nullptr) x *= static_cast<double>(weight_at(p, c));
        const double y = sum[c];
        dot += x * y;
        square += x * x;
        total += y * y;
      }
      dot = warp_sum(dot);
      square = warp_sum(square);
      total = warp_sum(total);
      if (square > 0.0) out = total > 0.0 ? static_cast<float>(dot / (sqrt(square) * sqrt(total))) : 0.0F;
    }
    if (lane == 0) p.contributions[t] = out;
  }
}

}  // namespace gainrl
