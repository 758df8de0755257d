// Runs random cases of odd sizes through csrc/forward/cpu.h and compares them with the formulas in float64:
//
//   forward_driver CASES SEED THREADS
//
// It is built with sanitizers.  Every array is a block of the heap that ends with its last element, what lies between
// rows and heads is NaN, results begin as NaN, and each call is made again on several threads and must give the same
// bits.  THREADS run their own cases at once, as Python's do, which the kernels are called from without its lock.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "angle/cpu.h"
#include "arrays.h"
#include "forward/cpu.h"

namespace {

// Of the two long ones, the first shares its queries among threads, the second the shared tokens.
void attention(Random& random, DType dtype, std::int64_t number) {
  const bool large = number < 2;
  const std::int64_t kv_heads = large ? 1 : random.one_of({1, 1, 2, 3}),
                     group = large ? 1 : random.one_of({1, 2, 3, 7});
  const std::int64_t heads = kv_heads * group;
  const std::int64_t width = large ? 6 : random.one_of({1, 2, 3, 8, 15, 16, 17, 33, 40});
  const std::int64_t value_width = random.below(2) != 0 ? width : random.one_of({1, 5, 16, 31, 32, 50});
  const std::int64_t shared = large ? 1025 * number : random.one_of({0, 0, 1, 5, 16, 31, 87, 260});
  std::vector<std::int64_t> offsets{0};  // a block of its exact size, too
  if (large) {
    offsets = {0, 3, number == 0 ? 1030 : 9};
  } else {
    for (std::int64_t b = random.below(6); b > 0; --b)
      offsets.push_back(offsets.back() + random.one_of({0, 1, 2, 3, 7, 15, 16, 17, 24, 25, 31, 33, 70}));
  }
  offsets.shrink_to_fit();
  const std::int64_t rows = offsets.back();
  const bool side_by_side = random.below(2) != 0;
  const std::int64_t slack = random.below(4);
  Heads query(random, dtype, heads, rows, width, side_by_side, slack);
  Heads key(random, dtype, kv_heads, rows, width, side_by_side, slack);
  Heads value(random, dtype, kv_heads, rows, value_width, !side_by_side, slack);
  Heads shared_key(random, dtype, kv_heads, shared, width, !side_by_side, slack);
  Heads shared_value(random, dtype, kv_heads, shared, value_width, side_by_side, slack);

  gainrl::AttentionParams p;
  p.dtype = dtype;
  p.heads = heads, p.kv_heads = kv_heads, p.width = width, p.value_width = value_width;
  p.query = query.array.data(), p.query_head = query.head, p.query_row = query.row;
  p.key = key.array.data(), p.key_head = key.head, p.key_row = key.row;
  p.value = value.array.data(), p.value_head = value.head, p.value_row = value.row;
  p.shared = shared;
  if (shared > 0) {
    p.shared_key = shared_key.array.data(), p.shared_key_head = shared_key.head, p.shared_key_row = shared_key.row;
    p.shared_value = shared_value.array.data(), p.shared_value_head = shared_value.head;
    p.shared_value_row = shared_value.row;
  }
  p.sequences = static_cast<std::int64_t>(offsets.size()) - 1;
  p.offsets = offsets.data();
  p.scale = static_cast<float>(random.one_of({-2, 0, 1, 1, 3})) / std::sqrt(static_cast<float>(width));
  p.softcap = static_cast<float>(random.one_of({0, 0, 2}));
  p.window = random.one_of({0, 0, 1, 6, 130});
  const std::string what = "attention " + std::to_string(heads) + "/" + std::to_string(kv_heads) + " heads, widths " +
                           std::to_string(width) + " and " + std::to_string(value_width) + ", " + std::to_string(rows) +
                           " rows behind " + std::to_string(shared) + ", window " + std::to_string(p.window);
  const Array output(dtype, rows * heads * value_width, random.below(4));
  const Array given = on_one_and_several(random, output, what, [&](void* to, int threads) {
    gainrl::AttentionParams call = p;
    call.output = to;
    return gainrl::attention_cpu(call, threads);
  });

  std::vector<double> wanted(static_cast<std::size_t>(rows * heads * value_width));
  std::vector<double> weights;
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b)
    for (std::int64_t t = offsets[b]; t < offsets[b + 1]; ++t)
      for (std::int64_t h = 0; h < heads; ++h) {
        const std::int64_t position = shared + t - offsets[b], from = h / group;
        const std::int64_t first = p.window > 0 ? std::max<std::int64_t>(0, position - p.window + 1) : 0;
        weights.assign(static_cast<std::size_t>(position + 1 - first), 0.0);
        double highest = -INFINITY, sum = 0.0;
        for (std::int64_t j = first; j <= position; ++j) {
          double score = 0.0;
          for (std::int64_t i = 0; i < width; ++i)
            score +=
                query.at(h, t, i) * (j < shared ? shared_key.at(from, j, i) : key.at(from, offsets[b] + j - shared, i));
          score *= static_cast<double>(p.scale);
          if (p.softcap > 0.0F) score = p.softcap * std::tanh(score / p.softcap);
          weights[static_cast<std::size_t>(j - first)] = score;
          highest = std::max(highest, score);
        }
        for (double& weight : weights) sum += weight = std::exp(weight - highest);
        for (std::int64_t j = first; j <= position; ++j)
          for (std::int64_t i = 0; i < value_width; ++i)
            wanted[static_cast<std::size_t>((t * heads + h) * value_width + i)] +=
                weights[static_cast<std::size_t>(j - first)] / sum *
                (j < shared ? shared_value.at(from, j, i) : value.at(from, offsets[b] + j - shared, i));
      }
  require_near(given, wanted, dtype, what);
}

void norms(Random& random, DType dtype, bool wide) {
  const std::int64_t rows = random.one_of({0, 1, 2, 5, 33});
  const std::int64_t width = wide ? 70000 / 4 + random.below(3) : random.one_of({1, 3, 4, 7, 16, 31, 64, 65, 130, 257});
  const float offset = static_cast<float>(random.below(2)), eps = 1e-5F;
  Array x(dtype, rows * width, random.below(4)), y(dtype, rows * width, random.below(4)), weight(dtype, width);
  x.fill(random), y.fill(random), weight.fill(random);
  const std::string what = "norm of " + std::to_string(rows) + " x " + std::to_string(width);
  const auto normed = [&](const Array& of) {
    std::vector<double> wanted(static_cast<std::size_t>(rows * width));
    for (std::int64_t r = 0; r < rows; ++r) {
      double squares = 0.0;
      for (std::int64_t i = 0; i < width; ++i) squares += of[r * width + i] * of[r * width + i];
      for (std::int64_t i = 0; i < width; ++i)
        wanted[static_cast<std::size_t>(r * width + i)] =
            of[r * width + i] / std::sqrt(squares / static_cast<double>(width) + eps) * (weight[i] + offset);
    }
    return wanted;
  };
  const Array empty(dtype, rows * width, random.below(4));
  const Array given = on_one_and_several(random, empty, what, [&](void* to, int threads) {
    return gainrl::rms_norm_cpu(x.data(), weight.data(), offset, eps, to, rows, width, dtype, threads);
  });
  require_near(given, normed(x), dtype, what);
  const Array in_place = on_one_and_several(random, x, what + " in place", [&](void* to, int threads) {
    return gainrl::rms_norm_cpu(to, weight.data(), offset, eps, to, rows, width, dtype, threads);
  });
  require_near(in_place, normed(x), dtype, what + " in place");

  Array total(dtype, rows * width);
  const Array summed = on_one_and_several(random, empty, what + " of a sum", [&](void* to, int threads) {
    return gainrl::add_rms_norm_cpu(x.data(), y.data(), total.data(), weight.data(), offset, eps, to, rows, width,
                                    dtype, threads);
  });
  std::vector<double> sums(static_cast<std::size_t>(rows * width));
  for (std::int64_t i = 0; i < rows * width; ++i) sums[static_cast<std::size_t>(i)] = x[i] + y[i];
  require_near(total, sums, dtype, "sum before a " + what);
  require_near(summed, normed(total), dtype, what + " of a sum");
  const bool first = random.below(2) != 0;  // the sum in the place of the first or of the second, and no norm
  const Array sum = on_one_and_several(random, first ? x : y, "sum in place", [&](void* to, int threads) {
    return gainrl::add_rms_norm_cpu(first ? to : x.data(), first ? y.data() : to, to, nullptr, 0.0F, 0.0F, nullptr,
                                    rows, width, dtype, threads);
  });
  require_near(sum, sums, dtype, "sum in place");
}

void gates(Random& random, DType dtype, bool wide) {
  const std::int64_t n = wide ? 100001 + random.below(3) : random.one_of({0, 1, 3, 4, 7, 8, 15, 16, 17, 33, 257});
  Array gate(dtype, n, random.below(4)), up(dtype, n, random.below(4));
  gate.fill(random), up.fill(random);
  std::vector<double> wanted(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) wanted[static_cast<std::size_t>(i)] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
  const std::string what = "gate of " + std::to_string(n);
  require_near(on_one_and_several(random, Array(dtype, n), what,
                                  [&](void* to, int threads) {
                                    return gainrl::silu_mul_cpu(gate.data(), up.data(), to, n, dtype, threads);
                                  }),
               wanted, dtype, what);
  require_near(on_one_and_several(
                   random, gate, what + " in place",
                   [&](void* to, int threads) { return gainrl::silu_mul_cpu(to, up.data(), to, n, dtype, threads); }),
               wanted, dtype, what + " in place");
}

void rotations(Random& random, DType dtype, bool wide) {
  const std::int64_t rows = wide ? 700 : random.one_of({0, 1, 2, 9}), heads = random.one_of({1, 2, 5});
  const std::int64_t width = wide ? 64 : 2 * random.one_of({1, 2, 3, 8, 15, 16, 17, 33}), half = width / 2;
  Array x(dtype, rows * heads * width, random.below(4)), cosine(dtype, rows * width), sine(dtype, rows * width);
  x.fill(random), cosine.fill(random), sine.fill(random);
  std::vector<double> wanted(static_cast<std::size_t>(rows * heads * width));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t i = 0; i < width; ++i) {
        const std::int64_t at = (r * heads + h) * width;
        const double other = i < half ? -x[at + i + half] : x[at + i - half];
        wanted[static_cast<std::size_t>(at + i)] = x[at + i] * cosine[r * width + i] + other * sine[r * width + i];
      }
  const std::string what =
      "rotation of " + std::to_string(rows) + " x " + std::to_string(heads) + " x " + std::to_string(width);
  require_near(on_one_and_several(random, x, what,
                                  [&](void* to, int threads) {
                                    return gainrl::rotate_cpu(to, cosine.data(), sine.data(), rows, heads, width, dtype,
                                                              threads);
                                  }),
               wanted, dtype, what);
}

// Any bits at all (NaN, infinities, subnormals): nothing to compare with but the same on several threads.
void anything(Random& random, DType dtype) {
  const std::int64_t rows = 7, width = random.one_of({2, 18, 66});
  Array x(dtype, rows * width), y(dtype, rows * width), weight(dtype, width);
  x.fill_with_anything(random), y.fill_with_anything(random), weight.fill_with_anything(random);
  on_one_and_several(random, x, "norm of anything", [&](void* to, int threads) {
    return gainrl::rms_norm_cpu(to, weight.data(), 0.0F, 1e-6F, to, rows, width, dtype, threads);
  });
  on_one_and_several(random, x, "gate of anything", [&](void* to, int threads) {
    return gainrl::silu_mul_cpu(to, y.data(), to, rows * width, dtype, threads);
  });
  on_one_and_several(random, x, "rotation of anything", [&](void* to, int threads) {
    return gainrl::rotate_cpu(to, y.data(), y.data(), rows, 1, width, dtype, threads);
  });
  const std::vector<std::int64_t> offsets{0, 3, rows};
  gainrl::AttentionParams p;
  p.dtype = dtype;
  p.heads = p.kv_heads = 1, p.width = p.value_width = width;
  p.query = p.key = p.shared_key = x.data(), p.value = p.shared_value = y.data();
  p.query_row = p.key_row = p.value_row = p.shared_key_row = p.shared_value_row = width;
  p.shared = random.one_of({0, 5}), p.sequences = 2, p.offsets = offsets.data();
  p.softcap = static_cast<float>(random.one_of({0, 3}));
  on_one_and_several(random, Array(dtype, rows * width), "attention to anything", [&](void* to, int threads) {
    gainrl::AttentionParams call = p;
    call.output = to;
    return gainrl::attention_cpu(call, threads);
  });
}

void refusals() {
  const auto refused = [](Result result, const char* what) {
    if (result != Result::kBadArgument) fail(std::string("not refused: ") + what);
  };
  const DType f32 = DType::kFloat32, unknown = static_cast<DType>(3);
  Array x(f32, 8);
  void* const a = x.data();
  const std::vector<std::int64_t> backwards{0, 2, 1}, late{1, 2}, two{0, 2};
  gainrl::AttentionParams p;
  p.heads = p.kv_heads = 1, p.width = p.value_width = 4, p.sequences = 1, p.offsets = two.data();
  p.query = p.key = p.value = a, p.output = a, p.query_row = p.key_row = p.value_row = 4;
  const auto with = [&](const std::function<void(gainrl::AttentionParams&)>& change, const char* what) {
    gainrl::AttentionParams call = p;
    change(call);
    refused(gainrl::attention_cpu(call, 2), what);
  };
  with([&](auto& c) { c.dtype = unknown; }, "an unknown dtype");
  with([](auto& c) { c.kv_heads = 0; }, "no key heads");
  with([](auto& c) { c.heads = 3, c.kv_heads = 2; }, "3 heads for 2 key heads");
  with([](auto& c) { c.width = 0; }, "a width of 0");
  with([](auto& c) { c.window = -1; }, "a window of -1");
  with([](auto& c) { c.sequences = -1; }, "-1 sequences");
  with([](auto& c) { c.shared = 1; }, "shared tokens without an address");
  with([](auto& c) { c.query = nullptr; }, "no queries");
  with([](auto& c) { c.offsets = nullptr; }, "no offsets");
  with([&](auto& c) { c.offsets = backwards.data(), c.sequences = 2; }, "offsets out of order");
  with([&](auto& c) { c.offsets = late.data(); }, "offsets not from 0");
  refused(gainrl::rms_norm_cpu(a, a, 0.0F, 0.0F, a, 1, 8, unknown, 1), "an unknown dtype");
  refused(gainrl::rms_norm_cpu(a, nullptr, 0.0F, 0.0F, a, 1, 8, f32, 1), "no weight");
  refused(gainrl::rms_norm_cpu(a, a, 0.0F, 0.0F, a, -1, 8, f32, 1), "-1 rows");
  refused(gainrl::add_rms_norm_cpu(a, nullptr, a, a, 0.0F, 0.0F, a, 1, 8, f32, 1), "nothing to add");
  refused(gainrl::add_rms_norm_cpu(a, a, a, nullptr, 0.0F, 0.0F, a, 1, 8, f32, 1), "no weight");
  refused(gainrl::silu_mul_cpu(a, nullptr, a, 8, f32, 1), "no second factor");
  refused(gainrl::silu_mul_cpu(a, a, a, -1, f32, 1), "-1 elements");
  refused(gainrl::rotate_cpu(a, a, a, 1, 1, 3, f32, 1), "an odd width");
  refused(gainrl::rotate_cpu(a, a, nullptr, 1, 1, 4, f32, 1), "no sine");
}

void run(std::int64_t cases, unsigned seed) {
  Random random(seed);
  for (std::int64_t n = 0; n < cases; ++n)
    for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
      attention(random, dtype, n);
      norms(random, dtype, n == 0);
      gates(random, dtype, n == 0);
      rotations(random, dtype, n == 0);
      anything(random, dtype);
    }
}

}  // namespace

int main(int count, char** given) {
  if (count != 4) {
    std::fprintf(stderr, "usage: forward_driver CASES SEED THREADS\n");
    return 2;
  }
  const std::int64_t cases = std::atoll(given[1]);
  const unsigned seed = static_cast<unsigned>(std::atoi(given[2]));
  const unsigned callers = static_cast<unsigned>(std::atoi(given[3]));
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < callers; ++i) threads.emplace_back(run, cases, seed * callers + i);
  for (std::thread& thread : threads) thread.join();
  refusals();
  std::printf("%s: %lld cases\n", gainrl::angle_cpu_isa(), static_cast<long long>(cases * callers));
}
