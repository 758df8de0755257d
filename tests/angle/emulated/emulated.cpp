// The CUDA path of angle concentration as a host library: the kernels of csrc/angle/*.cuh, unchanged, and the
// launcher's steps.  Built by tests/angle/test_cuda_source.py with the sanitizers; called through ctypes.
#include <algorithm>

#include "angle/cuda_any.cuh"
#include "angle/cuda_join.cuh"
#include "angle/cuda_plan.h"
#include "angle/cuda_sequence.cuh"
#include "angle/cuda_sum.cuh"

using namespace gainrl;

namespace {

using Kernel = void (*)(KernelArguments);

template <typename T>
Kernel kernel_for(const Plan& plan) {
  if (!plan.vectors) return angle_sum_any<T>;
  if (plan.per_thread == 1) return angle_sum<T, 1>;
  if (plan.per_thread == 2) return angle_sum<T, 2>;
  return angle_sum<T, 4>;
}

}  // namespace

extern "C" {

std::size_t emulated_params_bytes() { return sizeof(AngleParams); }

// Runs the call as a device with `shared_limit` bytes of shared memory per block and `resident` blocks at a time would.
// Returns 1 for the vector kernel, 0 for the one for any layout, -1 for a call that the launcher would refuse.
int emulated_angle(const AngleParams* params, std::size_t shared_limit, std::int64_t resident, unsigned order) {
  if (!usable(*params)) return -1;
  Plan plan{};
  plan_shape(*params, shared_limit, 2 * shared_limit, plan);
  plan_work(*params, resident, plan);
  std::unique_ptr<unsigned char[]> workspace(new unsigned char[plan.bytes]);
  std::memset(workspace.get(), 0xff, plan.bytes);
  const KernelArguments k = arguments_for(*params, plan, workspace.get());
  const Kernel kernel = params->dtype == DType::kFloat32   ? kernel_for<float>(plan)
                        : params->dtype == DType::kFloat16 ? kernel_for<Half>(plan)
                                                           : kernel_for<BFloat>(plan);
  emulation::launch(kernel, k, {static_cast<unsigned>(plan.chunks), 1}, static_cast<unsigned>(plan.threads),
                    plan.shared_bytes, order);
  emulation::launch<KernelArguments>(angle_join, k, {static_cast<unsigned>(plan.chunks), 1}, kJoinThreads,
                                     shared_for_join(), order);
  if (params->contributions != nullptr && params->rows > 0) {
    const Kernel cosines = params->dtype == DType::kFloat32   ? angle_contributions<float>
                           : params->dtype == DType::kFloat16 ? angle_contributions<Half>
                                                              : angle_contributions<BFloat>;
    emulation::launch(cosines, k, {2, 1}, kAnyThreads, 0, order);
  }
  return plan.vectors ? 1 : 0;
}

}  // extern "C"
