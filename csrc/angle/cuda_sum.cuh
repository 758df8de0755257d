// The first kernel: sums of unit rows, which start on 16-byte boundaries.
// A block takes one chunk of rows, which come through shared memory in batches, with one barrier each, for the norms.
// The sum of one role stays in registers.  It is added to a partial sum in the workspace when the role changes, after
// kRowsPerFlush rows, and where a sequence ends that needs more than its question's norm.
//
// Narrow rows are bound by instructions: at 4.4 TB/s a multiprocessor of an H200 gets a row of 576 bfloat16 every 68
// cycles, in which it issues 273 instructions, and the two passes over one vector take 34.  So a row has as few warps
// as can hold it, and all else is done once per batch.  tools/sass_rows.py counts; docs/kernels.md has the table.
#pragma once

#include "angle/cuda_rows.cuh"
#include "angle/cuda_sequence.cuh"

namespace gainrl {

// The sums over the warp of a batch's values, in six exchanges instead of twenty: lane i gets that of value i % 4.
__device__ __forceinline__ float batch_sums(const float (&values)[kMostBatch], int lane) {
  static_assert(kMostBatch == 4, "two halvings leave one value per lane");
  const bool odd = lane % 2 != 0, high = lane % 4 >= 2;
  // Copied out first: a choice between two places of an array would put it into local memory.
  const float a = values[0], b = values[1], c = values[2], d = values[3];
  const float low = (odd ? b : a) + exchange(odd ? a : b, 1);
  const float up = (odd ? d : c) + exchange(odd ? c : d, 1);
  float sum = (high ? up : low) + exchange(high ? low : up, 2);
#pragma unroll
  for (int mask = 4; mask < 32; mask *= 2) sum += exchange(sum, mask);
  return sum;
}

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
        first_row(chunk * k.chunk_rows),
        norms(reinterpret_cast<float*>(reinterpret_cast<uint4*>(dynamic_shared()) +
                                       kStages * k.batch * kPerThread * threads)),
        scratch(reinterpret_cast<double*>(norms + 2 * kMostBatch * (threads / 32))),
        rows(k, reinterpret_cast<uint4*>(dynamic_shared()),
             reinterpret_cast<std::int8_t*>(scratch + 3 * (threads / 32)), thread, threads),
        window(p, thread % 32) {}

  // Row numbers below are relative to the chunk's first row; a sequence that begins before the chunk begins at -1.
  __device__ __forceinline__ void run() {
    begin();
    if (at < last) {
      sequence = sequence_of(p, first_row + at, thread % 32);
      start = relative(window.start(sequence));
      while (true) {
        end = relative(window.start(sequence + 1));
        clear();
        while (true) {
          const int stop = end < last ? end : last;
          while (at < stop && !rows.counted(at)) flags |= rows.role(at++) == rows.kInvalid ? kInvalidRole : 0;
          const bool closing = at >= stop;
          if (held > 0 && (held >= kRowsPerFlush || (closing ? !simple() : rows.role(at) != held_role))) flush();
          if (closing) break;
          if (in_batch == 0) {
            take_batch();
            if (take_whole_batch(stop) || take_single_rows()) continue;
          }
          take_row();
        }
        close();
        if (at >= last || sequence + 1 >= p.sequences) break;
        ++sequence;
        start = end;
      }
    }
    if (block_any(offsets_are_bad(k, chunk, threads))) flags_of_chunk |= kChunkBadOffsets;
    if (p.shared_tokens > 0) flags_of_chunk |= kChunkHasPrefix;
    if (thread == 0) k.flags[chunk] = static_cast<std::uint8_t>(flags_of_chunk);
  }

 private:
  __device__ __forceinline__ int relative(std::int64_t row) const {
    const std::int64_t moved = row - first_row;
    return moved < 0 ? -1 : moved > k.chunk_rows ? static_cast<int>(k.chunk_rows) + 1 : static_cast<int>(moved);
  }

  // Up to the first copies, with one wait for memory: the roles and the ends of the offsets are asked for together.
  __device__ __forceinline__ void begin() {
    const std::int64_t left = p.rows - first_row;
    const int count = static_cast<int>(left < k.chunk_rows ? left : k.chunk_rows);
    at = 0;
    last = count;
    std::int64_t low = 0, high = p.rows;
    if (p.offsets != nullptr) {
      low = start_of(p, 0);
      high = start_of(p, p.sequences);
    }
    rows.read_roles(first_row, count);
    if (p.offsets != nullptr) {  // rows before the first offset and after the last belong to nobody
      low = relative(low);
      high = relative(high);
      at = low > at ? static_cast<int>(low) : at;
      last = high < last ? static_cast<int>(high) : last;
    }
    block_barrier();
    rows.start(first_row, at, last);
    if (thread == 0) {
      k.tickets[chunk * 2] = 0;
      k.tickets[chunk * 2 + 1] = 0;
      k.segments[chunk * 2].sequence = -1;
      k.segments[chunk * 2 + 1].sequence = -1;
    }
  }

  // Takes the next batch.  Lane r modulo kMostBatch gets row r's scale: zero where the squared norm leaves float32.
  __device__ __forceinline__ void take_batch() {
    mine = rows.next_batch(in_batch);
    taken = 0;
    float squares[kMostBatch] = {0.0F, 0.0F, 0.0F, 0.0F};
    // A full batch without a test per row, so that the rows' loads and chains of additions overlap.
    if (kFullBatches && in_batch == kMostBatch) {
      square_rows<true>(squares);
    } else {
      square_rows<false>(squares);
    }
    const int lane = thread % 32;
    float square = batch_sums(squares, lane);
    if (threads > 32) {
      float* norm = norms + parity * kMostBatch * (threads / 32);  // two buffers: one barrier per batch is enough
      parity ^= 1;
      if (lane < kMostBatch) norm[(thread / 32) * kMostBatch + lane] = square;
      block_barrier();
      square = 0.0F;
      for (int w = 0; w < threads / 32; ++w) square += norm[w * kMostBatch + lane % kMostBatch];
    }
    scale = square > kSmallestSafeSquare && square < kLargestSafeSquare ? reciprocal_root(square) : 0.0F;
  }

  template <bool kFull>
  __device__ __forceinline__ void square_rows(float (&squares)[kMostBatch]) const {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
#pragma unroll
      for (int r = 0; r < kMostRows<kFull>; ++r) {
        if (kFull || r < in_batch) {
          const uint4 v = mine[(r * kPerThread + j) * threads];
#pragma unroll
          for (int e = 0; e < kEach; ++e) {
            const float x = element<T>(v, e);
            squares[r] += x * x;
          }
        }
      }
    }
  }

  __device__ __forceinline__ int column_of(int j, int e) const { return (j * threads + thread) * kEach + e; }

  // Adds `count` rows of the batch from `first` on, all of the role of row `at`.
  __device__ __forceinline__ void add(int first, int count) {
    if (kFullBatches && count == kMostBatch) {
      add_rows<true>(first, count);
    } else {
      add_rows<false>(first, count);
    }
    held_role = rows.role(at);
    held += count;
    count_rows(count);
  }
  template <bool kFull>
  __device__ __forceinline__ void add_rows(int first, int count) {
#pragma unroll
    for (int r = 0; r < kMostRows<kFull>; ++r) {
      if (kFull || r < count) {
        const float by = from_lane(scale, first + r);
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) {
          const uint4 v = mine[((first + r) * kPerThread + j) * threads];
#pragma unroll
          for (int e = 0; e < kEach; ++e) sum[j * kEach + e] += element<T>(v, e) * by;
        }
      }
    }
  }
  __device__ __forceinline__ void count_rows(int count) {
    if (rows.role(at) == kQuestion) {
      question_rows += count;
    } else {
      prefix_rows += count;
      flags_of_chunk |= kChunkHasPrefix;
    }
  }

  // Adds the batch if its rows all have one role, one sequence and a float32 norm (nearly always); whether it did.
  __device__ __forceinline__ bool take_whole_batch(int stop) {
    const int lane = thread % 32;
    const bool alike = lane >= in_batch || (scale != 0.0F && at + lane < stop && rows.role(at + lane) == rows.role(at));
    if (leading_lanes(alike) < 32) return false;
    add(0, in_batch);
    at += in_batch;
    in_batch = 0;
    return true;
  }

  // Writes the results of a batch of question rows each of which is a sequence, a lane each.  Whether it was one.
  __device__ __forceinline__ bool take_single_rows() {
    if (p.offsets == nullptr || end != at + 1 || start != at || p.shared_tokens > 0 || p.directions != nullptr)
      return false;
    const int lane = thread % 32;
    const std::int64_t next = window.starts(sequence + 1) - first_row;
    const bool single = lane >= in_batch || (scale != 0.0F && at + lane < last && sequence + lane < p.sequences &&
                                             next == at + lane + 1 && rows.role(at + lane) == kQuestion);
    if (leading_lanes(single) < 32) return false;
    if (thread < in_batch) write_sequence(p, sequence + lane, {1.0, 0.0, 0.0}, 1, 0, 0, true);
    at += in_batch;
    sequence += in_batch - 1;
    in_batch = 0;
    start = end = at;  // as an empty sequence is closed
    return true;
  }

  // Adds row `at`, the first of the batch that is left.
  __device__ __forceinline__ void take_row() {
    if (from_lane(scale, taken) != 0.0F) {
      add(taken, 1);
    } else if (take_exactly(mine + taken * kPerThread * threads, rows.role(at) == kQuestion)) {
      count_rows(1);
    }
    ++taken;
    ++at;
    --in_batch;
  }

  __device__ __forceinline__ double exact_value(const uint4* row, int i) const {
    const int column = column_of(i / kEach, i % kEach);
    if (column >= p.width) return 0.0;
    return as_float(reinterpret_cast<const T*>(row + i / kEach * threads)[i % kEach]);
  }

  // A row whose squared norm leaves float32: measured in float64 and added to the flushed sum.  Whether it counts.
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
    return start >= 0 && end <= k.chunk_rows && prefix_rows == 0 && !flushed_question && p.directions == nullptr;
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
    if (p.directions != nullptr) write_direction(products);
  }

  __device__ __forceinline__ float shared_at(int column) const {
    return p.shared_sum != nullptr && column < p.width ? p.shared_sum[column] : 0.0F;
  }
  __device__ __forceinline__ float question_at(int column) const { return flushed_question ? slot(0)[column] : 0.0F; }
  __device__ __forceinline__ float prefix_at(int column) const {
    return (flushed_prefix ? slot(1)[column] : 0.0F) + shared_at(column);
  }

  __device__ __forceinline__ void write_direction(const Products& products) const {
    const bool defined = products.question > 0.0 && (flags & kBad) == 0;
    const float scale = defined ? static_cast<float>(1.0 / sqrt(products.question)) : 0.0F;
#pragma unroll 1
    for (int i = 0; i < kColumns; ++i) {
      const int column = column_of(i / kEach, i % kEach);
      if (column < p.width) p.directions[sequence * p.width + column] = defined ? question_at(column) * scale : 0.0F;
    }
  }

  // The widest rows of float32, which have work enough between two tests, have no registers to spare.
  static constexpr bool kFullBatches = sizeof(T) == 2 || kPerThread < 8;
  template <bool kFull>
  static constexpr int kMostRows = kFullBatches && !kFull ? kMostBatch - 1 : kMostBatch;

  const KernelArguments& k;
  const AngleParams& p;
  const std::int64_t chunk;
  const int thread, threads;
  const std::int64_t first_row;
  float* const norms;
  double* const scratch;
  RowCopies<T, kPerThread> rows;
  StartWindow window;
  std::int64_t sequence = 0;
  int at, last, start = 0, end = 0;
  int in_batch = 0, taken = 0;  // rows left of the batch, and taken of it
  int parity = 0;
  float scale = 0.0F;  // of the batch's row `lane % kMostBatch`
  const uint4* mine = nullptr;
  int question_rows, prefix_rows, held, held_role;  // held: rows in the registers, all of one role
  bool flushed_question, flushed_prefix;
  std::int32_t flags;
  std::uint32_t flags_of_chunk = 0;
  float sum[kColumns];
};

// The most threads that plan_shape gives a row of so many vectors per thread, and blocks per multiprocessor that spill
// nothing.  They keep the 25 KB under way that 4.8 TB/s times 700 ns asks of each of 132 multiprocessors.
template <typename T, int kPerThread>
constexpr int kBlockThreads = kPerThread == 4 * vectors_per_unit<T> ? most_threads(sizeof(T)) : 96;
template <typename T, int kPerThread>
constexpr int kBlocks = kBlockThreads<T, kPerThread> == 96 ? 4 : 512 / kBlockThreads<T, kPerThread>;

template <typename T, int kPerThread>
__global__ void __launch_bounds__(kBlockThreads<T, kPerThread>, kBlocks<T, kPerThread>)
    angle_sum(const __grid_constant__ KernelArguments k) {
  ChunkSum<T, kPerThread> sum(k);
  sum.run();
}

}  // namespace gainrl
