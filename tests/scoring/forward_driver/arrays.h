// Random arrays that a sanitizer watches to their last element, and the comparison of results with float64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "angle/cpu.h"
#include "angle/cpu_sequence.h"
#include "angle/params.h"

using gainrl::DType;
using gainrl::Result;

[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", gainrl::angle_cpu_isa(), what.c_str());
  std::exit(1);
}

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(n)); }
  std::int64_t one_of(std::initializer_list<std::int64_t> choices) {
    return choices.begin()[below(static_cast<std::int64_t>(choices.size()))];
  }
  // A multiple of 1/64 in (-2, 2): exact in every dtype.
  float value() { return static_cast<float>(below(255) - 127) / 64.0F; }
  std::uint32_t bits() { return static_cast<std::uint32_t>(engine_()); }

 private:
  std::mt19937_64 engine_;
};

// An element, exact for what Random::value gives, for NaN and for 0.
inline void put(void* to, DType dtype, float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  std::uint16_t half = static_cast<std::uint16_t>(bits >> 16);
  if (dtype == DType::kFloat32) {
    std::memcpy(to, &x, sizeof x);
    return;
  }
  if (dtype == DType::kFloat16) {
    const std::uint32_t sign = (bits >> 16) & 0x8000U, magnitude = bits & 0x7fffffffU;
    half = static_cast<std::uint16_t>(sign | (std::isnan(x) ? 0x7e00U : x == 0.0F ? 0U : (magnitude >> 13) - 0x1c000U));
  }
  std::memcpy(to, &half, sizeof half);
}

// `count` elements at the end of a block of the heap, after `before` others (which put them off its alignment).
class Array {
 public:
  Array(DType dtype, std::int64_t count, std::int64_t before = 0)
      : dtype_(dtype), size_(gainrl::element_size(dtype)), count_(count), bytes_((before + count) * size_) {
    block_.reset(new unsigned char[static_cast<std::size_t>(bytes_)]);
    data_ = block_.get() + before * size_;
    for (std::int64_t i = -before; i < count; ++i) put(data_ + i * size_, dtype, NAN);
  }
  Array(const Array& other) : Array(other.dtype_, other.count_, other.bytes_ / other.size_ - other.count_) {
    std::memcpy(block_.get(), other.block_.get(), static_cast<std::size_t>(bytes_));
  }
  void fill(Random& random) {
    for (std::int64_t i = 0; i < count_; ++i) set(i, random.value());
  }
  void fill_with_anything(Random& random) {
    for (std::int64_t i = 0; i < count_; ++i) {
      const std::uint32_t bits = random.bits();
      std::memcpy(data_ + i * size_, &bits, static_cast<std::size_t>(size_));
    }
  }
  void set(std::int64_t i, float x) { put(data_ + i * size_, dtype_, x); }
  double operator[](std::int64_t i) const { return gainrl::element_as_float(data_, dtype_, i); }
  void* data() { return data_; }
  const void* data() const { return data_; }
  std::int64_t count() const { return count_; }
  bool operator==(const Array& other) const {
    return bytes_ == other.bytes_ &&
           std::memcmp(block_.get(), other.block_.get(), static_cast<std::size_t>(bytes_)) == 0;
  }

 private:
  DType dtype_;
  std::int64_t size_, count_, bytes_;
  std::unique_ptr<unsigned char[]> block_;
  unsigned char* data_;
};

// (heads, rows, width) with the last element of the last row at the end of the block.
struct Heads {
  std::int64_t head, row;
  Array array;

  static std::int64_t extent(std::int64_t heads, std::int64_t rows, std::int64_t width, std::int64_t head,
                             std::int64_t row) {
    return heads == 0 || rows == 0 ? 0 : (heads - 1) * head + (rows - 1) * row + width;
  }
  Heads(Random& random, DType dtype, std::int64_t heads, std::int64_t rows, std::int64_t width, bool side_by_side,
        std::int64_t slack)
      : head(side_by_side ? width + slack : rows * (width + slack)),
        row(side_by_side ? heads * (width + slack) : width + slack),
        array(dtype, extent(heads, rows, width, head, row), random.below(4)) {
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t t = 0; t < rows; ++t)
        for (std::int64_t i = 0; i < width; ++i) array.set(h * head + t * row + i, random.value());
  }
  double at(std::int64_t h, std::int64_t t, std::int64_t i) const { return array[h * head + t * row + i]; }
};

inline double tolerance(DType dtype) {
  return dtype == DType::kFloat32 ? 2e-5 : dtype == DType::kFloat16 ? 4e-3 : 3e-2;
}

inline void require_near(const Array& given, const std::vector<double>& wanted, DType dtype, const std::string& what) {
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double difference = std::fabs(given[static_cast<std::int64_t>(i)] - wanted[i]);
    if (!(difference <= tolerance(dtype) * std::max(1.0, std::fabs(wanted[i]))))
      fail(what + ", element " + std::to_string(i) + ": " + std::to_string(given[static_cast<std::int64_t>(i)]) +
           " for " + std::to_string(wanted[i]));
  }
}

// Calls once on one thread and once on several, each with results of its own, made by copying `before`.
inline Array on_one_and_several(Random& random, const Array& before, const std::string& what,
                                const std::function<Result(void*, int)>& call) {
  Array one(before), several(before);
  if (call(one.data(), 1) != Result::kOk || call(several.data(), static_cast<int>(2 + random.below(4))) != Result::kOk)
    fail(what + ": refused");
  if (!(one == several)) fail(what + ": another result on several threads");
  return one;
}
