"""The compiled kernels behind the backends' contract: C++ on the CPU, CUDA on NVIDIA GPUs."""

from __future__ import annotations

from typing import Any

import torch

from gainrl.angle.backends import native_module
from gainrl.angle.call import AngleCall, Outputs
from gainrl.angle.outputs import empty_outputs

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def _public_current_stream(device: int) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream)


# As Triton asks for it: without making an object of the stream.  Not there in a PyTorch for the CPU alone.
_current_stream: Any = getattr(torch._C, "_cuda_getCurrentRawStream", _public_current_stream)


def _contiguous(tensor: Any) -> Any:
    return tensor if tensor is None or tensor.is_contiguous() else tensor.contiguous()


def angle(call: AngleCall) -> Outputs:
    """The op on the compiled kernels."""
    module: Any = native_module()
    hidden, roles, offsets = call.hidden, call.token_role, _contiguous(call.cu_seqlens)
    shared, weight = _contiguous(call.shared_sum), _contiguous(call.norm_weight)
    outputs = empty_outputs(call)
    values, counts, directions, contributions, sums = outputs
    # The third kernel on a GPU reads the sums.
    if contributions is not None and sums is None and hidden.is_cuda:
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
        values.shape[1],
        roles.numel(),
        roles.shape[1] if padded else 0,
        0 if padded else offsets.data_ptr(),
        not padded and offsets.dtype == torch.int64,
        roles.data_ptr(),
        role_strides[-1],
        role_strides[0] if padded else 0,
        2 if roles.dtype == torch.bool else 1,
        0 if shared is None else shared.data_ptr(),
        call.shared_tokens,
        0 if weight is None else weight.data_ptr(),
        0 if weight is None else _DTYPES[weight.dtype],
        call.norm_offset,
        call.diagonal,
        values.data_ptr(),
        counts.data_ptr(),
        0 if directions is None else directions.data_ptr(),
        0 if sums is None else sums.data_ptr(),
        0 if contributions is None else contributions.data_ptr(),
    )
    if hidden.is_cpu:
        module.angle_cpu(params, torch.get_num_threads())
        return outputs
    device = hidden.device
    size = module.angle_cuda_workspace(params, device.index)
    # Freed when this function returns; the caching allocator gives it only to later work of the same stream.
    workspace = torch.empty(size, dtype=torch.uint8, device=device)
    module.angle_cuda(params, workspace.data_ptr(), size, device.index, _current_stream(device.index))
    return outputs
