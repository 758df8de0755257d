// The kernels that work on each row by itself, compiled once for each instruction set: norms, gates, rotations.
#pragma once

#include "forward/kernels.h"
#include "forward/vector_math.h"

namespace gainrl {
namespace {

// What one row is normalised by, from the sum of its squares.
inline float inverse_rms(const Vector (&squares)[4], float rest, std::int64_t width, float eps) {
  const float sum = ((squares[0] + squares[1]) + (squares[2] + squares[3])).total() + rest;
  return 1.0F / sqrtf(sum / static_cast<float>(width) + eps);
}

template <typename T>
void normalise(const T* x, float scale, const float* weight, T* out, std::int64_t width) {
  constexpr int kLanes = Vector::kLanes;
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes)
    store(Vector::load(x + i) * Vector::all(scale) * Vector::load(weight + i), out + i);
  for (; i < width; ++i) narrow(widen(x[i]) * scale * weight[i], out + i);
}

// Gathers the squares of load(i) for each whole vector of a row, in four sums; returns where the rest begins.
template <typename Load>
std::int64_t gather(std::int64_t width, Vector (&squares)[4], const Load& load) {
  constexpr int kLanes = Vector::kLanes;
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes)
    for (int k = 0; k < 4; ++k) {
      const Vector v = load(i + k * kLanes);
      squares[k] = Vector::fma(v, v, squares[k]);
    }
  for (; i + kLanes <= width; i += kLanes) {
    const Vector v = load(i);
    squares[0] = Vector::fma(v, v, squares[0]);
  }
  return i;
}

template <typename T>
void rms_norm(const void* from, const float* weight, float eps, void* to, std::int64_t rows, std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* x = static_cast<const T*>(from) + r * width;
    Vector squares[4] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
    float rest = 0.0F;
    std::int64_t i = gather(width, squares, [x](std::int64_t at) { return Vector::load(x + at); });
    for (; i < width; ++i) rest += widen(x[i]) * widen(x[i]);
    normalise(x, inverse_rms(squares, rest, width, eps), weight, static_cast<T*>(to) + r * width, width);
  }
}

template <typename T>
void add_rms_norm(const void* from, const void* with, void* sums, const float* weight, float eps, void* to,
                  std::int64_t rows, std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* x = static_cast<const T*>(from) + r * width;
    const T* y = static_cast<const T*>(with) + r * width;
    T* sum = static_cast<T*>(sums) + r * width;
    Vector squares[4] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
    float rest = 0.0F;
    std::int64_t i = gather(width, squares, [x, y, sum](std::int64_t at) {
      store(Vector::load(x + at) + Vector::load(y + at), sum + at);
      return Vector::load(sum + at);  // as it was rounded
    });
    for (; i < width; ++i) {
      narrow(widen(x[i]) + widen(y[i]), sum + i);
      rest += widen(sum[i]) * widen(sum[i]);
    }
    if (to != nullptr)
      normalise(sum, inverse_rms(squares, rest, width, eps), weight, static_cast<T*>(to) + r * width, width);
  }
}

template <typename T>
void silu_mul(const void* from, const void* with, void* to, std::int64_t n) {
  constexpr int kLanes = Vector::kLanes;
  const T* gate = static_cast<const T*>(from);
  const T* up = static_cast<const T*>(with);
  T* out = static_cast<T*>(to);
  const auto product = [](Vector g, Vector u) {
    const Vector one = Vector::all(1.0F), unit = Vector::all(kQuick<T> ? -kLog2E : -1.0F);
    return quotient<T>(g, one + power<T>(g * unit)) * u;
  };
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(product(Vector::load(gate + i), Vector::load(up + i)), out + i);
  for (; i < n; ++i) {
    float block[kLanes];
    product(Vector::all(widen(gate[i])), Vector::all(widen(up[i]))).store(block);
    narrow(block[0], out + i);
  }
}

template <typename T>
void rotate(void* states, const void* cosines, const void* sines, std::int64_t rows, std::int64_t heads,
            std::int64_t width) {
  constexpr int kLanes = Vector::kLanes;
  const std::int64_t half = width / 2;
  for (std::int64_t r = 0; r < rows; ++r) {
    T* x = static_cast<T*>(states) + r * heads * width;
    const T* cosine = static_cast<const T*>(cosines) + r * width;
    const T* sine = static_cast<const T*>(sines) + r * width;
    std::int64_t i = 0;
    for (; i + kLanes <= half; i += kLanes) {
      const Vector cos_low = Vector::load(cosine + i), cos_high = Vector::load(cosine + half + i);
      const Vector sin_low = Vector::load(sine + i) * Vector::all(-1.0F), sin_high = Vector::load(sine + half + i);
      for (std::int64_t h = 0; h < heads; ++h) {
        T *low = x + h * width + i, *high = low + half;
        const Vector a = Vector::load(low), b = Vector::load(high);
        store(Vector::fma(b, sin_low, a * cos_low), low);
        store(Vector::fma(a, sin_high, b * cos_high), high);
      }
    }
    for (; i < half; ++i)
      for (std::int64_t h = 0; h < heads; ++h) {
        T *low = x + h * width + i, *high = low + half;
        const float a = widen(*low), b = widen(*high);
        narrow(a * widen(cosine[i]) - b * widen(sine[i]), low);
        narrow(b * widen(cosine[half + i]) + a * widen(sine[half + i]), high);
      }
  }
}

}  // namespace
}  // namespace gainrl
