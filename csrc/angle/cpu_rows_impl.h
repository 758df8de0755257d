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

template <typename T, bool kWeighted>
float square(const T* row, const float* weight, std::int64_t n) {
  Vector sums[kUnroll] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
  std::int64_t i = 0;
  const auto add = [&](Vector& low, Vector& high) {
    const Pair x = pair_weighted<T, kWeighted>(row, weight, i);
    low = Vector::fma(x.low, x.low, low);
    high = Vector::fma(x.high, x.high, high);
    i += kPair;
  };
  while (i + 2 * kPair <= n) {
    add(sums[0], sums[1]);
    add(sums[2], sums[3]);
  }
  if (i + kPair <= n) add(sums[0], sums[1]);
  float total = ((sums[0] + sums[1]) + (sums[2] + sums[3])).total();
  for (; i < n; ++i) {
    const float x = element<T, kWeighted>(row, weight, i);
    total += x * x;
  }
  return total;
}

#if defined(__AVX512BF16__)
// Both elements of a pair are squared and added by one instruction, 32 elements at a time.
template <>
float square<BFloat, false>(const BFloat* row, const float*, std::int64_t n) {
  constexpr int kPairs = 2 * kLanes;
  __m512 sums[kUnroll] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  std::int64_t i = 0;
  for (; i + kUnroll * kPairs <= n; i += kUnroll * kPairs) {
    for (int u = 0; u < kUnroll; ++u) {
      const __m512bh x = (__m512bh)_mm512_loadu_si512(row + i + u * kPairs);
      sums[u] = _mm512_dpbf16_ps(sums[u], x, x);
    }
  }
  for (; i < n; i += kPairs) {
    const std::int64_t left = n - i;
    const __mmask32 mask = left >= kPairs ? 0xffffffffU : (1U << left) - 1U;
    const __m512bh x = (__m512bh)_mm512_maskz_loadu_epi16(mask, row + i);
    sums[0] = _mm512_dpbf16_ps(sums[0], x, x);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}
#endif

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
