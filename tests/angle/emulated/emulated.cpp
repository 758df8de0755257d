// The CUDA path of angle concentration as a host library: the kernels of csrc/angle/*.cuh, unchanged, and the
// launcher's steps.  Built by tests/angle/test_cuda_source.py with the sanitizers; called through ctypes.
#include "angle/cuda_kernels.cuh"
#include "angle/cuda_plan.h"

using namespace gainrl;

extern "C" {

std::size_t emulated_params_bytes() { return sizeof(AngleParams); }

// Runs the call as a device with `shared_limit` bytes of shared memory per block and `resident` blocks at a time would.
// Returns -1 for a call that the launcher would refuse.
int emulated_angle(const AngleParams* params, std::size_t shared_limit, std::int64_t resident, unsigned order) {
  Plan plan{};
  if (!usable(*params) || !plan_shape(*params, shared_limit, 2 * shared_limit, plan)) return -1;
  plan_work(*params, resident, plan);
  std::unique_ptr<unsigned char[]> workspace(new unsigned char[plan.bytes]);
  std::memset(workspace.get(), 0xff, plan.bytes);
  const KernelArguments k = arguments_for(*params, plan, workspace.get());
  emulation::launch(sum_kernel(params->dtype, plan), k, {static_cast<unsigned>(plan.chunks), 1},
                    static_cast<unsigned>(plan.threads), plan.shared_bytes, order);
  emulation::launch<KernelArguments>(angle_join, k, {static_cast<unsigned>(plan.chunks), 1}, kJoinThreads,
                                     shared_for_join(), order);
  return 0;
}

}  // extern "C"
