"""The dtype for the machine: 16-bit floats only where the device is fast in them, by measurement.

Some processors take 10 to 20 times as long for a bfloat16 product as for a float32 one, and no flag of the processor
tells which.  So a product of 256 x 256 x 256 is timed once per process, and `auto` settings follow the result.
"""

from __future__ import annotations

import functools
import os
import time

import torch

from gainrl.errors import UserError

OVERRIDE = "GAINRL_FAST_DTYPES"
"""Environment variable: dtypes to take as fast without measuring (`bfloat16,float16`, or `none`)."""
_NAMES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_SIZE, _ROUNDS, _LIMIT = 256, 5, 1.5


def is_fast(dtype: torch.dtype, device: torch.device | str) -> bool:
    """Whether a matrix product in `dtype` takes at most 1.5 times as long as in float32 on `device`.

    In a distributed run the answer of rank 0 holds for all ranks, so that they agree; every rank must call.  Raises
    UserError if the environment variable `GAINRL_FAST_DTYPES` names an unknown dtype.
    """
    if dtype not in _NAMES.values():
        return True
    return _is_fast(dtype, torch.device(device).type)


@functools.cache
def _is_fast(dtype: torch.dtype, device: str) -> bool:
    named = os.environ.get(OVERRIDE)
    if named is not None:
        names = [name.strip() for name in named.split(",") if name.strip() and name.strip() != "none"]
        if unknown := [name for name in names if name not in _NAMES]:
            raise UserError(f"{OVERRIDE}={named}: {unknown[0]!r} is none of {', '.join(_NAMES)}, none")
        return dtype in [_NAMES[name] for name in names]
    if device == "cuda":
        fast = dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = slowdown(dtype, device) <= _LIMIT
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        answers: list[bool] = [fast]
        torch.distributed.broadcast_object_list(answers, src=0)
        fast = answers[0]
    return fast


@functools.cache
def slowdown(dtype: torch.dtype, device: str = "cpu") -> float:
    """How many times as long as in float32 a product of 256 x 256 x 256 takes in `dtype`, best of five each."""
    taken = {}
    for kind in (torch.float32, dtype):
        left, right = (torch.randn(_SIZE, _SIZE, device=device).to(kind) for _ in range(2))
        left @ right  # the first call loads kernels
        rounds = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            left @ right
            rounds.append(time.perf_counter() - started)
        taken[kind] = min(rounds)
    return taken[dtype] / taken[torch.float32]


def fast_dtype(wanted: torch.dtype, device: torch.device | str) -> tuple[torch.dtype, str | None]:
    """The dtype to compute in on `device`, and the reason in one sentence if it is not `wanted`.

    `wanted` where the device is fast in it; else float32 on a CPU, and on a GPU without bfloat16 units float16.
    """
    if is_fast(wanted, device):
        return wanted, None
    name = str(wanted).removeprefix("torch.")
    if torch.device(device).type == "cuda":
        return torch.float16, f"this GPU has no {name} units: float16 is used"
    return torch.float32, f"{name} is slow on this machine: float32 is used (set --dtype {name} to force it)"


def cost(dtype: torch.dtype, device: torch.device | str) -> str | None:
    """One sentence on what a dtype that the user named costs on `device`; None where it is fast."""
    if is_fast(dtype, device):
        return None
    name = str(dtype).removeprefix("torch.")
    if torch.device(device).type == "cuda":
        return f"{name} was asked for and this GPU emulates it"
    return f"{name} was asked for: a matrix product takes {slowdown(dtype):.0f} times as long as in float32 here"


def mixed_precision(device: torch.device | str) -> str:
    """`bf16`, `fp16` or `no`: the mixed precision of a training run that names none."""
    if is_fast(torch.bfloat16, device):
        return "bf16"
    return "fp16" if torch.device(device).type == "cuda" else "no"
