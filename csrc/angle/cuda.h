// Angle concentration on NVIDIA GPUs: the formula is in params.h, how the work is cut in cuda_plan.h.
// A call is two kernel launches on the given stream.  It allocates nothing and synchronises nothing, so a CUDA graph
// can capture it; every sum has a fixed order, so equal inputs give equal bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "angle/params.h"

namespace gainrl {

// Rows start on 16-byte boundaries, have their columns side by side, and hold at most 32 KB.
// Bytes of device memory that a call with these sizes, strides and pointers' alignments needs, or 0 on an error (see
// angle_cuda_last_error).  The workspace needs no initialisation and may be reused once the call's work is done.
std::size_t angle_cuda_workspace(const AngleParams& params, int device) noexcept;

// Enqueues the call.  All pointers are the device's, `workspace` aligned to 16 bytes; `stream` is a cudaStream_t.
Result angle_cuda(const AngleParams& params, void* workspace, std::size_t workspace_bytes, int device,
                  void* stream) noexcept;

// "ok", or why the kernels cannot run on this machine.  Makes no context on any device.
const char* angle_cuda_status() noexcept;

// What the last call on this thread that returned Result::kDeviceError ran into.
const char* angle_cuda_last_error() noexcept;

}  // namespace gainrl
