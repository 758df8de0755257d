"""The compiled kernels behind the backends' contract: C++ on the CPU, CUDA on NVIDIA GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gainrl.angle.backends import native_module
from gainrl.angle.call import CONTRIBUTIONS, SUMS, AngleCall, Outputs
from gainrl.angle.library import empty_outputs

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is None or tensor.is_contiguous() else tensor.contiguous()


def angle(call: AngleCall) -> Outputs:
    """The op on the compiled kernels."""
    module: Any = native_module()
    hidden, roles, offsets = call.hidden, call.token_role, _contiguous(call.cu_seqlens)
    shared, weight = _contiguous(call.shared_sum), _contiguous(call.norm_weight)
    outputs = empty_outputs(call)
    sums = outputs.sums
    if hidden.is_cuda and call.wanted & CONTRIBUTIONS and not call.wanted & SUMS:  # the third kernel reads the sums
        sums = torch.empty(call.sequences, call.width, dtype=torch.float32, device=hidden.device)
    strides, role_strides = hidden.stride(), roles.stride()
    padded = offsets is None
    params = module.AngleParams(
        hidden.data_ptr(),
        _DTYPES[hidden.dtype],
        hidden.shape[-1],
        strides[-2],
        strides[0] if padded else 0,
        strides[-1],
        outputs.values.shape[1],
        roles.numel(),
        roles.shape[1] if padded else 0,
        _address(offsets),
        offsets is not None and offsets.dtype == torch.int64,
        roles.data_ptr(),
        role_strides[-1],
        role_strides[0] if padded else 0,
        2 if roles.dtype == torch.bool else 1,
        _address(shared),
        call.shared_tokens,
        _address(weight),
        0 if weight is None else _DTYPES[weight.dtype],
        call.norm_offset,
        call.diagonal,
        outputs.values.data_ptr(),
        outputs.counts.data_ptr(),
        _address(outputs.directions),
        _address(sums),
        _address(outputs.contributions),
    )
    if hidden.device.type == "cpu":
        module.angle_cpu(params, torch.get_num_threads())
        return outputs
    device = hidden.device.index
    size = module.angle_cuda_workspace(params, device)
    # Freed when this function returns; the caching allocator gives it only to later work of the same stream.
    workspace = torch.empty(size, dtype=torch.uint8, device=hidden.device)
    stream = torch.cuda.current_stream(device).cuda_stream
    module.angle_cuda(params, workspace.data_ptr(), size, device, stream)
    return outputs
