#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>

#include "angle/cuda.h"
#include "angle/cuda_kernels.cuh"
#include "angle/cuda_plan.h"

namespace gainrl {
namespace {

thread_local char last_error[256] = "no error";

bool failed(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return false;
  std::snprintf(last_error, sizeof last_error, "%s: %s", what, cudaGetErrorString(status));
  (void)cudaGetLastError();  // a sticky error would be reported to whoever calls CUDA next
  return true;
}

// Makes `device` current and puts the caller's device back at the end.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    ok = !failed(cudaGetDevice(&previous_), "cudaGetDevice");
    if (ok && previous_ != device) {
      ok = !failed(cudaSetDevice(device), "cudaSetDevice");
      changed_ = ok;
    }
  }
  ~DeviceGuard() {
    if (changed_) (void)cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  bool ok;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

constexpr int kMostDevices = 64;

struct DeviceFacts {
  int processors = 0, shared_limit = 0, shared_per_processor = 0;
};

// Asked once per device; equal answers from two threads at once do no harm.
bool device_facts(int device, DeviceFacts& facts) {
  static std::atomic<int> known[kMostDevices][3];
  if (device < 0 || device >= kMostDevices) return !failed(cudaErrorInvalidDevice, "device index");
  constexpr cudaDeviceAttr kWanted[3] = {cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                         cudaDevAttrMaxSharedMemoryPerMultiprocessor};
  int values[3];
  for (int i = 0; i < 3; ++i) {
    values[i] = known[device][i].load(std::memory_order_relaxed);
    if (values[i] != 0) continue;
    if (failed(cudaDeviceGetAttribute(&values[i], kWanted[i], device), "cudaDeviceGetAttribute")) return false;
    known[device][i].store(values[i], std::memory_order_relaxed);
  }
  facts = {values[0], values[1], values[2]};
  return true;
}

// Gives a kernel leave to use as much shared memory as a block may have beside what it declares, and asks for the
// multiprocessor's memory to be split in its favour: rows do not pass through the level-1 cache.
bool allow_shared(Kernel kernel, const DeviceFacts& facts) {
  cudaFuncAttributes has{};
  if (failed(cudaFuncGetAttributes(&has, kernel), "cudaFuncGetAttributes")) return false;
  const int most = facts.shared_limit - static_cast<int>(has.sharedSizeBytes);
  return !failed(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
                 "cudaFuncSetAttribute(MaxDynamicSharedMemorySize)") &&
         !failed(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                      cudaSharedmemCarveoutMaxShared),
                 "cudaFuncSetAttribute(PreferredSharedMemoryCarveout)");
}

// Blocks of this kernel that run at the same time.  Kept per device and kernel shape, because the queries cost more
// than a launch.
bool resident_blocks(int device, const AngleParams& p, const DeviceFacts& facts, const Plan& plan, Kernel kernel,
                     std::int64_t& resident) {
  constexpr int kEntries = 1024;
  static std::atomic<std::uint64_t> cache[kEntries];
  const std::uint64_t key = (static_cast<std::uint64_t>(device) << 32) | (static_cast<std::uint64_t>(p.dtype) << 30) |
                            (static_cast<std::uint64_t>(plan.per_thread) << 25) |
                            (static_cast<std::uint64_t>(plan.batch) << 16) | static_cast<std::uint64_t>(plan.threads);
  std::atomic<std::uint64_t>& entry = cache[(key ^ (key >> 25)) % kEntries];
  // The upper 48 bits are the key (with bit 47 set, so that no entry is zero), the lower 16 the blocks per
  // multiprocessor.
  const std::uint64_t tag = (key | (std::uint64_t{1} << 47)) << 16;
  const std::uint64_t found = entry.load(std::memory_order_relaxed);
  int blocks = static_cast<int>(found & 0xffffU);
  if ((found & ~std::uint64_t{0xffff}) != tag) {
    if (!allow_shared(kernel, facts)) return false;
    if (failed(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, plan.threads, plan.shared_bytes),
               "cudaOccupancyMaxActiveBlocksPerMultiprocessor"))
      return false;
    blocks = std::max(1, blocks);
    entry.store(tag | static_cast<std::uint64_t>(blocks), std::memory_order_relaxed);
  }
  resident = std::int64_t{blocks} * facts.processors;
  return true;
}

bool make_plan(const AngleParams& p, int device, Plan& plan, Kernel& kernel) {
  DeviceFacts facts;
  if (!device_facts(device, facts)) return false;
  if (!plan_shape(p, static_cast<std::size_t>(facts.shared_limit), static_cast<std::size_t>(facts.shared_per_processor),
                  plan)) {
    std::snprintf(last_error, sizeof last_error, "rows that do not lie on 16-byte boundaries, or too wide ones");
    return false;
  }
  kernel = sum_kernel(p.dtype, plan);
  std::int64_t resident = 0;
  if (!resident_blocks(device, p, facts, plan, kernel, resident)) return false;
  plan_work(p, resident, plan);
  return true;
}

// Machine code serves later minor versions of its major one, and the last architecture's PTX serves what comes after
// it.
bool built_for(int major, int minor) {
  constexpr int kBuilt[] = {__CUDA_ARCH_LIST__};
  for (const int built : kBuilt)
    if (built / 100 == major && built / 10 % 10 <= minor) return true;
  return major > kBuilt[sizeof kBuilt / sizeof *kBuilt - 1] / 100;
}

}  // namespace

std::size_t angle_cuda_workspace(const AngleParams& params, int device) noexcept {
  Plan plan{};
  Kernel kernel = nullptr;
  if (!usable(params)) {
    std::snprintf(last_error, sizeof last_error, "an argument is out of range");
    return 0;
  }
  const DeviceGuard guard(device);
  return guard.ok && make_plan(params, device, plan, kernel) ? plan.bytes : 0;
}

Result angle_cuda(const AngleParams& params, void* workspace, std::size_t workspace_bytes, int device,
                  void* stream) noexcept {
  if (!usable(params)) return Result::kBadArgument;
  const DeviceGuard guard(device);
  if (!guard.ok) return Result::kDeviceError;
  Plan plan{};
  Kernel kernel = nullptr;
  if (!make_plan(params, device, plan, kernel)) return Result::kDeviceError;
  if (workspace == nullptr || workspace_bytes < plan.bytes) return Result::kSmallWorkspace;
  if (reinterpret_cast<std::uintptr_t>(workspace) % kVectorBytes != 0) return Result::kBadArgument;
  const KernelArguments k = arguments_for(params, plan, workspace);
  const auto on = static_cast<cudaStream_t>(stream);
  kernel<<<static_cast<unsigned>(plan.chunks), static_cast<unsigned>(plan.threads), plan.shared_bytes, on>>>(k);
  if (failed(cudaGetLastError(), "angle_sum")) return Result::kDeviceError;
  angle_join<<<static_cast<unsigned>(plan.chunks), kJoinThreads, shared_for_join(), on>>>(k);
  if (failed(cudaGetLastError(), "angle_join")) return Result::kDeviceError;
  return Result::kOk;
}

const char* angle_cuda_status() noexcept {
  thread_local char reason[256];
  int driver = 0, runtime = 0, devices = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "no NVIDIA driver was found";
  (void)cudaRuntimeGetVersion(&runtime);
  if (driver / 1000 < runtime / 1000) {
    std::snprintf(
        reason, sizeof reason,
        "the driver serves CUDA %d.%d and the compiled kernels need CUDA %d (driver 580 or newer for CUDA 13)",
        driver / 1000, driver % 1000 / 10, runtime / 1000);
    return reason;
  }
  // None of this makes a context: in a job of a process per GPU, all would make one on the first.
  const cudaError_t counted = cudaGetDeviceCount(&devices);
  if (counted != cudaSuccess || devices == 0) {
    (void)cudaGetLastError();
    std::snprintf(reason, sizeof reason, "no CUDA device can be used (%s)", cudaGetErrorString(counted));
    return reason;
  }
  for (int device = 0; device < devices; ++device) {
    int major = 0, minor = 0;
    (void)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    (void)cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    if (built_for(major, minor)) continue;
    std::snprintf(reason, sizeof reason, "the kernels are not built for compute capability %d.%d (device %d)", major,
                  minor, device);
    return reason;
  }
  return "ok";
}

const char* angle_cuda_last_error() noexcept { return last_error; }

}  // namespace gainrl
