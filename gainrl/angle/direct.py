"""Whether PyTorch's dispatcher has nothing to do for a call, so that the kernels may be called without it.

The dispatcher takes a third of a small call (its arguments are boxed and unboxed twice), and all it does on plain
tensors is to find our function.  What it decides by is asked for here: each tensor's dispatch keys, and those that the
thread has turned on (a mode, a trace, a functorch transform).  Whatever is not known to be plain goes through it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.overrides import has_torch_function

_C: Any = torch._C


def _needed() -> bool:
    """Whether this PyTorch has what the question takes: none of it is public."""
    names = ("_dispatch_keys", "_dispatch_tls_local_include_set", "DispatchKeySet", "DispatchKey", "_autograd")
    return all(hasattr(_C, name) for name in names) and all(
        hasattr(where, name)
        for where, name in (
            (_C.DispatchKeySet, "raw_repr"),
            (_C.DispatchKeySet, "add"),
            (_C._autograd, "_profiler_enabled"),
        )
    )


_CAN_ASK = _needed()


@functools.cache
def _plain_threads() -> frozenset[int]:
    """Key sets of a thread in which nothing is turned on, outside and inside inference mode."""
    inference = _C.DispatchKeySet(_C.DispatchKey.BackendSelect)
    return frozenset((inference.raw_repr(), inference.add(_C.DispatchKey.ADInplaceOrView).raw_repr()))


@functools.cache
def _plain_tensors(device: torch.device) -> frozenset[int]:
    """Key sets of a plain tensor on `device`, made outside and inside inference mode."""
    found = set()
    for inference in (False, True):
        with torch.inference_mode(inference):
            found.add(_C._dispatch_keys(torch.empty(0, device=device)).raw_repr())
    return frozenset(found)


def plain(device: torch.device, tensors: tuple[Any, ...]) -> bool:
    """Whether the dispatcher would call the op's function for `tensors` (on `device`) and do nothing else.

    False for meta tensors, for which the op's function is another; while torch.compile or torch.export traces; under
    any mode (fake tensors, `__torch_function__`, functorch, tracing); for a tensor subclass, a lazily negated tensor
    and the like; and while PyTorch's profiler records, which shows the op by its name.
    """
    if torch.compiler.is_compiling() or not _CAN_ASK or device.type == "meta":
        return False
    if (
        has_torch_function(tensors)
        or _C._dispatch_tls_local_include_set().raw_repr() not in _plain_threads()
        or _C._autograd._profiler_enabled()
    ):
        return False
    keys, known = _C._dispatch_keys, _plain_tensors(device)
    for tensor in tensors:  # not all(...): a generator costs a third of the whole question  # noqa: SIM110
        if tensor is not None and keys(tensor).raw_repr() not in known:
            return False
    return True
