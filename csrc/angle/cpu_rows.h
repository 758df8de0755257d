// Row operations of one instruction set, reached through function pointers chosen at run time.
#pragma once

#include <cstdint>

#include "angle/params.h"

namespace gainrl {

// How many rows of one role are measured and then added, from the second-level cache.  So that memory does not rest
// while rows are added, both steps fetch bytes of the next batch.  Finer turns make the hardware read ahead anew.
constexpr int kRowBatch = 8;

// The bytes that come next, of which each operation fetches its share, line by line.  Step 0: not known.
struct Fetch {
  static constexpr int kLine = 64;
  const char* next = nullptr;
  std::int64_t step = 0;
};

// `square` and `add` take elements in the order that the instruction set loads best, the placed order: within each
// whole group of `group` elements, even indices before odd ones.  Sums keep that order until `natural` puts them right.
struct RowOperations {
  // squares[r] = sum of squares of the n elements of row r.
  void (*square)(const void* const* rows, int count, std::int64_t n, float* squares, Fetch& fetch);
  // sum[i] (+)= row_0[i] * scale_0 + ... + row_{count-1}[i] * scale_{count-1}; `first` overwrites sum (placed).
  // 1 <= count <= kRowBatch.  The rows are summed by themselves first, so that `sum` is rounded once.
  void (*add)(const void* const* rows, const float* scales, int count, float* sum, bool first, std::int64_t n,
              Fetch& fetch);
  // Dot product of a row with a vector; both as they are, not placed.
  float (*dot)(const void* row, const float* vector, std::int64_t n);
  // total[i] (+)= block[i]; `first` overwrites total.
  void (*add_to_total)(const float* block, double* total, bool first, std::int64_t n);
  // Puts a placed sum into its natural order, in place.
  void (*natural)(float* sum, std::int64_t n);
  std::int64_t group;

  // Where element i of a row of n lies in the placed order.
  std::int64_t place(std::int64_t i, std::int64_t n) const {
    const std::int64_t start = i - i % group;
    if (group == 1 || start + group > n) return i;
    return start + (i % 2) * (group / 2) + (i % group) / 2;
  }
};

struct RowTable {
  const char* name;
  RowOperations operations[3];  // by DType
};

RowTable rows_plain() noexcept;
RowTable rows_avx2() noexcept;
RowTable rows_avx512() noexcept;
RowTable rows_avx512bf16() noexcept;

}  // namespace gainrl
