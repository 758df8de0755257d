"""Modules of a decoder that the package's own CPU kernels can do in one pass over memory, found by trying them.

In torch, an RMSNorm is five passes over its rows and the gate of a SwiGLU layer two.  `FusedLayers` finds the modules
whose results equal those of `gainrl.scoring.kernels`, whatever their names: of each, a copy in float32 (of a gate, with
small projections) is run on rows with a mean, outliers and extreme scales, and compared.  While `installed`, they have
the fast forward.  Hooks run as ever; the model is as before afterwards.  Elsewhere than on a CPU nothing is looked for.
"""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gainrl.scoring import kernels

logger = logging.getLogger(__name__)

Fast = Callable[..., Any]
_SCALES = (1e-3, 1.0, 30.0, 1e4)  # at the smallest an eps matters, at the largest a clamp
_TOLERANCE = 1e-5  # of float32, several roundings
_WIDTH, _INNER = 8, 24  # of the small projections


class FusedLayers:
    """The modules of `decoder` that have a faster forward; call under `torch.inference_mode()`."""

    def __init__(self, decoder: nn.Module) -> None:
        self._fast: list[tuple[nn.Module, Fast]] = []
        modules = list(decoder.modules())
        if not kernels.available() or any(getattr(m, "_compiled_call_impl", None) is not None for m in modules):
            return
        for module in modules:
            if "forward" in vars(module):  # somebody else's already
                continue
            try:
                fast = _rms_norm(module) or _swiglu(module)
            except Exception as error:  # a module of another kind may fail in any way when it is tried
                logger.debug("%s left alone: %s", type(module).__name__, error)
                continue
            if fast is not None:
                self._fast.append((module, fast))

    def __len__(self) -> int:
        return len(self._fast)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The modules use the fast forward inside."""
        given: list[tuple[nn.Module, Fast]] = []
        try:
            for module, fast in self._fast:
                if "forward" not in vars(module):
                    module.forward = fast
                    given.append((module, fast))
            yield
        finally:
            for module, fast in given:
                if vars(module).get("forward") is fast:
                    del module.forward


def _rms_norm(module: nn.Module) -> Fast | None:
    """The fast forward of a module that is an RMSNorm; None for any other."""
    parameters = dict(module.named_parameters())
    weight = parameters.get("weight")
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if len(parameters) != 1 or weight is None or weight.dim() != 1 or len(weight) < 2 or not isinstance(eps, float):
        return None
    if type(weight) is not nn.Parameter or weight.device.type != "cpu" or next(module.buffers(), None) is not None:
        return None
    trial = _without_hooks(copy.deepcopy(module))
    if trial(weight.new_ones(1, 1, len(weight))).dtype != weight.dtype:
        return None
    trial = trial.float()
    own = trial.get_parameter("weight")
    own.copy_(torch.linspace(0.5, 2.0, len(own)))
    ones = trial(torch.ones(1, 1, len(own))).flatten()
    offset = 1.0 if bool((ones - own - 1).abs().max() < (ones - own).abs().max()) else 0.0
    for rows in _rows(len(own)):
        if not _equal(trial(rows.clone()), kernels.rms_norm(rows, own, offset, eps)):
            return None
    layer: Any = module
    original = module.forward

    def fast(*arguments: Any, **options: Any) -> Any:
        done = None
        if len(arguments) == 1 and not options and isinstance(arguments[0], Tensor):
            done = kernels.rms_norm(arguments[0], layer.weight, offset, eps)
        return original(*arguments, **options) if done is None else done

    return fast


def _swiglu(module: nn.Module) -> Fast | None:
    """The fast forward of a module that is down(silu(gate(x)) · up(x)); None for any other."""
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")]
    if not all(isinstance(part, nn.Module) for part in parts):
        return None
    parameter = next(module.parameters(), None)
    if parameter is None or parameter.device.type != "cpu":
        return None
    trial = copy.copy(module)  # which shares the parts until they are exchanged
    trial.__dict__["_modules"] = {}
    _without_hooks(trial)
    trial.__dict__["_modules"] = dict(module._modules)
    generator = torch.Generator().manual_seed(0)
    for name, wide, narrow in (("gate_proj", _INNER, _WIDTH), ("up_proj", _INNER, _WIDTH), ("down_proj", 5, _INNER)):
        projection = nn.Linear(narrow, wide, bias=False)
        projection.weight.copy_(torch.randn(wide, narrow, generator=generator))
        trial.__dict__["_modules"][name] = projection
    trial.__dict__["_modules"]["act_fn"] = _without_hooks(copy.deepcopy(module.get_submodule("act_fn")))
    gate, up, down = (trial.get_submodule(name) for name in ("gate_proj", "up_proj", "down_proj"))
    for rows in _rows(_WIDTH):
        product = kernels.silu_mul(gate(rows), up(rows))
        if product is None or not _equal(trial(rows.clone()), down(product)):
            return None
    layer: Any = module
    original = module.forward

    def fast(*arguments: Any, **options: Any) -> Any:
        activation = layer.act_fn  # the module's parts as they are by now
        if len(arguments) != 1 or options or activation._forward_hooks or activation._forward_pre_hooks:
            return original(*arguments, **options)
        gated, other = layer.gate_proj(arguments[0]), layer.up_proj(arguments[0])
        product = kernels.silu_mul(gated, other)
        return layer.down_proj(activation(gated) * other if product is None else product)

    return fast


def _without_hooks(module: nn.Module) -> nn.Module:
    """The module, a copy, with the hooks of its own and of its parts gone."""
    for part in module.modules():
        part.__dict__["_forward_hooks"] = OrderedDict()
        part.__dict__["_forward_pre_hooks"] = OrderedDict()
    return module


def _rows(width: int) -> Iterator[Tensor]:
    """Rows (1, 5, width) float32 with a mean and outliers, at each scale."""
    generator = torch.Generator().manual_seed(1)
    for scale in _SCALES:
        rows = torch.randn(1, 5, width, generator=generator)
        outliers = torch.exp(2 * torch.randn(1, 5, width, generator=generator))
        yield (rows * outliers + 1) * scale


def _equal(wanted: object, given: Tensor | None) -> bool:
    """Whether two results are the same within rounding, relative to each row's norm."""
    if not isinstance(wanted, Tensor) or given is None or wanted.shape != given.shape or wanted.dtype != given.dtype:
        return False
    error = (wanted - given).norm(dim=-1)
    return bool((error <= _TOLERANCE * wanted.norm(dim=-1)).all())
