// Angle concentration of two prompts from C++: fills AngleParams, calls the CPU kernels, prints what the definition
// gives beside it, and fails if they differ.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "angle/cpu.h"

namespace {

// The definition: the mean of the cosines between the rows of two roles.
double mean_cosine(const std::vector<float>& rows, std::int64_t width, std::int64_t first, std::int64_t last,
                   const std::vector<std::int8_t>& roles, int left, int right) {
  double sum = 0.0;
  std::int64_t pairs = 0;
  for (std::int64_t i = first; i < last; ++i) {
    for (std::int64_t j = first; j < last; ++j) {
      if (roles[i] != left || roles[j] != right) continue;
      double dot = 0.0, a = 0.0, b = 0.0;
      for (std::int64_t c = 0; c < width; ++c) {
        const double x = rows[i * width + c], y = rows[j * width + c];
        dot += x * y;
        a += x * x;
        b += y * y;
      }
      sum += dot / std::sqrt(a * b);
      ++pairs;
    }
  }
  return sum / static_cast<double>(pairs);
}

}  // namespace

int main() {
  constexpr std::int64_t kWidth = 96;
  const std::vector<std::int64_t> offsets = {0, 20, 57};  // two prompts, packed one after the other
  const std::int64_t rows = offsets.back(), sequences = static_cast<std::int64_t>(offsets.size()) - 1;
  std::mt19937 random(0);
  std::normal_distribution<float> normal(0.5F, 1.0F);
  std::vector<float> hidden(rows * kWidth);
  for (float& x : hidden) x = normal(random);
  std::vector<std::int8_t> roles(rows, gainrl::kQuestion);
  for (std::int64_t b = 0; b < sequences; ++b)
    for (std::int64_t t = offsets[b]; t < offsets[b] + 8; ++t) roles[t] = gainrl::kPrefix;

  std::vector<float> values(4 * sequences);
  std::vector<std::int32_t> counts(3 * sequences);
  gainrl::AngleParams params;
  params.hidden = hidden.data();
  params.dtype = gainrl::DType::kFloat32;
  params.width = kWidth;
  params.stride_row = kWidth;
  params.sequences = sequences;
  params.rows = rows;
  params.offsets = offsets.data();
  params.offsets_are_64 = 1;
  params.roles = roles.data();
  params.values = values.data();
  params.counts = counts.data();
  if (gainrl::angle_cpu(params, 2) != gainrl::Result::kOk) {
    std::puts("angle_cpu refused the call");
    return 1;
  }

  double worst = 0.0;
  std::printf("%s kernels\nprompt  intra     inter     score\n", gainrl::angle_cpu_isa());
  for (std::int64_t b = 0; b < sequences; ++b) {
    const double intra = values[b], inter = values[sequences + b];
    std::printf("%6d  %.6f  %.6f  %.6f\n", static_cast<int>(b), intra, inter, values[2 * sequences + b]);
    const std::int64_t first = offsets[b], last = offsets[b + 1];
    worst = std::fmax(worst, std::fabs(intra - mean_cosine(hidden, kWidth, first, last, roles, 2, 2)));
    worst = std::fmax(worst, std::fabs(inter - mean_cosine(hidden, kWidth, first, last, roles, 2, 1)));
  }
  std::printf("largest difference from the definition: %.1e\n", worst);
  return worst < 2e-6 ? 0 : 1;
}
