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

import torch
from torch import Tensor, nn

from gainrl.errors import UserError

FINAL = "final"
_one_pass = threading.RLock()


def decoder_of(model: nn.Module) -> nn.Module:
    """The decoder inside a causal language model: what it runs before its classification layer.

    Wrappers (PEFT, DataParallel) are opened; the model itself where its head is not beside the decoder.  Raises
    UserError if `model` is no causal decoder of transformers.
    """
    inner: Any = getattr(model, "module", model)  # DataParallel and DistributedDataParallel
    if hasattr(inner, "get_base_model"):  # PEFT: adapters live inside the base model's layers
        inner = inner.get_base_model()
    config = getattr(inner, "config", None)
    if config is None:
        raise UserError(f"{type(model).__name__} is no transformers model: it has no config")
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{type(inner).__name__} is an encoder-decoder; angle concentration needs a causal decoder")
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if head is None:
        bare: nn.Module = inner
        return bare  # already the bare decoder
    named: list[Any] = [inner.get_decoder()] if hasattr(inner, "get_decoder") else []
    named += [getattr(inner, "base_model", None), *inner.children()]  # some models' get_decoder finds the head
    for decoder in named:
        whole = hasattr(decoder, "config") and decoder is not inner
        if isinstance(decoder, nn.Module) and whole and not any(child is head for child in decoder.modules()):
            return decoder
    whole_model: nn.Module = inner
    return whole_model  # its head is inside: the scorer asks for all hidden states and takes the last


def context_length(model: nn.Module) -> int | None:
    """The most tokens the model takes, from its configuration; None where it states none."""
    config: Any = decoder_of(model).config
    limit = getattr(config, "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


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


def first_device(model: nn.Module) -> torch.device:
    """The device of the input embeddings, where token ids go."""
    return next(model.parameters()).device


class Reached(Exception):
    """The tapped activation is there: the rest of the forward pass is not needed."""


class Tap:
    """One place in a decoder, by name; `str()` is its canonical name (the layer counted from 0).

    Raises UserError for a name that is none, or a layer that the model lacks.
    """

    def __init__(self, decoder: nn.Module, name: str = FINAL, module: nn.Module | None = None) -> None:
        self._module, self._name = module, name
        if name == FINAL or module is not None:
            return
        kind, _, number = name.partition(":")
        if kind != "layer" or not number.removeprefix("-").isdecimal():
            raise UserError(f"tap {name!r}: give final, or layer:K (K from 0, or negative from the end)")
        blocks, layer = blocks_of(decoder), int(number)
        if not -len(blocks) <= layer < len(blocks):
            raise UserError(f"tap {name!r}: the model has {len(blocks)} layers, 0 to {len(blocks) - 1}")
        self._module, self._name = blocks[layer], f"layer:{layer % len(blocks)}"

    def __str__(self) -> str:
        return self._name

    @property
    def final(self) -> bool:
        """Whether this is the output of the decoder as a whole."""
        return self._module is None

    @contextmanager
    def caught(self, *, stop: bool) -> Iterator[list[Tensor]]:
        """While inside, each forward puts the tapped activation into the list; `stop` raises `Reached` then."""
        seen: list[Tensor] = []
        if self._module is None:
            yield seen
            return

        def take(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            state = output[0] if isinstance(output, tuple | list) else output
            if not isinstance(state, Tensor):
                raise UserError(f"tap {self._name!r}: the module gives a {type(state).__name__}, not hidden states")
            seen.append(state)
            if stop:
                raise Reached

        handle = self._module.register_forward_hook(take)
        try:
            yield seen
        finally:
            handle.remove()


def blocks_of(decoder: nn.Module) -> nn.ModuleList:
    """The decoder's blocks: the list of modules that has as many entries as the configuration has layers."""
    config: Any = getattr(decoder, "config", None)
    count = getattr(config, "num_hidden_layers", None)
    found = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == count and count]
    if not found:
        raise UserError(f"cannot find the {count} layers of {type(decoder).__name__}: use --tap final")
    return found[0]
