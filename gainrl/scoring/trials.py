"""What is needed to try a module: copies without hooks, rows that show what it does, and when two results are equal."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Fast = Callable[..., Any]
"""The fast forward of a module: what is set as its `forward`."""

WIDTH, INNER = 8, 24
"""Features of the small projections that stand for a module's own."""
_SCALES = (1e-3, 1.0, 30.0, 1e4)  # at the smallest an eps matters, at the largest a clamp
_TOLERANCE = 1e-5  # of float32, several roundings
_ROUNDINGS = 8  # of 16 bits: a module may round between steps that the kernels take at once


class Alike:
    """Trials in the 16 bits of a module's own weights, one for all modules of a kind.

    Float32 tells formulas apart that 16 bits do not, and each module is tried in it.  But a module may clamp in
    float16 alone, square there what then overflows, or return another dtype than it was given, and of that float32
    knows nothing.  That is the code of a class and its settings, so what has the same is not tried twice.
    """

    def __init__(self) -> None:
        self._known: dict[object, bool] = {}

    def __call__(self, module: nn.Module, weight: Tensor, trial: Callable[[torch.dtype], bool]) -> bool:
        """Whether `trial` holds in the weight's dtype for modules like this one; of other than 16 bits, True."""
        if weight.dtype not in (torch.float16, torch.bfloat16):
            return True
        plain = [
            (type(m), sorted((k, repr(v)) for k, v in vars(m).items() if type(v) in PLAIN and k not in _UNLIKE))
            for m in module.modules()
        ]
        key = (weight.dtype, repr(plain), *(type(m) for m in module.modules()))
        if key not in self._known:
            self._known[key] = trial(weight.dtype)
        return self._known[key]


PLAIN = frozenset((bool, int, float, str, type(None)))
_UNLIKE = ("training", "layer_idx")


def rows(width: int, dtype: torch.dtype = torch.float32, *, most: float | None = None) -> Iterator[Tensor]:
    """Rows (1, 5, width) with a mean and outliers, at each scale, up to `most` (by default half the largest)."""
    generator = torch.Generator().manual_seed(1)
    most = torch.finfo(dtype).max / 2 if most is None else most
    for scale in _SCALES:
        normal = torch.randn(1, 5, width, generator=generator, dtype=torch.float32)
        outliers = torch.exp(2 * torch.randn(1, 5, width, generator=generator, dtype=torch.float32))
        yield ((normal * outliers + 1) * scale).clamp(-most, most).to(dtype)


def equal(wanted: object, given: Tensor | None) -> bool:
    """Whether two results are the same within rounding, relative to each row's norm, and overflow alike."""
    if not isinstance(wanted, Tensor) or given is None or wanted.shape != given.shape or wanted.dtype != given.dtype:
        return False
    finite = wanted.isfinite()
    if not torch.equal(finite, given.isfinite()):
        return False
    tolerance = _TOLERANCE if wanted.dtype == torch.float32 else _ROUNDINGS * torch.finfo(wanted.dtype).eps
    wanted, given = (result.float().masked_fill(~finite, 0.0) for result in (wanted, given))
    return bool(((wanted - given).norm(dim=-1) <= tolerance * wanted.norm(dim=-1)).all())


def without_hooks(module: nn.Module) -> nn.Module:
    """The module, a copy, with the hooks of its own and of its parts gone."""
    for part in module.modules():
        part.__dict__["_forward_hooks"] = OrderedDict()
        part.__dict__["_forward_pre_hooks"] = OrderedDict()
    return module


def with_parts(module: nn.Module, parts: Mapping[str, nn.Module]) -> Any:
    """A copy of the module, evaluating and without hooks, in which all of its parts are exchanged for these."""
    trial = copy.copy(module)  # which shares the parts until they are exchanged
    trial.__dict__["_modules"] = {}
    without_hooks(trial)
    trial.__dict__["_modules"] = dict(parts)
    trial.__dict__["training"] = False
    return trial


def projection(
    narrow: int, wide: int, dtype: torch.dtype, *, bias: bool, scale: float = 1.0, seed: int = 0
) -> nn.Linear:
    """A random linear layer from `narrow` to `wide` features."""
    generator = torch.Generator().manual_seed(seed)
    # without the usual initialisation, which draws from the random stream of whoever is training
    linear: nn.Linear = torch.nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, narrow, wide, bias=bias, dtype=dtype
    )
    for parameter in linear.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * scale)
    return linear


def identity(width: int, dtype: torch.dtype) -> nn.Linear:
    """A linear layer that gives what it is given."""
    linear = projection(width, width, dtype, bias=False)
    linear.weight.copy_(torch.eye(width))
    return linear


def with_plain_weight(norm: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a norm in this dtype, without hooks, its weight from 0.5 to 2."""
    trial = without_hooks(copy.deepcopy(norm)).to(dtype)
    weight = trial.get_parameter("weight")
    weight.copy_(torch.linspace(0.5, 2.0, len(weight), dtype=torch.float32))
    return trial
