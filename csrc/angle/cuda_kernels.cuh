// The kernels of a call, and what they are given.  Host code: that of the launcher, and of its emulation in
// tests/angle/emulated.
#pragma once

#include "angle/cuda_join.cuh"
#include "angle/cuda_plan.h"
#include "angle/cuda_sequence.cuh"
#include "angle/cuda_sum.cuh"

namespace gainrl {

using Kernel = void (*)(KernelArguments);

inline Kernel sum_kernel(DType dtype, const Plan& plan) {
  const auto pick = [&](auto type) -> Kernel {
    using T = decltype(type);
    constexpr int kUnit = vectors_per_unit<T>;
    if (plan.per_thread == kUnit) return angle_sum<T, kUnit>;
    if (plan.per_thread == 2 * kUnit) return angle_sum<T, 2 * kUnit>;
    if (plan.per_thread == 3 * kUnit) return angle_sum<T, 3 * kUnit>;
    return angle_sum<T, 4 * kUnit>;
  };
  if (dtype == DType::kFloat32) return pick(float{});
  if (dtype == DType::kFloat16) return pick(Half{});
  return pick(BFloat{});
}

inline KernelArguments arguments_for(const AngleParams& p, const Plan& plan, void* workspace) {
  auto* base = static_cast<unsigned char*>(workspace);
  KernelArguments k{};
  k.p = p;
  k.chunk_rows = plan.chunk_rows;
  k.chunks = plan.chunks;
  k.padded_width = plan.padded_width;
  k.batch = plan.batch;
  k.slices = plan.slices;
  k.slots = reinterpret_cast<float*>(base + plan.slots_at);
  k.segments = reinterpret_cast<Segment*>(base + plan.segments_at);
  k.flags = base + plan.flags_at;
  k.tickets = reinterpret_cast<std::int32_t*>(base + plan.tickets_at);
  k.products = reinterpret_cast<double*>(base + plan.products_at);
  k.partials = reinterpret_cast<double*>(base + plan.partials_at);
  return k;
}

}  // namespace gainrl
