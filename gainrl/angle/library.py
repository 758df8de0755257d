"""Registration with `torch.library`, so that torch.compile, fake and meta tensors know the op.

`Library.define/impl` rather than `custom_op`: a call costs less than half as much.  One schema serves every backend;
the one asked for travels as an argument and is chosen when the op runs, so a traced graph stays portable.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from gainrl.angle.op import run_plain
from gainrl.angle.result import AngleCall, AngleConcentration, new_result

NAMESPACE = __name__.partition(".")[0]  # not `gainrl` where the kernels package has a copy of this folder


def _tensors(result: AngleConcentration) -> list[Tensor]:
    return [part for part in (result.values, result.counts, result.directions) if part is not None]


def _angle(*arguments: Any) -> list[Tensor]:
    return _tensors(run_plain(AngleCall(*arguments[:7]), *arguments[7:]))


def _fake(*arguments: Any) -> list[Tensor]:
    call = AngleCall(*arguments[:7])
    return _tensors(new_result(call, torch.empty, torch.float32, torch.int32, device=call.hidden.device))


_library: Any = cast(Any, torch.library.Library)(NAMESPACE, "DEF")
_library.define(
    "angle(Tensor hidden, Tensor? cu_seqlens, Tensor token_role, Tensor? shared_sum, int shared_tokens, bool diagonal,"
    " bool directions, str backend, bool check) -> Tensor[]"
)
_library.impl("angle", _angle, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::angle", _fake, lib=_library)  # serves meta tensors too
_registered: Any = getattr(torch.ops, NAMESPACE).angle.default


def run_registered(call: AngleCall, backend: str, check: bool) -> AngleConcentration:
    """The op through PyTorch's dispatcher, outside autograd."""
    tensors = _registered(
        call.hidden.detach() if call.hidden.requires_grad else call.hidden, call.cu_seqlens, call.token_role,
        call.shared_sum, call.shared_tokens, call.diagonal, call.directions, backend, check,
    )  # fmt: skip
    return AngleConcentration(*tensors)
