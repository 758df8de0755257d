#include "forward/cpu.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "angle/cpu.h"
#include "angle/cpu_sequence.h"
#include "angle/cpu_threads.h"
#include "forward/kernels.h"

namespace gainrl {
namespace {

const ForwardTable& table() noexcept {
  static const ForwardTable chosen = [] {
#if defined(GAINRL_X86_64)
    const char* isa = angle_cpu_isa();
    if (std::strcmp(isa, "avx512bf16") == 0) return forward_avx512bf16();
    if (std::strcmp(isa, "avx512") == 0) return forward_avx512();
    if (std::strcmp(isa, "avx2") == 0) return forward_avx2();
#endif
    return forward_plain();
  }();
  return chosen;
}

bool known(DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16; }

const ForwardKernels& kernels(DType dtype) noexcept { return table().kernels[static_cast<int>(dtype)]; }

// Calls work(i) for each i < count on at most `threads` threads, with what `make` makes for each thread; false if there
// was no memory.
template <typename Make, typename Work>
bool for_each(std::int64_t count, int threads, const Make& make, const Work& work) {
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> failed{false};
  auto loop = [&] {
    try {
      auto own = make();
      for (std::int64_t i; !failed && (i = next.fetch_add(1)) < count;) work(own, i);
    } catch (...) {  // nothing but memory can run out
      failed = true;
    }
  };
  on_threads(
      static_cast<int>(std::clamp<std::int64_t>(count, 1, std::max(1, threads))),
      [](void* run) { (*static_cast<decltype(loop)*>(run))(); }, &loop);
  return !failed;
}

// Queries of a long sequence are shared among threads in pieces of this many, each with keys and values laid out anew.
constexpr std::int64_t kTaskQueries = 1024;
// About as many bytes as one thread takes at a time of an elementwise kernel.
constexpr std::int64_t kPieceBytes = std::int64_t{1} << 16;

const void* at(const void* first, std::int64_t bytes) { return static_cast<const char*>(first) + bytes; }
void* at(void* first, std::int64_t bytes) { return static_cast<char*>(first) + bytes; }

// Calls work(offset in bytes, rows) on pieces of `rows` rows.
template <typename Work>
Result for_rows(std::int64_t rows, std::int64_t row_bytes, int threads, const Work& work) {
  const std::int64_t piece = std::max<std::int64_t>(1, kPieceBytes / row_bytes), pieces = (rows + piece - 1) / piece;
  const auto run = [&](int, std::int64_t i) {
    const std::int64_t first = i * piece;
    work(first * row_bytes, std::min(piece, rows - first));
  };
  return for_each(pieces, threads, [] { return 0; }, run) ? Result::kOk : Result::kNoMemory;
}

std::vector<float> scales(const void* weight, float offset, std::int64_t width, DType dtype) {
  std::vector<float> scale(static_cast<std::size_t>(width));
  for (std::int64_t i = 0; i < width; ++i) scale[i] = element_as_float(weight, dtype, i) + offset;
  return scale;
}

// Memory for laid-out tokens, filled by the kernels.
struct Tokens {
  std::unique_ptr<float[]> words;
  PackedTokens view;

  Tokens() = default;
  Tokens(const AttentionParams& p, std::int64_t count) {
    const std::int64_t keys = packed_keys(count, p.width);
    words.reset(new float[static_cast<std::size_t>(keys + packed_values(count, p.value_width))]);
    view = {count, words.get(), words.get() + keys};
  }
};

struct Scratch {
  Tokens own;
  std::unique_ptr<float[]> words;
  AttentionScratch view;

  Scratch(const AttentionParams& p, std::int64_t longest) : own(p, longest) {
    const std::int64_t queries = kTileRows * (p.width + 1), scores = kTileRows * kBlock;
    const std::int64_t outputs = kTileRows * round_up(p.value_width, kWidestLanes);
    words.reset(new float[static_cast<std::size_t>(queries + 2 * scores + outputs)]);
    float* next = words.get();
    view.own = own.view;
    view.queries = next;
    view.scores = next += queries;
    view.outputs = next += scores;
    view.weights = reinterpret_cast<std::uint16_t*>(next + outputs);
  }
};

bool usable(const AttentionParams& p) {
  if (!known(p.dtype) || p.heads < 1 || p.kv_heads < 1 || p.heads % p.kv_heads != 0) return false;
  if (p.width < 1 || p.value_width < 1 || p.sequences < 0 || p.shared < 0 || p.window < 0) return false;
  if (p.sequences == 0) return true;
  if (p.offsets == nullptr || p.offsets[0] != 0) return false;
  for (std::int64_t b = 0; b < p.sequences; ++b)
    if (p.offsets[b + 1] < p.offsets[b]) return false;
  if (p.shared > 0 && (p.shared_key == nullptr || p.shared_value == nullptr)) return false;
  return p.offsets[p.sequences] == 0 ||
         (p.query != nullptr && p.key != nullptr && p.value != nullptr && p.output != nullptr);
}

}  // namespace

Result attention_cpu(const AttentionParams& params, int threads) noexcept {
  if (!usable(params)) return Result::kBadArgument;
  const ForwardKernels& kernel = kernels(params.dtype);
  try {
    std::vector<AttentionTask> tasks;
    std::int64_t longest = 0;
    for (std::int64_t b = 0; b < params.sequences; ++b) {
      const std::int64_t length = params.offsets[b + 1] - params.offsets[b];
      longest = std::max(longest, length);
      for (std::int64_t head = 0; head < params.kv_heads; ++head)
        for (std::int64_t first = 0; first < length; first += kTaskQueries)
          tasks.push_back({b, head, first, std::min(length, first + kTaskQueries)});
    }
    std::vector<Tokens> shared(static_cast<std::size_t>(params.shared > 0 ? params.kv_heads : 0));
    for (Tokens& tokens : shared) tokens = Tokens(params, params.shared);
    const auto nothing = [] { return 0; };
    if (params.shared > 0 &&
        !for_each(params.kv_heads, params.shared < 1024 ? 1 : threads, nothing, [&](int, std::int64_t head) {
          kernel.pack_shared(params, head, shared[static_cast<std::size_t>(head)].view);
        }))
      return Result::kNoMemory;
    const bool done = for_each(
        static_cast<std::int64_t>(tasks.size()), threads, [&] { return Scratch(params, longest); },
        [&](const Scratch& scratch, std::int64_t i) {
          const AttentionTask& task = tasks[static_cast<std::size_t>(i)];
          const PackedTokens none,
              &before = shared.empty() ? none : shared[static_cast<std::size_t>(task.kv_head)].view;
          kernel.attend(params, task, before, scratch.view);
        });
    return done ? Result::kOk : Result::kNoMemory;
  } catch (...) {
    return Result::kNoMemory;
  }
}

Result rms_norm_cpu(const void* x, const void* weight, float weight_offset, float eps, void* out, std::int64_t rows,
                    std::int64_t width, DType dtype, int threads) noexcept {
  if (!known(dtype) || rows < 0 || width < 1) return Result::kBadArgument;
  if (rows == 0) return Result::kOk;
  if (x == nullptr || weight == nullptr || out == nullptr) return Result::kBadArgument;
  try {
    const std::vector<float> scale = scales(weight, weight_offset, width, dtype);
    return for_rows(rows, width * element_size(dtype), threads, [&](std::int64_t offset, std::int64_t count) {
      kernels(dtype).rms_norm(at(x, offset), scale.data(), eps, at(out, offset), count, width);
    });
  } catch (...) {
    return Result::kNoMemory;
  }
}

Result add_rms_norm_cpu(const void* x, const void* y, void* sum, const void* weight, float weight_offset, float eps,
                        void* out, std::int64_t rows, std::int64_t width, DType dtype, int threads) noexcept {
  if (!known(dtype) || rows < 0 || width < 1) return Result::kBadArgument;
  if (rows == 0) return Result::kOk;
  if (x == nullptr || y == nullptr || sum == nullptr) return Result::kBadArgument;
  if (out != nullptr && weight == nullptr) return Result::kBadArgument;
  try {
    std::vector<float> scale;
    if (out != nullptr) scale = scales(weight, weight_offset, width, dtype);
    return for_rows(rows, width * element_size(dtype), threads, [&](std::int64_t offset, std::int64_t count) {
      kernels(dtype).add_rms_norm(at(x, offset), at(y, offset), at(sum, offset), scale.data(), eps,
                                  out == nullptr ? nullptr : at(out, offset), count, width);
    });
  } catch (...) {
    return Result::kNoMemory;
  }
}

Result silu_mul_cpu(const void* gate, const void* up, void* out, std::int64_t n, DType dtype, int threads) noexcept {
  if (!known(dtype) || n < 0) return Result::kBadArgument;
  if (n == 0) return Result::kOk;
  if (gate == nullptr || up == nullptr || out == nullptr) return Result::kBadArgument;
  return for_rows(n, element_size(dtype), threads, [&](std::int64_t offset, std::int64_t count) {
    kernels(dtype).silu_mul(at(gate, offset), at(up, offset), at(out, offset), count);
  });
}

Result rotate_cpu(void* x, const void* cosine, const void* sine, std::int64_t rows, std::int64_t heads,
                  std::int64_t width, DType dtype, int threads) noexcept {
  if (!known(dtype) || rows < 0 || heads < 1 || width < 2 || width % 2 != 0) return Result::kBadArgument;
  if (rows == 0) return Result::kOk;
  if (x == nullptr || cosine == nullptr || sine == nullptr) return Result::kBadArgument;
  return for_rows(rows, heads * width * element_size(dtype), threads, [&](std::int64_t offset, std::int64_t count) {
    kernels(dtype).rotate(at(x, offset), at(cosine, offset / heads), at(sine, offset / heads), count, heads, width);
  });
}

}  // namespace gainrl
