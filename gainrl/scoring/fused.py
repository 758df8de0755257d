"""Modules of a decoder that the package's own CPU kernels can do in one pass over memory, found by trying them.

In torch, an RMSNorm is five passes over its rows and the gate of a SwiGLU layer two.  `FusedLayers` finds the modules
whose results equal those of `gainrl.scoring.kernels` (whatever their names: each candidate is run on random rows and
compared), and lends them the fast forward while `installed`.  The modules' hooks run as ever; the model is as before
afterwards.  Elsewhere than on a CPU nothing is found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gainrl.scoring import kernels

logger = logging.getLogger(__name__)

Fast = Callable[..., Tensor]
_PROBE_SCALES = (1e-3, 1.0, 30.0)  # at the smallest, eps matters


class FusedLayers:
    """The modules of `decoder` that have a faster forward; call under `torch.inference_mode()`."""

    def __init__(self, decoder: nn.Module) -> None:
        self._fast: list[tuple[nn.Module, Fast]] = []
        kinds: dict[object, bool] = {}
        for module in decoder.modules():
            if "forward" in vars(module):  # somebody else's already
                continue
            candidate = _rms_norm(module) or _swiglu(module)
            if candidate is None:
                continue
            kind, fast, width = candidate
            if kind not in kinds:  # one of each kind is tried
                kinds[kind] = _agrees(module, fast, width)
                logger.debug("%s: %s", type(module).__name__, "fused" if kinds[kind] else "left alone")
            if kinds[kind]:
                self._fast.append((module, fast))

    def __len__(self) -> int:
        return len(self._fast)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The modules use the fast forward inside."""
        given: list[nn.Module] = []
        try:
            for module, fast in self._fast:
                if "forward" not in vars(module):
                    module.forward = fast
                    given.append(module)
            yield
        finally:
            for module in given:
                del module.forward


def _rms_norm(module: nn.Module) -> tuple[object, Fast, int] | None:
    """A module with one vector of weights and an eps: perhaps an RMSNorm."""
    parameters = dict(module.named_parameters())
    weight = parameters.get("weight")
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if len(parameters) != 1 or weight is None or weight.dim() != 1 or not isinstance(eps, float):
        return None
    if next(module.buffers(), None) is not None:
        return None
    layer: Any = module
    original = module.forward
    offset = 1.0 if _weight_offset(module, weight) else 0.0

    def fast(hidden: Tensor, *arguments: Any, **options: Any) -> Tensor:  # the module's parts as they are by then
        done = None if arguments or options else kernels.rms_norm(hidden, layer.weight, offset, eps)
        return original(hidden, *arguments, **options) if done is None else done

    return (type(module), "norm", weight.dtype, eps, offset), fast, len(weight)


def _weight_offset(module: nn.Module, weight: Tensor) -> bool:
    """Whether the module multiplies by 1 + weight: then a row of ones comes out as that, else as the weight."""
    try:
        ones = module(weight.new_ones(1, 1, len(weight))).flatten().float()
    except (RuntimeError, TypeError, ValueError):
        return False
    plain = (ones - weight.float()).abs().max()
    return bool((ones - weight.float() - 1).abs().max() < plain)


def _swiglu(module: nn.Module) -> tuple[object, Fast, int] | None:
    """A module of gate, up and down projections with a SiLU: perhaps down(silu(gate(x)) * up(x))."""
    layer: Any = module
    parts: Any = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")]
    gate, up, down, activation = parts
    if not all(isinstance(part, nn.Module) for part in parts):
        return None
    if "silu" not in type(activation).__name__.lower() or not isinstance(getattr(gate, "in_features", None), int):
        return None
    original = module.forward

    def fast(hidden: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if arguments or options:
            result: Tensor = original(hidden, *arguments, **options)
            return result
        gated, other = layer.gate_proj(hidden), layer.up_proj(hidden)
        product = kernels.silu_mul(gated, other)
        mixed: Tensor = layer.down_proj(layer.act_fn(gated) * other if product is None else product)
        return mixed

    kind = (type(module), "swiglu", type(gate), type(up), type(down), gate.in_features, len(list(module.children())))
    return kind, fast, gate.in_features


@torch.inference_mode()
def _agrees(module: nn.Module, fast: Fast, width: int) -> bool:
    """Whether the fast forward gives what the module gives, within the rounding of a few operations of its dtype."""
    parameter = next(module.parameters(), None)
    if parameter is None or parameter.device.type != "cpu" or not parameter.dtype.is_floating_point:
        return False
    dtype = parameter.dtype
    generator = torch.Generator().manual_seed(0)
    for scale in _PROBE_SCALES:
        rows = (torch.randn(1, 5, width, generator=generator) * scale).to(dtype)
        try:
            wanted, given = module(rows).float(), fast(rows.clone()).float()
        except (RuntimeError, TypeError, ValueError):
            return False
        error = (wanted - given).norm(dim=-1) / wanted.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
        if wanted.shape != given.shape or not bool((error <= 8 * torch.finfo(dtype).eps).all()):
            return False
    return True
