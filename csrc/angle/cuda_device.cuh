// What the kernels need from the device, in one place: so that the same kernels also run on the host, block by block
// and thread by thread, in tests/angle/emulated (GAINRL_EMULATE_CUDA).
#pragma once

#include <cstdint>
#include <type_traits>

#include "angle/cuda_plan.h"
#include "angle/params.h"

#if defined(GAINRL_EMULATE_CUDA)
#include "cuda_emulation.h"
#else
#include <cuda_runtime.h>
#endif

namespace gainrl {

#if !defined(GAINRL_EMULATE_CUDA)

extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
__device__ inline unsigned char* dynamic_shared() { return dynamic_shared_bytes; }

// How the level-2 cache keeps what is copied: rows, which nobody reads again, leave it before the partial sums do.
using CachePolicy = std::uint64_t;
__device__ inline CachePolicy evict_first() {
  CachePolicy policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
// Copies `bytes` of 16 bytes to shared memory and zero-fills the rest, past the level-1 cache, without waiting.
__device__ inline void copy_async(void* shared, const void* global, int bytes, CachePolicy policy) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;\n" ::"r"(address),
               "l"(global), "r"(bytes), "l"(policy)
               : "memory");
}
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most `kPending` of this thread's groups are under way.
template <int kPending>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

template <typename T>
__device__ inline T exchange(T value, int mask) {
  return __shfl_xor_sync(0xffffffffU, value, mask);
}
template <typename T>
__device__ inline T from_lane(T value, int lane) {
  return __shfl_sync(0xffffffffU, value, lane);
}
// The same where each lane asks for a lane of its own.
template <typename T>
__device__ inline T from_any_lane(T value, int lane) {
  return __shfl_sync(0xffffffffU, value, lane);
}
__device__ inline int lanes_true(bool predicate) { return __popc(__ballot_sync(0xffffffffU, predicate)); }
// How many lanes, from the first on, say true before one says false.
__device__ inline int leading_lanes(bool predicate) {
  const unsigned others = ~__ballot_sync(0xffffffffU, predicate);
  return others == 0 ? 32 : __ffs(static_cast<int>(others)) - 1;
}
__device__ inline void block_barrier() { __syncthreads(); }
__device__ inline bool block_any(bool predicate) { return __syncthreads_or(predicate) != 0; }
__device__ inline int block_count(bool predicate) { return __syncthreads_count(predicate); }

// Reads past the level-1 cache, for what another block of the same launch has written.
__device__ inline float read_fresh(const float* p) { return __ldcg(p); }
__device__ inline double read_fresh(const double* p) { return __ldcg(p); }

// True in the last of `count` blocks that come here, after all their writes.  Call from one thread.
__device__ inline bool last_to_arrive(std::int32_t* ticket, int count) {
  __threadfence();
  const bool last = atomicAdd(ticket, 1) == count - 1;
  __threadfence();
  return last;
}

__device__ inline float reciprocal_root(float x) { return 1.0F / sqrtf(x); }

#endif

struct Half {
  std::uint16_t bits;
};
struct BFloat {
  std::uint16_t bits;
};

__device__ inline float bits_as_float(std::uint32_t bits) {
#if defined(GAINRL_EMULATE_CUDA)
  return emulated_bits_as_float(bits);
#else
  return __uint_as_float(bits);
#endif
}

__device__ inline float half_as_float(std::uint16_t bits) {
#if defined(GAINRL_EMULATE_CUDA)
  return emulated_half_as_float(bits);
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#endif
}

__device__ inline float as_float(float x) { return x; }
__device__ inline float as_float(BFloat x) { return bits_as_float(static_cast<std::uint32_t>(x.bits) << 16); }
__device__ inline float as_float(Half x) { return half_as_float(x.bits); }

template <typename T>
constexpr int kElements = kVectorBytes / static_cast<int>(sizeof(T));  // per 16-byte vector
template <typename T>
constexpr int vectors_per_unit = kUnitColumns / kElements<T>;

// Element e (a constant after unrolling) of a 16-byte vector.
template <typename T>
__device__ inline float element(const uint4& v, int e) {
  const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
  if constexpr (sizeof(T) == 4) {
    return bits_as_float(words[e]);
  } else {
    const std::uint32_t word = words[e / 2];
    if constexpr (std::is_same_v<T, BFloat>) {
      return bits_as_float(e % 2 ? word & 0xffff0000U : word << 16);
    } else {
      return half_as_float(static_cast<std::uint16_t>(e % 2 ? word >> 16 : word));
    }
  }
}

__device__ inline bool is_number(double x) { return x - x == 0.0; }

}  // namespace gainrl
