// The second kernel: adds the partial sums of sequences that span chunks, writes empty sequences, and settles what only
// the whole call shows (whether any sequence has a prefix, whether the offsets are in order).
// Block c stands for the boundary between chunks c and c + 1, which at most one sequence crosses.  A sequence that
// crosses few is summed by the first of its blocks; one that crosses many is spread over all of them, by slices of its
// columns and, where blocks are left, by parts of its chunks.
#pragma once

#include "angle/cuda_sequence.cuh"

namespace gainrl {

class Join {
 public:
  __device__ Join(const KernelArguments& arguments)
      : k(arguments),
        p(k.p),
        boundary(blockIdx.x),
        thread(static_cast<int>(threadIdx.x)),
        lane(thread % 32),
        warp(thread / 32) {
    scratch = reinterpret_cast<double*>(dynamic_shared());
    sums = scratch + 3 * kWarps;
  }

  __device__ __forceinline__ void run() {
    const std::uint32_t found = flags_seen();
    const bool bad = block_any((found & kChunkBadOffsets) != 0);
    any_prefix = block_any((found & kChunkHasPrefix) != 0);
    const std::int64_t stride = std::int64_t{gridDim.x} * kJoinThreads;
    for (std::int64_t b = boundary * kJoinThreads + thread; b < p.sequences; b += stride) {
      if (bad) {
        write_sequence(p, b, {0.0, 0.0, 0.0}, 0, 0, kInvalidOffsets, true);
        clear_direction(b);
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
    std::int64_t b = k.segments[boundary * 2 + 1].sequence;  // it begins in the chunk and goes on after it
    if (b < 0) b = k.segments[boundary * 2].sequence;        // or began before
    if (b < 0) return;
    const std::int64_t start = start_of(p, b), end = start_of(p, b + 1);
    first = chunk_of(start);
    last = chunk_of(end - 1);
    if (first > boundary || last <= boundary) return;  // it ends in the chunk
    if (last - first < kFewBoundaries) {
      if (boundary == first) join_few(b);
    } else {
      join_many(b);
    }
  }

 private:
  static constexpr int kWarps = kJoinThreads / 32;
  static constexpr std::int64_t kFewBoundaries = 8;
  // Chunks whose sums a thread reads at once: as many as leave three blocks per multiprocessor their registers.
  static constexpr int kAtOnce = 3;
  // Chunks that a block of a long sequence sums: one such reading by each of its warps.
  static constexpr std::int64_t kChunksPerPart = kAtOnce * kWarps;

  // The flags of this thread's share of the chunks, sixteen at once: there may be 50,000, and every block reads all.
  __device__ __forceinline__ std::uint32_t flags_seen() const {
    std::uint32_t found = 0;
    const auto* sixteen = reinterpret_cast<const uint4*>(k.flags);
    const std::int64_t whole = k.chunks / 16;
    for (std::int64_t i = thread; i < whole; i += kJoinThreads) {
      const uint4 v = sixteen[i];
      found |= v.x | v.y | v.z | v.w;
    }
    found |= found >> 16;
    found |= found >> 8;
    for (std::int64_t c = whole * 16 + thread; c < k.chunks; c += kJoinThreads) found |= k.flags[c];
    return found & 0xffU;
  }

  __device__ __forceinline__ std::int64_t chunk_of(std::int64_t t) const { return t / k.chunk_rows; }

  __device__ __forceinline__ void clear_direction(std::int64_t b) const {
    for (std::int64_t c = 0; p.directions != nullptr && c < p.width; ++c) p.directions[b * p.width + c] = 0.0F;
  }

  __device__ __forceinline__ void write_empty(std::int64_t b) const {
    Products products{0.0, 0.0, 0.0};
    for (std::int64_t c = 0; p.shared_sum != nullptr && c < p.width; ++c)
      products.prefix += static_cast<double>(p.shared_sum[c]) * static_cast<double>(p.shared_sum[c]);
    write_sequence(p, b, products, 0, p.shared_tokens, 0, any_prefix);
    clear_direction(b);
  }

  // The segment in chunk c of the sequence, and its two partial sums.
  __device__ __forceinline__ std::int64_t place_of(std::int64_t c) const { return c * 2 + (c == first ? 1 : 0); }
  __device__ __forceinline__ const float* slot(std::int64_t c) const {
    return k.slots + place_of(c) * 2 * k.padded_width;
  }

  // Adds four columns of chunks from, from + step, ... before `to`, under predicates: three chunks' loads at once.
  __device__ __forceinline__ void add_chunks(std::int64_t from, std::int64_t to, int step, std::int64_t column,
                                             double (&question)[4], double (&prefix)[4]) const {
    for (std::int64_t c = from; c < to; c += kAtOnce * step) {
      bool has_question[kAtOnce], has_prefix[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const std::int64_t at = c + i * step < to ? c + i * step : c;
        const Segment& part = k.segments[place_of(at)];
        has_question[i] = c + i * step < to && part.question_rows > 0;
        has_prefix[i] = c + i * step < to && part.prefix_rows > 0;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        float4 u = make_float4(0.0F, 0.0F, 0.0F, 0.0F), v = u;
        if (has_question[i]) u = *reinterpret_cast<const float4*>(slot(c + i * step) + column);
        if (has_prefix[i]) v = *reinterpret_cast<const float4*>(slot(c + i * step) + k.padded_width + column);
        add(question, u);
        add(prefix, v);
      }
    }
  }
  __device__ __forceinline__ static void add(double (&sum)[4], const float4& v) {
    sum[0] += v.x;
    sum[1] += v.y;
    sum[2] += v.z;
    sum[3] += v.w;
  }

  // What is known of column `own` goes to the outputs; `directions` are not yet of unit length.
  __device__ __forceinline__ void take_column(std::int64_t b, std::int64_t own, double u, double v,
                                              Products& products) {
    if (own >= p.width) return;
    if (p.shared_sum != nullptr) v += p.shared_sum[own];
    products.question += u * u;
    products.cross += u * v;
    products.prefix += v * v;
    if (p.directions != nullptr) p.directions[b * p.width + own] = static_cast<float>(u);
  }

  // All columns by this block, four per thread.
  __device__ __forceinline__ void join_few(std::int64_t b) {
    Products products{0.0, 0.0, 0.0};
    for (std::int64_t column = thread * 4; column < k.padded_width; column += kJoinThreads * 4) {
      double u[4] = {0.0, 0.0, 0.0, 0.0}, v[4] = {0.0, 0.0, 0.0, 0.0};
      add_chunks(first, last + 1, 1, column, u, v);
#pragma unroll
      for (int i = 0; i < 4; ++i) take_column(b, column + i, u[i], v[i], products);
    }
    finish(b, block_sum(products, scratch, kJoinThreads));
  }

  // One of the sequence's blocks takes some slices of the columns, or of one slice some of the chunks.  The last block
  // to arrive at a slice adds its parts, in order, and the last to arrive at the sequence finishes it.
  __device__ __forceinline__ void join_many(std::int64_t b) {
    const std::int64_t blocks = last - first, chunks = blocks + 1, mine = boundary - first;
    const std::int64_t across = k.slices < blocks ? k.slices : blocks;
    const std::int64_t wanted = (chunks + kChunksPerPart - 1) / kChunksPerPart;
    const std::int64_t parts = wanted < blocks / across ? wanted : blocks / across;
    if (mine >= across * parts) return;
    const std::int64_t part = mine / across, slice = mine % across;
    const std::int64_t from = first + chunks * part / parts, to = first + chunks * (part + 1) / parts;
    Products products{0.0, 0.0, 0.0};
    for (std::int64_t s = slice; s < k.slices; s += across) {  // more than one only where `parts` is 1
      const double found = sum_slice(s, from, to);
      double total = found;
      if (parts > 1) {
        k.partials[boundary * kJoinThreads + thread] = found;
        block_barrier();  // the block's writes come before its ticket
        if (!last_of(k.tickets + (first + slice) * 2, parts)) return;
        total = 0.0;
#pragma unroll 4
        for (std::int64_t q = 0; q < parts; ++q)
          total += read_fresh(k.partials + (first + q * across + slice) * kJoinThreads + thread);
      }
      sums[thread] = total;  // question, then prefix
      block_barrier();
      if (thread < kSliceColumns)
        take_column(b, s * kSliceColumns + thread, sums[thread], sums[kSliceColumns + thread], products);
      block_barrier();  // before the next slice writes there
    }
    products = block_sum(products, scratch, kJoinThreads);
    double* of_slices = k.products + first * 3;
    if (thread == 0) {
      of_slices[slice * 3] = products.question;
      of_slices[slice * 3 + 1] = products.cross;
      of_slices[slice * 3 + 2] = products.prefix;
    }
    if (!last_of(k.tickets + first * 2 + 1, across)) return;
    products = {0.0, 0.0, 0.0};
    for (std::int64_t s = thread; s < across; s += kJoinThreads) {
      products.question += read_fresh(of_slices + s * 3);
      products.cross += read_fresh(of_slices + s * 3 + 1);
      products.prefix += read_fresh(of_slices + s * 3 + 2);
    }
    finish(b, block_sum(products, scratch, kJoinThreads));
  }

  // Whether this block is the last of `count` to come here; it then reads afresh what thread 0 of the others wrote.
  __device__ __forceinline__ bool last_of(std::int32_t* ticket, std::int64_t count) {
    bool is_last = false;
    if (thread == 0) is_last = last_to_arrive(ticket, static_cast<int>(count));
    return block_any(is_last);
  }

  // The sum over chunks [from, to) of one column per thread: kSliceColumns of the question's sum, then of the prefix's.
  __device__ __forceinline__ double sum_slice(std::int64_t slice, std::int64_t from, std::int64_t to) {
    static_assert(kJoinThreads == 2 * kSliceColumns, "one thread per role and column");
    const std::int64_t column = slice * kSliceColumns + lane * 4;
    double mine[2][4] = {{0.0, 0.0, 0.0, 0.0}, {0.0, 0.0, 0.0, 0.0}};
    if (column < k.padded_width) add_chunks(from + warp, to, kWarps, column, mine[0], mine[1]);
#pragma unroll
    for (int role = 0; role < 2; ++role) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[(role * kWarps + warp) * kSliceColumns + lane * 4 + i] = mine[role][i];
    }
    block_barrier();
    double total = 0.0;
    const int role = thread / kSliceColumns, own = thread % kSliceColumns;
    for (int w = 0; w < kWarps; ++w) total += sums[(role * kWarps + w) * kSliceColumns + own];
    block_barrier();  // `sums` is free again
    return total;
  }

  __device__ __forceinline__ void finish(std::int64_t b, const Products& products) {
    Products rows{0.0, 0.0, 0.0};  // counts are exact in float64
    bool infinite = false, invalid = false;
    for (std::int64_t c = first + thread; c <= last; c += kJoinThreads) {
      const Segment& part = k.segments[place_of(c)];
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
  const std::int64_t boundary;
  const int thread, lane, warp;
  double *scratch, *sums;
  bool any_prefix = false;
  std::int64_t first = 0, last = 0;  // the sequence's chunks
};

// Three blocks per multiprocessor: 396 at a time on 132, where the first kernel leaves some 260 to 1000 chunks.
__global__ void __launch_bounds__(kJoinThreads, 3) angle_join(const __grid_constant__ KernelArguments k) {
  Join join(k);
  join.run();
}

}  // namespace gainrl
