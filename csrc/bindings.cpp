// gainrl._native: the kernels for Python.  Pointers and strides (in elements) come as integers, so that no framework's
// headers are needed and one build serves every version of every framework.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <new>
#include <stdexcept>
#include <string>
#include <tuple>

#include "angle/cpu.h"
#include "angle/params.h"
#include "forward/cpu.h"
#if defined(GAINRL_WITH_CUDA)
#include "angle/cuda.h"
#endif

namespace py = pybind11;

namespace {

template <typename T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

gainrl::AngleParams params(std::uintptr_t hidden, int dtype, std::int64_t width, std::int64_t stride_row,
                           std::int64_t stride_batch, std::int64_t stride_column, std::int64_t sequences,
                           std::int64_t rows, std::int64_t length, std::uintptr_t offsets, bool offsets_are_64,
                           std::uintptr_t roles, std::int64_t role_stride_row, std::int64_t role_stride_batch,
                           int role_scale, std::uintptr_t shared_sum, std::int64_t shared_tokens, std::uintptr_t weight,
                           int weight_dtype, float weight_offset, bool diagonal, std::uintptr_t values,
                           std::uintptr_t counts, std::uintptr_t directions, std::uintptr_t sums,
                           std::uintptr_t contributions) {
  gainrl::AngleParams p;
  p.hidden = pointer<const void>(hidden);
  p.dtype = static_cast<gainrl::DType>(dtype);
  p.width = width;
  p.stride_row = stride_row;
  p.stride_batch = stride_batch;
  p.stride_column = stride_column;
  p.sequences = sequences;
  p.rows = rows;
  p.length = length;
  p.offsets = pointer<const void>(offsets);
  p.offsets_are_64 = offsets_are_64 ? 1 : 0;
  p.roles = pointer<const std::int8_t>(roles);
  p.role_stride_row = role_stride_row;
  p.role_stride_batch = role_stride_batch;
  p.role_scale = role_scale;
  p.shared_sum = pointer<const float>(shared_sum);
  p.shared_tokens = shared_tokens;
  p.weight = pointer<const void>(weight);
  p.weight_dtype = static_cast<gainrl::DType>(weight_dtype);
  p.weight_offset = weight_offset;
  p.diagonal = diagonal ? 1 : 0;
  p.values = pointer<float>(values);
  p.counts = pointer<std::int32_t>(counts);
  p.directions = pointer<float>(directions);
  p.sums = pointer<float>(sums);
  p.contributions = pointer<float>(contributions);
  return p;
}

void require(gainrl::Result result) {
  switch (result) {
    case gainrl::Result::kOk:
      return;
    case gainrl::Result::kBadArgument:
      throw std::invalid_argument(
          "gainrl._native: an argument is out of range (sizes, dtype, a missing pointer, or a workspace that is not "
          "aligned to 16 bytes)");
    case gainrl::Result::kNoMemory:
      throw std::bad_alloc();
    case gainrl::Result::kSmallWorkspace:
      throw std::invalid_argument("gainrl._native: the workspace is smaller than angle_cuda_workspace() asks for");
    case gainrl::Result::kDeviceError:
#if defined(GAINRL_WITH_CUDA)
      throw std::runtime_error(std::string("gainrl._native: ") + gainrl::angle_cuda_last_error());
#else
      break;
#endif
  }
  throw std::runtime_error("gainrl._native: unknown result");
}

// An array of the attention: its address and two strides, of heads and of rows.
using Heads = std::tuple<std::uintptr_t, std::int64_t, std::int64_t>;

void attention_cpu(int dtype, std::int64_t heads, std::int64_t kv_heads, std::int64_t width, std::int64_t value_width,
                   const Heads& query, const Heads& key, const Heads& value, std::int64_t shared,
                   const Heads& shared_key, const Heads& shared_value, std::int64_t sequences, std::uintptr_t offsets,
                   float scale, float softcap, std::int64_t window, std::uintptr_t output, int threads) {
  gainrl::AttentionParams p;
  p.dtype = static_cast<gainrl::DType>(dtype);
  p.heads = heads;
  p.kv_heads = kv_heads;
  p.width = width;
  p.value_width = value_width;
  const auto take = [](const Heads& from, const void*& address, std::int64_t& head, std::int64_t& row) {
    address = pointer<const void>(std::get<0>(from));
    head = std::get<1>(from);
    row = std::get<2>(from);
  };
  take(query, p.query, p.query_head, p.query_row);
  take(key, p.key, p.key_head, p.key_row);
  take(value, p.value, p.value_head, p.value_row);
  p.shared = shared;
  take(shared_key, p.shared_key, p.shared_key_head, p.shared_key_row);
  take(shared_value, p.shared_value, p.shared_value_head, p.shared_value_row);
  p.sequences = sequences;
  p.offsets = pointer<const std::int64_t>(offsets);
  p.scale = scale;
  p.softcap = softcap;
  p.window = window;
  p.output = pointer<void>(output);
  gainrl::Result result;
  {
    py::gil_scoped_release released;
    result = gainrl::attention_cpu(p, threads);
  }
  require(result);
}

// The part of DLPack's ABI (dlpack.h, versions 0 and 1) that is read here.
struct DLTensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t ndim;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t *shape, *strides;  // strides in elements, or null for C order
  std::uint64_t byte_offset;
};
struct DLManagedTensorVersioned {
  std::uint32_t major, minor;
  void* manager;
  void (*deleter)(void*);
  std::uint64_t flags;
  DLTensor tensor;
};

// (address, type code, bits, lanes, shape, strides in elements) of a DLPack capsule.  The capsule is not consumed: it
// stays the owner, and the caller keeps it for as long as the address is in use.
py::tuple dlpack_view(const py::capsule& capsule) {
  const DLTensor* tensor = nullptr;
  const std::string name = capsule.name() != nullptr ? capsule.name() : "";
  if (name == "dltensor") {
    tensor = capsule.get_pointer<DLTensor>();  // a DLManagedTensor begins with its tensor
  } else if (name == "dltensor_versioned") {
    tensor = &capsule.get_pointer<DLManagedTensorVersioned>()->tensor;
  } else {
    throw std::invalid_argument("gainrl._native: not an unused DLPack capsule: " + name);
  }
  py::tuple shape(tensor->ndim), strides(tensor->ndim);
  std::int64_t contiguous = 1;
  for (std::int32_t i = tensor->ndim - 1; i >= 0; --i) {
    shape[i] = tensor->shape[i];
    strides[i] = tensor->strides != nullptr ? tensor->strides[i] : contiguous;
    contiguous *= tensor->shape[i];
  }
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(tensor->data) + tensor->byte_offset;
  return py::make_tuple(address, static_cast<int>(tensor->code), static_cast<int>(tensor->bits),
                        static_cast<int>(tensor->lanes), shape, strides);
}

}  // namespace

PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled kernels of gainrl; gainrl.angle is their public face.";
  py::class_<gainrl::AngleParams>(m, "AngleParams", py::module_local()).def(py::init(&params));
  m.def(
      "angle_cpu",
      [](const gainrl::AngleParams& p, int threads) {
        gainrl::Result result;
        {
          py::gil_scoped_release released;
          result = gainrl::angle_cpu(p, threads);
        }
        require(result);
      },
      py::arg("params"), py::arg("threads"));
  m.def("attention_cpu", &attention_cpu);
  m.def("rms_norm_cpu", [](std::uintptr_t x, std::uintptr_t weight, float weight_offset, float eps, std::uintptr_t out,
                           std::int64_t rows, std::int64_t width, int dtype, int threads) {
    gainrl::Result result;
    {
      py::gil_scoped_release released;
      result = gainrl::rms_norm_cpu(pointer<const void>(x), pointer<const void>(weight), weight_offset, eps,
                                    pointer<void>(out), rows, width, static_cast<gainrl::DType>(dtype), threads);
    }
    require(result);
  });
  m.def("add_rms_norm_cpu",
        [](std::uintptr_t x, std::uintptr_t y, std::uintptr_t sum, std::uintptr_t weight, float weight_offset,
           float eps, std::uintptr_t out, std::int64_t rows, std::int64_t width, int dtype, int threads) {
          gainrl::Result result;
          {
            py::gil_scoped_release released;
            result = gainrl::add_rms_norm_cpu(pointer<const void>(x), pointer<const void>(y), pointer<void>(sum),
                                              pointer<const void>(weight), weight_offset, eps, pointer<void>(out), rows,
                                              width, static_cast<gainrl::DType>(dtype), threads);
          }
          require(result);
        });
  m.def("rotate_cpu", [](std::uintptr_t x, std::uintptr_t cosine, std::uintptr_t sine, std::int64_t rows,
                         std::int64_t heads, std::int64_t width, int dtype, int threads) {
    gainrl::Result result;
    {
      py::gil_scoped_release released;
      result = gainrl::rotate_cpu(pointer<void>(x), pointer<const void>(cosine), pointer<const void>(sine), rows, heads,
                                  width, static_cast<gainrl::DType>(dtype), threads);
    }
    require(result);
  });
  m.def("silu_mul_cpu",
        [](std::uintptr_t gate, std::uintptr_t up, std::uintptr_t out, std::int64_t n, int dtype, int threads) {
          gainrl::Result result;
          {
            py::gil_scoped_release released;
            result = gainrl::silu_mul_cpu(pointer<const void>(gate), pointer<const void>(up), pointer<void>(out), n,
                                          static_cast<gainrl::DType>(dtype), threads);
          }
          require(result);
        });
  m.def("cpu_isa", &gainrl::angle_cpu_isa);
  m.def("dlpack_view", &dlpack_view, py::arg("capsule"));
  m.attr("compiler") = __VERSION__;
#if defined(GAINRL_WITH_CUDA)
  m.attr("built_with_cuda") = true;
  m.attr("cuda_version") = GAINRL_CUDA_VERSION;
  m.attr("cuda_architectures") = GAINRL_CUDA_ARCHITECTURES;  // as CMake writes them: 80-real,...,120 (120 with PTX)
  m.def("cuda_status", &gainrl::angle_cuda_status);
  m.def(
      "angle_cuda_workspace",
      [](const gainrl::AngleParams& p, int device) {
        std::size_t bytes;
        {
          py::gil_scoped_release released;  // the first call loads kernels
          bytes = gainrl::angle_cuda_workspace(p, device);
        }
        if (bytes == 0) throw std::runtime_error(std::string("gainrl._native: ") + gainrl::angle_cuda_last_error());
        return bytes;
      },
      py::arg("params"), py::arg("device"));
  // Enqueues two or three kernels.  Where the stream's queue is full, that waits, perhaps for another Python thread.
  m.def(
      "angle_cuda",
      [](const gainrl::AngleParams& p, std::uintptr_t workspace, std::size_t workspace_bytes, int device,
         std::uintptr_t stream) {
        gainrl::Result result;
        {
          py::gil_scoped_release released;
          result = gainrl::angle_cuda(p, pointer<void>(workspace), workspace_bytes, device, pointer<void>(stream));
        }
        require(result);
      },
      py::arg("params"), py::arg("workspace"), py::arg("workspace_bytes"), py::arg("device"), py::arg("stream"));
#else
  m.attr("built_with_cuda") = false;
#endif
}
