"""Registration with `torch.library`, so that torch.compile, fake and meta tensors know the op.

`Library.define/impl` rather than `custom_op`: a call costs less than half as much.  One schema serves every backend;
the one asked for travels as an argument and is chosen when the op runs, so a traced graph stays portable.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from gainrl.angle import call
from gainrl.angle.backends import choose
from gainrl.angle.call import Outputs
from gainrl.angle.checks import raise_on_bad_values

_library: Any = cast(Any, torch.library.Library)("gainrl", "DEF")
_library.define(
    "angle(Tensor hidden, Tensor? cu_seqlens, Tensor token_role, Tensor? shared_sum, int shared_tokens,"
    " Tensor? norm_weight, float norm_offset, bool diagonal, int wanted, str backend, bool check)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _angle(
    hidden: Tensor,
    cu_seqlens: Tensor | None,
    token_role: Tensor,
    shared_sum: Tensor | None,
    shared_tokens: int,
    norm_weight: Tensor | None,
    norm_offset: float,
    diagonal: bool,
    wanted: int,
    backend: str,
    check: bool,
) -> Outputs:
    name = choose(backend, hidden.device.type)
    if name == "triton" and backend == "auto" and hidden.shape[-1] > call.TRITON_WIDEST:
        name = "torch"
    if name == "native":
        from gainrl.angle.native import angle
    elif name == "triton":
        from gainrl.angle.triton_backend import angle
    elif name == "torch":
        from gainrl.angle.torch_backend import angle
    else:
        from gainrl.angle.reference_backend import angle
    outputs: Outputs = angle(
        hidden, cu_seqlens, token_role, shared_sum, shared_tokens, norm_weight, norm_offset, diagonal, wanted
    )
    if check:
        raise_on_bad_values(outputs[1][0], token_role)
    return outputs


def _fake(
    hidden: Tensor,
    cu_seqlens: Tensor | None,
    token_role: Tensor,
    shared_sum: Tensor | None,
    shared_tokens: int,
    norm_weight: Tensor | None,
    norm_offset: float,
    diagonal: bool,
    wanted: int,
    backend: str,
    check: bool,
) -> Outputs:
    return empty_outputs(hidden, cu_seqlens, token_role, wanted)


def empty_outputs(hidden: Tensor, cu_seqlens: Tensor | None, token_role: Tensor, wanted: int) -> Outputs:
    """Outputs of the right shapes on hidden's device, not filled."""
    batch = token_role.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    width = hidden.shape[-1]

    def floats(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=hidden.device)

    return (
        floats(4, batch),
        torch.empty((3, batch), dtype=torch.int32, device=hidden.device),
        floats(batch if wanted & call.DIRECTIONS else 0, width),
        floats(*(token_role.shape if wanted & call.CONTRIBUTIONS else (0,))),
        floats(batch if wanted & call.SUMS else 0, width),
    )


_library.impl("angle", _angle, "CompositeExplicitAutograd")
_library.impl("angle", _fake, "Meta")
torch.library.register_fake("gainrl::angle", _fake, lib=_library)


def run(
    hidden: Tensor,
    cu_seqlens: Tensor | None,
    token_role: Tensor,
    shared_sum: Tensor | None,
    shared_tokens: int,
    norm_weight: Tensor | None,
    norm_offset: float,
    diagonal: bool,
    wanted: int,
    backend: str,
    check: bool,
) -> Outputs:
    """The registered op, outside autograd."""
    outputs: Outputs = torch.ops.gainrl.angle(
        hidden.detach(), cu_seqlens, token_role, shared_sum, shared_tokens,
        None if norm_weight is None else norm_weight.detach(), norm_offset, diagonal, wanted, backend, check,
    )  # fmt: skip
    return outputs
