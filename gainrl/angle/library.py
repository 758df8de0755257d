"""Registration with `torch.library`, so that torch.compile, fake and meta tensors know the op.

`Library.define/impl` rather than `custom_op`: a call costs less than half as much.  One schema serves every backend;
the one asked for travels as an argument and is chosen when the op runs, so a traced graph stays portable.  The op
returns a list, because allocating an empty tensor for every output that is not wanted would cost a third of the call.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from gainrl.angle import native
from gainrl.angle.backends import choose
from gainrl.angle.call import CONTRIBUTIONS, DIRECTIONS, SUMS, TRITON_WIDEST, AngleCall, Outputs
from gainrl.angle.checks import raise_on_bad_values
from gainrl.angle.direct import plain
from gainrl.angle.outputs import empty_outputs

NAMESPACE = __name__.partition(".")[0]
"""`gainrl`; another name where the kernels package loads a copy of this folder beside an installed gainrl."""

_library: Any = cast(Any, torch.library.Library)(NAMESPACE, "DEF")
_library.define(
    "angle(Tensor hidden, Tensor? cu_seqlens, Tensor token_role, Tensor? shared_sum, int shared_tokens,"
    " Tensor? norm_weight, float norm_offset, bool diagonal, int wanted, str backend, bool check)"
    " -> Tensor[]"
)


def _angle(*arguments: Any) -> list[Tensor]:
    *fields, backend, check = arguments
    call = AngleCall(*fields)
    name = choose(backend, call.hidden.device.type)
    if name == "triton" and backend == "auto" and call.width > TRITON_WIDEST:
        name = "torch"
    if name == "native":
        outputs: Outputs = native.angle(call)
    elif name == "triton":
        from gainrl.angle import triton_backend

        outputs = triton_backend.angle(call)
    elif name == "torch":
        from gainrl.angle import torch_backend

        outputs = torch_backend.angle(call)
    else:
        from gainrl.angle import reference_backend

        outputs = reference_backend.angle(call)
    if check:
        raise_on_bad_values(outputs.counts[0], call.token_role)
    return [tensor for tensor in outputs if tensor is not None]


def _fake(*arguments: Any) -> list[Tensor]:
    return [tensor for tensor in empty_outputs(AngleCall(*arguments[:9])) if tensor is not None]


_library.impl("angle", _angle, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::angle", _fake, lib=_library)  # serves meta tensors too
_registered: Any = getattr(torch.ops, NAMESPACE).angle.default


def run(call: AngleCall, backend: str, check: bool) -> Outputs:
    """The op, outside autograd: the kernels themselves where PyTorch has nothing to do, else the registered op."""
    hidden, weight = call.hidden, call.norm_weight
    # Asked first whether the dispatcher is needed: where torch.compile traces, nothing else here may run.
    if (
        plain(hidden.device, (hidden, call.cu_seqlens, call.token_role, call.shared_sum, weight))
        and choose(backend, hidden.device.type) == "native"
    ):
        outputs = native.angle(call)
        if check:
            raise_on_bad_values(outputs.counts[0], call.token_role)
        return outputs
    found: list[Any] = _registered(
        hidden.detach() if hidden.requires_grad else hidden, call.cu_seqlens, call.token_role,
        call.shared_sum, call.shared_tokens, weight.detach() if weight is not None and weight.requires_grad else weight,
        call.norm_offset, call.diagonal, call.wanted, backend, check,
    )  # fmt: skip
    rest = iter(found[2:])
    more = (next(rest) if call.wanted & bit else None for bit in (DIRECTIONS, CONTRIBUTIONS, SUMS))
    return Outputs(found[0], found[1], *more)
