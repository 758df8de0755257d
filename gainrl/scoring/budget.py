"""How many tokens one forward pass may take, from the memory at hand; and what tells that memory ran out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gainrl.scoring.forward import Forward
from gainrl.scoring.taps import blocks_of, decoder_of, evaluating

logger = logging.getLogger(__name__)

MOST = {"cpu": 2048, "cuda": 65536}
"""Beyond these many tokens a forward pass gets no faster per token (on a CPU slower: activations leave the caches)."""
LEAST = 256
SHARE = {"cpu": 0.25, "cuda": 0.6}
"""Share of the free memory that activations may take; a CPU's memory is everybody's."""
_PROBE = 64


def tokens_per_batch(model: nn.Module, forward: Forward) -> int:
    """A power of two between LEAST and MOST: what fits into the SHARE of the memory that is free now."""
    kind = forward.device.type if forward.device.type in MOST else "cuda"
    try:
        with torch.inference_mode(), evaluating(model):
            per_token = bytes_per_token(forward)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return LEAST
    free = free_memory(forward.device)
    if free is None:
        return MOST[kind]
    fits = int(SHARE[kind] * free / per_token)
    budget = min(MOST[kind], max(LEAST, 1 << max(0, fits.bit_length() - 1)))
    logger.info(
        "%d tokens per batch: %.1f MiB free, about %.1f KiB of activations a token",
        budget,
        free / 2**20,
        per_token / 1024,
    )
    return budget


def bytes_per_token(forward: Forward) -> float:
    """Activation bytes that one token holds at the widest block, from a short forward pass.

    On CUDA what the allocator's peak grew by; elsewhere the sum of all that the modules of one block put out, which
    is an upper bound: most of it is freed again before the block ends.
    """
    vocabulary = int(forward.decoder.config.vocab_size)
    tokens = (np.arange(_PROBE) % vocabulary).astype(np.int32)
    if forward.device.type == "cuda":
        forward([tokens])
        torch.cuda.synchronize(forward.device)
        before = torch.cuda.memory_allocated(forward.device)
        torch.cuda.reset_peak_memory_stats(forward.device)
        forward([np.tile(tokens, 8)])
        return max(1.0, (torch.cuda.max_memory_allocated(forward.device) - before) / (8 * _PROBE))
    with _counted(forward.decoder) as seen:
        forward([tokens])
    return max(1.0, max(seen.values(), default=0) / _PROBE)


@contextmanager
def _counted(decoder: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes that the modules inside each block put out during a forward pass: {block: bytes}."""
    seen: dict[int, int] = {}
    handles = []
    try:
        blocks: list[nn.Module] = list(blocks_of(decoder))
    except ValueError:  # no list of blocks to be found: the decoder counts as one
        blocks = [decoder_of(decoder)]
    for number, block in enumerate(blocks):

        def count(_: nn.Module, __: Any, output: Any, number: int = number) -> None:
            tensors = output if isinstance(output, tuple | list) else [output]
            seen[number] = seen.get(number, 0) + sum(t.nbytes for t in tensors if isinstance(t, Tensor))

        handles += [module.register_forward_hook(count) for module in block.modules()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on `device`; None where nothing tells."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type != "cpu":
        return None
    found = [free for free in (_system_memory(), _group_memory()) if free is not None]
    return min(found, default=None)


def _system_memory() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") if hasattr(os, "sysconf") else None


def _group_memory(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the control group (a container's limit) leaves, page cache counted as free; None without a limit."""
    try:
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        folder = root / own.removeprefix("0::").lstrip("/")
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        cached = next(
            int(line.split()[1])
            for line in (folder / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
    except (OSError, StopIteration, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + cached)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch or Python says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text.lower() or "not enough memory" in text
    )
