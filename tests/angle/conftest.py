"""Makes the helper module `angle_cases` importable, and turns a case into torch tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from gainrl.angle.backends import unavailable


@pytest.fixture
def need() -> Callable[..., None]:
    """`need("native")` skips, with the backend's name and the reason, where it cannot serve."""

    def check(backend: str, device: str = "cpu") -> None:
        if reason := unavailable(backend, device):
            pytest.skip(f"{'cuda' if device == 'cuda' else backend}: {reason}")

    return check


@pytest.fixture
def on_torch() -> Callable[..., Any]:
    """Runs a case through the public op with torch tensors; returns (result, values, counts, directions, cosines)."""
    import numpy as np
    import torch

    import gainrl

    def run(case: Any, backend: str, *, device: str = "cpu", vectors: bool = True, **options: Any) -> Any:
        hidden = torch.from_numpy(case.hidden.view(np.int16) if case.dtype == "bfloat16" else case.hidden)
        hidden = hidden.view(torch.bfloat16) if case.dtype == "bfloat16" else hidden
        shared = None
        if case.shared is not None:
            total, tokens = case.shared_sum()
            shared = gainrl.SharedPrefix(torch.from_numpy(total).to(device), tokens)
        result = gainrl.angle_concentration(
            options.pop("hidden", hidden.to(device)),
            None if case.offsets is None else torch.from_numpy(case.offsets).to(device),
            torch.from_numpy(case.roles).to(device),
            shared_prefix=shared,
            norm_weight=None if case.weight is None else torch.from_numpy(case.weight).to(device),
            norm_offset=case.weight_offset,
            diagonal=case.diagonal,
            return_directions=vectors,
            return_contributions=vectors,
            backend=backend,
            check=False,
            **options,
        )
        parts = (result.values, result.counts, result.directions, result.contributions)
        return result, *(None if part is None else part.cpu().numpy() for part in parts)

    return run
