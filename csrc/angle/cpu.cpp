#include "angle/cpu.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "angle/cpu_rows.h"
#include "angle/cpu_sequence.h"

namespace gainrl {
namespace {

const RowTable& rows() noexcept {
  static const RowTable chosen = [] {
    RowTable best = rows_plain();
#if defined(GAINRL_X86_64)
    const char* asked = std::getenv("GAINRL_CPU_ISA");
    const auto stop_at = [asked](const char* name) { return asked != nullptr && std::strcmp(asked, name) == 0; };
    __builtin_cpu_init();
    if (stop_at("plain") || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("f16c"))
      return best;
    best = rows_avx2();
    if (stop_at("avx2") || !__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
      return best;
    best = rows_avx512();
    if (stop_at("avx512") || !__builtin_cpu_supports("avx512bf16")) return best;
    best = rows_avx512bf16();
#endif
    return best;
  }();
  return chosen;
}

// A tile is a range of rows that one thread takes at a time.  Tiles depend on the input alone, not on the number of
// threads, and their partial sums are added in order, so the result is reproducible.
constexpr std::int64_t kSmallestTileBytes = std::int64_t{1} << 19, kLargestTileBytes = std::int64_t{1} << 24;
constexpr std::int64_t kTilesWanted = 64;

// A sequence longer than a tile leaves one of these per tile.  Rounding its sums to float32 loses little.
struct Partial {
  std::int64_t sequence = 0, question_rows = 0, prefix_rows = 0;
  std::int32_t flags = 0;
  const float *question = nullptr, *prefix = nullptr;  // (D), placed, or null
};

class Call {
 public:
  explicit Call(const AngleParams& params) : p_(params) {
    const RowTable& table = rows();
    context_ = {&p_, &table.operations[static_cast<int>(p_.dtype)], &table.operations[0], nullptr, 0.0};
    if (p_.shared_sum != nullptr) {
      placed_shared_.resize(static_cast<std::size_t>(p_.width));
      for (std::int64_t i = 0; i < p_.width; ++i) placed_shared_[context_.rows->place(i, p_.width)] = p_.shared_sum[i];
      context_.placed_shared = placed_shared_.data();
      context_.shared_square = context_.dot(p_.shared_sum, p_.shared_sum);
    }
    single_rows_ = p_.offsets != nullptr && p_.stride_column == 1 && p_.directions == nullptr;
    const std::int64_t row_bytes = std::max<std::int64_t>(1, p_.width * element_size(p_.dtype));
    // The partial sums of a tile, which are written and read again, should be a small part of the tile itself.
    const std::int64_t least = std::min(std::max(kSmallestTileBytes, p_.width * 4 * 256), kLargestTileBytes);
    const std::int64_t wanted = std::clamp(p_.rows * row_bytes / kTilesWanted, least, kLargestTileBytes);
    tile_rows_ = std::max<std::int64_t>(1, wanted / row_bytes);
    tiles_.resize(static_cast<std::size_t>(std::max<std::int64_t>(1, (p_.rows + tile_rows_ - 1) / tile_rows_)));
  }

  void run(int threads) {
    if (!offsets_in_order()) return write_bad_offsets();  // before any of them is used
    any_prefix_ = p_.shared_tokens > 0 && p_.sequences > 0;
    run_tiles(threads);
    join_partials();
    if (!any_prefix_) std::copy_n(p_.values, p_.sequences, p_.values + 2 * p_.sequences);
  }

 private:
  template <typename Offset>
  static bool in_order(const Offset* offsets, std::int64_t sequences, std::int64_t rows) {
    bool decreases = false;  // no early exit: the loop then runs in vectors
    for (std::int64_t b = 0; b < sequences; ++b) decreases |= offsets[b + 1] < offsets[b];
    return !decreases && offsets[0] >= 0 && offsets[sequences] <= rows;
  }

  bool offsets_in_order() const {
    if (p_.offsets == nullptr) return true;
    return p_.offsets_are_64 ? in_order(static_cast<const std::int64_t*>(p_.offsets), p_.sequences, p_.rows)
                             : in_order(static_cast<const std::int32_t*>(p_.offsets), p_.sequences, p_.rows);
  }

  std::int64_t start(std::int64_t b) const {
    if (p_.offsets == nullptr) return b * p_.length;
    return p_.offsets_are_64 ? static_cast<const std::int64_t*>(p_.offsets)[b]
                             : static_cast<const std::int32_t*>(p_.offsets)[b];
  }

  // The last sequence that starts at or before row t (for offsets in order: the one that holds t).
  std::int64_t sequence_at(std::int64_t t) const {
    if (p_.offsets == nullptr) return t / p_.length;
    std::int64_t low = 0, high = p_.sequences;
    while (high - low > 1) {
      const std::int64_t middle = low + (high - low) / 2;
      (start(middle) <= t ? low : high) = middle;
    }
    return low;
  }

  void run_tiles(int threads) {
    const std::int64_t count = static_cast<std::int64_t>(tiles_.size());
    std::atomic<std::int64_t> next{0};
    std::exception_ptr failure;
    std::atomic<bool> failed{false};
    auto loop = [&] {
      try {
        SequenceSum sum(context_);
        for (std::int64_t tile; !failed && (tile = next.fetch_add(1)) < count;) run_tile(sum, tile);
      } catch (...) {
        if (!failed.exchange(true)) failure = std::current_exception();
      }
    };
    on_threads(
        static_cast<int>(std::min<std::int64_t>(threads, (count + 1) / 2)),
        [](void* run) { (*static_cast<decltype(loop)*>(run))(); }, &loop);
    if (failed) std::rethrow_exception(failure);
  }

  void run_tile(SequenceSum& sum, std::int64_t tile) {
    const std::int64_t count = static_cast<std::int64_t>(tiles_.size());
    // Empty sequences are written by equal shares of the sequences.
    const std::int64_t sequences = p_.sequences;
    for (std::int64_t b = sequences * tile / count; b < sequences * (tile + 1) / count; ++b) {
      if (start(b + 1) != start(b)) continue;
      sum.clear();
      sum.finish(b);
    }
    const std::int64_t low = tile * tile_rows_, high = std::min(p_.rows, low + tile_rows_);
    if (sequences == 0 || low >= high) return;
    bool prefix = false;
    std::int64_t t = std::max(low, start(0));
    for (std::int64_t b = t < high ? sequence_at(t) : sequences; b < sequences && t < high; ++b) {
      const std::int64_t first = start(b), last = start(b + 1);
      const bool whole = last - first <= tile_rows_;
      const std::int64_t end = whole ? last : std::min(last, high);
      if (end <= t) continue;
      if (single_rows_ && last - first == 1) {
        int most = 1;
        while (most < kRowBatch && t + most < high && b + most < sequences && start(b + most + 1) == t + most + 1)
          ++most;
        if (const int done = sum.finish_single_rows(b, t, most)) {
          b += done - 1;
          t += done;
          continue;
        }
      }
      if (whole && first < low) {  // of the tile before
        t = end;
        continue;
      }
      sum.clear();
      sum.add_rows(b, t, end, high);
      if (whole) {
        prefix |= sum.finish(b);
      } else {
        keep(sum, tile, b);
      }
      t = end;
    }
    if (prefix) any_prefix_ = true;
  }

  void keep(SequenceSum& sum, std::int64_t tile, std::int64_t b) {
    sum.settle();
    Partial partial{b, sum.question.count, sum.prefix.count, sum.flags, {}, {}};
    for (auto [role, kept] : {std::pair{&sum.question, &partial.question}, std::pair{&sum.prefix, &partial.prefix}}) {
      if (role->count == 0) continue;
      float* out = room();
      std::copy_n(role->rounded(), p_.width, out);
      *kept = out;
    }
    tiles_[static_cast<std::size_t>(tile)].push_back(partial);
  }

  // Room for a sum that a Partial keeps.  All of it is one allocation, because the C library gives a single one back to
  // the next call without asking the system for its pages again: they would cost more than the sums.
  float* room() {
    const std::lock_guard<std::mutex> lock(rooms_lock_);
    if (rooms_ == nullptr) {
      const std::size_t tiles = tiles_.size(), sequences = static_cast<std::size_t>(p_.sequences);
      const std::size_t partials = tiles + std::min(tiles, sequences);  // a long sequence begins in a tile of its own
      rooms_.reset(new float[2 * partials * static_cast<std::size_t>(p_.width)]);
    }
    return rooms_.get() + rooms_taken_++ * p_.width;
  }

  // Adds the partial sums of sequences that lie in several tiles, in the order of their rows.
  void join_partials() {
    SequenceSum sum(context_);
    std::vector<const Partial*> parts;
    for (const auto& tile : tiles_)
      for (const Partial& partial : tile) parts.push_back(&partial);
    for (std::size_t i = 0; i < parts.size();) {
      const std::int64_t b = parts[i]->sequence;
      sum.clear();
      for (; i < parts.size() && parts[i]->sequence == b; ++i) {
        sum.question.add_part(parts[i]->question, parts[i]->question_rows);
        sum.prefix.add_part(parts[i]->prefix, parts[i]->prefix_rows);
        sum.flags |= parts[i]->flags;
      }
      if (sum.finish(b)) any_prefix_ = true;
    }
  }

  void write_bad_offsets() {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const std::int64_t n = p_.sequences;
    std::fill_n(p_.values, 4 * n, nan);
    std::fill_n(p_.counts, n, static_cast<std::int32_t>(kInvalidOffsets));
    std::fill_n(p_.counts + n, 2 * n, 0);
    if (p_.directions != nullptr) std::fill_n(p_.directions, n * p_.width, 0.0F);
  }

  const AngleParams& p_;
  CallContext context_{};
  std::vector<float> placed_shared_;
  bool single_rows_ = false;  // whether sequences of one row may be finished together
  std::int64_t tile_rows_ = 1;
  std::vector<std::vector<Partial>> tiles_;
  std::unique_ptr<float[]> rooms_;
  std::mutex rooms_lock_;
  std::int64_t rooms_taken_ = 0;
  std::atomic<bool> any_prefix_{false};
};

}  // namespace

Result angle_cpu(const AngleParams& params, int threads) noexcept {
  if (!usable(params)) return Result::kBadArgument;
  try {
    Call call(params);
    call.run(std::max(1, threads));
  } catch (const std::bad_alloc&) {
    return Result::kNoMemory;
  } catch (...) {
    return Result::kBadArgument;
  }
  return Result::kOk;
}

const char* angle_cpu_isa() noexcept { return rows().name; }

}  // namespace gainrl
