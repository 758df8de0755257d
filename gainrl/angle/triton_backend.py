"""The op in Triton, for GPUs and platforms without the compiled module (ROCm included by design).

With TRITON_INTERPRET=1 the same kernels run on the CPU, which is how they are tested where there is no GPU.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton

from gainrl.angle import triton_kernels as kernels
from gainrl.angle.result import AngleCall, Outputs, Status
from gainrl.angle.torch_backend import finish

PROGRAMS_PER_PROCESSOR = 8
MOST_CHUNK_ROWS = 512


def run(call: AngleCall) -> Outputs:
    """The op in Triton, on hidden's device: Triton itself launches on the current one, whatever the tensors say."""
    on_gpu = call.hidden.device.type == "cuda"  # ROCm's devices have that name too
    with torch.cuda.device(call.hidden.device) if on_gpu else contextlib.nullcontext():
        return _run(call)


def _run(call: AngleCall) -> Outputs:
    hidden, cu_seqlens, token_role = call.hidden, call.cu_seqlens, call.token_role
    device, width, batch, padded = hidden.device, call.width, call.sequences, call.padded
    rows, length = token_role.numel(), token_role.shape[1] if padded else 0
    offsets = None if cu_seqlens is None else cu_seqlens.contiguous()
    shared = None if call.shared_sum is None else call.shared_sum.contiguous()
    shared_tokens = call.shared_tokens

    numbers = torch.zeros(3, batch, dtype=torch.float64, device=device)
    counts = torch.zeros(3, batch, dtype=torch.int32, device=device)
    counts[2] = shared_tokens
    directions = torch.zeros(batch if call.directions else 0, width, device=device)
    sums = torch.zeros(batch if call.sums else 0, width, device=device)
    if shared is not None:  # what a sequence without rows has; the kernels write all others
        numbers[2] = shared.double().square().sum()
        sums += shared

    wide = triton.next_power_of_2(width)
    chunk_rows, chunks = _chunks(rows, device)
    slots = torch.empty(chunks, 2, 2, width, device=device)
    segments = torch.full((chunks, 2, 4), -1, dtype=torch.int64, device=device)
    role_stride = token_role.stride()
    rows_layout = (hidden.stride(0) if padded else 0, hidden.stride(-2), hidden.stride(-1))
    roles_layout = (role_stride[0] if padded else 0, role_stride[-1], 2 if token_role.dtype == torch.bool else 1)
    roles = token_role.view(torch.int8)
    # Arguments that a call does not need still need a pointer; `numbers` is one.
    where, kept = (x if x is not None else numbers for x in (offsets, shared))
    # Fused multiply-adds would give the lanes of one sum different last bits, and which lane's is stored is chance.
    tile: dict[str, Any] = {
        "WIDTH": wide, "num_warps": 4 if wide <= 2048 else 8 if wide <= 8192 else 16, "enable_fp_fusion": False
    }  # fmt: skip
    if batch and rows:
        kernels.sum_chunks[(chunks,)](
            hidden, roles, where, kept, shared_tokens, numbers, counts, directions, sums, slots,
            segments, rows, batch, width, length, chunk_rows, *rows_layout, *roles_layout,
            PADDED=padded, SHARED=shared is not None, DIRECTIONS=call.directions,
            SUMS=call.sums, ROWS=max(1, min(8, 8192 // wide)), **tile,
        )  # fmt: skip
        for folds in (True, False) if chunks > 2 * kernels.FOLD else (False,):
            kernels.join_partials[(chunks,)](
                where, kept, shared_tokens, numbers, counts, directions, sums, slots, segments, batch, width, length,
                chunk_rows, PADDED=padded, SHARED=shared is not None, DIRECTIONS=call.directions, SUMS=call.sums,
                FOLDS=folds, **tile,
            )  # fmt: skip
    values = finish(numbers[0], numbers[1], numbers[2], counts, call.diagonal)
    if offsets is not None:
        ordered = (offsets[1:] >= offsets[:-1]).all() & (offsets[0] >= 0) & (offsets[-1] <= rows)
        values = torch.where(ordered, values, torch.nan)
        counts[0] = torch.where(ordered, counts[0], int(Status.INVALID_OFFSETS))
        counts[1:] *= ordered
        directions *= ordered
    return Outputs(values, counts, directions if call.directions else None, sums if call.sums else None)


def _chunks(rows: int, device: torch.device) -> tuple[int, int]:
    """Rows per program, and programs."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    programs = processors * PROGRAMS_PER_PROCESSOR
    chunk_rows = min(MOST_CHUNK_ROWS, max(16, -(-rows // programs)))
    return chunk_rows, max(1, -(-rows // chunk_rows))
