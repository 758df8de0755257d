"""The compiled kernels behind the backends' contract: C++ on the CPU, CUDA on NVIDIA GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gainrl.angle.backends import native_module
from gainrl.angle.call import CONTRIBUTIONS, DIRECTIONS, SUMS, Outputs
from gainrl.angle.library import empty_outputs

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def angle(
    hidden: Tensor,
    cu_seqlens: Tensor | None,
    token_role: Tensor,
    shared_sum: Tensor | None,
    shared_tokens: int,
    norm_weight: Tensor | None,
    norm_offset: float,
    diagonal: bool,
    wanted: int,
) -> Outputs:
    """Arguments and results as in `gainrl.angle.call`."""
    module: Any = native_module()
    outputs = empty_outputs(hidden, cu_seqlens, token_role, wanted)
    values, counts, directions, contributions, sums = outputs
    if hidden.is_cuda and wanted & CONTRIBUTIONS and not wanted & SUMS:  # the third kernel reads the sums
        sums = torch.empty(values.shape[1], hidden.shape[-1], dtype=torch.float32, device=hidden.device)
    if cu_seqlens is not None and not cu_seqlens.is_contiguous():
        cu_seqlens = cu_seqlens.contiguous()
    if shared_sum is not None and not shared_sum.is_contiguous():
        shared_sum = shared_sum.contiguous()
    if norm_weight is not None and not norm_weight.is_contiguous():
        norm_weight = norm_weight.contiguous()
    padded = cu_seqlens is None
    strides, role_strides = hidden.stride(), token_role.stride()
    params = module.AngleParams(
        hidden.data_ptr(),
        _DTYPES[hidden.dtype],
        hidden.shape[-1],
        strides[-2],
        strides[0] if padded else 0,
        strides[-1],
        values.shape[1],
        token_role.numel(),
        token_role.shape[1] if padded else 0,
        0 if cu_seqlens is None else cu_seqlens.data_ptr(),
        cu_seqlens is not None and cu_seqlens.dtype == torch.int64,
        token_role.data_ptr(),
        role_strides[-1],
        role_strides[0] if padded else 0,
        2 if token_role.dtype == torch.bool else 1,
        0 if shared_sum is None else shared_sum.data_ptr(),
        shared_tokens,
        0 if norm_weight is None else norm_weight.data_ptr(),
        0 if norm_weight is None else _DTYPES[norm_weight.dtype],
        norm_offset,
        diagonal,
        values.data_ptr(),
        counts.data_ptr(),
        directions.data_ptr() if wanted & DIRECTIONS else 0,
        sums.data_ptr() if sums.numel() else 0,
        contributions.data_ptr() if wanted & CONTRIBUTIONS else 0,
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
