// The launcher's decisions (csrc/angle/cuda.cu) without a device: which kernel, how many blocks, which arguments.
// Built for the host as tests/angle/emulated is.
#include "angle/cuda_kernels.cuh"
#include "angle/cuda_plan.h"

using namespace gainrl;

struct Chosen {
  std::int64_t threads, per_thread, batch, chunk_rows, chunks, shared_bytes, workspace_bytes, join_threads,
      join_shared, padded_width;
};

extern "C" {

std::size_t params_bytes() { return sizeof(AngleParams); }
std::size_t arguments_bytes() { return sizeof(KernelArguments); }

// -1 for a call that the launcher refuses.  With `out`, also the kernels' arguments.
int plan(const AngleParams* params, std::size_t shared_limit, std::size_t shared_per_processor, std::int64_t resident,
         Chosen* chosen, void* workspace, void* out) {
  Plan plan{};
  if (!usable(*params) || !plan_shape(*params, shared_limit, shared_per_processor, plan)) return -1;
  plan_work(*params, resident, plan);
  *chosen = {plan.threads,
             plan.per_thread, plan.batch,
             plan.chunk_rows, plan.chunks,
             static_cast<std::int64_t>(plan.shared_bytes), static_cast<std::int64_t>(plan.bytes),
             kJoinThreads,    static_cast<std::int64_t>(shared_for_join()),
             plan.padded_width};
  if (out != nullptr) {
    const KernelArguments k = arguments_for(*params, plan, workspace);
    std::memcpy(out, &k, sizeof k);
  }
  return 0;
}

}  // extern "C"
