"""Random numbers put aside and back, so that what happens in between does not change a run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore Python's, NumPy's and torch's generators (CPU and the accelerator's devices) on the way out."""
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (what transformers draws from)
    accelerator = torch.accelerator.current_accelerator()
    kind = accelerator.type if accelerator is not None else "cuda"
    devices = range(torch.accelerator.device_count()) if accelerator is not None else []
    try:
        with torch.random.fork_rng(devices=list(devices), device_type=kind):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
