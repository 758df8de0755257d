// How the fast kernel gets its rows: which rows of a chunk count, where they lie, and their copies to shared memory
// ahead of use, with the norm's weights beside them.
//
// Thread i owns the 16-byte vectors i, i + threads, ... of every row and of the weights.  It reads back only what it
// copied itself, so no barrier guards these.  The roles are everybody's: the barrier of their count is theirs.
#pragma once

#include "angle/cuda_sequence.cuh"

namespace gainrl {

// The norm's weights in float32, read once per chunk: zero beyond the row's end, where the copy of the rows fills in
// zeros.  In planes of one float4 per vector, so that neighbouring threads read neighbouring places.
template <typename T, int kPerThread>
class StagedWeights {
 public:
  static constexpr int kEach = kElements<T>;

  __device__ __forceinline__ StagedWeights(const AngleParams& params, uint4* shared, int of_thread, int of_threads)
      : p(params), planes(reinterpret_cast<float4*>(shared)), thread(of_thread), threads(of_threads) {}

  // The place in shared memory after the weights.
  __device__ __forceinline__ float4* after() const {
    return planes + (p.weight != nullptr ? kPerThread * kEach / 4 * threads : 0);
  }
  __device__ __forceinline__ void stage() {
    if (p.weight == nullptr) return;
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        const int column = (j * threads + thread) * kEach + e;
        reinterpret_cast<float*>(place(j, e))[e % 4] = column < p.width ? weight_at(p, column) : 0.0F;
      }
    }
  }
  template <bool kWeighted>
  __device__ __forceinline__ void load(int j, float (&weight)[kEach]) const {
    if constexpr (kWeighted) {
#pragma unroll
      for (int e = 0; e < kEach; e += 4) {
        const float4 w = *place(j, e);
        weight[e] = w.x;
        weight[e + 1] = w.y;
        weight[e + 2] = w.z;
        weight[e + 3] = w.w;
      }
    } else {
#pragma unroll
      for (int e = 0; e < kEach; ++e) weight[e] = 1.0F;  // a constant, so the product costs nothing
    }
  }

 private:
  __device__ __forceinline__ float4* place(int j, int e) const {
    return planes + ((e / 4) * kPerThread + j) * threads + thread;
  }

  const AngleParams& p;
  float4* planes;  // kEach / 4 of kPerThread * threads
  const int thread, threads;
};

// Row numbers are relative to the chunk's first row.
template <typename T, int kPerThread>
class RowCopies {
 public:
  __device__ __forceinline__ RowCopies(const KernelArguments& arguments, uint4* shared_rows, std::int8_t* shared_roles,
                                       int of_thread, int of_threads)
      : k(arguments), p(k.p), rows(shared_rows), roles(shared_roles), thread(of_thread), threads(of_threads) {}

  static constexpr int kInvalid = 3;  // the role of a row whose own is out of range

  __device__ __forceinline__ int role(int row) const { return roles[row]; }
  __device__ __forceinline__ bool counted(int row) const { return roles[row] == kPrefix || roles[row] == kQuestion; }

  // Reads the roles of rows [at, end) of the chunk that begins at `first_row`; `start` then starts the first copies.
  __device__ __forceinline__ void begin(std::int64_t first_row, int at, int end) {
    next = at;
    last = end;
    find_rows(first_row);
    requested = 0;
    for (int base = at; base < last; base += threads) {
      const int row = base + thread;
      int of_row = kIgnored;
      if (row < last) {
        of_row = role_of(p, first_row + row);
        if (of_row < kIgnored || of_row > kQuestion) of_row = kInvalid;
        roles[row] = static_cast<std::int8_t>(of_row);
      }
      requested += block_count(of_row == kPrefix || of_row == kQuestion);
    }
    remaining = requested;
  }
  __device__ __forceinline__ void start() {
    for (int to_stage = 0; to_stage < kStages - 1; ++to_stage) request(to_stage);
  }

  // Waits for the next batch of counted rows, `count` of them, and starts the copy of the one after those under way.
  // Returns this thread's first vector; vector j of row r lies (r * kPerThread + j) * threads after it.
  __device__ __forceinline__ const uint4* next_batch(int& count) {
    copy_wait<kStages - 2>();
    request(stage == 0 ? kStages - 1 : stage - 1);  // the stage that the last batch used up
    count = remaining < k.batch ? remaining : k.batch;
    remaining -= count;
    const uint4* batch = rows + stage * k.batch * kPerThread * threads + thread;
    stage = stage + 1 == kStages ? 0 : stage + 1;
    return batch;
  }

 private:
  // Padded rows would need a division per row to find their address: it is followed from sequence to sequence instead.
  __device__ __forceinline__ void find_rows(std::int64_t first_row) {
    run_end = next;
    if (next >= last) return;
    const auto size = static_cast<std::int64_t>(sizeof(T));
    row_bytes = p.stride_row * size;
    anchor = row_address(p, first_row, sizeof(T));
    anchor_row = 0;
    anchor_end = kNoEnd;  // packed rows are one endless sequence
    if (p.offsets != nullptr) return;
    const std::int64_t place = first_row % p.length;
    after = anchor + (p.stride_batch - place * p.stride_row) * size;
    anchor_end = end_after(p.length - place);
  }
  __device__ __forceinline__ static int end_after(std::int64_t row) {
    return row < kNoEnd ? static_cast<int>(row) : kNoEnd;
  }
  // Moves `next` to the next counted row and finds how many follow it, each lane looking at one row: up to `run_end`
  // they are counted and lie one stride apart.  There is such a row: `requested` counts them.
  __device__ __forceinline__ void find_run() {
    int length = 0;
    while (length == 0) {
      while (next >= anchor_end) {  // on to the next padded sequence
        anchor = after;
        anchor_row = anchor_end;
        anchor_end = end_after(anchor_end + p.length);
        after += p.stride_batch * static_cast<std::int64_t>(sizeof(T));
      }
      const int row = next + thread % 32;
      const bool here = row < last && row < anchor_end;
      const bool yes = here && counted(row);
      length = leading_lanes(yes);
      if (length == 0) next += leading_lanes(here && !yes);
    }
    run_end = next + length;
  }

  // Starts the copy of the next batch of rows into a stage.
  __device__ __forceinline__ void request(int to_stage) {
    int left = requested < k.batch ? requested : k.batch;
    requested -= left;
    uint4* to = rows + to_stage * k.batch * kPerThread * threads + thread;
    while (left > 0) {
      if (next >= run_end) find_run();
      const int count = left < run_end - next ? left : run_end - next;
      const unsigned char* row = anchor + (next - anchor_row) * row_bytes;
      next += count;
      left -= count;
      for (int r = 0; r < count; ++r) {
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) {
          const int here = (j * threads + thread) * kVectorBytes;
          const int inside = static_cast<int>(p.width) * static_cast<int>(sizeof(T)) - here;
          copy_async(to + j * threads, row + (inside > 0 ? here : 0),
                     inside <= 0             ? 0
                     : inside < kVectorBytes ? inside
                                             : kVectorBytes);
        }
        to += kPerThread * threads;
        row += row_bytes;
      }
    }
    copy_commit();
  }

  static constexpr int kNoEnd = 0x7fffffff;

  const KernelArguments& k;
  const AngleParams& p;
  uint4* rows;  // kStages of k.batch rows of kPerThread * threads
  std::int8_t* roles;
  const int thread, threads;
  int next = 0, last = 0;
  int remaining = 0, requested = 0;  // counted rows not yet taken, not yet requested
  int stage = 0;
  int run_end = 0;  // rows from `next` to here are counted
  // Row `anchor_row` lies at `anchor`; row `anchor_end` begins another padded sequence, which lies at `after`.
  const unsigned char *anchor = nullptr, *after = nullptr;
  int anchor_row = 0, anchor_end = kNoEnd;
  std::int64_t row_bytes = 0;
};

}  // namespace gainrl
