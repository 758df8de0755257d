// What the forward kernels need of a vector beyond angle/cpu_simd.h: maximum, exponential, and rounding to the dtype.
#pragma once

#include <math.h>

#include "angle/cpu_simd.h"

namespace gainrl {
namespace {

inline std::uint32_t float_to_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline void narrow(float x, float* out) { *out = x; }
inline void narrow(float x, BFloat* out) {  // to nearest, ties to even; NaN stays NaN
  const std::uint32_t bits = float_to_bits(x);
  out->bits = static_cast<std::uint16_t>(x != x ? (bits >> 16) | 0x40U : (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}
inline void narrow(float x, Half* out) {
  const std::uint32_t bits = float_to_bits(x), sign = (bits >> 16) & 0x8000U, magnitude = bits & 0x7fffffffU;
  std::uint32_t half;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U;
  } else if (magnitude >= 0x47800000U) {
    half = 0x7c00U;  // 65536 and above
  } else if (magnitude < 0x38800000U) {
    // Subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the lowest bits.
    half = float_to_bits(bits_to_float(magnitude) + 0.5F) - 0x3f000000U;
  } else {
    half = (magnitude + 0xc8000fffU + ((magnitude >> 13) & 1U)) >> 13;  // may round up to infinity, rightly
  }
  out->bits = static_cast<std::uint16_t>(sign | half);
}

// exp up to x = 88, constant beyond: at most 2 units in the last place; 0 below -87.  NaN stays NaN (minimum and
// maximum return their second operand then). 2^k * p(r) with r = x - k ln 2, |r| <= ln 2 / 2, p the polynomial of
// degree 6 of Cephes' expf.
constexpr float kLog2E = 1.44269504088896341F, kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
constexpr float kExp[6] = {1.9875691500e-4F, 1.3981999507e-3F, 8.3334519073e-3F,
                           4.1665795894e-2F, 1.6666665459e-1F, 5.0000001201e-1F};
constexpr float kLowest = -87.0F, kHighest = 89.0F;

#if defined(__AVX512F__)

inline Vector maximum(Vector a, Vector b) { return {_mm512_max_ps(a.v, b.v)}; }
inline float highest(Vector a) { return _mm512_reduce_max_ps(a.v); }
inline Vector divide(Vector a, Vector b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vector exponential(Vector x) {
  const __mmask16 kept = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(kLowest), _CMP_NLT_UQ);
  const __m512 bounded = _mm512_min_ps(_mm512_set1_ps(kHighest), _mm512_max_ps(_mm512_set1_ps(kLowest), x.v));
  const __m512 k = _mm512_roundscale_ps(_mm512_mul_ps(bounded, _mm512_set1_ps(kLog2E)), 0);
  __m512 r = _mm512_fnmadd_ps(k, _mm512_set1_ps(kLn2High), bounded);
  r = _mm512_fnmadd_ps(k, _mm512_set1_ps(kLn2Low), r);
  __m512 p = _mm512_set1_ps(kExp[0]);
  for (int i = 1; i < 6; ++i) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kExp[i]));
  p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0F)));
  return {_mm512_maskz_scalef_ps(kept, p, k)};
}

#elif defined(__AVX2__)

inline Vector maximum(Vector a, Vector b) { return {_mm256_max_ps(a.v, b.v)}; }
inline float highest(Vector a) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
inline Vector divide(Vector a, Vector b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vector exponential(Vector x) {
  const __m256 kept = _mm256_cmp_ps(x.v, _mm256_set1_ps(kLowest), _CMP_NLT_UQ);
  const __m256 bounded = _mm256_min_ps(_mm256_set1_ps(kHighest), _mm256_max_ps(_mm256_set1_ps(kLowest), x.v));
  const __m256 k = _mm256_round_ps(_mm256_mul_ps(bounded, _mm256_set1_ps(kLog2E)), 0);
  __m256 r = _mm256_fnmadd_ps(k, _mm256_set1_ps(kLn2High), bounded);
  r = _mm256_fnmadd_ps(k, _mm256_set1_ps(kLn2Low), r);
  __m256 p = _mm256_set1_ps(kExp[0]);
  for (int i = 1; i < 6; ++i) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp[i]));
  p = _mm256_fmadd_ps(_mm256_mul_ps(p, r), r, _mm256_add_ps(r, _mm256_set1_ps(1.0F)));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127)), 23);
  return {_mm256_and_ps(kept, _mm256_mul_ps(p, _mm256_castsi256_ps(power)))};
}

#else

inline Vector maximum(Vector a, Vector b) {
  Vector out;
  for (int i = 0; i < Vector::kLanes; ++i) out.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return out;
}
inline float highest(Vector a) {
  const float low = a.v[0] > a.v[1] ? a.v[0] : a.v[1], high = a.v[2] > a.v[3] ? a.v[2] : a.v[3];
  return low > high ? low : high;
}
inline Vector divide(Vector a, Vector b) {
  return {{a.v[0] / b.v[0], a.v[1] / b.v[1], a.v[2] / b.v[2], a.v[3] / b.v[3]}};
}
inline Vector exponential(Vector x) {
  Vector out;
  for (int i = 0; i < Vector::kLanes; ++i)
    out.v[i] = x.v[i] < kLowest ? 0.0F : expf(x.v[i] > kHighest ? kHighest : x.v[i]);
  return out;
}

#endif

// Where T has 16 bits and scalef exists, `power` is 2^x by a shorter polynomial; elsewhere it is e^x, `exponential`.
#if defined(__AVX512F__)
template <typename T>
constexpr bool kQuick = !std::is_same_v<T, float>;
#else
template <typename T>
constexpr bool kQuick = false;
#endif

// 2^x or e^x, see kQuick.  2^x is within 3e-6: k + r = x with |r| <= 1/2, and a minimax polynomial of degree 4.
template <typename T>
Vector power(Vector x) {
#if defined(__AVX512F__)
  if constexpr (kQuick<T>) {
    constexpr float kPower[5] = {9.570102207e-03F, 5.591786280e-02F, 2.402474433e-01F, 6.931217909e-01F,
                                 9.999992847e-01F};
    // Beyond 200 all is infinity or 0.  NaN stays NaN: minimum and maximum return their second operand then.
    const __m512 bounded = _mm512_min_ps(_mm512_set1_ps(200.0F), _mm512_max_ps(_mm512_set1_ps(-200.0F), x.v));
    const __m512 k = _mm512_roundscale_ps(bounded, 0), r = _mm512_sub_ps(bounded, k);
    __m512 p = _mm512_set1_ps(kPower[0]);
    for (int i = 1; i < 5; ++i) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kPower[i]));
    return {_mm512_scalef_ps(p, k)};
  }
#endif
  return exponential(x);
}

// a / b; where T has 8 bits of precision, a times b's reciprocal within 2^-14.
template <typename T>
Vector quotient(Vector a, Vector b) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, BFloat>) return {_mm512_mul_ps(a.v, _mm512_rcp14_ps(b.v))};
#endif
  return divide(a, b);
}

// A vector rounded to the dtype, as `narrow` does each element.
inline void store(Vector x, float* to) { x.store(to); }
#if defined(__AVX512F__)
inline void store(Vector x, Half* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
#if defined(__AVX512BF16__)
inline void store(Vector x, BFloat* to) {  // below 1.2e-38: 0
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x.v));
}
#else
inline void store(Vector x, BFloat* to) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
#endif
#else
template <typename T>
void store(Vector x, T* to) {
  float block[Vector::kLanes];
  x.store(block);
  for (int i = 0; i < Vector::kLanes; ++i) narrow(block[i], to + i);
}
#endif

// cap * tanh(x / cap).  Element by element: few models ask for it, and near zero it must be as exact as its argument.
inline Vector capped(Vector x, float cap) {
  float elements[Vector::kLanes];
  x.store(elements);
  for (float& element : elements) element = cap * tanhf(element / cap);
  return Vector::load(elements);
}

}  // namespace
}  // namespace gainrl
