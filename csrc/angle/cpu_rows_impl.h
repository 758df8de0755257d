// Row operations for the instruction set that the including file is compiled for.  See cpu_rows.h for what they do.
#pragma once

#include "angle/cpu_rows.h"
#include "angle/cpu_simd.h"

namespace gainrl {
namespace {

constexpr int kLanes = Vector::kLanes;

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
float square(const T* row, const float* weight, std::int64_t n) {
  Vector sums[kUnroll] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
  std::int64_t i = 0;
  for (; i + kUnroll * kLanes <= n; i += kUnroll * kLanes) {
    for (int u = 0; u < kUnroll; ++u) {
      const Vector x = load_weighted<T, kWeighted>(row, weight, i + u * kLanes);
      sums[u] = Vector::fma(x, x, sums[u]);
    }
  }
  for (; i + kLanes <= n; i += kLanes) {
    const Vector x = load_weighted<T, kWeighted>(row, weight, i);
    sums[0] = Vector::fma(x, x, sums[0]);
  }
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

// `ahead` is where the rows to come are expected: they are asked for, 64 bytes per row at a time, while these rows are
// being added, for the memory would rest meanwhile.  Where they are elsewhere, the hint is wasted, no more.
template <typename T, int kCount, bool kWeighted>
void add_rows(const void* const* rows, const float* scales, const float* weight, float* sum, bool first, std::int64_t n,
              const char* ahead) {
  const T* row[kCount];
  Vector scale[kCount];
  for (int r = 0; r < kCount; ++r) {
    row[r] = static_cast<const T*>(rows[r]);
    scale[r] = Vector::all(scales[r]);
  }
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  std::int64_t i = 0;
  for (; i + kLine <= n; i += kLine) {
    if constexpr (kCount >= 4) {
      for (int line = 0; line < kCount; ++line) __builtin_prefetch(ahead + line * 64, 0, 2);
      ahead += kCount * 64;
    }
    for (int j = 0; j < kLine; j += 2 * kLanes) {
      if constexpr (2 * kLanes <= kLine) {
        Vector low = first ? Vector::zero() : Vector::load(sum + i + j);
        Vector high = first ? Vector::zero() : Vector::load(sum + i + j + kLanes);
        for (int r = 0; r < kCount; ++r) {
          low = Vector::fma(load_weighted<T, kWeighted>(row[r], weight, i + j), scale[r], low);
          high = Vector::fma(load_weighted<T, kWeighted>(row[r], weight, i + j + kLanes), scale[r], high);
        }
        low.store(sum + i + j);
        high.store(sum + i + j + kLanes);
      } else {
        Vector total = first ? Vector::zero() : Vector::load(sum + i + j);
        for (int r = 0; r < kCount; ++r)
          total = Vector::fma(load_weighted<T, kWeighted>(row[r], weight, i + j), scale[r], total);
        total.store(sum + i + j);
      }
    }
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
    const auto* last = static_cast<const T*>(rows[count - 1]);
    add_rows<T, kCount, kWeighted>(
        rows + done, scales + done, weight, sum, first && done == 0, n,
        reinterpret_cast<const char*>(last) + (1 + done) * n * static_cast<std::int64_t>(sizeof(T)));
    done += kCount;
  };
  // Rows whose starts differ by a multiple of 4 KB share one set of the level-1 cache, which has 8 places: four rows at
  // a time and the sum still fit.
  const auto address = [&](int r) { return reinterpret_cast<std::uintptr_t>(rows[r]); };
  if (count == 8 && (address(1) - address(0)) % 4096 != 0) return some(Count<8>{});
  if (count == 8) some(Count<4>{});
  if ((count & 4) != 0 || count == 8) some(Count<4>{});
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

void round_total(const double* total, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(total[i]);
}

template <typename T>
RowOperations operations() {
  return {
      [](const void* row, const float* weight, std::int64_t n) {
        const T* elements = static_cast<const T*>(row);
        return weight != nullptr ? square<T, true>(elements, weight, n) : square<T, false>(elements, weight, n);
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
      round_total,
  };
}

RowTable table(const char* name) { return {name, {operations<float>(), operations<Half>(), operations<BFloat>()}}; }

}  // namespace
}  // namespace gainrl
