"""Angle concentration: how aligned the final hidden states of a prompt's tokens are, in one read of each activation.

    from gainrl import angle_concentration
    result = angle_concentration(hidden, cu_seqlens, token_role)   # hidden (T, D), cu_seqlens (B+1,), token_role (T,)
    result.score                                                   # (B,) float32

The same in a few lines of PyTorch, for one prompt:

    u = torch.nn.functional.normalize(hidden.float(), dim=-1)
    q, p = u[token_role == 2], u[token_role == 1]
    score = (q @ q.T).mean() + (q @ p.T).mean()

Importing this package needs neither torch nor the compiled module.
"""

from __future__ import annotations

from gainrl.angle.backends import available_backends
from gainrl.angle.op import angle_concentration, shared_prefix
from gainrl.angle.result import AngleConcentration, SharedPrefix, Status

__all__ = ["AngleConcentration", "SharedPrefix", "Status", "angle_concentration", "available_backends", "shared_prefix"]
