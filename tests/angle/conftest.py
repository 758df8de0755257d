"""Makes the helper module `angle_cases` importable, and turns a case into torch tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
def agrees() -> Callable[..., Any]:
    """Runs a case through the public op with torch tensors and compares with the oracle."""
    import torch
    from angle_cases import assert_matches

    import gainrl

    def run(case: Any, backend: str, *, device: str = "cpu", hidden: Any = None, vectors: bool = True) -> Any:
        if hidden is None:
            hidden = torch.from_numpy(case.hidden.view(np.int16) if case.dtype == "bfloat16" else case.hidden)
            hidden = hidden.view(getattr(torch, case.dtype)).to(device)
        shared = None
        if case.shared is not None:
            total, tokens = case.shared_sum()
            shared = gainrl.SharedPrefix(torch.from_numpy(total).to(device), tokens)
        offsets = None if case.offsets is None else torch.from_numpy(case.offsets).to(device)
        result = gainrl.angle_concentration(
            hidden, offsets, torch.from_numpy(case.roles).to(device), shared_prefix=shared, diagonal=case.diagonal,
            return_directions=vectors, backend=backend, check=False,
        )  # fmt: skip
        fields = (None if x is None else x.cpu().numpy() for x in (result.values, result.counts, result.directions))
        assert_matches(case, *fields)
        return result

    return run
