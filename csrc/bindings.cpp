// The Python module: AngleParams with its fields by name, the launchers, and what this build can do.  It knows no
// framework: addresses come as integers.
#include <pybind11/pybind11.h>

#include <new>
#include <stdexcept>
#include <string>

#include "angle/cpu.h"
#include "angle/params.h"
#if defined(GAINRL_WITH_CUDA)
#include "angle/cuda.h"
#endif

namespace py = pybind11;
using gainrl::AngleParams;

namespace {

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

// A pointer that Python sees as an integer, 0 for null.
template <typename T>
void add_pointer(py::class_<AngleParams>& params, const char* name, T* AngleParams::* field) {
  params.def_property(
      name, [field](const AngleParams& p) { return reinterpret_cast<std::uintptr_t>(p.*field); },
      [field](AngleParams& p, std::uintptr_t address) { p.*field = reinterpret_cast<T*>(address); });
}

}  // namespace

PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled kernels of gainrl; gainrl.angle is their public face.";
  py::class_<AngleParams> params(m, "AngleParams", py::module_local(), "The arguments of a call: csrc/angle/params.h.");
  params.def(py::init<>())
      .def_property(
          "dtype", [](const AngleParams& p) { return static_cast<int>(p.dtype); },
          [](AngleParams& p, int dtype) { p.dtype = static_cast<gainrl::DType>(dtype); })
      .def_readwrite("width", &AngleParams::width)
      .def_readwrite("stride_row", &AngleParams::stride_row)
      .def_readwrite("stride_batch", &AngleParams::stride_batch)
      .def_readwrite("stride_column", &AngleParams::stride_column)
      .def_readwrite("sequences", &AngleParams::sequences)
      .def_readwrite("rows", &AngleParams::rows)
      .def_readwrite("length", &AngleParams::length)
      .def_readwrite("offsets_are_64", &AngleParams::offsets_are_64)
      .def_readwrite("role_stride_row", &AngleParams::role_stride_row)
      .def_readwrite("role_stride_batch", &AngleParams::role_stride_batch)
      .def_readwrite("role_scale", &AngleParams::role_scale)
      .def_readwrite("shared_tokens", &AngleParams::shared_tokens)
      .def_readwrite("diagonal", &AngleParams::diagonal);
  add_pointer(params, "hidden", &AngleParams::hidden);
  add_pointer(params, "offsets", &AngleParams::offsets);
  add_pointer(params, "roles", &AngleParams::roles);
  add_pointer(params, "shared_sum", &AngleParams::shared_sum);
  add_pointer(params, "values", &AngleParams::values);
  add_pointer(params, "counts", &AngleParams::counts);
  add_pointer(params, "directions", &AngleParams::directions);

  m.def(
      "angle_cpu",
      [](const AngleParams& p, int threads) {
        gainrl::Result result;
        {
          py::gil_scoped_release released;
          result = gainrl::angle_cpu(p, threads);
        }
        require(result);
      },
      py::arg("params"), py::arg("threads"));
  m.def("cpu_isa", &gainrl::angle_cpu_isa);
  m.attr("compiler") = __VERSION__;
#if defined(GAINRL_WITH_CUDA)
  m.attr("built_with_cuda") = true;
  m.attr("cuda_version") = GAINRL_CUDA_VERSION;
  m.attr("cuda_architectures") = GAINRL_CUDA_ARCHITECTURES;  // as CMake writes them: 80-real,...,120 (120 with PTX)
  m.def("cuda_status", &gainrl::angle_cuda_status);
  m.def(
      "angle_cuda_workspace",
      [](const AngleParams& p, int device) {
        std::size_t bytes;
        {
          py::gil_scoped_release released;  // the first call loads kernels
          bytes = gainrl::angle_cuda_workspace(p, device);
        }
        if (bytes == 0) throw std::runtime_error(std::string("gainrl._native: ") + gainrl::angle_cuda_last_error());
        return bytes;
      },
      py::arg("params"), py::arg("device"));
  // Enqueues two kernels.  Where the stream's queue is full, that waits, perhaps for another Python thread.
  m.def(
      "angle_cuda",
      [](const AngleParams& p, std::uintptr_t workspace, std::size_t bytes, int device, std::uintptr_t stream) {
        gainrl::Result result;
        {
          py::gil_scoped_release released;
          result =
              gainrl::angle_cuda(p, reinterpret_cast<void*>(workspace), bytes, device, reinterpret_cast<void*>(stream));
        }
        require(result);
      },
      py::arg("params"), py::arg("workspace"), py::arg("bytes"), py::arg("device"), py::arg("stream"));
#else
  m.attr("built_with_cuda") = false;
#endif
}
