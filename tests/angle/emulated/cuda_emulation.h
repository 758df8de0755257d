// Runs the CUDA kernels on the host: blocks one after the other, each thread of a block as a fibre of its own that
// yields at every barrier and warp exchange.
//
// What it finds, under AddressSanitizer and UndefinedBehaviorSanitizer: reads and writes out of bounds of every global
// buffer and of shared memory, misaligned vector accesses, integer overflow, barriers that only some threads reach (it
// stops with a message), use of shared memory before its asynchronous copy was waited for or before anybody wrote it
// (it holds NaN until then), and missing barriers (fibres run in different orders; the result must not change). What it
// cannot find: weak memory ordering between blocks, and anything about speed.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __device__
#define __global__ static
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct alignas(16) uint4 {
  std::uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulation {

struct Index {
  unsigned x = 0, y = 0;
};

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

struct Fibre {
  Index index;
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  void* fake_stack = nullptr;
  bool done = false;
  std::vector<std::vector<Copy>> groups{1};  // the last one is open
};

// A point that a number of fibres must reach together, twice buffered so that values outlive the meeting.
struct Meeting {
  int members = 0, arrived = 0, kind = 0;
  std::uint64_t generation = 0;
  std::vector<double> values[2];
};

constexpr std::size_t kStackBytes = 256 * 1024;

struct Block {
  Index block, grid;
  unsigned threads = 0;
  std::vector<Fibre> fibres;
  Meeting all;
  std::vector<Meeting> warps;
  std::unique_ptr<unsigned char[]> shared;
  ucontext_t scheduler;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_stack_bytes = 0;
  Fibre* current = nullptr;
  std::uint64_t progress = 0;
  void (*body)(const void*) = nullptr;
  const void* arguments = nullptr;
};

inline Block* running = nullptr;

[[noreturn]] inline void stop(const char* why) {
  std::fprintf(stderr, "emulated CUDA: %s (block %u,%u thread %u)\n", why, running->block.x, running->block.y,
               running->current ? running->current->index.x : 0);
  std::abort();
}

inline void to_scheduler(bool last) {
  Fibre* self = running->current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &self->fake_stack, running->scheduler_stack,
                                 running->scheduler_stack_bytes);
#else
  (void)last;
#endif
  swapcontext(&self->context, &running->scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(self->fake_stack, nullptr, nullptr);
#endif
}

inline void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &running->scheduler_stack, &running->scheduler_stack_bytes);
#endif
  running->body(running->arguments);
  running->current->done = true;
  ++running->progress;
  to_scheduler(true);
}

// Leaves `value` at the meeting and returns all members' values once everybody has come.
inline const std::vector<double>& meet(Meeting& meeting, int member, int kind, double value) {
  const std::uint64_t generation = meeting.generation;
  std::vector<double>& values = meeting.values[generation % 2];
  if (meeting.arrived == 0) meeting.kind = kind;
  if (meeting.kind != kind) stop("threads wait at different barriers");
  values[static_cast<std::size_t>(member)] = value;
  ++running->progress;
  if (++meeting.arrived == meeting.members) {
    meeting.arrived = 0;
    ++meeting.generation;
  }
  while (meeting.generation == generation) to_scheduler(false);
  return values;
}

inline int thread_number() { return static_cast<int>(running->current->index.x); }
inline const std::vector<double>& meet_block(int kind, double value) {
  return meet(running->all, thread_number(), kind, value);
}
inline const std::vector<double>& meet_warp(int kind, double value) {
  return meet(running->warps[static_cast<std::size_t>(thread_number() / 32)], thread_number() % 32, kind, value);
}

// Runs one kernel.  `order` 0 runs blocks and fibres forwards, 1 backwards, anything else shuffles the blocks once and
// the fibres anew each round.
template <typename Arguments>
void launch(void (*kernel)(Arguments), const Arguments& arguments, Index grid, unsigned threads, std::size_t shared,
            unsigned order) {
  static void (*chosen)(Arguments);
  chosen = kernel;
  std::mt19937 random(order);
  Block block;
  block.grid = grid;
  block.threads = threads;
  block.body = [](const void* a) { chosen(*static_cast<const Arguments*>(a)); };
  block.arguments = &arguments;
  running = &block;
  std::vector<std::unique_ptr<char[]>> stacks;
  for (unsigned t = 0; t < threads; ++t) stacks.emplace_back(new char[kStackBytes]);
  std::vector<unsigned> turn(threads);
  std::iota(turn.begin(), turn.end(), 0U);
  std::vector<Index> blocks;
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y});
  if (order == 1) std::reverse(blocks.begin(), blocks.end());
  if (order > 1) std::shuffle(blocks.begin(), blocks.end(), random);
  for (const Index& one : blocks) {
    block.block = one;
    block.shared.reset(new unsigned char[shared]);
    std::memset(block.shared.get(), 0xff, shared);
    block.fibres = std::vector<Fibre>(threads);
    const auto meeting = [](int members) {
      Meeting m;
      m.members = members;
      for (auto& values : m.values) values.assign(static_cast<std::size_t>(members), 0.0);
      return m;
    };
    block.all = meeting(static_cast<int>(threads));
    block.warps.assign(threads / 32, meeting(32));
    for (unsigned t = 0; t < threads; ++t) {
      Fibre& fibre = block.fibres[t];
      fibre.index.x = t;
      fibre.stack = std::move(stacks[t]);
      getcontext(&fibre.context);
      fibre.context.uc_stack.ss_sp = fibre.stack.get();
      fibre.context.uc_stack.ss_size = kStackBytes;
      fibre.context.uc_link = nullptr;
      makecontext(&fibre.context, enter, 0);
    }
    for (unsigned left = threads; left > 0;) {
      if (order == 1) std::sort(turn.begin(), turn.end(), [](unsigned a, unsigned b) { return a > b; });
      if (order > 1) std::shuffle(turn.begin(), turn.end(), random);
      const std::uint64_t before = block.progress;
      for (const unsigned t : turn) {
        Fibre& fibre = block.fibres[t];
        if (fibre.done) continue;
        block.current = &fibre;
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(&block.scheduler_fake_stack, fibre.stack.get(), kStackBytes);
#endif
        swapcontext(&block.scheduler, &fibre.context);
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(block.scheduler_fake_stack, nullptr, nullptr);
#endif
        left -= fibre.done ? 1U : 0U;
      }
      if (block.progress == before) stop("some threads wait for a barrier that the others never reach");
    }
    for (unsigned t = 0; t < threads; ++t) stacks[t] = std::move(block.fibres[t].stack);
  }
  running = nullptr;
}

}  // namespace emulation

#define threadIdx (emulation::running->current->index)
#define blockIdx (emulation::running->block)
#define gridDim (emulation::running->grid)
#define blockDim (emulation::Index{emulation::running->threads, 1})

namespace gainrl {

inline unsigned char* dynamic_shared() { return emulation::running->shared.get(); }

using CachePolicy = std::uint64_t;
inline CachePolicy evict_first() { return 0; }
inline void copy_async(void* shared, const void* global, int bytes, CachePolicy) {
  if (reinterpret_cast<std::uintptr_t>(shared) % 16 != 0 || reinterpret_cast<std::uintptr_t>(global) % 16 != 0)
    emulation::stop("an asynchronous copy is not aligned to 16 bytes");
  if (bytes < 0 || bytes > 16) emulation::stop("an asynchronous copy of an odd size");
  std::memset(shared, 0xff, 16);
  emulation::running->current->groups.back().push_back({shared, global, bytes});
}
inline void copy_commit() { emulation::running->current->groups.emplace_back(); }
template <int kPending>
inline void copy_wait() {
  auto& groups = emulation::running->current->groups;
  while (groups.size() > static_cast<std::size_t>(kPending) + 1) {
    for (const emulation::Copy& copy : groups.front()) {
      std::memset(copy.to, 0, 16);
      std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.bytes));
    }
    groups.erase(groups.begin());
  }
}

template <typename T>
T exchange(T value, int mask) {
  const auto& values = emulation::meet_warp(mask, static_cast<double>(value));
  return static_cast<T>(values[static_cast<std::size_t>((emulation::thread_number() % 32) ^ mask)]);
}
template <typename T>
T from_lane(T value, int lane) {
  if (lane < 0 || lane >= 32) emulation::stop("a value is asked from a lane that does not exist");
  return static_cast<T>(emulation::meet_warp(100 + lane, static_cast<double>(value))[static_cast<std::size_t>(lane)]);
}
template <typename T>
T from_any_lane(T value, int lane) {
  if (lane < 0 || lane >= 32) emulation::stop("a value is asked from a lane that does not exist");
  return static_cast<T>(emulation::meet_warp(66, static_cast<double>(value))[static_cast<std::size_t>(lane)]);
}
inline int lanes_true(bool predicate) {
  const auto& values = emulation::meet_warp(64, predicate);
  return static_cast<int>(std::accumulate(values.begin(), values.end(), 0.0));
}
inline int leading_lanes(bool predicate) {
  const auto& values = emulation::meet_warp(65, predicate);
  int count = 0;
  while (count < 32 && values[static_cast<std::size_t>(count)] != 0.0) ++count;
  return count;
}
inline void block_barrier() { emulation::meet_block(1, 0.0); }
inline int block_count(bool predicate) {
  const auto& values = emulation::meet_block(2, predicate);
  return static_cast<int>(std::accumulate(values.begin(), values.end(), 0.0));
}
inline bool block_any(bool predicate) {
  const auto& values = emulation::meet_block(3, predicate);
  return std::accumulate(values.begin(), values.end(), 0.0) != 0.0;
}

inline float read_fresh(const float* p) { return *p; }
inline double read_fresh(const double* p) { return *p; }
inline bool last_to_arrive(std::int32_t* ticket, int count) { return (*ticket)++ == count - 1; }
inline float reciprocal_root(float x) { return 1.0F / std::sqrt(x); }

inline float emulated_bits_as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline float emulated_half_as_float(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  float magnitude;
  if (exponent == 31) {
    magnitude = fraction != 0 ? NAN : INFINITY;
  } else {
    magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                              : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

using std::sqrt;

}  // namespace gainrl
