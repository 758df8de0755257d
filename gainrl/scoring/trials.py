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


def rows(width: int) -> Iterator[Tensor]:
    """Rows (1, 5, width) float32 with a mean and outliers, at each scale."""
    generator = torch.Generator().manual_seed(1)
    for scale in _SCALES:
        normal = torch.randn(1, 5, width, generator=generator, dtype=torch.float32)
        outliers = torch.exp(2 * torch.randn(1, 5, width, generator=generator, dtype=torch.float32))
        yield (normal * outliers + 1) * scale


def equal(wanted: object, given: Tensor | None) -> bool:
    """Whether two results are the same within rounding, relative to each row's norm."""
    if not isinstance(wanted, Tensor) or given is None or wanted.shape != given.shape or wanted.dtype != given.dtype:
        return False
    error = (wanted - given).norm(dim=-1)
    return bool((error <= _TOLERANCE * wanted.norm(dim=-1)).all())


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


def projection(narrow: int, wide: int, *, bias: bool, scale: float = 1.0, seed: int = 0) -> nn.Linear:
    """A random linear layer from `narrow` to `wide` features, float32."""
    generator = torch.Generator().manual_seed(seed)
    # without the usual initialisation, which draws from the random stream of whoever is training
    linear: nn.Linear = torch.nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, narrow, wide, bias=bias, dtype=torch.float32
    )
    for parameter in linear.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * scale)
    return linear


def as_float32(norm: nn.Module) -> nn.Module:
    """A copy of a norm in float32, without hooks, its weight from 0.5 to 2."""
    trial = without_hooks(copy.deepcopy(norm)).float()
    weight = trial.get_parameter("weight")
    weight.copy_(torch.linspace(0.5, 2.0, len(weight), dtype=torch.float32))
    return trial
