"""The compiled kernels behind the backends' contract: C++ on the CPU, CUDA on NVIDIA GPUs.

Torch tensors, or NumPy arrays (bfloat16 of ml_dtypes included), which need no torch; no row is copied.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from gainrl.angle.backends import native_module
from gainrl.angle.result import AngleCall, AngleConcentration, new_result
from gainrl.errors import UserError

_CODES = {"float32": 0, "float16": 1, "bfloat16": 2, "torch.float32": 0, "torch.float16": 1, "torch.bfloat16": 2}


def _params(call: AngleCall, result: AngleConcentration, address: Any, strides: Any) -> Any:
    """csrc/angle/params.h of a call: `address(array)`, and `strides(array)` in elements."""
    module: Any = native_module()
    p = module.AngleParams()
    hidden, roles, offsets = call.hidden, call.token_role, call.cu_seqlens
    p.hidden, p.roles = address(hidden), address(roles)
    p.dtype = _CODES[str(hidden.dtype)]
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
    if result.sums is not None:
        p.sums = address(result.sums)
    return p


def _make_contiguous(call: AngleCall, contiguous: Any) -> None:
    if call.cu_seqlens is not None:
        call.cu_seqlens = contiguous(call.cu_seqlens)
    if call.shared_sum is not None:
        call.shared_sum = contiguous(call.shared_sum)


def run(call: AngleCall) -> AngleConcentration:
    """The op on torch tensors or NumPy arrays."""
    hidden = call.hidden
    module: Any = native_module()
    if isinstance(hidden, np.ndarray):
        for array, name in ((hidden, "hidden"), (call.token_role, "token_role")):
            if any(stride % array.itemsize for stride in array.strides):
                raise UserError(f"{name} has strides of {array.strides} bytes, no multiples of its {array.itemsize}")
        _make_contiguous(call, np.ascontiguousarray)
        result = new_result(call, np.empty, np.float32, np.int32)
        params = _params(call, result, lambda array: array.ctypes.data, lambda a: [s // a.itemsize for s in a.strides])
        asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        threads = int(asked) if asked.isdigit() and int(asked) > 0 else len(os.sched_getaffinity(0))
        module.angle_cpu(params, threads)
        return result
    torch = sys.modules["torch"]
    if hidden.is_neg():  # negated lazily: a view whose memory holds the opposite
        call.hidden = hidden = hidden.resolve_neg()
    _make_contiguous(call, torch.Tensor.contiguous)
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
