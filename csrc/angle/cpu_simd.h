// One vector of floats in the instruction set that this file is compiled for, loaded from float32, float16 or bfloat16.
// All in an unnamed namespace, so that the linker never merges what was compiled for different instruction sets.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace gainrl {
namespace {

struct Half {
  std::uint16_t bits;
};
struct BFloat {
  std::uint16_t bits;
};

inline float bits_to_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float widen(float x) { return x; }
inline float widen(BFloat x) { return bits_to_float(static_cast<std::uint32_t>(x.bits) << 16); }
inline float widen(Half x) {
  // The exponent moves from bias 15 to bias 127; subnormals become right by the multiplication, infinities and NaN
  // by the larger exponent.
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000U) << 16;
  std::uint32_t rest = static_cast<std::uint32_t>(x.bits & 0x7fffU) << 13;
  if ((x.bits & 0x7c00U) == 0x7c00U) {
    rest |= 0x7f800000U;
    return bits_to_float(sign | rest);
  }
  const float magnitude = bits_to_float(rest) * 0x1p112F;
  return (sign != 0) ? -magnitude : magnitude;
}

#if defined(__AVX512F__)

struct Vector {
  static constexpr int kLanes = 16;
  __m512 v;
  static Vector zero() { return {_mm512_setzero_ps()}; }
  static Vector all(float x) { return {_mm512_set1_ps(x)}; }
  static Vector load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vector load(const Half* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Vector load(const BFloat* p) {
    const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(packed), 16))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  static Vector fma(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  friend Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend Vector operator+(Vector a, Vector b) { return {_mm512_add_ps(a.v, b.v)}; }
  float total() const { return _mm512_reduce_add_ps(v); }
};

#elif defined(__AVX2__)

struct Vector {
  static constexpr int kLanes = 8;
  __m256 v;
  static Vector zero() { return {_mm256_setzero_ps()}; }
  static Vector all(float x) { return {_mm256_set1_ps(x)}; }
  static Vector load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vector load(const Half* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
  static Vector load(const BFloat* p) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(packed), 16))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  static Vector fma(Vector a, Vector b, Vector c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  friend Vector operator*(Vector a, Vector b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend Vector operator+(Vector a, Vector b) { return {_mm256_add_ps(a.v, b.v)}; }
  float total() const {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    half = _mm_add_ss(half, _mm_movehdup_ps(half));
    return _mm_cvtss_f32(half);
  }
};

#else

// Four lanes that the compiler turns into SSE2 or NEON.
struct Vector {
  static constexpr int kLanes = 4;
  float v[4];
  static Vector zero() { return {{0, 0, 0, 0}}; }
  static Vector all(float x) { return {{x, x, x, x}}; }
  template <typename T>
  static Vector load(const T* p) {
    return {{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])}};
  }
  void store(float* p) const { std::memcpy(p, v, sizeof v); }
  static Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }
  friend Vector operator*(Vector a, Vector b) {
    return {{a.v[0] * b.v[0], a.v[1] * b.v[1], a.v[2] * b.v[2], a.v[3] * b.v[3]}};
  }
  friend Vector operator+(Vector a, Vector b) {
    return {{a.v[0] + b.v[0], a.v[1] + b.v[1], a.v[2] + b.v[2], a.v[3] + b.v[3]}};
  }
  float total() const { return (v[0] + v[1]) + (v[2] + v[3]); }
};

#endif

// Two vectors of consecutive elements.  The elements of a Pair of bfloat16 come in the order of `kSplit`: the even ones
// in `low`, the odd ones in `high`, for a shift and a mask then do what takes two loads and two shuffles otherwise.
struct Pair {
  Vector low, high;
};

#if defined(__AVX2__)
template <typename T>
constexpr bool kSplit = std::is_same_v<T, BFloat>;
#else
template <typename T>
constexpr bool kSplit = false;
#endif

template <typename T>
inline Pair load_pair(const T* p) {
  return {Vector::load(p), Vector::load(p + Vector::kLanes)};
}

#if defined(__AVX512F__)
template <>
inline Pair load_pair<BFloat>(const BFloat* p) {
  __m512i both = _mm512_loadu_si512(p);
  asm("" : "+v"(both));  // or it is loaded by each of the two, which costs adding rows a tenth of its speed
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(both, 16))},
          {_mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000U))))}};
}
#elif defined(__AVX2__)
template <>
inline Pair load_pair<BFloat>(const BFloat* p) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {{_mm256_castsi256_ps(_mm256_slli_epi32(both, 16))},
          {_mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000U))))}};
}
#endif

}  // namespace
}  // namespace gainrl
