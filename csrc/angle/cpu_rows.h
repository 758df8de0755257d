// Row operations of one instruction set, reached through function pointers chosen at run time.
#pragma once

#include <cstdint>

#include "angle/params.h"

namespace gainrl {

// How many rows of one role are added to the sum at once.
constexpr int kRowBatch = 8;

struct RowOperations {
  // Sum of squares of the n elements of a row, each times weight[i] where weight is not null.
  float (*square)(const void* row, const float* weight, std::int64_t n);
  // sum[i] (+)= row_0[i] * scale_0 + ... + row_{count-1}[i] * scale_{count-1}, each element times weight[i] where
  // weight is not null; `first` overwrites sum.  1 <= count <= kRowBatch.
  void (*add)(const void* const* rows, const float* scales, int count, const float* weight, float* sum, bool first,
              std::int64_t n);
  // Dot product of a row (times weight) with a vector.
  float (*dot)(const void* row, const float* weight, const float* vector, std::int64_t n);
  // total[i] (+)= block[i]; `first` overwrites total.
  void (*add_to_total)(const float* block, double* total, bool first, std::int64_t n);
  void (*round_total)(const double* total, float* out, std::int64_t n);
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
