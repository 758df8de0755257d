"""Modules of a decoder that the package's own CPU kernels can do in fewer passes over memory, found by trying them.

In torch, an RMSNorm is five passes over its rows, the gate of a SwiGLU layer two, a residual sum and rotary positions
a pass and six.  `FusedLayers` finds the modules whose results equal those of `gainrl.scoring.kernels`, whatever their
names: of each, a copy in float32 and one in the dtype of its weights (of a gate or a block, with small parts) are run
on rows with a mean, outliers and extreme scales, and compared.  While `installed`, they have the fast forward: norms,
gates, and the blocks that consist of them (`gainrl.scoring.blocks`).  Hooks run as ever; the model is as before
afterwards.  Elsewhere than on a CPU nothing is looked for.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gainrl.scoring import kernels
from gainrl.scoring.blocks import Norm, Space, eps_of, find_block
from gainrl.scoring.trials import (
    INNER,
    WIDTH,
    Alike,
    Fast,
    equal,
    identity,
    projection,
    rows,
    with_parts,
    with_plain_weight,
    without_hooks,
)

logger = logging.getLogger(__name__)


class FusedLayers:
    """The modules of `decoder` that have a faster forward; call under `torch.inference_mode()`."""

    def __init__(self, decoder: nn.Module) -> None:
        self._fast: dict[nn.Module, Fast] = {}
        self._space = Space()
        modules = list(decoder.modules())
        if not kernels.available() or any(getattr(m, "_compiled_call_impl", None) is not None for m in modules):
            return
        modules = [module for module in modules if "forward" not in vars(module)]  # the others are somebody's already
        norms: dict[nn.Module, Norm] = {}
        gates: set[nn.Module] = set()
        alike = Alike()
        for module in modules:
            try:
                norm = _rms_norm(module, alike)
                fast = _norm_forward(norm) if norm is not None else _swiglu(module, alike)
            except Exception as error:  # a module of another kind may fail in any way when it is tried
                logger.debug("%s left alone: %s", type(module).__name__, error)
                continue
            if norm is not None:
                norms[module] = norm
            elif fast is not None:
                gates.add(module)
            if fast is not None:
                self._fast[module] = fast
        for module in modules:
            try:
                block = find_block(module, norms, gates, self._fast, self._space, alike)
            except Exception as error:
                logger.debug("%s left alone: %s", type(module).__name__, error)
                continue
            if block is not None:
                self._fast[module] = block

    def __len__(self) -> int:
        return len(self._fast)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The modules use the fast forward inside."""
        given: list[tuple[nn.Module, Fast]] = []
        try:
            for module, fast in self._fast.items():
                if "forward" not in vars(module):
                    module.forward = fast
                    given.append((module, fast))
            yield
        finally:
            self._space.clear()
            for module, fast in given:
                if vars(module).get("forward") is fast:
                    del module.forward


def _rms_norm(module: nn.Module, alike: Alike) -> Norm | None:
    """What there is to know of a module that is an RMSNorm; None for any other."""
    parameters = dict(module.named_parameters())
    weight = parameters.get("weight")
    eps = eps_of(module)
    if len(parameters) != 1 or weight is None or weight.dim() != 1 or len(weight) < 2 or not isinstance(eps, float):
        return None
    if type(weight) is not nn.Parameter or weight.device.type != "cpu" or next(module.buffers(), None) is not None:
        return None
    if without_hooks(copy.deepcopy(module))(weight.new_ones(1, 1, len(weight))).dtype != weight.dtype:
        return None
    trial = with_plain_weight(module, torch.float32)
    own = trial.get_parameter("weight")
    ones = trial(torch.ones(1, 1, len(own))).flatten()
    offset = 1.0 if bool((ones - own - 1).abs().max() < (ones - own).abs().max()) else 0.0

    def same(dtype: torch.dtype) -> bool:
        trial = with_plain_weight(module, dtype)
        weight = trial.get_parameter("weight")
        return all(equal(trial(x.clone()), kernels.rms_norm(x, weight, offset, eps)) for x in rows(len(weight), dtype))

    return Norm(module, offset) if same(torch.float32) and alike(module, weight, same) else None


def _norm_forward(norm: Norm) -> Fast:
    layer: Any = norm.module
    original = norm.module.forward

    def fast(*arguments: Any, **options: Any) -> Any:
        done = None
        if len(arguments) == 1 and not options and isinstance(arguments[0], Tensor):
            done = kernels.rms_norm(arguments[0], layer.weight, norm.offset, norm.eps)
        return original(*arguments, **options) if done is None else done

    return fast


def _swiglu(module: nn.Module, alike: Alike) -> Fast | None:
    """The fast forward of a module that is down(silu(gate(x)) · up(x)); None for any other."""
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")]
    if not all(isinstance(part, nn.Module) for part in parts):
        return None
    parameter = next(module.parameters(), None)
    if parameter is None or parameter.device.type != "cpu":
        return None
    own = module.get_submodule("act_fn")
    if module._parameters or module._buffers or any(True for _ in (*own.parameters(), *own.buffers())):
        return None  # a scale of its own may be 1 now and another number after training
    activation = without_hooks(copy.deepcopy(module.get_submodule("act_fn")))

    def same(dtype: torch.dtype) -> bool:
        gate, up = (projection(WIDTH, INNER, dtype, bias=False, seed=seed) for seed in (0, 1))
        # in 16 bits one that adds no rounding of its own
        exact = dtype == torch.float32
        down = projection(INNER, 5, dtype, bias=False, seed=2) if exact else identity(INNER, dtype)
        small = {"gate_proj": gate, "up_proj": up, "down_proj": down, "act_fn": activation}
        trial = with_parts(module, {**module._modules, **small})  # type: ignore[dict-item]
        for x in rows(WIDTH, dtype):
            product = kernels.silu_mul(gate(x), up(x))
            if product is None or not equal(trial(x.clone()), down(product)):
                return False
        return True

    if not same(torch.float32) or not alike(module, parameter, same):
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
