// How the first kernel gets its rows: which of a chunk count, and their copies to shared memory ahead of use.
// Thread i owns the 16-byte vectors i, i + threads, ... of every row.  It reads back only what it copied itself, so no
// barrier guards these.  The roles are everybody's.
#pragma once

#include "angle/cuda_sequence.cuh"

namespace gainrl {

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

  // Reads the roles of all `count` rows of the chunk that begins at `first_row`.  A barrier must follow.
  __device__ __forceinline__ void read_roles(std::int64_t first_row, int count) {
    for (int base = thread; base < count; base += kAtOnce * threads) {
      int found[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int row = base + i * threads;
        found[i] = row < count ? role_of(p, first_row + row) : kIgnored;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int row = base + i * threads;
        const bool valid = found[i] >= kIgnored && found[i] <= kQuestion;
        if (row < count) roles[row] = static_cast<std::int8_t>(valid ? found[i] : kInvalid);
      }
    }
  }

  // Starts the first copies of the counted rows of [from, to).
  __device__ __forceinline__ void start(std::int64_t first_row, int from, int to) {
    next = run_end = from;
    last = to;
    policy = evict_first();
    if (from < to) find_rows(first_row);
    ahead = request(0);
    behind = request(1);
  }

  // Waits for the next batch of counted rows, `count` of them, and starts the copy of the one after those under way.
  // Returns this thread's first vector; vector j of row r lies (r * kPerThread + j) * threads after it.
  __device__ __forceinline__ const uint4* next_batch(int& count) {
    static_assert(kStages == 3, "two batches are under way");
    copy_wait<kStages - 2>();
    count = ahead;
    ahead = behind;
    behind = request(stage == 0 ? kStages - 1 : stage - 1);  // the stage that the last batch used up
    const uint4* batch = rows + stage * k.batch * kPerThread * threads + thread;
    stage = stage + 1 == kStages ? 0 : stage + 1;
    return batch;
  }

 private:
  // Padded rows would need a division per row to find their address: it is followed from sequence to sequence instead.
  __device__ __forceinline__ void find_rows(std::int64_t first_row) {
    const auto size = static_cast<std::int64_t>(sizeof(T));
    row_bytes = p.stride_row * size;
    anchor = row_address(p, first_row, sizeof(T)) + thread * kVectorBytes;
    if (p.offsets != nullptr) return;  // packed rows are one endless sequence
    const std::int64_t place = first_row % p.length;
    after = anchor + (p.stride_batch - place * p.stride_row) * size;
    anchor_end = end_after(p.length - place);
  }
  __device__ __forceinline__ static int end_after(std::int64_t row) {
    return row < kNoEnd ? static_cast<int>(row) : kNoEnd;
  }
  // Moves `next` to the next counted row and finds how many follow it, each lane looking at one row: up to `run_end`
  // they are counted and lie one stride apart.  Whether there is one.
  __device__ __forceinline__ bool find_run() {
    while (next < last) {
      while (next >= anchor_end) {  // on to the next padded sequence
        anchor = after;
        anchor_row = anchor_end;
        anchor_end = end_after(anchor_end + p.length);
        after += p.stride_batch * static_cast<std::int64_t>(sizeof(T));
      }
      const int row = next + thread % 32;
      const bool here = row < last && row < anchor_end;
      const bool yes = here && counted(row);
      run_end = next + leading_lanes(yes);
      if (run_end > next) return true;
      next += leading_lanes(here && !yes);
    }
    return false;
  }

  // Starts the copy of the next batch of rows into a stage.  How many there are.
  __device__ __forceinline__ int request(int to_stage) {
    int left = k.batch;
    uint4* to = rows + to_stage * k.batch * kPerThread * threads + thread;
    while (left > 0 && (next < run_end || find_run())) {
      const int count = left < run_end - next ? left : run_end - next;
      const unsigned char* row = anchor + (next - anchor_row) * row_bytes;
      next += count;
      left -= count;
      for (int r = 0; r < count; ++r) {
        copy_row(to, row);
        to += kPerThread * threads;
        row += row_bytes;
      }
    }
    copy_commit();
    return k.batch - left;
  }
  // All vectors but those of the last unit are whole in every thread (plan_shape).
  __device__ __forceinline__ void copy_row(uint4* to, const unsigned char* row) const {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int here = j * threads * kVectorBytes;
      int inside = kVectorBytes;
      if (j >= kPerThread - vectors_per_unit<T>) {
        inside = static_cast<int>(p.width) * static_cast<int>(sizeof(T)) - here - thread * kVectorBytes;
        inside = inside < 0 ? 0 : inside < kVectorBytes ? inside : kVectorBytes;
      }
      copy_async(to + j * threads, row + (inside > 0 ? here : -thread * kVectorBytes), inside, policy);
    }
  }

  static constexpr int kNoEnd = 0x7fffffff, kAtOnce = 8;

  const KernelArguments& k;
  const AngleParams& p;
  uint4* rows;  // kStages of k.batch rows of kPerThread * threads
  std::int8_t* roles;
  const int thread, threads;
  CachePolicy policy = 0;
  int next = 0, last = 0, run_end = 0;  // rows from `next` to `run_end` are counted
  int ahead = 0, behind = 0;            // rows of the two batches under way
  int stage = 0;
  // Row `anchor_row` lies at `anchor` (this thread's first vector of it); row `anchor_end` begins another padded
  // sequence, which lies at `after`.
  const unsigned char *anchor = nullptr, *after = nullptr;
  int anchor_row = 0, anchor_end = kNoEnd;
  std::int64_t row_bytes = 0;
};

}  // namespace gainrl
