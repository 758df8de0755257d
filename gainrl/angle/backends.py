"""Which backend serves a call, why another cannot, and the one of the compiled module.

A backend named by the caller never falls back.  `auto` takes the first that works and logs its choice once.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from gainrl.angle.result import AngleCall, AngleConcentration, new_result
from gainrl.errors import UserError

log_once = functools.cache(logging.getLogger("gainrl.angle").log)
TRITON_WIDEST = 16384  # a row and its sums must fit one program's registers


@functools.cache
def native_module() -> ModuleType | str:
    """The compiled module, or why there is none."""
    name = __name__.partition(".")[0] + "._native"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return "gainrl was installed without its compiled module (gainrl._native)"
        return f"the compiled module does not load: {error}"


def _native(device: str) -> str:
    module: Any = native_module()
    if isinstance(module, str):
        return module
    if device == "cuda":
        status = module.cuda_status() if module.built_with_cuda else "the compiled module was built without CUDA code"
        return "" if status == "ok" else str(status)
    return "" if device == "cpu" else f"it serves cpu and cuda tensors, not {device}"


def _imports(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:  # OSError where a library of CUDA is missing, ValueError where one does not fit
        return f"{name} does not import: {error}"
    return ""


def _triton(device: str) -> str:
    if missing := _imports("torch") or _imports("triton"):
        return missing
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if device == "cpu":
        return "it serves GPU tensors (on the CPU only with TRITON_INTERPRET=1)"
    if not importlib.import_module("torch").cuda.is_available():
        return "triton needs a GPU that torch can use (or TRITON_INTERPRET=1 to test it on the CPU)"
    return ""


def _params(call: AngleCall, result: AngleConcentration, address: Any, strides: Any) -> Any:
    """csrc/angle/params.h of a call: `address(array)`, and `strides(array)` in elements."""
    module: Any = native_module()
    p = module.AngleParams()
    hidden, roles, offsets = call.hidden, call.token_role, call.cu_seqlens
    p.hidden, p.roles = address(hidden), address(roles)
    p.dtype = ("float32", "float16", "bfloat16").index(str(hidden.dtype).removeprefix("torch."))
    shape, row_strides, role_strides = hidden.shape, strides(hidden), strides(roles)
    p.width, p.stride_row, p.stride_column = shape[-1], row_strides[-2], row_strides[-1]
    p.role_stride_row = role_strides[-1]
    if offsets is None:
        p.sequences, p.length, p.rows = shape[0], shape[1], shape[0] * shape[1]
        p.stride_batch, p.role_stride_batch = row_strides[0], role_strides[0]
    else:
        p.sequences, p.rows, p.offsets = offsets.shape[0] - 1, shape[0], address(offsets)
        p.offsets_are_64 = offsets.dtype.itemsize == 8
    if str(roles.dtype).endswith("bool"):
        p.role_scale = 2
    if call.shared_sum is not None:
        p.shared_sum, p.shared_tokens = address(call.shared_sum), call.shared_tokens
    p.diagonal = call.diagonal
    p.values, p.counts = address(result.values), address(result.counts)
    if result.directions is not None:
        p.directions = address(result.directions)
    return p


def _run_native(call: AngleCall) -> AngleConcentration:
    """The compiled kernels, C++ or CUDA, on torch tensors or on NumPy arrays, which need no torch; no row is copied."""
    hidden = call.hidden
    module: Any = native_module()
    if isinstance(hidden, np.ndarray):
        for array, name in ((hidden, "hidden"), (call.token_role, "token_role")):
            if any(stride % array.itemsize for stride in array.strides):
                raise UserError(f"{name} has strides of {array.strides} bytes, no multiples of its {array.itemsize}")
        result = new_result(call, np.empty, np.float32, np.int32)
        params = _params(call, result, lambda array: array.ctypes.data, lambda a: [s // a.itemsize for s in a.strides])
        asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        threads = int(asked) if asked.isdigit() and int(asked) > 0 else len(os.sched_getaffinity(0))
        module.angle_cpu(params, threads)
        return result
    torch = sys.modules["torch"]
    if hidden.is_neg():  # negated lazily: a view whose memory holds the opposite
        call.hidden = hidden = hidden.resolve_neg()
    device = hidden.device
    result = new_result(call, torch.empty, torch.float32, torch.int32, device=device)
    params = _params(call, result, torch.Tensor.data_ptr, torch.Tensor.stride)
    if hidden.is_cpu:
        module.angle_cpu(params, torch.get_num_threads())
        return result
    with torch.cuda.device_of(hidden):  # here, for PyTorch puts the caller's device back without making a context there
        size = module.angle_cuda_workspace(params, device.index)
        # Freed when this function returns; the caching allocator gives it only to later work of the same stream.
        workspace = torch.empty(size, dtype=torch.uint8, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
        module.angle_cuda(params, workspace.data_ptr(), size, device.index, stream)
    return result


def _module(name: str) -> Any:
    return importlib.import_module(f"{__package__}.{name}")


BACKENDS: dict[str, tuple[Callable[[str], str], Callable[[AngleCall], AngleConcentration]]] = {
    "native": (_native, _run_native),
    "triton": (_triton, lambda call: _module("triton_backend").run(call)),
    "torch": (lambda device: _imports("torch"), lambda call: _module("torch_backend").run(call)),
    "reference": (lambda device: "", lambda call: _module("reference").run(call)),
}
"""Name: (why it cannot serve a device type, else empty; what serves a call)."""
NAMES = ("auto", *BACKENDS)


@functools.cache
def unavailable(name: str, device: str) -> str:
    """Empty if backend `name` can serve tensors on device type `device`, else the reason."""
    return BACKENDS[name][0](device)


def available_backends() -> dict[str, str]:
    """Each backend with "ok" or the reason why it cannot serve a call on this machine."""
    found = {"native": _native("cpu"), "native-cuda": _native("cuda"), "triton": _triton("cuda")}
    return {name: why or "ok" for name, why in (found | {"torch": _imports("torch"), "reference": ""}).items()}


def _unfit(name: str, hidden: Any) -> str:
    """Empty if the kernels of `name` take rows that lie as those of a tensor on a GPU do, else the reason."""
    width, size = hidden.shape[-1], hidden.itemsize
    if name == "triton" and width > TRITON_WIDEST:
        return f"it serves widths up to {TRITON_WIDEST}, not {width}"
    if name == "native":
        *strides, column = hidden.stride()
        if column != 1 or width * size > 32768 or hidden.data_ptr() % 16 or any(s * size % 16 for s in strides):
            return "it serves rows of up to 32 KB that begin on 16-byte boundaries, with their columns side by side"
    return ""


def choose(backend: str, device: str, hidden: Any = None) -> str:
    """The backend for a call: `backend` itself, or for "auto" the first that serves `device` and `hidden`."""
    names: tuple[str, ...] = (backend,)
    if backend == "auto":  # the reference: for NumPy arrays where neither torch nor the compiled module is installed
        names = ("native", "torch", "reference") if device == "cpu" else ("native", "triton", "torch")
    passed: list[str] = []
    for name in names:
        if reason := unavailable(name, device) or (device == "cuda" and _unfit(name, hidden)):
            passed.append(f"not {name}: {reason}")
            continue
        if backend == "auto":
            level = logging.WARNING if name in ("torch", "reference") and device in ("cpu", "cuda") else logging.INFO
            log_once(level, "angle concentration on %s uses the backend %s", device, "; ".join((name, *passed)))
        return name
    raise UserError(f"backend {backend!r} cannot serve {device} tensors: {reason}")
