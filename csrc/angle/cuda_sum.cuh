// The fast kernel: rows that start on 16-byte boundaries.
//
// A block takes one chunk of rows.  Thread i owns the 16-byte vectors i, i + threads, ... of every row: it copies them
// to shared memory ahead of use, and reads back only what it copied, so no barrier guards the data.  Per batch of rows
// there is one barrier, for the norms.  The sum of one role stays in registers; it is added to a partial sum in the
// workspace (which the level-2 cache holds) when the role changes, when kRowsPerFlush rows came together, and where a
// sequence ends that needs more than its question's norm.
#pragma once

#include "angle/cuda_sequence.cuh"

namespace gainrl {

template <typename T, int kPerThread>
class ChunkSum {
 public:
  static constexpr int kEach = kElements<T>, kColumns = kPerThread * kEach;

  __device__ __forceinline__ explicit ChunkSum(const KernelArguments& arguments)
      : k(arguments),
        p(k.p),
        chunk(blockIdx.x),
        thread(static_cast<int>(threadIdx.x)),
        threads(static_cast<int>(blockDim.x)),
        window(p, thread % 32) {
    const int warps = threads / 32;
    rows = reinterpret_cast<uint4*>(dynamic_shared());
    norms = reinterpret_cast<float*>(rows + kStages * k.batch * kPerThread * threads);
    scratch = reinterpret_cast<double*>(norms + 2 * kMostBatch * warps);
    roles = reinterpret_cast<std::int8_t*>(scratch + 3 * warps);
    first_row = chunk * k.chunk_rows;
  }

  // Row numbers below are relative to the chunk's first row; a sequence that begins before the chunk begins at -1.
  __device__ __forceinline__ void run() {
    begin();
    for (int stage = 0; stage < kStages - 1; ++stage) request(stage);
    if (at < last) {
      sequence = sequence_of(p, first_row + at, thread % 32);
      start = relative(window.start(sequence));
      while (true) {
        end = relative(window.start(sequence + 1));
        clear();
        while (true) {
          const int stop = end < last ? end : last;
          while (at < stop && !counted(at)) flags |= roles[at++] == kInvalid ? kInvalidRole : 0;
          const bool closing = at >= stop;
          if (held > 0 && (held >= kRowsPerFlush || (closing ? !simple() : roles[at] != held_role))) flush();
          if (closing) break;
          if (in_batch == 0) take_batch();
          take_row();
        }
        close();
        if (at >= last || sequence + 1 >= p.sequences) break;
        ++sequence;
        start = end;
      }
    }
    if (thread == 0) k.flags[chunk] = flags_of_chunk;
  }

 private:
  __device__ __forceinline__ int relative(std::int64_t row) const {
    const std::int64_t moved = row - first_row;
    return moved < 0 ? -1 : moved > k.chunk_rows ? static_cast<int>(k.chunk_rows) + 1 : static_cast<int>(moved);
  }
  __device__ __forceinline__ bool counted(int row) const { return roles[row] == kPrefix || roles[row] == kQuestion; }

  __device__ __forceinline__ void begin() {
    if (thread == 0) {
      k.tickets[chunk] = 0;
      k.segments[chunk * 2].sequence = -1;
      k.segments[chunk * 2 + 1].sequence = -1;
    }
    const std::int64_t left = p.rows - first_row;
    at = 0;
    last = static_cast<int>(left < k.chunk_rows ? left : k.chunk_rows);
    if (p.offsets != nullptr) {  // rows before the first offset and after the last belong to nobody
      const int low = relative(start_of(p, 0)), high = relative(start_of(p, p.sequences));
      at = low > at ? low : at;
      last = high < last ? high : last;
    }
    next = at;
    requested = 0;
    for (int base = at; base < last; base += threads) {
      const int row = base + thread;
      int role = kIgnored;
      if (row < last) {
        role = role_of(p, first_row + row);
        if (role < kIgnored || role > kQuestion) role = kInvalid;
        roles[row] = static_cast<std::int8_t>(role);
      }
      requested += block_count(role == kPrefix || role == kQuestion);
    }
    remaining = requested;
    if (block_any(offsets_are_bad(k, chunk, threads))) flags_of_chunk |= kChunkBadOffsets;
    if (p.shared_tokens > 0) flags_of_chunk |= kChunkHasPrefix;
  }

  // Starts the copy of the next batch of rows into a stage.
  __device__ __forceinline__ void request(int to_stage) {
    const std::int64_t bytes = p.width * static_cast<std::int64_t>(sizeof(T));
    for (int r = 0; r < k.batch && requested > 0; ++r, --requested) {
      while (!counted(next)) ++next;
      const unsigned char* row = row_address(p, first_row + next, sizeof(T));
      uint4* to = rows + (to_stage * k.batch + r) * kPerThread * threads + thread;
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) {
        const std::int64_t here = static_cast<std::int64_t>(j * threads + thread) * kVectorBytes;
        const std::int64_t left = bytes - here;
        copy_async(to + j * threads, row + (left > 0 ? here : 0),
                   static_cast<int>(left <= 0             ? 0
                                    : left < kVectorBytes ? left
                                                          : kVectorBytes));
      }
      ++next;
    }
    copy_commit();
  }

  // Waits for the next batch, requests the one after those under way, and leaves the squared norms in `norm`.
  __device__ __forceinline__ void take_batch() {
    copy_wait<kStages - 2>();
    request(stage == 0 ? kStages - 1 : stage - 1);  // the stage that the last batch used up
    in_batch = remaining < k.batch ? remaining : k.batch;
    remaining -= in_batch;
    mine = rows + stage * k.batch * kPerThread * threads + thread;
    stage = stage + 1 == kStages ? 0 : stage + 1;
    float squares[kMostBatch] = {0.0F, 0.0F, 0.0F, 0.0F};
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      float weight[kEach];
      load_weight(j, weight);
#pragma unroll
      for (int r = 0; r < kMostBatch; ++r) {
        if (r < in_batch) {
          const uint4 v = mine[(r * kPerThread + j) * threads];
#pragma unroll
          for (int e = 0; e < kEach; ++e) {
            const float x = element<T>(v, e) * weight[e];
            squares[r] += x * x;
          }
        }
      }
    }
    norm = norms + parity * kMostBatch * (threads / 32);  // two buffers: one barrier per batch is enough
    parity ^= 1;
#pragma unroll
    for (int r = 0; r < kMostBatch; ++r) {
      const float sum = warp_sum(squares[r]);
      if (thread % 32 == 0) norm[(thread / 32) * kMostBatch + r] = sum;
    }
    block_barrier();
  }

  // The weight of this thread's j-th vector: zero beyond the row's end, where the copy has filled in zeros.
  __device__ __forceinline__ void load_weight(int j, float (&weight)[kEach]) const {
#pragma unroll
    for (int e = 0; e < kEach; ++e) weight[e] = 1.0F;
    if (p.weight == nullptr) return;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const std::int64_t column = column_of(j, e);
      weight[e] = column < p.width ? weight_at(p, column) : 0.0F;
    }
  }

  __device__ __forceinline__ int column_of(int j, int e) const { return (j * threads + thread) * kEach + e; }

  // Adds row `at`, the first of the batch that is left.
  __device__ __forceinline__ void take_row() {
    const bool question = roles[at] == kQuestion;
    ++at;
    --in_batch;
    float square = 0.0F;
    for (int w = 0; w < threads / 32; ++w) square += norm[w * kMostBatch];
    ++norm;
    const uint4* row = mine;
    mine += kPerThread * threads;
    bool counts = true;
    if (square > kSmallestSafeSquare && square < kLargestSafeSquare) {
      const float scale = reciprocal_root(square);
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) {
        float weight[kEach];
        load_weight(j, weight);
        const uint4 v = row[j * threads];
#pragma unroll
        for (int e = 0; e < kEach; ++e) sum[j * kEach + e] += element<T>(v, e) * weight[e] * scale;
      }
      held_role = question ? kQuestion : kPrefix;
      ++held;
    } else {
      counts = take_exactly(row, question);
    }
    if (!counts) return;
    if (question) {
      ++question_rows;
    } else {
      ++prefix_rows;
      flags_of_chunk |= kChunkHasPrefix;
    }
  }

  __device__ __forceinline__ double exact_value(const uint4* row, int i) const {
    const int column = column_of(i / kEach, i % kEach);
    if (column >= p.width) return 0.0;
    const double x = as_float(reinterpret_cast<const T*>(row + i / kEach * threads)[i % kEach]);
    return p.weight != nullptr ? x * static_cast<double>(weight_at(p, column)) : x;
  }

  // A row whose squared norm leaves float32: measured in float64 and added to the flushed sum.  Rare, so the loops stay
  // rolled up.  Returns whether the row counts.
  __device__ __forceinline__ bool take_exactly(const uint4* row, bool question) {
    Products exact{0.0, 0.0, 0.0};
#pragma unroll 1
    for (int i = 0; i < kColumns; ++i) {
      const double x = exact_value(row, i);
      exact.question += x * x;
    }
    exact = block_sum(exact, scratch, threads);
    if (!is_number(exact.question)) {
      flags |= kNonFinite;
      return false;
    }
    if (exact.question == 0.0) return false;  // a zero row has no direction and does not count
    const double scale = 1.0 / sqrt(exact.question);
    float* to = slot(question ? 0 : 1);
    const bool add = question ? flushed_question : flushed_prefix;
#pragma unroll 1
    for (int i = 0; i < kColumns; ++i) {
      const int column = column_of(i / kEach, i % kEach);
      to[column] = (add ? to[column] : 0.0F) + static_cast<float>(exact_value(row, i) * scale);
    }
    (question ? flushed_question : flushed_prefix) = true;
    return true;
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) sum[i] = 0.0F;
    question_rows = prefix_rows = held = 0;
    held_role = kQuestion;
    flushed_question = flushed_prefix = false;
    flags = 0;
  }

  // Whether the sequence is finished from the registers alone.
  __device__ __forceinline__ bool simple() const {
    return start >= 0 && end <= k.chunk_rows && prefix_rows == 0 && !flushed_question && p.directions == nullptr &&
           p.sums == nullptr;
  }

  __device__ __forceinline__ float* slot(int role) const {
    return k.slots + ((chunk * 2 + (start < 0 ? 0 : 1)) * 2 + role) * k.padded_width;
  }

  // Moves what the registers hold into the partial sum of its role.
  __device__ __forceinline__ void flush() {
    const bool question = held_role == kQuestion;
    const bool add = question ? flushed_question : flushed_prefix;
    float* to = slot(question ? 0 : 1);
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
#pragma unroll
      for (int e = 0; e < kEach; e += 4) {
        float4* place = reinterpret_cast<float4*>(to + column_of(j, e));
        float4 total = add ? *place : make_float4(0.0F, 0.0F, 0.0F, 0.0F);
        total.x += sum[j * kEach + e];
        total.y += sum[j * kEach + e + 1];
        total.z += sum[j * kEach + e + 2];
        total.w += sum[j * kEach + e + 3];
        *place = total;
      }
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i) sum[i] = 0.0F;
    (question ? flushed_question : flushed_prefix) = true;
    held = 0;
  }

  // The current sequence has no more rows in this chunk.
  __device__ __forceinline__ void close() {
    if (start >= end) return;  // empty: the joining kernel writes it
    if (start < 0 || end > k.chunk_rows) {
      if (thread == 0) k.segments[chunk * 2 + (start < 0 ? 0 : 1)] = {sequence, question_rows, prefix_rows, flags, 0};
      return;
    }
    Products products{1.0, 0.0, 0.0};  // of one question row alone
    if (simple()) {
      if (question_rows != 1 || p.shared_sum != nullptr) {
        float question = 0.0F, cross = 0.0F, prefix = 0.0F;
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          const float v = shared_at(column_of(i / kEach, i % kEach));
          question += sum[i] * sum[i];
          cross += sum[i] * v;
          prefix += v * v;
        }
        products = block_sum({question, cross, prefix}, scratch, threads);
      }
    } else {
      products = {0.0, 0.0, 0.0};
#pragma unroll 1
      for (int i = 0; i < kColumns; ++i) {
        const int column = column_of(i / kEach, i % kEach);
        const double u = question_at(column), v = prefix_at(column);
        products.question += u * u;
        products.cross += u * v;
        products.prefix += v * v;
      }
      products = block_sum(products, scratch, threads);
    }
    const std::int64_t all_prefix_rows = prefix_rows + p.shared_tokens;
    if (thread == 0) write_sequence(p, sequence, products, question_rows, all_prefix_rows, flags, true);
    if (p.directions != nullptr || p.sums != nullptr) write_vectors(products);
  }

  __device__ __forceinline__ float shared_at(int column) const {
    return p.shared_sum != nullptr && column < p.width ? p.shared_sum[column] : 0.0F;
  }
  __device__ __forceinline__ float question_at(int column) const { return flushed_question ? slot(0)[column] : 0.0F; }
  __device__ __forceinline__ float prefix_at(int column) const {
    return (flushed_prefix ? slot(1)[column] : 0.0F) + shared_at(column);
  }

  __device__ __forceinline__ void write_vectors(const Products& products) const {
    const bool defined = products.question > 0.0 && (flags & kBad) == 0;
    const float scale = defined ? static_cast<float>(1.0 / sqrt(products.question)) : 0.0F;
#pragma unroll 1
    for (int i = 0; i < kColumns; ++i) {
      const int column = column_of(i / kEach, i % kEach);
      if (column >= p.width) continue;
      const std::int64_t place = sequence * p.width + column;
      if (p.directions != nullptr) p.directions[place] = defined ? question_at(column) * scale : 0.0F;
      if (p.sums != nullptr) p.sums[place] = question_at(column) + prefix_at(column);
    }
  }

  static constexpr int kInvalid = 3;

  const KernelArguments& k;
  const AngleParams& p;
  const std::int64_t chunk;
  const int thread, threads;
  uint4* rows;
  float* norms;
  double* scratch;
  std::int8_t* roles;
  std::int64_t first_row, sequence = 0;
  int at, next, last, start = 0, end = 0;
  int remaining, requested, in_batch = 0;  // counted rows not yet taken, not yet requested, left of the batch
  int stage = 0, parity = 0;
  const uint4* mine = nullptr;
  float* norm = nullptr;
  StartWindow window;
  int question_rows, prefix_rows, held, held_role;  // held: rows in the registers, all of one role
  bool flushed_question, flushed_prefix;
  std::int32_t flags, flags_of_chunk = 0;
  float sum[kColumns];
};

template <typename T, int kPerThread>
__global__ void __launch_bounds__(kPerThread * 128, kPerThread == 1   ? 6
                                                    : kPerThread == 2 ? 3
                                                                      : 1)
    angle_sum(const __grid_constant__ KernelArguments k) {
  ChunkSum<T, kPerThread> sum(k);
  sum.run();
}

}  // namespace gainrl
