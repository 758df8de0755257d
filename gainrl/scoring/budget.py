"""How many tokens one forward pass may take, and what tells that memory ran out."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import nn

from gainrl.scoring.forward import Forward
from gainrl.scoring.taps import evaluating

logger = logging.getLogger(__name__)

MOST = {"cpu": 2048, "cuda": 65536}
"""Beyond these many tokens a forward pass gets no faster per token (on a CPU slower: activations leave the caches)."""
LEAST = 256
SHARE = 0.6
"""Share of a GPU's free memory that activations may take."""
_PROBE = 512


def tokens_per_batch(model: nn.Module, forward: Forward) -> int:
    """What a device is fast with; on a GPU at most the power of two that fits into SHARE of the free memory."""
    device = forward.device
    if device.type != "cuda":
        return MOST["cpu"]
    tokens = (np.arange(_PROBE) % int(forward.decoder.config.vocab_size)).astype(np.int32)
    try:
        with torch.inference_mode(), evaluating(model):
            forward([tokens])  # what is allocated once
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            forward([tokens])
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return LEAST
    per_token = max(1.0, (torch.cuda.max_memory_allocated(device) - before) / _PROBE)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - before
    fits = int(SHARE * free / per_token)
    budget = min(MOST["cuda"], max(LEAST, 1 << max(0, fits.bit_length() - 1)))
    logger.info("%d tokens per batch: %.1f GiB free, %.1f KiB a token", budget, free / 2**30, per_token / 2**10)
    return budget


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch or Python means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = ("can't allocate", "out of memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in said)
