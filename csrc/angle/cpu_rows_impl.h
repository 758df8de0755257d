// Row operations for the instruction set that the including file is compiled for.  See cpu_rows.h for what they do.
#pragma once

#include "angle/cpu_rows.h"
#include "angle/cpu_simd.h"

namespace gainrl {
namespace {

constexpr int kLanes = Vector::kLanes, kPair = 2 * kLanes;

// Four independent sums hide the latency of the multiply-add.
constexpr int kUnroll = 4;

template <typename T, bool kWeighted>
Vector load_weighted(const T* row, const float* weight, std::int64_t i) {
  const Vector x = Vector::load(row + i);
  if constexpr (kWeighted) return x * Vector::load(weight + i);
  return x;
}

template <typename T, bool kWeighted>
float element(const T* row, const float* weight, std::int64_t i) {
  const float x = widen(row[i]);
  if constexpr (kWeighted) return x * weight[i];
  return x;
}

template <typename T, bool kWeighted>
Pair pair_weighted(const T* row, const float* weight, std::int64_t i) {
  Pair x = load_pair(row + i);
  if constexpr (kWeighted) {
    x.low = x.low * Vector::load(weight + i);
    x.high = x.high * Vector::load(weight + i + kLanes);
  }
  return x;
}

// Adds the squares of kPair elements to two sums.
template <typename T, bool kWeighted>
void add_squares(const T* row, const float* weight, std::int64_t i, Vector& low, Vector& high) {
  const Pair x = pair_weighted<T, kWeighted>(row, weight, i);
  low = Vector::fma(x.low, x.low, low);
  high = Vector::fma(x.high, x.high, high);
}

#if defined(__AVX512BF16__)
// Both elements of a pair are squared and added by one instruction, 32 elements at a time.
template <>
void add_squares<BFloat, false>(const BFloat* row, const float*, std::int64_t i, Vector& low, Vector&) {
  const __m512bh x = (__m512bh)_mm512_loadu_si512(row + i);
  low.v = _mm512_dpbf16_ps(low.v, x, x);
}
#endif

// The sum of the partial sums and of the squares of the elements from i on.
template <typename T, bool kWeighted>
float finish_square(const T* row, const float* weight, std::int64_t i, std::int64_t n, const Vector (&sums)[kUnroll]) {
  float total = ((sums[0] + sums[1]) + (sums[2] + sums[3])).total();
  for (; i < n; ++i) {
    const float x = element<T, kWeighted>(row, weight, i);
    total += x * x;
  }
  return total;
}

template <typename T, bool kWeighted>
float square(const T* row, const float* weight, std::int64_t n) {
  Vector sums[kUnroll] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
  std::int64_t i = 0;
  // No more than this per turn: with twice the loads, each with a stride of its own, the hardware fetches ahead worse.
  for (; i + 2 * kPair <= n; i += 2 * kPair) {
    add_squares<T, kWeighted>(row, weight, i, sums[0], sums[1]);
    add_squares<T, kWeighted>(row, weight, i + kPair, sums[2], sums[3]);
  }
  for (; i + kPair <= n; i += kPair) add_squares<T, kWeighted>(row, weight, i, sums[0], sums[1]);
  return finish_square<T, kWeighted>(row, weight, i, n, sums);
}

template <typename T, bool kWeighted>
float dot(const T* row, const float* weight, const float* vector, std::int64_t n) {
  Vector sums[kUnroll] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
  std::int64_t i = 0;
  for (; i + kUnroll * kLanes <= n; i += kUnroll * kLanes) {
    for (int u = 0; u < kUnroll; ++u) {
      const Vector x = load_weighted<T, kWeighted>(row, weight, i + u * kLanes);
      sums[u] = Vector::fma(x, Vector::load(vector + i + u * kLanes), sums[u]);
    }
  }
  float total = ((sums[0] + sums[1]) + (sums[2] + sums[3])).total();
  for (; i < n; ++i) total += element<T, kWeighted>(row, weight, i) * vector[i];
  return total;
}

template <typename T, int kCount, bool kWeighted>
void add_rows(const void* const* rows, const float* scales, const float* weight, float* sum, bool first,
              std::int64_t n) {
  const T* row[kCount];
  Vector scale[kCount];
  for (int r = 0; r < kCount; ++r) {
    row[r] = static_cast<const T*>(rows[r]);
    scale[r] = Vector::all(scales[r]);
  }
  std::int64_t i = 0;
  for (; i + kPair <= n; i += kPair) {
    Vector low = first ? Vector::zero() : Vector::load(sum + i);
    Vector high = first ? Vector::zero() : Vector::load(sum + i + kLanes);
    for (int r = 0; r < kCount; ++r) {
      const Pair x = pair_weighted<T, kWeighted>(row[r], weight, i);
      low = Vector::fma(x.low, scale[r], low);
      high = Vector::fma(x.high, scale[r], high);
    }
    low.store(sum + i);
    high.store(sum + i + kLanes);
  }
  for (; i < n; ++i) {
    float total = first ? 0.0F : sum[i];
    for (int r = 0; r < kCount; ++r) total += element<T, kWeighted>(row[r], weight, i) * scales[r];
    sum[i] = total;
  }
}

// While column by column the rows are added, the next ones are read one after the other, as memory likes it: for each
// kPair columns of two rows, 2 * kPair elements of a next row.
template <typename T, bool kWeighted>
void add_and_square(const void* const* rows, const float* scales, const float* weight, float* sum, bool first,
                    std::int64_t n, const void* const* next, float* squares) {
  const T* const a = static_cast<const T*>(rows[0]);
  const T* const b = static_cast<const T*>(rows[1]);
  const Vector scale_a = Vector::all(scales[0]), scale_b = Vector::all(scales[1]);
  const std::int64_t steps = n / kPair;
  std::int64_t i = 0;
  for (int r = 0; r < kRowPair; ++r) {
    const T* const row = static_cast<const T*>(next[r]);
    Vector sums[kUnroll] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
    std::int64_t read = 0;
    for (const std::int64_t end = steps * (r + 1) / kRowPair * kPair; i < end; i += kPair) {
      if (read + 2 * kPair <= n) {
        add_squares<T, kWeighted>(row, weight, read, sums[0], sums[1]);
        add_squares<T, kWeighted>(row, weight, read + kPair, sums[2], sums[3]);
        read += 2 * kPair;
      }
      Vector low = first ? Vector::zero() : Vector::load(sum + i);
      Vector high = first ? Vector::zero() : Vector::load(sum + i + kLanes);
      const Pair x = pair_weighted<T, kWeighted>(a, weight, i), y = pair_weighted<T, kWeighted>(b, weight, i);
      low = Vector::fma(y.low, scale_b, Vector::fma(x.low, scale_a, low));
      high = Vector::fma(y.high, scale_b, Vector::fma(x.high, scale_a, high));
      low.store(sum + i);
      high.store(sum + i + kLanes);
    }
    for (; read + kPair <= n; read += kPair) add_squares<T, kWeighted>(row, weight, read, sums[0], sums[1]);
    squares[r] = finish_square<T, kWeighted>(row, weight, read, n, sums);
  }
  for (; i < n; ++i)
    sum[i] = (first ? 0.0F : sum[i]) + element<T, kWeighted>(a, weight, i) * scales[0] +
             element<T, kWeighted>(b, weight, i) * scales[1];
}

template <int kCount>
struct Count {
  static constexpr int value = kCount;
};

template <typename T, bool kWeighted>
void add_count(const void* const* rows, const float* scales, int count, const float* weight, float* sum, bool first,
               std::int64_t n) {
  // Eight at once, then what is left in powers of two: four instantiations instead of eight.
  int done = 0;
  const auto some = [&](auto size) {
    constexpr int kCount = decltype(size)::value;
    add_rows<T, kCount, kWeighted>(rows + done, scales + done, weight, sum, first && done == 0, n);
    done += kCount;
  };
  if (count & 8) some(Count<8>{});
  if (count & 4) some(Count<4>{});
  if (count & 2) some(Count<2>{});
  if (count & 1) some(Count<1>{});
}

void add_to_total(const float* block, double* total, bool first, std::int64_t n) {
  if (first) {
    for (std::int64_t i = 0; i < n; ++i) total[i] = block[i];
  } else {
    for (std::int64_t i = 0; i < n; ++i) total[i] += block[i];
  }
}

template <typename T>
void natural(float* sum, std::int64_t n) {
  if constexpr (kSplit<T>) {
    for (std::int64_t i = 0; i + kPair <= n; i += kPair) {
      float group[kPair];
      std::memcpy(group, sum + i, sizeof group);
      for (int j = 0; j < kLanes; ++j) {
        sum[i + 2 * j] = group[j];
        sum[i + 2 * j + 1] = group[kLanes + j];
      }
    }
  }
}

template <typename T>
void natural_total(const double* total, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(total[i]);
  natural<T>(out, n);
}

template <typename T>
RowOperations operations() {
  return {
      [](const void* const* rows, int count, const float* weight, std::int64_t n, float* squares) {
        for (int r = 0; r < count; ++r) {
          const T* row = static_cast<const T*>(rows[r]);
          squares[r] = weight != nullptr ? square<T, true>(row, weight, n) : square<T, false>(row, weight, n);
        }
      },
      [](const void* const* rows, const float* scales, int count, const float* weight, float* sum, bool first,
         std::int64_t n) {
        return weight != nullptr ? add_count<T, true>(rows, scales, count, weight, sum, first, n)
                                 : add_count<T, false>(rows, scales, count, weight, sum, first, n);
      },
      [](const void* const* rows, const float* scales, const float* weight, float* sum, bool first, std::int64_t n,
         const void* const* next, float* squares) {
        return weight != nullptr ? add_and_square<T, true>(rows, scales, weight, sum, first, n, next, squares)
                                 : add_and_square<T, false>(rows, scales, weight, sum, first, n, next, squares);
      },
      [](const void* row, const float* weight, const float* vector, std::int64_t n) {
        const T* elements = static_cast<const T*>(row);
        return weight != nullptr ? dot<T, true>(elements, weight, vector, n)
                                 : dot<T, false>(elements, weight, vector, n);
      },
      add_to_total,
      natural<T>,
      natural_total<T>,
      kSplit<T> ? kPair : 1,
  };
}

RowTable table(const char* name) { return {name, {operations<float>(), operations<Half>(), operations<BFloat>()}}; }

}  // namespace
}  // namespace gainrl
