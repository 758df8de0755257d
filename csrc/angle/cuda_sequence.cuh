// What the kernels share: their arguments, which sequence a row belongs to, sums over a block, and the writing of one
// sequence's results.
#pragma once

#include <type_traits>

#include "angle/cuda_device.cuh"
#include "angle/cuda_plan.h"
#include "angle/finish.h"

namespace gainrl {

constexpr float kSmallestSafeSquare = 0x1p-80F, kLargestSafeSquare = 0x1p120F;  // as in cpu_sequence.h

// Bits of a chunk's flags.
constexpr std::uint32_t kChunkHasPrefix = 1, kChunkBadOffsets = 2;

struct KernelArguments {
  AngleParams p;
  std::int64_t chunk_rows, chunks, padded_width, slices;
  int batch;
  float* slots;           // (chunks, 2 segments, 2 roles, padded_width)
  Segment* segments;      // (chunks, 2): the one that began before the chunk, and the one that goes on after it
  std::uint8_t* flags;    // (chunks), a byte each: every block of the second kernel reads them all
  std::int32_t* tickets;  // (chunks, 2): of a slice and of a sequence, zeroed by the first kernel
  double* products;       // (chunks, 3) of slices, from the sequence's first chunk on
  double* partials;       // (chunks, 2 roles, kSliceColumns) of parts of long sequences, likewise
};

__device__ inline std::int64_t start_of(const AngleParams& p, std::int64_t b) {
  if (p.offsets == nullptr) return b * p.length;
  return p.offsets_are_64 ? static_cast<const std::int64_t*>(p.offsets)[b]
                          : static_cast<std::int64_t>(static_cast<const std::int32_t*>(p.offsets)[b]);
}

// The last sequence that starts at or before row t; a whole warp searches, 32 places at a time.
__device__ inline std::int64_t sequence_of(const AngleParams& p, std::int64_t t, int lane) {
  if (p.offsets == nullptr) return p.length > 0 ? t / p.length : 0;
  std::int64_t low = 0, count = p.sequences;  // the answer lies in [low, low + count)
  while (count > 1) {
    const std::int64_t step = (count + 31) / 32;
    const std::int64_t at = low + lane * step;
    const int before = lanes_true(lane * step < count && start_of(p, at) <= t);
    const std::int64_t moved = before > 0 ? (before - 1) * step : 0;
    low += moved;
    count = count - moved < step ? count - moved : step;
  }
  return low;
}

// Starts of sequences, read 32 at a time, one per lane.
class StartWindow {
 public:
  __device__ StartWindow(const AngleParams& p, int lane) : p_(p), lane_(lane) {}
  __device__ __forceinline__ std::int64_t start(std::int64_t b) {
    if (p_.offsets == nullptr) return b * p_.length;
    if (b < base_ || b >= base_ + 32) read(b);
    return from_lane(held_, static_cast<int>(b - base_));
  }
  // In lane i the start of sequence b + i % kMostBatch, for packed rows.
  __device__ __forceinline__ std::int64_t starts(std::int64_t b) {
    if (b < base_ || b + kMostBatch > base_ + 32) read(b);
    return from_any_lane(held_, static_cast<int>(b - base_) + lane_ % kMostBatch);
  }

 private:
  __device__ __forceinline__ void read(std::int64_t b) {
    base_ = b;
    const std::int64_t mine = b + lane_;
    held_ = start_of(p_, mine <= p_.sequences ? mine : p_.sequences);
  }

  const AngleParams& p_;
  int lane_;
  std::int64_t base_ = -64, held_ = 0;
};

__device__ inline const unsigned char* row_address(const AngleParams& p, std::int64_t t, int size) {
  std::int64_t offset;
  if (p.offsets != nullptr) {
    offset = t * p.stride_row;
  } else {
    const std::int64_t b = t / p.length;
    offset = b * p.stride_batch + (t - b * p.length) * p.stride_row;
  }
  return static_cast<const unsigned char*>(p.hidden) + offset * size;
}

__device__ inline int role_of(const AngleParams& p, std::int64_t t) {
  if (p.offsets != nullptr) return p.roles[t * p.role_stride_row] * p.role_scale;
  const std::int64_t b = t / p.length;
  return p.roles[b * p.role_stride_batch + (t - b * p.length) * p.role_stride_row] * p.role_scale;
}

template <typename T>
__device__ inline T warp_sum(T value) {
  for (int mask = 16; mask > 0; mask /= 2) value += exchange(value, mask);
  return value;
}

// Sums over the block of three float64 values, the same bits in every thread.  Two barriers.
__device__ inline Products block_sum(Products mine, double* scratch, int threads) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, warps = threads / 32;
  mine.question = warp_sum(mine.question);
  mine.cross = warp_sum(mine.cross);
  mine.prefix = warp_sum(mine.prefix);
  if (lane == 0) {
    scratch[warp * 3] = mine.question;
    scratch[warp * 3 + 1] = mine.cross;
    scratch[warp * 3 + 2] = mine.prefix;
  }
  block_barrier();
  Products sum{0.0, 0.0, 0.0};
  for (int w = 0; w < warps; ++w) {
    sum.question += scratch[w * 3];
    sum.cross += scratch[w * 3 + 1];
    sum.prefix += scratch[w * 3 + 2];
  }
  block_barrier();
  return sum;
}

// Writes values and counts of sequence b.  `any_prefix` is whether some sequence of the call has a prefix; where that
// is not known yet, pass true and let the joining kernel set the score.  Call from one thread.
__device__ inline void write_sequence(const AngleParams& p, std::int64_t b, const Products& products,
                                      std::int64_t question_rows, std::int64_t prefix_rows, std::int32_t flags,
                                      bool any_prefix) {
  const Values out = finish_sequence(products, question_rows, prefix_rows, flags, p.diagonal != 0);
  const std::int64_t n = p.sequences;
  p.values[b] = out.intra;
  p.values[n + b] = out.inter;
  p.values[2 * n + b] = any_prefix ? out.intra + out.inter : out.intra;
  p.values[3 * n + b] = out.whole;
  p.counts[b] = out.status;
  p.counts[n + b] = static_cast<std::int32_t>(question_rows);
  p.counts[2 * n + b] = static_cast<std::int32_t>(prefix_rows);
}

// What every block of the first kernel does besides summing: its share of the check that offsets never decrease, and a
// fresh ticket.
__device__ inline bool offsets_are_bad(const KernelArguments& k, std::int64_t chunk, int threads) {
  const AngleParams& p = k.p;
  if (p.offsets == nullptr) return false;
  bool bad = chunk == 0 && (start_of(p, 0) < 0 || start_of(p, p.sequences) > p.rows);
  const std::int64_t first = p.sequences * chunk / k.chunks, last = p.sequences * (chunk + 1) / k.chunks;
  for (std::int64_t b = first + threadIdx.x; b < last; b += threads) bad |= start_of(p, b + 1) < start_of(p, b);
  return bad;
}

}  // namespace gainrl
