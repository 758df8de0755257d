"""Where a model's hidden states are taken from, found by structure.

`final`, the default, is the vector that enters the classification layer: the output of the decoder's final norm, which
transformers calls `last_hidden_state`.  `layer:K` is the output of block K (from 0; negative from the end), before any
later norm.  The decoder runs alone, so no logits are ever computed, and not beyond the tap.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gainrl.errors import UserError

FINAL = "final"
_one_pass = threading.RLock()


class Reached(Exception):
    """The tapped activation was computed: the rest of the forward pass is not needed."""


def tapped(decoder: Any, tap: str) -> tuple[nn.Module | None, str]:
    """The module whose output a tap names (None: the decoder's own) and the tap's canonical name; UserError if none."""
    if tap == FINAL:
        return None, FINAL
    kind, _, number = tap.partition(":")
    if kind != "layer" or not number.removeprefix("-").isdecimal():
        raise UserError(f"tap {tap!r}: give final, or layer:K (K from 0, or negative from the end)")
    count, layer = int(getattr(decoder.config, "num_hidden_layers", 0)), int(number)
    found = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == count > 0]
    if not found:
        raise UserError(f"cannot find the {count} layers of {type(decoder).__name__}: use --tap final")
    if not -count <= layer < count:
        raise UserError(f"tap {tap!r}: the model has {count} layers, 0 to {count - 1}")
    return found[0][layer], f"layer:{layer % count}"


@contextmanager
def caught(module: nn.Module | None) -> Iterator[list[Tensor]]:
    """Within, a forward pass ends with `Reached` where it leaves `module`, and what left it is in the list."""
    seen: list[Tensor] = []

    def take(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple | list) else output)
        raise Reached

    handle = module.register_forward_hook(take) if module is not None else None
    try:
        yield seen
    finally:
        if handle is not None:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) for a while, for one thread at a time; every submodule gets its own mode back.

    One thread, because mode, attention and hooks belong to the model: a second pass amid one would see half of it.
    """
    with _one_pass:
        training = [module for module in model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True
