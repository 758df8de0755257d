// The row operations of cpu_rows.h for the instruction set that the including file is compiled for.
#pragma once
#include "angle/cpu_rows.h"
#include "angle/cpu_simd.h"

namespace gainrl {
namespace {

constexpr int kLanes = Vector::kLanes, kPair = 2 * kLanes;

// Four independent sums hide the latency of the multiply-add.
constexpr int kUnroll = 4;

// How many quarters of the bytes of a batch are fetched ahead by each operation on the batch before.  The less time an
// operation needs for its own bytes, the less there is to win, and the more it disturbs: found by measurement.  Only
// vectors of 64 bytes split bfloat16 so quickly that measuring rows need not fetch.
template <typename T>
constexpr bool kQuick = std::is_same_v<T, float> || (std::is_same_v<T, BFloat> && kLanes == 16);
template <typename T>
constexpr int kFetchedBySquare = kQuick<T> ? 0 : 2;
template <typename T>
constexpr int kFetchedByAdd = std::is_same_v<T, float> ? 0 : 2;
// The same where rows have at least so many bytes: a batch of them fills the first-level cache, or more.
constexpr std::int64_t kWideRow = 6144;
template <typename T>
constexpr int kFetchedByAddOfWide = kQuick<T> ? kFetchedByAdd<T> / 2 : kFetchedByAdd<T>;

// Fetches the share of one step of an operation, which takes kBytes at `offset`.
template <int kQuarters, int kBytes>
inline void fetch_share(Fetch& fetch, std::int64_t offset) {
  static_assert(kQuarters == 0 || 4 % kQuarters == 0);
  constexpr int kLines = kBytes * kQuarters / 4 / Fetch::kLine;
  if constexpr (kLines >= 1) {
    for (int line = 0; line < kLines; ++line) __builtin_prefetch(fetch.next + line * fetch.step, 0, 2);
    fetch.next += kLines * fetch.step;
  } else if constexpr (kQuarters > 0) {
    if (offset % (Fetch::kLine * 4 / kQuarters) != 0) return;
    __builtin_prefetch(fetch.next, 0, 2);
    fetch.next += fetch.step;
  }
}

// The squares of one row, read one after the other as memory delivers them.  (`Fetch` is worked on as a copy here and
// in add_rows: through the reference it would be stored and loaded again at each step.)
// Where vectors have 64 bytes, those of float32 and bfloat16 are read by halves: from memory, loads of 64 bytes were 10
// to 15 % slower than those of 32, on which the hardware reads ahead better.
#if defined(__AVX512F__)
using Squares = __m256;
constexpr int kSquareBytes = 32;
inline Squares no_squares() { return _mm256_setzero_ps(); }
inline Squares join(Squares a, Squares b) { return _mm256_add_ps(a, b); }
inline float total(Squares a) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline Squares add_squares(const float* row, Squares sum) {
  const __m256 x = _mm256_loadu_ps(row);
  return _mm256_fmadd_ps(x, x, sum);
}
inline Squares add_squares(const BFloat* row, Squares sum) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
#if defined(__AVX512BF16__)
  // Both elements of a pair are squared and added by one instruction.
  return _mm256_dpbf16_ps(sum, (__m256bh)both, (__m256bh)both);
#else
  const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
  const __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000U))));
  return _mm256_fmadd_ps(odd, odd, _mm256_fmadd_ps(even, even, sum));
#endif
}
template <typename T>
constexpr bool kByHalves = !std::is_same_v<T, Half>;
#endif

// Adds the squares of kPair elements to two sums.
template <typename T>
void add_squares(const T* row, std::int64_t i, Vector& low, Vector& high) {
  const Pair x = load_pair(row + i);
  low = Vector::fma(x.low, x.low, low);
  high = Vector::fma(x.high, x.high, high);
}

template <typename T>
float square(const T* row, std::int64_t n, Fetch& shared_fetch) {
  Fetch fetch = shared_fetch;
  std::int64_t i = 0;
  float sum;
#if defined(__AVX512F__)
  if constexpr (kByHalves<T>) {
    constexpr int kSums = 8, kElements = kSquareBytes / static_cast<int>(sizeof(T));
    Squares sums[kSums];
    for (Squares& one : sums) one = no_squares();
    for (; i + kSums * kElements <= n; i += kSums * kElements) {
      fetch_share<kFetchedBySquare<T>, kSums * kSquareBytes>(fetch, i * static_cast<std::int64_t>(sizeof(T)));
      for (int k = 0; k < kSums; ++k) sums[k] = add_squares(row + i + k * kElements, sums[k]);
    }
    for (; i + kSums / 2 * kElements <= n; i += kSums / 2 * kElements)
      for (int k = 0; k < kSums / 2; ++k) sums[k] = add_squares(row + i + k * kElements, sums[k]);
    for (; i + kElements <= n; i += kElements) sums[kSums - 1] = add_squares(row + i, sums[kSums - 1]);
    sum = total(join(join(join(sums[0], sums[1]), join(sums[2], sums[3])),
                     join(join(sums[4], sums[5]), join(sums[6], sums[7]))));
  } else
#endif
  {
    Vector sums[kUnroll] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
    constexpr int kBytes = 2 * kPair * static_cast<int>(sizeof(T));
    for (; i + 2 * kPair <= n; i += 2 * kPair) {
      fetch_share<kFetchedBySquare<T>, kBytes>(fetch, i * static_cast<std::int64_t>(sizeof(T)));
      add_squares<T>(row, i, sums[0], sums[1]);
      add_squares<T>(row, i + kPair, sums[2], sums[3]);
    }
    for (; i + kPair <= n; i += kPair) add_squares<T>(row, i, sums[0], sums[1]);
    sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])).total();
  }
  for (; i < n; ++i) {
    const float x = widen(row[i]);
    sum += x * x;
  }
  shared_fetch = fetch;
  return sum;
}

template <typename T>
float dot(const T* row, const float* vector, std::int64_t n) {
  Vector sums[kUnroll] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
  std::int64_t i = 0;
  for (; i + kUnroll * kLanes <= n; i += kUnroll * kLanes) {
    for (int u = 0; u < kUnroll; ++u) {
      const Vector x = Vector::load(row + i + u * kLanes);
      sums[u] = Vector::fma(x, Vector::load(vector + i + u * kLanes), sums[u]);
    }
  }
  float total = ((sums[0] + sums[1]) + (sums[2] + sums[3])).total();
  for (; i < n; ++i) total += widen(row[i]) * vector[i];
  return total;
}

template <typename T, int kCount>
void add_rows(const void* const* rows, const float* scales, float* sum, bool first, std::int64_t n,
              Fetch& shared_fetch) {
  Fetch fetch = shared_fetch;
  const T* row[kCount];
  Vector scale[kCount];
  for (int r = 0; r < kCount; ++r) {
    row[r] = static_cast<const T*>(rows[r]);
    scale[r] = Vector::all(scales[r]);
  }
  constexpr int kStepBytes = kCount * kPair * static_cast<int>(sizeof(T));
  const bool wide = n * static_cast<std::int64_t>(sizeof(T)) >= kWideRow;
  std::int64_t i = 0;
  for (; i + kPair <= n; i += kPair) {
    if (wide)
      fetch_share<kFetchedByAddOfWide<T>, kStepBytes>(fetch, i / kPair * kStepBytes);
    else
      fetch_share<kFetchedByAdd<T>, kStepBytes>(fetch, i / kPair * kStepBytes);
    Pair x = load_pair(row[0] + i);
    Vector low = x.low * scale[0], high = x.high * scale[0];
    for (int r = 1; r < kCount; ++r) {
      x = load_pair(row[r] + i);
      low = Vector::fma(x.low, scale[r], low);
      high = Vector::fma(x.high, scale[r], high);
    }
    if (!first) {
      low = low + Vector::load(sum + i);
      high = high + Vector::load(sum + i + kLanes);
    }
    low.store(sum + i);
    high.store(sum + i + kLanes);
  }
  for (; i < n; ++i) {
    float total = 0.0F;
    for (int r = 0; r < kCount; ++r) total += widen(row[r][i]) * scales[r];
    sum[i] = first ? total : sum[i] + total;
  }
  shared_fetch = fetch;
}

template <int kCount>
struct Count {
  static constexpr int value = kCount;
};

template <typename T>
void add_count(const void* const* rows, const float* scales, int count, float* sum, bool first, std::int64_t n,
               Fetch& fetch) {
  // Eight at once, then what is left in powers of two: four instantiations instead of eight.
  int done = 0;
  const auto some = [&](auto size) {
    constexpr int kCount = decltype(size)::value;
    add_rows<T, kCount>(rows + done, scales + done, sum, first && done == 0, n, fetch);
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
RowOperations operations() {
  return {
      [](const void* const* rows, int count, std::int64_t n, float* squares, Fetch& fetch) {
        for (int r = 0; r < count; ++r) squares[r] = square(static_cast<const T*>(rows[r]), n, fetch);
      },
      add_count<T>,
      [](const void* row, const float* vector, std::int64_t n) { return dot(static_cast<const T*>(row), vector, n); },
      add_to_total,
      natural<T>,
      kSplit<T> ? kPair : 1,
  };
}

RowTable table(const char* name) { return {name, {operations<float>(), operations<Half>(), operations<BFloat>()}}; }

}  // namespace
}  // namespace gainrl
