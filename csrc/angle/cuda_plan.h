// How a call is cut into blocks, and where things lie in the workspace.  Plain host code.
// The rows are cut into chunks of equal length, whatever sequences they belong to, one block each.  A sequence within a
// chunk is finished there; one that spans chunks leaves a partial sum per chunk and role for the second kernel.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "angle/params.h"

namespace gainrl {

// Rows added in registers before they go into a partial sum, as kAdditionsPerBlock in cpu_sequence.h.
constexpr int kRowsPerFlush = 64;
// A chunk of a call of several waves has at least this many rows, and less than twice as many.
constexpr std::int64_t kWaveRows = 512, kMostChunkRows = 2 * kWaveRows;
constexpr int kStages = 3;               // row batches in flight or in use per block
constexpr int kMostBatch = 4;            // rows reduced with one barrier
constexpr int kMostRowBytes = 32 << 10;  // three of them fit a block of every GPU since sm_80
constexpr int most_threads(int element_bytes) { return kMostRowBytes / element_bytes / 32; }
constexpr int kVectorBytes = 16;
constexpr int kJoinThreads = 256;
constexpr int kSliceColumns = 128;  // columns that one warp of the joining kernel reads at once, as float4
constexpr int kUnitColumns = 8;     // a thread of the first kernel owns one to four times as many columns
constexpr int kMostUnits = 4;

// A part of a sequence in one chunk.
struct Segment {
  std::int64_t sequence;  // -1: none
  std::int32_t question_rows, prefix_rows, flags, pad;
};

struct Plan {
  int threads, per_thread;  // vectors per thread: one to four units
  int batch;                // rows per stage
  std::int64_t slices;      // of the columns, for the joining kernel
  std::int64_t padded_width, chunk_rows, chunks;
  std::size_t shared_bytes;
  std::size_t slots_at, segments_at, flags_at, tickets_at, products_at, partials_at, bytes;  // offsets in the workspace
};

inline int elements_per_vector(DType dtype) { return dtype == DType::kFloat32 ? 4 : 8; }

// Shared memory of the first kernel, in order: stages of rows, two buffers for row norms, one for products, roles.
inline std::size_t shared_for(int threads, int per_thread, int batch) {
  const std::size_t rows = static_cast<std::size_t>(kStages) * batch * threads * per_thread * kVectorBytes;
  const std::size_t warps = static_cast<std::size_t>(threads / 32);
  return rows + 2 * kMostBatch * warps * sizeof(float) + 3 * warps * sizeof(double) + kMostChunkRows;
}

// Of the joining kernel: products, and the sums of each warp for a slice of both roles.
inline std::size_t shared_for_join() {
  return 3 * (kJoinThreads / 32) * sizeof(double) + 2 * (kJoinThreads / 32) * kSliceColumns * sizeof(double);
}

// Whether the kernels can take the rows: each lies in one piece from a 16-byte boundary on, and is not too wide.
inline bool rows_fit(const AngleParams& p) {
  const std::int64_t size = p.dtype == DType::kFloat32 ? 4 : 2;
  const auto aligned = [](std::uint64_t x) { return x % kVectorBytes == 0; };
  return p.stride_column == 1 && aligned(reinterpret_cast<std::uintptr_t>(p.hidden)) &&
         aligned(static_cast<std::uint64_t>(p.stride_row * size)) &&
         aligned(static_cast<std::uint64_t>(p.stride_batch * size)) && p.width * size <= kMostRowBytes;
}

// Chooses the first kernel's shape.  `shared_limit` is the most shared memory a block may have, `shared_per_processor`
// what a multiprocessor has.  Whether the rows fit.
// As few warps per row as can hold it: narrow rows are bound by instructions, and what a warp does besides a row's
// columns costs as much as two vectors per thread.
inline bool plan_shape(const AngleParams& p, std::size_t shared_limit, std::size_t shared_per_processor, Plan& plan) {
  if (!rows_fit(p)) return false;
  const int elements = elements_per_vector(p.dtype), unit = kUnitColumns / elements;
  const std::int64_t units = (p.width + kUnitColumns - 1) / kUnitColumns;
  const std::int64_t warps = (units + 32 * kMostUnits - 1) / (32 * kMostUnits);
  plan.threads = static_cast<int>(warps) * 32;
  plan.per_thread = static_cast<int>((units + plan.threads - 1) / plan.threads) * unit;
  plan.padded_width = std::int64_t{plan.threads} * plan.per_thread * elements;
  // Two blocks or more per multiprocessor, so that one computes while another waits at its barrier.
  const std::size_t wanted = std::min(shared_limit, shared_per_processor / 2 - 1024);
  plan.batch = kMostBatch;
  while (plan.batch > 1 && shared_for(plan.threads, plan.per_thread, plan.batch) > wanted) plan.batch /= 2;
  plan.shared_bytes = shared_for(plan.threads, plan.per_thread, plan.batch);
  return plan.shared_bytes <= shared_limit;
}

// Cuts the rows for `resident` blocks that run at the same time, and lays the workspace out.  The grid is a whole
// number of waves, as many as leave each chunk kWaveRows: where blocks are not equally fast, more waves even that out.
inline void plan_work(const AngleParams& p, std::int64_t resident, Plan& plan) {
  const std::int64_t waves = std::max<std::int64_t>(1, p.rows / (resident * kWaveRows));
  plan.chunk_rows = std::max<std::int64_t>(4 * plan.batch, (p.rows + waves * resident - 1) / (waves * resident));
  plan.chunks = std::max<std::int64_t>(1, (p.rows + plan.chunk_rows - 1) / plan.chunk_rows);
  plan.slices = (p.width + kSliceColumns - 1) / kSliceColumns;
  std::size_t at = 0;
  const auto take = [&at](std::size_t bytes) {
    const std::size_t here = at;
    at += (bytes + 15) / 16 * 16;
    return here;
  };
  const auto chunks = static_cast<std::size_t>(plan.chunks);
  plan.slots_at = take(chunks * 4 * static_cast<std::size_t>(plan.padded_width) * sizeof(float));
  plan.segments_at = take(chunks * 2 * sizeof(Segment));
  plan.flags_at = take(chunks);
  plan.tickets_at = take(chunks * 2 * sizeof(std::int32_t));
  plan.products_at = take(chunks * 3 * sizeof(double));
  plan.partials_at = take(chunks * kJoinThreads * sizeof(double));
  plan.bytes = at;
}

}  // namespace gainrl
