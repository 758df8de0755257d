"""The op in Triton, for GPUs and platforms without the compiled module (ROCm included by design).

With TRITON_INTERPRET=1 the same kernels run on the CPU, which is how they are tested where there is no GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton

from gainrl.angle import triton_kernels as kernels
from gainrl.angle.result import AngleCall, AngleConcentration, Status, new_result
from gainrl.angle.torch_backend import finish

PROGRAMS_PER_PROCESSOR = 8
MOST_CHUNK_ROWS = 512


def run(call: AngleCall) -> AngleConcentration:
    """The op in Triton."""
    hidden, role, shared, batch = call.hidden, call.token_role, call.shared_sum, call.sequences
    device, width, rows = hidden.device, hidden.shape[-1], role.numel()
    result = new_result(call, torch.zeros, torch.float32, torch.int32, device=device)
    numbers = torch.zeros(3, batch, dtype=torch.float64, device=device)
    if shared is not None:  # what sequences without rows have; the kernels write all others
        numbers[2] = shared.double().square().sum()
    # Row t of sequence b lies `t * stride + b * skip` from the first.
    skip = role_skip = 0
    offsets = call.cu_seqlens
    if offsets is None:
        offsets = torch.arange(batch + 1, device=device) * role.shape[1]
        skip = hidden.stride(0) - role.shape[1] * hidden.stride(1)
        role_skip = role.stride(0) - role.shape[1] * role.stride(1)

    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    chunk_rows = min(MOST_CHUNK_ROWS, max(16, -(-rows // (processors * PROGRAMS_PER_PROCESSOR))))
    chunks = max(1, -(-rows // chunk_rows))
    tallies = torch.zeros(4, batch, dtype=torch.int32, device=device)
    partials = torch.zeros(chunks, 2, width, dtype=torch.int64, device=device)
    owners = torch.full((chunks,), -1, dtype=torch.int64, device=device)
    wide = triton.next_power_of_2(width)
    # Fused multiply-adds would give the lanes of one sum different last bits, and which lane's is stored is chance.
    tile: dict[str, Any] = {
        "WIDTH": wide, "num_warps": 4 if wide <= 2048 else 8 if wide <= 8192 else 16, "enable_fp_fusion": False
    }  # fmt: skip
    ends = shared, numbers, tallies, result.directions, partials, owners, batch, width
    # Triton launches on the current device, whatever the tensors say.
    with torch.cuda.device_of(hidden):  # type: ignore[no-untyped-call]
        if batch and rows:
            kernels.sum_chunks[(chunks,)](
                hidden, role.view(torch.int8), offsets.long(), *ends, chunk_rows, rows, hidden.stride(-2),
                hidden.stride(-1), skip, role.stride(-1), role_skip, 2 if role.dtype == torch.bool else 1,
                ROWS=max(1, min(8, 8192 // wide)), **tile,
            )  # fmt: skip
            kernels.finish_spanning[(chunks,)](*ends, **tile)
    result.counts[0] = (tallies[2] > 0) * int(Status.NON_FINITE) + (tallies[3] > 0) * int(Status.INVALID_ROLE)
    result.counts[1:] = tallies[:2]
    result.counts[2] += call.shared_tokens
    values = finish(numbers, result.counts, call.diagonal)
    ordered = (offsets[1:] >= offsets[:-1]).all() & (offsets[0] >= 0) & (offsets[-1] <= rows)
    result.values.copy_(torch.where(ordered, values, torch.nan))
    result.counts[0] = torch.where(ordered, result.counts[0], int(Status.INVALID_OFFSETS))
    result.counts[1:] *= ordered
    if result.directions is not None:
        result.directions.mul_(ordered)
    return result
