"""The torch tensors that a call's results go into."""

from __future__ import annotations

import torch
from torch import Tensor

from gainrl.angle.call import CONTRIBUTIONS, DIRECTIONS, SUMS, AngleCall, Outputs


def empty_outputs(call: AngleCall) -> Outputs:
    """Outputs of the right shapes on hidden's device, not filled."""
    roles, offsets, wanted, device = call.token_role, call.cu_seqlens, call.wanted, call.hidden.device
    batch = roles.shape[0] if offsets is None else offsets.shape[0] - 1
    # Sizes as single arguments: PyTorch takes a third less time to read them than a tuple.
    values = torch.empty(4, batch, dtype=torch.float32, device=device)
    counts = torch.empty(3, batch, dtype=torch.int32, device=device)
    if not wanted:
        return Outputs(values, counts, None, None, None)

    def floats(bit: int, *shape: int) -> Tensor | None:
        return torch.empty(shape, dtype=torch.float32, device=device) if wanted & bit else None

    width = call.hidden.shape[-1]
    contributions = floats(CONTRIBUTIONS, *roles.shape)
    return Outputs(values, counts, floats(DIRECTIONS, batch, width), contributions, floats(SUMS, batch, width))
